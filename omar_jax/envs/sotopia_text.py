"""All wording of social scenarios: what each seat is told, and how its five kinds of action are written and read.

The life of an action: a player's text becomes an `Action` (`read_plain`, `read_json`), and everybody reads what it
was (`told`). Plain text is what somebody says; everything else has a short form of its own:

    Hello, Ben.          speak
    *nods*               non-verbal communication
    [action] sits down   action
    (nothing)            none
    (leaves)             leave

What a seat is told of the others depends on the scenario's relationship: strangers know nothing of one another,
then come the name, what is publicly known, and the personality. A secret is its owner's alone.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from omar_jax.envs import sotopia_deals, sotopia_tags
from omar_jax.envs.sotopia_points import Bargain
from omar_jax.envs.sotopia_records import Character, Scenario

NONE, SPEAK, NON_VERBAL, ACTION, LEAVE = KINDS = ("none", "speak", "non-verbal communication", "action", "leave")
_SILENT = (NONE, LEAVE)  # kinds without an argument
_GENDERS = {"Man": "male", "Woman": "female", "Nonbinary": "nonbinary"}
_BRACKETED = re.compile(r"\[(action|non-verbal|non-verbal communication)\]\s*(.*)", re.IGNORECASE)
_ENCLOSED = re.compile(r"\(([^()]*)\)")
_STARRED = re.compile(r"\*([^*]+)\*")
_FENCE = re.compile(r"^```(?:json)?\s*|\s*```$")
UNKNOWN = "Unknown"


@dataclass(frozen=True)
class Action:
    """What somebody does in a turn: one of KINDS, and what is said, shown or done; "" for none and leave."""

    kind: str
    argument: str = ""


DID_NOTHING = Action(NONE)


# ------------------------------------------------------------------ actions
def clean(text: str) -> str:
    """Free text on one line, so that no player can forge a line of another."""
    return " ".join(text.split())


def read_plain(text: str) -> Action | None:
    """The action in plain words; None if it is none: nothing at all, or a form that is not known or empty."""
    text = clean(text)
    enclosed, bracketed, starred = _ENCLOSED.fullmatch(text), _BRACKETED.fullmatch(text), _STARRED.fullmatch(text)
    if enclosed:
        word = enclosed[1].strip().lower()
        return Action(LEAVE) if word.startswith("leave") else DID_NOTHING if word == "nothing" else None
    if bracketed:
        kind = ACTION if bracketed[1].lower() == "action" else NON_VERBAL
        return Action(kind, bracketed[2]) if bracketed[2] else None
    if starred:
        return Action(NON_VERBAL, starred[1].strip()) if starred[1].strip() else None
    return Action(SPEAK, text) if text.strip("*[]() ") else None


def write_plain(action: Action) -> str:
    """The plain words of an action, which `read_plain` reads."""
    if action.kind == LEAVE:
        return "(leaves)"
    if action.kind == NONE:
        return "(nothing)"
    if action.kind == SPEAK:
        return action.argument
    return f"*{action.argument}*" if action.kind == NON_VERBAL else f"[action] {action.argument}"


def read_json(text: str) -> Action | None:
    """The action in SOTOPIA's JSON, {"action_type": one of KINDS, "argument": text}; None if it is none."""
    try:
        given = json.loads(_FENCE.sub("", text.strip()))
    except ValueError:
        return None
    if not isinstance(given, dict) or given.get("action_type") not in KINDS:
        return None
    kind, argument = given["action_type"], given.get("argument", "")
    if kind in _SILENT:
        return Action(kind)
    argument = clean(argument) if isinstance(argument, str) else ""
    return Action(kind, argument) if argument else None


def write_json(action: Action) -> str:
    """The JSON of an action, which `read_json` reads."""
    return json.dumps({"action_type": action.kind, "argument": action.argument}, ensure_ascii=False)


def in_words(action: Action) -> str:
    """An action as the published records tell it, after the name."""
    if action.kind == SPEAK:
        return f'said: "{action.argument}"'
    if action.kind in _SILENT:
        return "did nothing" if action.kind == NONE else "left the conversation"
    return f"[{action.kind}] {action.argument}"


