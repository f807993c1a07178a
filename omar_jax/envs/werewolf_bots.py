"""Scripted Werewolf players: who to imitate in the cold start, and whom to measure against.

The life of an answer: the player looks at the game as its seat may know it (`werewolf.view`), reads the
claims made so far (`read_evidence`), and decides by the habits of its role. Decisions are ordered lists of
rules (probability, seats): the first rule that has candidates and whose draw succeeds picks one of them.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from omar_jax.envs import werewolf_text as text
from omar_jax.envs.base import Ask, Environment, Player
from omar_jax.envs.werewolf_rules import State, View, view

Rules = Iterable[tuple[float, Collection[int]]]


@dataclass(frozen=True)
class Habits:
    """How often scripted players do what; all are probabilities, given that the occasion arises."""

    seer_reveals_wolf: float = 0.4  # the seer says aloud that it found a living werewolf
    seer_reveals_innocent: float = 0.15  # having found none, it clears somebody aloud
    seer_votes_found: float = 0.7  # for a werewolf it found
    seer_votes_claimant: float = 0.3  # for another who claims to be the seer
    villager_repeats_claim: float = 0.5  # of an accusation by somebody who claims to be the seer
    villager_accuses: float = 0.3  # anybody
    villager_trusts: float = 0.15
    villager_pleads: float = 0.05
    follow_seer_claim: float = 0.9  # votes for whom a claimant accuses
    counter_claimant: float = 0.3  # accused by a claimant himself, votes for the claimant
    avoid_cleared: float = 0.5  # votes for nobody a claimant cleared
    follow_plead: float = 0.3  # votes for somebody who pleaded today
    follow_accusation: float = 0.15  # votes for somebody accused today
    wolf_false_claim: float = 0.1  # claims to be the seer and accuses a villager
    wolf_pleads: float = 0.15
    wolf_accuses: float = 0.3
    wolf_votes_partner: float = 0.05  # if one lives
    wolf_joins: float = 0.2  # votes for the villager most accused today
    wolf_kills_claimant: float = 0.3  # attacks somebody who claims to be the seer
    wolf_follows: float = 0.8  # attacks whom a partner named first
    doctor_protects_claimant: float = 0.5
    doctor_protects_itself: float = 0.2
    witch_saves: float = 0.7
    witch_poisons: float = 0.7  # somebody a claimant accuses


@dataclass
class Evidence:
    """What the claims heard so far amount to; all sets hold living seats other than one's own.

    Claimants are those who said they are the seer, until their death shows they were not.
    """

    claimants: set[int] = field(default_factory=set)
    proven: set[int] = field(default_factory=set)  # accused by a claimant who died and was the seer
    accused: dict[int, set[int]] = field(default_factory=dict)  # by a claimant: seat -> claimants
    cleared: set[int] = field(default_factory=set)  # by a claimant
    my_accusers: set[int] = field(default_factory=set)  # claimants who accuse oneself
    suspected: list[int] = field(default_factory=list)  # accused today by others, once for each time
    pleading: set[int] = field(default_factory=set)  # today


def read_evidence(seen: View) -> Evidence:
    """Weighs the public speeches up to now."""
    evidence = Evidence()
    others = set(seen.living) - {seen.seat}
    revealed = {e.seat: e.text for e in seen.log if e.kind in ("out", "killed", "taken")}
    heard = [
        (entry, claim)
        for entry in seen.log
        if entry.kind == "speech" and entry.seat != seen.seat
        for claim in text.parse_claims(entry.text, seen.names)
    ]
    claimants = {entry.seat for entry, claim in heard if claim.kind == "seer"}
    believable = {seat for seat in claimants if revealed.get(seat, "") in ("", "seer", "innocent")}
    evidence.claimants = claimants & others
    for entry, claim in heard:
        target = None if claim.target is None else seen.names.index(claim.target)
        if claim.kind == "plead" and entry.day == seen.day and entry.seat in others:
            evidence.pleading.add(entry.seat)
        elif claim.kind == "accuse" and entry.seat in believable:
            if target == seen.seat:
                evidence.my_accusers |= {entry.seat} & others
            elif target in others:
                evidence.accused.setdefault(target, set()).add(entry.seat)
                evidence.proven |= {target} if revealed.get(entry.seat) == "seer" else set()
        elif claim.kind == "clear" and entry.seat in believable:
            evidence.cleared |= {target} & others
        elif claim.kind == "accuse" and entry.day == seen.day and target in others:
            evidence.suspected.append(target)
    return evidence


def _one_of(items: Collection, rng: np.random.Generator):
    # Sets of seats have no order of their own to replay by.
    ordered = sorted(items)
    return ordered[rng.integers(len(ordered))]


def _by_rules(rules: Rules, rng: np.random.Generator) -> int | None:
    """The pick of the first rule that applies; None if none does."""
    for probability, seats in rules:
        if seats and rng.random() < probability:
            return _one_of(seats, rng)
    return None


def _phrase(variants: Sequence[str], rng: np.random.Generator) -> str:
    return variants[rng.integers(len(variants))]


class RandomPlayer(Player):
    """Chooses uniformly among the legal choices and says nothing of consequence."""

    def act(
        self, env: Environment, state: State, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """See base.Player."""
        return _phrase(ask.options or state.tasks[seat].choices or text.SMALL_TALK, rng)


class ScriptedPlayer(Player):
    """Plays every role by habit, with what its seat may know."""

    def __init__(self, habits: Habits = Habits()):
        self.habits = habits

    def act(
        self, env: Environment, state: State, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """See base.Player."""
        seen = view(state, seat)
        evidence = read_evidence(seen)
        answer = {
            "speech": self._speech,
            "vote": self._vote,
            "chat": self._chat,
            "kill": self._kill,
            "look": self._look,
            "protect": self._protect,
            "witch": self._witch,
            "hunt": self._vote,
        }[seen.task.kind]
        return answer(seen, evidence, rng)

    # ------------------------------------------------------------------ talk
    def _speech(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        if seen.role == "werewolf":
            return self._wolf_speech(seen, rng)
        wolves, innocents = _findings(seen)
        if wolves and rng.random() < self.habits.seer_reveals_wolf:
            return _phrase(text.SEER_ACCUSES, rng).format(target=seen.names[_one_of(wolves, rng)])
        if not wolves and innocents and rng.random() < self.habits.seer_reveals_innocent:
            return _phrase(text.SEER_CLEARS, rng).format(target=seen.names[_one_of(innocents, rng)])
        return self._villager_speech(seen, evidence, rng)

    def _wolf_speech(self, seen: View, rng: np.random.Generator) -> str:
        habits, target = self.habits, seen.names[_one_of(_prey(seen), rng)]
        draw = rng.random()
        if draw < habits.wolf_false_claim:
            return _phrase(text.SEER_ACCUSES, rng).format(target=target)
        if draw < habits.wolf_false_claim + habits.wolf_pleads:
            return _phrase(text.PLEADS, rng)
        if draw < habits.wolf_false_claim + habits.wolf_pleads + habits.wolf_accuses:
            return _phrase(text.ACCUSES, rng).format(target=target)
        return _phrase(text.SMALL_TALK, rng)

    def _villager_speech(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        habits, names = self.habits, seen.names
        wolves, innocents = _findings(seen)
        others = set(seen.living) - {seen.seat}
        # The seer neither repeats a rival's claim nor speaks against what it knows.
        if seen.role != "seer" and evidence.accused and rng.random() < habits.villager_repeats_claim:
            target = _one_of(evidence.accused, rng)
            claimant = names[_one_of(evidence.accused[target], rng)]
            return _phrase(text.BELIEVES, rng).format(claimant=claimant, target=names[target])
        draw = rng.random()
        if draw < habits.villager_accuses and others - innocents:
            return _phrase(text.ACCUSES, rng).format(target=names[_one_of(others - innocents, rng)])
        draw -= habits.villager_accuses
        if 0 <= draw < habits.villager_trusts and others - wolves:
            return _phrase(text.TRUSTS, rng).format(target=names[_one_of(others - wolves, rng)])
        if 0 <= draw - habits.villager_trusts < habits.villager_pleads:
            return _phrase(text.PLEADS, rng)
        return _phrase(text.SMALL_TALK, rng)

    def _chat(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        return _phrase(text.CHAT, rng).format(target=self._prefer(seen, evidence, rng))

    # ------------------------------------------------------------------ votes
    def _vote(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        if seen.role == "werewolf":
            return self._wolf_vote(seen, evidence, rng)
        habits = self.habits
        others = set(seen.living) - {seen.seat}
        wolves, innocents = _findings(seen)
        rules = [(habits.seer_votes_found, wolves)]
        if seen.role == "seer":
            rules.append((habits.seer_votes_claimant, evidence.claimants))
        else:
            rules += [
                (1.0, evidence.proven),
                (habits.counter_claimant, evidence.my_accusers),
                (habits.follow_seer_claim, set(evidence.accused)),
            ]
        avoided = innocents | (evidence.cleared if rng.random() < habits.avoid_cleared else set())
        rules += [
            (habits.follow_plead, evidence.pleading - avoided),
            (habits.follow_accusation, [seat for seat in evidence.suspected if seat not in avoided]),
            (1.0, others - avoided),
            (1.0, others - innocents),
            (1.0, others),
        ]
        return seen.names[_by_rules(rules, rng)]

    def _wolf_vote(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        prey = _prey(seen)
        accused = [*evidence.suspected, *(s for s, by in evidence.accused.items() for _ in by)]
        accused = [seat for seat in accused if seat in prey]
        most = {seat for seat in accused if accused.count(seat) == max(map(accused.count, accused))}
        partners = set(seen.partners) & set(seen.living)
        rules = [(self.habits.wolf_votes_partner, partners), (self.habits.wolf_joins, most), (1.0, prey)]
        return seen.names[_by_rules(rules, rng)]

    # ------------------------------------------------------------------ nights
    def _prefer(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        prey = _prey(seen)
        rules = [(self.habits.wolf_kills_claimant, evidence.claimants & prey), (1.0, prey)]
        return seen.names[_by_rules(rules, rng)]

    def _kill(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        named = self._named_tonight(seen)
        if named is not None and rng.random() < self.habits.wolf_follows:
            return seen.names[named]
        return self._prefer(seen, evidence, rng)

    def _named_tonight(self, seen: View) -> int | None:
        """Whom the werewolves named first this night, in the chat or as a choice told."""
        for entry in seen.log:
            if entry.day != seen.day or entry.kind not in ("chat", "kill"):
                continue
            legal = text.first_name(entry.text, seen.task.choices)
            target = entry.target if legal is None else seen.names.index(legal)
            if target is not None:
                return target
        return None

    def _look(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        others = set(seen.living) - {seen.seat}
        known = {entry.target for entry in seen.log if entry.kind == "look"}
        return seen.names[_one_of(others - known or others, rng)]

    def _protect(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        legal = {seen.names.index(name) for name in seen.task.choices}
        rules = [
            (self.habits.doctor_protects_claimant, evidence.claimants & legal),
            (self.habits.doctor_protects_itself, {seen.seat} & legal),
            (1.0, legal),
        ]
        return seen.names[_by_rules(rules, rng)]

    def _witch(self, seen: View, evidence: Evidence, rng: np.random.Generator) -> str:
        saves = [choice for choice in seen.task.choices if choice.startswith(text.save(""))]
        if saves and rng.random() < self.habits.witch_saves:
            return saves[0]
        suspects = evidence.proven or set(evidence.accused)
        poisons = [text.poison(seen.names[seat]) for seat in suspects]
        poisons = [choice for choice in poisons if choice in seen.task.choices]
        if poisons and rng.random() < self.habits.witch_poisons:
            return _one_of(poisons, rng)
        return text.NOBODY


def _findings(seen: View) -> tuple[set[int], set[int]]:
    """What the seer found: living werewolves, living innocents."""
    looks = [entry for entry in seen.log if entry.kind == "look" and entry.target in seen.living]
    wolves = {entry.target for entry in looks if entry.text == "werewolf"}
    return wolves, {entry.target for entry in looks} - wolves


def _prey(seen: View) -> set[int]:
    """Living seats that are no werewolves, as werewolves know."""
    return set(seen.living) - {seen.seat, *seen.partners}
