"""The conversation that all sides of a comparison hold: who speaks when, and how many tokens; words do not matter.

A `Plan` is a list of rounds. In a round some seats speak at once, each its own turn after a cue of its own; then
everybody is told what was said, and who said it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from omar_jax.types import Episode, RolloutStep, Turn


class Round(NamedTuple):
    """Seats that speak at once; `action` tokens each; `told` tokens that all hear afterwards."""

    asked: tuple[int, ...]
    action: int
    told: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """A conversation.

    Attributes:
      seats: how many listen.
      opening: tokens that all are told first.
      card: tokens that each seat is told for itself alone.
      cue: tokens of a question.
      rounds: what follows.
    """

    seats: int
    opening: int
    card: int
    cue: int
    rounds: tuple[Round, ...]

    @property
    def spoken(self) -> int:
        """Tokens that are generated."""
        return sum(len(r.asked) * r.action for r in self.rounds)

    @property
    def shared(self) -> int:
        """Tokens that all have heard in the end."""
        return self.opening + sum(r.told for r in self.rounds)

    @property
    def asked(self) -> tuple[int, ...]:
        """How many seats may be asked at once."""
        return tuple(sorted({len(r.asked) for r in self.rounds}))

    def seen(self, until: int) -> int:
        """Tokens in a seat's prompt before round `until`: what all heard, and its card."""
        return self.opening + self.card + sum(r.told for r in self.rounds[:until])


def werewolf(seats: int, tokens: int) -> Plan:
    """Days like Werewolf's until so many tokens were heard: all speak in turn, then all vote at once."""
    rounds, heard = [], 64
    while heard < tokens:
        day = [Round((seat,), action=32, told=34) for seat in range(seats)]
        day.append(Round(tuple(range(seats)), action=3, told=4 * seats))
        for each in day:
            heard += each.told
            if heard > tokens:
                return Plan(seats, opening=64, card=24, cue=12, rounds=tuple(rounds))
            rounds.append(each)
    return Plan(seats, opening=64, card=24, cue=12, rounds=tuple(rounds))


def dialogue(turns: int, action: int) -> Plan:
    """Two who speak in turn."""
    rounds = tuple(Round((turn % 2,), action, told=action + 2) for turn in range(turns))
    return Plan(seats=2, opening=16, card=16, cue=4, rounds=rounds)


def in_turn(seats: int, turns: int, action: int = 32) -> Plan:
    """So many turns, seat after seat."""
    rounds = tuple(Round((turn % seats,), action, told=action + 2) for turn in range(turns))
    return Plan(seats, opening=64, card=24, cue=12, rounds=rounds)


def episode(plan: Plan, vocabulary: int, seed: int) -> Episode:
    """A game of random tokens that went by the plan, as the update gets it."""
    rng = np.random.default_rng(seed)

    def ids(count):
        return tuple(rng.integers(1, vocabulary, count).tolist())

    def turn(action):
        return Turn(ids(plan.cue), ids(action), np.full(action, -np.log(vocabulary)), np.zeros(action))

    heard, private, steps = ids(plan.opening), {seat: ids(plan.card) for seat in range(plan.seats)}, []
    for asked, action, told in plan.rounds:
        steps.append(RolloutStep(heard, private, {seat: turn(action) for seat in asked}))
        heard, private = ids(told), {}
    rewards = tuple(float(seat % 2) for seat in range(plan.seats))
    steps.append(RolloutStep(heard))
    return Episode(0, 0, tuple(steps), (), rewards, ("player",) * plan.seats, {})
