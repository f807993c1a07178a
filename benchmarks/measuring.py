"""How speed is measured here: sides in turn, ratios of what was measured side by side, medians and their spread.

The life of a figure: `alternate` runs all sides of a comparison A B A B ... in one process, or, where a side is a
`peer`, in processes that take turns; `against` divides what ran next to each other, so that a machine that is busy for
a while slows both; `Table` prints rows as Markdown and keeps them as JSON, the machine beside them.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

REPEATS = flags.DEFINE_integer("repeats", 7, "Runs of each side; medians count.", lower_bound=1)
OUT = flags.DEFINE_string("out", "runs/benchmarks", "Where results are kept as JSON.")
PEERS = flags.DEFINE_bool("peers", True, "Also measure other libraries, which are installed for it.")
QUICK = flags.DEFINE_bool("quick", False, "The smallest sizes alone, to check that everything runs.")

# What the peers written with PyTorch need; all share an environment.
TORCH = ("torch==2.13.0", "transformers>=5", "numpy")


class Spread(NamedTuple):
    """A median and the middle half of what was measured."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values) -> "Spread":
        """Of any numbers."""
        return Spread(*map(float, np.quantile(np.asarray(values, float), (0.5, 0.25, 0.75))))

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def _short(x: float) -> str:
    """Three digits that mean something."""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def alternate(sides: Mapping[str, Callable[[], Any]], repeats: int | None = None) -> dict[str, np.ndarray]:
    """Runs all sides in turn; what they return is waited for.

    Args:
      sides: what to run, by name. A side that returns a float measured itself (a `peer`).
      repeats: how often; by default `--repeats`. A run of each before, which compiles, does not count.

    Returns:
      Seconds [repeats] by name.
    """
    for side in sides.values():
        jax.block_until_ready(side())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats or REPEATS.value):
        for name, side in sides.items():
            begun = time.perf_counter()
            found = jax.block_until_ready(side())
            seconds[name].append(found if isinstance(found, float) else time.perf_counter() - begun)
    return {name: np.array(values) for name, values in seconds.items()}


def against(other: str, seconds: Mapping[str, np.ndarray], ours: str, times: float = 1) -> Spread | str:
    """How many times as long a side took as ours that ran next to it; `times` as much, where it ran on a part.

    In words, where the side was not run.
    """
    return Spread.of(times * seconds[other] / seconds[ours]) if other in seconds else "not run"


class Table:
    """Rows of a comparison, printed as they come and kept as JSON.

    Args:
      name: of the file, and a heading.
      columns: of the Markdown table; rows have these keys.
    """

    def __init__(self, name: str, columns: Sequence[str]):
        self.name, self.columns = name, tuple(columns)
        self.rows: list[dict[str, Any]] = []
        print(f"\n## {name}\n\n| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|", flush=True)

    def add(self, **row: Any) -> None:
        """One more row, of a value or a `Spread` for every column."""
        if set(row) != set(self.columns):
            raise ValueError(f"a row of {self.name} needs {self.columns}, got {tuple(row)}")
        self.rows.append(row)
        cells = [row[column] for column in self.columns]
        print("| " + " | ".join(_short(c) if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)
        folder = Path(OUT.value)
        folder.mkdir(parents=True, exist_ok=True)
        kept = [{k: v._asdict() if isinstance(v, Spread) else v for k, v in row.items()} for row in self.rows]
        text = json.dumps({"name": self.name, "machine": machine(), "rows": kept}, indent=1)
        (folder / f"{self.name.replace(' ', '_')}.json").write_text(text + "\n")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        if (info.exists())
        else []
    )
    return {
        "device": device.device_kind,
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


@contextlib.contextmanager
def peer(
    name: str, script: str, requirements: Sequence[str], task: Mapping[str, Any], arrays: Mapping[str, np.ndarray] = {}
) -> Iterator[dict[str, Callable[[], float]]]:
    """Another library in a process and a virtual environment of its own, which takes turns with us.

    Its script (`benchmarks/peers/<script>.py`) is told by a line of JSON what to do and answers every empty line with
    the seconds of one run. It imports nothing of ours.

    Args:
      name: of the side.
      script: its name.
      requirements: what pip installs for it, once; kept in the user's cache folder.
      task: what it is to do.
      arrays: the task's "arrays" names an .npz file with them.

    Yields:
      The side, to be run by `alternate`; nothing with `--nopeers`.
    """
    if not PEERS.value:
        yield {}
        return
    command = [str(peer_environment(requirements)), str(Path(__file__).parent / "peers" / f"{script}.py")]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "arrays.npz"
        np.savez(file, **arrays)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

            def ask(line):
                process.stdin.write(line + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                if not answer:
                    raise RuntimeError(f"{script} ended with exit status {process.wait()}")
                return json.loads(answer)

            ask(json.dumps({**task, "arrays": str(file)}))
            yield {name: lambda: float(ask("")["seconds"])}
            process.stdin.close()


def peer_environment(requirements: Sequence[str]) -> Path:
    """The Python of a virtual environment with these packages, made if there is none yet; named by the first."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = base / "omar_jax" / "peers" / requirements[0]
    python, done = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements) + "\n"
    if not done.exists() or done.read_text() != wanted:
        print(f"installing {', '.join(requirements)} into {folder} ...", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *requirements], check=True, stdout=sys.stderr)
        done.write_text(wanted)
    return python
