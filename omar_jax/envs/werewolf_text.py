"""All wording of the Werewolf game: what the moderator says, what is asked, what scripted players say.

Phrasing is short and regular on purpose: models of a third of a million parameters learn it. `parse_claims`
reads the other way, from what a player said to what was claimed, for metrics and for scripted players;
`parse_reveals` finds where a werewolf gave itself away.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NAMES = (
    "Alice",
    "Bob",
    "Carol",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Iris",
    "Jack",
    "Kate",
    "Leo",
)

NOBODY = "nobody"  # the witch's choice to do nothing
NOBODY_DIED = "Nobody died."
NOBODY_OUT = "Nobody is out."

QUESTIONS: Mapping[str, str] = {  # a task -> how its cue goes on after "Bob the seer"
    "speech": "says:",
    "vote": "votes for:",
    "chat": "tells the partner:",
    "kill": "kills:",
    "look": "looks at:",
    "protect": "protects:",
    "witch": "brews:",
    "hunt": "takes along:",
}


def name_of(seat: int | None) -> str | None:
    """A seat's name; None of None."""
    return None if seat is None else NAMES[seat]


def with_article(role: str) -> str:
    """ "a werewolf", "a villager", but "the seer": powers are unique."""
    return f"a {role}" if role in ("werewolf", "villager") else f"the {role}"


def opening(names: Sequence[str], counts: Mapping[str, int]) -> str:
    """Roster and rules, about 45 words; counts are the number of seats by role, without zeros."""
    roles = ", ".join(f"{n} {role if n == 1 else plural(role)}" for role, n in counts.items())
    return (
        f"Players: {', '.join(names)}. Roles: {roles}.\n"
        "At night the werewolves kill. By day all talk, then vote one player out. The village wins when no "
        "werewolf lives. The werewolves win when they are at least half."
    )


def plural(role: str) -> str:
    """The role's plural."""
    return "werewolves" if role == "werewolf" else f"{role}s"


def role_card(name: str, role: str, partners: Sequence[str]) -> str:
    """A seat's secret; partners are the other werewolves' names for a werewolf, else empty."""
    card = f"You are {name}, {with_article(role)}."
    if not partners:
        return card
    return f"{card} Your {'partner is' if len(partners) == 1 else 'partners are'} {' and '.join(partners)}."


def cue(name: str, role: str, task: str) -> str:
    """The question of a task, always with name and role, which spares small models the looking up."""
    return f"{name} the {role} {QUESTIONS[task]}"


def utterance(name: str, text: str) -> str:
    """One line of talk; `text` is clean (see `clean`)."""
    return f"{name}: {text}" if text else f"{name} says nothing."


def clean(text: str) -> str:
    """Free text on one line, so that no player can forge a line of another or of the moderator."""
    return " ".join(text.split())


def vote(name: str, target: str | None) -> str:
    """A vote as announced; None is an abstention."""
    return f"{name} votes for {target}." if target else f"{name} abstains."


def chooses(name: str, target: str | None) -> str:
    """A werewolf's choice as told to the next werewolf."""
    return f"{name} chooses {target}." if target else f"{name} chooses nobody."


def death(name: str, kind: str, revealed: str) -> str:
    """A death as announced; kind is "out", "killed" or "taken", revealed a role, "innocent" or ""."""
    happened = {"out": "is out", "killed": "was killed", "taken": "is taken along by the hunter"}[kind]
    return f"{name} {happened}." + (f" {name} was {_described(revealed)}." if revealed else "")


def _described(found: str) -> str:
    return found if found == "innocent" else with_article(found)


def finding(name: str, found: str) -> str:
    """What the seer learns; found is a role or "innocent"."""
    return f"You looked at {name}. {name} is {_described(found)}."


def attacked(name: str) -> str:
    """What the witch is told while she can save."""
    return f"The werewolves attack {name} tonight."


def attack_failed(name: str) -> str:
    """What the werewolves are told."""
    return f"You attacked {name}. {name} lives."


def protected(name: str) -> str:
    """What the doctor is told."""
    return f"You protected {name}."


