"""Cold start: supervised fine-tuning on given games, so that the policy speaks the game's language.

The life of a cold start: scripted players play games (`scripted_games`), the games are laid out exactly as
self-play's are, and the policy learns to say what the scripts said: cross-entropy on action tokens alone, over the
whole vocabulary, for it shall be fluent without legal decoding. The critic learns beside it how the games ended.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax.advantages import AdvantageSettings, compute
from omar_jax.envs.base import Player
from omar_jax.rollout import Game, Rollout, environment_seed
from omar_jax.train_state import TrainState
from omar_jax.types import Episode, GameBatch
from omar_jax.update import ActionOutputs, Learner, MinibatchPlan, Targets

RETURNS = AdvantageSettings(mode="return", gamma_turn=1.0)


def sft_loss(
    value_coefficient: float, outputs: ActionOutputs, batch: GameBatch, targets: Targets, num_tokens
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy of action tokens, plus the squared error of the critic; see `update.Loss`."""

    def share(x):
        return jnp.where(targets.mask, x, 0.0).sum() / num_tokens

    cross_entropy = share(-outputs.log_probs)
    value = share(0.5 * (outputs.values - targets.returns) ** 2)
    return cross_entropy + value_coefficient * value, {
        "cold_start/cross_entropy": cross_entropy,
        "cold_start/value_loss": value,
    }


def scripted_games(rollout: Rollout, player: Player, numbers: range, seed: int) -> list[Episode]:
    """The games with these numbers, every seat played by the scripted player."""

    def everybody(roles):
        return [player] * len(roles)

    games = [Game(number, environment_seed(seed, number), everybody) for number in numbers]
    return rollout.play(games, policies=[], key=jax.random.key(0))[0]


def train(
    rollout: Rollout,
    learner: Learner,
    state: TrainState,
    player: Player,
    plan: MinibatchPlan,
    num_games: int,
    seed: int,
    report: Callable[[int, dict[str, float]], None],
) -> TrainState:
    """Fine-tunes on `num_games` scripted games, each seen once; deterministic by seed.

    Args:
      rollout: of the environment, for the scripted games.
      learner: with `sft_loss`.
      state: to start from.
      player: who plays the games.
      plan: sizes of minibatches; its `games_at_once` are made and laid out together.
      num_games: how many games.
      seed: of games and order.
      report: told the number of games learned from, and metrics.
    """
    for first in range(0, num_games, plan.games_at_once):
        numbers = range(first, min(first + plan.games_at_once, num_games))
        episodes = scripted_games(rollout, player, numbers, seed)
        batch = plan.pack(episodes, rollout.env.role_names)
        # Every action token's critic target is how the game ended for its seat.
        returns = compute(batch, RETURNS, jnp.zeros(len(rollout.env.role_names)))
        targets = Targets(*map(np.asarray, (returns.advantages, returns.targets, returns.mask, batch.action_log_probs)))
        order = np.random.default_rng((seed, first))
        state, metrics = learner.update(state, plan.minibatches(episodes, batch, targets, order), 1.0)
        report(numbers.stop, metrics)
    return state
