"""The update: clipped PPO on games laid out as arrays, gradients accumulated over microbatches.

The life of a minibatch: each of its microbatches is read in one two-stream forward pass (`evaluate_actions`), the
PPO loss of its action tokens is summed and divided by the number of tokens of the whole minibatch, gradients are
added up, and the optimizer takes one step. Microbatches of several sizes thus weigh by their tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from omar_jax import layout, losses, sharding, train_state
from omar_jax.model.attention import two_stream
from omar_jax.model.decoder import Decoder
from omar_jax.model.lora import combine
from omar_jax.train_state import TrainState
from omar_jax.types import Episode, GameBatch, Params

# Vocabulary logits exist for so many action tokens at once, and are so many numbers at most (256 MiB).
TOKENS_AT_ONCE, LOGITS_AT_ONCE = 2048, 2**26


class PPOSettings(NamedTuple):
    """Coefficients of the PPO loss (arXiv 1707.06347)."""

    clip_low: float
    clip_high: float
    value_clip: float | None
    value_coefficient: float
    kl_coefficient: float
    entropy_coefficient: float


class Targets(NamedTuple):
    """What the update aims at, for every action token; all [N, X]."""

    advantages: Any  # float32, whitened
    returns: Any  # float32, what the critic should have said
    mask: Any  # bool: action tokens of kept turns
    reference_log_probs: Any  # float32, under the cold-start policy


class ActionOutputs(NamedTuple):
    """What a policy says about action tokens; all [N, X] float32."""

    log_probs: jax.Array
    entropy: jax.Array
    values: jax.Array


def evaluate_actions(model: Decoder, params: Params, batch: GameBatch, temperature) -> ActionOutputs:
    """Log-probability, entropy and value of every action token in one forward pass.

    Vocabulary logits exist for action tokens only, a chunk at a time, and are recomputed in the backward pass.
    """
    tokens = jnp.concatenate([batch.shared_tokens, batch.seat_tokens], axis=1)
    positions = jnp.concatenate([batch.shared_positions, batch.seat_positions], axis=1)
    hidden, _ = model.apply(params, tokens, positions, two_stream(model.config, batch, model.longest_dense))
    read_at = batch.shared_tokens.shape[1] + batch.action_index
    hidden = jnp.take_along_axis(hidden, read_at[..., None], axis=1)

    def score(operands):
        hidden, tokens, legal = operands
        logits = model.apply(params, hidden, method="logits")
        return losses.token_log_probs(logits, tokens, legal, temperature)

    operands = (hidden, batch.action_tokens, batch.legal_tokens)
    shape = batch.action_tokens.shape
    # A device's rows stay with it: [parts, rows of a part, ...], cut into chunks along the second axis.
    parts = sharding.num_game_parts(model.mesh)
    rows = shape[0] * shape[1] // parts
    at_once = max(min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // model.config.vocabulary), 1)
    if rows <= at_once:
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), operands)
        log_probs, entropy = score(flat)
    else:
        chunks = -(-rows // at_once)

        def cut(x):
            x = x.reshape(parts, rows, *x.shape[2:])
            x = jnp.pad(x, [(0, 0), (0, chunks * at_once - rows), *[(0, 0)] * (x.ndim - 2)])
            x = jnp.swapaxes(x.reshape(parts, chunks, at_once, *x.shape[2:]), 0, 1)
            return x.reshape(chunks, parts * at_once, *x.shape[3:])

        def joined(x):
            return jnp.swapaxes(x.reshape(chunks, parts, at_once), 0, 1).reshape(parts, -1)[:, :rows]

        scored = jax.lax.map(jax.checkpoint(score), jax.tree.map(cut, operands))
        log_probs, entropy = map(joined, scored)
    values = model.apply(params, hidden, method="value")
    return ActionOutputs(log_probs.reshape(shape), entropy.reshape(shape), values)


# (outputs, batch, targets, action tokens of the minibatch) -> (loss, metrics)
Loss = Callable[[ActionOutputs, GameBatch, Targets, Any], tuple[jax.Array, dict[str, jax.Array]]]


def ppo_loss(
    settings: PPOSettings, outputs: ActionOutputs, batch: GameBatch, targets: Targets, num_tokens
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The PPO loss of a microbatch as its share of a minibatch with `num_tokens` action tokens.

    Returns:
      The loss, and sums over the microbatch's action tokens divided by `num_tokens`, for metrics.
    """
    policy, clipped = losses.clipped_policy_loss(
        outputs.log_probs, batch.action_log_probs, targets.advantages, settings.clip_low, settings.clip_high
    )
    value = losses.clipped_value_loss(outputs.values, batch.action_values, targets.returns, settings.value_clip)
    kl = losses.kl_estimate(outputs.log_probs, targets.reference_log_probs)
    per_token = (
        policy
        + settings.value_coefficient * value
        + settings.kl_coefficient * kl
        - settings.entropy_coefficient * outputs.entropy
    )

    def share(x):
        return jnp.where(targets.mask, x, 0.0).sum() / num_tokens

    gap = jnp.abs(outputs.log_probs - batch.action_log_probs)
    metrics = {
        "loss/policy": share(policy),
        "loss/value": share(value),
        "policy/kl": share(kl),
        "policy/entropy": share(outputs.entropy),
        "policy/clip_fraction": share(clipped),
        "policy/log_prob_gap": share(gap),
    }
    return share(per_token), metrics


