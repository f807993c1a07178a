"""Attention against a naive softmax; and two streams are the dense forward over every turn's view."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams

from omar_jax import layout
from omar_jax.model import attention
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.types import GameBatch

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
QWEN3 = DecoderConfig(
    vocabulary=64, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, rope_theta=100.0
)
CONFIGS = {
    "qwen3": {},
    "qwen2.5": {"qk_norm": False, "qkv_bias": True, "kv_heads": 1},
    "llama3": {"qk_norm": False, "kv_heads": 4, "tied_embeddings": False},
    "gemma3": {
        "activation": "gelu_tanh",
        "embedding_scale": True,
        "unit_offset_norm": True,
        "sandwich_norm": True,
        "query_scale": 0.3,
        "sliding_window": 6,
        "windowed_layers": (True, False),
        "window_rope_theta": 10.0,
    },
    "window": {"sliding_window": 4, "windowed_layers": (True, True)},
    "window_1": {"sliding_window": 1, "windowed_layers": (True, False)},
}
NUM_GAMES, NUM_VIEWS, LONGEST_VIEW = 8, 64, 48


# ---------------------------------------------------------------- the kernel


def naive(query, key, value, visible):
    """Softmax attention written out, one head at a time."""
    heads = []
    for k in range(query.shape[2]):
        for g in range(query.shape[3]):
            scores = jnp.einsum("nqh,nsh->nqs", query[:, :, k, g], key[:, :, k])
            weights = jax.nn.softmax(scores, axis=-1, where=visible)
            heads.append(jnp.einsum("nqs,nsh->nqh", weights, value[:, :, k]))
    return jnp.stack(heads, axis=2).reshape(query.shape)


@pytest.mark.parametrize(("kv_heads", "groups"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_attend_visible_is_softmax_attention(kv_heads, groups):
    rng = np.random.default_rng(kv_heads * 10 + groups)
    n, q, s, h = 3, 5, 7, 4
    query = rng.normal(size=(n, q, kv_heads, groups, h)).astype(np.float32)
    key = rng.normal(size=(n, s, kv_heads, h)).astype(np.float32)
    value = rng.normal(size=(n, s, kv_heads, h)).astype(np.float32)
    weight = rng.normal(size=query.shape).astype(np.float32)
    visible = rng.random((n, q, s)) < 0.4
    visible[..., 0] |= ~visible.any(-1)  # somebody sees something

    @jax.jit
    def value_and_gradients(query, key, value):
        def both(attend):
            def loss(*inputs):
                out = attend(*inputs, visible)
                return (out * weight).sum(), out

            return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(query, key, value)

        return both(attention.attend_visible), both(naive)

    found, wanted = value_and_gradients(query, key, value)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, wanted)


def test_rows_that_see_nothing_are_finite():
    shape = (1, 2, 1, 1, 2)
    query, key = jnp.ones(shape), jnp.ones((1, 3, 1, 2))

    def loss(query, key, value):
        return attention.attend_visible(query, key, value, jnp.zeros((1, 2, 3), bool)).sum()

    out, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2))(query, key, key)
    assert all(np.isfinite(x).all() for x in (out, *gradients))


# ---------------------------------------------------------------- identity (a)


def dense(config, visible, positions):
    """Attention over one stream in which query and key see each other as `visible` [N, L, L] says."""

    def attend(layer, query, key, value):
        window = config.window(layer)
        far = positions[..., :, None] - positions[..., None, :] >= (window or 2**30)
        return naive(query, key, value, visible & ~far), None

    return attend


@dataclasses.dataclass
class Views:
    """Turns' views as rows: tokens, positions, who sees whom; padded with tokens that see themselves."""

    tokens: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    plain: list  # whether the view is ordinary causal text: nothing public after something private
    gaps: list  # whether positions jump, because others heard something in between
    found_at: list  # (game, columns of the two-stream forward)


