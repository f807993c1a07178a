"""Precision: what is computed in bfloat16 and what never is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams

from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder, convert

QWEN = DecoderConfig(vocabulary=30, width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=24, qkv_bias=True)
GEMMA = DecoderConfig(
    vocabulary=30,
    width=16,
    layers=2,
    heads=4,
    kv_heads=1,
    head_dim=8,
    mlp_width=24,
    activation="gelu_tanh",
    embedding_scale=True,
    unit_offset_norm=True,
    sandwich_norm=True,
    tied_embeddings=False,
)
TOKENS = np.random.default_rng(0).integers(0, 30, (2, 9)).astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(9, dtype=np.int32), TOKENS.shape)


@functools.partial(jax.jit, static_argnums=0)
def forward(model, params):
    hidden, _ = model.apply(params, TOKENS, POSITIONS, causal(model.config, POSITIONS))
    return hidden, model.apply(params, hidden, method="logits"), model.apply(params, hidden, method="value")


@pytest.mark.parametrize("config", [QWEN, GEMMA], ids=["qwen", "gemma"])
def test_weights_converted_once_compute_bitwise_the_same(config):
    model = Decoder(config, dtype=jnp.dtype("bfloat16"))
    params = streams.random_params(model, seed=0)
    wide, narrow = forward(model, params), forward(model, convert(params, jnp.bfloat16))
    assert [x.dtype.name for x in wide] == ["bfloat16", "float32", "float32"]
    for a, b in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("config", [QWEN, GEMMA], ids=["qwen", "gemma"])
def test_bfloat16_is_near_float32(config):
    params = streams.random_params(Decoder(config), seed=0)
    models = (Decoder(config, dtype=jnp.dtype(name)) for name in ("float32", "bfloat16"))
    wide, narrow = (np.asarray(forward(model, params)[1]) for model in models)
    gap = np.abs(wide - narrow).max() / np.abs(wide).max()
    assert 1e-4 < gap < 0.05  # bfloat16 has 8 bits: 0.4% a rounding


def test_norms_and_the_critic_stay_in_float32():
    converted = convert(streams.random_params(Decoder(GEMMA), seed=0), jnp.bfloat16)
    kept = {
        jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("params/")
        for path, leaf in jax.tree.leaves_with_path(converted)
        if leaf.dtype == jnp.float32
    }
    norms = {"attention_norm", "attention_out_norm", "mlp_norm", "mlp_out_norm", "query_norm", "key_norm"}
    wanted = {f"block_{layer}/{norm}/weight" for layer in range(2) for norm in norms}
    assert kept == wanted | {"final_norm/weight", "value_head/kernel", "value_head/bias"}
