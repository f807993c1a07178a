"""Commands as users give them, without importing everything anew: a process imports once and forks for each."""

import contextlib
import json
import os
import subprocess
import sys
from typing import NamedTuple

import processes

DRIVER = r"""
import importlib, json, os, sys, tempfile
from absl import app, logging
command, *_ = map(importlib.import_module, sys.argv[1:])
logging.set_verbosity(logging.ERROR)

for line in sys.stdin:
    words = [tempfile.TemporaryFile(mode="w+"), tempfile.TemporaryFile(mode="w+")]
    child = os.fork()
    if not child:
        os.dup2(words[0].fileno(), 1)
        os.dup2(words[1].fileno(), 2)
        sys.argv = [sys.argv[1], *json.loads(line)]
        status = 0
        try:
            app.run(command.main, flags_parser=getattr(command, "parse_flags", app.parse_flags_with_usage))
        except SystemExit as error:
            status = 1 if error.code else 0
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)  # at once: taking all modules down takes a second
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for stream in words:
        stream.seek(0)
    print(json.dumps([status, *(stream.read() for stream in words)]), flush=True)
"""


def environment(cache, devices=1):
    """For small programs, which run no slower where they compile in half the time; none is compiled twice."""
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{processes.FAST_COMPILER} --xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


class Done(NamedTuple):
    """What a command came to."""

    status: int
    out: str
    err: str


@contextlib.contextmanager
def of(module, cache, *used):
    """A function that gives the command `python -m module` with the given arguments.

    Args:
      module: of the command; what stands under `if __name__ == "__main__"` is not done.
      cache: a folder for compiled programs.
      *used: modules that it imports on the way.
    """
    driver = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", DRIVER, module, *used],
        cwd=processes.ROOT,
        env=os.environ | environment(cache),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def give(*arguments):
        print(json.dumps([str(argument) for argument in arguments]), file=driver.stdin, flush=True)
        return Done(*json.loads(driver.stdout.readline()))

    with driver:
        yield give
        driver.stdin.close()
