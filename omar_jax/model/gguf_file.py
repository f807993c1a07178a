"""GGUF files become folders in Hugging Face's format.

The life of a conversion: the metadata becomes `config.json`, `generation_config.json` and the tokenizer's files; then
the tensors are dequantized, one shard's worth at a time, and written as float32 safetensors under Hugging Face's
names. llama.cpp stores two kinds of tensors differently, and both are brought back: the query and key rows of a Llama
are interleaved, and Gemma's norm weights have the one added that Gemma adds when it runs.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor
from gguf.quants import dequantize
from safetensors.numpy import save_file
from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    GGUF_TOKENIZER_MAPPING,
    convert_gguf_tokenizer,
)

from omar_jax.model.hf import ModelError

SHARD_BYTES = 1_000_000_000

# general.architecture there -> (model_type, class) in config.json.
_ARCHITECTURES = {
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
}

_OUTSIDE_LAYERS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_v.bias": "self_attn.v_proj.bias",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_output.bias": "self_attn.o_proj.bias",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
# Gemma normalizes before and after attention and MLP; what others call post_attention_layernorm stands before the MLP.
_GEMMA_LAYER = _LAYER | {
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
# Llama 3's rotary scaling, applied to the frequencies beforehand; a tensor there, four numbers in config.json.
_ROPE_FACTORS = "rope_freqs.weight"


def convert(source: Path, folder: Path, report: Callable[[str], None]) -> None:
    """Writes the model in the GGUF file `source` into the existing `folder`, in Hugging Face's format.

    Weights become float32, which holds the dequantized values exactly: four bytes a parameter on the disk, and at
    most about two shards and one tensor in memory.

    Args:
      source: a GGUF file, version 2 or 3, in one piece.
      folder: gets config.json, generation_config.json, tokenizer.json, tokenizer_config.json, the chat template if
        there is one, and model.safetensors or, above `SHARD_BYTES`, numbered shards and their index.
      report: is told each step in a line.

    Raises:
      ModelError: the file is absent, damaged, of an architecture or tokenizer not known here, or holds a tensor that
        has no place in its architecture.
    """
    report(f"reading {source}")
    reader = _open(source)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    architecture = metadata.get("general.architecture")
    if architecture not in _ARCHITECTURES:
        raise ModelError(
            f"{source}: architecture {architecture!r} is not supported; supported are {', '.join(_ARCHITECTURES)}"
        )
    if metadata.get("split.count", 1) > 1:
        raise ModelError(f"{source} is one of {metadata['split.count']} parts; join them with llama-gguf-split --merge")
    try:
        config = _config(metadata, tensors)
        names = {name: _hugging_face_name(architecture, name) for name in tensors if name != _ROPE_FACTORS}
        _write_json(folder / "config.json", config)
        _write_json(folder / "generation_config.json", _generation_config(metadata))
        report("building its tokenizer")
        _write_tokenizer(folder, metadata)
        _write_weights(folder, [tensors[name] for name in names], names, config, report)
    except KeyError as error:
        raise ModelError(f"{source} lacks {error}; convert or download it again") from error
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error


class _Reader(GGUFReader):
    """The library's reader over a plain array; it slices a million times, and a memmap's slices cost ten times more."""

    @property
    def data(self) -> np.ndarray:
        return self._bytes

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        self._bytes = np.asarray(mapped)


def _open(source: Path) -> GGUFReader:
    if not source.is_file():
        raise ModelError(f"there is no file {source}")
    try:
        return _Reader(source)
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        detail = str(error).partition("\n")[0]
        raise ModelError(
            f"{source} is not a whole GGUF file of version 2 or 3 ({detail}); download it again"
        ) from error


def _config(metadata: dict[str, Any], tensors: dict[str, ReaderTensor]) -> dict[str, Any]:
    """What config.json says, in the words of Hugging Face's own model repositories."""
    architecture = metadata["general.architecture"]
    model_type, model_class = _ARCHITECTURES[architecture]

    def number(key: str) -> int | float:
        value = metadata[f"{architecture}.{key}"]
        if isinstance(value, list):
            raise ModelError(f"{architecture}.{key} differs from layer to layer, which is not supported")
        # Floats are stored in single precision: 1e-06 reads 9.999999974752427e-07 otherwise.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def number_or(key: str, default: float) -> int | float:
        return number(key) if f"{architecture}.{key}" in metadata else default

    width, heads, layers = number("embedding_length"), number("attention.head_count"), number("block_count")
    config = {
        "architectures": [model_class],
        "model_type": model_type,
        "vocab_size": int(tensors["token_embd.weight"].shape[1]),
        "hidden_size": width,
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": number_or("attention.head_count_kv", heads),
        "head_dim": number_or("attention.key_length", width // heads),
        "max_position_embeddings": number("context_length"),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": number_or("rope.freq_base", 10_000.0),
        "rope_scaling": _rope_scaling(metadata, tensors),
        "tie_word_embeddings": "output.weight" not in tensors,
        "dtype": "float32",
    }
    for token in ("bos", "eos"):
        config[f"{token}_token_id"] = metadata.get(f"tokenizer.ggml.{token}_token_id")
    config["pad_token_id"] = metadata.get("tokenizer.ggml.padding_token_id")
    if architecture == "gemma3":
        pattern = number_or("attention.sliding_window_pattern", 6)
        config |= {
            "hidden_activation": "gelu_pytorch_tanh",
            # All but the 27B, the one of 62 layers, scale scores by the width of a head; no key says so.
            "query_pre_attn_scalar": width // heads if layers == 62 else config["head_dim"],
            "sliding_window": number("attention.sliding_window"),
            "layer_types": [
                "full_attention" if layer % pattern == pattern - 1 else "sliding_attention" for layer in range(layers)
            ],
            "rope_local_base_freq": number_or("rope.freq_base_swa", 10_000.0),
        }
    else:
        config["hidden_act"] = "silu"
    if architecture != "qwen2":  # whose query, key and value always have one
        config["attention_bias"] = "blk.0.attn_q.bias" in tensors
    return config


def _rope_scaling(metadata: dict[str, Any], tensors: dict[str, ReaderTensor]) -> dict[str, Any] | None:
    architecture = metadata["general.architecture"]
    if _ROPE_FACTORS in tensors:
        return _llama3_scaling(
            dequantize(tensors[_ROPE_FACTORS].data, tensors[_ROPE_FACTORS].tensor_type),
            metadata[f"{architecture}.rope.freq_base"],
        )
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": metadata[f"{architecture}.rope.scaling.factor"]}
    if kind == "yarn":
        return scaling | {
            "original_max_position_embeddings": metadata[f"{architecture}.rope.scaling.original_context_length"]
        }
    if kind != "linear":
        raise ModelError(f"{architecture}.rope.scaling.type is {kind!r}; supported are none, linear and yarn")
    return scaling


def _llama3_scaling(factors: np.ndarray, base: float) -> dict[str, Any] | None:
    """The four numbers from which llama.cpp computed these factors, [head_dim / 2]."""
    largest, low, high, context = float(factors.max()), 1.0, 4.0, 8192  # the last three are the same in all of Llama 3
    if largest == 1:
        return None
    wavelengths = 2 * np.pi * base ** (np.arange(len(factors)) / len(factors))
    share = np.clip((context / wavelengths - low) / (high - low), 0, 1)
    if not np.allclose(factors, 1 / ((1 - share) / largest + share), rtol=1e-3):
        raise ModelError(f"{_ROPE_FACTORS} is not Llama 3's rotary scaling, the only one stored in this way known here")
    return {
        "rope_type": "llama3",
        "factor": largest,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": context,
    }


def _generation_config(metadata: dict[str, Any]) -> dict[str, Any]:
    ends = {metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")} - {None}
    return {
        "bos_token_id": metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": sorted(ends),
        "pad_token_id": metadata.get("tokenizer.ggml.padding_token_id"),
    }


def _write_tokenizer(folder: Path, metadata: dict[str, Any]) -> None:
    """Writes tokenizer.json and tokenizer_config.json as transformers builds them from a GGUF file's metadata.

    Gemma's differs from SentencePiece only in runs of more than 31 spaces; they are cut elsewhere and come back whole.
    """
    tokens, kind = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.model"]
    split = metadata.get("tokenizer.ggml.pre", "default")
    if kind not in ("gpt2", "llama"):
        raise ModelError(f"tokenizer.ggml.model is {kind!r}; supported are gpt2 and llama")
    if kind == "gpt2" and split not in (*GGUF_PRE_TOKENIZER_SPLITS, "gpt-2", "smollm"):
        raise ModelError(f"tokenizer.ggml.pre is {split!r}, a way of splitting texts not known here")
    described = {
        theirs: metadata[f"tokenizer.{here}"]
        for here, theirs in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if f"tokenizer.{here}" in metadata
    }
    backend, _ = convert_gguf_tokenizer(metadata["general.architecture"], described)
    if split == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )

    def token(name: str) -> str | None:
        index = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if index is None else tokens[index]

    PreTrainedTokenizerFast(
        tokenizer_object=_without_invented_tokens(backend, len(tokens)),
        bos_token=token("bos"),
        eos_token=token("eos"),
        unk_token=token("unknown"),
        pad_token=token("padding"),
        # What llama.cpp does where the file does not say.
        add_bos_token=metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or split == "llama-bpe"),
        add_eos_token=metadata.get("tokenizer.ggml.add_eos_token", False),
        chat_template=metadata.get("tokenizer.chat_template"),
    ).save_pretrained(folder)


