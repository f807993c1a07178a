"""A game in progress: who sits at the table, how the environment stands, and what was said so far.

The life of a game: `Table` opens it with its environment; every step's texts go to the transcript and to the `Ear` of
each policy, which turns them into tokens of its model and keeps those that its cache has yet to be written; turns go
to the environment, which answers with the next step. In the end the table makes the `Episode`.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from omar_jax import layout
from omar_jax.envs.base import Ask as EnvironmentAsk
from omar_jax.envs.base import Environment, Player, Step
from omar_jax.model import cache as kv
from omar_jax.text.chat import Chat
from omar_jax.types import Episode, RolloutStep, Turn


@dataclasses.dataclass(frozen=True)
class Game:
    """A game to be played: its number, its environment's seed, and who sits where.

    Attributes:
      game: names the game's random numbers.
      seed: the environment's seed.
      players: [P] a policy's number or a scripted player; a function of the dealt roles where seats are
        given by role.
      learns: [P] whether a seat's turns train, likewise; empty for all.
    """

    game: int
    seed: int
    players: Callable[[tuple[str, ...]], Sequence[int | Player]]
    learns: Callable[[tuple[str, ...]], tuple[bool, ...]] = lambda roles: ()


def environment_seed(seed: int, game: int) -> int:
    """The environment's seed of a numbered game of a run."""
    return int(np.random.SeedSequence((seed, game)).generate_state(1)[0])


class Ear:
    """What a policy has heard of a game so far, as tokens of its model."""

    def __init__(self, chat: Chat, card_in_cue: bool):
        self.chat, self.card_in_cue = chat, card_in_cue
        self.steps: list[RolloutStep] = []
        self.told: dict[int, tuple[int, ...]] = {}  # a seat's private tokens, where they stand in cues
        self.position = 0  # where the next step's public tokens go
        self.length = 0  # tokens in the cache once all pending ones are written
        self.pending: list[tuple[int, int, int]] = []  # (token, owner, position) not yet in the cache

    def hear(self, now: Step) -> None:
        """Takes in what the environment says after a step."""
        public = self.chat.event(now.public)
        if not self.steps:
            public = self.chat.opening + public
        private = {seat: self.chat.event(text) for seat, text in now.private.items() if text}
        if self.card_in_cue:
            for seat, tokens in private.items():
                self.told[seat] = self.told.get(seat, ()) + tokens
            private = {}
        self.steps.append(RolloutStep(public=public, private=private))
        where = layout.place(self.position, public, private)
        self.pending += zip(public, [kv.SHARED] * len(public), range(where.public, where.private), strict=False)
        for seat, tokens in private.items():
            self.pending += [(token, seat, where.private + i) for i, token in enumerate(tokens)]
        self.length += len(public) + sum(map(len, private.values()))
        self.position = where.next

    def cue(self, seat: int, ask: EnvironmentAsk) -> tuple[int, ...]:
        """The tokens of a question to a seat."""
        return self.told.get(seat, ()) + self.chat.cue(ask.cue)

    def given(self, seat: int, ask: EnvironmentAsk, text: str) -> Turn:
        """A turn that this policy did not sample."""
        action = self.chat.action(text)
        nothing = np.zeros(len(action), np.float32)
        return Turn(self.cue(seat, ask), action, nothing, nothing, text=text)


class Table:
    """A game in progress: its environment's state, everything said so far, and the ears of all policies.

    The first ear's tokens are those of the episode.
    """

    def __init__(self, spec: Game, env: Environment, ears: list[Ear]):
        self.spec, self.env, self.ears = spec, env, ears
        state = env.reset(spec.seed)
        self.roles, self.names = tuple(env.roles(state)), tuple(env.names(state))
        self.players = tuple(spec.players(self.roles))
        self.transcript: list[tuple[str, str]] = []
        self.events: Counter = Counter()
        self.cut = False
        self.hear(env.step(state, {}))

    @property
    def over(self) -> bool:
        """Whether it has ended, or was cut off."""
        return self.now.rewards is not None or self.cut

    def hear(self, now: Step) -> None:
        """Takes in what the environment says after a step."""
        self.now = now
        self.events.update(now.events)
        self.transcript += [("public", now.public)] if now.public else []
        self.transcript += [(self.names[seat], text) for seat, text in now.private.items() if text]
        for ear in self.ears:
            ear.hear(now)

    def act(self, turns: dict[int, Turn]) -> None:
        """All asked seats have spoken: the environment goes on."""
        steps = self.ears[0].steps
        steps[-1] = dataclasses.replace(steps[-1], turns=turns)
        self.transcript += [(f"{self.names[seat]}'s turn", turn.text) for seat, turn in turns.items()]
        self.hear(self.env.step(self.now.state, {seat: turn.text for seat, turn in turns.items()}))

    def answer(self, seat: int, turn_number: int) -> str:
        """What the player of a seat says that no policy plays."""
        rng = np.random.default_rng((self.spec.seed, self.spec.game, turn_number, seat))
        heard = [text for who, text in self.transcript if who in ("public", self.names[seat])]
        return self.players[seat].act(self.env, self.now.state, seat, self.now.asks[seat], heard, rng)

    def episode(self) -> Episode:
        """The game as a record; without rewards if it was cut off."""
        rewards = self.now.rewards
        return Episode(
            game=self.spec.game,
            seed=self.spec.seed,
            steps=tuple(self.ears[0].steps),
            transcript=tuple(self.transcript),
            rewards=None if rewards is None else tuple(rewards[seat] for seat in range(self.env.num_seats)),
            roles=self.roles,
            events=dict(self.events),
            learns=self.spec.learns(self.roles),
            names=self.names,
        )
