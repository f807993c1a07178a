"""Where the time of the default run goes: shares of an iteration, and what is compiled before the first.

    python -m benchmarks.shares
    python -m benchmarks.shares --games=64

Two processes with one compilation cache, empty at first: a first run and any later one. Each builds the run as
`omar_jax.main` does, compiles, and makes `--iterations` iterations with every jitted call of play waited for, so that
prefill and decoding can be told apart; medians over all but the first.
"""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
from absl import app, flags, logging

from benchmarks.measuring import QUICK, Table
from configs import werewolf as config_file
from omar_jax import advantages, experiment, runtime, update
from omar_jax.checkpoint import Checkpoints
from omar_jax.sampler import Sampler

ITERATIONS = flags.DEFINE_integer("iterations", 4, "Measured, the first not.", lower_bound=2)
GAMES = flags.DEFINE_integer("games", 0, "Of an iteration; 0: as many as the configuration says.", lower_bound=0)
HERE = flags.DEFINE_bool("here", False, "Measure in this process.")

PARTS = (
    "prefill",
    "decoding",
    "environments and text",
    "filter and layout",
    "reference",
    "advantages",
    "update",
    "checkpoint",
)
COMPILING = "/jax/core/compile/"


@dataclasses.dataclass(frozen=True)
class Timed(Sampler):
    """A sampler whose calls are waited for, and what they took, all lanes together."""

    seconds: Counter = dataclasses.field(default_factory=Counter, compare=False)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock, compare=False)

    def _timed(self, part, call, *args):
        begun = time.perf_counter()
        found = jax.block_until_ready(call(self, *args))
        with self.lock:
            self.seconds[part] += time.perf_counter() - begun
        return found

    def extend(self, *args):
        """As of Sampler."""
        return self._timed("prefill", Sampler.extend, *args)

    def decode(self, *args):
        """As of Sampler."""
        return self._timed("decoding", Sampler.decode, *args)


def measure() -> dict:
    """One process: seconds of compiling, of every part of an iteration, and the most memory."""
    compiling = Counter()
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiling.update({event: seconds}) if event.startswith(COMPILING) else None
    )
    config = config_file.get_config("smoke" if QUICK.value else "")
    config.play.games = GAMES.value or config.play.games
    run = experiment.build(config)
    of_sampler = run.rollout.sampler
    sampler = Timed(**{field.name: getattr(of_sampler, field.name) for field in dataclasses.fields(of_sampler)})
    run.rollout.sampler = sampler
    trained, frozen = run.weights()
    reference = jax.tree.map(np.array, trained)
    moving, learner, plan, roles = run.moving(trained), run.learner, run.plan, run.env.role_names
    begun = time.perf_counter()
    sampler.warm_up(run.policy(moving["state"].params, frozen))
    learner.warm_up(reference, moving["state"].params, frozen, plan)
    warm_up = time.perf_counter() - begun

    history = []
    for iteration in range(ITERATIONS.value):
        sampler.seconds.clear()
        clock, spent = time.perf_counter(), {}

        def lap(part, spent=spent):
            nonlocal clock
            now = time.perf_counter()
            spent[part], clock = now - clock, now

        games = run.opponents.games(
            range(iteration * config.play.games, (iteration + 1) * config.play.games), iteration
        )
        policy = run.policy(moving["state"].params, frozen)
        episodes, _ = run.rollout.play(games, [policy], jax.random.key(iteration), config.play.temperature)
        runtime.return_freed_memory()
        lap("play")
        fitting = plan.fitting(episodes)
        batch = plan.pack(fitting, roles)
        lap("filter and layout")
        reference_log_probs = learner.reference_log_probs(reference, plan, fitting, batch, 1.0)
        lap("reference")
        computed = jax.device_get(advantages.compute_whitened(batch, run.advantages, len(roles), moving["baselines"]))
        lap("advantages")
        targets = update.Targets(computed.advantages, computed.targets, computed.mask, reference_log_probs)
        order = np.random.default_rng(iteration)
        minibatches = (m for _ in range(config.ppo.epochs) for m in plan.minibatches(fitting, batch, targets, order))
        state, _ = learner.update(moving["state"], minibatches, config.play.temperature, frozen)
        moving = moving | {"state": state}
        lap("update")
        with tempfile.TemporaryDirectory() as folder:
            checkpoints = Checkpoints(Path(folder), 1, lambda line: None)
            checkpoints.save(0, moving, {})
            checkpoints.close()
        lap("checkpoint")
        spent["checkpoint"] /= config.checkpoint.every
        spent |= {part: seconds / run.rollout.lanes for part, seconds in sampler.seconds.items()}
        # Of the time of play what no lane spent in calls of the model, waiting for one another included.
        spent["environments and text"] = spent.pop("play") - spent["prefill"] - spent["decoding"]
        history.append(spent)
    return {
        "compiling": sum(compiling.values()),
        "warm-up": warm_up,
        "parts": {part: float(np.median([spent[part] for spent in history[1:]])) for part in PARTS},
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main(argv):
    """Both processes, and their tables."""
    del argv
    if HERE.value:
        runtime.remember_compilations()
        return print(json.dumps(measure()))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.shares", "--here", f"--iterations={ITERATIONS.value}"]
        command += [f"--games={GAMES.value}", *["--quick"] * QUICK.value]
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        runs = [subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE) for _ in range(2)]
        found = [json.loads(run.stdout.splitlines()[-1]) for run in runs]
    table = Table("shares of an iteration", ("part", "seconds", "share, %"))
    parts = found[1]["parts"]
    for part, seconds in parts.items():
        table.add(**{"part": part, "seconds": seconds, "share, %": 100 * seconds / sum(parts.values())})
    starts = Table("start", ("run", "compiling, s", "warm-up, s", "peak memory, GiB"))
    for run, of in zip(("first", "later"), found, strict=True):
        starts.add(
            run=run, **{"compiling, s": of["compiling"], "warm-up, s": of["warm-up"], "peak memory, GiB": of["memory"]}
        )


if __name__ == "__main__":
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    runtime.keep_freed_memory()
    app.run(main)
