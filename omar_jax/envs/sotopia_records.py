"""Scenarios, characters, relationships and who meets whom: records in the schema that SOTOPIA published.

The life of a record: a line of a file becomes a mapping (`rows`), the mapping becomes a dataclass whose fields are
checked (`scenario`, `character`, ...), and records that belong together become a `Pack` (`sotopia_sources.load`), in
which everything that is named is there. What cannot be read is refused with its file and line.

Two spellings are published and both are read: `env_id`, `agent_id`, `agent1_id`, ... with levels as text in the files
of profiles, `pk`, `agent_1_id`, ... in SOTOPIA's own records (Zhou et al., arXiv:2310.11667).
"""

import ast
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omar_jax.envs import sotopia_points, sotopia_tags

LEVELS = (
    "stranger",
    "known by name",
    "acquaintance",
    "friend",
    "partner",
    "family",
)  # a relationship's number is its place


@dataclass(frozen=True)
class Scenario:
    """What people meet for.

    Attributes:
      id: published as env_id or pk.
      codename: a short name.
      source: where it comes from; in our own pack the kind of scenario.
      scenario: what everybody knows; may have tags, and placeholders (see `sotopia_deals.fill`) if it has points.
      agent_goals: [P] what each wants, known to that one alone; likewise.
      relationship: what they are to one another, a place in LEVELS; it rules what they know of one another.
      age_constraint, occupation_constraint, agent_constraint: who may play it, as published; None if anybody.
      points: how its outcome is counted (see `sotopia_points`), or None.
    """

    id: str
    codename: str
    source: str
    scenario: str
    agent_goals: tuple[str, ...]
    relationship: int
    age_constraint: str | None = None
    occupation_constraint: str | None = None
    agent_constraint: str | None = None
    points: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Character:
    """Somebody. Fields are named as published; `id` is published as agent_id or pk."""

    id: str
    first_name: str
    last_name: str
    age: int
    occupation: str
    gender: str
    gender_pronoun: str
    public_info: str
    big_five: str
    moral_values: tuple[str, ...]
    schwartz_personal_values: tuple[str, ...]
    personality_and_values: str
    decision_making_style: str
    secret: str
    mbti: str = ""

    @property
    def name(self) -> str:
        """First and last name."""
        return f"{self.first_name} {self.last_name}".strip()


@dataclass(frozen=True)
class Relationship:
    """What two characters are to one another; `relationship` is a place in LEVELS."""

    id: str
    agent_ids: tuple[str, str]
    relationship: int
    background_story: str


@dataclass(frozen=True)
class Combo:
    """A scenario and who plays it, in the order of its goals."""

    id: str
    scenario_id: str
    agent_ids: tuple[str, ...]


@dataclass(frozen=True)
class Pack:
    """Records that belong together: every combo's scenario and characters are there."""

    scenarios: Mapping[str, Scenario]
    characters: Mapping[str, Character]
    relationships: tuple[Relationship, ...]
    combos: tuple[Combo, ...]

    def only(self, wanted: Callable[[Scenario], bool]) -> "Pack":
        """The pack without the other scenarios and their combos."""
        kept = {id: scenario for id, scenario in self.scenarios.items() if wanted(scenario)}
        combos = tuple(combo for combo in self.combos if combo.scenario_id in kept)
        return dataclasses.replace(self, scenarios=kept, combos=combos)

    def split(self, combos: Iterable[Combo]) -> "Pack":
        """The pack with these combos instead, such as a published split."""
        combos = tuple(combos)
        for combo in combos:
            _check_combo(combo, self.scenarios, self.characters, f"combo {combo.id}")
        return dataclasses.replace(self, combos=combos)


