"""Werewolf: the game, under any rule set of `werewolf_rules`.

The life of a game: the opening deals role cards; then nights (werewolves talk and choose, seer looks, doctor
protects, witch decides) and days (rounds of talk, a vote) alternate until werewolves are at least half of the
living, or none of them lives. Every step collects what the asked seats answered and goes on to the next
question; phases in which nobody has anything to do are passed over.

Random play has known win probabilities (Migdal, arXiv:1009.1031); the tests hold the game to them.
"""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from omar_jax.envs import werewolf_text as text
from omar_jax.envs.base import Ask, Environment, Step
from omar_jax.envs.werewolf_rules import Entry, RuleSet, State, Task, view


def _revealed(role: str, what: str) -> str:
    team = "werewolf" if role == "werewolf" else "innocent"
    return {"role": role, "team": team, "nothing": ""}[what]


class _Draft:
    """A step in the making: the changing state, and what will be told, asked and counted."""

    def __init__(self, state: State):
        self.seed = (state.seed, state.steps + 1)  # (seed, 0) would repeat the deal's draws
        self.state = replace(state, steps=state.steps + 1, tasks={})
        self.public: list[str] = []
        self.private: dict[int, list[str]] = {}
        self.tasks: dict[int, Task] = {}
        self.log: list[Entry] = []
        self.events: Counter[str] = Counter()
        self.rewards: dict[int, float] | None = None

    def pick(self, seats: list[int]) -> int:
        return seats[0] if len(seats) == 1 else seats[self.rng.integers(len(seats))]

    @functools.cached_property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def whisper(self, seats: tuple[int, ...], line: str) -> None:
        for seat in seats:
            self.private.setdefault(seat, []).append(line)

    def note(self, kind: str, seat: int, words: str = "", target: int | None = None, known_to=None) -> None:
        self.log.append(Entry(self.state.day, kind, seat, words, target, known_to))


