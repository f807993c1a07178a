"""Scripted negotiators: what they say, what they may know, and how far they come."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sotopia_packs import ITEMS, TERMS, pack

from omar_jax.envs import sotopia_bots as bots
from omar_jax.envs import sotopia_deals, sotopia_sources
from omar_jax.envs.sotopia import Ending, Settings, Sotopia
from omar_jax.envs.sotopia_bots import TALK, Habits, ScriptedNegotiator
from omar_jax.envs.sotopia_points import draw

BRIEF = Settings(opening="brief", ending=Ending(max_turns=8))
ALWAYS, NEVER = 1.0, 0.0
TALKS = Habits(wishes_first=ALWAYS, tells_truth=ALWAYS)
STUBBORN = Habits(wishes_first=NEVER, asks_first=NEVER, overhears=ALWAYS)
OPEN = replace(STUBBORN, overhears=NEVER, wavers=NEVER, takes_at_first=0.5, takes_at_last=0.5, leaves=NEVER)


def play(env, seed, player):
    """The last step of a game, and the events of all."""
    step, turn, events = env.step(env.reset(seed), {}), 0, Counter()
    while step.rewards is None:
        said = {
            seat: player.act(env, step.state, seat, ask, (), np.random.default_rng((seed, turn, seat)))
            for seat, ask in step.asks.items()
        }
        step, turn = env.step(step.state, said), turn + 1
        events.update(step.events)
    return step, events


def answers(habits, points, *said):
    """The different answers of whoever is asked after these words."""
    env = Sotopia(pack(points=points), BRIEF)
    step = env.step(env.reset(0), {})
    for words in said:
        step = env.step(step.state, dict.fromkeys(step.asks, words))
    ((seat, ask),) = step.asks.items()
    player = ScriptedNegotiator(habits)
    return {player.act(env, step.state, seat, ask, (), np.random.default_rng(seed)) for seed in range(60)}


def test_wishes_are_for_what_is_worth_most_unless_they_are_lies():
    assert answers(TALKS, ITEMS) == {"I want the hats.", "I need the hats."}
    assert answers(replace(TALKS, tells_truth=NEVER), ITEMS) > {"I want the books.", "I want the hats."}
    assert answers(TALKS, TERMS) == {"I want a higher price."}
    assert answers(TALKS, TERMS, "Hello.") == {"I want a lower price."}


def test_a_deal_is_taken_for_enough_and_not_for_less():
    # The hat is worth 8 of 10 to Ana, both books 2.
    assert answers(OPEN, ITEMS, "", "Deal: Ana gets the hat; Ben gets the rest.") == {"Deal."}
    refused = answers(replace(OPEN, complains=ALWAYS), ITEMS, "", "Deal: Ana gets the books; Ben gets the rest.")
    assert refused == set(bots.COMPLAINTS)
    assert answers(replace(OPEN, leaves=ALWAYS), ITEMS, "", "Deal: Ana gets nothing.") == {"(leaves)"}
    patient = replace(OPEN, takes_at_first=1.0, takes_at_last=0.1)
    assert "Deal." not in answers(patient, ITEMS, "", "Deal: Ana gets the books.")
    late = [*["Hm."] * 5, "Deal: Ana gets the books."]
    assert answers(patient, ITEMS, *late) == {"Deal."}


def test_deals_are_of_the_share_gone_for():
    bargain = draw(ITEMS, 2, np.random.default_rng(0))

    def deals(habits, *said):
        aliases = [("Ana",), ("Ben",)]
        return {sotopia_deals.stated(words, bargain, aliases, 0) for words in answers(habits, ITEMS, *said)}

    greedy = replace(STUBBORN, offers={(0.8, 1.0): 1.0}, insists=NEVER)
    assert deals(greedy) == {deal for deal in bargain.deals() if bargain.points(deal)[0] >= 8}
    modest = replace(greedy, offers={(0.0, 0.1): 1.0})
    assert deals(modest) == {((0, 0), (2, 1)), ((1, 0), (1, 1))}
    heeding = replace(greedy, offers={(0.0, 1.0): 1.0}, heeds_wish=ALWAYS)
    assert deals(heeding, "", "I need the books.") == {((0, 0), (2, 1)), ((0, 1), (2, 0))}
    assert {said.split()[-1] for said in answers(heeding, TERMS, "", "I want Friday.")} == {"Friday."}


def test_they_speak_the_form_of_the_environment():
    env = Sotopia(pack(points=ITEMS), replace(BRIEF, actions="json"))
    for seed in range(20):
        _, events = play(env, seed, ScriptedNegotiator())
        assert events["invalid"] == 0 and events["speeches"] > 0


def test_who_insists_says_it_again():
    insisting = replace(STUBBORN, insists=ALWAYS)
    said = answers(insisting, TERMS, "Deal: 40 dollars, Friday.", "Deal: 20 dollars, Monday.")
    assert said == {"Deal: 40 dollars, Friday."}


def test_answers_do_not_depend_on_what_the_seat_cannot_know():
    env = Sotopia(sotopia_sources.load().only(lambda scenario: scenario.source == "bargain"), BRIEF)
    player = ScriptedNegotiator()
    for seed in range(40):
        step = env.step(env.reset(seed), {})
        step = env.step(step.state, {0: "I want the hats."})
        bargain = step.state.bargain
        if hasattr(bargain, "issues"):
            issues = [replace(issue, values=(issue.values[1], issue.values[1])) for issue in bargain.issues]
            other = replace(bargain, issues=tuple(issues))
        else:
            other = replace(bargain, values=(bargain.values[1], bargain.values[1]))
        changed = replace(step.state, bargain=other)
        seen, unseen = (
            player.act(env, state, 1, step.asks[1], (), np.random.default_rng(seed)) for state in (step.state, changed)
        )
        assert seen == unseen


def test_without_points_everybody_talks_politely_and_leaves():
    env, rng, said = Sotopia(pack()), np.random.default_rng(0), []
    step = env.step(env.reset(0), {})
    while step.rewards is None:
        [(seat, ask)] = step.asks.items()
        said.append(ScriptedNegotiator().act(env, step.state, seat, ask, (), rng))
        step = env.step(step.state, {seat: said[-1]})
    assert said[-1] == "(leaves)" and len(said) == 2 * len(TALK) + 1 and step.events["invalid"] == 0
    assert said[0] in [words.format(other="Ben") for words in TALK[0]] and said[2] in TALK[1]


@pytest.mark.parametrize(
    ("seats", "order", "wanted"),
    [(2, "round-robin", (0.72, 0.86)), (2, "simultaneous", (0.2, 0.8)), (3, "round-robin", (0.1, 0.8))],
)
def test_they_often_agree_and_leave_much_to_be_won(seats, order, wanted):
    env = Sotopia(
        sotopia_sources.load().only(lambda scenario: scenario.source == "bargain"),
        Settings(opening="brief", seats=seats, order=order, ending=Ending(max_turns=8)),
    )
    games = 600 if seats == 2 and order == "round-robin" else 40
    total, lengths = Counter(), Counter()
    for seed in range(games):
        step, events = play(env, seed, ScriptedNegotiator())
        total.update(events)
        lengths[len(step.state.turns)] += 1
    assert total["invalid"] == total["unclear_deals"] == 0
    low, high = wanted
    assert low < total["agreement"] / games < high
    if games == 600:
        assert 0.55 < total["joint_share"] / games < 0.70
        assert len(lengths) >= 6  # games of all lengths


def test_the_vocabulary_is_small():
    env = Sotopia(sotopia_sources.load().only(lambda scenario: scenario.source == "bargain"), BRIEF)
    words, longest = set(), 0
    for seed in range(150):
        opening = env.step(env.reset(seed), {})
        step, _ = play(env, seed, ScriptedNegotiator())
        told = [
            opening.public,
            *opening.private.values(),
            *(a.argument for turn in step.state.turns for a in turn.values()),
        ]
        words.update(word.strip(".,;:?") for text in told for word in text.split())
        longest = max(longest, sum(len(text.split()) for text in told))
    assert len(words) < 200 and longest < 200
