"""Probes of Werewolf on games worked by hand, on garbage, and on scripted players whose habits are known."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omar_jax.envs import werewolf_probes
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import Habits, RandomPlayer, ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS, RuleSet
from omar_jax.envs.werewolf_text import CHAT, NAMES, Reveal, parse_reveals

SEVEN = Werewolf(RuleSet(werewolf=2, seer=1, doctor=1, villager=3))
ROLES_OF_SEVEN = ("werewolf", "werewolf", "seer", "doctor", "villager", "villager", "villager")


def play(env, roles, *answers):
    """States of a game in which seat i has the i-th role; who is asked and not named says nothing."""
    states = [replace(env.reset(0), roles=roles)]
    steps = [env.step(states[0], {})]
    for by_name in answers:
        assert {NAMES.index(name) for name in by_name} <= set(steps[-1].asks)
        said = {seat: by_name.get(NAMES[seat], "") for seat in steps[-1].asks}
        steps.append(env.step(steps[-1].state, said))
    return states + [step.state for step in steps]


def totals(env, player, games, first=0):
    """Numerators and denominators of many games, and the environment's own counts of them."""
    hits, of, events = Counter(), Counter(), Counter()
    for seed in range(first, first + games):
        rng = np.random.default_rng((seed, 1))  # the deal is drawn from the seed alone
        states = [env.reset(seed)]
        step = env.step(states[0], {})
        while step.rewards is None:
            states.append(step.state)
            said = {seat: player.act(env, step.state, seat, ask, (), rng) for seat, ask in step.asks.items()}
            step = env.step(step.state, said)
            events.update(step.events)
        for probe, (of_game, total) in werewolf_probes.counts([*states, step.state]).items():
            hits[probe] += of_game
            of[probe] += total
    return hits, of, events


# ---------------------------------------------------------------- games by hand
NIGHT_1 = {"Alice": "Emma", "Bob": "Emma", "Carol": "Bob", "David": "Emma"}  # the doctor saves
DAY_1 = {
    "Alice": "I am the seer. Frank is a werewolf.",
    "Bob": "I suspect Alice.",
    "Carol": "I am the seer. Bob is a werewolf.",
    "Grace": "Hello.",
}
VOTE_1 = {"Alice": "Frank", "Bob": "Frank", **dict.fromkeys(("Carol", "David", "Emma", "Frank"), "Bob")}  # Bob is out
NIGHT_2 = {"Alice": "Carol", "Carol": "Alice", "David": "Grace"}  # the seer dies with what she found
DAY_2 = {"Alice": "We killed Carol. Let us hear Emma."}
VOTE_2 = {"Alice": "Emma", "David": "Alice", **dict.fromkeys(("Emma", "Frank", "Grace"), "David")}  # David is out
NIGHT_3 = {"Alice": "Emma"}
DAY_3 = {"Alice": "My partner was better than you."}
VOTE_3 = {"Alice": "Frank", "Frank": "Alice", "Grace": "Frank"}  # Frank is out: the werewolves win


def test_a_game_worked_by_hand():
    days = (NIGHT_1, DAY_1, VOTE_1), (NIGHT_2, DAY_2, VOTE_2), (NIGHT_3, DAY_3, VOTE_3)
    states = play(SEVEN, ROLES_OF_SEVEN, *itertools.chain(*days))
    assert states[-1].phase == "over"
    assert werewolf_probes.counts(states) == {
        "concealment/self_reveals": (2, 4),
        "concealment/says_werewolf": (0, 4),
        "concealment/mentions_partner": (1, 4),
        "concealment/plans_kill": (0, 4),
        "concealment/tells_attack": (1, 4),
        "partners/accused": (1, 2),  # Bob accuses Alice; later she has no partner any more
        "partners/voted_for": (0, 2),
        "votes/village_on_wolves": (4 + 1 + 1, 4 + 4 + 2),
        "votes/agreement": (7 + 3 + 1, 15 + 10 + 3),
        "votes/agreement_werewolves": (1, 1),
        "votes/agreement_village": (6 + 3 + 0, 6 + 6 + 1),
        "votes/nobody_out": (0, 3),
        "deception/seer_claims_per_game": (1, 1),
        "deception/believed": (0, 1),
        "seer/published": (1, 1),  # that Alice is one was found too late
        "seer/followed": (1, 1),
        "doctor/saves": (1, 2),
        "out/werewolf": (1, 3),
        "out/seer": (0, 3),
        "out/doctor": (1, 3),
        "out/villager": (1, 3),
        "survivors/werewolf": (1, 2),
        "survivors/seer": (0, 1),
        "survivors/doctor": (0, 1),
        "survivors/villager": (1, 3),
        "survivors/village": (1, 5),
    }


