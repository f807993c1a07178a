"""Play: one transcript a game against one row a seat, for several numbers of seats and lengths of games.

    python -m benchmarks.play
    python -m benchmarks.play --cells=7x1024

Three ways to hold the same conversations (`conversation`) with the same model and the same jitted calls:

    shared      one cache a game, whoever listens: what omar_jax does
    kept        a cache for every seat, which is written everything that the seat hears
    prefilled   no cache is kept: a seat's whole prompt is read at each of its turns

The last two live here only. Ratios are of seconds for the same games, so of games/s and of tokens/s alike. All play
as many batches at the same time as the configuration does (`config.play.lanes`).
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks.conversation import Plan, dialogue, werewolf
from benchmarks.measuring import QUICK, Table, against, alternate
from omar_jax import experiment, runtime
from omar_jax.lanes import in_lanes
from omar_jax.model import cache as kv
from omar_jax.model.decoder import Decoder
from omar_jax.sampler import Sampler, Shapes, nobody_asked, nothing_said

CONFIG = config_flags.DEFINE_config_file("config", "configs/werewolf.py", "Whose model to measure.")
CELLS = flags.DEFINE_list("cells", [], "Seats and tokens of a game, as in 7x1024,9x1024; none: all, half an hour.")
flags.register_validator(
    "cells", lambda cells: all(re.fullmatch(r"\d+x\d+", cell) for cell in cells), "seats x tokens, as in 7x1024,9x1024"
)

GAMES = 32
SEATS, TOKENS = (2, 5, 7, 9, 16), (256, 512, 1024, 2048, 4096)
MOST_PREFILLED = 1050  # tokens of games in which every turn's prompt is read anew, 1,024 and a turn: more take minutes


class Player(NamedTuple):
    """A sampler whose turns have as many tokens as they may, and its weights."""

    sampler: Sampler
    params: dict

    @staticmethod
    def of(
        model: Decoder, params, plan: Plan, games: int, asked: tuple[int, ...], piece: int, smallest: int = 256
    ) -> "Player":
        """With caches that grow as play's do: by doubling, from the smallest."""
        most = plan.seen(len(plan.rounds)) + plan.card * plan.seats + piece
        rooms = [smallest]
        while rooms[-1] < most:
            rooms.append(2 * rooms[-1])
        longest = max(r.action for r in plan.rounds)
        shapes = Shapes((games,), tuple(rooms), piece, plan.cue, longest, asked, legal_nodes=1, legal_width=1)
        return Player(Sampler(model, (), shapes), params)

    def hear(self, cache: kv.Cache, owners: Sequence[int], heard: int) -> kv.Cache:
        """Adds a token for each of these owners to a cache that holds `heard`."""
        shapes, count = self.sampler.shapes, len(owners)
        room = min(size for size in shapes.transcript if size >= heard + count + shapes.piece)
        if room > cache.room:
            cache = self.sampler.grow(cache, room)
        for first in range(0, count, shapes.piece):
            piece, now = nothing_said(shapes.games[0], shapes), owners[first : first + shapes.piece]
            piece.owner[:, : len(now)], piece.count[:] = now, len(now)
            piece.tokens[:, : len(now)] = piece.positions[:, : len(now)] = heard + first + np.arange(len(now))
            piece.tokens[:] %= self.sampler.model.config.vocabulary
            cache = self.sampler.extend(self.params, cache, piece)
        return cache

    def speak(self, cache: kv.Cache, seats: tuple[int, ...], action: int, cue: int, position: int, turn: int):
        """Lets seats speak `action` tokens each. -> [N, A, J] ids."""
        shapes = self.sampler.shapes
        ask = nobody_asked(shapes.games[0], len(seats), shapes)
        ask.seat[:], ask.limit[:], ask.cue_count[:], ask.position[:], ask.turn[:] = seats, action, cue, position, turn
        ask.game[:] = np.arange(shapes.games[0])
        return self.sampler.decode(self.params, cache, ask, self.sampler.key(0), jnp.float32(1.0)).tokens


