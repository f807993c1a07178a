"""From what an environment says to token ids, and from sampled ids back to text.

The life of a prompt: the chat template is rendered once around a sentinel and split there. What stands before the
sentinel opens the user message and the shared stream; public and private events follow as lines of that same
message; a turn's cue ends with what stands after the sentinel, which closes the message and opens the assistant's.
A tokenizer without a chat template gets plain text.

The life of an utterance: nothing a player says may end a message, speak for the moderator or open a thought. So no
text, whoever wrote it, becomes a control token: an added token of the tokenizer that is more than blank space. Special
ones are not looked for in text; where any other (or one that ordinary merges arrive at) comes out, it is spelled: cut
after its first character. The ids differ, the text they decode to does not. What that costs is that harmless added
tokens, such as Gemma's HTML tags, are spelled too.
"""

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch is as it should be

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

GENERATION_CONFIG = "generation_config.json"
SENTINEL = "\u241fHERE\u241f"
OPEN_THOUGHT, CLOSE_THOUGHT = "<think>", "</think>"
NOTHING_THOUGHT = f"\n{CLOSE_THOUGHT}\n\n"  # after a template that opened a thought
# Templates that state the date get this one, so that a run continued on another day stays the same run. It is the
# one that Llama's templates give where there is no clock. The empty expression keeps a line break that may follow.
FIXED_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}{{ '' }}"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer stored in `folder` (tokenizer.json, tokenizer_config.json, chat template)."""
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"model.source={str(folder)!r} holds no tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(folder)


