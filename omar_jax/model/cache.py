"""The key/value cache of a batch of games while they are played: everything said so far, once a game.

Public and private tokens stand in one row a game in the order they arrived, each with an owner, so that all seats
of a game read the same keys and values and a game costs one transcript however many listen:

    slot      0 ........................ length        C
    owner     SHARED  SHARED  0  0  1  SHARED ...  EMPTY

A shared token sees earlier shared tokens; a seat's token also sees the seat's own. A turn (cue and action) is never
written here: its keys and values live in a branch cache while it is spoken (`sampler`) and are dropped afterwards.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from omar_jax.model.attention import MASKED, within
from omar_jax.model.config import DecoderConfig
from omar_jax.model.matmul import product

SHARED = -1
EMPTY = -2


class Cache(NamedTuple):
    """Keys and values of N games with room for C tokens each; one array a layer, so each is updated in place."""

    keys: tuple[jax.Array, ...]  # a layer: [N, K, h, C]
    values: tuple[jax.Array, ...]  # a layer: [N, K, C, h]
    owner: jax.Array  # [N, C] int32: SHARED, a seat, or EMPTY
    positions: jax.Array  # [N, C] int32
    length: jax.Array  # [N] int32: tokens written

    @property
    def room(self) -> int:
        """C, the tokens a game can hold."""
        return self.owner.shape[1]


class Piece(NamedTuple):
    """Tokens to be added to the cache, left-aligned, EMPTY-owned beyond each game's count."""

    tokens: jax.Array  # [N, E] int32
    owner: jax.Array  # [N, E] int32
    positions: jax.Array  # [N, E] int32
    count: jax.Array  # [N] int32


def empty(config: DecoderConfig, num_games: int, room: int, dtype=jnp.float32) -> Cache:
    """A cache of N games that holds nothing yet."""
    keys = (num_games, config.kv_heads, config.head_dim, room)
    values = (num_games, config.kv_heads, room, config.head_dim)
    return Cache(
        keys=tuple(jnp.zeros(keys, dtype) for _ in range(config.layers)),
        values=tuple(jnp.zeros(values, dtype) for _ in range(config.layers)),
        owner=jnp.full((num_games, room), EMPTY, jnp.int32),
        positions=jnp.zeros((num_games, room), jnp.int32),
        length=jnp.zeros((num_games,), jnp.int32),
    )


def grow(cache: Cache, room: int) -> Cache:
    """The same cache with room for more tokens a game."""
    extra = room - cache.room

    def pad(x, axis, fill=0):
        return jnp.pad(x, [(0, extra if i == axis else 0) for i in range(x.ndim)], constant_values=fill)

    return Cache(
        keys=tuple(pad(x, 3) for x in cache.keys),
        values=tuple(pad(x, 2) for x in cache.values),
        owner=pad(cache.owner, 1, EMPTY),
        positions=pad(cache.positions, 1),
        length=cache.length,
    )


def take(cache: Cache, games: jax.Array) -> Cache:
    """The cache of a selection of its games, [M] row numbers."""
    return jax.tree.map(lambda x: x[games], cache)


def _write(row, piece, start, axis):
    """Writes each game's piece at its own start along `axis` of its row; what lay there is overwritten."""
    return jax.vmap(lambda r, p, s: jax.lax.dynamic_update_slice_in_dim(r, p, s, axis))(row, piece, start)


def write_metadata(cache: Cache, piece: Piece) -> Cache:
    """Marks the piece's owners and positions; its keys and values follow layer by layer (`extending`)."""
    return cache._replace(
        owner=_write(cache.owner, piece.owner, cache.length, 0),
        positions=_write(cache.positions, piece.positions, cache.length, 0),
        length=cache.length + piece.count,
    )


def extending(config: DecoderConfig, cache: Cache, marked: Cache, piece: Piece) -> Callable:
    """Attention of new tokens over the cache that already holds them; keeps the layer's updated keys and values.

    `cache` is the one before and `marked` the one after `write_metadata`. Room for E more tokens than every
    game's length is needed, or the write would slide back over earlier tokens.
    """
    num_new = piece.tokens.shape[1]
    slot = jnp.arange(cache.room)
    new_slot = cache.length[:, None] + jnp.arange(num_new)
    same_owner = marked.owner[:, None, :] == piece.owner[:, :, None]
    visible = (marked.owner[:, None, :] == SHARED) | same_owner
    visible &= slot[None, None, :] <= new_slot[:, :, None]

    def attend(layer, query, key, value):
        keys = _write(cache.keys[layer], key.transpose(0, 2, 3, 1), cache.length, 2)
        values = _write(cache.values[layer], value.transpose(0, 2, 1, 3), cache.length, 1)
        sees = visible & within(piece.positions, marked.positions, config.window(layer))
        n, e, k, g, h = query.shape
        rows = query.transpose(0, 2, 3, 1, 4).reshape(n, k, g * e, h)
        scores = product(rows, keys)
        scores = jnp.where(sees[:, None, None], scores.reshape(n, k, g, e, -1), MASKED).reshape(scores.shape)
        out = product(jax.nn.softmax(scores, axis=-1).astype(values.dtype), values)
        return out.astype(query.dtype).reshape(n, k, g, e, h).transpose(0, 3, 1, 2, 4), (keys, values)

    return attend


