"""Decoders in Hugging Face's format: `config.json` and `model.safetensors`, read and written.

One table names every tensor; linear weights are stored [out, in] there and [in, out] here. The critic's head, which
Hugging Face does not know, has a file of its own.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from omar_jax.model.config import DecoderConfig


class ModelError(ValueError):
    """A folder that does not hold the model it should; the message says what is wrong."""


WEIGHTS = "model.safetensors"
VALUE_HEAD = "value_head.safetensors"

# (name here, name there, transposed); {} is the layer.
_QWEN3_LAYER = (
    ("attention_norm/weight", "input_layernorm.weight", False),
    ("query/kernel", "self_attn.q_proj.weight", True),
    ("key/kernel", "self_attn.k_proj.weight", True),
    ("value/kernel", "self_attn.v_proj.weight", True),
    ("query_norm/weight", "self_attn.q_norm.weight", False),
    ("key_norm/weight", "self_attn.k_norm.weight", False),
    ("out/kernel", "self_attn.o_proj.weight", True),
    ("mlp_norm/weight", "post_attention_layernorm.weight", False),
    ("gate/kernel", "mlp.gate_proj.weight", True),
    ("up/kernel", "mlp.up_proj.weight", True),
    ("down/kernel", "mlp.down_proj.weight", True),
)


def tensor_names(config: DecoderConfig) -> list[tuple[str, str, bool]]:
    """(name here, name there, transposed) of every tensor but the critic's."""
    names = [("embedding", "model.embed_tokens.weight", False), ("final_norm/weight", "model.norm.weight", False)]
    if not config.tied_embeddings:
        names.append(("unembedding", "lm_head.weight", False))
    for layer in range(config.layers):
        names += [
            (f"block_{layer}/{here}", f"model.layers.{layer}.{there}", transposed)
            for here, there, transposed in _QWEN3_LAYER
        ]
    return names


def read_config(folder: Path) -> DecoderConfig:
    """The decoder described by `folder/config.json`.

    Raises:
      ModelError: there is none, or it is of a family not known here.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"model.folder={str(folder)!r} holds no config.json")
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if stored.get("model_type") != "qwen3":
        raise ModelError(f"{path}: model_type is {stored.get('model_type')!r}; only 'qwen3' is supported")
    try:
        return _qwen3(stored)
    except KeyError as error:
        raise ModelError(f"{path}: {error} is missing") from error


def _qwen3(stored: dict[str, Any]) -> DecoderConfig:
    rope = stored.get("rope_parameters") or {}
    return DecoderConfig(
        vocabulary=stored["vocab_size"],
        width=stored["hidden_size"],
        layers=stored["num_hidden_layers"],
        heads=stored["num_attention_heads"],
        kv_heads=stored["num_key_value_heads"],
        head_dim=stored["head_dim"],
        mlp_width=stored["intermediate_size"],
        rope_theta=stored.get("rope_theta") or rope["rope_theta"],
        norm_epsilon=stored["rms_norm_eps"],
        tied_embeddings=stored["tie_word_embeddings"],
    )


def _shapes(c: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name here, without the layer -> shape there."""
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    return {
        "embedding": (c.vocabulary, c.width),
        "unembedding": (c.vocabulary, c.width),
        "final_norm/weight": (c.width,),
        "attention_norm/weight": (c.width,),
        "query/kernel": (queries, c.width),
        "key/kernel": (keys, c.width),
        "value/kernel": (keys, c.width),
        "query_norm/weight": (c.head_dim,),
        "key_norm/weight": (c.head_dim,),
        "out/kernel": (c.width, queries),
        "mlp_norm/weight": (c.width,),
        "gate/kernel": (c.mlp_width, c.width),
        "up/kernel": (c.mlp_width, c.width),
        "down/kernel": (c.width, c.mlp_width),
    }


def write_config(folder: Path, config: DecoderConfig) -> None:
    """Writes `config.json` as transformers' Qwen3 reads it."""
    stored = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(stored, indent=1) + "\n")


def load(folder: Path, config: DecoderConfig) -> dict[str, Any]:
    """The parameter tree stored in `folder`; without a stored critic its head is zeros.

    Raises:
      ModelError: the weights are absent, or tensors are missing, left over or of a wrong shape; it names them.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"model.folder={str(folder)!r} holds no {WEIGHTS}")
    stored = load_file(path)
    names = tensor_names(config)
    missing = sorted({there for _, there, _ in names} - set(stored))
    left_over = sorted(set(stored) - {there for _, there, _ in names})
    if missing or left_over:
        raise ModelError(f"{path}: missing {missing[:3]}, left over {left_over[:3]}; does config.json belong to it?")
    shapes = _shapes(config)
    for here, there, _ in names:
        if stored[there].shape != shapes[here.split("/", 1)[-1] if here.startswith("block_") else here]:
            raise ModelError(f"{path}: {there} has shape {stored[there].shape}; does config.json belong to it?")
    head = folder / VALUE_HEAD
    value_head = (
        load_file(head)
        if head.is_file()
        else {"kernel": np.zeros((config.width, 1), np.float32), "bias": np.zeros(1, np.float32)}
    )
    params: dict[str, Any] = {"value_head": value_head}
    for here, there, transposed in names:
        *parents, leaf = here.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = stored[there].T if transposed else stored[there]
    return {"params": params}


def save(folder: Path, config: DecoderConfig, params: dict[str, Any]) -> None:
    """Writes config and weights, the critic's head in a file of its own."""
    write_config(folder, config)
    tensors = {}
    for here, there, transposed in tensor_names(config):
        node = params["params"]
        for part in here.split("/"):
            node = node[part]
        tensors[there] = np.ascontiguousarray(np.asarray(node).T if transposed else np.asarray(node))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    head = {name: np.asarray(leaf) for name, leaf in params["params"]["value_head"].items()}
    save_file(head, folder / VALUE_HEAD)
