"""The update: one transcript a game against one row a seat, ours and as one writes it with PyTorch.

    python -m benchmarks.update

All sides take gradients of the same PPO loss for the same scripted games with models of the same size. The per-seat
sides get every seat's conversation as one ordinary prompt: public text, what the seat was told, its questions and
answers, in order. PyTorch runs in a process of its own, which takes turns with ours, and also steps.
"""

import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from benchmarks.measuring import QUICK, TORCH, Table, against, alternate, peer
from configs import werewolf
from omar_jax import experiment, layout, losses, runtime, update
from omar_jax.model.attention import causal
from omar_jax.model.hf import tensor_shapes
from omar_jax.types import GameBatch


class Rows(NamedTuple):
    """Every seat's conversation of some games as one padded row."""

    tokens: np.ndarray  # [rows, L] int32
    length: np.ndarray  # [rows] int32
    acts: np.ndarray  # [rows, L] bool: sampled by the policy

    @staticmethod
    def of(episodes, num_seats: int) -> "Rows":
        """One row for each seat of each game."""
        rows = [_row(episode, seat) for episode in episodes for seat in range(num_seats)]
        longest = -(-max(len(tokens) for tokens, _ in rows) // 8) * 8
        tokens, acts = np.zeros((len(rows), longest), np.int32), np.zeros((len(rows), longest), bool)
        for i, (said, own) in enumerate(rows):
            tokens[i, : len(said)], acts[i, : len(own)] = said, own
        return Rows(tokens, np.array([len(said) for said, _ in rows], np.int32), acts)


def _row(episode, seat: int) -> tuple[list[int], list[bool]]:
    """A seat's conversation, and which tokens it sampled."""
    tokens, acts = [], []
    for step in episode.steps:
        turn = step.turns.get(seat)
        for said, own in ((step.public, False), (step.private.get(seat, ()), False)) + (
            ((turn.cue, False), (turn.action, True)) if turn else ()
        ):
            tokens += said
            acts += [own] * len(said)
    return tokens, acts


def per_seat_loss(run: experiment.Experiment, rows: Rows):
    """The PPO loss on a row a seat, of parameters: the same model, loss and kernels as ours."""
    model, learner = run.model, run.learner
    most = int(rows.acts.sum(axis=1).max())
    said, read_at, mask = (np.zeros((len(rows.tokens), most), kind) for kind in (np.int32, np.int32, bool))
    for i, acts in enumerate(rows.acts):
        at = np.flatnonzero(acts)
        said[i, : len(at)], read_at[i, : len(at)], mask[i, : len(at)] = rows.tokens[i, at], at - 1, True
    tokens, said, read_at, mask = jax.device_put((rows.tokens, said, read_at, mask))
    flat = jnp.zeros(said.shape, jnp.float32)
    batch = layout.empty(1, run.plan.buckets[0], 0)._replace(action_log_probs=flat, action_values=flat)
    targets = update.Targets(flat, flat, mask, flat)

    def loss(params):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        hidden, _ = model.apply(params, tokens, positions, causal(model.config, positions))
        hidden = jnp.take_along_axis(hidden, read_at[..., None], axis=1)
        logits = model.apply(params, hidden, method="logits")
        log_probs, entropy = losses.token_log_probs(logits, said, jnp.zeros((*said.shape, 0), jnp.int32), 1.0)
        values = model.apply(params, hidden, method="value")
        return learner.loss(update.ActionOutputs(log_probs, entropy, values), batch, targets, 100.0)[0]

    return loss


def of_one_size(run: experiment.Experiment, games: int) -> tuple[layout.Sizes, list]:
    """A bucket of usual games, and so many that fill it: its games fit no smaller one."""
    buckets, found = run.plan.buckets, {}
    for episode in run.given_games(print)(range(40 * games)):
        fitting = [room for room in buckets if layout.sizes(episode).fits(room)]
        if fitting:
            found.setdefault(fitting[0], []).append(episode)
    room = max(found, key=lambda room: len(found[room]))
    if len(found[room]) < games:
        raise ValueError(f"only {len(found[room])} of {40 * games} games fit the bucket {tuple(room)}")
    return room, found[room][:games]


def model_flops(config, tokens: int, actions: int) -> float:
    """Of a gradient: three passes over the blocks' matrices a token and the vocabulary's an action token."""
    shapes = tensor_shapes(config).items()
    matrices = sum(math.prod(shape) for name, shape in shapes if len(shape) == 2 and "embedding" not in name)
    return 6.0 * (matrices * tokens + config.vocabulary * config.width * actions)


def microbatch(run: experiment.Experiment, episodes) -> tuple[GameBatch, update.Targets]:
    """Games laid out with hardly any padding, on the device."""
    needed = zip(*map(layout.sizes, episodes), strict=True)
    room = layout.Sizes(*(-(-max(sizes) // 8) * 8 for sizes in needed))
    batch = layout.pack(episodes, sorted(set(episodes[0].roles)), room, run.plan.legal_width)
    return jax.device_put((batch, update.nothing_to_learn(len(episodes), room)._replace(mask=batch.action_mask)))


def compare(table: Table, run: experiment.Experiment) -> None:
    """One row of the table."""
    games = run.plan.microbatch_games
    room, episodes = of_one_size(run, games)
    batch = layout.pack(episodes, run.env.role_names, room, run.plan.legal_width)
    targets = update.nothing_to_learn(games, room)._replace(mask=batch.action_mask)
    batch, targets = jax.device_put((batch, targets))
    rows = Rows.of(episodes, run.env.num_seats)
    params = experiment.initial_params(run.model, 0)

    def shared_loss(params):
        return run.learner.loss(update.evaluate_actions(run.model, params, batch, 1.0), batch, targets, 100.0)[0]

    shared, per_seat = (jax.jit(jax.grad(loss)) for loss in (shared_loss, per_seat_loss(run, rows)))
    model = json.loads((run.folder / "config.json").read_text())
    task = {"model": model, "microbatch": len(rows.tokens), "learning_rate": 8e-4}
    with peer("PyTorch", "torch_ppo", TORCH, task, rows._asdict()) as others:
        sides = {"shared": lambda: shared(params), "per seat": lambda: per_seat(params)}
        seconds = alternate(sides | others)
    ours = float(np.median(seconds["shared"]))
    tokens = sum(layout.sizes(e).shared + layout.sizes(e).seat for e in episodes)
    table.add(**{
        "seats": run.env.num_seats,
        "tokens of a game": f"{tokens / games:.0f} shared, {rows.length.sum() / games:.0f} in rows a seat",
        "games/s": games / ours,
        "model GFLOP/s": model_flops(run.decoder_config, tokens, int(rows.acts.sum())) / ours / 1e9,
        "against a row a seat": against("per seat", seconds, "shared"),
        "against PyTorch": against("PyTorch", seconds, "shared"),
    })  # fmt: skip


def main(argv):
    """Werewolf with five and seven seats."""
    del argv
    columns = ("seats", "tokens of a game", "games/s", "model GFLOP/s", "against a row a seat", "against PyTorch")
    table = Table("update", columns)
    for preset in ("seven",) if QUICK.value else ("", "seven"):
        compare(table, experiment.build(werewolf.get_config(preset)))


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
