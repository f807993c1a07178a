"""All measurements, one process after another; each is also a command of its own.

    python -m benchmarks.run            some hours on two cores, peers' installation included
    python -m benchmarks.run --quick    a few minutes: the smallest sizes
    python -m benchmarks.run --nopeers  without other libraries

Tables are printed as Markdown; --out keeps them as JSON, with the machine they were measured on.
"""

import subprocess
import sys

from absl import app, flags

from benchmarks import measuring
from omar_jax.settings import DTYPES

ALL = ("limits", "play", "play_peers", "update", "advantages", "growth", "shares")
ONLY = flags.DEFINE_list("only", list(ALL), f"Which of {', '.join(ALL)}.")
# Gemma 3 270M by itself, without adapters.
GEMMA = ("--config=configs/werewolf.py:gemma3_270m", "--config.lora.rank=0")


def main(argv):
    """One after another; a failing one does not keep the others from running."""
    del argv
    if unknown := set(ONLY.value) - set(ALL):
        sys.exit(f"benchmarks: --only={','.join(sorted(unknown))} is unknown; it must be of {', '.join(ALL)}")
    print("; ".join(f"{name}: {value}" for name, value in measuring.machine().items()), flush=True)
    options = [f"--repeats={measuring.REPEATS.value}", f"--out={measuring.OUT.value}"]
    commands = [[name] for name in ONLY.value]
    if "limits" in ONLY.value and not measuring.QUICK.value:
        commands += [["limits", *GEMMA, f"--config.precision.compute={name}"] for name in DTYPES]
    flags_given = ["--quick"] * measuring.QUICK.value + ["--nopeers"] * (not measuring.PEERS.value)
    failed = []
    for name, *more in commands:
        command = [sys.executable, "-m", f"benchmarks.{name}", *options, *more, *flags_given]
        if subprocess.run(command).returncode:
            failed.append(" ".join([name, *more]))
    if failed:
        sys.exit(f"benchmarks: {', '.join(failed)} failed")


if __name__ == "__main__":
    app.run(main)