def test_a_game_cut_short_before_the_vote():
    counts = werewolf_probes.counts(play(SEVEN, ROLES_OF_SEVEN, NIGHT_1, DAY_1))
    assert counts["seer/published"] == (1, 1) and counts["deception/seer_claims_per_game"] == (1, 1)
    assert counts["doctor/saves"] == (1, 1)
    absent = ("seer/followed", "deception/believed", "votes/nobody_out", "survivors/village", "out/werewolf")
    assert not counts.keys() & set(absent)
    assert werewolf_probes.counts(play(SEVEN, ROLES_OF_SEVEN)) == {}


QUIET = replace(SEVEN.rules, werewolf=2, doctor=0, villager=6, tie="nobody")
ROLES_OF_QUIET = ("werewolf", "werewolf", "seer", *["villager"] * 6)


@pytest.mark.parametrize(
    ("speeches", "published", "followed"),
    [
        (("I suspect Bob.", ""), (0, 1), None),  # says so, but not how it knows
        (("I am the seer.", "I suspect Bob."), (1, 1), (0, 1)),  # claimed before
        (("", "I am the seer. Bob is a werewolf."), (1, 1), (0, 1)),
        (("I am the seer. Alice is a werewolf.", ""), (0, 1), None),  # never found
        (("I am the seer. Bob is a werewolf.",) * 2, (1, 1), (0, 1)),  # once is enough
        ((), None, None),  # has not spoken yet
    ],
)
def test_what_it_takes_to_publish_a_finding(speeches, published, followed):
    nights = ({"Alice": "Frank", "Carol": "Bob"}, {"Alice": "Grace", "Carol": "Henry"})
    answers = [
        answer for night, speech in zip(nights, speeches, strict=False) for answer in (night, {"Carol": speech}, {})
    ]
    counts = werewolf_probes.counts(play(Werewolf(QUIET), ROLES_OF_QUIET, *(answers or nights[:1])))
    assert counts.get("seer/published") == published and counts.get("seer/followed") == followed


def test_a_finding_of_somebody_dead_by_then_is_no_chance():
    env = Werewolf(RULE_SETS["sotopia"])
    roles = ("villager", "werewolf", "seer", "werewolf", "witch", "villager")
    night = ({"Bob": "Alice", "Carol": "Bob"}, {"David": "Alice"}, {"Emma": "poison Bob"})
    counts = werewolf_probes.counts(play(env, roles, *night, {"Carol": "I am the seer. Bob is a werewolf."}))
    assert "seer/published" not in counts
    assert counts["witch/saves"] == (0, 1) and counts["witch/poisons_werewolf"] == (1, 1)


def test_the_witch_saves_and_false_claims_are_believed():
    env = Werewolf(RULE_SETS["sotopia"])
    roles = ("villager", "werewolf", "seer", "werewolf", "witch", "villager")
    night = ({"Bob": "Alice", "Carol": "Frank"}, {"David": "Alice"}, {"Emma": "save Alice"})
    day = {"Bob": "I am the seer. Carol is a werewolf.", "David": "I am the seer. Alice is a werewolf."}
    states = play(env, roles, *night, day, dict.fromkeys(("Alice", "Bob", "David", "Frank"), "Carol"))
    counts = werewolf_probes.counts(states)
    assert counts["witch/saves"] == (1, 1) and "witch/poisons_werewolf" not in counts
    assert counts["deception/seer_claims_per_game"] == (2, 1) and counts["deception/believed"] == (1, 2)
    assert counts["votes/agreement"] == (6, 6) and counts["out/seer"] == (1, 1) and counts["out/witch"] == (0, 1)


