"""SOTOPIA's records as data sets: scenarios, characters, relationships, and who meets whom where.

The life of a pack: its origin is our own pack, a path, or a data set on the Hugging Face hub, which is downloaded
(`resolve`); four builders write its records in the published schema, checked; `load` reads them back as a
`sotopia_records.Pack`.
"""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from omar_jax.datasets.prepared import Builder, version_of
from omar_jax.envs import sotopia_records as records
from omar_jax.envs import sotopia_sources
from omar_jax.envs.sotopia_records import Character, Combo, Pack, Relationship, Scenario

HUB = "cmu-lti/sotopia"

_TEXT, _TEXTS, _NUMBER = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text()), np.int32


class _Records(Builder, skip_registration=True):
    """Records of one kind, from what a path leads to."""

    KIND: str

    def __init__(self, path: Path, folder: Path | None = None):
        self.path = path
        super().__init__(_files(path), folder)

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        placed = _read_once(self.path, version_of(self.files))
        for number, (_, record) in enumerate(placed[self.KIND]):
            yield number, self.example(record)

    def example(self, record: Any) -> dict[str, Any]:
        """The record under the published names."""
        raise NotImplementedError


@functools.lru_cache(maxsize=1)  # for all four builders
def _read_once(path: Path, version: str) -> sotopia_sources.Placed:
    placed = sotopia_sources.placed_records(path)
    missing = [kind for kind, found in placed.items() if not found]
    if missing:
        raise ValueError(f"{path}: has no {' and no '.join(missing)}")
    return placed


def _files(path: Path) -> list[Path]:
    names = (*records.FILES.values(), sotopia_sources.EPISODES)
    files = [file for file in (path / name for name in names) if file.is_file()] if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise ValueError(f"{path}: there is no such file, and no folder with {' or '.join(names)}")
    return files


class SotopiaScenarios(_Records):
    """What people meet for: the scenario, everybody's goal, and who may play it; `points` is JSON or empty."""

    KIND = "scenarios"
    FEATURES = {  # noqa: RUF012
        **dict.fromkeys(("env_id", "codename", "source", "scenario"), _TEXT),
        "agent_goals": _TEXTS,
        "relationship": _NUMBER,
        **dict.fromkeys(("age_constraint", "occupation_constraint", "agent_constraint", "points"), _TEXT),
    }

    def example(self, record: Scenario) -> dict[str, Any]:
        """See `_Records.example`."""
        fields = dict(vars(record))
        points = "" if record.points is None else json.dumps(record.points)
        nulls = {name: value or "" for name, value in fields.items() if name.endswith("_constraint")}
        return {"env_id": fields.pop("id"), **fields, **nulls, "points": points}


class SotopiaCharacters(_Records):
    """Somebody: name, age, occupation, what is publicly known, personality, values, and a secret."""

    KIND = "characters"
    FEATURES = {  # noqa: RUF012
        **dict.fromkeys(("agent_id", "first_name", "last_name"), _TEXT),
        "age": _NUMBER,
        **dict.fromkeys(("occupation", "gender", "gender_pronoun", "public_info", "big_five"), _TEXT),
        **dict.fromkeys(("moral_values", "schwartz_personal_values"), _TEXTS),
        **dict.fromkeys(("personality_and_values", "decision_making_style", "secret", "mbti"), _TEXT),
    }

    def example(self, record: Character) -> dict[str, Any]:
        """See `_Records.example`."""
        fields = dict(vars(record))
        return {"agent_id": fields.pop("id"), **fields}


class SotopiaRelationships(_Records):
    """What two characters are to one another."""

    KIND = "relationships"
    FEATURES = {  # noqa: RUF012
        **dict.fromkeys(("relationship_id", "agent1_id", "agent2_id"), _TEXT),
        "relationship": _NUMBER,
        "background_story": _TEXT,
    }

    def example(self, record: Relationship) -> dict[str, Any]:
        """See `_Records.example`."""
        first, second = record.agent_ids
        return {
            "relationship_id": record.id,
            "agent1_id": first,
            "agent2_id": second,
            "relationship": record.relationship,
            "background_story": record.background_story,
        }


class SotopiaCombos(_Records):
    """A scenario and who plays it."""

    KIND = "combos"
    FEATURES = {"combo_id": _TEXT, "env_id": _TEXT, "agent_ids": _TEXTS}  # noqa: RUF012

    def example(self, record: Combo) -> dict[str, Any]:
        """See `_Records.example`."""
        return {"combo_id": record.id, "env_id": record.scenario_id, "agent_ids": record.agent_ids}


BUILDERS = (SotopiaScenarios, SotopiaCharacters, SotopiaRelationships, SotopiaCombos)


def load(origin: str = "", report: Callable[[str], None] = print, folder: Path | None = None) -> Pack:
    """The pack of an origin, through its data sets.

    Args:
      origin: see `resolve`.
      report: is told in a line what takes time.
      folder: where data sets are kept; None for the user's cache.

    Raises:
      ValueError: naming file and line, for what is missing or wrong.
    """
    path = resolve(origin, report)
    return records.pack(
        **{
            builder.KIND: [
                (where, _read(builder.KIND, example, where))
                for where, example in _named(builder(path, folder).source(), f"{path}, {builder.KIND}")
            ]
            for builder in BUILDERS
        }
    )


def _named(source: Any, name: str) -> Iterator[tuple[str, Any]]:
    return ((f"{name} {number}", example) for number, example in enumerate(source, start=1))


def _read(kind: str, example: Any, where: str) -> Any:
    if kind == "scenarios":
        return records.scenario(example, where, strict=False)  # it was checked when it was written
    return records.READERS[kind](example, where)


def resolve(origin: str, report: Callable[[str], None] = print) -> Path:
    """The path that an origin leads to.

    Args:
      origin: "" for our own pack; a path that `sotopia_sources.load` knows; or "hub" for the published conversations
        on the Hugging Face hub, of which there are 180 MB.
      report: is told in a line what takes time.

    Raises:
      ValueError: the path is not there, or the hub cannot be reached.
    """
    if not origin:
        return sotopia_sources.OWN_PACK
    if origin != "hub":
        _files(Path(origin).expanduser())
        return Path(origin).expanduser()
    from huggingface_hub import snapshot_download

    report(f"{HUB}: looking at huggingface.co and downloading what is not in its cache")
    wanted = [*records.FILES.values(), sotopia_sources.EPISODES]
    try:
        found = Path(snapshot_download(HUB, repo_type="dataset", allow_patterns=wanted))
    except (OSError, ValueError) as error:
        detail = str(error).partition("\n")[0]
        raise ValueError(f"{HUB} could not be downloaded from huggingface.co: {detail}") from error
    _files(found)
    return found
