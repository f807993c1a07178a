"""Our decoders against transformers', family by family; and what of a `config.json` is understood or refused.

With torch the comparison is live, without it with what transformers gave once (`make_logits`).
"""

import dataclasses
from pathlib import Path

import family_cases
import jax
import numpy as np
import pytest
from family_cases import CASES, SLOW
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig

from omar_jax.model import families, hf
from omar_jax.model.attention import causal
from omar_jax.model.config import ModelError, RopeScaling
from omar_jax.model.decoder import Decoder

TOLERANCE = 1e-4  # the largest difference over the largest logit, in float32
STORED = np.load(Path(__file__).parent / "data" / "logits.npz")
every_case = pytest.mark.parametrize(
    ("family", "seed"),
    [
        pytest.param(*case, id=f"{case[0]}-{case[1]}", marks=[pytest.mark.slow] if case in SLOW else [])
        for case in CASES
    ],
)
every_family = pytest.mark.parametrize("family", sorted(families.FAMILIES))


def gap(found, wanted):
    assert found.shape == wanted.shape
    return np.abs(found - wanted).max() / np.abs(wanted).max()


def says(call, *arguments):
    with pytest.raises(ModelError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- logits


@every_case
def test_logits_are_those_transformers_gave_once(family, seed):
    """Of a plain text, and of all turns of games in two streams."""
    for asked, found in family_cases.our_logits(family, seed).items():
        assert gap(found, STORED[f"{family}-{seed}/{asked}"]) < TOLERANCE


@every_case
def test_logits_are_transformers(family, seed):
    """The same, live. A view that is an ordinary text is also given to transformers as an ordinary prompt."""
    pytest.importorskip("torch")
    import make_logits

    found = family_cases.our_logits(family, seed)
    stored = family_cases.config_json(family, seed)
    _, views = family_cases.games(seed)
    with family_cases.case_folder(family, seed) as folder:
        model = make_logits.read(folder)
    wanted = make_logits.logits_of(model, seed)
    for asked in wanted:
        assert gap(found[asked], wanted[asked]) < TOLERANCE
    has_windows = any(families.decoder_config(stored).windowed_layers)
    first, prompts = 0, 0
    for view in views:
        spoken = found["turns"][first : first + len(view.reads)]
        first += len(view.reads)
        # transformers' windows count tokens, ours positions.
        if view.is_causal and not (has_windows and view.has_gaps):
            assert gap(spoken, make_logits.prompt_logits(model, view)) < TOLERANCE
            prompts += 1
    assert prompts >= 3 and first == len(found["turns"])


def test_the_games_hold_every_kind_of_view():
    views = [view for seed in range(3) for view in family_cases.games(seed)[1]]
    assert {(view.is_causal, view.has_gaps) for view in views} == {(a, b) for a in (False, True) for b in (False, True)}
    assert max(len(view.tokens) for view in views) > 2 * 5  # beyond the windows


def test_the_cases_hold_every_choice():
    configs = [families.decoder_config(family_cases.config_json(*case)) for case in CASES if case not in SLOW]
    for choice in ("tied_embeddings", "qk_norm", "qkv_bias", "out_bias", "sandwich_norm"):
        assert {getattr(config, choice) for config in configs} == {False, True}
    assert {config.rope_scaling.kind for config in configs if config.rope_scaling} == {"linear", "llama3"}
    assert any(1 < config.kv_heads < config.heads for config in configs)
    assert any(config.head_dim != config.width // config.heads for config in configs)
    windows = {config.windowed_layers for config in configs}
    assert {(), (True, False), (False, True, True)} <= windows


@pytest.mark.parametrize(
    ("case", "change"),
    [
        pytest.param(("gemma3_text", 0), {"sliding_window": 6}, id="window"),
        pytest.param(("gemma3_text", 0), {"window_rope_theta": 40.0}, id="base"),
        pytest.param(("llama", 1), {"rope_scaling": RopeScaling("llama3", 8.0, original_positions=48)}, id="scaling"),
    ],
)
def test_the_tolerance_tells_choices_apart(case, change):
    config = families.decoder_config(family_cases.config_json(*case))
    with family_cases.case_folder(*case) as folder:
        params = hf.load(folder, config)
    found = family_cases.logits_of(dataclasses.replace(config, **change), params, case[1])
    for asked, logits in found.items():
        assert gap(logits, family_cases.our_logits(*case)[asked]) > 10 * TOLERANCE


# ---------------------------------------------------------------- config.json


@every_family
def test_defaults_are_those_of_transformers(family):
    theirs = AutoConfig.for_model(family)
    rope = theirs.rope_parameters
    known = {
        "rope_theta": rope.get("full_attention", rope).get("rope_theta"),
        "rope_local_base_freq": rope.get("sliding_attention", {}).get("rope_theta"),
        "sliding_window": family.startswith("qwen") and 4096,
        "sliding_window_pattern": 6,
        "num_key_value_heads": None if family == "llama" else theirs.num_key_value_heads,
        "head_dim": None if family == "llama" else theirs.to_dict().get("head_dim"),
        "attention_bias": False,
    }
    known["sliding_window"] = known["sliding_window"] or theirs.to_dict().get("sliding_window")
    for name, value in families.FAMILIES[family].items():
        if name == "hidden_act" and family == "gemma3_text":
            continue  # its name is hidden_activation there
        assert value == known.get(name, theirs.to_dict().get(name)), name


LLAMA_3_2_1B = {
    "model_type": "llama",
    "attention_bias": False,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
# Gemma's own 4B leaves to the defaults what is the same in all sizes.
GEMMA_3_4B = {
    "model_type": "gemma3",
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {"hidden_size": 1152, "model_type": "siglip_vision_model"},
}
QWEN_2_5 = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "max_window_layers": 21,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}


def test_llama_is_understood():
    config = families.decoder_config(LLAMA_3_2_1B)
    assert (config.width, config.heads, config.kv_heads, config.head_dim) == (2048, 32, 8, 64)
    assert config.rope(3) == (500_000.0, RopeScaling("llama3", 32.0, 1.0, 4.0, 8192))
    assert config.tied_embeddings and not (config.qk_norm or config.qkv_bias or config.windowed_layers)
    without = {name: value for name, value in LLAMA_3_2_1B.items() if name not in ("head_dim", "num_key_value_heads")}
    assert families.decoder_config(without) == dataclasses.replace(config, kv_heads=32)


def test_gemma_is_understood():
    config = families.decoder_config(GEMMA_3_4B)
    assert (config.vocabulary, config.heads, config.kv_heads, config.head_dim) == (262_208, 8, 4, 256)
    assert [layer for layer in range(34) if config.window(layer) is None] == [5, 11, 17, 23, 29]
    assert config.window(0) == 1024 and config.query_scale == 1 / 16 and config.tied_embeddings
    assert config.rope(0) == (10_000.0, None)
    assert config.rope(5) == (1_000_000.0, RopeScaling("linear", 8.0))
    newer = GEMMA_3_4B["text_config"] | {
        "rope_scaling": None,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
        "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(34)],
    }
    assert families.decoder_config(newer) == config


def test_qwen_is_understood():
    config = families.decoder_config(QWEN_2_5)
    assert config.head_dim == 64 and config.qkv_bias and not config.out_bias and not config.qk_norm
    assert config.sliding_window is None and config.windowed_layers == ()
    windowed = families.decoder_config(QWEN_2_5 | {"use_sliding_window": True})
    assert windowed.windowed_layers == (False,) * 21 + (True,) * 3 and windowed.window(21) == 32768
    assert windowed.rope(21) == (1_000_000.0, None)
    newer = QWEN_2_5 | {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    assert families.decoder_config(newer) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, "model_type='mamba' is not supported; llama, qwen2, qwen3, gemma3_text, gemma3 are"),
        ({"model_type": "qwen3_moe"}, "model_type='qwen3_moe' is not supported"),
        ({"mlp_bias": True}, "mlp_bias=True is not supported"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0 is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4} is not supported"),
        ({"hidden_act": "relu"}, "activation 'relu' is not supported; silu and gelu_pytorch_tanh are"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type='yarn' is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope_type='dynamic' is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ({"rope_scaling": {"rope_type": "linear"}}, "'factor' is missing"),
        ({"rope_parameters": {"full_attention": {}}, "rope_scaling": None}, "supported for Gemma 3 only"),
        ({"num_key_value_heads": 5}, "model.heads=32 must be a multiple of model.kv_heads=5"),
        ({"hidden_size": "wide", "head_dim": None}, "a value has a wrong type"),
        ({"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["chunked_attention"]}, "'chunked_attenti"),
        ({"model_type": "qwen3", "use_sliding_window": True, "layer_types": ["sliding_attention"]}, "16 entries"),
    ],
)
def test_what_is_not_supported_is_refused(changes, message):
    assert message in says(families.decoder_config, LLAMA_3_2_1B | changes)


def test_sliding_layers_with_scaling_are_refused():
    rope = {"sliding_attention": {"rope_type": "linear", "factor": 8.0}}
    message = says(families.decoder_config, GEMMA_3_4B["text_config"] | {"rope_parameters": rope})
    assert "of sliding_attention is not supported" in message


def test_a_missing_key_is_named():
    stored = {name: value for name, value in LLAMA_3_2_1B.items() if name != "hidden_size"}
    assert says(families.decoder_config, stored) == "'hidden_size' is missing"


def test_only_a_qwen3_is_described_as_one():
    config = families.decoder_config(family_cases.config_json("llama", 0))
    assert "is no plain Qwen3" in says(families.qwen3_config_json, config)


# ---------------------------------------------------------------- tensors


@every_case
def test_tensors_are_those_of_the_decoder(family, seed):
    config = families.decoder_config(family_cases.config_json(family, seed))
    tokens = np.zeros((1, 2), np.int32)
    attend = causal(config, tokens)
    made = jax.eval_shape(
        lambda key: Decoder(config).init(key, tokens, tokens, attend, method="init_all"), jax.random.key(0)
    )
    shapes = {"/".join(part.key for part in path[1:]): leaf.shape for path, leaf in jax.tree.leaves_with_path(made)}
    of_critic = {"value_head/kernel": (config.width, 1), "value_head/bias": (1,)}
    assert shapes == families.tensor_shapes(config) | of_critic


@pytest.mark.parametrize(
    ("text", "head"), [("language_model.model.", "language_model."), ("model.language_model.", "")], ids=["4", "5"]
)
def test_the_text_part_of_a_model_that_sees_is_read(text, head, tmp_path):
    """In the layouts of both versions of transformers; exported, it is a text model."""
    stored = family_cases.config_json("gemma3_text", 1)
    weights = family_cases.draw_weights(families.decoder_config(stored), 1)

    def there(name):
        return text + name.removeprefix("model.") if name.startswith("model.") else head + name

    renamed = {there(name): tensor for name, tensor in weights.items()}
    vision = "model.vision_tower." if head == "" else "vision_tower."
    renamed[vision + "embeddings.weight"] = np.ones(3, np.float32)
    seeing = {"model_type": "gemma3", "text_config": stored, "tie_word_embeddings": stored["tie_word_embeddings"]}
    hf.write_config(tmp_path, seeing)
    save_file(renamed, tmp_path / hf.WEIGHTS)
    config = hf.read_config(tmp_path)
    assert config == families.decoder_config(stored)
    exported = tmp_path / "exported"
    exported.mkdir()
    hf.save(exported, seeing, config, hf.load(tmp_path, config))
    found = load_file(exported / hf.WEIGHTS)
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.tobytes() for name, tensor in weights.items()
    }
    assert hf.read_config_json(exported) == stored | {"dtype": "float32"}


@every_family
def test_what_is_exported_transformers_reads_bit_by_bit(family, tmp_path):
    pytest.importorskip("torch")
    import make_logits

    with family_cases.case_folder(family, 1) as folder:
        config = hf.read_config(folder)
        params = hf.load(folder, config)
        hf.save(tmp_path, hf.read_config_json(folder), config, params, np.float32, max_shard_bytes=4000)
    assert (tmp_path / hf.INDEX).is_file()
    model = make_logits.read(tmp_path)
    found = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    wanted = family_cases.draw_weights(config, 1)
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.tobytes() for name, tensor in wanted.items()
    }
