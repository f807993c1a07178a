"""What the machine can do, and how near decoding and the update come to it.

    python -m benchmarks.limits
    python -m benchmarks.limits --config=configs/werewolf.py:gemma3_270m --config.lora.rank=0
    python -m benchmarks.limits --config.precision.compute=bfloat16

Bandwidth is that of reading a large array once; the matmul rate is that of large matrices of what the model computes
in. A decoded token cannot take less than reading all weights once, nor than its multiplications, those with the keys
and values of all the past included: the larger of the two is its limit. The update's rate counts the multiplications
of the model's matrices alone, three passes a token, and neither attention nor what is recomputed.
"""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from benchmarks.conversation import episode, werewolf
from benchmarks.measuring import QUICK, Spread, Table, alternate
from benchmarks.play import CONFIG, Player
from benchmarks.update import microbatch, model_flops
from omar_jax import experiment, runtime
from omar_jax.model import cache as kv
from omar_jax.model.hf import tensor_shapes
from omar_jax.model.matmul import product

GAMES = flags.DEFINE_integer("games", 4, "Games decoded at once.")
SEATS = flags.DEFINE_integer("seats", 7, "Seats that speak at once.")
PAST = flags.DEFINE_integer("past", 448, "Tokens said before.")

ACTION = 32
LARGE = 2**28  # bytes of the array that is read: beyond any cache
WIDE = 4096  # rows and columns of the matrices


def bandwidth(size: int) -> float:
    """Bytes a second of reading: the best of what a sum and a matrix times a vector reach."""
    array = jnp.ones((size // 4 // WIDE, WIDE), jnp.float32)
    vector = jnp.ones((WIDE,), jnp.float32)
    seconds = alternate({
        "sum": functools.partial(jax.jit(jnp.sum), array),
        "product": functools.partial(jax.jit(jnp.matmul), array, vector),
    })  # fmt: skip
    return array.nbytes / min(map(np.median, seconds.values()))


def matmul_rate(width: int, dtype) -> float:
    """FLOP/s of matrix products."""
    a = jnp.ones((width, width), dtype)
    seconds = alternate({"product": functools.partial(jax.jit(product), a, a)})["product"]
    return 2 * width**3 / float(np.median(seconds))


def decode_seconds(run: experiment.Experiment, params) -> np.ndarray:
    """Of one token of every seat of every game: turns of many tokens less turns of one, per token between."""
    seats, games = SEATS.value, GAMES.value
    plan = werewolf(seats, PAST.value)
    player = Player.of(run.model, params, plan, games, (seats,), piece=64)
    cache = player.hear(player.sampler.empty(games), [kv.SHARED] * plan.shared, 0)

    def speak(action):
        return player.speak(cache, tuple(range(seats)), action, plan.cue, plan.shared, 0)

    seconds = alternate({"long": lambda: speak(ACTION), "short": lambda: speak(1)})
    return (seconds["long"] - seconds["short"]) / (ACTION - 1)


def decode_limit(run: experiment.Experiment, params, bytes_a_second: float, rate: float) -> tuple[float, str]:
    """Seconds that a token of every seat takes at least, and what limits it."""
    config, rows = run.decoder_config, SEATS.value * GAMES.value
    weights = sum(x.nbytes for x in jax.tree.leaves(params))
    past = 2 * config.layers * config.kv_heads * config.head_dim * PAST.value * GAMES.value * params_size(run)
    shapes = tensor_shapes(config).items()
    matrices = sum(math.prod(s) for name, s in shapes if len(s) == 2 and "embedding" not in name)
    seen = [min(PAST.value, config.window(layer) or PAST.value) for layer in range(config.layers)]
    attention = 2 * config.heads * config.head_dim * sum(seen)  # every key, and every value, with its weight
    flops = 2 * rows * (matrices + config.vocabulary * config.width + attention)
    limits = {"bandwidth": (weights + past) / bytes_a_second, "matmul rate": flops / rate}
    by = max(limits, key=limits.get)
    return limits[by], by


def params_size(run: experiment.Experiment) -> int:
    """Bytes of a number of the cache."""
    return jnp.dtype(run.model.dtype).itemsize


def update_rate(run: experiment.Experiment, params) -> Spread:
    """Model FLOP/s of a microbatch's gradient."""
    games, plan = run.plan.microbatch_games, werewolf(SEATS.value, PAST.value)
    batch, targets = microbatch(run, [episode(plan, run.decoder_config.vocabulary, seed) for seed in range(games)])
    trained, frozen = run.weights()
    gradients = run.learner.zeros(trained)

    def step():
        nonlocal gradients
        gradients, metrics = run.learner.accumulate(gradients, trained, frozen, batch, targets, 1.0, np.float32(1.0))
        return metrics

    seconds = alternate({"step": step})["step"]
    tokens = batch.shared_tokens.size + batch.seat_tokens.size
    flops = model_flops(run.decoder_config, tokens, batch.action_tokens.size)
    return Spread.of(flops * (2 / 3 if frozen else 1) / seconds)


def main(argv):
    """The machine, then the model on it."""
    del argv
    run = experiment.build(CONFIG.value)
    dtype = run.model.dtype
    read = bandwidth(LARGE // 16 if QUICK.value else LARGE)
    rate = matmul_rate(WIDE // 4 if QUICK.value else WIDE, dtype)
    name = Path(CONFIG.value.model.source).name
    of_machine = Table(f"limits of the machine in {dtype.name}", ("bandwidth, GB/s", "matmul rate, GFLOP/s"))
    of_machine.add(**{"bandwidth, GB/s": read / 1e9, "matmul rate, GFLOP/s": rate / 1e9})

    params = run.policy(*run.weights())
    seconds = decode_seconds(run, params)
    least, by = decode_limit(run, params, read, rate)
    columns = ("model", "dtype", "decoding, ms a token", "its limit, ms", "by", "share", "update, GFLOP/s")
    table = Table(f"share of the limits, {name} in {dtype.name}", (*columns, "share of the matmul rate"))
    gradient = update_rate(run, params)
    table.add(**{
        "model": name,
        "dtype": dtype.name,
        "decoding, ms a token": 1000 * float(np.median(seconds)),
        "its limit, ms": 1000 * least,
        "by": by,
        "share": Spread.of(least / seconds),
        "update, GFLOP/s": gradient.median / 1e9,
        "share of the matmul rate": gradient.median / rate,
    })  # fmt: skip


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
