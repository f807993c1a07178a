"""What long games cost: one PPO step on one game, with whole masks and with attention block by block.

    python benchmarks/long_games.py
    python benchmarks/long_games.py --ways=blocks --shared_tokens=8192,16384

Every measurement is a process of its own, which trains the configured model on a made-up game: `--seats` seats speak
one after another day after day, vote, and act at night, in speeches of about a hundred tokens. It prints the seconds
of a step once it is compiled (the fastest of `--repeats`, for the machine may be busy) and the most memory that the
process ever had resident, compiling included. With whole masks memory grows with the square of the length: 4096
shared tokens of one game take 14 GiB. In blocks 16,384 took 1.8, 1.8, 1.8 and 3.0 GiB in four runs, and 50 s a step,
on two cores with other work on them.
"""

import dataclasses
import resource
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from omar_jax import experiment, layout, runtime, train_state, update
from omar_jax.model import attention
from omar_jax.types import Episode, RolloutStep, Turn

CONFIG = config_flags.DEFINE_config_file("config", "configs/werewolf.py", "Whose model to measure.")
SHARED_TOKENS = flags.DEFINE_list("shared_tokens", ["512", "1024", "2048", "4096"], "T of the games.")
WAYS = flags.DEFINE_list("ways", ["dense", "blocks"], "Ways to attend, each measured.")
SEATS = flags.DEFINE_integer("seats", 9, "Seats of the games.")
GAMES = flags.DEFINE_integer("games", 1, "Games of a step.")
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed steps; the one that compiles is not timed.")
HERE = flags.DEFINE_bool("here", False, "Measure in this process; for one number of tokens and one way.")

RULES, CARD, NIGHT, CUE, CHOICE, NAME, RESULT = 300, 60, 20, 12, 2, 4, 30  # tokens
SHORTEST_SPEECH, LONGEST_SPEECH = 40, 160
AWAKE = 3  # seats that act at night


def long_game(shared_tokens: int, num_seats: int, vocabulary: int, seed: int) -> Episode:
    """A game of random tokens with at most so many shared ones."""
    rng = np.random.default_rng(seed)

    def ids(count):
        return tuple(rng.integers(1, vocabulary, count).tolist())

    def turn(length):
        return Turn(ids(CUE), ids(length), np.full(length, -np.log(vocabulary)), np.zeros(length))

    def everybody_speaks():
        for seat in range(num_seats):
            yield {seat: turn(rng.integers(SHORTEST_SPEECH, LONGEST_SPEECH + 1))}, {}
        yield {seat: turn(CHOICE) for seat in range(num_seats)}, {}
        yield {seat: turn(CHOICE) for seat in range(AWAKE)}, {seat: ids(NIGHT) for seat in range(AWAKE)}

    steps, heard = [RolloutStep(ids(RULES), {seat: ids(CARD) for seat in range(num_seats)})], ()
    told = RULES
    while True:
        for turns, private in everybody_speaks():
            if told + len(heard) > shared_tokens:
                rewards = tuple(float(seat % 2) for seat in range(num_seats))
                return Episode(0, 0, tuple(steps), (), rewards, ("player",) * num_seats, {})
            steps.append(RolloutStep(heard, private, turns))
            told += len(heard)
            speech = next(iter(turns.values())).action
            heard = (*ids(NAME), *speech) if len(turns) == 1 else ids(RESULT)


def measure(way: str, shared_tokens: int) -> None:
    """Trains on one such game and prints what it took."""
    attention.LONGEST_DENSE = {"dense": sys.maxsize, "blocks": 0}[way]
    config = CONFIG.value
    run = experiment.build(config)
    episodes = [
        long_game(shared_tokens, SEATS.value, run.decoder_config.vocabulary, seed) for seed in range(GAMES.value)
    ]
    room = layout.Sizes(*(-(-max(sizes) // 128) * 128 for sizes in zip(*map(layout.sizes, episodes), strict=True)))
    plan = dataclasses.replace(run.plan, buckets=(room,), games_at_once=GAMES.value)
    batch = plan.pack(episodes, ("player",))
    advantages = np.random.default_rng(0).normal(size=batch.action_mask.shape).astype(np.float32)
    targets = update.Targets(advantages, advantages, batch.action_mask, batch.action_log_probs)
    trained, frozen = run.weights()
    state = train_state.create(trained, run.learner.optimizer)
    seconds = []
    for _ in range(1 + REPEATS.value):
        begun = time.perf_counter()
        state, metrics = jax.device_get(run.learner.minibatch(state, [(batch, targets)], 1.0, frozen))
        seconds.append(time.perf_counter() - begun)
    wrong = [name for name, value in metrics.items() if not np.isfinite(value)]
    if wrong:
        raise FloatingPointError(f"{', '.join(wrong)} of a step on {shared_tokens} shared tokens are not finite")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{way:6s} {room.shared:6d} shared + {room.seat:6d} seat tokens, {room.actions:6d} of actions"
        f"   first step {seconds[0]:7.2f} s   step {min(seconds[1:], default=np.nan):7.2f} s   peak {peak:6.2f} GiB",
        flush=True,
    )


def main(argv):
    """One process a measurement."""
    if HERE.value:
        return measure(WAYS.value[0], int(SHARED_TOKENS.value[0]))
    for tokens in SHARED_TOKENS.value:
        for way in WAYS.value:
            command = [sys.executable, *argv, *flags.FLAGS.flags_into_string().split()]
            subprocess.run([*command, "--here", f"--shared_tokens={tokens}", f"--ways={way}"], check=True)


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
