"""Who sits opposite the learner: usually the learner itself; as settings say, its own past or a script.

The life of an opponent: every so many iterations the learner's parameters enter a pool, which checkpoints hold; before
an iteration one of the pool is drawn, and for each of its games whether it plays and on which side. Only the learner's
turns train. All draws depend on the run's seed and the iteration, so that a continued run draws the same.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax.envs.base import Environment, Player, sides
from omar_jax.tables import Game, environment_seed
from omar_jax.types import Params

LEARNER, PAST = 0, 1  # numbers of the policies


@dataclasses.dataclass(frozen=True)
class Opponents:
    """How games are shared out.

    Attributes:
      env: the game.
      seed: the run's.
      past: how likely one side of a game is played by a past policy; 0: never, and there is no pool.
      every: iterations between entries into the pool.
      pool: how many past policies there are; the oldest makes room for the newest.
      player: a script that always plays `side`; None: there is none.
      side: of `player`.
    """

    env: Environment
    seed: int
    past: float
    every: int
    pool: int
    player: Player | None
    side: str

    def start(self, params: Params) -> dict[str, Any]:
        """What a run's checkpoints hold of the pool, as it begins: its first policies are the one it starts from."""
        if not self.past:
            return {}
        copies = [jax.tree.map(jnp.copy, params) for _ in range(self.pool)]
        return {"pool": {"policies": copies, "iterations": np.zeros(self.pool, np.int32)}}

    def grown(self, moving: Mapping[str, Any], iterations_done: int, params: Params) -> dict[str, Any]:
        """The pool after an iteration."""
        if not self.past:
            return {}
        pool = moving["pool"]
        if iterations_done % self.every == 0:
            iterations, policies = np.array(pool["iterations"]), list(pool["policies"])
            oldest = int(iterations.argmin())
            # The optimizer gives its arrays away at every step.
            iterations[oldest], policies[oldest] = iterations_done, jax.tree.map(jnp.copy, params)
            pool = {"policies": policies, "iterations": iterations}
        return {"pool": pool}

    def drawn(self, moving: Mapping[str, Any], iteration: int) -> list[Params]:
        """The past policy of an iteration's games, if one may play."""
        if not self.past:
            return []
        return [moving["pool"]["policies"][int(self._rng(iteration).integers(self.pool))]]

    def games(self, numbers: Sequence[int], iteration: int) -> list[Game]:
        """An iteration's games; the learner is policy 0, the one `drawn` policy 1."""
        known, rng = sides(self.env), self._rng(iteration, 1)
        past_sides = [known[rng.integers(len(known))] if rng.random() < self.past else None for _ in numbers]
        return [self._game(number, past) for number, past in zip(numbers, past_sides, strict=True)]

    def lessons(self, numbers: Sequence[int], teacher: Player) -> list[Game]:
        """Games to learn from before training: the teacher plays what the learner is going to play."""
        return [self._game(number, None, teacher) for number in numbers]

    def _game(self, number: int, past: str | None, learner: int | Player = LEARNER) -> Game:
        def is_scripts(role):
            return self.player is not None and self.env.team(role) == self.side

        def is_learners(role):
            return not is_scripts(role) and self.env.team(role) != past

        def players(roles):
            return [learner if is_learners(role) else self.player if is_scripts(role) else PAST for role in roles]

        def learns(roles):
            return tuple(map(is_learners, roles))

        return Game(number, environment_seed(self.seed, number), players, learns)

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, len(purpose), *purpose))
