"""Fails when something that makes omar_jax fast no longer does: ratios measured here, against floors.

    python -m benchmarks.guard

Runs the smallest comparisons of `benchmarks.run` without other libraries. Only ratios of what ran side by side are
looked at, never seconds, and floors lie well below what was measured (docs/benchmarks.md), for a machine may be busy.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app

# (file, column): the least median of its only row.
FLOORS = {
    ("play", "against caches kept a seat"): 1.4,
    ("play", "against prefilling"): 1.8,
    ("update", "against a row a seat"): 1.9,
    ("advantages", "against a loop over lists"): 8.0,
}


def main(argv):
    """Measures and compares."""
    del argv
    with tempfile.TemporaryDirectory() as folder:
        names = ",".join(sorted({name for name, _ in FLOORS}))
        command = [sys.executable, "-m", "benchmarks.run", f"--only={names}", "--quick", "--nopeers", "--repeats=3"]
        subprocess.run([*command, f"--out={folder}"], check=True)
        tables = {name: json.loads((Path(folder) / f"{name}.json").read_text()) for name, _ in FLOORS}
    slow = []
    for (name, column), floor in FLOORS.items():
        found = tables[name]["rows"][-1][column]["median"]
        print(f"{name}, {column}: {found:.2f}, at least {floor}")
        if found < floor:
            slow.append(f"{name}, {column}: {found:.2f} < {floor}")
    if slow:
        sys.exit(f"benchmarks: slower than it was: {'; '.join(slow)}")


if __name__ == "__main__":
    app.run(main)
