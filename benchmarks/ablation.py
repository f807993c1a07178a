"""What the advantage estimator is worth: the default run with each of them, over several seeds.

    python -m benchmarks.ablation

Runs are kept in --folder, seed by seed; one that is over is not made again, one that was interrupted continues. All
have the same number of games and start from the same cold start. Prints the table of docs/results.md: points of wins
added on each side in the arena at the end (mean over seeds, its 95% interval by Student's t, the spread between
seeds), and every run's own interval.
"""

import concurrent.futures
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

FOLDER = flags.DEFINE_string("folder", "runs/ablation", "Where the runs are kept.")
CONFIG = flags.DEFINE_string("config", "configs/werewolf.py", "Whose run; see omar_jax.main.")
MODES = flags.DEFINE_list("modes", ["hierarchical", "token", "turn", "return"], "Of advantages.mode.")
SEEDS = flags.DEFINE_integer("seeds", 5, "How many.", lower_bound=1)
AT_ONCE = flags.DEFINE_integer("at_once", 1, "Runs at the same time; they share the machine.", lower_bound=1)
TABLE_ONLY = flags.DEFINE_bool("table_only", False, "Only print the table of the runs that are over.")

# Two-sided 95% quantiles of Student's t by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def folder_of(mode: str, seed: int) -> Path:
    """Where a run is kept."""
    return Path(FOLDER.value) / f"{mode}-{seed}"


def train(mode: str, seed: int) -> None:
    """Makes a run, unless it is over."""
    folder = folder_of(mode, seed)
    if (folder / "arena.json").exists():
        return
    print(f"{mode}, seed {seed} ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "omar_jax.main", f"--config={CONFIG.value}", f"--workdir={folder}"]
    settings = [f"--config.advantages.mode={mode}", f"--config.seed={seed}", "--config.log.episodes_every=0"]
    subprocess.run([*command, *settings], stdout=subprocess.DEVNULL, check=True)


def over_seeds(differences: list[float]) -> str:
    """Mean, interval and spread of points added, one a seed."""
    mean, count = np.mean(differences), len(differences)
    if count < 2:
        return f"{mean:+.1f}"
    spread = np.std(differences, ddof=1)
    margin = STUDENT.get(count - 1, 1.96) * spread / math.sqrt(count)
    return f"**{mean:+.1f}** ({mean - margin:+.1f} to {mean + margin:+.1f}), spread {spread:.1f}"


def points(found: dict, side: str) -> tuple[float, float, float]:
    """Points added on a side, and their interval."""
    of = found["sides"][side]
    return tuple(100 * x for x in (of["difference"], *of["interval"]))


def tables() -> None:
    """Prints both tables of the runs that are over."""
    runs = {
        (mode, seed): json.loads(path.read_text())
        for mode in MODES.value
        for seed in range(SEEDS.value)
        if (path := folder_of(mode, seed) / "arena.json").exists()
    }
    if not runs:
        return
    sides = list(next(iter(runs.values()))["sides"])
    print("| advantages | seeds | " + " | ".join(sides) + " | both sides |\n" + "|---" * (3 + len(sides)) + "|")
    for mode in MODES.value:
        mine = [found for (of, _), found in runs.items() if of == mode]
        if mine:
            added = {side: [points(found, side)[0] for found in mine] for side in sides}
            both = [float(np.mean(each)) for each in zip(*added.values(), strict=True)]
            cells = [over_seeds(values) for values in (*added.values(), both)]
            print("| " + " | ".join((mode, str(len(mine)), *cells)) + " |")
    print("\n| advantages | seed | " + " | ".join(sides) + " |\n" + "|---" * (2 + len(sides)) + "|")
    for (mode, seed), found in runs.items():
        cells = ("{:+.1f} ({:+.1f} to {:+.1f})".format(*points(found, side)) for side in sides)
        print("| " + " | ".join((mode, str(seed), *cells)) + " |")


def main(argv):
    """Makes the runs that are missing, seed by seed, and prints the tables."""
    del argv
    if not TABLE_ONLY.value:
        wanted = [(mode, seed) for seed in range(SEEDS.value) for mode in MODES.value]
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE.value) as pool:
            list(pool.map(lambda run: train(*run), wanted))
    tables()


if __name__ == "__main__":
    app.run(main)
