"""Attention over long streams: no mask and no scores of a whole stream are ever in memory, only those of a block.

The life of a block of queries: a stream of L tokens is cut into blocks; `plan` finds, once for all layers, the pairs
of blocks in which any query sees any key, and `attend_blocks` visits those pairs alone, one after another. At each it
works out from the tokens who sees whom, and adds what is seen to the running softmax of the queries. The gradients
visit the same pairs again and recompute the weights from the saved log-sum-exp (FlashAttention, arXiv 2205.14135,
algorithms 1 and 4; here in XLA's operations, for any device).

      key block   0  1  2  3      * is visited. A causal stream leaves out what is above the diagonal, sliding
    query block 0 *               windows what is far below it, and a seat what other seats were told and what is
                1 *  *            said after it spoke.
                2 *  *  *
                3    *     *

A pair is visited if any game of the batch needs it. Games that are split over devices agree on the pairs in `plan`
and attend without another word.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from omar_jax.model.matmul import product, turned

MASKED = -1e30  # finite, so that a row that sees nothing (padding) gives numbers and not NaN
# Tokens of a block. Attention with gradients over 18,432 tokens (4 heads of 24, 2-core CPU) takes 2.7, 2.5, 1.9, 3.4
# and 7.0 s in blocks of 64, 128, 256, 512 and 1024.
BLOCK = 256

# (query tokens, key tokens), pytrees of [N, Q] and [N, S] -> [N, Q, S] bool: who sees whom, later tokens aside
Sees = Callable[[Any, Any], jax.Array]


class Plan(NamedTuple):
    """A stream of L tokens as M blocks of B tokens, and which of them see which."""

    tokens: Any  # [M, N, B] each: what `Sees` reads
    key_blocks: jax.Array  # [M, M] int32: for every block of queries the blocks of keys, those to visit first
    num_visits: jax.Array  # [M] int32: how many of them to visit


def plan(sees: Sees, tokens: Any) -> Plan:
    """What `attend_blocks` visits.

    Args:
      sees: the rule; every token must see itself.
      tokens: pytree of [N, L], what the rule reads of each token.
    """
    # Tokens that fill the last block are like the last token: they need no pair that is not needed anyway.
    tokens = jax.tree.map(lambda x: _blocks(x, mode="edge"), tokens)
    num_blocks = len(jax.tree.leaves(tokens)[0])
    pairs = np.tril_indices(num_blocks)

    def is_needed(pair):
        i, j = pair
        return _visible(sees, i, _at(tokens, i), j, _at(tokens, j)).any(axis=(1, 2))

    needed = jax.lax.map(is_needed, pairs).any(axis=1)
    needed = jnp.zeros((num_blocks, num_blocks), bool).at[pairs].set(needed)
    key_blocks = jnp.argsort(~needed, axis=1, stable=True)
    return Plan(tokens, key_blocks.astype(jnp.int32), needed.sum(axis=1, dtype=jnp.int32))


def _blocks(x, mode="constant"):
    """[N, L, ...] -> [M, N, B, ...], the last block filled up; what fills it is later than all, so nobody sees it."""
    n, length = x.shape[:2]
    x = jnp.pad(x, [(0, 0), (0, -length % BLOCK), *[(0, 0)] * (x.ndim - 2)], mode=mode)
    return jnp.moveaxis(x.reshape(n, -1, BLOCK, *x.shape[2:]), 1, 0)


def _stream(x, length):
    """Undoes `_blocks`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(len(x), -1, *x.shape[3:])[:, :length]


def _query_blocks(x):
    """[N, L, K, G, h] -> [M, N, K, G * B, h]: one large matrix a key head."""
    x = _blocks(x).transpose(0, 1, 3, 4, 2, 5)
    return x.reshape(*x.shape[:3], -1, x.shape[-1])


def _query_stream(x, groups, length):
    """Undoes `_query_blocks`."""
    x = x.reshape(*x.shape[:3], groups, -1, x.shape[-1])
    return _stream(x.transpose(0, 1, 4, 2, 3, 5), length)


def _key_blocks(x):
    """[N, L, K, h] -> [M, N, K, B, h]."""
    return jnp.swapaxes(_blocks(x), 2, 3)


def _key_stream(x, length):
    """Undoes `_key_blocks`."""
    return _stream(jnp.swapaxes(x, 2, 3), length)


