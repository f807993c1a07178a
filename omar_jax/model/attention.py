"""Who sees whom: the visibility rules of the shared-transcript layout, and attention under them.

Training lays a game out as one shared stream and one packed row of seat streams (`layout`); `two_stream` attends
over both, the shared keys being projected once for all who listen:

                 shared keys [T]          seat keys [R]
    shared [T]   earlier or same index    nothing
    seat   [R]   earlier clock            own seat, earlier or same index, persistent or the same turn

Playing keeps one cache a game with an owner for every token (`model.cache`): all that is in it is past, so a turn
sees what is shared and what belongs to its seat.

Sliding windows count positions: a token sees those less than `window` positions back, itself included.

Short games are attended to with whole masks, one for each stream (`shared_visible`, `seat_visible`). In long ones
both streams are one, seat tokens after shared ones, and the same rules are asked of a block of queries and a block
of keys at a time (`sees`, `model.long_attention`).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from omar_jax.model.config import DecoderConfig
from omar_jax.model.long_attention import MASKED, attend_blocks, plan
from omar_jax.model.matmul import product, turned
from omar_jax.types import GameBatch

# Games of more tokens, T + R, are attended to in blocks. A training step of one game of 1408, 2432, 4864 and 9600
# tokens takes 0.13, 0.29, 1.41 and 5.0 s with whole masks and 0.12, 0.22, 0.69 and 2.5 s in blocks (embedded model,
# 2-core CPU); its memory grows from 0.9 to 13.7 GiB, against 0.8 to 1.4 GiB. Below, the gain is small, and the
# rounding is that of the runs in docs/results.md.
LONGEST_DENSE = 2048

EVERYBODY = -2  # owner of shared tokens: no seat, and not padding


def within(query_positions, key_positions, window: int | None):
    """[..., Q, S] bool: the key is inside the query's sliding window."""
    if window is None:
        return True
    return query_positions[..., :, None] - key_positions[..., None, :] < window


@jax.custom_vjp
def attend_visible(query, key, value, visible):
    """Softmax attention that keeps nothing of size [Q, S] for its gradient.

    Args:
      query: [N, Q, K, G, h], already scaled; G query heads share a key head.
      key, value: [N, S, K, h].
      visible: [N, Q, S] bool, True where the query sees the key.

    Returns:
      [N, Q, K, G, h]. The backward pass recomputes the weights from the saved log-sum-exp
      (FlashAttention's recomputation, arXiv 2205.14135, without its tiling).
    """
    return _attend_forward(query, key, value, visible)[0]


def _heads_first(x):
    """[N, Q, K, G, h] -> [N, K, G * Q, h]: one large matrix a key head, the layout CPU and TPU multiply fastest."""
    n, q, k, g, h = x.shape
    return x.transpose(0, 2, 3, 1, 4).reshape(n, k, g * q, h)


