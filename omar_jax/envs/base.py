"""What every environment and every player is: the contract between games and whoever plays them.

The life of a game: `reset(seed)` deals a state, `step(state, {})` opens the game, and from then on each step
gets the texts of exactly the seats it asked, tells everybody (`public`) and single seats (`private`) what
happened, and asks the next seats, until a step carries rewards.

States are frozen and all chance comes from the seed and the step's number, so a game replays exactly from its
seed and its actions, and resumes from any state.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ask:
    """A question to one seat.

    Attributes:
      cue: the question, seen by this seat alone and only while it answers.
      max_tokens: most tokens the answer may have.
      options: the answers allowed, or None for free text.
    """

    cue: str
    max_tokens: int
    options: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step of a game did.

    Attributes:
      state: the state after it.
      public: what everybody reads: lines parted by newlines, none at the end; "" if nothing.
      private: what single seats read after that, by seat.
      asks: who is to act next. All of them act at once, without hearing one another.
      rewards: each seat's reward when the game is over, None exactly as long as it is not.
      events: counts of what happened in this step, for metrics; summed over a game.
    """

    state: Any
    public: str = ""
    private: Mapping[int, str] = dataclasses.field(default_factory=dict)
    asks: Mapping[int, Ask] = dataclasses.field(default_factory=dict)
    rewards: Mapping[int, float] | None = None
    events: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Environment(Protocol):
    """A game for a fixed number of seats.

    Attributes:
      num_seats: how many play (P).
      role_names: every role that may occur, in a fixed order (for numbering).
      choices: every option that an ask of this environment may offer; empty if it asks for free text only.
      counts: what comparisons count for a seat: "wins" or "points"; see `result`.
    """

    num_seats: int
    role_names: tuple[str, ...]
    choices: tuple[str, ...]
    counts: str

    def reset(self, seed: int) -> Any:
        """Deals a new game; the same seed deals the same game."""
        ...

    def step(self, state: Any, actions: Mapping[int, str]) -> Step:
        """Plays the asked seats' texts. Raises ValueError if other seats act than were asked."""
        ...

    def roles(self, state: Any) -> tuple[str, ...]:
        """[P] each seat's role."""
        ...

    def names(self, state: Any) -> tuple[str, ...]:
        """[P] what the players of this game call one another."""
        ...

    def team(self, role: str) -> str:
        """The side a role wins with."""
        ...

    def result(self, role: str, reward: float, events: Mapping[str, float]) -> float:
        """What a finished game counts for a seat in comparisons: 1 if it was won and else 0, or its points."""
        ...

    def joint_result(self, events: Mapping[str, float]) -> float | None:
        """How well all seats did together, from 0 to 1; None where they play against one another."""
        ...


def sides(env: Environment) -> tuple[str, ...]:
    """The sides of a game: all teams, in the order of the roles."""
    return tuple(dict.fromkeys(env.team(role) for role in env.role_names))


class Player:
    """Somebody who answers asks: a script, a person, a model behind an endpoint.

    Attributes:
      at_once: how many answers it gives at the same time, from so many threads; above 1 for those that wait.
    """

    at_once: int = 1

    def act(
        self, env: Environment, state: Any, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """The seat's answer.

        Args:
          env: the game.
          state: as it is now; honest players read no more of it than the seat may know.
          seat: who is asked.
          ask: what.
          heard: everything that was said to all or to this seat, in order.
          rng: of this answer.
        """
        raise NotImplementedError
