"""Work that goes on at the same time, each piece in a thread of this process.

A small model on a CPU gains next to nothing from a second core within one call: its matrices are too small to be
shared out. Two calls in two threads keep two cores busy. On an accelerator one lane's host work goes on while the
device computes for another.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

Piece = TypeVar("Piece")
Result = TypeVar("Result")


class GivenUp(Exception):
    """Raised in a lane whose result nobody wants any more, because another lane failed."""


def in_lanes(work: Callable[[Piece, Callable[[], None]], Result], pieces: Iterable[Piece], lanes: int) -> list[Result]:
    """Does all pieces of work, `lanes` at a time.

    Args:
      work: a piece's; the function it is given besides raises `GivenUp` if its result is not wanted any more, and
        is to be called now and then.
      pieces: in the order of the results.
      lanes: 1 works in the caller's own thread.

    Raises:
      Exception: the first that `work` raised in any lane, once the other lanes have come to an end.
    """
    pieces, given_up = list(pieces), threading.Event()

    def check():
        if given_up.is_set():
            raise GivenUp

    if min(lanes, len(pieces)) <= 1:
        return [work(piece, check) for piece in pieces]
    with concurrent.futures.ThreadPoolExecutor(lanes) as pool:
        futures = [pool.submit(work, piece, check) for piece in pieces]
        try:
            done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
            for future in done:
                future.result()  # the failure, if there was one
            return [future.result() for future in futures]
        finally:
            given_up.set()
            pool.shutdown(wait=False, cancel_futures=True)
