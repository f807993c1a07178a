"""What training changes: parameters, optimizer state and the number of updates; and the optimizer that does it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from omar_jax.types import Params


class TrainState(NamedTuple):
    """Parameters and optimizer state after `step` updates."""

    params: Params
    optimizer: Any
    step: jax.Array  # scalar int32


class OptimizerSettings(NamedTuple):
    """AdamW with linear warmup, then a constant rate or a cosine down to `final_fraction` of it."""

    learning_rate: float
    warmup_steps: int
    max_gradient_norm: float
    weight_decay: float
    beta1: float = 0.9
    beta2: float = 0.99
    total_steps: int = 0  # 0: constant after warmup
    final_fraction: float = 0.1
    momentum_dtype: str = "float32"  # of the first moment; the second's small steps need float32


def learning_rate(settings: OptimizerSettings):
    """The schedule: step -> learning rate."""
    warmup = optax.linear_schedule(0.0, settings.learning_rate, max(settings.warmup_steps, 1))
    if not settings.total_steps:
        return optax.join_schedules([warmup, optax.constant_schedule(settings.learning_rate)], [settings.warmup_steps])
    decay = optax.cosine_decay_schedule(
        settings.learning_rate,
        max(settings.total_steps - settings.warmup_steps, 1),
        alpha=settings.final_fraction,
    )
    return optax.join_schedules([warmup, decay], [settings.warmup_steps])


def make_optimizer(settings: OptimizerSettings) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW (arXiv 1711.05101); norms and the value head are not decayed."""

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.ndim > 1 and "value_head" not in jax.tree_util.keystr(path), params
        )

    return optax.chain(
        optax.clip_by_global_norm(settings.max_gradient_norm),
        optax.adamw(
            learning_rate(settings),
            b1=settings.beta1,
            b2=settings.beta2,
            weight_decay=settings.weight_decay,
            mask=decayed,
            mu_dtype=settings.momentum_dtype,
        ),
    )


def create(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first update."""
    return TrainState(params, optimizer.init(params), jnp.int32(0))