def _heads_last(x, groups):
    """[N, K, G * Q, h] -> [N, Q, K, G, h]: undoes `_heads_first`."""
    n, k, rows, h = x.shape
    return x.reshape(n, k, groups, rows // groups, h).transpose(0, 3, 1, 2, 4)


def _scores(query, key, visible):
    """query [N, K, G*Q, h], key [N, S, K, h], visible [N, Q, S] -> float32 scores [N, K, G*Q, S]."""
    groups = query.shape[2] // visible.shape[1]
    scores = product(query, key.transpose(0, 2, 3, 1))
    grouped = scores.reshape(*scores.shape[:2], groups, *visible.shape[1:])
    return jnp.where(visible[:, None, None], grouped, MASKED).reshape(scores.shape)


def _attend_forward(query, key, value, visible):
    groups, rows = query.shape[3], _heads_first(query)
    scores = _scores(rows, key, visible)
    top = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    out = product(weights.astype(value.dtype), value.transpose(0, 2, 1, 3)) / total
    out = out.astype(query.dtype)
    return _heads_last(out, groups), (query, key, value, visible, out, top + jnp.log(total))


def _attend_backward(saved, gradient):
    query, key, value, visible, out, log_total = saved
    groups, rows = query.shape[3], _heads_first(query)
    gradient = _heads_first(gradient)
    weights = jnp.exp(_scores(rows, key, visible) - log_total)
    value_gradient = product(turned(gradient), weights.astype(gradient.dtype))
    weights_gradient = product(gradient, value.transpose(0, 2, 3, 1))
    row_gradient = (gradient * out).sum(axis=-1, keepdims=True)
    scores_gradient = (weights * (weights_gradient - row_gradient)).astype(query.dtype)
    query_gradient = product(scores_gradient, key.transpose(0, 2, 1, 3))
    key_gradient = product(turned(rows), scores_gradient)
    to_key = (0, 3, 1, 2)
    return (
        _heads_last(query_gradient.astype(query.dtype), groups),
        key_gradient.astype(key.dtype).transpose(to_key),
        value_gradient.astype(value.dtype).transpose(to_key),
        None,
    )


attend_visible.defvjp(_attend_forward, _attend_backward)


def causal(config: DecoderConfig, positions: jax.Array) -> Callable:
    """Ordinary causal attention over one stream with positions [..., L]."""

    index = jnp.arange(positions.shape[-1])
    earlier = index[None, :] <= index[:, None]

    def attend(layer, query, key, value):
        visible = earlier & within(positions, positions, config.window(layer))
        visible = jnp.broadcast_to(visible, (len(query), *earlier.shape))
        return attend_visible(query, key, value, visible), None

    return attend


def shared_visible(batch: GameBatch, window: int | None) -> jax.Array:
    """[..., T, T] bool: shared token (row) sees shared token (column)."""
    index = jnp.arange(batch.shared_tokens.shape[-1])
    earlier = index[None, :] <= index[:, None]
    earlier = jnp.broadcast_to(earlier, (*batch.shared_tokens.shape, len(index)))
    return earlier & within(batch.shared_positions, batch.shared_positions, window)


def seat_visible(batch: GameBatch, window: int | None) -> jax.Array:
    """[..., R, T + R] bool: seat token (row) sees shared token, then seat token (columns)."""
    cross = batch.shared_clock[..., None, :] < batch.seat_clock[..., :, None]
    cross &= within(batch.seat_positions, batch.shared_positions, window)
    index = jnp.arange(batch.seat_tokens.shape[-1])
    own = index[None, :] <= index[:, None]
    own &= batch.seat_owner[..., :, None] == batch.seat_owner[..., None, :]
    branch = batch.seat_branch
    own &= (branch[..., None, :] == 0) | (branch[..., :, None] == branch[..., None, :])
    own &= within(batch.seat_positions, batch.seat_positions, window)
    return jnp.concatenate([cross, own], axis=-1)


class Tokens(NamedTuple):
    """What `sees` reads of the tokens of [shared | seat]; all [N, T + R] int32."""

    position: jax.Array
    clock: jax.Array
    owner: jax.Array  # seat, EVERYBODY, or PADDING beyond the seats' last token
    branch: jax.Array  # 0 of shared tokens


def tokens_of(batch: GameBatch) -> Tokens:
    """Both streams as one."""

    def both(shared, seat):
        return jnp.concatenate([jnp.asarray(shared), seat], axis=1)

    return Tokens(
        both(batch.shared_positions, batch.seat_positions),
        both(batch.shared_clock, batch.seat_clock),
        both(jnp.full_like(batch.shared_clock, EVERYBODY), batch.seat_owner),
        both(jnp.zeros_like(batch.shared_clock), batch.seat_branch),
    )


def sees(window: int | None, query: Tokens, key: Tokens) -> jax.Array:
    """[..., Q, S] bool: the query sees the key if that is not a later one in [shared | seat].

    The table above in one line for both streams: the shared stream is an owner like a seat, whose tokens are all
    persistent, and what it says is heard by later clocks.
    """
    persists = (key.branch == 0)[..., None, :]
    own = query.owner[..., :, None] == key.owner[..., None, :]
    own &= persists | (query.branch[..., :, None] == key.branch[..., None, :])
    cross = (key.owner == EVERYBODY)[..., None, :] & (key.clock[..., None, :] < query.clock[..., :, None])
    return (own | cross) & within(query.position, key.position, window)


def two_stream(config: DecoderConfig, batch: GameBatch, longest_dense: int | None = None) -> Callable:
    """Attention over [shared | seat] tokens concatenated along the token axis, [N, T + R].

    Longer games than `longest_dense` tokens (None: `LONGEST_DENSE`) are attended to in blocks.
    """
    longest = LONGEST_DENSE if longest_dense is None else longest_dense
    if batch.shared_tokens.shape[-1] + batch.seat_tokens.shape[-1] > longest:
        return _two_stream_in_blocks(config, batch)
    num_shared = batch.shared_tokens.shape[-1]
    visible = {
        window: (shared_visible(batch, window), seat_visible(batch, window))
        for window in {config.window(layer) for layer in range(config.layers)}
    }

    def attend(layer, query, key, value):
        sees_shared, sees_seat = visible[config.window(layer)]
        shared = attend_visible(query[:, :num_shared], key[:, :num_shared], value[:, :num_shared], sees_shared)
        seats = attend_visible(query[:, num_shared:], key, value, sees_seat)
        return jnp.concatenate([shared, seats], axis=1), None

    return attend


def _two_stream_in_blocks(config: DecoderConfig, batch: GameBatch) -> Callable:
    """`two_stream` for games whose masks would not fit into memory."""
    tokens = tokens_of(batch)
    rules = {window: partial(sees, window) for window in {config.window(layer) for layer in range(config.layers)}}
    plans = {window: plan(rule, tokens) for window, rule in rules.items()}

    def attend(layer, query, key, value):
        window = config.window(layer)
        return attend_blocks(rules[window], query, key, value, plans[window]), None

    return attend
