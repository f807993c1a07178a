"""Small GGUF files, written by llama.cpp's rules from weights in Hugging Face's form."""

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from transformers.convert_slow_tokenizer import bytes_to_unicode

from omar_jax.model import gguf_file

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
WIDTH, MLP, HEADS, KV_HEADS, HEAD_DIM, ROPE_BASE = 32, 64, 4, 2, 8, 500_000.0
LAYERS = {"gemma3": 7, "llama": 2, "qwen2": 2, "qwen3": 2}


def sentencepiece_vocabulary():
    """(token, score, type): Gemma's order in small; the best merge has the highest score."""
    pieces = ["▁t", "in", "he", "▁the", "▁w", "wo", "lf", "▁wolf", "wolf", "er", "▁er", "ing", "12"]
    letters = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'=(){}:*#▁é你好"]
    return [
        *((token, -1000.0, CONTROL) for token in ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>")),
        *((token, -1000.0, USER_DEFINED) for token in ("\n", "\n\n", "<table>")),
        *((" " * count, -1000.0, USER_DEFINED) for count in range(2, 32)),
        *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
        *((token, -float(rank), NORMAL) for rank, token in enumerate(pieces + letters)),
    ]


def byte_level_vocabulary():
    """Tokens, types and merges as in the files of Qwen and Llama 3."""
    merges = ["1 2", "12 3", "Ġ t", "h e", "Ġt he", "w o", "l f", "wo lf", "Ġ wolf"]
    tokens = [*bytes_to_unicode().values(), *(merge.replace(" ", "") for merge in merges), "<|end|>", "<think>"]
    return tokens, [NORMAL] * (len(tokens) - 2) + [CONTROL, USER_DEFINED], merges


def hugging_face_weights(architecture, tied=True):
    """Random float32 weights under Hugging Face's names, linear ones [out, in]."""
    random_numbers = np.random.default_rng(0)
    vocabulary = len(sentencepiece_vocabulary() if architecture == "gemma3" else byte_level_vocabulary()[0])
    queries, keys = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"model.embed_tokens.weight": (vocabulary, WIDTH), "model.norm.weight": (WIDTH,)}
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, WIDTH)
    for layer in range(LAYERS[architecture]):
        inside = {
            "input_layernorm.weight": (WIDTH,),
            "post_attention_layernorm.weight": (WIDTH,),
            "self_attn.q_proj.weight": (queries, WIDTH),
            "self_attn.k_proj.weight": (keys, WIDTH),
            "self_attn.v_proj.weight": (keys, WIDTH),
            "self_attn.o_proj.weight": (WIDTH, queries),
            "mlp.gate_proj.weight": (MLP, WIDTH),
            "mlp.up_proj.weight": (MLP, WIDTH),
            "mlp.down_proj.weight": (WIDTH, MLP),
        }
        if architecture == "qwen2":
            inside |= {
                f"self_attn.{name}_proj.bias": (size,) for name, size in (("q", queries), ("k", keys), ("v", keys))
            }
        if architecture in ("qwen3", "gemma3"):
            inside |= {"self_attn.q_norm.weight": (HEAD_DIM,), "self_attn.k_norm.weight": (HEAD_DIM,)}
        if architecture == "gemma3":
            inside |= {"pre_feedforward_layernorm.weight": (WIDTH,), "post_feedforward_layernorm.weight": (WIDTH,)}
        shapes |= {f"model.layers.{layer}.{name}": shape for name, shape in inside.items()}
    return {name: random_numbers.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def as_llama_cpp_stores(architecture, name, values):
    """(name, values) there: what its convert_hf_to_gguf.py does."""
    parts = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm" if architecture == "gemma3" else "ffn_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    if architecture == "llama" and ("q_proj" in name or "k_proj" in name):
        heads = HEADS if "q_proj" in name else KV_HEADS
        values = values.reshape(heads, 2, HEAD_DIM // 2, WIDTH).swapaxes(1, 2).reshape(values.shape)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        values = values + np.float32(1)
    for there, here in parts.items():
        name = name.replace(there, here)
    return name, values


def write_gguf(path, architecture, weights, kind=GGMLQuantizationType.F32, metadata=None, more_tensors=None):
    """A GGUF file of these weights; matrices quantized to `kind`. `metadata` adds keys (int, float, str)."""
    writer = GGUFWriter(path, architecture)
    numbers = {
        "block_count": LAYERS.get(architecture, 1),
        "embedding_length": WIDTH,
        "feed_forward_length": MLP,
        "context_length": 1024,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": HEAD_DIM,
        "attention.layer_norm_rms_epsilon": 1e-6,
        "rope.freq_base": ROPE_BASE,
    }
    if architecture == "gemma3":
        numbers["attention.sliding_window"] = 16
    keys = {f"{architecture}.{name}": value for name, value in numbers.items()}
    if architecture == "gemma3":
        tokens, scores, types = zip(*sentencepiece_vocabulary(), strict=True)
        keys["tokenizer.ggml.model"] = "llama"
        keys |= {"tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.bos_token_id": 2}
        keys |= {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3}
        writer.add_token_scores(list(scores))
    else:
        tokens, types, merges = byte_level_vocabulary()
        keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.eos_token_id": len(tokens) - 2}
        keys["tokenizer.ggml.pre"] = "llama-bpe" if architecture == "llama" else "qwen2"
        writer.add_token_merges(merges)
    writer.add_token_list(list(tokens))
    writer.add_token_types(list(types))
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in (keys | (metadata or {})).items():
        add[type(value)](key, value)
    for name, values in weights.items():
        there, stored = as_llama_cpp_stores(architecture, name, values)
        if stored.ndim == 2 and kind != GGMLQuantizationType.F32:
            writer.add_tensor(there, quantize(stored, kind), raw_dtype=kind)
        else:
            writer.add_tensor(there, stored)
    for name, values in (more_tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(path):
    """The folder that the file becomes."""
    folder = path.with_suffix("")
    folder.mkdir()
    gguf_file.convert(path, folder, lambda line: None)
    return folder