def save(name: str) -> str:
    """A choice of the witch."""
    return f"save {name}"


def poison(name: str) -> str:
    """A choice of the witch."""
    return f"poison {name}"


def potion_used(choice: str) -> str:
    """What the witch is told of her choice."""
    power, name = choice.split()
    return f"You {'saved' if power == 'save' else 'poisoned'} {name}."


def witch_choice(answer: str, choices: tuple[str, ...]) -> str | None:
    """The choice that free text names ("I will poison Bob"), or None."""
    if answer in choices:
        return answer
    words = answer.lower()
    saves = [choice for choice in choices if choice.startswith("save ")]
    if "save" in words and saves:
        return saves[0]
    if "poison" in words:
        names = tuple(choice.removeprefix("poison ") for choice in choices if choice.startswith("poison "))
        name = first_name(answer, names)
        return poison(name) if name else None
    return NOBODY if NOBODY in words else None


def victory(winner: str | None) -> str:
    """The last line of a game; None is a draw."""
    return {"village": "The village wins.", "werewolves": "The werewolves win.", None: "Nobody wins."}[winner]


# What scripted players say: variants of one meaning, to be drawn from uniformly. At most 12 words each.
SEER_ACCUSES = ("I am the seer. {target} is a werewolf.",)
SEER_CLEARS = ("I am the seer. {target} is innocent.",)
ACCUSES = ("I think {target} is a werewolf.", "I suspect {target}.")
BELIEVES = ("I believe {claimant}. {target} is a werewolf.",)
TRUSTS = ("I trust {target}.", "I think {target} is innocent.")
PLEADS = ("I am a villager. Please do not vote for me.",)
SMALL_TALK = (
    "I am not sure yet.",
    "I have nothing to say yet.",
    "Let us be careful.",
    "Let us hear the others first.",
    "We must find the werewolves.",
    "Who is the seer?",
)
CHAT = ("Let us kill {target}.",)


@dataclass(frozen=True)
class Claim:
    """Something claimed aloud.

    Attributes:
      kind: "seer" (to be the seer), "accuse", "clear" (somebody else), "plead" (for oneself).
      target: the name accused or cleared, else None.
    """

    kind: str
    target: str | None = None


_WOLF = r"(?:(?:a|the|one of the) )?(?:were)?(?:wolf|wolves)"


@functools.cache
def _claim_patterns(names: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    name = rf"(?P<target>{'|'.join(map(re.escape, names))})"
    negation = r"(?<!not )(?<!n't )(?<!never )"
    patterns = (
        ("seer", r"\bI(?: am|'m) (?:the|a) seer\b"),
        ("accuse", rf"\b{name} (?:is|must be|may be|might be|could be|looks like|seems to be) {_WOLF}\b"),
        ("accuse", rf"\bI (?:suspect|accuse) {name}\b"),
        ("accuse", rf"\b{negation}vote (?:for|out|against) {name}\b"),
        ("clear", rf"\b{name} (?:is|must be|seems|looks) (?:innocent|good|safe|clear|a villager)\b"),
        ("clear", rf"\b{name} (?:is not|isn't) {_WOLF}\b"),
        ("clear", rf"\bI trust {name}\b"),
        ("plead", r"\b(?:do not|don't) vote (?:for|out|against) me\b"),
    )
    return tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in patterns)


@functools.lru_cache(maxsize=65536)
def _claims(speaker_text: str, names: tuple[str, ...]) -> tuple[Claim, ...]:
    found = []
    for kind, pattern in _claim_patterns(names):
        for match in pattern.finditer(speaker_text):
            target = match.groupdict().get("target")
            found.append((match.start(), Claim(kind, _as_written(target, names) if target else None)))
    return tuple(claim for _, claim in sorted(found, key=lambda pair: pair[0]))


def parse_claims(speaker_text: str, names: tuple[str, ...]) -> list[Claim]:
    """The claims an utterance makes about these names, in the order they are made."""
    return list(_claims(speaker_text, names))


