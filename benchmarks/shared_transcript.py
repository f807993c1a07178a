"""What encoding the conversation once is worth: the shared-transcript layout against one row and one cache a seat.

    python benchmarks/shared_transcript.py

Both sides of each comparison run in this process, turn about, with the same model, loss and games; the median of the
ratios counts, for the machine may be busy. The per-seat side lives here only. It gets every seat's conversation as
one ordinary prompt: public text, what the seat was told, its questions and answers, in order.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from omar_jax import experiment, layout, losses, runtime, update
from omar_jax.model import cache as kv
from omar_jax.model.attention import causal
from omar_jax.sampler import Sampler, Shapes, nobody_asked

CONFIG = config_flags.DEFINE_config_file("config", "configs/werewolf.py", "Whose games and model to measure.")
REPEATS = flags.DEFINE_integer("repeats", 9, "Runs of each side.")
TRANSCRIPT = flags.DEFINE_integer("transcript", 512, "Tokens said before the measured turn (decoding).")
SEATS = flags.DEFINE_integer("seats", 7, "Seats of the decoding comparison.")
GAMES = flags.DEFINE_integer("games", 32, "Games decoded at once.")


def compare(name: str, unit: str, amount: float, shared, per_seat) -> float:
    """Runs both in turn and prints rates and the median of their ratios."""
    for side in (shared, per_seat):
        jax.block_until_ready(side())
    seconds = []
    for _ in range(REPEATS.value):
        pair = []
        for side in (shared, per_seat):
            begun = time.perf_counter()
            jax.block_until_ready(side())
            pair.append(time.perf_counter() - begun)
        seconds.append(pair)
    seconds = np.array(seconds)
    rates, ratio = amount / np.median(seconds, axis=0), np.median(seconds[:, 1] / seconds[:, 0])
    print(f"{name:44s} shared {rates[0]:8.1f} {unit}/s   per seat {rates[1]:8.1f} {unit}/s   ratio {ratio:.2f}")
    return ratio


def seat_rows(episode, num_seats: int) -> list[tuple[list[int], list[int], list]]:
    """(tokens, where action logits are read, turns) of every seat that spoke."""
    rows = []
    for seat in range(num_seats):
        tokens, read_at, turns = [], [], []
        for step in episode.steps:
            tokens += [*step.public, *step.private.get(seat, ())]
            if seat in step.turns:
                turn = step.turns[seat]
                tokens += turn.cue
                read_at += range(len(tokens) - 1, len(tokens) - 1 + len(turn.action))
                tokens += turn.action
                turns.append(turn)
        rows.append((tokens, read_at, turns))
    return rows


def compare_updates(run: experiment.Experiment) -> None:
    """One microbatch's loss and gradient, both ways."""
    num_games = run.plan.microbatch_games
    model, learner = run.model, run.learner
    params = experiment.initial_params(model, 0)
    everything = run.given_games(print)(range(400))
    for room in run.plan.buckets:
        smaller = [r for r in run.plan.buckets if r != room and all(a <= b for a, b in zip(r, room, strict=True))]
        episodes = [
            e for e in everything if layout.sizes(e).fits(room) and not any(layout.sizes(e).fits(r) for r in smaller)
        ][:num_games]
        if len(episodes) < num_games:
            continue
        batch = layout.pack(episodes, run.env.role_names, room, run.plan.legal_width)
        targets = update.nothing_to_learn(num_games, room)._replace(mask=batch.action_mask)
        batch, targets = jax.device_put((batch, targets))

        rows = [row for episode in episodes for row in seat_rows(episode, run.env.num_seats)]
        length = -(-max(len(tokens) for tokens, _, _ in rows) // 8) * 8
        actions = max(len(read_at) for _, read_at, _ in rows)
        tokens, read_at = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), actions), np.int32)
        said, mask = np.zeros_like(read_at), np.zeros(read_at.shape, bool)
        for i, (row, at, turns) in enumerate(rows):
            tokens[i, : len(row)], read_at[i, : len(at)], mask[i, : len(at)] = row, at, True
            said[i, : len(at)] = [token for turn in turns for token in turn.action]
        tokens, read_at, said, mask = jax.device_put((tokens, read_at, said, mask))
        flat = np.zeros(read_at.shape, np.float32)
        seat_batch = batch._replace(action_log_probs=flat, action_values=flat)
        seat_targets = update.Targets(flat, flat, mask, flat)

        def per_seat_loss(params, tokens=tokens, read_at=read_at, said=said, b=seat_batch, t=seat_targets):
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            hidden, _ = model.apply(params, tokens, positions, causal(model.config, positions))
            hidden = jnp.take_along_axis(hidden, read_at[..., None], axis=1)
            logits = model.apply(params, hidden, method="logits")
            legal = jnp.zeros((*said.shape, 0), jnp.int32)
            log_probs, entropy = losses.token_log_probs(logits, said, legal, 1.0)
            values = model.apply(params, hidden, method="value")
            return learner.loss(update.ActionOutputs(log_probs, entropy, values), b, t, 100.0)[0]

        def shared_loss(params, b=batch, t=targets):
            return learner.loss(update.evaluate_actions(model, params, b, 1.0), b, t, 100.0)[0]

        shared, per_seat = (jax.jit(jax.grad(loss)) for loss in (shared_loss, per_seat_loss))
        compare(
            f"update, {run.env.num_seats} seats, {room.shared} shared tokens",
            "games",
            num_games,
            lambda f=shared: f(params),
            lambda f=per_seat: f(params),
        )


