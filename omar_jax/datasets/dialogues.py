"""Dialogues to learn from before training: any file of JSON lines with games or chats, as a data set.

The life of a dialogue: a line of the file is recognised by the key that holds what was said (`KINDS`), checked to be an
object, and kept as it stands, so that whoever teaches it reads its own format.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from omar_jax.datasets.prepared import Builder
from omar_jax.envs.sotopia_records import rows

KINDS = {  # the key that holds what was said, and what the line then is
    "messages": "chat",  # [{"role": ..., "content": ...}, ...]
    "turns": "game",  # of this project: a line of a run's episodes
    "actions": "werewolf",  # a published game of Werewolf
    "raw_messages": "sotopia",  # a published conversation of SOTOPIA
}


class Dialogue(NamedTuple):
    """A dialogue: of one of KINDS, and all its line says."""

    kind: str
    record: dict[str, Any]


class Dialogues(Builder):
    """Games or chats, a line each."""

    FEATURES = {  # noqa: RUF012
        "kind": tfds.features.Text(),
        "number": np.int64,  # of the line or, in a list, of the record
        "record": tfds.features.Text(),  # as JSON
    }

    def __init__(self, path: Path, folder: Path | None = None):
        if not path.is_file():
            raise ValueError(f"{path}: there is no such file; it must be a file of games or chats, a line each")
        super().__init__([path], folder)

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, (where, row) in enumerate(rows(self.files[0]), start=1):
            yield number, {"kind": _kind(row, where), "number": number, "record": json.dumps(row, ensure_ascii=False)}


def _kind(row: Any, where: str) -> str:
    if not isinstance(row, dict):
        raise ValueError(f"{where}: is a {type(row).__name__}; a dialogue must be an object")
    found = next((key for key in KINDS if key in row), None)
    if found is None:
        raise ValueError(f"{where}: has none of {', '.join(KINDS)}, one of which holds what was said")
    if not isinstance(row[found], list) or not row[found]:
        raise ValueError(f"{where}: {found} is {row[found]!r}; it must be a list of what was said")
    if KINDS[found] == "chat":
        for message in row[found]:
            if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
                raise ValueError(f"{where}: messages have {message!r}; each must have a role and a content, both text")
    return KINDS[found]


def load(path: Path | str, folder: Path | None = None) -> list[Dialogue]:
    """A file's dialogues, in its order.

    Args:
      path: of JSON lines.
      folder: where data sets are kept; None for the user's cache.

    Raises:
      ValueError: naming file and line, for what is no dialogue.
    """
    source = Dialogues(Path(path).expanduser(), folder).source()
    return [Dialogue(example["kind"].decode(), json.loads(example["record"])) for example in source]