def from_words(words: str) -> Action:
    """The action that `in_words` tells. Raises ValueError for other words."""
    said = re.fullmatch(r'said: "(.*)"', words, re.DOTALL)
    shown = re.fullmatch(rf"\[({NON_VERBAL}|{ACTION})\] ?(.*)", words, re.DOTALL)
    if said:
        return Action(SPEAK, said[1])
    if shown:
        return Action(shown[1], shown[2])
    silent = {in_words(Action(kind)): Action(kind) for kind in _SILENT}
    if words not in silent:
        raise ValueError(f"{words!r} tells no action")
    return silent[words]


# ------------------------------------------------------------------ people
def _facts(character: Character) -> str:
    gender = _GENDERS.get(character.gender, "")
    described = " ".join(word for word in (gender, character.occupation.lower()) if word)
    return f"is a {character.age}-year-old {described}. {character.gender_pronoun} pronouns. {character.public_info}"


def _personality(character: Character) -> str:
    return f"Personality and values description: {character.personality_and_values}"


def _secret(character: Character) -> str:
    return f"{character.first_name}'s secrets: {character.secret}"


def known(character: Character, relationship: int) -> str:
    """What others know of somebody by what they are to one another, a place in `sotopia_records.LEVELS`."""
    parts = ([], [character.name], [character.name, _facts(character)])
    if relationship < len(parts):
        return " ".join(parts[relationship])
    return " ".join((character.name, _facts(character), _personality(character)))


def biography(character: Character) -> str:
    """What somebody knows of himself."""
    return " ".join((character.name, _facts(character), _personality(character), _secret(character)))


def unknown_to_others(character: Character, relationship: int) -> str:
    """What `known` leaves out of a biography; all of it if it leaves no more than the name."""
    told = known(character, relationship)
    return biography(character).removeprefix(told if told != character.name else "").strip()


def participants(names: Sequence[str]) -> str:
    """Names as a list in words."""
    return f"{', '.join(names[:-1])}{',' * (len(names) > 2)} and {names[-1]}"


# ------------------------------------------------------------------ what a game is about
def told_scenario(scenario: Scenario, bargain: Bargain | None, names: Sequence[str], viewer: str | None) -> str:
    """The scenario as a viewer (see `sotopia_tags`) reads it."""
    text = sotopia_tags.visible(scenario.scenario, viewer)
    return text if bargain is None else sotopia_deals.fill(text, bargain, names)


def told_goal(scenario: Scenario, bargain: Bargain | None, names: Sequence[str], seat: int) -> str:
    """A seat's own goal, with all that its tags add."""
    text = sotopia_tags.visible(scenario.agent_goals[seat], sotopia_tags.player(seat))
    return text if bargain is None else sotopia_deals.fill(text, bargain, names, seat)


def first_observation(
    scenario: Scenario, characters: Sequence[Character], bargain: Bargain | None, names: Sequence[str], seat: int
) -> str:
    """All that a seat is told first, as the published records have it."""
    lines = [
        "Here is the context of this interaction:",
        f"Scenario: {told_scenario(scenario, bargain, names, sotopia_tags.player(seat))}",
        f"Participants: {participants([character.name for character in characters])}",
    ]
    for other, character in enumerate(characters):
        told = biography(character) if other == seat else known(character, scenario.relationship)
        lines.append(f"{character.name}'s background: {told}")
    for other, character in enumerate(characters):
        goal = told_goal(scenario, bargain, names, seat) if other == seat else UNKNOWN
        lines.append(f"{character.name}'s goal: {goal}")
    return "\n".join([*lines, "Conversation Starts:"])


def rules(form: str, max_turns: int, bargain: Bargain | None, names: Sequence[str]) -> str:
    """How to play, for those who have not learned it; `form` is "plain" or "json"."""
    lines = ["You play one of these people. Stay in character and pursue your goal."]
    if form == "json":
        lines.append(
            'In your turn answer {"action_type": TYPE, "argument": TEXT} alone. TYPE is "speak" (TEXT is what you '
            'say), "non-verbal communication" (what you show), "action" (what you do), "none" or "leave".'
        )
    else:
        lines.append(
            "In your turn write what you say and nothing else; or *what you show without words*, or [action] what you "
            "do, or (nothing), or (leaves)."
        )
    lines.append(f"The conversation ends after {max_turns} turns, or when somebody leaves.")
    if bargain is not None:
        how = " or ".join(f'"{example}"' for example in sotopia_deals.examples(bargain, names))
        lines.append(
            f'State a deal as {how} Accept the last deal stated with "{sotopia_deals.ACCEPTANCE}" '
            "Once all state the same deal it is agreed."
        )
    return "\n".join(lines)
