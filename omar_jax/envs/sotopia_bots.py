"""Scripted negotiators: who to imitate in the cold start of scenarios with points, and whom to measure against.

The life of an answer: the player looks at what its seat may know (what is to be agreed on, its own values, what was
said aloud), weighs the deal that another stated last, and takes it, or leaves, or states a deal, a wish or a
complaint, by habit. It sees to its own points and hardly to those of others, so there are better deals to be found.
Where a scenario has no points, it talks politely about nothing until it leaves: enough to learn the form from, no more.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from omar_jax.envs import sotopia_deals
from omar_jax.envs import sotopia_text as text
from omar_jax.envs.base import Ask, Player
from omar_jax.envs.sotopia import Sotopia, State, short_names
from omar_jax.envs.sotopia_points import Bargain, Deal, Items

# What scripted players say: variants of one meaning, to be drawn from uniformly.
WISHES = ("I want {wish}.", "I need {wish}.")
PRICE_WISHES = ("I want a higher {price}.", "I want a lower {price}.")  # of whom it pays, and of whom it costs
QUESTIONS = ("What do you want?", "What do you need?")
COMPLAINTS = ("That is too little for me.", "No, that is not fair.", "I can not take that.")
TALK = (  # where there is nothing to bargain for, by turn
    ("Hello {other}.", "Hello {other}, good to see you.", "{other}, do you have a moment?"),
    ("There is something I want to talk about.", "I have been thinking about this.", "We should talk about this."),
    ("What matters most to you?", "How do you see it?", "What would you like to do?"),
    ("I see. That matters to me too.", "I understand, but I see it another way.", "Thank you for telling me."),
    ("Can we find something that is good for both of us?", "Let us try it your way.", "I would like to try it my way."),
    ("That sounds fair.", "I can live with that.", "I have to think about it."),
)
_WISH = re.compile(r"I (?:want|need) (.+)\.")


@dataclass(frozen=True)
class Habits:
    """How often scripted players do what; probabilities, given that the occasion arises, unless said otherwise.

    Own points are told as shares: 0 is the worst deal for oneself and 1 the best.
    """

    wishes_first: float = 0.35  # before stating a deal for the first time, says what it wants
    asks_first: float = 0.1  # or asks
    tells_truth: float = 0.75  # of a wish: it is what is worth most
    overhears: float = 0.1  # a deal that another states
    takes_at_first: float = (
        0.85  # the own share, give or take `wavers`, at which it takes a deal between two at the start
    )
    takes_at_last: float = 0.5  # and in its last turn
    wavers: float = 0.2
    leaves: float = 0.06  # having been offered too little
    complains: float = 0.2  # instead of stating another deal
    insists: float = 0.3  # states the deal it stated before
    heeds_wish: float = 0.2  # states a deal with what the other wished for
    offers: Mapping[tuple[float, float], float] = field(  # own share of a deal it states, lowest and highest
        default_factory=lambda: {(0.7, 1.0): 0.4, (0.4, 0.7): 0.2, (0.0, 1.0): 0.4}
    )


class ScriptedNegotiator(Player):
    """Bargains by habit in any scenario with points, and talks politely in any other."""

    def __init__(self, habits: Habits = Habits()):
        self.habits = habits

    def act(
        self, env: Sotopia, state: State, seat: int, ask: Ask, heard: Sequence[str], rng: np.random.Generator
    ) -> str:
        """See base.Player."""
        write = text.write_json if env.settings.actions == "json" else text.write_plain
        return write(_talk(state, seat, rng) if state.bargain is None else self._action(env, state, seat, rng))

    def _action(self, env: Sotopia, state: State, seat: int, rng: np.random.Generator) -> text.Action:
        habits = self.habits
        deals, shares = _possible(state.bargain, seat)
        offered = state.last_deal if state.last_deal != state.deals[seat] else None
        if offered is not None and rng.random() >= habits.overhears:
            gone = min(1.0, len(state.turns) / max(1, env.settings.ending.max_turns - 2))
            takes_at = habits.takes_at_first + gone * (habits.takes_at_last - habits.takes_at_first)
            takes_at *= 2 / env.num_seats  # where more share, nobody can go for as much
            if shares[deals.index(offered)] >= rng.normal(takes_at, habits.wavers):
                return _says(sotopia_deals.ACCEPTANCE)
            if rng.random() < habits.leaves:
                return text.Action(text.LEAVE)
            if rng.random() < habits.complains:
                return _says(_one_of(COMPLAINTS, rng))
        elif state.deals[seat] is None:
            draw = rng.random()
            if draw < habits.wishes_first:
                return _says(self._wish(state.bargain, seat, rng))
            if draw < habits.wishes_first + habits.asks_first:
                return _says(_one_of(QUESTIONS, rng))
        mine = state.deals[seat]
        if mine is None or rng.random() >= habits.insists:
            mine = self._deal(state, seat, rng)
        return _says(_stated(state, mine, seat, rng))

    def _wish(self, bargain: Bargain, seat: int, rng: np.random.Generator) -> str:
        """Says what one wants: what is worth most, or, untruthfully, anything."""
        worth = dict(_wishes(bargain, seat))
        best = [wish for wish, value in worth.items() if value == max(worth.values())]
        wish = _one_of(best if rng.random() < self.habits.tells_truth else list(worth), rng)
        return wish if wish.endswith(".") else _one_of(WISHES, rng).format(wish=wish)

    def _deal(self, state: State, seat: int, rng: np.random.Generator) -> Deal:
        """A deal to state: drawn among those with about the share one goes for."""
        habits, (deals, shares) = self.habits, _possible(state.bargain, seat)
        kinds = list(habits.offers)
        low, high = kinds[rng.choice(len(kinds), p=list(habits.offers.values()))]
        fitting = [deal for deal, share in zip(deals, shares, strict=True) if low <= share <= high] or list(deals)
        wished = _wished(state, seat)
        if wished and rng.random() < habits.heeds_wish:
            who, wish = wished
            fitting = [deal for deal in fitting if _grants(state.bargain, deal, who, wish)] or fitting
        return _one_of(fitting, rng)


def _talk(state: State, seat: int, rng: np.random.Generator) -> text.Action:
    """The next stock phrase, and when they are over leaves."""
    said = sum(seat in turn for turn in state.turns)
    if said == len(TALK):
        return text.Action(text.LEAVE)
    other = short_names(state)[(seat + 1) % len(state.characters)]
    return _says(_one_of(TALK[said], rng).format(other=other))


def _says(words: str) -> text.Action:
    return text.Action(text.SPEAK, words)


def _one_of(items: Sequence, rng: np.random.Generator):
    return items[rng.integers(len(items))]


@functools.lru_cache(maxsize=4096)
def _possible(bargain: Bargain, seat: int) -> tuple[tuple[Deal, ...], tuple[float, ...]]:
    """All deals, and a seat's share of each: 0 for its worst deal and 1 for its best."""
    deals = tuple(bargain.deals())
    points = [bargain.points(deal)[seat] for deal in deals]
    low, high = min(points), max(points)
    return deals, tuple((own - low) / (high - low) if high > low else 1.0 for own in points)