def _at(tree, block):
    """That block of each array."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, block, keepdims=False), tree)


def _visible(sees, query_block, query_tokens, key_block, key_tokens):
    """[N, B, B] bool of a pair of blocks, given by number and tokens."""
    column = jnp.arange(jax.tree.leaves(key_tokens)[0].shape[-1])
    ahead = (query_block - key_block) * len(column)
    return (column[None, :] <= column[:, None] + ahead) & sees(query_tokens, key_tokens)


def _scores(query, key, visible):
    """query [N, K, G * B, h], key [N, K, B, h], visible [N, B, B] -> float32 scores [N, K, G * B, B]."""
    scores = product(query, jnp.swapaxes(key, 2, 3))
    grouped = scores.reshape(*scores.shape[:2], -1, *visible.shape[1:])
    return jnp.where(visible[:, None, None], grouped, MASKED).reshape(scores.shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attend_blocks(sees: Sees, query: jax.Array, key: jax.Array, value: jax.Array, plan: Plan) -> jax.Array:
    """Softmax attention over one stream, in which nobody sees a later token.

    Args:
      sees: the rule the plan was made with.
      query: [N, L, K, G, h], already scaled; G query heads share a key head.
      key, value: [N, L, K, h].
      plan: of the stream.

    Returns:
      [N, L, K, G, h]. For the gradients it keeps its inputs, its output and a number a query.
    """
    return _attend_forward(sees, query, key, value, plan)[0]


def _attend_forward(sees, query, key, value, plan):
    length, groups = query.shape[1], query.shape[3]
    queries, keys, values = _query_blocks(query), _key_blocks(key), _key_blocks(value)

    def attend(operands):
        i, query, tokens, key_blocks, num_visits = operands

        def visit(n, softmax):
            j, (old_top, total, out) = key_blocks[n], softmax
            scores = _scores(query, _at(keys, j), _visible(sees, i, tokens, j, _at(plan.tokens, j)))
            top = jnp.maximum(old_top, scores.max(axis=-1, keepdims=True))
            weights, fade = jnp.exp(scores - top), jnp.exp(old_top - top)
            out = out * fade + product(weights.astype(value.dtype), _at(values, j))
            return top, total * fade + weights.sum(axis=-1, keepdims=True), out

        row = (*query.shape[:-1], 1)
        nothing = (jnp.full(row, MASKED), jnp.zeros(row), jnp.zeros(query.shape))
        top, total, out = jax.lax.fori_loop(0, num_visits, visit, nothing)
        return (out / total).astype(query.dtype), top + jnp.log(total)

    out, log_total = jax.lax.map(attend, (jnp.arange(len(queries)), queries, *plan))
    out = _query_stream(out, groups, length)
    return out, (query, key, value, plan, out, log_total)


def _attend_backward(sees, saved, gradient):
    query, key, value, plan, out, log_total = saved
    length, groups = query.shape[1], query.shape[3]
    queries, keys, values = _query_blocks(query), _key_blocks(key), _key_blocks(value)
    row_gradient = (gradient.astype(jnp.float32) * out).sum(axis=-1, keepdims=True)

    def attend(gradients, operands):
        i, query, log_total, gradient, row_gradient, tokens, key_blocks, num_visits = operands

        def visit(n, gradients):
            j, (query_gradient, key_gradient, value_gradient) = key_blocks[n], gradients
            key, value = _at(keys, j), _at(values, j)
            visible = _visible(sees, i, tokens, j, _at(plan.tokens, j))
            weights = jnp.exp(_scores(query, key, visible) - log_total)
            weights_gradient = product(gradient, jnp.swapaxes(value, 2, 3))
            scores_gradient = (weights * (weights_gradient - row_gradient)).astype(query.dtype)
            weights = weights.astype(gradient.dtype)
            return (
                query_gradient + product(scores_gradient, key),
                _add(key_gradient, j, product(turned(query), scores_gradient)),
                _add(value_gradient, j, product(turned(gradient), weights)),
            )

        query_gradient, *gradients = jax.lax.fori_loop(0, num_visits, visit, (jnp.zeros(query.shape), *gradients))
        return tuple(gradients), query_gradient.astype(query.dtype)

    rows = (jnp.arange(len(queries)), queries, log_total, _query_blocks(gradient), _query_blocks(row_gradient), *plan)
    # Of keys and values transposed, as they are multiplied.
    nothing = tuple(jnp.zeros((*x.shape[:-2], x.shape[-1], x.shape[-2])) for x in (keys, values))
    (key_gradient, value_gradient), query_gradient = jax.lax.scan(attend, nothing, rows)
    return (
        _query_stream(query_gradient, groups, length),
        _key_stream(jnp.swapaxes(key_gradient, -1, -2), length).astype(key.dtype),
        _key_stream(jnp.swapaxes(value_gradient, -1, -2), length).astype(value.dtype),
        None,
    )


def _add(x, block, y):
    """x with y added to that block."""
    return jax.lax.dynamic_update_index_in_dim(x, _at(x, block) + y, block, 0)


attend_blocks.defvjp(_attend_forward, _attend_backward)