# ------------------------------------------------------------------ one record
class _Row:
    """A record's fields, taken one by one under any of their names."""

    def __init__(self, row: Any, where: str):
        if not isinstance(row, Mapping):
            raise ValueError(f"{where}: is a {type(row).__name__}; a record must be an object")
        self.row, self.where = row, where

    def wrong(self, name: str, what: str) -> ValueError:
        return ValueError(f"{self.where}: {name} is {self.row.get(name)!r}; it must be {what}")

    def _named(self, names: tuple[str, ...]) -> tuple[str, Any]:
        found = next((name for name in names if name in self.row), None)
        if found is None:
            raise ValueError(f"{self.where}: lacks {' or '.join(names)}; it has {', '.join(self.row) or 'no fields'}")
        value = self.row[found]
        return found, value.decode() if isinstance(value, bytes) else value

    def text(self, *names: str) -> str:
        name, value = self._named(names)
        if not isinstance(value, str):
            raise self.wrong(name, "text")
        return value

    def maybe(self, name: str) -> str | None:
        """Text that may be missing: there are several spellings of null."""
        if self.row.get(name) is None:
            return None
        value = self.text(name)
        return None if value.strip().lower() in ("", "nan", "none", "null") else value

    def number(self, name: str) -> int:
        value = self._named((name,))[1]
        try:
            whole = int(value)
        except (TypeError, ValueError):
            whole = None
        if whole is None or isinstance(value, bool) or (isinstance(value, float) and value != whole):
            raise self.wrong(name, "a whole number")
        return whole

    def texts(self, *names: str) -> tuple[str, ...]:
        name, values = self._named(names)
        if isinstance(values, str) or not hasattr(values, "__iter__"):
            raise self.wrong(name, "a list of texts")
        values = [value.decode() if isinstance(value, bytes) else value for value in values]
        if not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "a list of texts")
        return tuple(values)

    def words(self, name: str) -> tuple[str, ...]:
        """A list of words, of which one spelling is a list written as text and split at its commas."""
        values = self.texts(name)
        joined = ",".join(values).strip()
        if joined.startswith("["):
            try:
                values = ast.literal_eval(joined)
            except (SyntaxError, ValueError):
                raise self.wrong(name, "a list of texts") from None
        return tuple(str(value).strip() for value in values)

    def level(self, name: str) -> int:
        number = self.number(name)
        if number not in range(len(LEVELS)):
            known = ", ".join(f"{place} ({level})" for place, level in enumerate(LEVELS))
            raise self.wrong(name, f"one of {known}")
        return number


def scenario(row: Any, where: str, strict: bool = True) -> Scenario:
    """Reads a scenario.

    Args:
      row: its fields.
      where: names it in errors.
      strict: refuse tags that are unknown or left open; otherwise open ones end with their text.

    Raises:
      ValueError: for a field that is missing or wrong.
    """
    fields = _Row(row, where)
    read = Scenario(
        id=fields.text("env_id", "pk"),
        codename=fields.text("codename"),
        source=fields.maybe("source") or "",
        scenario=fields.text("scenario"),
        agent_goals=fields.texts("agent_goals"),
        relationship=fields.level("relationship"),
        age_constraint=fields.maybe("age_constraint"),
        occupation_constraint=fields.maybe("occupation_constraint"),
        agent_constraint=fields.maybe("agent_constraint"),
        points=_points(row.get("points"), where),
    )
    if len(read.agent_goals) < 2:
        raise fields.wrong("agent_goals", "two goals or more")
    for name, text in (("scenario", read.scenario), *(("agent_goals", goal) for goal in read.agent_goals)):
        wrong = sotopia_tags.what_is_wrong(text)
        if strict and wrong:
            raise ValueError(f"{where}: {name} {wrong}: {text!r}")
    if read.points is not None:
        try:
            sotopia_points.check(read.points, len(read.agent_goals))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    return read


def _points(value: Any, where: str) -> Mapping[str, Any] | None:
    if isinstance(value, str | bytes):  # data sets hold it as JSON
        try:
            value = json.loads(value) if value else None
        except ValueError:
            raise ValueError(f"{where}: points are {value!r}, which is not JSON") from None
    return value