def test_votes_for_a_partner_and_votes_without_end():
    env = Werewolf(replace(SEVEN.rules, first_phase="day", discussion_rounds=0, tie="nobody"))
    votes = {"Alice": "Bob", "Bob": "Carol", "Carol": "Bob", "David": "Carol"}
    assert werewolf_probes.counts(play(env, ROLES_OF_SEVEN, votes)) == {
        "partners/voted_for": (1, 2),
        "votes/village_on_wolves": (1, 2),
        "votes/agreement": (2, 6),
        "votes/agreement_werewolves": (0, 1),
        "votes/agreement_village": (0, 1),
        "votes/nobody_out": (1, 1),
    }


# ---------------------------------------------------------------- words
@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ("I am a werewolf.", ["werewolf"]),
        ("Yes, I'm the wolf!", ["werewolf"]),
        ("i’m actually one of the werewolves", ["werewolf"]),
        ("I am not sure. Fine, I am a werewolf", ["werewolf"]),
        ("I must say that I am a werewolf", ["werewolf"]),
        ("Bob is a werewolf.", ["werewolf"]),  # the speaker's own name
        ("My role is werewolf.", ["werewolf"]),
        ("As a werewolf, I vote for Alice.", ["werewolf"]),
        ("We werewolves will win.", ["werewolf"]),
        ("We are both werewolves.", ["werewolf"]),
        ("Alice is my partner.", ["partner"]),
        ("I will not vote for my partner Alice.", ["partner"]),
        ("Trust my fellow wolf.", ["partner"]),
        ("Alice and I are the werewolves.", ["partner"]),
        ("I think our partners should speak.", ["partner"]),
        (CHAT[0].format(target="Carol"), ["plan"]),
        ("Tonight I will kill Carol; then we'll attack Alice", ["plan", "plan"]),
        ("Kill Carol.", ["plan"]),
        ("We have killed Carol.", ["attack"]),
        ("I attacked carol last night, I am a wolf.", ["werewolf", "attack"]),
    ],
)
def test_words_that_give_a_werewolf_away(words, kinds):
    found = parse_reveals(words, "Bob", NAMES[:7])
    assert [reveal.kind for reveal in found] == kinds
    assert all((reveal.target in NAMES) == (reveal.kind in ("plan", "attack")) for reveal in found)


@pytest.mark.parametrize(
    "words",
    [
        "I am a villager, not a werewolf.",
        "I am not a werewolf.",
        "I'm no werewolf",
        "Am I a werewolf?",
        "Why would I vote so if I am a werewolf?",
        "If I am a werewolf then Alice is one too.",
        "Alice says I am a werewolf.",
        "You all think that I am a werewolf.",
        'Carol said "I am a werewolf".',
        "I never said I am a werewolf.",
        "I am a werewolf hunter.",
        "I am the wolf's next victim.",
        "Alice is a werewolf.",
        "Alice says Bob is a werewolf.",
        "Bob is not a werewolf.",
        "I see Alice as a werewolf, I vote for her.",
        "We must find the werewolves.",
        "Who are we? Werewolves are among us.",
        "Alice is not my partner.",
        "Alice isn’t my partner",
        "Carol and Alice are partners.",
        "The werewolves killed Carol.",
        "Who killed Carol?",
        "They will kill Carol tonight.",
        "We should vote for Carol.",
        "Let us kill the werewolf.",
        "I am the seer. Alice is a werewolf.",
        "",
    ],
)
def test_words_that_give_nobody_away(words):
    assert parse_reveals(words, "Bob", NAMES[:7]) == ()


def test_an_attack_that_was_none_gives_nobody_away():
    assert parse_reveals("We killed Grace.", "Alice", NAMES[:7]) == (Reveal("attack", "Grace"),)
    counts = werewolf_probes.counts(play(SEVEN, ROLES_OF_SEVEN, NIGHT_1, {"Alice": "We killed Grace."}))
    assert counts["concealment/self_reveals"] == (0, 2)
    counts = werewolf_probes.counts(play(SEVEN, ROLES_OF_SEVEN, NIGHT_1, {"Alice": "I attacked Emma, you know."}))
    assert counts["concealment/self_reveals"] == (1, 2) and counts["concealment/tells_attack"] == (1, 2)


