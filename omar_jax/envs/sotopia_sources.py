"""Where records come from: our own pack, and all forms in which SOTOPIA's were published.

The life of a pack: a path leads to files (`placed_records`), which are a folder of profiles, a file of conversations
with all that their players were told, or a dump of SOTOPIA's database; the records of any of them make a `Pack`.

The data set `cmu-lti/sotopia` on the Hugging Face hub holds conversations (`EPISODES`). They tell scenarios, goals and
biographies word for word, and how well two knew one another by what the first was told of the second; friends, couples
and families are told the same, and all count as friends here.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omar_jax.envs import sotopia_records as records
from omar_jax.envs.sotopia_records import LEVELS, Character, Combo, Pack, Relationship, Scenario

OWN_PACK = Path(__file__).parents[1] / "assets" / "sotopia"
EPISODES = "sotopia_episodes_v1.jsonl"
# The published scenarios that models fail at most (SOTOPIA-hard).
HARD = (
    *("01H7VFHN5WVC5HKKVBHZBA553R", "01H7VFHN7A1ZX5KSMT2YN9RXC4", "01H7VFHN7WJK7VWVRZZTQ6DX9T"),
    *("01H7VFHN9W0WAFZCBT09PKJJNK", "01H7VFHNF4G18PC9JHGRC8A1R6", "01H7VFHNN7XTR99319DS8KZCQM"),
    *("01H7VFHNNYH3W0VRWVY178K2TK", "01H7VFHNV13MHN97GAH73E3KM8", "01H7VFHP8AN5643B0NR0NP00VE"),
    *("01H7VFHPDZVVCDZR3AARA547CY", "01H7VFHPQQQY6H4DNC6NBQ8XTG", "01H7VFHPS5WJW2694R1MNC8JFY"),
    *("01H7VFHPSWGDGEYRP63H2DJKV0", "01H7VFHQ11NAMZS4A2RDGDB01V"),
)

_BIOGRAPHY = re.compile(
    r"is an? (?P<age>\d+)-year-old (?:(?P<gender>male|female|nonbinary) )?(?P<occupation>.*?)\. "
    r"(?P<gender_pronoun>\S+) pronouns\. (?P<public_info>.*?) ?"
    r"Personality and values description: (?P<personality_and_values>.*?) ?\S+'s secrets?: (?P<secret>.*)",
    re.DOTALL,
)
_GENDERS = {"male": "Man", "female": "Woman", "nonbinary": "Nonbinary", None: ""}
_KINDS = {  # by the classes of the database
    "EnvironmentProfile": "scenarios",
    "AgentProfile": "characters",
    "RelationshipProfile": "relationships",
    "EnvAgentComboStorage": "combos",
}

Placed = dict[str, list[tuple[str, Any]]]  # by kind: (where, record)


def chosen(scenario: Scenario, name: str) -> bool:
    """Whether a scenario is among "all", "hard" (those of HARD), or those of the source of this name."""
    return name == "all" or (scenario.id in HARD if name == "hard" else scenario.source == name)


def load(path: Path | str = OWN_PACK) -> Pack:
    """The pack that a path leads to; see `placed_records`."""
    return records.pack(**placed_records(path))


def placed_records(path: Path | str = OWN_PACK) -> Placed:
    """All records, by kind, each with the words that name its place in errors.

    Args:
      path: a folder with the files `sotopia_records.FILES` or with EPISODES; a file of conversations (.jsonl); or a
        dump of the database (.json: one object, records by key), whose open tags end with their texts.

    Raises:
      ValueError: naming file and line, for what is missing or wrong.
    """
    path = Path(path)
    if path.is_dir():
        files = {kind: path / name for kind, name in records.FILES.items()}
        if not any(file.is_file() for file in files.values()) and (path / EPISODES).is_file():
            return _from_episodes(path / EPISODES)
        return {kind: [(w, records.READERS[kind](r, w)) for w, r in records.rows(file)] for kind, file in files.items()}
    return _from_dump(path) if path.suffix == ".json" else _from_episodes(path)


# ------------------------------------------------------------------ a dump of the database
def _from_dump(path: Path) -> Placed:
    placed: Placed = {kind: [] for kind in records.FILES}
    try:
        dump = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(dump, Mapping):
        raise ValueError(f"{path}: is a {type(dump).__name__}; a dump must be an object, records by key")
    for key, row in dump.items():
        kind = next((kind for name, kind in _KINDS.items() if f".{name}:" in key), None)
        where = f"{path}, record {key}"
        if kind == "scenarios":
            placed[kind].append((where, records.scenario(row, where, strict=False)))
        elif kind:
            placed[kind].append((where, records.READERS[kind](row, where)))
    return placed


# ------------------------------------------------------------------ conversations
def _from_episodes(path: Path) -> Placed:
    found: dict[str, dict[Any, tuple[str, Any]]] = {kind: {} for kind in records.FILES}
    for where, row in records.rows(path):
        try:
            if {len(row[name]) for name in ("agent_ids", "agents_background", "social_goals")} != {2}:
                raise ValueError(f"{where}: is no conversation of two")
            scenario, characters = _scenario(row, where), _characters(row, where)
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{where}: is no published conversation ({type(error).__name__}: {error})") from None
        found["scenarios"].setdefault(scenario.id, (where, scenario))
        for character in characters:
            found["characters"].setdefault(character.id, (where, character))
        who = tuple(character.id for character in characters)
        known = Relationship("-".join(who), (who[0], who[1]), scenario.relationship, "")
        found["relationships"].setdefault(who, (where, known))
        meeting = Combo("-".join((scenario.id, *who)), scenario.id, who)
        found["combos"].setdefault(meeting.id, (where, meeting))
    return {kind: list(placed.values()) for kind, placed in found.items()}


def _scenario(row: Mapping[str, Any], where: str) -> Scenario:
    fields = {name: row[name] for name in ("codename", "scenario")}
    goals = list(row["social_goals"].values())
    told = row["raw_messages"][0][0][2]
    return records.scenario(
        {"env_id": row["environment_id"], "agent_goals": goals, "relationship": _level(row, told), **fields}, where
    )


def _level(row: Mapping[str, Any], told: str) -> int:
    """How well they know one another, by what the first was told of the second."""
    first, second = row["agents_background"]
    about = told.partition(f"\n{second}'s background:")[2].partition(f"\n{first}'s goal:")[0].strip()
    if about in ("", second):
        return LEVELS.index("known by name" if about else "stranger")
    return LEVELS.index("friend" if "Personality and values description:" in about else "acquaintance")


def _characters(row: Mapping[str, Any], where: str) -> list[Character]:
    return [
        _character(id, name, biography, where)
        for id, (name, biography) in zip(row["agent_ids"], row["agents_background"].items(), strict=True)
    ]


def _character(id: str, name: str, biography: str, where: str) -> Character:
    found = _BIOGRAPHY.fullmatch(biography.strip().removeprefix(name).strip())
    if not found:
        raise ValueError(f"{where}: the background of {name} is not worded as published: {biography!r}")
    first, _, last = name.partition(" ")
    return Character(
        id=id,
        first_name=first,
        last_name=last,
        big_five="",
        moral_values=(),
        schwartz_personal_values=(),
        decision_making_style="",
        **found.groupdict() | {"age": int(found["age"]), "gender": _GENDERS[found["gender"]]},
    )
