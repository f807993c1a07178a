"""Attention block by block: the dense one's numbers and gradients, and no memory that is square in the length."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import streams

from omar_jax import layout, update
from omar_jax.model import attention, long_attention
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.types import GameBatch

ROOT = Path(__file__).parents[2]
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
BLOCK = 8
CONFIG = DecoderConfig(
    vocabulary=64, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, rope_theta=100.0
)
WINDOWS = {"sliding_window": 5, "windowed_layers": (True, False)}


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(long_attention, "BLOCK", BLOCK)


# ---------------------------------------------------------------- the kernel


def in_rooms(window, query, key):
    """A rule: whoever is in the same room, not too long ago."""
    same = query["room"][..., :, None] == key["room"][..., None, :]
    return same & attention.within(query["time"], key["time"], window)


def rooms(seed, n, length):
    """Tokens for `in_rooms`: stays of several blocks, so that pairs of blocks see nothing of each other."""
    rng = np.random.default_rng(seed)
    stays = rng.integers(0, 3, (n, -(-length // (2 * BLOCK))))
    room = np.repeat(stays, 2 * BLOCK, axis=1)[:, :length]
    return {"room": room, "time": np.cumsum(rng.integers(0, 2, (n, length)), axis=1)}


def visible_in_rooms(window, tokens):
    """[N, L, L] bool, written out."""
    room, time = tokens["room"], tokens["time"]
    visible = np.tri(room.shape[1], dtype=bool) & (room[:, :, None] == room[:, None, :])
    return visible & (time[:, :, None] - time[:, None, :] < (window or np.inf))


def random_inputs(seed, n, length, kv_heads, groups, dtype):
    rng = np.random.default_rng(seed)
    shapes = [(n, length, kv_heads, groups, 4), *[(n, length, kv_heads, 4)] * 2, (n, length, kv_heads, groups, 4)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


@pytest.mark.parametrize("length", [5, 64, 61])
@pytest.mark.parametrize("window", [None, 1, 7])
def test_blocks_are_visited_if_anything_in_them_is_seen(small_blocks, length, window):
    tokens = rooms(length, 2, length)
    plan = long_attention.plan(functools.partial(in_rooms, window), tokens)
    num_blocks = -(-length // BLOCK)
    visible = np.zeros((2, num_blocks * BLOCK, num_blocks * BLOCK), bool)
    visible[:, :length, :length] = visible_in_rooms(window, tokens)
    wanted = visible.reshape(2, num_blocks, BLOCK, num_blocks, BLOCK).any(axis=(0, 2, 4))
    for block in range(num_blocks):
        visited = plan.key_blocks[block, : plan.num_visits[block]]
        np.testing.assert_array_equal(np.sort(visited), np.flatnonzero(wanted[block]))


@pytest.mark.parametrize(("kv_heads", "groups"), [(1, 3), (2, 1)])
@pytest.mark.parametrize(("length", "window"), [(61, None), (64, 7), (5, 1)])
def test_numbers_and_gradients_are_the_dense_ones(small_blocks, length, window, kv_heads, groups):
    tokens = rooms(length, 3, length)
    *inputs, weight = random_inputs(0, 3, length, kv_heads, groups, jnp.float32)
    rule = functools.partial(in_rooms, window)

    def loss(attend, *inputs):
        out = attend(*inputs)
        return (out * weight).sum(), out

    @jax.jit
    def value_and_gradients(*inputs):
        plan = long_attention.plan(rule, tokens)
        visible = jnp.asarray(visible_in_rooms(window, tokens))
        ways = (
            lambda *inputs: long_attention.attend_blocks(rule, *inputs, plan),
            lambda *inputs: attention.attend_visible(*inputs, visible),
        )
        return [jax.value_and_grad(functools.partial(loss, way), (0, 1, 2), has_aux=True)(*inputs) for way in ways]

    found, wanted = value_and_gradients(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found[1], wanted[1])
    np.testing.assert_allclose(found[0][1], wanted[0][1], **TOLERANCE)


def test_bfloat16_loses_no_more_than_its_own_rounding(small_blocks):
    length, rule = 61, functools.partial(in_rooms, None)
    tokens = rooms(1, 2, length)
    *inputs, weight = random_inputs(1, 2, length, 2, 2, jnp.bfloat16)

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(dtype, *inputs):
        plan = long_attention.plan(rule, tokens)

        def loss(*inputs):
            return (long_attention.attend_blocks(rule, *inputs, plan) * weight.astype(dtype)).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(*(x.astype(dtype) for x in inputs))

    for found, wanted in zip(gradients(jnp.bfloat16, *inputs), gradients(jnp.float32, *inputs), strict=True):
        assert found.dtype == jnp.bfloat16
        found, wanted = (np.asarray(x, np.float32) for x in (found, wanted))
        assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


# ---------------------------------------------------------------- two streams


def games():
    """Random games in a room that is larger than any of them, and a game of padding."""
    episodes = [streams.random_game(seed, 3, 5, CONFIG.vocabulary, 3) for seed in range(200, 203)]
    sizes = map(max, zip(*map(layout.sizes, episodes), strict=True))
    room = layout.Sizes(*(size + 3 for size in sizes))
    batch = layout.pack(episodes, streams.ROLES, room, streams.LEGAL_WIDTH)
    return layout.crop(batch, range(3), 4, room)


BATCH = games()


@pytest.mark.parametrize("window", [None, 1, 4])
def test_the_rule_is_that_of_the_masks(window):
    tokens = attention.tokens_of(BATCH)
    length, num_shared = tokens.clock.shape[1], BATCH.shared_tokens.shape[1]
    found = np.asarray(attention.sees(window, tokens, tokens)) & np.tri(length, dtype=bool)
    np.testing.assert_array_equal(found[:, :num_shared, :num_shared], attention.shared_visible(BATCH, window))
    assert not found[:, :num_shared, num_shared:].any()
    np.testing.assert_array_equal(found[:, num_shared:], attention.seat_visible(BATCH, window))


def read(model, params, batch):
    """[N, T + R, D] hidden states of both streams."""
    tokens = jnp.concatenate([batch.shared_tokens, batch.seat_tokens], axis=1)
    positions = jnp.concatenate([batch.shared_positions, batch.seat_positions], axis=1)
    return model.apply(params, tokens, positions, attention.two_stream(model.config, batch))[0]


@pytest.mark.parametrize(
    ("options", "remat"), [({"layers": 1}, False), (WINDOWS, True)], ids=["all see all", "windows, recomputed"]
)
def test_long_games_read_as_short_ones(small_blocks, monkeypatch, options, remat):
    config = dataclasses.replace(CONFIG, **options)
    model = Decoder(config, remat=remat)
    params = streams.random_params(model, seed=1)
    batch = GameBatch(*map(jnp.asarray, BATCH))
    weight = np.random.default_rng(0).normal(size=(*attention.tokens_of(batch).clock.shape, config.width))

    def value_and_gradients():
        def loss(params, batch):
            hidden = read(model, params, batch)
            return (hidden * weight).mean(), hidden

        (_, hidden), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
        return hidden, gradients

    wanted = value_and_gradients()
    monkeypatch.setattr(attention, "LONGEST_DENSE", 0)
    found = value_and_gradients()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), found, wanted)


def shapes_of(room, num_games=1):
    """A batch of that size without its numbers."""
    return jax.eval_shape(lambda: GameBatch(*map(jnp.asarray, layout.empty(num_games, room, 1))))


def test_only_games_longer_than_the_limit_are_read_in_blocks():
    model = Decoder(CONFIG)
    params = streams.random_params(model, seed=1)

    def loops(shared, seat):
        jaxpr = str(jax.make_jaxpr(functools.partial(read, model))(params, shapes_of(layout.Sizes(shared, seat, 8, 2))))
        return "while" in jaxpr

    assert not loops(attention.LONGEST_DENSE - 64, 64)
    assert loops(attention.LONGEST_DENSE - 64, 65)


# ---------------------------------------------------------------- memory


def bytes_of_a_step(room):
    """Temporary memory of a compiled gradient of a game of that size."""
    model = Decoder(dataclasses.replace(CONFIG, layers=1))
    params = streams.random_params(model, seed=1)
    settings = update.PPOSettings(0.2, 0.2, None, 0.5, 0.01, 0.0)
    learner = update.Learner(model, functools.partial(update.ppo_loss, settings), optax.sgd(1.0))
    targets = jax.tree.map(jnp.asarray, update.nothing_to_learn(1, room))
    operands = (params, params, None, shapes_of(room), targets, 1.0, np.float32(1.0))
    return learner.accumulate.lower(learner, *operands).compile().memory_analysis().temp_size_in_bytes


def test_no_tensor_of_a_long_game_is_square_in_its_length(monkeypatch):
    """A byte a pair of shared tokens, the least a mask could have, is more than all memory of the step."""
    room = layout.Sizes(shared=16384, seat=20480, actions=2048, turns=256)
    assert bytes_of_a_step(room) < room.shared**2
    monkeypatch.setattr(attention, "LONGEST_DENSE", sys.maxsize)
    assert bytes_of_a_step(room) > room.shared**2


@pytest.mark.slow  # 40 s on two idle cores
def test_a_game_of_16k_shared_tokens_trains_in_4_gib():
    command = [sys.executable, "benchmarks/long_games.py", "--here", "--repeats=0"]
    command += ["--shared_tokens=16384", "--ways=blocks"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    peak = re.search(r"blocks +16384 shared .* peak +([\d.]+) GiB", done.stdout)
    assert peak and float(peak[1]) < 4, done.stdout


# ---------------------------------------------------------------- several devices


# Games, or games and key heads, on devices of their own; these must be seen before jax starts, so in another process.
DRIVER = r"""
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from omar_jax import meshes
from omar_jax.model import attention, long_attention
from omar_jax.sharding import GAMES
from test_long_attention import BATCH, BLOCK, CONFIG, TOLERANCE, random_inputs

