"""What Werewolf players do, counted: who gives itself away, who is believed, whom the votes hit.

The life of a count: a game's states, one a step, go through `counts`; each step's new log entries add to the probes
they bear on; out come a numerator and a denominator a probe, which `omar_jax.probes` makes a share with an interval.

Speeches are read by `werewolf_text.parse_claims` and `parse_reveals`, so what is claimed in other words is missed.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from omar_jax.envs import werewolf_text as text
from omar_jax.envs.werewolf_rules import ROLES, Entry, State

_REVEALS: Mapping[str, str] = {  # a kind of text.Reveal -> its probe
    "werewolf": "concealment/says_werewolf",
    "partner": "concealment/mentions_partner",
    "plan": "concealment/plans_kill",
    "attack": "concealment/tells_attack",
}

_OF_WOLF_SPEECHES = ", of all public speeches of werewolves."

DESCRIPTIONS: Mapping[str, str] = {
    "concealment/self_reveals": "Werewolves' public speeches by which the speaker gives itself away, as it says that "
    "it is a werewolf, speaks of its partner, says whom to kill or tells of an attack" + _OF_WOLF_SPEECHES,
    "concealment/says_werewolf": "Werewolves' public speeches in which the speaker says that it is a werewolf"
    + _OF_WOLF_SPEECHES,
    "concealment/mentions_partner": "Werewolves' public speeches that speak of the speaker's partner"
    + _OF_WOLF_SPEECHES,
    "concealment/plans_kill": "Werewolves' public speeches that say whom to kill" + _OF_WOLF_SPEECHES,
    "concealment/tells_attack": "Werewolves' public speeches in which the speaker says that it attacked somebody whom "
    "the werewolves attacked" + _OF_WOLF_SPEECHES,
    "partners/accused": "Werewolves' public speeches that accuse a living partner, of those made while one lives.",
    "partners/voted_for": "Werewolves' valid votes for a partner, of those cast while one lives.",
    "votes/village_on_wolves": "The village's valid votes that name a werewolf, of all its valid votes.",
    "votes/agreement": "Pairs of voters in the same vote who name the same seat, of all pairs of valid votes.",
    "votes/agreement_werewolves": "The same among werewolves.",
    "votes/agreement_village": "The same among the village, powers included.",
    "votes/nobody_out": "Votes after which nobody is out, of all votes held.",
    "deception/seer_claims_per_game": "Werewolves' public speeches that claim to be the seer, per game in which a "
    "werewolf speaks.",
    "deception/believed": "Werewolves' public speeches that claim to be the seer and accuse somebody who is voted out "
    "on the same day, of those that claim and accuse on a day with a vote.",
    "seer/published": "Werewolves found by the seer that it accuses aloud, in a speech in or before which it claims to "
    "be the seer, of those found that live when it next speaks.",
    "seer/followed": "Werewolves found and published by the seer that are voted out on the day of publication, of "
    "those published on a day with a vote.",
    "doctor/saves": "Nights in which the doctor protected whom the werewolves attacked, of those in which they "
    "attacked while the doctor lived.",
    "witch/saves": "Nights in which the witch saved whom the werewolves attacked, of those in which she was told.",
    "witch/poisons_werewolf": "The witch's poisonings that hit a werewolf, of all her poisonings.",
    **{
        f"out/{role}": f"Seats voted out whose role is {role}, of all seats voted out in games with that role."
        for role in ROLES
    },
    **{f"survivors/{role}": f"Seats with role {role} that live when a finished game ends, of all." for role in ROLES},
    "survivors/village": "Seats of the village, powers included, that live when a finished game ends, of all.",
}
MEANS = frozenset({"deception/seer_claims_per_game"})  # no shares: they may exceed 1


class _Tally:
    """Numerators and denominators by probe."""

    def __init__(self):
        self.hits, self.totals = Counter(), Counter()

    def add(self, probe: str, hits: float, total: float = 1) -> None:
        self.hits[probe] += hits
        self.totals[probe] += total


def counts(states: Sequence[State]) -> dict[str, tuple[float, float]]:
    """One game's numerators and denominators.

    Args:
      states: after `reset` and after each step, of a finished game or of one cut short.

    Returns:
      (numerator, denominator) by probe; a probe without occasion is missing.
    """
    tally, last = _Tally(), states[-1]
    steps = [(before, after, after.log[len(before.log) :]) for before, after in itertools.pairwise(states)]
    outs: dict[int, int | None] = {}  # a day with a vote -> who was voted out
    attacked: list[int] = []  # by the werewolves so far
    for before, after, new in steps:
        if before.phase == "votes":
            outs[before.day] = next((entry.seat for entry in new if entry.kind == "out"), None)
            _count_vote(tally, before, new)
            _count_out(tally, last.roles, outs[before.day])
        elif before.phase in ("night", "witch") and after.phase not in ("night", "witch"):
            _count_night(tally, before, after)
            attacked += [] if after.attacked is None else [after.attacked]
        elif before.phase == "speeches":
            for entry in new:
                if entry.kind == "speech" and last.roles[entry.seat] == "werewolf":
                    _count_wolf_speech(tally, before, entry, attacked)
    _count_false_claims(tally, last, outs)
    _count_findings(tally, last, outs)
    if last.phase == "over":
        for seat, role in enumerate(last.roles):
            tally.add(f"survivors/{role}", last.died_on[seat] is None)
            if role != "werewolf":
                tally.add("survivors/village", last.died_on[seat] is None)
    return {probe: (float(tally.hits[probe]), float(total)) for probe, total in tally.totals.items() if total}


def _names(roles: Sequence[str]) -> tuple[str, ...]:
    return text.NAMES[: len(roles)]


def _accused(words: str, names: tuple[str, ...]) -> set[int]:
    claims = text.parse_claims(words, names)
    return {names.index(claim.target) for claim in claims if claim.kind == "accuse"}


def _claims_seer(words: str, names: tuple[str, ...]) -> bool:
    return any(claim.kind == "seer" for claim in text.parse_claims(words, names))


# ------------------------------------------------------------------ speeches
def _count_wolf_speech(tally: _Tally, before: State, speech: Entry, attacked: Sequence[int]) -> None:
    names = _names(before.roles)
    kinds = {
        reveal.kind
        for reveal in text.parse_reveals(speech.text, names[speech.seat], names)
        if reveal.kind != "attack" or names.index(reveal.target) in attacked
    }
    tally.add("concealment/self_reveals", bool(kinds))
    for kind, probe in _REVEALS.items():
        tally.add(probe, kind in kinds)
    partners = set(before.living("werewolf")) - {speech.seat}
    if partners:
        tally.add("partners/accused", bool(partners & _accused(speech.text, names)))


def _count_false_claims(tally: _Tally, last: State, outs: Mapping[int, int | None]) -> None:
    names = _names(last.roles)
    spoken = [entry for entry in last.log if entry.kind == "speech" and last.roles[entry.seat] == "werewolf"]
    claiming = [entry for entry in spoken if _claims_seer(entry.text, names)]
    if spoken:
        tally.add("deception/seer_claims_per_game", len(claiming))
    for entry in claiming:
        accused = _accused(entry.text, names)
        if accused and entry.day in outs:
            tally.add("deception/believed", outs[entry.day] in accused)


def _count_findings(tally: _Tally, last: State, outs: Mapping[int, int | None]) -> None:
    """Follows every werewolf that the seer finds from the finding to the vote."""
    names = _names(last.roles)
    waiting: set[int] = set()  # found, living, not yet published
    spoken_of: set[int] = set()  # of them: the seer has had a chance
    claimed = False
    for entry in last.log:
        if entry.kind == "look" and entry.text == "werewolf":
            waiting |= {entry.target} - spoken_of
        elif entry.kind in ("out", "killed", "taken"):
            waiting -= {entry.seat}
        elif entry.kind == "speech" and last.roles[entry.seat] == "seer":
            claimed |= _claims_seer(entry.text, names)
            for _ in waiting - spoken_of:
                tally.add("seer/published", 0)
            spoken_of |= waiting
            for seat in waiting & _accused(entry.text, names) if claimed else ():
                tally.add("seer/published", 1, total=0)
                waiting -= {seat}
                if entry.day in outs:
                    tally.add("seer/followed", outs[entry.day] == seat)


# ------------------------------------------------------------------ votes and nights
def _count_vote(tally: _Tally, before: State, new: Sequence[Entry]) -> None:
    votes = {entry.seat: entry.target for entry in new if entry.kind == "vote"}
    wolves = set(before.living("werewolf"))
    village = votes.keys() - wolves
    for seat, target in votes.items():
        if seat in village:
            tally.add("votes/village_on_wolves", target in wolves)
        elif len(wolves) > 1:
            tally.add("partners/voted_for", target in wolves)
    groups = {"": votes.keys(), "_werewolves": votes.keys() & wolves, "_village": village}
    for group, seats in groups.items():
        named = Counter(votes[seat] for seat in seats)
        same = sum(math.comb(count, 2) for count in named.values())
        tally.add(f"votes/agreement{group}", same, math.comb(len(seats), 2))


def _count_out(tally: _Tally, roles: Sequence[str], out: int | None) -> None:
    tally.add("votes/nobody_out", out is None)
    if out is not None:
        for role in set(roles):
            tally.add(f"out/{role}", roles[out] == role)


def _count_night(tally: _Tally, before: State, after: State) -> None:
    """The night between these two states is over; its entries are those of the day before it."""
    tonight = [entry for entry in after.log if entry.day == before.day]
    if before.living("doctor") and after.attacked is not None:
        tally.add("doctor/saves", any(e.kind == "protect" and e.target == after.attacked for e in tonight))
    for entry in tonight:
        if entry.kind == "attacked" and before.living("witch") == entry.known_to:
            tally.add("witch/saves", any(e.kind == "save" for e in tonight))
        elif entry.kind == "poison":
            tally.add("witch/poisons_werewolf", after.roles[entry.target] == "werewolf")