def views_of(episodes, num_shared):
    views = Views(
        tokens=np.zeros((NUM_VIEWS, LONGEST_VIEW), np.int32),
        positions=np.zeros((NUM_VIEWS, LONGEST_VIEW), np.int32),
        visible=np.tile(np.eye(LONGEST_VIEW, dtype=bool), (NUM_VIEWS, 1, 1)),
        plain=[],
        gaps=[],
        found_at=[],
    )
    for game, episode in enumerate(episodes):
        num_seats = len(episode.roles)
        tokens = streams.tell(episode.steps, num_seats)
        column = {id(token): num_shared + i for i, token in enumerate(streams.by_seat(tokens, len(episode.roles)))}
        column |= {id(token): token.index for token in tokens if token.seat is None}
        for last in streams.last_tokens(tokens):
            view, row = streams.view(tokens, last), len(views.plain)
            length = len(view)
            sees = np.array([[streams.sees(q, k) for k in view] for q in view])
            positions = [token.position for token in view]
            views.tokens[row, :length] = [token.id for token in view]
            views.positions[row, :length] = positions
            views.visible[row, :length, :length] = sees
            views.plain.append(bool((sees == np.tri(length, dtype=bool)).all()))
            views.gaps.append(positions != list(range(length)))
            views.found_at.append((game, [column[id(token)] for token in view]))
    return views


def games(seed):
    """Some games, their batch and their views."""
    episodes = [streams.random_game(seed + i, 3, 4, QWEN3.vocabulary, 3) for i in range(NUM_GAMES)]
    room = layout.Sizes(*map(max, zip(*map(layout.sizes, episodes), strict=True)))
    batch = layout.pack(episodes, streams.ROLES, room, streams.LEGAL_WIDTH)
    return batch, views_of(episodes, room.shared)


BATCH, VIEWS = games(100)


def test_the_random_games_hold_every_kind_of_view():
    kinds = Counter(zip(VIEWS.plain, VIEWS.gaps, strict=True))
    assert len(kinds) == 4 and min(kinds.values()) >= 3


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(options, id=name, marks=[pytest.mark.slow] if name in ("llama3", "window_1") else [])
        for name, options in CONFIGS.items()
    ],
)
def test_two_streams_are_the_dense_forward_over_every_view(options):
    config = dataclasses.replace(QWEN3, **options)
    model = Decoder(config)
    params = streams.random_params(model, seed=1)

    @jax.jit
    def forward(params, batch, tokens, positions, visible):
        def read(tokens, positions, attend):
            hidden, _ = model.apply(params, tokens, positions, attend)
            return hidden

        both = (
            jnp.concatenate([batch.shared_tokens, batch.seat_tokens], axis=1),
            jnp.concatenate([batch.shared_positions, batch.seat_positions], axis=1),
        )
        return (
            read(*both, attention.two_stream(config, batch)),
            read(tokens, positions, dense(config, visible, positions)),
            read(tokens, positions, attention.causal(config, positions)),
        )

    batch = GameBatch(*map(jnp.asarray, BATCH))
    streamed, seen, causal = map(np.asarray, forward(params, batch, VIEWS.tokens, VIEWS.positions, VIEWS.visible))
    for row, (game, columns) in enumerate(VIEWS.found_at):
        wanted = streamed[game, columns]
        np.testing.assert_allclose(seen[row, : len(columns)], wanted, **TOLERANCE)
        if VIEWS.plain[row]:
            np.testing.assert_allclose(causal[row, : len(columns)], wanted, **TOLERANCE)


def test_what_a_turn_says_reaches_nobody_else():
    model = Decoder(config := QWEN3)
    params = streams.random_params(model, seed=2)

    @jax.jit
    def forward(batch):
        tokens = jnp.concatenate([batch.shared_tokens, batch.seat_tokens], axis=1)
        positions = jnp.concatenate([batch.shared_positions, batch.seat_positions], axis=1)
        return model.apply(params, tokens, positions, attention.two_stream(config, batch))[0]

    batch = GameBatch(*map(jnp.asarray, BATCH))
    speaker = BATCH.seat_owner[0, BATCH.action_index[0, 0]]
    spoken = (BATCH.seat_owner[0] == speaker) & (BATCH.seat_branch[0] == 1)
    changed = BATCH.seat_tokens.copy()
    changed[0, spoken] = (changed[0, spoken] + 1) % config.vocabulary
    before = np.asarray(forward(batch))
    after = np.asarray(forward(batch._replace(seat_tokens=jnp.asarray(changed))))
    moved = np.abs(after - before).max(axis=-1) > 0
    num_shared = BATCH.shared_tokens.shape[1]
    assert not moved[1:].any() and not moved[0, :num_shared].any()
    np.testing.assert_array_equal(moved[0, num_shared:], spoken)