def explained_variance(batch: GameBatch, targets: Targets) -> float:
    """How much of the critic's targets its values at play explain: 1 all, 0 none, below 0 worse than their mean."""
    return float(_explained_variance(batch.action_values, targets.returns, targets.mask))


_explained_variance = jax.jit(losses.explained_variance)


@dataclasses.dataclass(frozen=True)
class MinibatchPlan:
    """How many games are laid out, stepped on and read at once.

    Attributes:
      games_at_once: games of one layout: an iteration's.
      minibatch_games: games of one optimizer step, about.
      microbatch_games: games of one forward and backward pass; divides `minibatch_games`.
      buckets: array sizes of microbatches, ascending; the last holds every game.
      legal_width: O of the batch.
    """

    games_at_once: int
    minibatch_games: int
    microbatch_games: int
    buckets: tuple[layout.Sizes, ...]
    legal_width: int

    def fitting(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The games that came to an end and fit the largest bucket; others train nothing."""
        return [e for e in episodes if e.rewards is not None and layout.sizes(e).fits(self.buckets[-1])]

    def pack(self, episodes: Sequence[Episode], role_names: Sequence[str]) -> GameBatch:
        """Lays `games_at_once` games out at the largest bucket's size; fewer are filled up with padding games."""
        batch = layout.pack(episodes, role_names, self.buckets[-1], self.legal_width)
        if len(episodes) == self.games_at_once:
            return batch
        return layout.crop(batch, range(len(episodes)), self.games_at_once, self.buckets[-1])

    def microbatches(
        self, episodes: Sequence[Episode], generator: np.random.Generator
    ) -> list[tuple[layout.Sizes, list[int]]]:
        """(room, game numbers) of an epoch's microbatches in random order."""
        game_sizes = [layout.sizes(episode) for episode in episodes]
        return layout.microbatches(game_sizes, self.buckets, self.microbatch_games, generator)

    def crop(self, arrays: Any, games: Sequence[int], room: layout.Sizes) -> Any:
        """The microbatch of these games of a batch (GameBatch or Targets)."""
        return layout.crop(arrays, games, self.microbatch_games, room)

    def steps(self, num_games: int) -> int:
        """Optimizer steps of an epoch of so many games."""
        return math.ceil(num_games / self.minibatch_games)

    def minibatches(
        self, episodes: Sequence[Episode], batch: GameBatch, targets: Targets, generator: np.random.Generator
    ) -> Iterator[list[tuple[GameBatch, Targets]]]:
        """One epoch: every game once, in minibatches that differ by a microbatch at most.

        Some microbatches are not full. Were minibatches filled with so many microbatches, those over would be another,
        small and noisy minibatch, whose step is as long as any other's.
        """
        order = self.microbatches(episodes, generator)
        steps = self.steps(len(episodes))
        for part in range(steps):
            yield [
                (self.crop(batch, games, room), self.crop(targets, games, room))
                for room, games in order[part * len(order) // steps : (part + 1) * len(order) // steps]
            ]


def nothing_to_learn(num_games: int, room: layout.Sizes) -> Targets:
    """Targets of padding games (numpy)."""
    size = (num_games, room.actions)
    return Targets(*(np.zeros(size, bool if name == "mask" else np.float32) for name in Targets._fields))


@dataclasses.dataclass(frozen=True)
class Learner:
    """The jitted calls of the update.

    Attributes:
      model: the decoder.
      loss: `ppo_loss` with its settings, or the cold start's.
      optimizer: from `train_state.make_optimizer`.
    """

    model: Decoder
    loss: Loss
    optimizer: optax.GradientTransformation

    def warm_up(self, reference: Params, params: Params, frozen: Params | None, plan: MinibatchPlan) -> None:
        """Compiles the passes over every bucket, so that no iteration waits for one."""
        for room in plan.buckets:
            batch = self.spread(layout.empty(plan.microbatch_games, room, plan.legal_width))
            self.log_probs(reference, batch, 1.0)
            targets = self.spread(nothing_to_learn(plan.microbatch_games, room))
            self.accumulate(self.zeros(params), params, frozen, batch, targets, 1.0, np.float32(1.0))

    def spread(self, arrays: Any) -> Any:
        """A microbatch (GameBatch or Targets, numpy), each game on the devices that compute with it."""
        return sharding.spread(arrays, self.model.mesh)

    def keep_split(self, tree: Any) -> Any:
        """Inside jit: parameters, gradients or a state, lying as the parameters of the mesh do."""
        return sharding.keep_split(tree, self.model.mesh, self.model.config.kv_heads)

    @functools.partial(jax.jit, static_argnums=0)
    def create(self, params: Params) -> TrainState:
        """The state before the first update."""
        return self.keep_split(train_state.create(params, self.optimizer))

    @functools.partial(jax.jit, static_argnums=0)
    def log_probs(self, params: Params, batch: GameBatch, temperature) -> jax.Array:
        """[N, X] log-probabilities of the action tokens: the reference policy's, for the KL penalty."""
        # Every process reads all of them.
        return sharding.split(evaluate_actions(self.model, params, batch, temperature).log_probs, self.model.mesh)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def accumulate(self, gradients, params, frozen, batch, targets, temperature, num_tokens):
        """Adds a microbatch's gradients to the (donated) `gradients`. -> (gradients, metrics)."""

        def loss(params):
            outputs = evaluate_actions(self.model, combine(params, frozen), batch, temperature)
            return self.loss(outputs, batch, targets, num_tokens)

        (_, metrics), new = jax.value_and_grad(loss, has_aux=True)(params)
        return self.keep_split(jax.tree.map(jnp.add, gradients, new)), metrics

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def apply(self, state: TrainState, gradients) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimizer step; the state is donated."""
        updates, optimizer = self.optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        state = self.keep_split(TrainState(params, optimizer, state.step + 1))
        return state, {"optimizer/gradient_norm": optax.global_norm(gradients)}

    @functools.partial(jax.jit, static_argnums=0)
    def zeros(self, params: Params) -> Params:
        """Gradients of nothing."""
        return self.keep_split(jax.tree.map(jnp.zeros_like, params))

    def reference_log_probs(
        self, params: Params, plan: MinibatchPlan, episodes: Sequence[Episode], batch: GameBatch, temperature
    ) -> np.ndarray:
        """[N, X] log-probabilities of a whole batch's action tokens, microbatch by microbatch."""
        log_probs = np.zeros(batch.action_tokens.shape, np.float32)
        waiting = []
        for room, games in plan.microbatches(episodes, np.random.default_rng(0)):
            microbatch = self.spread(plan.crop(batch, games, room))
            waiting.append((games, self.log_probs(params, microbatch, temperature)))
        for games, found in waiting:
            log_probs[np.asarray(games), : found.shape[1]] = np.asarray(found)[: len(games)]
        return log_probs

    def minibatch(
        self,
        state: TrainState,
        microbatches: Sequence[tuple[GameBatch, Targets]],
        temperature,
        frozen: Params | None = None,
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """One optimizer step on a minibatch given as microbatches. -> (state, metrics)."""
        num_tokens = np.float32(max(sum(int(targets.mask.sum()) for _, targets in microbatches), 1))
        gradients = self.zeros(state.params)
        totals: dict[str, Any] = {}
        for batch, targets in map(self.spread, microbatches):
            gradients, metrics = self.accumulate(
                gradients, state.params, frozen, batch, targets, temperature, num_tokens
            )
            totals = {name: totals.get(name, 0.0) + value for name, value in metrics.items()}
        state, metrics = self.apply(state, gradients)
        return state, totals | metrics

    def update(
        self,
        state: TrainState,
        minibatches: Iterable[Sequence[tuple[GameBatch, Targets]]],
        temperature,
        frozen: Params | None = None,
    ) -> tuple[TrainState, dict[str, float]]:
        """One optimizer step a minibatch. -> (state, metrics averaged over minibatches).

        `frozen` are the parameters beside `state.params` that are not trained, if there are any (`model.lora`).

        "policy/log_prob_gap", between the sampler's and the trainer's log-probabilities, is the first minibatch's
        alone: there the parameters are still those that sampled.
        """
        history = []
        for microbatches in minibatches:
            state, metrics = self.minibatch(state, microbatches, temperature, frozen)
            history.append(metrics)
        history = jax.device_get(history)
        means = {name: float(np.mean([metrics[name] for metrics in history])) for name in history[0]}
        first = {name: float(history[0][name]) for name in ("policy/log_prob_gap",) if name in means}
        return state, means | first