def _without_invented_tokens(tokenizer: Tokenizer, vocabulary: int) -> Tokenizer:
    """transformers gives GPT-2's <|endoftext|> an id beyond the embedding where a vocabulary does not have it."""
    if tokenizer.get_vocab_size() == vocabulary:
        return tokenizer
    stored = json.loads(tokenizer.to_str())
    stored["added_tokens"] = [token for token in stored["added_tokens"] if token["id"] < vocabulary]
    return Tokenizer.from_str(json.dumps(stored))


def _hugging_face_name(architecture: str, name: str) -> str:
    if name in _OUTSIDE_LAYERS:
        return _OUTSIDE_LAYERS[name]
    in_layer = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    known = _GEMMA_LAYER if architecture == "gemma3" else _LAYER
    if not in_layer or in_layer[2] not in known:
        raise ModelError(f"tensor {name} has no place in {architecture} as known here")
    return f"model.layers.{in_layer[1]}.{known[in_layer[2]]}"


def _write_weights(
    folder: Path,
    tensors: list[ReaderTensor],
    names: dict[str, str],
    config: dict[str, Any],
    report: Callable[[str], None],
) -> None:
    shards: list[list[ReaderTensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and 4 * sum(int(other.n_elements) for other in (*shards[-1], tensor)) > SHARD_BYTES:
            shards.append([])
        shards[-1].append(tensor)
    shard_of: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        report(f"writing {file}: {len(shard)} of {len(tensors)} tensors")
        save_file({names[tensor.name]: _values(tensor, config) for tensor in shard}, folder / file, {"format": "pt"})
        shard_of |= {names[tensor.name]: file for tensor in shard}
    if len(shards) > 1:
        size = 4 * sum(int(tensor.n_elements) for tensor in tensors)
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(shard_of.items()))}
        _write_json(folder / "model.safetensors.index.json", index)


def _values(tensor: ReaderTensor, config: dict[str, Any]) -> np.ndarray:
    """The tensor as transformers keeps it: float32, [out, in]."""
    try:
        values = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        raise ModelError(f"tensor {tensor.name} is of type {tensor.tensor_type.name}, not known here") from error
    if config["model_type"] == "gemma3_text" and tensor.name.endswith("norm.weight"):
        values = values - 1
    if config["model_type"] == "llama" and (".attn_q." in tensor.name or ".attn_k." in tensor.name):
        heads = config["num_attention_heads" if ".attn_q." in tensor.name else "num_key_value_heads"]
        pairs = values.reshape(heads, -1, 2, *values.shape[1:])
        values = pairs.swapaxes(1, 2).reshape(values.shape)
    return np.ascontiguousarray(values, np.float32)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}, indent=2) + "\n")
