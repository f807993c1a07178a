"""Cold start: supervised fine-tuning on given games, so that the policy speaks the game's language.

The life of a cold start: games that scripts play or that a file holds (`given_games`) are laid out exactly as
self-play's are, and the policy learns to say what was said: cross-entropy on action tokens alone, over the whole
vocabulary, for it shall be fluent without legal decoding. The critic learns beside it how the games ended.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax.advantages import AdvantageSettings, compute
from omar_jax.settings import SettingError
from omar_jax.train_state import TrainState
from omar_jax.types import Episode, GameBatch, Params
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


def train(
    given: Callable[[range], list[Episode]],
    learner: Learner,
    state: TrainState,
    role_names: Sequence[str],
    plan: MinibatchPlan,
    num_games: int,
    seed: int,
    report: Callable[[int, dict[str, float]], None],
    frozen: Params | None = None,
) -> TrainState:
    """Fine-tunes on given games 0 to `num_games`; deterministic by seed.

    Args:
      given: the games with these numbers.
      learner: with `sft_loss`.
      state: to start from.
      role_names: of the environment.
      plan: sizes of minibatches; its `games_at_once` are made and laid out together.
      num_games: how many games.
      seed: of the order of minibatches.
      report: told the number of games learned from, and metrics.
      frozen: parameters beside `state.params` that are not trained, if there are any.
    """
    for first in range(0, num_games, plan.games_at_once):
        numbers = range(first, min(first + plan.games_at_once, num_games))
        episodes = plan.fitting(given(numbers))
        if not episodes:
            raise SettingError(
                f"none of {len(numbers)} given games fits config.play.transcript_tokens and config.layout.buckets: "
                "larger ones, or a smaller config.environment.speech_tokens"
            )
        batch = plan.pack(episodes, role_names)
        # Every action token's critic target is how the game ended for its seat.
        returns = compute(batch, RETURNS, jnp.zeros(len(role_names)))
        targets = Targets(*map(np.asarray, (returns.advantages, returns.targets, returns.mask, batch.action_log_probs)))
        order = np.random.default_rng((seed, first))
        state, metrics = learner.update(state, plan.minibatches(episodes, batch, targets, order), 1.0, frozen)
        report(numbers.stop, metrics)
    return state
