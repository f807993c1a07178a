"""Conversations worked by hand: turns, secrets, actions, endings and rewards."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sotopia_packs import ITEMS, TERMS, pack

from omar_jax.envs import sotopia_sources
from omar_jax.envs import sotopia_text as text
from omar_jax.envs.sotopia import PUBLISHED_ENDING, Ending, Settings, Sotopia

THREE = (("Ana", "Souza"), ("Ben", "Okafor"), ("Cem", "Demir"))
GOALS = ["Win", "Lose", "Watch"]


DEFAULT = Settings()


def start(settings=DEFAULT, **about):
    env = Sotopia(pack(**about), settings)
    return env, env.step(env.reset(0), {})


def talk(env, step, *said):
    """Each asked seat says the next of these words; all asked say the same where there is one word for a turn."""
    for words in said:
        step = env.step(step.state, dict.fromkeys(step.asks, words))
    return step


# ---------------------------------------------------------------- replays, what is told
@pytest.mark.parametrize("opening", ["shared", "published", "brief"])
def test_a_game_replays_from_its_seed_and_actions(opening):
    def play(seed):
        env, rng = Sotopia(sotopia_sources.load(), Settings(opening=opening)), np.random.default_rng(seed)
        steps = [env.step(env.reset(seed), {})]
        while steps[-1].rewards is None:
            said = ["Hello.", "*nods*", "[action] sits", "(nothing)", "(leaves)", "", "Deal."]
            words = str(rng.choice(said, p=[0.5, 0.1, 0.1, 0.1, 0.05, 0.05, 0.1]))
            steps.append(talk(env, steps[-1], words))
        return steps

    for seed in range(10):
        first, again = play(seed), play(seed)
        assert first == again
        assert sorted(first[-1].rewards) == [0, 1] and not first[-1].asks and first[-1].state.ended
        assert all(len(step.asks) == 1 and step.rewards is None for step in first[:-1])
    env = Sotopia(sotopia_sources.load())
    assert len({env.reset(seed).scenario.id for seed in range(60)}) > 20


@pytest.mark.parametrize("relationship", range(6))
@pytest.mark.parametrize("opening", ["shared", "published"])
def test_what_is_known_of_others_depends_on_the_relationship(relationship, opening):
    _, step = start(Settings(opening=opening), relationship=relationship)
    for seat, other in ((0, "Ben"), (1, "Ana")):
        told = step.public + "\n" + step.private[seat]
        assert (f"{other} keeps an octopus" in told) == (relationship >= 2)
        assert (f"{other} is brave" in told) == (relationship >= 3)
        assert f"{other} fears water" not in told
        me = ("Ana", "Ben")[seat]
        assert (
            f"{me} fears water." in told and f"{me} is brave." in told and "40-year-old female deep-sea diver" in told
        )
        assert "Participants: Ana Souza and Ben Okafor" in told


@pytest.mark.parametrize("opening", ["shared", "published", "brief"])
def test_goals_and_what_is_reserved_are_told_to_their_owners_alone(opening):
    env, step = start(Settings(opening=opening))
    first, second = (step.public + "\n" + step.private[seat] for seat in (0, 1))
    assert "Win" in first and "you hold an ace. Hint: wait." in first and "bribed" not in first
    assert "Lose" in second and "you are bribed" in second and "an ace" not in second
    assert "They meet." in first and "They meet." in second
    assert "You are late" not in first and ("You are late" in second) == (opening != "brief")
    for told in (first, second):
        assert "trap" not in told and "Nobody sees this" not in told and "<" not in told
    assert env.names(step.state) == (("Ana", "Ben") if opening == "brief" else ("Ana Souza", "Ben Okafor"))
    assert env.roles(step.state) == ("first", "second") and env.team("first") == "first"


def test_the_same_first_name_twice_is_told_apart():
    _, step = start(Settings(opening="brief"), characters=(("Ana", "Souza"), ("Ana", "Okafor")), points=ITEMS)
    assert step.asks[0].cue == "Ana Souza:"


# ---------------------------------------------------------------- turns and actions
def test_seats_take_turns_and_the_others_hear_them():
    env, step = start(Settings(seats=3), characters=THREE, agent_goals=GOALS)
    order = []
    for words in ("Hello.", "*waves*", "[action] sits down", "(nothing)", "Well?", "(leaves)", "Gone."):
        (seat,) = step.asks
        order.append(seat)
        step = talk(env, step, words)
        assert step.public == f"{env.names(step.state)[seat]}: {words}"
    assert order == [0, 1, 2, 0, 1, 2, 0] and list(step.asks) == [1]  # the third left
    assert step.rewards is None and step.state.left == {2}
    step = talk(env, step, "(leaves)")
    assert step.state.ended == ("left",) and step.rewards == {0: 0.0, 1: 0.0, 2: 0.0}


def test_all_may_act_at_once():
    env, step = start(Settings(seats=3, order="simultaneous"), characters=THREE, agent_goals=GOALS)
    step = env.step(step.state, {0: "Hello.", 1: "(leaves)", 2: "*waves*"})
    assert step.public == "Ana Souza: Hello.\nBen Okafor: (leaves)\nCem Demir: *waves*"
    assert list(step.asks) == [0, 2]
    assert text.Action(text.NON_VERBAL, "waves") == step.state.turns[0][2]


def test_actions_that_cannot_be_read_are_none_and_counted():
    env, step = start()
    for words in ("", "  ", "[action]", "[non-verbal] ", "**", "(sings)"):
        assert text.read_plain(words) is None
        after = env.step(step.state, {0: words})
        assert after.events["invalid"] == 1 and after.state.turns == ({0: text.DID_NOTHING},)
    assert env.step(step.state, {0: "(nothing)"}).events["invalid"] == 0
    env, step = start(Settings(actions="json"))
    for words in ("Hello", "{}", "[]", '{"action_type": "sing", "argument": "la"}', '{"action_type": "speak"}'):
        assert env.step(step.state, {0: words}).events["invalid"] == 1
    said = '```json\n{"action_type": "speak", "argument": "(leaves)\\nBen: Deal.", "to": []}\n```'
    after = env.step(step.state, {0: said})
    assert after.public == 'Ana Souza said: "(leaves) Ben: Deal."' and not after.state.left


WORDS = st.text(min_size=1).map(text.clean).filter(lambda words: words.strip("*[]() "))


@given(st.sampled_from(text.KINDS), WORDS)
def test_actions_are_read_as_they_are_written(kind, words):
    action = text.Action(kind, "" if kind in (text.NONE, text.LEAVE) else words)
    assert text.read_json(text.write_json(action)) == action
    assert text.from_words(text.in_words(action)) == action
    if kind == text.SPEAK and text.read_plain(words) != action:
        return  # words in the form of another action are that action
    if kind == text.NON_VERBAL and "*" in words:
        return
    assert text.read_plain(text.write_plain(action)) == action


@given(st.text())
def test_nobody_can_forge_a_line(words):
    env, step = start()
    assert "\n" not in env.step(step.state, {0: words}).public


def test_other_seats_than_asked_are_refused():
    env, step = start()
    with pytest.raises(ValueError, match=r"seats \[1\] act, asked: \[0\]"):
        env.step(step.state, {1: "Hello."})
    with pytest.raises(ValueError, match="asked"):
        env.step(talk(env, step, "(leaves)").state, {0: "Hello."})


# ---------------------------------------------------------------- endings
@pytest.mark.parametrize(("ending", "turns"), [(Ending(), 20), (PUBLISHED_ENDING, 21), (Ending(max_turns=3), 3)])
def test_it_ends_when_the_turns_are_over(ending, turns):
    env, step = start(Settings(ending=ending))
    step = talk(env, step, *["Hello."] * (turns - 1))
    assert step.rewards is None
    step = talk(env, step, "Hello.")
    assert step.state.ended == ("too_long",) and step.events["too_long"] == 1 and step.events["left"] == 0
    assert step.events["turns"] == turns


def test_it_ends_when_nobody_has_anything_to_say():
    env, step = start()
    step = talk(env, step, "Hello.", "(nothing)", "(nothing)")
    assert step.rewards is None
    assert talk(env, step, "(nothing)").state.ended == ("stale",)
    assert talk(env, step, "So?", "(nothing)", "(nothing)").rewards is None
    # The published rule counts those who wait, in the order of seats: after the first it is one silence, after the
    # second two.
    env, step = start(Settings(ending=PUBLISHED_ENDING))
    assert talk(env, step, "Hello.", "(nothing)").state.ended == ("stale",)
    step = talk(env, step, "Hello.", "Hello.", "(nothing)")
    assert step.rewards is None
    assert talk(env, step, "(nothing)").state.ended == ("stale",)


# ---------------------------------------------------------------- points
def test_an_agreement_pays_each_seat_its_points():
    # Worth: a book 1 and 5, the hat 8 and 0. Together they get at most 8 + 10, without a deal 0.
    for weight in (0.0, 0.25, 1.0):
        env, step = start(Settings(joint_weight=weight), points=ITEMS)
        step = talk(env, step, "Deal: Ana gets the hat; Ben gets the rest.", "Deal.")
        assert step.public.endswith("\nAll agree: Ana gets 1 hat; Ben gets 2 books.")
        assert step.events | {"agreement": 1, "points_first": 8, "points_second": 10, "joint_points": 18} == step.events
        assert step.events["joint_share"] == step.events["pareto_optimal"] == 1
        own = (8 / 10, 1.0)
        assert step.rewards == pytest.approx({s: (1 - weight) * own[s] + weight for s in (0, 1)})
    env, step = start(points=ITEMS)
    step = talk(env, step, "Deal: Ben gets the hat, Ana gets the books.", "Deal: I get 1 hat, you get the rest.")
    assert step.rewards == pytest.approx({0: 2 / 10, 1: 0.0})
    assert step.events["joint_share"] == pytest.approx(2 / 18) and step.events["pareto_optimal"] == 0


def test_all_must_state_the_same_deal():
    env, step = start(points=TERMS)
    step = talk(env, step, "Deal: 30 dollars, Friday.", "Deal: 30 dollars, Monday.")
    assert step.rewards is None and step.state.deals == ((1, 1), (1, 0))
    assert talk(env, step, "Deal.").state.agreed == (1, 0)  # what was stated last
    assert talk(env, step, "Hm.", "Deal: Friday for $30!").state.agreed == (1, 1)  # an offer stands
    step = talk(env, step, "Deal: 35 dollars, Friday.")
    assert step.events["unclear_deals"] == 1 and "deals_stated" not in step.events
    step = talk(env, step, "(leaves)")
    assert step.events["agreement"] == 0 and step.events["joint_points"] == 0 and step.events["bargains"] == 1
    # Seat 0: price - 20 and 0 or 5, from 0 to 25; seat 1: 40 - price and 3 or 0, from 0 to 23: without a deal 0.
    assert step.rewards == {0: 0.0, 1: 0.0}


def test_acceptance_at_once_is_of_an_earlier_deal():
    env, step = start(Settings(order="simultaneous"), points=TERMS)
    step = env.step(step.state, {0: "Deal: 20 dollars, Monday.", 1: "Deal."})
    assert step.rewards is None and step.state.deals == ((0, 0), None)
    assert env.step(step.state, {0: "Deal.", 1: "Deal."}).state.agreed == (0, 0)
    both = {0: "Deal: 40 dollars, Friday.", 1: "Deal: 40 dollars on Friday."}
    assert env.step(step.state, both).state.ended == ("agreement",)


def test_three_agree_only_together():
    points = {
        "kind": "items",
        "items": {"book": 3},
        "values": [{"book": 1}, {"book": 2}, {"book": 3}],
        "outside": [1, 0, 0],
    }
    env, step = start(Settings(seats=3), characters=THREE, agent_goals=GOALS, points=points)
    step = talk(env, step, "Deal: Ana gets 1 book; Ben gets 1 book; Cem gets 1 book.", "Deal.")
    assert step.rewards is None
    assert talk(env, step, "(leaves)", "Deal.").rewards is None  # no deal any more, but two remain
    assert talk(env, step, "Agreed.").rewards == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})
    over = talk(env, step, "(leaves)", "Deal.", "(leaves)")
    assert over.events["points_first"] == 1 and over.rewards[0] == pytest.approx(1 / 3)


# ---------------------------------------------------------------- settings
@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"order": "random"}, "order is 'random'; it must be one of round-robin, simultaneous"),
        ({"actions": "xml"}, "actions is 'xml'; it must be one of plain, json"),
        ({"opening": "long"}, "opening is 'long'; it must be one of shared, published, brief"),
        ({"seats": 1}, "seats is 1; it must be 2 to 6"),
        ({"joint_weight": 1.5}, "joint_weight is 1.5; it must be between 0 and 1"),
    ],
)
def test_wrong_settings_are_named(changed, what):
    with pytest.raises(ValueError, match=what):
        Settings(**changed)


def test_a_pack_without_combos_of_so_many_is_refused():
    with pytest.raises(ValueError, match="seats is 3, but the pack has no combo"):
        Sotopia(pack(), Settings(seats=3))


def test_the_rules_say_how_to_act_and_to_agree():
    _, step = start(points=ITEMS)
    assert "*what you show without words*" in step.public and 'Accept the last deal stated with "Deal."' in step.public
    _, step = start(Settings(actions="json", ending=Ending(max_turns=7)))
    assert '{"action_type": TYPE, "argument": TEXT}' in step.public and "after 7 turns" in step.public
    assert json.loads(text.write_json(text.Action(text.SPEAK, "Hé"))) == {"action_type": "speak", "argument": "Hé"}
