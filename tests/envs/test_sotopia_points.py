"""Points: worked by hand, and drawn as the scenario says; bounds against plain enumeration."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sotopia_packs import ITEMS, TERMS

from omar_jax.envs import sotopia_points
from omar_jax.envs.sotopia_points import bounds, draw, is_pareto_optimal

DRAWN_ITEMS = {"kind": "items", "items": {"book": [1, 3], "hat": [1, 2], "ball": 2}, "total": 10}
DRAWN_TERMS = {
    "kind": "terms",
    "issues": [
        {"name": "price", "unit": "dollars", "range": [20, 60, 5], "limits": [[20, 35], 50]},
        {"name": "day", "options": ["Monday", "Friday"], "draw": [0, 20, 5]},
    ],
}


def rng(seed=0):
    return np.random.default_rng(seed)


def test_things_are_worth_what_they_are_worth():
    bargain = draw(ITEMS, 2, rng())
    assert bargain.points(((0, 1), (2, 0))) == (8, 10)
    assert len(set(bargain.deals())) == 3 * 2
    assert bounds(bargain) == sotopia_points.Bounds(own=((0, 10), (0, 10)), joint=(0, 18))
    assert bounds(bargain).joint_share(9) == 0.5 and bounds(bargain).own_share(0, 8) == 0.8
    # (8, 10) leaves the hat to the first, who wants it most; without the books nobody gains by giving more away.
    optimal = {deal for deal in bargain.deals() if is_pareto_optimal(bargain, bargain.points(deal))}
    assert optimal == {((n, 1), (2 - n, 0)) for n in range(3)}
    assert not is_pareto_optimal(bargain, (0, 0))


def test_terms_are_worth_what_they_are_worth():
    bargain = draw(TERMS, 2, rng())
    assert bargain.points((1, 0)) == (10 + 0, 10 + 3) and bargain.points((2, 1)) == (20 + 5, 0)
    assert bounds(bargain) == sotopia_points.Bounds(own=((0, 25), (0, 23)), joint=(0, 25))
    losing = draw({**TERMS, "outside": [7, 2]}, 2, rng())
    assert bounds(losing).own == ((0, 25), (0, 23)) and bounds(losing).joint == (9, 25)


def test_a_scale_without_length_is_reached():
    nothing = {"kind": "items", "items": {"book": 1}, "values": [{"book": 0}, {"book": 0}]}
    assert bounds(draw(nothing, 2, rng())).joint_share(0) == 1.0


@given(st.integers(0, 2**32), st.sampled_from([2, 3]))
def test_items_are_drawn_as_the_scenario_says(seed, seats):
    bargain = draw(DRAWN_ITEMS, seats, rng(seed))
    assert bargain == draw(DRAWN_ITEMS, seats, rng(seed))
    assert bargain.counts[0] in (1, 2, 3) and bargain.counts[1] in (1, 2) and bargain.counts[2] == 2
    worth = [sum(n * v for n, v in zip(bargain.counts, values, strict=True)) for values in bargain.values]
    assert worth == [10] * seats
    deals = set(bargain.deals())
    shares = [range(count + 1) for count in bargain.counts]
    everything = itertools.product(itertools.product(*shares), repeat=seats)
    assert deals == {deal for deal in everything if tuple(map(sum, zip(*deal, strict=True))) == bargain.counts}
    sums = [sum(bargain.points(deal)) for deal in deals]
    assert bounds(bargain).joint == (min(0, *sums), max(sums))


@given(st.integers(0, 2**32))
def test_terms_are_drawn_as_the_scenario_says(seed):
    price, day = draw(DRAWN_TERMS, 2, rng(seed)).issues
    least, most = 20 - price.values[0][0], 20 + price.values[1][0]
    assert least in (20, 25, 30, 35) and most == 50
    assert price.values == (tuple(p - least for p in range(20, 61, 5)), tuple(most - p for p in range(20, 61, 5)))
    assert price.options == tuple(map(str, range(20, 61, 5)))
    assert set(itertools.chain(*day.values)) <= {0, 5, 10, 15, 20}


def test_values_of_a_total_that_cannot_be_reached_come_near_it():
    points = {"kind": "items", "items": {"book": 3}, "total": 10}
    assert draw(points, 2, rng()).values == ((3,), (3,))


def test_of_several_draws_the_one_with_most_to_win_is_played():
    def most(draws):
        return np.mean([bounds(draw({**DRAWN_ITEMS, "draws": draws}, 2, rng(seed))).joint[1] for seed in range(200)])

    assert most(1) + 1 < most(4)


WRONG = [
    (3, "are 3; they must be an object"),
    ({"kind": "game"}, "kind is 'game'; it must be 'items' or 'terms'"),
    (ITEMS | {"outside": [1]}, r"outside is \[1\]; it must be one number or 2"),
    (ITEMS | {"draws": 0}, "draws is 0; it must be a number above 0"),
    (ITEMS | {"items": {}}, "items are {}"),
    (ITEMS | {"items": {"Two books": 1}}, "items name 'Two books'; a thing is one word"),
    (ITEMS | {"items": {"book": 0, "hat": 1}}, "items have 0 of book"),
    (ITEMS | {"items": {"book": [3, 1], "hat": 1}}, r"items have \[3, 1\] of book"),
    (ITEMS | {"values": [{"book": 1, "hat": 1}]}, "values are .*; each seat values all items"),
    (ITEMS | {"values": [{"book": 1}, {"book": 1, "hat": 1}]}, "values are .*; each seat values all items"),
    ({"kind": "items", "items": {"book": 1}}, "total is None; without values it must be a number above 0"),
    ({"kind": "terms", "issues": []}, r"issues are \[\]"),
    ({"kind": "terms", "issues": ["day"]}, "issue 'day' must be an object"),
]
WRONG_ISSUES = [
    ({"name": "the day"}, "issue 'the day': its name must be one word"),
    ({"name": "day", "options": ["Monday"]}, "options of day are"),
    ({"name": "day", "options": ["Monday", "at 3 p.m."]}, "options of day are"),
    ({"name": "day", "options": ["Monday", "monday"], "draw": [0, 1, 1]}, "options .* must all differ"),
    ({"name": "day", "options": ["a", "b"], "values": [[1, 2]]}, "values of day are .* 2 lists of 2 numbers"),
    ({"name": "day", "options": ["a", "b"], "draw": [0, 1]}, "draw of day is .* lowest, highest and step"),
    ({"name": "price", "range": [1, 2], "limits": [1, 2], "unit": "dollars"}, "range of price is"),
    ({"name": "price", "range": [1, 2, 1], "limits": [1], "unit": "dollars"}, "limits of price are"),
    ({"name": "price", "range": [1, 2, 1], "limits": [1, 2], "unit": "US $"}, "unit of price is"),
]


@pytest.mark.parametrize(
    ("points", "what"), WRONG + [({"kind": "terms", "issues": [issue]}, what) for issue, what in WRONG_ISSUES]
)
def test_wrong_points_are_named(points, what):
    with pytest.raises(ValueError, match=f"^points {what}"):
        sotopia_points.check(points, 2)


def test_prices_are_for_two_and_there_is_one():
    with pytest.raises(ValueError, match="price, which is for two seats, not 3"):
        sotopia_points.check(TERMS, 3)
    with pytest.raises(ValueError, match="may have one range of numbers"):
        sotopia_points.check({"kind": "terms", "issues": TERMS["issues"][:1] * 2}, 2)


@pytest.mark.parametrize("points", [ITEMS, TERMS, DRAWN_ITEMS, DRAWN_TERMS])
def test_right_points_pass(points):
    sotopia_points.check(points, 2)
