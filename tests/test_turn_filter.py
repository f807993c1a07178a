import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from omar_jax.turn_filter import FilterSettings, filter_turns, is_degenerate, repeats
from omar_jax.types import Episode, RolloutStep, Turn

END, OTHER_END = ENDS = (9, 7)
ALL = FilterSettings(unfinished=True, empty=True, repeated_words=4)
NONE = FilterSettings(unfinished=False, empty=False, repeated_words=0)


def turn(text, action=(1, END), legal=None, kept=True):
    nothing = np.zeros(len(action))
    return Turn((1,), action, nothing, nothing, legal=legal, text=text, kept=kept)


@pytest.mark.parametrize(
    ("words", "limit", "found"),
    [
        ("no no no no", 4, True),
        ("no no no", 4, False),
        ("no no no", 3, True),
        ("vote Bob vote Bob", 4, True),
        ("I think I think", 4, True),
        ("I think I think", 5, False),
        ("I think I think I", 5, True),  # five words of a phrase that goes on repeating
        ("well I think I think so", 4, True),
        ("a b c a b c", 4, True),  # a phrase counts only once it was said twice
        ("a b c a b", 4, False),
        ("Bob is Bob and Bob is out", 4, False),
        ("", 1, False),
        ("once", 1, False),
    ],
)
def test_repetitions_by_hand(words, limit, found):
    assert repeats(words.split(), limit) == found


@hypothesis.settings(max_examples=200, derandomize=True)
@hypothesis.given(st.lists(st.sampled_from("ab"), max_size=12), st.integers(1, 8))
def test_repetitions_are_stretches_of_one_period(words, limit):
    stretches = (words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    expected = any(
        len(stretch) >= max(limit, 2 * period) and stretch[period:] == stretch[:-period]
        for stretch in stretches
        for period in range(1, len(stretch))
    )
    assert repeats(words, limit) == expected


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (turn("Let us vote", action=(1, 2)), "unfinished"),
        (turn("Let us vote", action=()), "unfinished"),
        (turn(""), "empty"),
        (turn(" \n"), "empty"),
        (turn("no no no no"), "repeated_words"),
    ],
)
def test_every_rule_catches_its_turns_alone(said, rule):
    assert is_degenerate(said, ENDS, ALL)
    assert not is_degenerate(said, ENDS, ALL._replace(**{rule: getattr(NONE, rule)}))
    assert is_degenerate(said, ENDS, NONE._replace(**{rule: getattr(ALL, rule)}))


def test_good_turns_and_choices_are_kept():
    assert not is_degenerate(turn("I think Bob is a werewolf."), ENDS, ALL)
    assert not is_degenerate(turn("I think so.", action=(1, OTHER_END)), ENDS, ALL)
    assert not is_degenerate(turn("", action=(1, 2), legal=((1,), (2, 3))), ENDS, ALL)


def test_an_episode_keeps_everything_but_the_verdicts():
    good, empty, unjustly = turn("I am the seer."), turn(""), turn("Hello all.", kept=False)
    steps = (RolloutStep(public=(5,)), RolloutStep(private={1: (6,)}, turns={0: good, 1: empty, 2: unjustly}))
    episode = Episode(3, 4, steps, (("public", "hello"),), (1.0, -1.0, 1.0), ("a", "b", "a"), {"days": 1.0})
    filtered = filter_turns(episode, ENDS, ALL)
    assert [said.kept for said in filtered.steps[1].turns.values()] == [True, False, True]
    assert [said.text for said in filtered.steps[1].turns.values()] == [good.text, empty.text, unjustly.text]
    assert filtered.steps[0] == steps[0] and filtered.steps[1].private == steps[1].private
    assert (filtered.rewards, filtered.roles, filtered.events) == (
        episode.rewards,
        episode.roles,
        episode.events,
    )
    assert steps[1].turns[1].kept  # the episode itself is unchanged
