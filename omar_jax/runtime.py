"""The process a run lives in: memory that is kept, programs that are remembered, signals that end it politely."""

import ctypes
import os
import signal
import sys
from pathlib import Path

import jax

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # glibc's malloc.h


def _glibc(name: str):
    """A function of glibc's malloc; None where the allocator is another."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def keep_freed_memory() -> None:
    """Lets the allocator keep what XLA frees, where it is glibc's.

    XLA on the CPU allocates its buffers anew in every call. By default glibc maps and unmaps large ones, and
    touching the fresh pages costs more than computing what goes into them: training runs about twice as fast with
    the memory kept.
    """
    if mallopt := _glibc("mallopt"):
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never: a step of a large model frees more than any size that fits an int
        mallopt(_M_TOP_PAD, 2**28)
        mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Returns what `keep_freed_memory` kept to the system, before a phase that uses memory in other pieces."""
    if malloc_trim := _glibc("malloc_trim"):
        malloc_trim(0)


def remember_compilations() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX was given another place."""
    if jax.config.jax_compilation_cache_dir is None:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(base / "omar_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class StopRequested(Exception):
    """Raised where a run can stop after Ctrl-C or SIGTERM."""


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one of Ctrl-C interrupts at once."""

    def __init__(self):
        self.requested = False
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, self._request)

    def _request(self, number, frame) -> None:
        del number, frame
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def check(self) -> None:
        """Raises StopRequested once a stop was requested."""
        if self.requested:
            raise StopRequested