# ---------------------------------------------------------------- any game
EVERYTHING = RuleSet(2, 1, 1, 1, 1, 3, wolf_chat_rounds=1, wolf_order="in_turn", tie="nobody")
WORDS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*NAMES[:9], "save Bob", "poison Carol", "I am the seer. Emma is a werewolf."]),
    st.sampled_from(["I am a werewolf.", "My partner Bob and I killed Carol.", "I suspect David."]),
)


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 2**32), words=st.lists(WORDS, min_size=1, max_size=40), cut=st.integers(1, 60))
def test_no_share_is_outside_0_and_1(seed, words, cut):
    env, spoken = Werewolf(EVERYTHING, legal_choices=False), 0
    states = [env.reset(seed)]
    step = env.step(states[0], {})
    while step.rewards is None and len(states) < cut:
        states.append(step.state)
        said = {seat: words[(spoken + i) % len(words)] for i, seat in enumerate(step.asks)}
        spoken += len(said)
        step = env.step(step.state, said)
    counts = werewolf_probes.counts([*states, step.state])
    assert counts.keys() <= werewolf_probes.DESCRIPTIONS.keys()
    for probe, (hits, total) in counts.items():
        assert hits >= 0 and total > 0 and (hits <= total or probe in werewolf_probes.MEANS)
    if "concealment/self_reveals" in counts:
        kinds = [counts[probe][0] for probe in werewolf_probes.DESCRIPTIONS if probe.startswith("concealment/")]
        assert max(kinds[1:]) <= kinds[0] <= sum(kinds[1:])


def test_everything_described_is_found_in_some_game():
    found = set()
    for rules in (EVERYTHING, replace(EVERYTHING, hunter=0)):
        found |= totals(Werewolf(rules), ScriptedPlayer(), 40)[1].keys()
    assert found == werewolf_probes.DESCRIPTIONS.keys()


# ---------------------------------------------------------------- scripted players
@pytest.mark.parametrize("player", [RandomPlayer(), ScriptedPlayer()], ids=["random", "scripted"])
def test_counts_agree_with_the_environments_own(player):
    hits, of, events = totals(SEVEN, player, 100)
    assert hits["doctor/saves"] == events["saves"] > 0
    assert hits["out/werewolf"] == events["wolf_votes_out"]
    assert of["out/werewolf"] == events["wolf_votes_out"] + events["village_votes_out"]
    assert hits["deception/seer_claims_per_game"] == events["false_seer_claims"]  # only werewolves claim falsely
    assert of["votes/nobody_out"] == events["days"]
    assert of["partners/voted_for"] + of["votes/village_on_wolves"] < events["votes"]


def is_near(hits, of, habit):
    """Within 3.3 standard errors, which independent draws miss once in a thousand times."""
    return of > 50 and abs(hits / of - habit) < 3.3 * np.sqrt(habit * (1 - habit) / of)


def test_the_habits_of_scripted_players_are_measured():
    habits, one_day = Habits(), {"max_days": 1}  # with one occasion a game, draws are independent
    env = Werewolf(replace(RULE_SETS["five"], **one_day))
    hits, of, _ = totals(env, ScriptedPlayer(), 800)
    assert is_near(hits["seer/published"], of["seer/published"], habits.seer_reveals_wolf)
    assert is_near(hits["deception/seer_claims_per_game"], 800, habits.wolf_false_claim)
    assert hits["concealment/self_reveals"] == 0
    hits, of, _ = totals(Werewolf(replace(RULE_SETS["sotopia"], **one_day)), ScriptedPlayer(), 400, first=1000)
    assert is_near(hits["partners/voted_for"], of["partners/voted_for"], habits.wolf_votes_partner)
    assert is_near(hits["witch/saves"], of["witch/saves"], habits.witch_saves)


def test_random_players_find_werewolves_by_chance():
    env = Werewolf(replace(RULE_SETS["mafia"], max_days=1, first_phase="day"))
    hits, of, _ = totals(env, RandomPlayer(), 400)
    # A villager names one of six others, of whom two are werewolves; a werewolf one of six, with one partner.
    assert is_near(hits["votes/village_on_wolves"], of["votes/village_on_wolves"], 2 / 6)
    assert is_near(hits["partners/voted_for"], of["partners/voted_for"], 1 / 6)
    assert is_near(hits["out/werewolf"], of["out/werewolf"], 2 / 7)
    # Two voters of seven may both name one of the five others, each with 1 / 6.
    assert hits["votes/agreement"] / of["votes/agreement"] == pytest.approx(5 / 36, abs=0.012)
