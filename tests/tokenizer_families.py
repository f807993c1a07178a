"""Small tokenizers that have the added tokens and the chat templates of large models' families, for tests of text."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import omar_jax
from omar_jax.text.chat import load_tokenizer

EMBEDDED = Path(omar_jax.__path__[0]) / "assets" / "embedded"


def byte_level(merges=()):
    """One token a byte, and those of `merges`; no space is put before lines."""
    vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_piece():
    """Letters, bytes for all other characters, "▁" for spaces, and pairs of spaces by a merge."""
    letters = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), "\n", "▁", "▁▁", *map(chr, range(33, 127))]
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("▁", "▁")], unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def finished(tokenizer, special="", ordinary=(), bos=None, eos=None, template=None):
    """With its added tokens: special ones (separated by blanks) and ordinary ones; with `bos` before all text."""
    tokenizer.add_special_tokens([AddedToken(marker, normalized=False) for marker in special.split()])
    tokenizer.add_tokens([AddedToken(marker, normalized=False) for marker in ordinary])
    if bos:
        first = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=first)
    found = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=eos)
    found.chat_template = template
    return found


CHATML_MESSAGES = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
QWEN_25 = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\nYou help.<|im_end|>\n' }}{%- endif %}"
    + CHATML_MESSAGES
    + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN_3 = (
    CHATML_MESSAGES + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
LLAMA_3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n<|eot_id|>' }}"
    "{%- for m in messages %}{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{- m.content | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{%- for m in messages -%}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('Conversation roles must alternate') }}{%- endif -%}"
    "{%- set role = 'model' if m.role == 'assistant' else m.role -%}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)
DEEPSEEK_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}"
    "{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
CHATML_SPECIAL = "<|endoftext|> <|im_start|> <|im_end|>"
TOOLS = ("<tool_call>", "</tool_call>", "<|fim_prefix|>")
THOUGHT = ("<think>", "</think>")
LLAMA_SPECIAL = "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eom_id|> <|eot_id|>"
HARMLESS = ("\n\n", "\n\n\n", "▁▁", "<table>", "</table>")  # and yet not special

FAMILIES = {
    "embedded": lambda: load_tokenizer(EMBEDDED),
    "qwen2.5": lambda: finished(byte_level(), CHATML_SPECIAL, TOOLS, eos="<|im_end|>", template=QWEN_25),
    "qwen3": lambda: finished(byte_level(), CHATML_SPECIAL, TOOLS + THOUGHT, eos="<|im_end|>", template=QWEN_3),
    "llama3": lambda: finished(
        byte_level(), LLAMA_SPECIAL, bos="<|begin_of_text|>", eos="<|end_of_text|>", template=LLAMA_3
    ),
    "gemma3": lambda: finished(
        sentence_piece(), "<pad> <eos> <bos> <start_of_turn> <end_of_turn>", HARMLESS, "<bos>", "<eos>", GEMMA_3
    ),
    "deepseek": lambda: finished(
        byte_level(),
        "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>",
        ("<｜User｜>", "<｜Assistant｜>", *THOUGHT),
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        DEEPSEEK_R1,
    ),
    "base": lambda: finished(
        byte_level(), "<|begin_of_text|> <|end_of_text|>", (), "<|begin_of_text|>", "<|end_of_text|>"
    ),
    "plain": lambda: finished(byte_level(), CHATML_SPECIAL, TOOLS, eos="<|endoftext|>"),
    # Ordinary merges arrive at special markers, too.
    "merging": lambda: finished(byte_level([("<", ">"), ("<>", "<")]), "<> <><", eos="<>"),
}
