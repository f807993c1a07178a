"""An iteration without its model: which programs play and update call, how often, and for how many tokens.

The life of a rehearsed game: the environment, the chat and the rollout are the run's own, only the sampler is a
stand-in that computes nothing. What it says is what scripted players said in the same game, for a policy that learned
from their games. For any other, choices are drawn at random and every speech takes all the tokens it may take: then
what the rehearsal counts is an upper bound of what games of so many rounds cost. Finished games go through the run's
own layout into microbatches.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from omar_jax import layout
from omar_jax.envs.base import Player
from omar_jax.rollout import Rollout
from omar_jax.sampler import Ask, Shapes, Spoken
from omar_jax.tables import Game, environment_seed
from omar_jax.text.chat import Chat
from omar_jax.types import PADDING, Episode, Params
from omar_jax.update import MinibatchPlan

# What speeches are made of; any words do, as long as nobody is named or accused.
WORDS = "and then we all looked at one another for a while "


@dataclasses.dataclass(frozen=True, order=True)
class Extend:
    """A call of `Sampler.extend`."""

    games: int
    room: int


@dataclasses.dataclass(frozen=True, order=True)
class Decode:
    """A call of `Sampler.decode`."""

    games: int
    room: int
    asked: int


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """What an iteration calls.

    Attributes:
      extends: calls by shape.
      decodes: calls by shape.
      steps: tokens that `decode` samples one after another, by shape and summed over its calls: its loop's iterations.
      microbatches: of one epoch, by their sizes.
      games: played.
      fitting: of them, those that the layout holds.
      tokens: of the fitting games' streams, without padding.
      actions: of the fitting games' tokens those that were sampled.
      heard: tokens that went into the cache, all games together, without padding.
      spoken: tokens of cues and actions, likewise.
    """

    extends: Counter[Extend]
    decodes: Counter[Decode]
    steps: Counter[Decode]
    microbatches: Counter[layout.Sizes]
    games: int
    fitting: int
    tokens: int
    actions: int
    heard: int
    spoken: int


class _Room(NamedTuple):
    """In place of a cache: its sizes."""

    games: int
    room: int


class _NoModel:
    """In place of a `Sampler`: notes what it is asked for and answers without a model.

    `script`, the same games played before, says what is said; where it is empty, chance does.
    """

    def __init__(self, chat: Chat, shapes: Shapes, script: Sequence[Episode]):
        self.shapes = shapes
        self._script = script
        self.ends = chat.ends
        self._speech = np.asarray(chat.action(WORDS * shapes.action)[: shapes.action], np.int32)
        self.extends: Counter[Extend] = Counter()
        self.decodes: Counter[Decode] = Counter()
        self.steps: Counter[Decode] = Counter()
        self.heard = self.spoken = 0

    def empty(self, num_games: int) -> _Room:
        return _Room(num_games, self.shapes.transcript[0])

    def grow(self, cache: _Room, room: int) -> _Room:
        return cache._replace(room=room)

    def take(self, cache: _Room, games: np.ndarray) -> _Room:
        return cache._replace(games=len(games))

    def extend(self, params: Params, cache: _Room, piece) -> _Room:
        del params
        self.extends[Extend(cache.games, cache.room)] += 1
        self.heard += int(piece.count.sum())
        return cache

    def decode(self, params: Params, cache: _Room, ask: Ask, key, temperature) -> Spoken:
        del params, key, temperature
        shape = ask.seat.shape
        spoken = Spoken(
            tokens=np.zeros((*shape, self.shapes.action), np.int32),
            log_probs=np.zeros((*shape, self.shapes.action), np.float32),
            values=np.zeros((*shape, self.shapes.action), np.float32),
            count=np.zeros(shape, np.int32),
        )
        for at in zip(*np.nonzero(ask.limit), strict=True):
            says = self._scripted(ask, at) if self._script else self._by_chance(ask, at)
            spoken.tokens[at][: len(says)] = says
            spoken.count[at] = len(says)
        call = Decode(cache.games, cache.room, shape[1])
        self.decodes[call] += 1
        self.steps[call] += int(spoken.count.max())
        self.spoken += int(spoken.count.sum() + ask.cue_count[ask.limit > 0].sum())
        return spoken

    def _scripted(self, ask: Ask, at: tuple[int, int]) -> Sequence[int]:
        step, seat = divmod(int(ask.turn[at]), len(self._script[0].roles))
        return self._script[ask.game[at[0]]].steps[step].turns[seat].action[: ask.limit[at]]

    def _by_chance(self, ask: Ask, at: tuple[int, int]) -> Sequence[int]:
        """A random walk along the choice table, or the longest speech."""
        if not ask.legal[at]:
            return self._speech[: ask.limit[at]]
        rng = np.random.default_rng((int(ask.game[at[0]]), int(ask.turn[at])))
        says, node = [], 0
        while len(says) < ask.limit[at] and not (says and says[-1] in self.ends):
            allowed = ask.legal_tokens[at][node]
            branch = rng.integers((allowed != PADDING).sum())
            says.append(int(allowed[branch]))
            node = ask.legal_next[at][node][branch]
        return says


def rehearse(rollout: Rollout, plan: MinibatchPlan, seed: int, player: Player | None) -> Rehearsal:
    """Plays and lays out an iteration's games without a model; deterministic by seed.

    Args:
      rollout: the run's; its sampler is not called.
      plan: the run's.
      seed: of the deals.
      player: who says what; None for chance.
    """

    def games(player):
        return [
            Game(number, environment_seed(seed, number), lambda dealt: [player] * len(dealt))
            for number in range(plan.games_at_once)
        ]

    def play(player, policies, script):
        sampler = _NoModel(rollout.chat, rollout.sampler.shapes, script)
        return sampler, rollout.spoken_by(sampler, lanes=1).play(games(player), policies, jax.random.key(0))[0]

    script = play(player, [], ())[1] if player else ()
    sampler, episodes = play(0, [{}], script)
    fitting = plan.fitting(episodes)
    found = [layout.sizes(episode) for episode in fitting]
    order = plan.microbatches(fitting, np.random.default_rng(0)) if fitting else []
    return Rehearsal(
        extends=sampler.extends,
        decodes=sampler.decodes,
        steps=sampler.steps,
        microbatches=Counter(room for room, _ in order),
        games=len(episodes),
        fitting=len(fitting),
        tokens=sum(size.shared + size.seat for size in found),
        actions=sum(size.actions for size in found),
        heard=sampler.heard,
        spoken=sampler.spoken,
    )
