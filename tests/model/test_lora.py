"""Adapters: they start as nothing, fold into their weights exactly, and are all that training changes beside them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import streams

from omar_jax import layout, train_state, update
from omar_jax.model import lora
from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder, convert
from omar_jax.model.lora import LoRA
from omar_jax.update import Learner, MinibatchPlan, PPOSettings, Targets

CONFIG = DecoderConfig(
    vocabulary=30, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, rope_theta=100.0, qkv_bias=True
)
ADAPTERS = LoRA(rank=3, alpha=12.0, projections=("query", "value", "down"))
BARE, ADAPTED = Decoder(CONFIG), Decoder(CONFIG, lora=ADAPTERS)
PARAMS = streams.random_params(BARE, seed=0)
TOKENS = np.random.default_rng(0).integers(0, 30, (2, 9)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(9, dtype=np.int32), TOKENS.shape)


@functools.partial(jax.jit, static_argnums=0)
def hidden(model, params):
    return model.apply(params, TOKENS, POSITIONS, causal(CONFIG, POSITIONS))[0]


def spoken_up(params, seed=1):
    """Adapters whose B is no longer zero."""
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        return x + rng.normal(size=x.shape).astype(np.float32) / 3 if "lora_b" in jax.tree_util.keystr(path) else x

    return jax.tree_util.tree_map_with_path(leaf, params)


def names(tree):
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)}


def test_new_adapters_change_nothing_and_differ_by_seed():
    first, second = lora.add(PARAMS, ADAPTERS, seed=0), lora.add(PARAMS, ADAPTERS, seed=1)
    np.testing.assert_array_equal(hidden(ADAPTED, first), hidden(BARE, PARAMS))
    a, b = (params["params"]["block_1"]["query"]["lora_a"] for params in (first, second))
    assert a.shape == (16, 3) and not np.allclose(a, b)
    assert names(first) - names(PARAMS) == {
        f"params/block_{layer}/{projection}/lora_{part}"
        for layer in range(2)
        for projection in ADAPTERS.projections
        for part in "ab"
    }


def test_the_tree_is_the_one_the_model_makes_itself():
    attend = causal(CONFIG, POSITIONS)
    made = jax.eval_shape(
        lambda key: ADAPTED.init(key, TOKENS, POSITIONS, attend, method="init_all"), jax.random.key(0)
    )
    added = lora.add(PARAMS, ADAPTERS, seed=0)
    assert jax.tree.map(lambda x: x.shape, made) == jax.tree.map(lambda x: x.shape, added)


def test_a_folded_model_computes_the_same():
    params = spoken_up(lora.add(PARAMS, ADAPTERS, seed=0))
    folded = lora.fold(params, ADAPTERS)
    assert names(folded) == names(PARAMS)
    found, wanted = np.asarray(hidden(BARE, folded)), np.asarray(hidden(ADAPTED, params))
    assert np.abs(wanted - hidden(BARE, PARAMS)).max() > 0.1  # the adapters do count
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    kernel, part = PARAMS["params"]["block_0"]["down"]["kernel"], params["params"]["block_0"]["down"]
    by_hand = np.asarray(kernel) + 4.0 * np.asarray(part["lora_a"]) @ np.asarray(part["lora_b"])  # 12 / 3
    np.testing.assert_allclose(folded["params"]["block_0"]["down"]["kernel"], by_hand, atol=1e-5)


def test_without_adapters_everything_is_trained():
    assert lora.split(PARAMS, None) == (PARAMS, None)
    assert lora.combine(PARAMS, None) is PARAMS
    assert lora.fold(PARAMS, None) is PARAMS


def test_parts_make_the_whole_again():
    params = lora.add(PARAMS, ADAPTERS, seed=0)
    trained, frozen = lora.split(params, ADAPTERS)
    assert names(trained) == {name for name in names(params) if "lora_" in name or "value_head" in name}
    assert names(frozen) == names(params) - names(trained)
    whole = lora.combine(trained, frozen)
    assert jax.tree.structure(whole) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, whole, params)


EPISODES = [streams.random_game(seed, 2, 2, 30, longest=3) for seed in range(4)]
PLAN = MinibatchPlan(4, 4, 2, (layout.Sizes(24, 96, 48, 16),), streams.LEGAL_WIDTH)
LOSS = functools.partial(update.ppo_loss, PPOSettings(0.2, 0.2, None, 0.5, 0.01, 0.0))


def one_update(model, params, frozen):
    batch = PLAN.pack(EPISODES, streams.ROLES)
    rng = np.random.default_rng(0)
    shape = batch.action_mask.shape
    targets = Targets(
        rng.normal(size=shape).astype(np.float32),
        rng.normal(size=shape).astype(np.float32),
        batch.action_mask,
        batch.action_log_probs,
    )
    optimizer = train_state.make_optimizer(train_state.OptimizerSettings(1e-2, 0, 1.0, 0.0))
    learner = Learner(model, LOSS, optimizer)
    state = train_state.create(jax.tree.map(jnp.copy, params), optimizer)
    minibatches = PLAN.minibatches(EPISODES, batch, targets, np.random.default_rng(0))
    return learner.update(state, minibatches, 1.0, frozen)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_update_changes_adapters_and_critic_alone(dtype):
    whole = spoken_up(lora.add(convert(PARAMS, dtype), ADAPTERS, seed=0))
    trained, frozen = lora.split(whole, ADAPTERS)
    before = jax.device_get(frozen)
    state, metrics = one_update(dataclasses.replace(ADAPTED, dtype=jnp.dtype(dtype)), trained, frozen)
    assert all(np.isfinite(value) for value in metrics.values())
    assert names(state.params) == names(trained)
    for old, new in zip(jax.tree.leaves(trained), jax.tree.leaves(state.params), strict=True):
        assert old.dtype == new.dtype == np.float32
        assert np.abs(old - new).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, frozen, before)


def test_the_gradient_is_the_one_through_the_folded_weights():
    """One step of size 1: by the chain rule A's gradient is scale x W's gradient x B^T."""
    whole = spoken_up(lora.add(PARAMS, ADAPTERS, seed=0))
    trained, frozen = lora.split(whole, ADAPTERS)
    batch = PLAN.pack(EPISODES, streams.ROLES)
    targets = Targets(*(np.ones(batch.action_mask.shape, np.float32),) * 2, batch.action_mask, batch.action_log_probs)

    def gradient(model, params, frozen):
        learner = Learner(model, LOSS, optax.sgd(1.0))
        minibatch = next(PLAN.minibatches(EPISODES, batch, targets, np.random.default_rng(0)))
        zeros, total = learner.zeros(params), np.float32(10.0)
        for part, aims in minibatch:
            zeros, _ = learner.accumulate(zeros, params, frozen, part, aims, 1.0, total)
        return zeros["params"]

    of_adapter = gradient(ADAPTED, trained, frozen)["block_0"]["query"]
    of_kernel = np.asarray(gradient(BARE, lora.fold(whole, ADAPTERS), None)["block_0"]["query"]["kernel"])
    a, b = (np.asarray(whole["params"]["block_0"]["query"][name]) for name in ("lora_a", "lora_b"))
    np.testing.assert_allclose(of_adapter["lora_a"], 4.0 * of_kernel @ b.T, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(of_adapter["lora_b"], 4.0 * a.T @ of_kernel, rtol=1e-3, atol=1e-5)
