"""The cache: what it holds depends neither on the pieces it came in nor on the other games beside it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams

from omar_jax.model import cache as kv
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
NUM_GAMES, LENGTH, ROOM = 3, 20, 48
CONFIG = DecoderConfig(
    vocabulary=64,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=4,
    mlp_width=24,
    rope_theta=100.0,
    sliding_window=5,
    windowed_layers=(True, False),
)
MODEL = Decoder(CONFIG)
PARAMS = streams.random_params(MODEL, seed=0)


@jax.jit
def extend(cache, piece):
    marked = kv.write_metadata(cache, piece)
    _, kept = MODEL.apply(PARAMS, piece.tokens, piece.positions, kv.extending(CONFIG, cache, marked, piece))
    return marked._replace(keys=tuple(k for k, _ in kept), values=tuple(v for _, v in kept))


class Past:
    """Games' tokens with owners and positions, [N, LENGTH]; every game has a length of its own."""

    def __init__(self, seed, num_games=NUM_GAMES):
        rng = np.random.default_rng(seed)
        size = (num_games, LENGTH)
        self.tokens = rng.integers(1, CONFIG.vocabulary, size).astype(np.int32)
        self.owner = rng.choice([kv.SHARED, kv.SHARED, 0, 1], size).astype(np.int32)
        self.positions = np.cumsum(rng.integers(0, 3, size), axis=1).astype(np.int32)
        self.count = rng.integers(LENGTH // 2, LENGTH, num_games, endpoint=True)

    def take(self, games):
        past = Past(0, len(games))
        for name in ("tokens", "owner", "positions", "count"):
            setattr(past, name, getattr(self, name)[games])
        return past

    def piece(self, start, stop, width):
        """Tokens [start, stop) of every game, as far as it has them; `start` and `stop` [N]."""
        num_games = len(self.tokens)
        count = np.clip(np.minimum(stop, self.count) - start, 0, None)
        rows = {name: np.zeros((num_games, width), np.int32) for name in ("tokens", "owner", "positions")}
        rows["owner"][:] = kv.EMPTY
        for n in range(num_games):
            for name, row in rows.items():
                row[n, : count[n]] = getattr(self, name)[n, start[n] : start[n] + count[n]]
        return kv.Piece(**rows, count=count.astype(np.int32))

    def written(self, piece_sizes, width):
        """The cache after pieces of these sizes; sizes may differ by game, [N] each."""
        cache, at = kv.empty(CONFIG, len(self.tokens), ROOM), np.zeros(len(self.tokens), int)
        for size in piece_sizes:
            cache = extend(cache, self.piece(at, at + size, width))
            at = np.minimum(at + size, self.count)
        assert (at == self.count).all()
        return cache


def content(cache, game):
    """What a game's cache holds as far as it was written."""
    length = int(cache.length[game])
    return {
        "keys": [np.asarray(k[game, :, :, :length]) for k in cache.keys],
        "values": [np.asarray(v[game, :, :length]) for v in cache.values],
        "owner": [np.asarray(cache.owner[game, :length])],
        "positions": [np.asarray(cache.positions[game, :length])],
    }


def assert_same(found, wanted, exact=False):
    compare = np.testing.assert_array_equal
    if not exact:
        compare = functools.partial(np.testing.assert_allclose, **TOLERANCE)
    for name, arrays in wanted.items():
        for a, b in zip(found[name], arrays, strict=True):
            compare(a, b, err_msg=name)


@pytest.mark.parametrize("seed", range(4))
def test_pieces_of_any_size_write_what_one_piece_writes(seed):
    past, rng = Past(seed), np.random.default_rng(seed)
    at_once = past.written([LENGTH], LENGTH)
    np.testing.assert_array_equal(at_once.length, past.count)
    for width in (1, 6):
        sizes = [np.full(NUM_GAMES, 1)] * LENGTH
        if width > 1:  # any size from 0 on, another one in every game; then the rest
            sizes = [rng.integers(0, width + 1, NUM_GAMES) for _ in range(8)] + [width] * (LENGTH // width + 1)
        in_pieces = past.written(sizes, width)
        for game in range(NUM_GAMES):
            assert_same(content(in_pieces, game), content(at_once, game))
        assert (np.asarray(in_pieces.owner)[np.arange(ROOM) >= past.count[:, None]] == kv.EMPTY).all()


def test_a_token_sees_what_is_shared_and_its_own():
    past = Past(1)
    past.count[:] = LENGTH
    last = LENGTH - 1
    past.owner[0] = kv.SHARED
    past.owner[0, [4, 8, last]] = 0, 1, 0
    past.positions[0] = np.arange(LENGTH) // 5  # all within the window
    before = content(past.written([LENGTH], LENGTH), 0)
    past.tokens[0, 8] += 1  # seat 1's
    other = content(past.written([LENGTH], LENGTH), 0)
    changed = np.abs(other["keys"][1] - before["keys"][1]).max((0, 1)) > 0
    assert changed.nonzero()[0].tolist() == [8]
    past.tokens[0, 4] += 1  # seat 0's own
    own = content(past.written([LENGTH], LENGTH), 0)
    changed = np.abs(own["keys"][1] - other["keys"][1]).max((0, 1)) > 0
    assert changed.nonzero()[0].tolist() == [4, last]


def test_grow_keeps_what_was_written():
    past = Past(2)
    small = past.written([LENGTH], LENGTH)
    large = kv.grow(small, ROOM + 16)
    assert large.room == ROOM + 16
    assert [k.shape[3] for k in large.keys] == [v.shape[2] for v in large.values] == [ROOM + 16] * 2
    np.testing.assert_array_equal(large.length, small.length)
    for game in range(NUM_GAMES):
        assert_same(content(large, game), content(small, game), exact=True)
    assert (np.asarray(large.owner[:, ROOM:]) == kv.EMPTY).all()
    more = Past(3).piece(np.zeros(NUM_GAMES, int), np.full(NUM_GAMES, 6), 6)
    after_small, after_large = extend(small, more), extend(large, more)
    for game in range(NUM_GAMES):
        assert_same(content(after_large, game), content(after_small, game))


def test_take_keeps_the_games_that_were_taken():
    cache = Past(4).written([LENGTH], LENGTH)
    rows = [2, 0, 0, 2]
    taken = kv.take(cache, jnp.asarray(rows))
    for row, game in enumerate(rows):
        assert_same(content(taken, row), content(cache, game), exact=True)


def test_a_game_does_not_depend_on_its_neighbours():
    past = Past(5)
    alone = content(past.take([1]).written([LENGTH], LENGTH), 0)
    among = content(past.written([LENGTH], LENGTH), 1)
    assert_same(among, alone)
    others = Past(6)
    for name in ("tokens", "owner", "positions", "count"):
        getattr(others, name)[1] = getattr(past, name)[1]
    assert_same(content(others.written([LENGTH], LENGTH), 1), among, exact=True)
