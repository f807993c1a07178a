"""Outcomes that need no judge: what a deal is worth to each seat, and what deals there might have been.

The life of a bargain: a scenario's `points` say what is to be agreed on and how values are drawn (`check` refuses
what is wrong with them); `draw` makes them a `Bargain`, the same for the same random numbers; characters state deals
in words (`sotopia_deals` reads them); and what a deal is worth is set against all deals possible, one by one
(`bounds`, `is_pareto_optimal`).

`points` of things to be shared out, with numbers or [lowest, highest] to draw from, and values that are drawn such
that all things together are worth `total` to everybody, or given by seat:

    {"kind": "items", "items": {"book": [1, 3], "hat": 2}, "total": 10}
    {"kind": "items", "items": {"book": 2, "hat": 2}, "values": [{"book": 1, "hat": 4}, {"book": 3, "hat": 2}]}

and of terms to be agreed on, each with options of which one is taken, or with a price, which the first seat wants
above its limit and the second below its own:

    {"kind": "terms", "issues": [
      {"name": "price", "unit": "dollars", "range": [20, 60, 5], "limits": [[20, 30], 50]},
      {"name": "day", "options": ["Monday", "Friday"], "draw": [0, 20, 5]}
      {"name": "place", "options": ["the park", "the pier"], "values": [[0, 5], [3, 0]]}]}

Either may have `outside`: what seats get without a deal, one number for all or one a seat, 0 if not given; and
`draws`: so many are drawn, and the one in which most can be won together is played.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Deal = tuple  # of Items: by seat, the number of each thing; of Terms: by issue, the option's place


@dataclass(frozen=True)
class Items:
    """Things shared out among seats, all of them.

    Attributes:
      names: of the things, singular; plurals end with s.
      counts: how many there are of each.
      values: [P][things] what one is worth to a seat, in points.
      outside: [P] points without a deal.
    """

    names: tuple[str, ...]
    counts: tuple[int, ...]
    values: tuple[tuple[int, ...], ...]
    outside: tuple[int, ...]

    def deals(self) -> Iterator[Deal]:
        """Every way to share them out."""
        ways = [list(_shared_out(count, len(self.values))) for count in self.counts]
        for by_item in itertools.product(*ways):
            yield tuple(zip(*by_item, strict=True))

    def points(self, deal: Deal) -> tuple[int, ...]:
        """[P] what it is worth to each seat."""
        return tuple(
            sum(n * value for n, value in zip(share, values, strict=True))
            for share, values in zip(deal, self.values, strict=True)
        )


@dataclass(frozen=True)
class Issue:
    """One thing to agree on.

    Attributes:
      name: what it is called, one word.
      options: of which one is taken.
      values: [P][options] points.
      unit: of options that are numbers, such as "dollars"; else "".
    """

    name: str
    options: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    unit: str = ""


@dataclass(frozen=True)
class Terms:
    """Issues to agree on, all of them; points add up.

    Attributes:
      issues: what.
      outside: [P] points without a deal.
    """

    issues: tuple[Issue, ...]
    outside: tuple[int, ...]

    def deals(self) -> Iterator[Deal]:
        """Every combination of options."""
        return itertools.product(*(range(len(issue.options)) for issue in self.issues))

    def points(self, deal: Deal) -> tuple[int, ...]:
        """[P] what it is worth to each seat."""
        return tuple(
            sum(issue.values[seat][option] for issue, option in zip(self.issues, deal, strict=True))
            for seat in range(len(self.outside))
        )


Bargain = Items | Terms


def _shared_out(count: int, seats: int) -> Iterator[tuple[int, ...]]:
    if seats == 1:
        yield (count,)
        return
    for mine in range(count + 1):
        for others in _shared_out(count - mine, seats - 1):
            yield (mine, *others)


# ------------------------------------------------------------------ what is possible
@dataclass(frozen=True)
class Bounds:
    """What can come out, "no deal" included.

    Attributes:
      own: [P] fewest and most points of each seat.
      joint: fewest and most points of all together.
    """

    own: tuple[tuple[int, int], ...]
    joint: tuple[int, int]

    def own_share(self, seat: int, points: float) -> float:
        """A seat's points on the scale from its worst outcome, 0, to its best, 1."""
        return _share(points, *self.own[seat])

    def joint_share(self, points: float) -> float:
        """Everybody's points together on the scale from the worst outcome, 0, to the best, 1."""
        return _share(points, *self.joint)