def generation_ends(folder: Path) -> tuple[int, ...]:
    """The ids that end a text by the folder's generation_config.json; none if there is no such file or entry.

    Raises:
      ValueError: the file is no JSON object, or its eos_token_id neither an id nor a list of ids.
    """
    file = folder / GENERATION_CONFIG
    if not file.is_file():
        return ()
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no JSON object: copy it again") from error
    found = [] if ends is None else ends if isinstance(ends, list) else [ends]
    if not all(type(end) is int for end in found):
        raise ValueError(f"{file} has eos_token_id={ends!r}: it must be a token id or a list of token ids")
    return tuple(found)


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The added tokens by id, all but blank ones ("▁" is how SentencePiece writes a space)."""
    added = {token: entry.content for token, entry in tokenizer.added_tokens_decoder.items()}
    return {token: content for token, content in added.items() if content.replace("▁", " ").strip()}


class Chat:
    """Encodes one environment's text for one tokenizer.

    Attributes:
      tokenizer: the Hugging Face tokenizer behind it.
      ends: the ids that end a turn, the usual one first: what the chat template writes after an assistant's text, the
        tokenizer's end of text, and those of `other_ends`.
      opening: the ids that the shared stream begins with.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, other_ends: Iterable[int] = (), thinking: bool = False):
        """Splits the tokenizer's chat template.

        Args:
          tokenizer: with or without a chat template.
          other_ends: further ids that end a turn, see `generation_ends`.
          thinking: whether the chat template shall let the model think before it speaks, if it knows how to.

        Raises:
          ValueError: no token ends a turn, or the chat template cannot be split; one line that says what to mend.
        """
        self.tokenizer = tokenizer
        self._controls = _control_tokens(tokenizer)
        special = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
        thought_marks = {OPEN_THOUGHT, CLOSE_THOUGHT}  # special ones too: `say` has to find them
        self._unheard = {token for token in special if self._controls.get(token) not in thought_marks}
        # The same lines come again and again: moderator text, votes, a small model's favourite phrases.
        self._encode_line = functools.lru_cache(maxsize=65536)(self._encode)

        before, after, closing = "", "\n", ""
        if tokenizer.chat_template:
            user, assistant = ({"role": role, "content": SENTINEL} for role in ("user", "assistant"))
            before, after = self._split_template([user], thinking)
            closing = self._split_template([{"role": "user", "content": "?"}, assistant], thinking)[1]
            self.opening = self._encode_template(before)
        else:
            # Only a beginning of text: some tokenizers put an end of text there too.
            empty = tokenizer("", add_special_tokens=True)["input_ids"]
            self.opening = tuple(token for token in empty if token == tokenizer.bos_token_id)
        self._answer = self._encode_template(after)
        self._opens_thought = after.rfind(OPEN_THOUGHT) > after.rfind(CLOSE_THOUGHT)
        self._before_given = self._encode_template(NOTHING_THOUGHT) if self._opens_thought else ()

        closes = next((token for token in self._encode_template(closing) if token in self._controls), None)
        first = [token for token in (closes, tokenizer.eos_token_id) if token is not None]
        self.ends: tuple[int, ...] = tuple(dict.fromkeys([*first, *other_ends]))
        if not self.ends:
            raise ValueError("no token ends a turn: set eos_token in tokenizer_config.json")

    @classmethod
    def from_folder(cls, folder: Path, thinking: bool = False) -> "Chat":
        """The chat of the model stored in `folder`; raises ValueError, one line, if its files cannot be used."""
        tokenizer, ends = load_tokenizer(folder), generation_ends(folder)
        try:
            return cls(tokenizer, ends, thinking)
        except ValueError as error:
            raise ValueError(f"model.source={str(folder)!r}: {error}") from error

    @property
    def end(self) -> int:
        """The id that ends given turns."""
        return self.ends[0]

    def _split_template(self, messages: list[dict[str, str]], thinking: bool) -> tuple[str, str]:
        """What the template writes before and after the last message's text, the sentinel."""
        template = FIXED_DATE + self.tokenizer.get_chat_template()
        errors = []
        for system in ([], [{"role": "system", "content": ""}]):  # some templates insist on a system message
            try:
                rendered = self.tokenizer.apply_chat_template(
                    system + messages,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=messages[-1]["role"] == "user",
                    enable_thinking=thinking,
                )
            except TemplateError as error:
                errors.append(error)
                continue
            parts = rendered.split(SENTINEL)
            if len(parts) != 2:
                raise ValueError(
                    f"the chat template writes the text of the {messages[-1]['role']}'s message {len(parts) - 1} times:"
                    " it must be once, as it stands; mend chat_template.jinja"
                )
            return parts[0], parts[1]
        roles = ", ".join(message["role"] for message in messages)
        reason = " ".join(str(errors[0]).split())
        raise ValueError(f"the chat template refuses the messages {roles} ({reason}): mend chat_template.jinja")

    def _encode_template(self, text: str) -> tuple[int, ...]:
        """The template's own text, control tokens as such."""
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"])

    def _encode(self, text: str) -> tuple[int, ...]:
        tokens = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if self._controls.keys().isdisjoint(tokens):
            return tuple(tokens)
        return tuple(part for token in tokens for part in self._spelled(token))

    def _spelled(self, token: int) -> tuple[int, ...]:
        """A control token as ordinary ones that decode to its text; any other token, and single letters, as is."""
        text = self._controls.get(token, "")
        return self._encode_line(text[:1]) + self._encode_line(text[1:]) if len(text) > 1 else (token,)

    def event(self, text: str) -> tuple[int, ...]:
        """Public or private text as lines of the open user message; the empty text is no tokens."""
        return tuple(token for line in text.split("\n") if line for token in self._encode_line(line + "\n"))

    def cue(self, text: str) -> tuple[int, ...]:
        """A question to one seat: it closes the user message and opens the seat's answer."""
        return self._encode_line(text) + self._answer

    def action(self, text: str) -> tuple[int, ...]:
        """An utterance as its speaker would sample it without a thought, end of turn included; for given games."""
        return (*self._before_given, *self._encode_line(text), self.end)

    def say(self, action: tuple[int, ...]) -> str:
        """Sampled ids as the text that the environment and the other seats get: thoughts are cut, whole or not."""
        spoken = action[:-1] if action and action[-1] in self.ends else action
        text = self.tokenizer.decode([token for token in spoken if token not in self._unheard])
        _, closed, said = text.rpartition(CLOSE_THOUGHT)
        if OPEN_THOUGHT in said or (self._opens_thought and not closed):
            return ""
        return said.strip()
