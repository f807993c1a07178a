"""Draws docs/results.svg from finished runs: what training added on each side, and how play changed on the way.

pip install matplotlib
python benchmarks/plot_runs.py --runs=runs/seed0,runs/seed1,runs/seed2
"""

import json
from pathlib import Path

from absl import app, flags
from matplotlib import pyplot

RUNS = flags.DEFINE_list("runs", ["runs/werewolf-default"], "Run folders.")
OUT = flags.DEFINE_string("out", "docs/results.svg", "Picture to write.")

CURVES = {
    "false seer claims of the werewolf a game": "events/false_seer_claims",
    "true seer claims a game": "events/true_seer_claims",
}
COLORS = ("#b5423c", "#2f6f8f")


def draw_arena(axes, runs: list[Path]) -> None:
    """The table at the end of every run, as points with 95% intervals."""
    for row, side in enumerate(("werewolves", "village")):
        for n, run in enumerate(runs):
            found = json.loads((run / "arena.json").read_text())["sides"][side]
            low, high = (100 * x for x in found["interval"])
            at = row + 0.18 * (n - (len(runs) - 1) / 2)
            axes.plot([low, high], [at, at], color=COLORS[row], lw=2, solid_capstyle="round")
            axes.plot(100 * found["difference"], at, "o", color=COLORS[row])
    axes.axvline(0, color="#888888", lw=1)
    axes.set_yticks([0, 1], ["as werewolves", "as the village"])
    axes.set_ylim(1.6, -0.6)
    axes.set_xlabel("wins added against the cold start, points\n(one line a seed, 95% interval)")


def draw_curves(axes, runs: list[Path]) -> None:
    """How often who claims to be the seer, by iteration."""
    for color, (title, name) in zip(COLORS, CURVES.items(), strict=True):
        for n, run in enumerate(runs):
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            axes.plot([line[name] for line in lines], color=color, alpha=0.8, label=None if n else title)
    axes.set_xlabel("iteration of 256 games")
    axes.set_ylim(0, 1.6)  # room for the legend
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)


def main(argv):
    """Draws the picture."""
    del argv
    runs = [Path(run) for run in RUNS.value]
    pyplot.rcParams |= {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    draw_arena(left, runs)
    draw_curves(right, runs)
    figure.savefig(OUT.value)


if __name__ == "__main__":
    app.run(main)