def _share(points: float, low: float, high: float) -> float:
    return (points - low) / (high - low) if high > low else 1.0


@functools.lru_cache(maxsize=4096)
def _outcomes(bargain: Bargain) -> tuple[tuple[int, ...], ...]:
    return (bargain.outside, *map(bargain.points, bargain.deals()))


def bounds(bargain: Bargain) -> Bounds:
    """Exact, by going through all deals."""
    outcomes = _outcomes(bargain)
    sums = [sum(points) for points in outcomes]
    return Bounds(tuple((min(own), max(own)) for own in zip(*outcomes, strict=True)), (min(sums), max(sums)))


def is_pareto_optimal(bargain: Bargain, points: Sequence[int]) -> bool:
    """Whether nobody could have got more without somebody getting less."""
    at_least = [other for other in _outcomes(bargain) if all(o >= p for o, p in zip(other, points, strict=True))]
    return all(other == tuple(points) for other in at_least)


# ------------------------------------------------------------------ drawing
def draw(points: Mapping[str, Any], seats: int, rng: np.random.Generator) -> Bargain:
    """The bargain of one game.

    Args:
      points: of a scenario, checked.
      seats: P.
      rng: of the game.
    """
    candidates = [_draw(points, seats, rng) for _ in range(points.get("draws", 1))]
    return max(candidates, key=lambda bargain: bounds(bargain).joint[1])


def _draw(points: Mapping[str, Any], seats: int, rng: np.random.Generator) -> Bargain:
    outside = points.get("outside", 0)
    outside = tuple(outside) if isinstance(outside, list | tuple) else (outside,) * seats
    if points["kind"] == "terms":
        return Terms(tuple(_issue(issue, seats, rng) for issue in points["issues"]), outside)
    names = tuple(points["items"])
    counts = tuple(_number(count, 1, rng) for count in points["items"].values())
    if "values" in points:
        values = tuple(tuple(of_seat[name] for name in names) for of_seat in points["values"])
    else:
        possible = _worth(counts, points["total"])
        values = tuple(possible[rng.integers(len(possible))] for _ in range(seats))
    return Items(names, counts, values, outside)