def shared(player: Player, plan: Plan):
    """One cache a game."""
    cache = player.sampler.empty(player.sampler.shapes.games[0])
    cards = [seat for seat in range(plan.seats) for _ in range(plan.card)]
    heard, new, said = 0, [kv.SHARED] * plan.opening + cards, None
    for turn, (asked, action, told) in enumerate(plan.rounds):
        cache, heard = player.hear(cache, new, heard), heard + len(new)
        # On the host before the next round, as an environment needs it.
        said = np.asarray(player.speak(cache, asked, action, plan.cue, heard, turn))
        new = [kv.SHARED] * told
    return said


def kept(player: Player, plan: Plan):
    """A cache a seat: those who speak are asked, and everybody's cache is written what was said."""
    caches = [player.sampler.empty(player.sampler.shapes.games[0]) for _ in range(plan.seats)]
    heard, new, said = 0, [kv.SHARED] * (plan.opening + plan.card), None
    for turn, (asked, action, told) in enumerate(plan.rounds):
        caches, heard = [player.hear(cache, new, heard) for cache in caches], heard + len(new)
        said = [player.speak(caches[seat], (0,), action, plan.cue, heard, turn) for seat in asked]
        said = jax.device_get(said)
        new = [kv.SHARED] * told
    return said


def prefilled(player: Player, plan: Plan):
    """No cache is kept."""
    said = None
    for turn, (asked, action, _) in enumerate(plan.rounds):
        said = []
        for _ in asked:
            cache = player.sampler.empty(player.sampler.shapes.games[0])
            cache = player.hear(cache, [kv.SHARED] * plan.seen(turn), 0)
            said.append(player.speak(cache, (0,), action, plan.cue, plan.seen(turn), turn))
        said = jax.device_get(said)
    return said


def at_once(way, player: Player, plan: Plan, lanes: int):
    """Holds the player's conversations in so many lanes, a batch in each."""
    return in_lanes(lambda lane, check: way(player, plan), range(lanes), lanes)


def sides(model: Decoder, params, plan: Plan, games: int, lanes: int) -> dict:
    """The three ways, ready to run; the slowest is left out of long games."""

    def side(way, asked, piece):
        return functools.partial(
            at_once, way, Player.of(model, params, plan, games // lanes, asked, piece), plan, lanes
        )

    ways = {"shared": side(shared, plan.asked, piece=64), "kept": side(kept, (1,), piece=64)}
    if plan.shared <= MOST_PREFILLED:
        ways["prefilled"] = side(prefilled, (1,), piece=128)
    return ways


def main(argv):
    """By default seats at 1,024 tokens, and tokens at 7 seats."""
    del argv
    run = experiment.build(CONFIG.value)
    params = experiment.initial_params(run.model, 0)
    cells = [(seats, 1024) for seats in SEATS] + [(7, tokens) for tokens in TOKENS if tokens != 1024]
    if CELLS.value or QUICK.value:
        cells = [tuple(map(int, cell.split("x"))) for cell in CELLS.value or ["7x512"]]
    table = Table(
        "play", ("seats", "tokens of a game", "games/s", "tokens/s", "against caches kept a seat", "against prefilling")
    )
    for seats, tokens in sorted(cells):
        plan = dialogue(tokens // 34, 32) if seats == 2 else werewolf(seats, tokens)
        seconds = alternate(sides(run.model, params, plan, GAMES, run.rollout.lanes))
        ours = seconds["shared"]
        table.add(**{
            "seats": seats,
            "tokens of a game": tokens,
            "games/s": GAMES / float(np.median(ours)),
            "tokens/s": GAMES * plan.spoken / float(np.median(ours)),
            "against caches kept a seat": against("kept", seconds, "shared"),
            "against prefilling": against("prefilled", seconds, "shared"),
        })  # fmt: skip


if __name__ == "__main__":
    runtime.keep_freed_memory()
    app.run(main)