long_attention.BLOCK, attention.LONGEST_DENSE = BLOCK, 0
batch = type(BATCH)(*map(jnp.asarray, BATCH))
num_games, length = attention.tokens_of(batch).clock.shape
inputs = random_inputs(0, num_games, length, CONFIG.kv_heads, 2, jnp.float32)


def loss(query, key, value, weight, batch):
    return (attention.two_stream(CONFIG, batch)(0, query, key, value)[0] * weight).sum()


gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
whole = gradients(*inputs, batch)
for shape in (meshes.MeshShape(4, 1, 1), meshes.MeshShape(2, 1, 2)):
    mesh = meshes.make_mesh(shape, jax.devices())
    split = NamedSharding(mesh, P(GAMES, None, "tensor"))
    placed = *jax.device_put(inputs, split), jax.device_put(batch, NamedSharding(mesh, P(GAMES)))
    compiled = gradients.lower(*placed).compile()
    for found, wanted in zip(compiled(*placed), whole, strict=True):
        assert found.sharding.is_equivalent_to(split, found.ndim), (shape, found.sharding)
        np.testing.assert_allclose(found, wanted, **TOLERANCE)
    program = compiled.as_text()
    assert "all-reduce" in program  # which pairs of blocks to visit
    assert not any(moved in program for moved in ("all-gather", "all-to-all", "collective-permute"))
"""


def test_games_and_heads_split_over_devices_stay_there():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    environment = {**os.environ, **flags, "PYTHONPATH": paths}
    command = [sys.executable, "-W", "error", "-c", DRIVER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
