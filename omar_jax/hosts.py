"""Several processes that train together: how they find one another, share games, and notice that one has died.

The life of an iteration of several processes: each plays its `share` of the games, on its own devices; what they
played is exchanged (`gather`), so that from there on every process does the same with the same games, on the host and,
each with its part of every microbatch, on the devices. Process 0 alone writes to the terminal and the run's folder.

When one dies, the others stop: the next exchange fails (`is_loss`), or JAX, which has not heard of it for a while or
has lost process 0, aborts them. Either way a process's last line says what happened.
"""

import atexit
import ctypes
import glob
import importlib.util
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from omar_jax.runtime import StopRequested
from omar_jax.settings import SettingError

# A process whose peers have not heard of it for so long counts as dead, and they stop. One that ends with an error of
# its own waits so long for the others.
SILENCE_SECONDS = 30
# So long processes wait for one another to start.
MEETING_SECONDS = 300

# Games are exchanged in pieces of this size: a program is compiled for every size.
PIECE_BYTES = 2**20

# Status of a process that lost another: it failed by no fault of its own, and xpk starts it again.
LOST = 200

# What JAX says where another process is missing: the CPU's collectives, and the service that all are connected to.
LOSS = re.compile("Gloo|[Cc]oordination|[Hh]eartbeat|[Bb]arrier|UNAVAILABLE|DEADLINE_EXCEEDED")

Item = TypeVar("Item")
_on_abort = None  # set by `start`


def start(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the other processes of the run; to be called before any other use of JAX.

    On TPU and under Slurm they find one another; elsewhere all three must be given, or none for a run of one process.

    Args:
      coordinator: host:port of process 0.
      processes: how many there are.
      process: which of them this is.

    Raises:
      SettingError: some are given and others are not, or they cannot be.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < 3:
        raise SettingError(f"{', '.join(missing)}: missing; --coordinator, --processes and --process belong together")
    if not missing and not 0 <= process < processes:
        raise SettingError(f"--process={process} cannot be used: it must be from 0 to {processes - 1}")
    if not missing or _on_tpu() or int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        _say_when_aborted(process, f"did not find process 0 and all others within {MEETING_SECONDS} s")
        try:
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                initialization_timeout=MEETING_SECONDS,
                heartbeat_timeout_seconds=SILENCE_SECONDS,
                shutdown_timeout_seconds=SILENCE_SECONDS,
            )
        except ValueError as error:
            if not missing or "coordinator_address" not in str(error):
                raise
            _let_abort()  # JAX has found nobody: a TPU alone, as in a notebook
            return
        atexit.register(_let_abort)
        _say_when_aborted(jax.process_index(), "was aborted by JAX, as it is when another process of the run is lost")


def _on_tpu() -> bool:
    devices = glob.glob("/dev/accel*") + glob.glob("/dev/vfio/[0-9]*")
    return importlib.util.find_spec("libtpu") is not None and bool(devices)


def _let_abort() -> None:
    signal.signal(signal.SIGABRT, signal.SIG_DFL)


def _say_when_aborted(process: int | None, reason: str) -> None:
    """Lets a process that JAX aborts say why in its last line, where Python would list the stacks of its threads.

    A handler of Python's own would run after the abort, that is never. A process that ends by itself says no more: an
    abort has another reason then, and there is no Python left to give it.
    """

    def say(number):
        del number
        _end(process, f"{reason} (JAX's words stand above)")

    global _on_abort  # whom C calls must not be collected
    _on_abort = ctypes.CFUNCTYPE(None, ctypes.c_int)(say)
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


def is_loss(error: Exception) -> bool:
    """Whether this is how the loss of another process shows here."""
    return jax.process_count() > 1 and LOSS.search(str(error)) is not None


def give_up(error: Exception) -> NoReturn:
    """Ends this process after another one died, without waiting for it."""
    _end(jax.process_index(), f"lost another process of the run and stops ({str(error).splitlines()[0][:200]})")


def _end(process: int | None, reason: str) -> NoReturn:
    who = "a process" if process is None else f"process {process}"
    what_now = "the same command, given to all, continues from the last checkpoint"
    print(f"omar_jax: {who} {reason}; {what_now}", file=sys.stderr, flush=True)
    os._exit(LOST)  # a clean exit would wait for the dead one at a barrier


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of what all have to do: neighbours stay together, in their order."""
    count, mine = jax.process_count(), jax.process_index()
    return items[mine * len(items) // count : (mine + 1) * len(items) // count]


def gather(mine: Item) -> list[Item]:
    """What every process has, by process; all must call it."""
    if jax.process_count() == 1:
        return [mine]
    packed = np.frombuffer(pickle.dumps(mine), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(packed.size)).ravel()
    padded = np.zeros(-(-sizes.max() // PIECE_BYTES) * PIECE_BYTES, np.uint8)
    padded[: packed.size] = packed
    pieces = [multihost_utils.process_allgather(piece) for piece in padded.reshape(-1, PIECE_BYTES)]
    everything = np.concatenate([piece.reshape(len(sizes), PIECE_BYTES) for piece in pieces], axis=1)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(everything, sizes, strict=True)]


def together(play: Callable[[], Item]) -> list[Item]:
    """What `play` gives in every process, by process; all must call it.

    Raises:
      StopRequested: `play` raised it in one of them: it is raised in all.
    """
    try:
        mine = play()
    except StopRequested:
        mine = None
    everywhere = gather(mine)
    if any(of_one is None for of_one in everywhere):
        raise StopRequested
    return everywhere
