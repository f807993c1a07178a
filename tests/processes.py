"""Runs of several processes on one machine, as users start them: what they print goes to files.

The life of a job: `start` gives every process its number and a free port to meet at; the test waits for a line of
process 0, kills or stops some, and waits for all; whoever is still there when the test leaves is killed.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# So small programs run no slower for it, and compile in half the time.
FAST_COMPILER = "--xla_backend_optimization_level=0"
# As small as a whole run can be: a new model says a few tokens at random.
SETTINGS = (
    *("--config.model.weights=random", "--config.environment.speech_tokens=4", "--config.play.action_tokens=8"),
    *("--config.play.games=8", "--config.play.batch_eighths=(8,)", "--config.play.piece_tokens=128"),
    *("--config.layout.buckets=((256,288,64,24),)", "--config.arena.games=0"),
)


def small_model(folder: Path) -> Path:
    """Makes a model's folder: the embedded one's text, a single layer."""
    folder.mkdir()
    embedded = ROOT / "omar_jax" / "assets" / "embedded"
    for path in embedded.glob("tokenizer*"):
        shutil.copy(path, folder)
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "head_dim": 8, "intermediate_size": 48}
    described = json.loads((embedded / "config.json").read_text()) | sizes
    (folder / "config.json").write_text(json.dumps(described))
    return folder


@dataclasses.dataclass(frozen=True)
class Job:
    """The processes of a run and where each one's words are.

    Attributes:
      processes: by number.
      folder: of what they print.
    """

    processes: list[subprocess.Popen]
    folder: Path

    def said(self, process: int, stream: str = "out") -> str:
        """What a process printed so far to "out" or "err"."""
        return (self.folder / f"{process}.{stream}").read_text()

    def wait_for(self, pattern: str, seconds: float = 240) -> None:
        """Returns once process 0 has printed a line that begins like this."""
        deadline = time.monotonic() + seconds
        while not re.search(f"^{pattern}", self.said(0), re.MULTILINE):
            assert time.monotonic() < deadline, self.everything()
            assert None in [process.poll() for process in self.processes], self.everything()
            time.sleep(0.02)

    def statuses(self, seconds: float = 300) -> list[int]:
        """The exit statuses of all once they have ended."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"still running:\n{self.everything()}") from None
        return [process.returncode for process in self.processes]

    def succeed(self) -> None:
        """Waits for all and asserts that all went well."""
        assert set(self.statuses()) == {0}, self.everything()

    def everything(self) -> str:
        """All that was printed, for failures."""
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self.folder.iterdir()))


@contextlib.contextmanager
def start(
    workdir: Path, folder: Path, cache: Path, *settings: str, processes: int = 1, devices: int = 1
) -> Iterator[Job]:
    """A run of the smoke preset on `processes` of `devices` simulated devices each.

    Args:
      workdir: of the run.
      folder: for what the processes print.
      cache: of compiled programs.
      settings: of the command line, after SETTINGS.
      processes: how many; 1 is told nothing of others.
      devices: of each.
    """
    folder.mkdir(parents=True)
    environment = os.environ | {
        "XDG_CACHE_HOME": str(cache),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{FAST_COMPILER} --xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "omar_jax.main", "--config=configs/werewolf.py:smoke", f"--workdir={workdir}"]
    command += [*SETTINGS, *settings]
    meeting = [f"--coordinator=localhost:{free_port()}", f"--processes={processes}"] if processes > 1 else []
    running = []
    for number in range(processes):
        mine = [*meeting, f"--process={number}"] if meeting else []
        with open(folder / f"{number}.out", "w") as out, open(folder / f"{number}.err", "w") as err:
            running.append(subprocess.Popen([*command, *mine], cwd=ROOT, env=environment, stdout=out, stderr=err))
    try:
        yield Job(running, folder)
    finally:
        for process in running:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
