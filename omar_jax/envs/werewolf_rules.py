"""Werewolf's rules and states as data: rule sets, a game between two steps, and what a seat may know of it.

The life of a state: `werewolf.Werewolf` deals it; every step puts the next in its place, with what happened
added to its log; `view` cuts it down to what one seat may know, which is all that honest players read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args, get_type_hints

from omar_jax.envs import werewolf_text as text

ROLES = ("werewolf", "seer", "doctor", "witch", "hunter", "villager")


@dataclass(frozen=True)
class RuleSet:
    """The rules of a game, as data. Raises ValueError for rules that make no game."""

    werewolf: int  # how many seats have the role; powers (all but werewolf and villager) at most one each
    seer: int = 0
    doctor: int = 0
    witch: int = 0
    hunter: int = 0
    villager: int = 0
    discussion_rounds: int = 1  # before each vote; in a round all living talk at once
    tie: Literal["random", "nobody", "first"] = "random"  # first: named first, votes counted in seat order
    majority: bool = False  # only more than half of the living can vote a seat out
    seer_learns: Literal["team", "role"] = "team"
    reveal_on_death: Literal["team", "role", "nothing"] = "role"
    first_phase: Literal["night", "day"] = "night"
    kill_on_first_night: bool = True  # False lets only the seer act in the first night
    wolf_chat_rounds: int = 0  # talk among the werewolves before they choose, when two or more live
    # All at once, or in seat order, each told the choices before. Most named is attacked, ties at random.
    wolf_order: Literal["together", "in_turn"] = "together"
    doctor_protects: Literal["any", "others"] = "any"
    elimination_discount: float = 1.0  # multiplies a seat's reward for every day it missed, being dead
    max_days: int = 20  # safety stop: then the game is a draw with reward 0 for all
    max_speech_tokens: int = 24
    max_choice_tokens: int = 8

    def __post_init__(self):
        for setting, kind in get_type_hints(type(self)).items():
            if get_args(kind) and getattr(self, setting) not in get_args(kind):
                raise ValueError(f"{setting} is {getattr(self, setting)!r}; it must be one of {get_args(kind)}")
        if self.villager < 0 or any(getattr(self, role) not in (0, 1) for role in ROLES[1:-1]):
            raise ValueError(f"role counts are {self.counts}; powers occur at most once, none is negative")
        if not 1 <= self.werewolf < self.num_seats / 2:
            raise ValueError(f"werewolf is {self.werewolf} of {self.num_seats} seats; it must be under half")
        if self.num_seats > len(text.NAMES):
            raise ValueError(f"the roles fill {self.num_seats} seats; there are {len(text.NAMES)} names")

    @property
    def counts(self) -> Mapping[str, int]:
        """Seats by role, in the order of ROLES, without roles that do not occur."""
        return {role: getattr(self, role) for role in ROLES if getattr(self, role)}

    @property
    def num_seats(self) -> int:
        """How many play."""
        return sum(self.counts.values())


def mafia_rules(players: int, werewolves: int) -> RuleSet:
    """The plain game, without powers or talk."""
    return RuleSet(werewolf=werewolves, villager=players - werewolves, discussion_rounds=0)


_OMAR = RuleSet(werewolf=2, seer=1, doctor=1, villager=3, kill_on_first_night=False, wolf_chat_rounds=1)
_ARENA = RuleSet(werewolf=2, seer=1, doctor=1, villager=4, discussion_rounds=2, majority=True)
RULE_SETS: Mapping[str, RuleSet] = {
    "omar": _OMAR,
    "five": RuleSet(werewolf=1, seer=1, villager=3, kill_on_first_night=False),
    "sotopia": RuleSet(werewolf=2, seer=1, witch=1, villager=2, tie="first", wolf_order="in_turn"),
    "arena": replace(_ARENA, seer_learns="role", reveal_on_death="nothing"),
    "mafia": mafia_rules(players=7, werewolves=2),
    "mafia_6": mafia_rules(players=6, werewolves=2),
    "mafia_8": mafia_rules(players=8, werewolves=2),
}


@dataclass(frozen=True)
class Entry:
    """One thing that happened.

    Kinds: "speech", "vote", "out", "killed", "taken" (by the hunter); and known to some seats only "chat",
    "kill" (a werewolf's choice), "look", "attacked", "save", "poison", "protect".
    """

    day: int  # for a night's entry the day before it
    kind: str
    seat: int  # who did it; for deaths and attacks whom it befell
    text: str = ""  # what was said; for deaths what was revealed, for "look" what was found
    target: int | None = None
    known_to: tuple[int, ...] | None = None  # None: to all


@dataclass(frozen=True)
class Task:
    """What a seat is to do now."""

    kind: str  # a key of text.QUESTIONS
    choices: tuple[str, ...] = ()  # the legal answers; () is free talk


@dataclass(frozen=True)
class State:
    """A game between two steps."""

    seed: int
    roles: tuple[str, ...]  # [P]
    died_on: tuple[int | None, ...]  # [P] the day (for a night the day before it), None for the living
    steps: int = 0
    phase: str = "opening"  # whose answers are awaited: a key of `Werewolf.step`'s table, or "over"
    day: int = 0  # days begun
    night: int = 0
    round: int = 0  # of this day's talk, or of this night's chat
    tasks: Mapping[int, Task] = field(default_factory=dict)  # of the asked seats
    proposals: Mapping[int, int | None] = field(default_factory=dict)  # this night's, by werewolf
    protected: int | None = None  # this night
    attacked: int | None = None
    witch_can: tuple[str, ...] = ("save", "poison")
    after_hunter: str = ""  # "day" or "night": what follows the hunter's last act
    log: tuple[Entry, ...] = ()

    def living(self, role: str | None = None) -> tuple[int, ...]:
        """Living seats, those of one role if it is named, in seat order."""
        seats = range(len(self.roles))
        return tuple(s for s in seats if self.died_on[s] is None and role in (None, self.roles[s]))


@dataclass(frozen=True)
class View:
    """What one seat may know."""

    seat: int
    names: tuple[str, ...]  # [P]
    role: str
    partners: tuple[int, ...]  # a werewolf's, dead ones too
    living: tuple[int, ...]
    day: int
    log: tuple[Entry, ...]  # the public entries and those known to this seat
    task: Task | None  # None when it is not asked


def view(state: State, seat: int) -> View:
    """The state as this seat may know it; scripted players read nothing else."""
    role = state.roles[seat]
    wolves = tuple(s for s, its_role in enumerate(state.roles) if its_role == "werewolf" and s != seat)
    log = tuple(entry for entry in state.log if entry.known_to is None or seat in entry.known_to)
    partners = wolves if role == "werewolf" else ()
    names = text.NAMES[: len(state.roles)]
    return View(seat, names, role, partners, state.living(), state.day, log, state.tasks.get(seat))