class Werewolf(Environment):
    """The game under one rule set.

    With `legal_choices`, votes and night choices are asked with options; otherwise the answer is free text in
    which the first legal name counts. An answer that names nobody legal is invalid: it is counted in the
    event "invalid", and its vote is an abstention, its night's choice none.
    """

    def __init__(self, rules: RuleSet, legal_choices: bool = True):
        self.rules = rules
        self.legal_choices = legal_choices
        self.counts = "wins"
        self.num_seats = rules.num_seats
        self.seat_names = text.NAMES[: rules.num_seats]
        self.role_names = tuple(rules.counts)
        self.choices = self._choices() if legal_choices else ()

    def _choices(self) -> tuple[str, ...]:
        potions = (text.NOBODY, *map(text.save, self.seat_names), *map(text.poison, self.seat_names))
        return self.seat_names + (potions if self.rules.witch else ())

    def reset(self, seed: int) -> State:
        """Shuffles the roles."""
        dealt = [role for role, count in self.rules.counts.items() for _ in range(count)]
        order = np.random.default_rng(seed).permutation(self.num_seats)
        return State(seed, tuple(dealt[place] for place in order), died_on=(None,) * self.num_seats)

    def roles(self, state: State) -> tuple[str, ...]:
        """[P] role names."""
        return state.roles

    def names(self, state: State) -> tuple[str, ...]:
        """[P] the same in every game."""
        return self.seat_names

    def result(self, role: str, reward: float, events: Mapping[str, float]) -> float:
        """1 for those whose side won."""
        return float(reward > 0)

    def joint_result(self, events: Mapping[str, float]) -> None:
        """One side's win is the other's loss."""

    def team(self, role: str) -> str:
        """Returns "werewolves" or "village"."""
        return "werewolves" if role == "werewolf" else "village"

    def step(self, state: State, actions: Mapping[int, str]) -> Step:
        """Plays the asked seats' answers. Raises ValueError if others act, or after the end."""
        if state.phase == "over" or set(actions) != set(state.tasks):
            raise ValueError(f"seats {sorted(actions)} act in phase {state.phase}, asked: {sorted(state.tasks)}")
        draft = _Draft(state)
        play = {
            "opening": self._open,
            "chat": self._hear_chat,
            "night": self._take_night_choices,
            "witch": self._take_witch_choice,
            "speeches": self._hear_speeches,
            "votes": self._count_votes,
            "hunter": self._take_hunter_choice,
        }[state.phase]
        play(draft, state.tasks, dict(sorted(actions.items())))
        return self._finish(draft)

    def _finish(self, draft: _Draft) -> Step:
        state = replace(draft.state, tasks=draft.tasks, log=draft.state.log + tuple(draft.log))
        asks = {seat: self._ask(state, seat, task) for seat, task in sorted(draft.tasks.items())}
        # Whoever dies in a night never hears what it found in it.
        told = {s: "\n".join(lines) for s, lines in sorted(draft.private.items()) if state.died_on[s] is None}
        events = {name: float(count) for name, count in draft.events.items()}
        return Step(state, "\n".join(draft.public), told, asks, draft.rewards, events)

    def _ask(self, state: State, seat: int, task: Task) -> Ask:
        cue = text.cue(text.NAMES[seat], state.roles[seat], task.kind)
        if not task.choices:
            return Ask(cue, self.rules.max_speech_tokens)
        return Ask(cue, self.rules.max_choice_tokens, task.choices if self.legal_choices else None)

    def _names(self, seats: tuple[int, ...], without: tuple[int, ...]) -> tuple[str, ...]:
        return tuple(text.NAMES[seat] for seat in seats if seat not in without)

    def _chosen(self, draft: _Draft, task: Task, answer: str) -> int | None:
        """The seat an answer names; None, counted as invalid, if it names nobody legal."""
        name = text.first_name(answer, task.choices)
        draft.events["invalid"] += name is None
        return None if name is None else text.NAMES.index(name)

    # ------------------------------------------------------------------ opening, deaths, end
    def _open(self, draft: _Draft, tasks: Mapping[int, Task], answers: Mapping[int, str]) -> None:
        draft.public.append(text.opening(self.seat_names, self.rules.counts))
        for seat, role in enumerate(draft.state.roles):
            partners = [text.NAMES[other] for other in view(draft.state, seat).partners]
            draft.whisper((seat,), text.role_card(text.NAMES[seat], role, partners))
        (self._begin_night if self.rules.first_phase == "night" else self._begin_day)(draft)

    def _bury(self, draft: _Draft, seat: int, kind: str) -> None:
        state = draft.state
        revealed = _revealed(state.roles[seat], self.rules.reveal_on_death)
        died_on = (*state.died_on[:seat], state.day, *state.died_on[seat + 1 :])
        draft.state = replace(state, died_on=died_on)
        draft.note(kind, seat, revealed)
        draft.public.append(text.death(text.NAMES[seat], kind, revealed))

    def _go_on(self, draft: _Draft, dead: list[int], then: str) -> None:
        """After deaths: the hunter's last act, then the end of the game or the next phase."""
        living, wolves = draft.state.living(), draft.state.living("werewolf")
        hunters = [seat for seat in dead if draft.state.roles[seat] == "hunter"]
        if hunters and living:  # the only thing ever asked of a dead seat
            draft.tasks[hunters[0]] = Task("hunt", self._names(living, ()))
            draft.state = replace(draft.state, phase="hunter", after_hunter=then)
        elif not wolves:
            self._end(draft, "village")
        elif 2 * len(wolves) >= len(living):
            self._end(draft, "werewolves")
        elif then == "night":
            self._begin_night(draft)
        elif draft.state.day < self.rules.max_days:
            self._begin_day(draft)
        else:
            self._end(draft, None)

    def _end(self, draft: _Draft, winner: str | None) -> None:
        state = draft.state = replace(draft.state, phase="over")
        draft.public.append(text.victory(winner))
        draft.rewards = {}
        for seat, role in enumerate(state.roles):
            died = state.died_on[seat]
            discount = self.rules.elimination_discount ** (0 if died is None else state.day - died)
            draft.rewards[seat] = (0 if winner is None else 1 if self.team(role) == winner else -1) * discount
        draft.events["days"] = state.day
        for event, side in (("village_wins", "village"), ("werewolves_wins", "werewolves"), ("draws", None)):
            draft.events[event] = side == winner

    def _take_hunter_choice(self, draft: _Draft, tasks: Mapping[int, Task], answers: Mapping[int, str]) -> None:
        ((hunter, answer),) = answers.items()
        target = self._chosen(draft, tasks[hunter], answer)
        if target is not None:
            self._bury(draft, target, "taken")
        self._go_on(draft, [], draft.state.after_hunter)

    # ------------------------------------------------------------------ night
    def _begin_night(self, draft: _Draft) -> None:
        state = draft.state = replace(
            draft.state, night=draft.state.night + 1, round=0, proposals={}, protected=None, attacked=None
        )
        draft.public.append(f"Night {state.night}.")
        if self._kills(state) and self.rules.wolf_chat_rounds and len(state.living("werewolf")) > 1:
            self._ask_chat(draft)
        else:
            self._ask_night_choices(draft)

    def _kills(self, state: State) -> bool:
        return self.rules.kill_on_first_night or state.night > 1

    def _ask_chat(self, draft: _Draft) -> None:
        draft.tasks.update({wolf: Task("chat") for wolf in draft.state.living("werewolf")})
        draft.state = replace(draft.state, phase="chat", round=draft.state.round + 1)

    def _hear_chat(self, draft: _Draft, tasks: Mapping[int, Task], answers: Mapping[int, str]) -> None:
        wolves = tuple(answers)
        for wolf, words in answers.items():
            draft.note("chat", wolf, text.clean(words), known_to=wolves)
            draft.whisper(wolves, text.utterance(text.NAMES[wolf], text.clean(words)))
        if draft.state.round < self.rules.wolf_chat_rounds:
            self._ask_chat(draft)
        else:
            self._ask_night_choices(draft)

    def _ask_night_choices(self, draft: _Draft) -> None:
        state, living = draft.state, draft.state.living()
        for seer in state.living("seer"):
            draft.tasks[seer] = Task("look", self._names(living, (seer,)))
        if self._kills(state):
            wolves = state.living("werewolf")
            for doctor in state.living("doctor"):
                without = (doctor,) if self.rules.doctor_protects == "others" else ()
                draft.tasks[doctor] = Task("protect", self._names(living, without))
            for wolf in wolves if self.rules.wolf_order == "together" else wolves[:1]:
                draft.tasks[wolf] = Task("kill", self._names(living, wolves))
        draft.state = replace(draft.state, phase="night")
        if not draft.tasks:
            self._end_night(draft)

    def _take_night_choices(self, draft: _Draft, tasks: Mapping[int, Task], answers: Mapping[int, str]) -> None:
        for seat, answer in answers.items():
            target = self._chosen(draft, tasks[seat], answer)
            kind = tasks[seat].kind
            if kind == "kill":
                draft.state = replace(draft.state, proposals={**draft.state.proposals, seat: target})
            if target is not None:
                self._note_choice(draft, kind, seat, target)
        wolves = draft.state.living("werewolf")
        waiting = tuple(wolf for wolf in wolves if wolf not in draft.state.proposals)
        if self._kills(draft.state) and waiting:  # in turn: the next werewolf hears the choice just made
            for seat, target in draft.state.proposals.items():
                if seat in answers:
                    draft.whisper(waiting, text.chooses(text.NAMES[seat], text.name_of(target)))
            draft.tasks[waiting[0]] = Task("kill", self._names(draft.state.living(), wolves))
        else:
            self._settle_attack(draft)

    def _note_choice(self, draft: _Draft, kind: str, seat: int, target: int) -> None:
        name, found, knowing = text.NAMES[target], "", (seat,)
        if kind == "kill" and self.rules.wolf_order == "in_turn":
            knowing = draft.state.living("werewolf")
        elif kind == "look":
            found = _revealed(draft.state.roles[target], self.rules.seer_learns)
            draft.whisper(knowing, text.finding(name, found))
        elif kind == "protect":
            draft.state = replace(draft.state, protected=target)
            draft.whisper(knowing, text.protected(name))
        draft.note(kind, seat, found, target, knowing)

    def _settle_attack(self, draft: _Draft) -> None:
        """Most named by the werewolves is attacked; then the witch may act."""
        votes = Counter(target for target in draft.state.proposals.values() if target is not None)
        if votes:
            most_named = [seat for seat in sorted(votes) if votes[seat] == max(votes.values())]
            draft.state = replace(draft.state, attacked=draft.pick(most_named))
        self._ask_witch(draft)

    def _ask_witch(self, draft: _Draft) -> None:
        state = draft.state
        witch = state.living("witch")
        choices = []
        if witch and state.attacked is not None and "save" in state.witch_can:
            draft.whisper(witch, text.attacked(text.NAMES[state.attacked]))
            draft.note("attacked", state.attacked, known_to=witch)
            choices.append(text.save(text.NAMES[state.attacked]))
        if witch and self._kills(state) and "poison" in state.witch_can:
            choices += [text.poison(name) for name in self._names(state.living(), witch)]
        if choices:
            draft.tasks[witch[0]] = Task("witch", (text.NOBODY, *choices))
            draft.state = replace(state, phase="witch")
        else:
            self._end_night(draft)

    def _take_witch_choice(self, draft: _Draft, tasks: Mapping[int, Task], answers: Mapping[int, str]) -> None:
        ((witch, answer),) = answers.items()
        choice = text.witch_choice(answer, tasks[witch].choices)
        draft.events["invalid"] += choice is None
        poisoned = None
        if choice not in (None, text.NOBODY):
            power = choice.split()[0]
            target = text.NAMES.index(choice.split()[1])
            left = tuple(other for other in draft.state.witch_can if other != power)
            draft.state = replace(draft.state, witch_can=left)
            draft.note(power, witch, target=target, known_to=(witch,))
            draft.whisper((witch,), text.potion_used(choice))
            if power == "save":
                draft.state = replace(draft.state, protected=target)
            else:
                poisoned = target
        self._end_night(draft, poisoned)

    def _end_night(self, draft: _Draft, poisoned: int | None = None) -> None:
        attacked, dead = draft.state.attacked, {poisoned} - {None}
        if attacked is not None and attacked != draft.state.protected:
            dead.add(attacked)
        elif attacked is not None:
            draft.events["saves"] += 1
        for seat in sorted(dead):
            self._bury(draft, seat, "killed")
        if attacked is not None and attacked not in dead:
            wolves = draft.state.living("werewolf")
            draft.whisper(wolves, text.attack_failed(text.NAMES[attacked]))
            draft.note("attacked", attacked, known_to=wolves)
        if not dead:
            draft.public.append(text.NOBODY_DIED)
        self._go_on(draft, sorted(dead), "day")

    # ------------------------------------------------------------------ day
    def _begin_day(self, draft: _Draft) -> None:
        draft.state = replace(draft.state, day=draft.state.day + 1, round=0)
        draft.public.append(f"Day {draft.state.day}.")
        self._ask_day(draft)

    def _ask_day(self, draft: _Draft) -> None:
        """The next round of talk, or the vote."""
        state, living = draft.state, draft.state.living()
        if state.round < self.rules.discussion_rounds:
            draft.tasks.update({seat: Task("speech") for seat in living})
            draft.state = replace(state, phase="speeches", round=state.round + 1)
        else:
            draft.tasks.update({seat: Task("vote", self._names(living, (seat,))) for seat in living})
            draft.state = replace(state, phase="votes")

    def _hear_speeches(self, draft: _Draft, tasks: Mapping[int, Task], answers: Mapping[int, str]) -> None:
        for seat, answer in answers.items():
            words = text.clean(answer)
            draft.public.append(text.utterance(text.NAMES[seat], words))
            draft.note("speech", seat, words)
            kinds = [claim.kind for claim in text.parse_claims(words, self.seat_names)]
            draft.events["speeches"] += 1
            draft.events["accusations"] += kinds.count("accuse")
            if "seer" in kinds:
                draft.events["true_seer_claims"] += draft.state.roles[seat] == "seer"
                draft.events["false_seer_claims"] += draft.state.roles[seat] != "seer"
        self._ask_day(draft)

    def _count_votes(self, draft: _Draft, tasks: Mapping[int, Task], answers: Mapping[int, str]) -> None:
        lines, counts = [], Counter()
        for seat, answer in answers.items():
            target = self._chosen(draft, tasks[seat], answer)
            lines.append(text.vote(text.NAMES[seat], text.name_of(target)))
            if target is not None:
                counts[target] += 1
                draft.note("vote", seat, target=target)
        draft.events["votes"] += counts.total()
        draft.public.append(" ".join(lines))
        out = self._voted_out(draft, counts)
        if out is None:
            draft.public.append(text.NOBODY_OUT)
        else:
            side = "wolf" if draft.state.roles[out] == "werewolf" else "village"
            draft.events[f"{side}_votes_out"] += 1
            self._bury(draft, out, "out")
        self._go_on(draft, [] if out is None else [out], "night")

    def _voted_out(self, draft: _Draft, counts: Counter[int]) -> int | None:
        """Who is out; `counts` is in the order in which the seats were first named."""
        top = max(counts.values(), default=0)
        if not top or (self.rules.majority and 2 * top <= len(draft.state.living())):
            return None
        tied = [seat for seat, votes in counts.items() if votes == top]
        if len(tied) == 1 or self.rules.tie == "first":
            return tied[0]
        return draft.pick(sorted(tied)) if self.rules.tie == "random" else None