def character(row: Any, where: str) -> Character:
    """Reads a character; see `scenario`."""
    fields = _Row(row, where)
    texts = ("first_name", "last_name", "occupation", "gender", "gender_pronoun", "public_info", "big_five")
    texts += ("personality_and_values", "decision_making_style", "secret")
    return Character(
        id=fields.text("agent_id", "pk"),
        age=fields.number("age"),
        moral_values=fields.words("moral_values"),
        schwartz_personal_values=fields.words("schwartz_personal_values"),
        mbti=fields.maybe("mbti") or "",
        **{name: fields.text(name) for name in texts},
    )


def relationship(row: Any, where: str) -> Relationship:
    """Reads a relationship; see `scenario`."""
    fields = _Row(row, where)
    return Relationship(
        id=fields.text("relationship_id", "pk"),
        agent_ids=(fields.text("agent1_id", "agent_1_id"), fields.text("agent2_id", "agent_2_id")),
        relationship=fields.level("relationship"),
        background_story=fields.maybe("background_story") or "",
    )


def combo(row: Any, where: str) -> Combo:
    """Reads a combo; see `scenario`."""
    fields = _Row(row, where)
    return Combo(fields.text("combo_id", "pk"), fields.text("env_id"), fields.texts("agent_ids"))


# ------------------------------------------------------------------ files
FILES = {
    "scenarios": "environment_profiles.jsonl",
    "characters": "agent_profiles.jsonl",
    "relationships": "relationship_profiles.jsonl",
    "combos": "env_agent_combo_storages.jsonl",
}
READERS = {"scenarios": scenario, "characters": character, "relationships": relationship, "combos": combo}


def rows(path: Path) -> Iterator[tuple[str, Any]]:
    """What a file holds, each with the words that name its place in errors.

    Args:
      path: of JSON lines, or of one JSON list.

    Raises:
      ValueError: if it is not there or not JSON.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    text = path.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            yield from ((f"{path}, record {n}", row) for n, row in enumerate(json.loads(text), start=1))
            return
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON: {error}") from None
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: texts may hold other line ends
        if line.strip():
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}: is not JSON: {error}") from None


def read(path: Path, kind: str) -> list:
    """A file's records; `kind` is a key of READERS. Raises ValueError, naming file and line, for what is wrong."""
    return [READERS[kind](row, where) for where, row in rows(path)]


Placed = Iterable[tuple[str, Any]]  # (where, record)


def pack(scenarios: Placed, characters: Placed, relationships: Placed, combos: Placed) -> Pack:
    """A pack of records, each given with the words that name its place in errors.

    Raises:
      ValueError: for an id that occurs twice, or a combo of what is not there.
    """
    by_id, people = _by_id(scenarios), _by_id(characters)
    related, meetings = _by_id(relationships), []
    for where, meeting in combos:
        _check_combo(meeting, by_id, people, where)
        meetings.append(meeting)
    return Pack(by_id, people, tuple(related.values()), tuple(meetings))


def _by_id(placed: Placed) -> dict[str, Any]:
    found = {}
    for where, record in placed:
        if record.id in found:
            raise ValueError(f"{where}: the id {record.id} occurs a second time")
        found[record.id] = record
    return found


def _check_combo(meeting: Combo, scenarios: Mapping, characters: Mapping, where: str) -> None:
    if meeting.scenario_id not in scenarios:
        raise ValueError(f"{where}: env_id is {meeting.scenario_id!r}, which no scenario has")
    missing = [id for id in meeting.agent_ids if id not in characters]
    if missing:
        raise ValueError(f"{where}: agent_ids names {missing[0]!r}, which no character has")
    goals = len(scenarios[meeting.scenario_id].agent_goals)
    if len(meeting.agent_ids) != goals:
        raise ValueError(f"{where}: has {len(meeting.agent_ids)} agent_ids; its scenario has {goals} goals")
