"""The families of Hugging Face's models: what their `config.json` says here, and what their tensors are called.

The life of a description: keys that are absent get the family's defaults, what this decoder cannot do is refused by
name, and the rest becomes a `DecoderConfig`. transformers 5 spells rotary settings `rope_parameters`, for Gemma one
for each kind of layer; transformers 4 `rope_theta`, `rope_scaling` and `rope_local_base_freq`. Both are read.

The families' tensors differ only by what the configuration says, so one table names them all.
"""

from typing import Any

from omar_jax.model.config import DecoderConfig, ModelError, RopeScaling

# ---------------------------------------------------------------- config.json

_DEFAULTS = {
    "vocab_size": 151_936,
    "num_key_value_heads": None,  # as many as heads
    "head_dim": None,  # hidden size / heads
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "rope_theta": 10_000.0,
}
_QWEN = _DEFAULTS | {
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
# What transformers takes where `config.json` is silent. Gemma's own files leave most sizes out.
FAMILIES = {
    "llama": _DEFAULTS | {"vocab_size": 32_000},
    "qwen2": _QWEN,
    "qwen3": _QWEN | {"head_dim": 128},
    "gemma3_text": _DEFAULTS
    | {
        "vocab_size": 262_208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
    },
}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
_REFUSED = (
    "mlp_bias",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "quantization_config",
)


def text_part(stored: dict[str, Any]) -> dict[str, Any]:
    """The text model's `config.json`: of a Gemma 3 that also sees, the part about text; of others all."""
    if stored.get("model_type") != "gemma3":
        return stored
    # Whether the heads are tied is said outside.
    tied = stored.get("tie_word_embeddings", True)
    return stored["text_config"] | {"model_type": "gemma3_text", "tie_word_embeddings": tied}


def decoder_config(stored: dict[str, Any]) -> DecoderConfig:
    """The decoder that a `config.json` describes.

    Raises:
      ModelError: the family or something in it is not supported, or a key is missing.
    """
    try:
        return _decoder_config(text_part(stored))
    except KeyError as error:
        raise ModelError(f"{error} is missing") from error
    except TypeError as error:
        raise ModelError(f"a value has a wrong type ({error})") from error


def _decoder_config(stored: dict[str, Any]) -> DecoderConfig:
    family = stored.get("model_type")
    if family not in FAMILIES:
        raise ModelError(f"model_type={family!r} is not supported; {', '.join([*FAMILIES, 'gemma3'])} are")
    for name in _REFUSED:
        if stored.get(name):
            raise ModelError(f"{name}={stored[name]!r} is not supported; it must be absent or off")
    stored = FAMILIES[family] | stored
    gemma = family == "gemma3_text"
    activation = stored["hidden_activation" if gemma else "hidden_act"]
    if activation not in _ACTIVATIONS:
        raise ModelError(f"activation {activation!r} is not supported; {' and '.join(_ACTIVATIONS)} are")
    window, windowed = _windows(family, stored)
    theta, scaling, window_theta = _rotary(stored, gemma)
    heads = stored["num_attention_heads"]
    return DecoderConfig(
        vocabulary=stored["vocab_size"],
        width=stored["hidden_size"],
        layers=stored["num_hidden_layers"],
        heads=heads,
        kv_heads=stored["num_key_value_heads"] or heads,
        head_dim=stored["head_dim"] or stored["hidden_size"] // heads,
        mlp_width=stored["intermediate_size"],
        rope_theta=theta,
        rope_scaling=scaling,
        norm_epsilon=stored["rms_norm_eps"],
        tied_embeddings=stored["tie_word_embeddings"],
        qk_norm=family in ("qwen3", "gemma3_text"),
        qkv_bias=family == "qwen2" or stored["attention_bias"],
        out_bias=family != "qwen2" and stored["attention_bias"],
        activation=_ACTIVATIONS[activation],
        embedding_scale=gemma,
        unit_offset_norm=gemma,
        sandwich_norm=gemma,
        query_scale=stored["query_pre_attn_scalar"] ** -0.5 if gemma else None,
        sliding_window=window,
        windowed_layers=windowed,
        window_rope_theta=window_theta if windowed else None,
    )


def _windows(family: str, stored: dict[str, Any]) -> tuple[int | None, tuple[bool, ...]]:
    """The sliding window and which layers have it; (None, ()) without."""
    layers, window = range(stored["num_hidden_layers"]), stored.get("sliding_window")
    if family == "llama" or (family != "gemma3_text" and not stored["use_sliding_window"]):
        return None, ()
    kinds = stored.get("layer_types")
    if kinds is None:
        if family == "gemma3_text":
            windowed = tuple(bool((layer + 1) % stored["sliding_window_pattern"]) for layer in layers)
        else:
            windowed = tuple(window is not None and layer >= stored["max_window_layers"] for layer in layers)
    elif set(kinds) <= {"full_attention", "sliding_attention"}:
        windowed = tuple(kind == "sliding_attention" for kind in kinds)
    else:
        raise ModelError(f"layer_types={sorted(set(kinds))}: only full_attention and sliding_attention are supported")
    return (window, windowed) if any(windowed) else (None, ())


def _rotary(stored: dict[str, Any], gemma: bool) -> tuple[float, RopeScaling | None, float | None]:
    """(base, its scaling, the windowed layers' own base)."""
    rope, scaling = stored.get("rope_parameters") or {}, stored.get("rope_scaling") or {}
    if not gemma:
        return *_rope(stored, scaling or rope, stored["rope_theta"]), None
    theta, scaling = _rope(stored, (rope.get("full_attention") or {}) | scaling, stored["rope_theta"])
    window_theta, none = _rope(stored, rope.get("sliding_attention") or {}, stored["rope_local_base_freq"])
    if none is not None:
        raise ModelError(f"rope scaling {none.kind!r} of sliding_attention is not supported; only full_attention's is")
    return theta, scaling, window_theta


def _rope(stored: dict[str, Any], rope: dict[str, Any], theta: float) -> tuple[float, RopeScaling | None]:
    """The base and scaling in one set of rotary settings, whose base is `theta` unless it says another."""
    if any(isinstance(value, dict) for value in rope.values()):
        raise ModelError(f"rope_parameters for each of {sorted(rope)} are supported for Gemma 3 only")
    part = rope.get("partial_rotary_factor", stored.get("partial_rotary_factor"))
    if part not in (None, 1):
        raise ModelError(f"partial_rotary_factor={part} is not supported; it must be absent or 1")
    theta = rope.get("rope_theta", theta)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling("linear", rope["factor"])
    if kind == "llama3":
        original = stored.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings")
        original = original or stored["max_position_embeddings"]
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        return theta, RopeScaling("llama3", rope["factor"], low, high, original)
    raise ModelError(f"rope_type={kind!r} is not supported; default, linear and llama3 are")


def qwen3_config_json(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` of a decoder with Qwen3's choices.

    Raises:
      ModelError: it makes other choices.
    """
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
    if decoder_config(stored) != config:
        raise ModelError(f"{config} is no plain Qwen3; write it with the config.json it came with")
    return stored


# ---------------------------------------------------------------- tensors


def tensor_names(config: DecoderConfig) -> list[tuple[str, str, bool]]:
    """(name here, name there, transposed) of every tensor but the critic's.

    Names here are paths in the parameter tree. Linear weights are [in, out] here and [out, in] there.
    """
    names = [("embedding", "model.embed_tokens.weight", False), ("final_norm/weight", "model.norm.weight", False)]
    if not config.tied_embeddings:
        names.append(("unembedding", "lm_head.weight", False))
    for layer in range(config.layers):
        names += [
            (f"block_{layer}/{here}", f"model.layers.{layer}.{there}", transposed)
            for here, there, transposed in _layer_names(config)
        ]
    return names


def _layer_names(c: DecoderConfig) -> list[tuple[str, str, bool]]:
    names = [("attention_norm/weight", "input_layernorm.weight", False)]
    for here, there, bias in (
        ("query", "self_attn.q_proj", c.qkv_bias),
        ("key", "self_attn.k_proj", c.qkv_bias),
        ("value", "self_attn.v_proj", c.qkv_bias),
        ("out", "self_attn.o_proj", c.out_bias),
        ("gate", "mlp.gate_proj", False),
        ("up", "mlp.up_proj", False),
        ("down", "mlp.down_proj", False),
    ):
        names.append((f"{here}/kernel", f"{there}.weight", True))
        if bias:
            names.append((f"{here}/bias", f"{there}.bias", False))
    if c.qk_norm:
        names.append(("query_norm/weight", "self_attn.q_norm.weight", False))
        names.append(("key_norm/weight", "self_attn.k_norm.weight", False))
    if c.sandwich_norm:
        # What the others call post_attention stands before their MLP; Gemma's stands after attention.
        names.append(("attention_out_norm/weight", "post_attention_layernorm.weight", False))
        names.append(("mlp_norm/weight", "pre_feedforward_layernorm.weight", False))
        names.append(("mlp_out_norm/weight", "post_feedforward_layernorm.weight", False))
    else:
        names.append(("mlp_norm/weight", "post_attention_layernorm.weight", False))
    return names


def tensor_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Name here -> shape here, of every tensor in `tensor_names`."""
    c = config
    queries, keys = c.heads * c.head_dim, c.kv_heads * c.head_dim
    of_tensor = {"embedding": (c.vocabulary, c.width), "unembedding": (c.vocabulary, c.width)}
    of_tensor |= {"query_norm/weight": (c.head_dim,), "key_norm/weight": (c.head_dim,)}
    for name, size in (
        ("query", (c.width, queries)),
        ("key", (c.width, keys)),
        ("value", (c.width, keys)),
        ("out", (queries, c.width)),
        ("gate", (c.width, c.mlp_width)),
        ("up", (c.width, c.mlp_width)),
        ("down", (c.mlp_width, c.width)),
    ):
        of_tensor |= {f"{name}/kernel": size, f"{name}/bias": size[1:]}

    def shape(name):
        name = name.split("/", 1)[-1] if name.startswith("block_") else name
        return of_tensor.get(name, (c.width,))  # all other norms

    return {here: shape(here) for here, _, _ in tensor_names(config)}


_ELSEWHERE = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
# Where models that also see keep the text model: transformers 5's layout, then 4's.
_TEXT_PREFIXES = (("model.language_model.", "model."), ("language_model.", ""))


def text_tensor(stored: str, config: DecoderConfig) -> str | None:
    """A stored tensor's name in a text model's file; None if the text model does not read it."""
    if stored.startswith(_ELSEWHERE) or stored.endswith(".rotary_emb.inv_freq"):
        return None
    for prefix, ours in _TEXT_PREFIXES:
        if stored.startswith(prefix):
            stored = ours + stored.removeprefix(prefix)
            break
    return None if config.tied_embeddings and stored == "lm_head.weight" else stored