def _number(given: int | Sequence[int], step: int, rng: np.random.Generator) -> int:
    if isinstance(given, int):
        return given
    low, high = given[:2]
    return int(low + step * rng.integers((high - low) // step + 1))


@functools.cache
def _worth(counts: tuple[int, ...], total: int) -> tuple[tuple[int, ...], ...]:
    """All values of things that are worth a total together; where there are none, of the nearest total."""
    for off in itertools.chain.from_iterable((n, -n) for n in range(total + 1)):
        found = tuple(
            (*values, rest // counts[-1])
            for values in itertools.product(*(range((total + off) // count + 1) for count in counts[:-1]))
            if (rest := total + off - sum(map(math.prod, zip(values, counts[:-1], strict=True)))) >= 0
            and rest % counts[-1] == 0
        )
        if found:
            return found
    raise AssertionError("all values 0 are worth 0")


def _issue(issue: Mapping[str, Any], seats: int, rng: np.random.Generator) -> Issue:
    if "range" in issue:
        low, high, step = issue["range"]
        prices = range(low, high + 1, step)
        least, most = (_number(limit, step, rng) for limit in issue["limits"])
        values = (tuple(price - least for price in prices), tuple(most - price for price in prices))
        return Issue(issue["name"], tuple(map(str, prices)), values, issue["unit"])
    options = tuple(issue["options"])
    if "values" in issue:
        values = tuple(map(tuple, issue["values"]))
    else:
        step = issue["draw"][2]
        values = tuple(tuple(_number(issue["draw"], step, rng) for _ in options) for _ in range(seats))
    return Issue(issue["name"], options, values)


# ------------------------------------------------------------------ checking
def _need(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"points {what}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, list | tuple) and len(values) == count and all(map(_is_number, values))


def check(points: Any, seats: int) -> None:
    """Raises ValueError, saying what would be right, unless these are points of a scenario of so many seats."""
    _need(isinstance(points, Mapping), f"are {points!r}; they must be an object")
    outside = points.get("outside", 0)
    _need(
        _is_number(outside) or _are_numbers(outside, seats), f"outside is {outside!r}; it must be one number or {seats}"
    )
    draws = points.get("draws", 1)
    _need(_is_number(draws) and draws > 0, f"draws is {draws!r}; it must be a number above 0")
    kind = points.get("kind")
    _need(kind in ("items", "terms"), f"kind is {kind!r}; it must be 'items' or 'terms'")
    (_check_items if kind == "items" else _check_terms)(points, seats)


def _check_items(points: Mapping[str, Any], seats: int) -> None:
    items = points.get("items")
    _need(isinstance(items, Mapping) and len(items) > 0, f"items are {items!r}; they must be numbers of things by name")
    for name, count in items.items():
        _need(bool(re.fullmatch("[a-z]+", name)), f"items name {name!r}; a thing is one word in small letters")
        fits = (_is_number(count) and count > 0) or (_are_numbers(count, 2) and 0 < count[0] <= count[1])
        _need(fits, f"items have {count!r} of {name}; it must be a number above 0, or the lowest and the highest")
    if "values" in points:
        values = points["values"]
        fits = isinstance(values, list | tuple) and len(values) == seats
        fits = fits and all(isinstance(of, Mapping) and set(of) == set(items) for of in values)
        _need(
            fits and all(_is_number(v) for of in values for v in of.values()),
            f"values are {values!r}; each seat values all items",
        )
    else:
        total = points.get("total")
        _need(_is_number(total) and total > 0, f"total is {total!r}; without values it must be a number above 0")


def _check_terms(points: Mapping[str, Any], seats: int) -> None:
    issues = points.get("issues")
    _need(isinstance(issues, list | tuple) and len(issues) > 0, f"issues are {issues!r}; they must be a list of issues")
    options: list[str] = []
    for issue in issues:
        _need(isinstance(issue, Mapping), f"issue {issue!r} must be an object")
        name = issue.get("name")
        _need(
            isinstance(name, str) and bool(re.fullmatch("[a-z]+", name)), f"issue {name!r}: its name must be one word"
        )
        if "range" in issue:
            _check_price(issue, name, seats)
            continue
        chosen = issue.get("options")
        fits = isinstance(chosen, list | tuple) and len(chosen) > 1
        fits = fits and all(isinstance(option, str) and re.fullmatch(r"[^.!?;{}<>\n]+", option) for option in chosen)
        _need(fits, f"options of {name} are {chosen!r}; they must be two phrases or more, or a range of numbers")
        options += [option.lower() for option in chosen]
        if "values" in issue:
            values = issue["values"]
            fits = isinstance(values, list | tuple) and len(values) == seats
            fits = fits and all(_are_numbers(of, len(chosen)) for of in values)
            _need(fits, f"values of {name} are {values!r}; they must be {seats} lists of {len(chosen)} numbers")
        else:
            drawn = issue.get("draw")
            fits = _are_numbers(drawn, 3) and drawn[0] <= drawn[1] and drawn[2] > 0
            _need(fits, f"draw of {name} is {drawn!r}; without values it must be lowest, highest and step")
    _need(len(options) == len(set(options)), f"options {options} must all differ, also from those of other issues")
    _need(sum("range" in issue for issue in issues) <= 1, "may have one range of numbers")


def _check_price(issue: Mapping[str, Any], name: str, seats: int) -> None:
    _need(seats == 2, f"have the price {name}, which is for two seats, not {seats}")
    given, limits = issue["range"], issue.get("limits")
    _need(
        _are_numbers(given, 3) and 0 <= given[0] < given[1] and given[2] > 0,
        f"range of {name} is {given!r}; it must be lowest, highest and step",
    )
    fits = isinstance(limits, list | tuple) and len(limits) == 2
    fits = fits and all(_is_number(of) or (_are_numbers(of, 2) and of[0] <= of[1]) for of in limits)
    _need(fits, f"limits of {name} are {limits!r}; they must be two, each a number or the lowest and the highest")
    unit = issue.get("unit")
    _need(
        isinstance(unit, str) and bool(re.fullmatch("[a-z]+", unit)), f"unit of {name} is {unit!r}; it must be one word"
    )
