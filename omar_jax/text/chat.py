"""From what an environment says to token ids, and from sampled ids back to text.

The life of a prompt: the chat template is rendered once around a sentinel and split there. What stands before the
sentinel opens the user message and the shared stream; public and private events follow as lines of that same
message; a turn's cue ends with what stands after the sentinel, which closes the message and opens the assistant's.
Text itself is always encoded with special tokens disabled, so nothing a player says can end a message or speak
for the moderator. A tokenizer without a chat template gets plain text.
"""

import functools
import os
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no PyTorch is as it should be

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SENTINEL = "\u241fHERE\u241f"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer stored in `folder` (tokenizer.json, tokenizer_config.json, chat template)."""
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"model.folder={str(folder)!r} holds no tokenizer.json")
    return PreTrainedTokenizerFast.from_pretrained(folder)


class Chat:
    """Encodes one environment's text for one tokenizer.

    Attributes:
      tokenizer: the Hugging Face tokenizer behind it.
      end: the id that ends a turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no end-of-turn token: set eos_token in its tokenizer_config.json")
        self.end: int = tokenizer.eos_token_id
        before, after = "", "\n"
        if tokenizer.chat_template:
            before, after = tokenizer.apply_chat_template(
                [{"role": "user", "content": SENTINEL}], tokenize=False, add_generation_prompt=True
            ).split(SENTINEL)
        self.opening = tuple(tokenizer.encode(before, add_special_tokens=False))
        self._answer = tuple(tokenizer.encode(after, add_special_tokens=False))
        # The same lines come again and again: moderator text, votes, a small model's favourite phrases.
        self._encode_line = functools.lru_cache(maxsize=65536)(self._encode)

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def event(self, text: str) -> tuple[int, ...]:
        """Public or private text as lines of the open user message; the empty text is no tokens."""
        return tuple(token for line in text.split("\n") if line for token in self._encode_line(line + "\n"))

    def cue(self, text: str) -> tuple[int, ...]:
        """A question to one seat: it closes the user message and opens the seat's answer."""
        return self._encode_line(text) + self._answer

    def action(self, text: str) -> tuple[int, ...]:
        """An utterance as its speaker would sample it, end of turn included; for given games."""
        return (*self._encode_line(text), self.end)

    def say(self, action: tuple[int, ...]) -> str:
        """Sampled ids as the text that the environment and the other seats get."""
        spoken = action[:-1] if action and action[-1] == self.end else action
        return self.tokenizer.decode(spoken, skip_special_tokens=True).strip()
