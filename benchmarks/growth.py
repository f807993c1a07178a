"""How cost grows: seconds and memory of play and of a gradient against turns, seats, games and the model's size.

    python -m benchmarks.growth

One of the four is varied at a time; an exponent of 1 means that twice as much costs twice as much. Memory is what the
compiled gradient needs beside its arguments, and for play the caches. Attention grows with the square of a game's
tokens, so turns have two exponents: up to `LINEAR` turns and beyond. Of the gradient's products, counted, attention's
share is told.
"""

import dataclasses
import functools
import math

import jax
import numpy as np
from absl import app

from benchmarks.conversation import Plan, episode, in_turn
from benchmarks.measuring import QUICK, Table, alternate
from benchmarks.play import Player, shared
from benchmarks.update import microbatch, model_flops
from configs import werewolf as config_file
from omar_jax import experiment, layout, runtime, update
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.model.hf import tensor_shapes

SEATS, TURNS, GAMES, WIDTH = 7, 14, 16, 96  # where they are not varied
VARIED = {
    "turns": (2, 4, 8, 16, 32, 64),
    "seats": (2, 4, 8, 16),  # with as many turns, so that as many tokens are spoken
    "games": (4, 8, 16, 32, 64),
    "width": (96, 192, 384, 768),
}
LINEAR = 16  # turns: about as many as cost in proportion, with the embedded model
FITTED = (  # what is varied, the least and the most of a power law's points
    ("turns", 0, LINEAR),
    ("turns", LINEAR, math.inf),
    ("seats", 0, math.inf),
    ("games", 0, math.inf),
    ("width", 0, math.inf),
)


def sized(run: experiment.Experiment, width: int) -> experiment.Experiment:
    """The run with a model of another width, of the same proportions."""
    config = run.decoder_config
    times = width // config.width
    config = dataclasses.replace(
        config,
        width=width,
        heads=config.heads * times,
        kv_heads=config.kv_heads * times,
        mlp_width=config.mlp_width * times,
    )
    learner = dataclasses.replace(run.learner, model=Decoder(config, dtype=run.model.dtype))
    return dataclasses.replace(run, decoder_config=config, learner=learner)


def gradient_of(run: experiment.Experiment, params, episodes):
    """The compiled gradient of games, ready to run, and the bytes it needs beside its arguments."""
    batch, targets = microbatch(run, episodes)

    def loss(params, batch, targets):
        return run.learner.loss(update.evaluate_actions(run.model, params, batch, 1.0), batch, targets, 100.0)[0]

    compiled = jax.jit(jax.grad(loss)).lower(params, batch, targets).compile()
    memory = compiled.memory_analysis()
    return functools.partial(compiled, params, batch, targets), memory.temp_size_in_bytes if memory else float("nan")


def cache_bytes(player: Player, plan: Plan) -> int:
    """Of the caches that the whole conversation needs."""
    rooms = player.sampler.shapes.transcript
    cache = jax.eval_shape(lambda: player.sampler.grow(player.sampler.empty(player.sampler.shapes.games[0]), rooms[-1]))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache))


def attention_share(config: DecoderConfig, plan: Plan, episodes) -> float:
    """Of the multiplications of a gradient, as computed with whole masks."""
    sizes = [layout.sizes(episode) for episode in episodes]
    pairs = sum(size.shared**2 + size.seat * (size.shared + size.seat) for size in sizes)
    attention = 3 * 4 * pairs * config.layers * config.heads * config.head_dim
    matrices = model_flops(config, sum(s.shared + s.seat for s in sizes), len(episodes) * plan.spoken)
    return attention / (attention + matrices)


def exponent(amounts, costs) -> float:
    """Of a power law through the points, by least squares of logarithms."""
    return float(np.polyfit(np.log(amounts), np.log(costs), 1)[0])


def main(argv):
    """A table of all points, and one of exponents."""
    del argv
    run = experiment.build(config_file.get_config())
    costs = ("play, s", "caches, MiB", "gradient, s", "its memory, MiB")
    points = Table("growth", ("varied", "amount", *costs, "attention's share"))
    for varied, amounts in VARIED.items():
        for amount in amounts[:3] if QUICK.value else amounts:
            of = {"turns": TURNS, "seats": SEATS, "games": GAMES, "width": WIDTH} | {varied: amount}
            here = sized(run, of["width"])
            plan, games = in_turn(of["seats"], of["turns"]), of["games"]
            params = experiment.initial_params(here.model, 0)
            player = Player.of(here.model, params, plan, games, (1,), piece=64)
            episodes = [episode(plan, here.decoder_config.vocabulary, seed) for seed in range(games)]
            gradient, memory = gradient_of(here, params, episodes)
            seconds = alternate({"play": functools.partial(shared, player, plan), "gradient": gradient})
            points.add(**{
                "varied": varied,
                "amount": amount,
                "play, s": float(np.median(seconds["play"])),
                "caches, MiB": cache_bytes(player, plan) / 2**20,
                "gradient, s": float(np.median(seconds["gradient"])),
                "its memory, MiB": memory / 2**20,
                "attention's share": attention_share(here.decoder_config, plan, episodes),
            })  # fmt: skip
    exponents = Table("exponents of growth", ("varied", "from", "to", *costs))
    for varied, least, most in FITTED:
        rows = [row for row in points.rows if row["varied"] == varied and least <= row["amount"] <= most]
        if len(rows) < 2:  # of --quick
            continue
        amounts, name = [row["amount"] for row in rows], varied
        if varied == "width":
            shapes = [tensor_shapes(sized(run, width).decoder_config).values() for width in amounts]
            amounts, name = [int(sum(map(np.prod, each))) for each in shapes], "parameters"
        fitted = {cost: exponent(amounts, [row[cost] for row in rows]) for cost in costs}
        exponents.add(**{"varied": name, "from": amounts[0], "to": amounts[-1], **fitted})


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