@dataclass(frozen=True)
class Reveal:
    """Something said aloud by which a werewolf gives itself away.

    Attributes:
      kind: "werewolf" (to be one), "partner" (to have one), "plan" (to kill somebody), "attack" (to have attacked
        somebody, which gives away only whoever did).
      target: the name to be killed or attacked, else None.
    """

    kind: str
    target: str | None = None


_SENTENCE = re.compile(r"[^.!?;:]+[.!?;:]*")
# Before a match in its clause: then somebody else is quoted, or nothing is said to be so.
_NOT_MEANT = re.compile(
    r"(?<!\bI )(?<!\bI must )(?<!\bI will )\b"
    r"(?:say|says|said|saying|claim|claims|claimed|think|thinks|thought|believe|believes|believed)\b"
    r"|\b(?:if|unless|whether|suppose|imagine|pretend|pretends|heard|why|prove|proves|deny|denies|not true|false)\b",
    re.IGNORECASE,
)


@functools.cache
def _reveal_patterns(speaker: str, names: tuple[str, ...]) -> tuple[tuple[str, re.Pattern[str]], ...]:
    name = rf"(?P<target>{'|'.join(map(re.escape, names))})"
    am, are, adverb = r"(?: am|'m)", r"(?: are|'re)", r"(?: (?:\w+ly|indeed|also))?"
    wolf, wolves = rf"{_WOLF}\b(?!['-])(?! hunter)", r"(?:were)?wolves\b"
    will = r"(?:let us|let's|(?:I|we) (?:will|want to|should|must|can)|(?:I|we)'ll)"
    patterns = (
        ("werewolf", rf"\bI{am}{adverb} {wolf}"),
        ("werewolf", rf"\b{re.escape(speaker)} (?:is|am) {wolf}"),
        ("werewolf", rf"\bmy (?:role|card) (?:is|says) {wolf}"),
        ("werewolf", rf"^as {wolf},? (?:I|we)\b"),
        ("werewolf", rf"\b(?:we|us)(?:{are}{adverb}|,)?(?: both| all)?(?: the)? {wolves}"),
        ("partner", r"(?<!not )(?<!n't )\b(?:my|our) (?:(?:fellow|other) )?(?:(?:were)?wolf )?partners?\b"),
        ("partner", rf"\b(?:my|our) (?:fellow|other) (?:(?:were)?wolf\b|{wolves})"),
        ("partner", rf"\b{name} and I{are}(?: both| the)* (?:{wolves}|partners\b)"),
        ("plan", rf"(?:\b{will} |^)(?:kill|attack|murder|eat) {name}\b"),
        ("attack", rf"\b(?:I|we) (?:have |had |just )*(?:killed|attacked|murdered|ate|eaten) {name}\b"),
    )
    return tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in patterns)


@functools.lru_cache(maxsize=65536)
def parse_reveals(speaker_text: str, speaker: str, names: tuple[str, ...]) -> tuple[Reveal, ...]:
    """By which words the speaker gives itself away as a werewolf, sentence by sentence; whether they are true is open.

    Questions, conditions, denials and what others are quoted with do not count. To kill is a werewolf's word:
    whom the village votes out "is out".
    """
    found = []
    for sentence in _SENTENCE.findall(speaker_text.replace("’", "'")):
        if sentence.endswith("?"):
            continue
        for kind, pattern in _reveal_patterns(speaker, names):
            for match in pattern.finditer(sentence.strip()):
                clause = match.string[: match.start()].rpartition(",")[2]
                if not _NOT_MEANT.search(clause):
                    target = match.groupdict().get("target") if kind in ("plan", "attack") else None
                    found.append(Reveal(kind, _as_written(target, names) if target else None))
    return tuple(found)


@functools.cache
def _name_pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b", re.IGNORECASE)


def first_name(text: str, names: tuple[str, ...]) -> str | None:
    """The first of these names that occurs in the text as a word, or None."""
    if text in names:
        return text
    match = _name_pattern(names).search(text) if names else None
    return _as_written(match.group(), names) if match else None


def _as_written(found: str, names: tuple[str, ...]) -> str:
    return next(name for name in names if name.lower() == found.lower())
