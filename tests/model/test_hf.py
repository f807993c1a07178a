import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from omar_jax.model import hf
from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.model.hf import ModelError

CONFIG = DecoderConfig(vocabulary=11, width=8, layers=2, heads=4, kv_heads=2, head_dim=6, mlp_width=10, rope_theta=5e3)
UNTIED = DecoderConfig(
    vocabulary=11, width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_width=10, tied_embeddings=False
)


def random_params(config):
    """Every bit of every tensor random, in the shapes that the decoder makes."""
    tokens = np.zeros((1, 2), np.int32)
    attend = causal(config, tokens)
    shapes = jax.eval_shape(
        lambda key: Decoder(config).init(key, tokens, tokens, attend, method="init_all"), jax.random.key(0)
    )
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), shapes)


@pytest.fixture
def folder(tmp_path):
    hf.save(tmp_path, CONFIG, random_params(CONFIG))
    return tmp_path


def says(call, *arguments):
    with pytest.raises(ModelError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_what_is_saved_is_loaded_bit_by_bit(config, tmp_path):
    params = random_params(config)
    hf.save(tmp_path, config, params)
    assert hf.read_config(tmp_path) == config
    loaded = hf.load(tmp_path, config)
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for found, expected in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()


def test_tensors_lie_as_hugging_face_has_them(folder):
    stored, params = load_file(folder / "model.safetensors"), random_params(CONFIG)["params"]
    np.testing.assert_array_equal(stored["model.embed_tokens.weight"], params["embedding"])
    np.testing.assert_array_equal(stored["model.layers.1.mlp.down_proj.weight"], params["block_1"]["down"]["kernel"].T)
    assert stored["model.layers.0.self_attn.k_proj.weight"].shape == (2 * 6, 8)  # [out, in]
    assert len(stored) == 2 + 11 * CONFIG.layers


def test_without_a_stored_critic_its_head_is_zeros(folder):
    (folder / "value_head.safetensors").unlink()
    head = hf.load(folder, CONFIG)["params"]["value_head"]
    assert {name: leaf.shape for name, leaf in head.items()} == {"kernel": (8, 1), "bias": (1,)}
    assert not any(leaf.any() for leaf in head.values())


def test_rope_parameters_of_newer_transformers_are_read(folder):
    stored = json.loads((folder / "config.json").read_text())
    stored["rope_parameters"] = {"rope_type": "default", "rope_theta": stored.pop("rope_theta")}
    (folder / "config.json").write_text(json.dumps(stored))
    assert hf.read_config(folder) == CONFIG


@pytest.mark.parametrize(
    ("file", "call"), [("config.json", hf.read_config), ("model.safetensors", lambda f: hf.load(f, CONFIG))]
)
def test_a_missing_file_is_named(folder, file, call):
    (folder / file).unlink()
    assert says(call, folder) == f"model.folder='{folder}' holds no {file}"


def test_another_family_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    message = says(hf.read_config, folder)
    assert message == f"{folder / 'config.json'}: model_type is 'mamba'; only 'qwen3' is supported"


def test_missing_and_left_over_tensors_are_named(folder):
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.0.mlp.gate.weight"] = stored.pop("model.layers.0.mlp.gate_proj.weight")
    save_file(stored, folder / "model.safetensors")
    message = says(hf.load, folder, CONFIG)
    assert message.startswith(str(folder / "model.safetensors")) and message.endswith("config.json belong to it?")
    assert "missing ['model.layers.0.mlp.gate_proj.weight']" in message
    assert "left over ['model.layers.0.mlp.gate.weight']" in message


def test_weights_of_another_depth_are_refused(folder):
    message = says(hf.load, folder, UNTIED)
    assert "missing ['lm_head.weight']" in message and "left over ['model.layers.1." in message