def filled_cache(sampler: Sampler, num_games: int, owners: np.ndarray) -> kv.Cache:
    """A cache that holds tokens of the given owners [C] in every game."""
    config, room = sampler.model.config, len(owners)
    cache = kv.empty(config, num_games, room + 8)
    owner = np.full((num_games, room + 8), kv.EMPTY, np.int32)
    owner[:, :room] = owners
    positions = np.broadcast_to(np.arange(room + 8, dtype=np.int32), owner.shape)
    return jax.device_put(cache._replace(owner=owner, positions=positions))


def compare_decoding(run: experiment.Experiment) -> None:
    """One turn of every seat, both ways: one cache a game, and one cache a seat."""
    params = experiment.initial_params(run.model, 0)
    seats, games, private = SEATS.value, GAMES.value, 24
    shapes = Shapes(
        games=(games,), transcript=(TRANSCRIPT.value,), piece=64, cue=16, action=24, asked=(seats,),
        legal_nodes=1, legal_width=1,
    )  # fmt: skip
    # No id ends a turn, so that both sides sample the same number of tokens.
    shared_sampler = Sampler(run.model, (), shapes)
    seat_sampler = Sampler(run.model, (), dataclasses.replace(shapes, games=(games * seats,), asked=(1,)))
    owners = np.concatenate([np.full(TRANSCRIPT.value, kv.SHARED), np.repeat(np.arange(seats), private)])
    caches = (
        filled_cache(shared_sampler, games, owners),
        filled_cache(seat_sampler, games * seats, np.full(TRANSCRIPT.value + private, kv.SHARED)),
    )

    def ask(num_games, asked):
        question = nobody_asked(num_games, asked, shapes)
        question.cue_count[:], question.limit[:] = 12, 24
        question.position[:] = TRANSCRIPT.value + private
        question.seat[:] = np.arange(asked)
        return question

    asks = ask(games, seats), ask(games * seats, 1)
    key, temperature = jax.random.key(0), jnp.float32(1.0)
    compare(
        f"decoding, {seats} seats, {TRANSCRIPT.value}-token transcript",
        "tokens",
        games * seats * 24,
        lambda: shared_sampler.decode(params, caches[0], asks[0], key, temperature),
        lambda: seat_sampler.decode(params, caches[1], asks[1], key, temperature),
    )


def main(argv):
    """Both comparisons."""
    del argv
    run = experiment.build(CONFIG.value)
    compare_updates(run)
    compare_decoding(run)


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
