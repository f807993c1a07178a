"""One policy against another, or all checkpoints of a run against one another: who wins, by how much, how surely.

    python -m omar_jax.arena --a=runs/werewolf-default
    python -m omar_jax.arena --a=runs/werewolf-default --b=scripted
    python -m omar_jax.arena --a=runs/werewolf-default@5 --b=openai:qwen3@http://localhost:8000/v1 --games=100
    python -m omar_jax.arena --round_robin=runs/werewolf-default --games=256

Every deal is played by three line-ups: A on each side against B, and B against itself. An interrupted arena goes on
with the same command, and so does one that is to be larger.
"""

import json
import re
import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import ConfigDict

from omar_jax import contest, experiment, measures, metrics, policies, runtime
from omar_jax.checkpoint import Checkpoints
from omar_jax.command_line import changes, define_config, is_given, parse_flags
from omar_jax.console import Console
from omar_jax.judge import Jury
from omar_jax.model import lora
from omar_jax.settings import SettingError

CONFIG = define_config()
A = flags.DEFINE_string("a", None, f"A policy: {policies.KINDS}.")
B = flags.DEFINE_string(
    "b", None, "The policy that it is compared with. Default: the cold start of --a's run, or cold_start."
)
ROUND_ROBIN = flags.DEFINE_string("round_robin", None, "Instead of --a and --b a run, whose checkpoints all play.")
CHECKPOINTS = flags.DEFINE_integer("checkpoints", 8, "Most checkpoints of --round_robin.", lower_bound=2)
GAMES = flags.DEFINE_integer("games", 1000, "Deals; every line-up plays all of them.", lower_bound=2)
MEASURES = flags.DEFINE_bool(
    "measures", False, "The judge of config.judge, local or openai, also says how they talk: see omar_jax/measures.py."
)
SEED = flags.DEFINE_integer("seed", 1_000_000, "Of deals and words.", lower_bound=0)
OUT = flags.DEFINE_string(
    "out", None, "Folder for the games and arena.json. Default: runs/arena/A-B, or the run's folder."
)
AT_ONCE = flags.DEFINE_integer("at_once", 8, "Questions to an endpoint at the same time.", lower_bound=1)
TIMEOUT = flags.DEFINE_float("timeout", 60.0, "Seconds to wait for an endpoint's answer.", lower_bound=0.1)
RETRIES = flags.DEFINE_integer("retries", 5, "How often to ask an endpoint again.", lower_bound=0)


def settings_of(named: list[str]) -> ConfigDict:
    """The configuration of the game."""
    changed = changes()
    for setting, flag in {"arena.games": "--games", "arena.seed": "--seed"}.items():
        if setting in changed:
            raise SettingError(
                f"--config.{setting}={changed[setting]} is for the arena at a run's end: give {flag} here"
            )
    config = policies.config_for(named, CONFIG.value, is_given(sys.argv), changed)
    config.arena.games, config.arena.seed = GAMES.value, SEED.value
    return config


def one_against_another(console: Console, stop: runtime.Stop) -> None:
    """Plays --a against --b."""
    workdir = policies.workdir_of(A.value)
    named = [A.value, B.value or (f"{workdir}@cold_start" if workdir else "cold_start")]
    out = Path(OUT.value or Path("runs/arena") / "-".join(re.sub(r"[^\w.@]+", "_", name) for name in named))
    config = settings_of(named)
    run = experiment.build(config, console.line)
    waiting = policies.Waiting(AT_ONCE.value, TIMEOUT.value, RETRIES.value, out / "answers.jsonl", stop.check)
    a, b = (
        policies.find(flag, name, run, waiting, console.line) for flag, name in zip(("--a", "--b"), named, strict=True)
    )
    if a.name == b.name:
        b = b._replace(name=f"{b.name} again")
    jury = jury_of(run, workdir or policies.workdir_of(named[1]), out, stop) if MEASURES.value else None
    contest.hold(run.rollout, a, b, config, out, out / "arena.json", console, stop)
    if jury:
        measures.hold(jury, a, b, config, out, console)
    console.line(f"Everything else is in {out}")


def jury_of(run: experiment.Experiment, workdir: Path | None, out: Path, stop: runtime.Stop) -> Jury:
    """Who judges --measures: an endpoint, or the policy that a run among --a and --b started from."""
    backend = run.config.judge.backend
    if backend not in ("local", "openai"):
        raise SettingError("--measures needs a judge that can read: give --config.judge.backend=local or openai")
    if backend == "local" and run.config.cold_start.train and workdir is None:
        raise SettingError("--measures with config.judge.backend='local' needs a run, whose cold start judges")
    reference = None  # an endpoint needs no weights
    if backend == "local":
        reference = lora.combine(*run.cold_start_weights((workdir or Path()) / "cold_start"))
    return run.jury(reference, out / "judge", stop.check)


def round_robin(console: Console, stop: runtime.Stop) -> None:
    """Lets the checkpoints of --round_robin play one another."""
    workdir = Path(ROUND_ROBIN.value)
    out = Path(OUT.value or workdir)
    if policies.workdir_of(ROUND_ROBIN.value) != workdir:
        raise SettingError(f"--round_robin={workdir} is no run: give a run's folder")
    config = settings_of([ROUND_ROBIN.value])
    stored = Checkpoints(workdir / "checkpoints", keep=None).iterations()
    if len(stored) < 2:
        raise SettingError(f"--round_robin={workdir} holds {len(stored)} checkpoints: at least 2 can play one another")
    chosen = [stored[round(n * (len(stored) - 1) / (CHECKPOINTS.value - 1))] for n in range(CHECKPOINTS.value)]
    names = {f"iteration {iteration}": iteration for iteration in chosen}
    run = experiment.build(config, console.line)
    contestants = [
        policies.find(
            "--round_robin", f"{workdir}@{iteration}", run, policies.Waiting(), report=lambda line: None
        )._replace(name=name)
        for name, iteration in names.items()
    ]
    games = contest.kept(out / "round_robin", config, contestants)
    line_ups = contest.all_pairs(run.env, list(names))
    contest.play_missing(run.rollout, contestants, line_ups, config, games, console, stop)
    games.close()
    rated = contest.rate(run.env, games, names, GAMES.value)
    content = {
        "policies": list(names),
        "seeds": GAMES.value,
        "games": len(line_ups) * GAMES.value,
        "cut": contest.cut(games, line_ups, GAMES.value),
        "elo": contest.ratings_json(rated),
        "pairs": contest.pairs_json(run.env, games, list(names), GAMES.value),
    }
    path = out / "round_robin.json"
    metrics.write_atomically(path, [json.dumps(content, indent=1)])
    console.table(contest.ratings_table(rated, GAMES.value))
    contest.show_cut(console, content["cut"], content["games"])
    console.line(f"Everything else is in {path}")


def main(argv: list[str]) -> None:
    """Plays, and puts what the user can mend into one line."""
    del argv
    console = Console()
    try:
        if (A.value is None) == (ROUND_ROBIN.value is None):
            raise SettingError("give either --a and --b, two policies, or --round_robin, a run's folder")
        (one_against_another if A.value else round_robin)(console, runtime.Stop())
    except runtime.StopRequested:
        console.line("stopped; the same command goes on")
    except experiment.USER_ERRORS as error:
        sys.exit(f"omar_jax: {error}")


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    runtime.keep_freed_memory()
    runtime.remember_compilations()
    app.run(main, flags_parser=parse_flags)