def _stated(state: State, deal: Deal, seat: int, rng: np.random.Generator) -> str:
    """A deal in words: between two, one's share and "the rest"."""
    names = short_names(state)
    if isinstance(state.bargain, Items) and len(deal) == 2:
        who = seat if rng.random() < 0.7 else 1 - seat
        mine = sotopia_deals.share(state.bargain, deal[who])
        return f"Deal: {names[who]} gets {mine}; {names[1 - who]} gets the rest."
    return f"Deal: {sotopia_deals.written(state.bargain, deal, names)}."


# ------------------------------------------------------------------ wishes
def _wishes(bargain: Bargain, seat: int) -> list[tuple[str, int]]:
    """What a seat may wish for, and what it is worth: a thing, an option, or a whole sentence about a price."""
    if isinstance(bargain, Items):
        together = [n * value for n, value in zip(bargain.counts, bargain.values[seat], strict=True)]
        return [(f"the {name}s", worth) for name, worth in zip(bargain.names, together, strict=True)]
    found = []
    for issue in bargain.issues:
        values = issue.values[seat]
        if issue.unit:
            sentence = PRICE_WISHES[values[1] < values[0]].format(price=issue.name)
            found.append((sentence, (max(values) - min(values)) // 2))
        else:
            found += [(option, value) for option, value in zip(issue.options, values, strict=True)]
    return found


def _wished(state: State, seat: int) -> tuple[int, str] | None:
    """Who of the others wished for something last, and for what."""
    for turn in reversed(state.turns):
        for other, action in turn.items():
            found = _WISH.fullmatch(action.argument) if other != seat and action.kind == text.SPEAK else None
            if found:
                return other, found[1]
    return None


def _grants(bargain: Bargain, deal: Deal, who: int, wish: str) -> bool:
    """Whether a deal gives somebody all of what he wished for; a price is nobody's to give."""
    if isinstance(bargain, Items):
        at = next((n for n, name in enumerate(bargain.names) if wish == f"the {name}s"), None)
        return at is not None and deal[who][at] == bargain.counts[at]
    chosen = (issue.options[option] for issue, option in zip(bargain.issues, deal, strict=True))
    return wish in chosen