class Branches(NamedTuple):
    """What the turns being spoken add to what they see: room for B = cue + action tokens each.

    Turns of all games are one axis, as they are multiplied: reshaped to that, each would be copied at every token.
    """

    keys: tuple[jax.Array, ...]  # a layer: [N * A, K, h, B]
    values: tuple[jax.Array, ...]  # a layer: [N * A, K, B, h]


def empty_branches(config: DecoderConfig, num_games: int, asked: int, room: int, dtype=jnp.float32) -> Branches:
    """Branch caches that hold nothing yet."""
    keys = (num_games * asked, config.kv_heads, config.head_dim, room)
    values = (num_games * asked, config.kv_heads, room, config.head_dim)
    return Branches(*(tuple(jnp.zeros(shape, dtype) for _ in range(config.layers)) for shape in (keys, values)))


def speaking(
    config: DecoderConfig,
    cache: Cache,
    branches: Branches,
    seats: jax.Array,
    positions: jax.Array,
    written: jax.Array,
    branch_visible: jax.Array,
    branch_positions: jax.Array,
) -> Callable:
    """Attention of turns over the shared past, their seat's own past and their own branch.

    The cache is only read; the Q new tokens of each turn are written to its branch, for all turns at the same
    slot, and kept. One joint softmax over both sets of keys.

    Args:
      config: the decoder's.
      cache: [N] games.
      branches: of [N, A] turns.
      seats: [N, A] who speaks.
      positions: [N, A, Q] of the new tokens.
      written: scalar, the branch slot of the first new token.
      branch_visible: [N, A, Q, B] bool.
      branch_positions: [N, A, B].

    Returns:
      `attend` for queries [N, A, Q, K, G, h]; what it keeps is the layer's branch (keys, values).
    """
    past_visible = (cache.owner[:, None, :] == SHARED) | (cache.owner[:, None, :] == seats[:, :, None])

    def attend(layer, query, key, value):
        n, a, q, k, g, h = query.shape
        key, value = (x.reshape(n * a, q, k, h) for x in (key, value))
        keys = jax.lax.dynamic_update_slice_in_dim(branches.keys[layer], key.transpose(0, 2, 3, 1), written, 3)
        values = jax.lax.dynamic_update_slice_in_dim(branches.values[layer], value.transpose(0, 2, 1, 3), written, 2)
        window = config.window(layer)
        sees_past = past_visible[:, :, None, :] & within(positions, cache.positions[:, None, :], window)
        sees_branch = branch_visible & within(positions, branch_positions, window)

        rows = query.transpose(0, 3, 4, 1, 2, 5).reshape(n, k, g * a * q, h)
        past = product(rows, cache.keys[layer])
        past = jnp.where(sees_past[:, None, None], past.reshape(n, k, g, a, q, -1), MASKED)
        by_turn = query.transpose(0, 1, 3, 4, 2, 5).reshape(n * a, k, g * q, h)
        own = product(by_turn, keys)
        own = jnp.where(sees_branch[:, :, None, None], own.reshape(n, a, k, g, q, -1), MASKED)

        own_top = own.max(axis=-1).transpose(0, 2, 3, 1, 4)  # [N, K, G, A, Q]
        top = jnp.maximum(past.max(axis=-1), own_top)
        past = jnp.exp(past - top[..., None])
        own = jnp.exp(own - top.transpose(0, 3, 1, 2, 4)[..., None])
        total = past.sum(axis=-1) + own.sum(axis=-1).transpose(0, 2, 3, 1, 4)
        from_past = product(past.reshape(n, k, g * a * q, -1).astype(values.dtype), cache.values[layer])
        from_past = from_past.reshape(n, k, g, a, q, h).transpose(0, 3, 4, 1, 2, 5)
        from_own = product(own.reshape(n * a, k, g * q, -1).astype(values.dtype), values)
        from_own = from_own.reshape(n, a, k, g, q, h).transpose(0, 1, 4, 2, 3, 5)
        out = (from_past + from_own) / total.transpose(0, 3, 4, 1, 2)[..., None]
        return out.astype(query.dtype), (keys, values)

    return attend
