"""Runs stop for the reason that is set, after the patience that is set, and for no other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omar_jax.early_stopping import ARENA, ENTROPY, FILTERED, KL, Bounds, reason


def history(name, *values):
    return [{name: value, "other": 1.0} for value in values]


@pytest.mark.parametrize(
    ("bounds", "name", "values", "stops_after"),
    [
        (Bounds(entropy_growth=0.5, patience=2), ENTROPY, (1.0, 1.6, 1.4, 1.6, 1.7, 1.8), 5),
        (Bounds(entropy_growth=0.5, patience=1), ENTROPY, (1.0, 1.5, 1.51), 3),
        (Bounds(kl=0.1, patience=3), KL, (0.2, 0.2, 0.05, 0.2, 0.2, 0.2), 6),
        (Bounds(filtered_share=0.2, patience=2), FILTERED, (0.3, None, 0.3), 3),
        (Bounds(filtered_share=0.2, patience=2), FILTERED, (0.3, float("nan"), 0.1), None),
        (Bounds(arena_drop=0.05, patience=2), ARENA, (0.5, 0.6, 0.54, None, None, 0.53), 6),
        (Bounds(arena_drop=0.05, patience=2), ARENA, (0.5, 0.6, 0.54, 0.58, 0.54), None),
        (Bounds(patience=1), KL, (9.0, 9.0), None),
    ],
)
def test_a_bound_stops_after_its_patience(bounds, name, values, stops_after):
    for iterations in range(len(values) + 1):
        why = reason(history(name, *values[:iterations]), bounds)
        assert (why is not None) == (stops_after is not None and iterations >= stops_after), iterations
        if why is not None:
            return
    assert stops_after is None


def test_the_reason_names_setting_measure_and_bound():
    assert reason(history(KL, 0.3, 0.2), Bounds(kl=0.1, patience=2)) == (
        "config.stop.kl: policy/kl above 0.1, 2 times in a row"
    )
    why = reason(history(ARENA, 0.61, 0.5), Bounds(arena_drop=0.1, patience=1))
    assert why == "config.stop.arena_drop: arena/score more than 0.1 under its best, 0.610, 1 times in a row"


@given(st.lists(st.fixed_dictionaries({}, optional={name: st.floats() for name in (ENTROPY, KL, FILTERED, ARENA)})))
def test_without_bounds_nothing_stops(numbers):
    assert reason(numbers, Bounds()) is None
