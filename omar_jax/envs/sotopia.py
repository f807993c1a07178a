"""Social scenarios: characters with private goals and secrets talk, and part.

The life of a conversation: the seed picks a scenario of the pack and who plays it, and draws what its points leave
open. The opening tells each seat what it may know. Then seats act, one after another or all at once, until
somebody leaves, nobody has anything to say, the turns are over, or all have stated the same deal. Where a scenario
has points, they are the rewards; all other conversations end with rewards of 0, for a judge to replace.

The rules are SOTOPIA's (Zhou et al., arXiv:2310.11667); the tests hold them to published conversations.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from omar_jax.envs import sotopia_deals, sotopia_points, sotopia_tags
from omar_jax.envs import sotopia_text as text
from omar_jax.envs.base import Ask, Environment, Step
from omar_jax.envs.sotopia_points import Bargain, Deal
from omar_jax.envs.sotopia_records import Character, Combo, Pack, Scenario
from omar_jax.envs.sotopia_text import Action

ROLES = ("first", "second", "third", "fourth", "fifth", "sixth")
ORDERS = ("round-robin", "simultaneous")
FORMS = ("plain", "json")
OPENINGS = ("shared", "published", "brief")
REASONS = ("agreement", "too_long", "left", "stale")  # why a conversation ends


@dataclass(frozen=True)
class Ending:
    """When a conversation is over, apart from those who leave.

    Attributes:
      max_turns: it ends after so many; all who act at once act in one turn.
      max_silent: it ends when more than so many in a row do nothing.
      counts_waiting: whether those who are not asked count as doing nothing.
    """

    max_turns: int = 20
    max_silent: int = 2
    counts_waiting: bool = False


# The rule by which the published conversations ended: it noticed the turn limit one turn late.
PUBLISHED_ENDING = Ending(max_turns=21, counts_waiting=True)


@dataclass(frozen=True)
class Settings:
    """How conversations go.

    Attributes:
      seats: how many take part; combos of other numbers are left out.
      order: "round-robin", one after another, or "simultaneous", all in every turn.
      actions: the form of actions: "plain" words, or SOTOPIA's "json".
      opening: "shared": what all may know is told to all, the rest to single seats; "published": each seat is told
        everything, in the words of the published records; "brief": first names, scenario and goal, and no rules.
      ending: when it is over.
      max_tokens: of an action.
      joint_weight: of the points of all together in a seat's reward; the rest is the weight of its own.
    """

    seats: int = 2
    order: str = "round-robin"
    actions: str = "plain"
    opening: str = "shared"
    ending: Ending = Ending()
    max_tokens: int = 64
    joint_weight: float = 0.0

    def __post_init__(self):
        for name, known in (("order", ORDERS), ("actions", FORMS), ("opening", OPENINGS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        if not 2 <= self.seats <= len(ROLES):
            raise ValueError(f"seats is {self.seats}; it must be 2 to {len(ROLES)}")
        if not 0 <= self.joint_weight <= 1:
            raise ValueError(f"joint_weight is {self.joint_weight}; it must be between 0 and 1")


@dataclass(frozen=True)
class State:
    """A conversation.

    Attributes:
      seed: it was dealt with.
      scenario: what it is about.
      characters: [P] who takes part.
      bargain: what is to be agreed on, where the scenario has points.
      turns: what was done, by turn and seat.
      asked: the seats that act next; nobody before the opening and after the end.
      left: the seats that left.
      deals: [P] the deal that each seat stated last, or None.
      last_deal: the deal stated last by anybody.
      ended: why it is over, of REASONS; empty while it is not.
    """

    seed: int
    scenario: Scenario
    characters: tuple[Character, ...]
    bargain: Bargain | None
    turns: tuple[Mapping[int, Action], ...] = ()
    asked: tuple[int, ...] = ()
    left: frozenset[int] = frozenset()
    deals: tuple[Deal | None, ...] = ()
    last_deal: Deal | None = None
    ended: tuple[str, ...] = ()

    @property
    def agreed(self) -> Deal | None:
        """The deal that all have stated, if they have."""
        return self.deals[0] if self.deals and len(set(self.deals)) == 1 else None


class Sotopia(Environment):
    """Conversations of a pack.

    Each seat is a side of its own: roles are "first", "second" and so on, by seat. An action that cannot be read is
    none, and counted in the event "invalid". Raises ValueError if the pack has no combo of so many seats.
    """

    def __init__(self, pack: Pack, settings: Settings = Settings()):
        self.settings = settings
        self.num_seats = settings.seats
        self.role_names = ROLES[: settings.seats]
        self.choices = ()
        self.counts = "points"
        self._pack = pack
        self._combos: dict[str, list[Combo]] = {}  # by scenario
        for combo in pack.combos:
            if len(combo.agent_ids) == settings.seats:
                self._combos.setdefault(combo.scenario_id, []).append(combo)
        if not self._combos:
            raise ValueError(f"seats is {settings.seats}, but the pack has no combo of so many characters")

    def reset(self, seed: int) -> State:
        """Picks a scenario, all alike, and one of its combos, and draws the values of its bargain."""
        rng = np.random.default_rng(seed)
        scenario_id = list(self._combos)[rng.integers(len(self._combos))]
        combo = self._combos[scenario_id][rng.integers(len(self._combos[scenario_id]))]
        scenario = self._pack.scenarios[scenario_id]
        bargain = None if scenario.points is None else sotopia_points.draw(scenario.points, self.num_seats, rng)
        return State(seed, scenario, tuple(self._pack.characters[id] for id in combo.agent_ids), bargain)

    def roles(self, state: State) -> tuple[str, ...]:
        """[P] role names."""
        return self.role_names

    def result(self, role: str, reward: float, events: Mapping[str, float]) -> float:
        """The seat's points where the scenario has some; else its reward."""
        return events.get(f"points_{role}", reward)

    def joint_result(self, events: Mapping[str, float]) -> float | None:
        """All points together as a share of what could be had, where the scenario has points."""
        return events.get("joint_share")

    def team(self, role: str) -> str:
        """Returns the role: everybody has goals of his own."""
        return role

    def names(self, state: State) -> tuple[str, ...]:
        """[P] what the players of this conversation call one another."""
        return short_names(state) if self.settings.opening == "brief" else full_names(state)

    def step(self, state: State, actions: Mapping[int, str]) -> Step:
        """Plays the asked seats' texts. Raises ValueError if others act, or after the end."""
        if state.ended or set(actions) != set(state.asked):
            raise ValueError(f"seats {sorted(actions)} act, asked: {sorted(state.asked)}")
        return self._play(state, actions) if state.asked else self._open(state)

    def _play(self, state: State, actions: Mapping[int, str]) -> Step:
        read = text.read_plain if self.settings.actions == "plain" else text.read_json
        taken = {seat: read(words) for seat, words in sorted(actions.items())}
        turn = {seat: action or text.DID_NOTHING for seat, action in taken.items()}
        events: Counter[str] = Counter(
            invalid=sum(action is None for action in taken.values()),
            speeches=sum(action.kind == text.SPEAK for action in turn.values()),
        )
        left = state.left | {seat for seat, action in turn.items() if action.kind == text.LEAVE}
        state = replace(_hear_deals(state, turn, events), turns=(*state.turns, turn), left=left)
        state = replace(state, ended=_reasons(state, self.settings.ending))
        state = replace(state, asked=() if state.ended else self._next(state))
        lines = self._told(state, turn)
        if not state.ended:
            return Step(state, "\n".join(lines), asks=self._asks(state), events=_floats(events))
        if state.agreed is not None:
            lines.append(f"All agree: {sotopia_deals.written(state.bargain, state.agreed, short_names(state))}.")
        events.update({reason: reason in state.ended for reason in REASONS} | {"turns": len(state.turns)})
        rewards = self._pay(state, events)
        return Step(state, "\n".join(lines), rewards=rewards, events=_floats(events))

    # ------------------------------------------------------------------ opening, turns
    def _open(self, state: State) -> Step:
        first = (0,) if self.settings.order == "round-robin" else tuple(range(self.num_seats))
        state = replace(state, asked=first, deals=(None,) * self.num_seats)
        public, private = {"shared": self._share, "published": self._publish, "brief": self._brief}[
            self.settings.opening
        ](state)
        return Step(state, public, private, self._asks(state))

    def _share(self, state: State) -> tuple[str, dict[int, str]]:
        scenario, bargain, names = state.scenario, state.bargain, short_names(state)
        everybody = text.told_scenario(scenario, bargain, names, sotopia_tags.EVERYBODY)
        lines = [
            text.rules(self.settings.actions, self.settings.ending.max_turns, bargain, names),
            f"Scenario: {everybody.strip()}",
            f"Participants: {text.participants(full_names(state))}",
        ]
        if scenario.relationship >= 2:  # below, nothing is known beyond the names
            lines += [text.known(character, scenario.relationship).strip() for character in state.characters]
        private = {}
        for seat, character in enumerate(state.characters):
            mine = text.told_scenario(scenario, bargain, names, sotopia_tags.player(seat))
            told = [
                f"You are {character.name}.",
                f"About you: {text.unknown_to_others(character, scenario.relationship)}",
                f"Your goal: {text.told_goal(scenario, bargain, names, seat).strip()}",
            ]
            if mine != everybody:
                told.insert(1, f"The scenario as you know it: {mine.strip()}")
            private[seat] = "\n".join(told)
        return "\n".join(lines), private

    def _publish(self, state: State) -> tuple[str, dict[int, str]]:
        about = (state.scenario, state.characters, state.bargain, short_names(state))
        return "", {seat: text.first_observation(*about, seat).strip() for seat in range(self.num_seats)}

    def _brief(self, state: State) -> tuple[str, dict[int, str]]:
        about, names = (state.scenario, state.bargain, short_names(state)), self.names(state)
        public = text.told_scenario(*about, sotopia_tags.EVERYBODY).strip()
        goals = [text.told_goal(*about, seat).strip() for seat in range(self.num_seats)]
        return public, {seat: f"You are {names[seat]}. {goals[seat]}" for seat in range(self.num_seats)}

    def _asks(self, state: State) -> dict[int, Ask]:
        names = self.names(state)
        return {seat: Ask(f"{names[seat]}:", self.settings.max_tokens) for seat in state.asked}

    def _next(self, state: State) -> tuple[int, ...]:
        present = tuple(seat for seat in range(self.num_seats) if seat not in state.left)
        if self.settings.order == "simultaneous":
            return present
        (last,) = state.asked
        return (next((seat for seat in present if seat > last), present[0]),)

    def _told(self, state: State, turn: Mapping[int, Action]) -> list[str]:
        names, published = self.names(state), self.settings.opening == "published"
        if self.settings.actions == "plain" and not published:
            return [f"{names[seat]}: {text.write_plain(action)}" for seat, action in turn.items()]
        done = [(f"{names[seat]} {text.in_words(action)}", action.kind) for seat, action in turn.items()]
        if not published:
            return [words for words, _ in done]
        words = "; ".join(words for words, kind in done if kind != text.NONE)
        return [f"Turn #{len(state.turns) - 1}: {words}".strip()]

    # ------------------------------------------------------------------ end
    def _pay(self, state: State, events: Counter[str]) -> dict[int, float]:
        """Rewards; points are counted in the events."""
        if state.bargain is None:
            return dict.fromkeys(range(self.num_seats), 0.0)
        points = state.bargain.outside if state.agreed is None else state.bargain.points(state.agreed)
        possible, joint = sotopia_points.bounds(state.bargain), sum(points)
        events.update(bargains=1, joint_points=joint, joint_share=possible.joint_share(joint))
        events["pareto_optimal"] = sotopia_points.is_pareto_optimal(state.bargain, points)
        events.update({f"points_{role}": own for role, own in zip(self.role_names, points, strict=True)})
        weight = self.settings.joint_weight
        together = weight * possible.joint_share(joint)
        return {seat: (1 - weight) * possible.own_share(seat, own) + together for seat, own in enumerate(points)}


