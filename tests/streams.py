"""The shared-transcript layout of one game in plain Python, token by token, and random games to try it on.

The definition, written anew and slowly: `tell` lists every token of a game with what visibility and position
need, `sees` says whether one token sees another, `view` is everything a token sees, as one prompt. Layout,
attention, sampler and update are held to these three.

`make_game` builds a game from a source of integers, so one generator serves `random_game` (numpy) and
`games` (hypothesis). Among its games are seats that never speak or hear a word, seats that stop in the
middle, private messages to several seats in one step and between turns, turns of a single token, steps
without public text. `random_params` fills a decoder likewise, at once: nothing compiles.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from omar_jax.model.attention import causal
from omar_jax.model.decoder import Decoder
from omar_jax.types import Episode, Params, RolloutStep, Turn

ROLES = ("fox", "hare", "owl")
LEGAL_WIDTH = 4  # most ids a token of these games was sampled among


class Token(NamedTuple):
    """One token of a game."""

    id: int
    seat: int | None  # whose stream it stands in; None: the shared one
    index: int  # in its stream
    clock: int
    branch: int
    position: int
    turn: Turn | None  # the turn whose cue or action it belongs to
    said: int | None  # which of the turn's action tokens it is


def tell(steps: Sequence[RolloutStep], num_seats: int) -> list[Token]:
    """All tokens of a game in the order they came."""
    tokens: list[Token] = []
    length = dict.fromkeys([None, *range(num_seats)], 0)
    turns_of = [0] * num_seats
    counter = 0

    def add(ids, seat, clock, branch, start, turn=None, first_said=None):
        for i, token in enumerate(ids):
            said = None if first_said is None else first_said + i
            tokens.append(Token(token, seat, length[seat], clock, branch, start + i, turn, said))
            length[seat] += 1

    for t, step in enumerate(steps):
        add(step.public, None, 2 * t, 0, counter)
        counter += len(step.public)
        for seat, ids in step.private.items():
            add(ids, seat, 2 * t + 1, 0, counter)
        counter += max((len(ids) for ids in step.private.values()), default=0)
        for seat, turn in step.turns.items():
            turns_of[seat] += 1
            add(turn.cue, seat, 2 * t + 1, turns_of[seat], counter, turn)
            add(turn.action, seat, 2 * t + 1, turns_of[seat], counter + len(turn.cue), turn, 0)
    return tokens


def sees(query: Token, key: Token) -> bool:
    """Whether the query token sees the key token (windows aside)."""
    if query.seat is None:
        return key.seat is None and key.index <= query.index
    if key.seat is None:
        return key.clock < query.clock
    return key.seat == query.seat and key.index <= query.index and key.branch in (0, query.branch)


def view(tokens: Sequence[Token], query: Token) -> list[Token]:
    """Everything a token sees, itself included, by position."""
    return sorted((key for key in tokens if sees(query, key)), key=lambda key: key.position)


def by_seat(tokens: Sequence[Token], num_seats: int) -> list[Token]:
    """The seats' tokens, seat after seat: the packed row."""
    return [token for seat in range(num_seats) for token in tokens if token.seat == seat]


def last_tokens(tokens: Sequence[Token]) -> list[Token]:
    """Every turn's last action token: its view is the turn's whole prompt and answer."""
    return [token for token in tokens if token.turn and token.said == len(token.turn.action) - 1]


# ---------------------------------------------------------------- random games


def make_game(
    integer: Callable[[int, int], int],
    num_seats: int,
    num_steps: int,
    vocabulary: int = 100,
    longest: int = 4,
    game: int = 0,
) -> Episode:
    """A game made of whatever `integer(low, high)`, both ends included, returns."""
    count = 0

    def ids(least):
        return tuple(integer(1, vocabulary - 1) for _ in range(integer(least, longest)))

    def turn():
        nonlocal count
        cue, action = ids(1), ids(1)
        numbers = count + 1 + np.arange(len(action))  # all different: none can be mistaken for another
        count += len(action)
        legal = None
        if integer(0, 2) == 0:
            others = range(1, 1 + integer(0, LEGAL_WIDTH - 1))
            legal = tuple((token, *((token + i) % vocabulary for i in others)) for token in action)
        return Turn(
            cue=cue,
            action=action,
            log_probs=(-numbers / 64).astype(np.float32),
            values=np.sin(numbers).astype(np.float32),
            legal=legal,
            kept=integer(0, 4) > 0,
        )

    # A seat that leaves at step 0 neither speaks nor hears; deaf seats are told nothing in private.
    leaves = [integer(0, 2 * num_steps) for _ in range(num_seats)]
    deaf = [integer(0, 2) == 0 for _ in range(num_seats)]
    steps = []
    for t in range(num_steps):
        here = [seat for seat in range(num_seats) if t < leaves[seat]]
        # The opening has some text: somebody who sees nothing at all cannot be asked.
        public = ids(1 if t == 0 else 0)
        private = {seat: ids(1) for seat in here if not deaf[seat] and integer(0, 1)}
        asked = {seat: turn() for seat in here if integer(0, 2)}
        steps.append(RolloutStep(public, private, asked))
    return Episode(
        game=game,
        seed=game,
        steps=tuple(steps),
        transcript=(),
        rewards=None if integer(0, 9) == 0 else tuple(float(integer(-3, 3)) for _ in range(num_seats)),
        roles=tuple(ROLES[integer(0, len(ROLES) - 1)] for _ in range(num_seats)),
        events={},
        learns=() if integer(0, 1) else tuple(integer(0, 3) > 0 for _ in range(num_seats)),
        names=tuple(f"Player {seat}" for seat in range(num_seats)),
    )


def random_game(seed: int, num_seats: int = 3, num_steps: int = 4, vocabulary: int = 100, longest: int = 4) -> Episode:
    """A random game with rewards, all seats the learner's, deterministic by seed."""
    rng = np.random.default_rng(seed)

    def integer(low, high):
        return int(rng.integers(low, high + 1))

    episode = make_game(integer, num_seats, num_steps, vocabulary, longest, game=seed)
    return dataclasses.replace(episode, rewards=episode.rewards or (1.0,) * num_seats, learns=())


@st.composite
def games(draw, most_seats: int = 4, most_steps: int = 5, longest: int = 3) -> Episode:
    """Games for hypothesis; they shrink towards few, short and silent ones."""

    def integer(low, high):
        return draw(st.integers(low, high))

    return make_game(integer, integer(1, most_seats), integer(1, most_steps), longest=longest)


# ---------------------------------------------------------------- random parameters


def random_params(model: Decoder, seed: int, scale: float = 1.0) -> Params:
    """Parameters that all count: no bias is 0, no norm 1, and the critic has an opinion.

    Matrices have entries of about `scale` / sqrt(rows), everything else varies by a third.
    """
    rng = np.random.default_rng(seed)

    def init(key):
        tokens = jnp.zeros((1, 2), jnp.int32)
        return model.init(key, tokens, tokens, causal(model.config, tokens), method="init_all")

    def fill(path, leaf):
        noise = rng.normal(size=leaf.shape)
        name = jax.tree_util.keystr(path)
        if leaf.ndim == 2:
            rows = leaf.shape[1] if "embedding" in name else leaf.shape[0]
            return jnp.asarray(noise * scale * rows**-0.5, jnp.float32)
        is_scale = "norm" in name and not model.config.unit_offset_norm
        return jnp.asarray(noise / 3 + is_scale, jnp.float32)

    return jax.tree_util.tree_map_with_path(fill, jax.eval_shape(init, jax.random.key(0)))
