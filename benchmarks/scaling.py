"""The table of docs/scaling.md: what large models take on TPUs that need not be there.

    pip install "jax[tpu]"
    python -m benchmarks.scaling

Every cell is a plan of its own (`omar_jax.plan --quick`), kept as JSON in --folder; one that is there is not made
again. On one core a cell of a 4B or 7B model takes 14 to 21 minutes, most of it in the compiler.
"""

import json
import subprocess
import sys
from pathlib import Path

from absl import app, flags

FOLDER = flags.DEFINE_string("folder", "runs/scaling", "Where plans are kept.")

GIB = 2**30
# As they are called where they are rented; v5p-64 has 32 chips, of two cores each.
TOPOLOGIES = {"v5e-8": "v5e:2x4", "v5e-16": "v5e:4x4", "v6e-8": "v6e:2x4", "v5p-64": "v5p:2x4x4"}
PRESETS = ("gemma3_270m", "qwen3_4b", "qwen2_5_7b")
# 64 games of 8 seats, whose speeches of up to 40 tokens make transcripts of up to 3,072.
GAMES = {
    "environment.rules": "arena",
    "environment.speech_tokens": 40,
    "play.games": 64,
    "play.batch_eighths": (8, 4),
    "play.transcript_tokens": (3072,),
    "play.action_tokens": 40,
    "play.cue_tokens": 64,
    "play.piece_tokens": 256,
    "layout.buckets": ((1792, 2112, 1536, 72), (2560, 3072, 2304, 96)),
    "ppo.epochs": 1,
    "ppo.minibatch_games": 32,
    "cold_start.minibatch_games": 32,
    "model.remat": True,
}
MICROBATCH = {"v5e-8": 8, "v5e-16": 16, "v6e-8": 16, "v5p-64": 32}
COLUMNS = (
    *("model", "slice", "mesh to update", "mesh to play", "microbatch", "play", "score", "update", "room"),
    *("iteration", "games an hour", "model FLOP/s used"),
)


def plan(preset: str, name: str, out: Path) -> None:
    """Makes one cell's plan, unless it is there."""
    if out.exists():
        return
    settings = GAMES | {"ppo.microbatch_games": MICROBATCH[name]}
    command = [sys.executable, "-m", "omar_jax.plan", "--quick", f"--config=configs/werewolf.py:{preset}"]
    command += [f"--topology={TOPOLOGIES[name]}", f"--out={out}"]
    print(f"{preset} on {name} ...", file=sys.stderr, flush=True)
    subprocess.run(
        [*command, *(f"--config.{setting}={value}" for setting, value in settings.items())],
        stdout=subprocess.DEVNULL,
    )


def row(preset: str, name: str, found: dict) -> tuple[str, ...]:
    """A cell as a row of the table."""
    memory, seconds = found["chip"]["memory"], found["seconds"]
    taken = {phase: sum(parts.values()) for phase, parts in found["memory"].items()}
    meshes = (",".join(map(str, found["mesh"][kind])) for kind in ("train", "play"))
    whole = sum(seconds.values())
    return (
        *(preset, name, *meshes, f"{found['microbatch_games']} games"),
        *(f"{taken['play'] / GIB:.1f} of {memory / GIB:.2f} GiB", f"{taken['score'] / GIB:.1f}"),
        *(f"{taken['update'] / GIB:.1f}", f"{(memory - max(taken.values())) / GIB:+.1f} GiB"),
        f"{whole:.1f} s ({seconds['play']:.1f}, {seconds['score']:.1f}, {seconds['update']:.1f})",
        *(f"{3600 * found['games'] / whole:,.0f}", f"{found['utilisation']:.1%}"),
    )


def main(argv):
    """Makes the plans that are missing, and prints the table."""
    del argv
    folder = Path(FOLDER.value)
    folder.mkdir(parents=True, exist_ok=True)
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    for preset in PRESETS:
        for name in TOPOLOGIES:
            out = folder / f"{preset}-{name}.json"
            plan(preset, name, out)
            if out.exists():
                print("| " + " | ".join(row(preset, name, json.loads(out.read_text()))) + " |", flush=True)


if __name__ == "__main__":
    app.run(main)