def _floats(events: Mapping[str, float]) -> dict[str, float]:
    return {name: float(count) for name, count in events.items()}


def full_names(state: State) -> tuple[str, ...]:
    """[P] first and last names."""
    return tuple(character.name for character in state.characters)


def short_names(state: State) -> tuple[str, ...]:
    """[P] first names, where they tell all apart, otherwise full ones."""
    first = tuple(character.first_name for character in state.characters)
    return first if len(set(first)) == len(first) else full_names(state)


def _hear_deals(state: State, turn: Mapping[int, Action], events: Counter[str]) -> State:
    """Notes the deals stated and accepted in a turn; those who act at once can accept only earlier ones."""
    if state.bargain is None:
        return state
    aliases = [(short, full) for short, full in zip(short_names(state), full_names(state), strict=True)]
    deals, last = list(state.deals), state.last_deal
    for seat, action in turn.items():
        if action.kind != text.SPEAK:
            continue
        deal = sotopia_deals.stated(action.argument, state.bargain, aliases, seat)
        if deal is not None:
            last = deal
            events["deals_stated"] += 1
        elif sotopia_deals.statement(action.argument) is not None:
            events["unclear_deals"] += 1
        elif sotopia_deals.accepts(action.argument):
            deal = state.last_deal
        deals[seat] = deal or deals[seat]
    return replace(state, deals=tuple(deals), last_deal=last)


def _reasons(state: State, ending: Ending) -> tuple[str, ...]:
    """Why the conversation is over after its last turn; empty if it goes on."""
    if state.agreed is not None:
        return ("agreement",)
    seats = range(len(state.characters))
    reasons = {
        "too_long": len(state.turns) >= ending.max_turns,
        "left": len(seats) - len(state.left) < 2,
        "stale": _silent(state.turns, seats if ending.counts_waiting else ()) > ending.max_silent,
    }
    return tuple(reason for reason, holds in reasons.items() if holds)


def _silent(turns: Sequence[Mapping[int, Action]], waiting: Sequence[int]) -> int:
    """How many in a row did nothing at the end, in the order of turns and seats; `waiting` always count."""
    count = 0
    for turn in reversed(turns):
        for seat in sorted({*turn, *waiting}, reverse=True):
            if turn.get(seat, text.DID_NOTHING).kind != text.NONE:
                return count
            count += 1
    return count
