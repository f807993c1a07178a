"""Scripted players: they finish every game legally, use only what they may know, and keep to their habits."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from omar_jax.envs import werewolf_text as text
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import Habits, RandomPlayer, ScriptedPlayer, read_evidence
from omar_jax.envs.werewolf_rules import RULE_SETS, Entry, RuleSet, view

NEVER = Habits(**{habit.name: 0.0 for habit in fields(Habits)})


def play(env, seed, player, rng):
    """The last state and the game's summed events."""
    step = env.step(env.reset(seed), {})
    events = Counter(step.events)
    while step.rewards is None:
        actions = {seat: player.act(env, step.state, seat, ask, (), rng) for seat, ask in step.asks.items()}
        for seat, ask in step.asks.items():
            assert ask.options is None or actions[seat] in ask.options
        step = env.step(step.state, actions)
        events.update(step.events)
    return step.state, events


def day_one(*roles, said=(), task="vote", looks=()):
    """A `five` game on day 1; said is (seat, words), looks is (target, found) of the seer in seat 0."""
    env = Werewolf(RULE_SETS["five"])
    step = env.step(replace(env.reset(0), roles=roles), {})
    step = env.step(step.state, {seat: env.seat_names[seat - 1] for seat in step.asks})
    entries = [Entry(0, "look", 0, found, target, (0,)) for target, found in looks]
    entries += [Entry(1, "speech", seat, words) for seat, words in said]
    if task == "vote":
        step = env.step(step.state, dict.fromkeys(step.asks, ""))
    return env, replace(step, state=replace(step.state, log=tuple(entries)))


def answers(env, step, seat, habits, games=50):
    """The different answers a seat gives."""
    player = ScriptedPlayer(habits)
    return {
        player.act(env, step.state, seat, step.asks[seat], (), np.random.default_rng(seed)) for seed in range(games)
    }


FIVE = ("seer", "werewolf", "villager", "villager", "villager")


@pytest.mark.parametrize("legal_choices", [True, False])
@pytest.mark.parametrize("player", [ScriptedPlayer(), RandomPlayer()], ids=["scripted", "random"])
@pytest.mark.parametrize("name", [*RULE_SETS, "everything"])
def test_every_game_ends_without_an_invalid_answer(name, player, legal_choices):
    everything = RuleSet(2, 1, 1, 1, 1, 3, wolf_chat_rounds=1, wolf_order="in_turn", discussion_rounds=2)
    env = Werewolf(RULE_SETS.get(name, everything), legal_choices)
    rng = np.random.default_rng(3)
    for seed in range(25):
        _, events = play(env, seed, player, rng)
        assert events["invalid"] == 0
        assert events["draws"] == 0


def test_the_same_generator_makes_the_same_game():
    env = Werewolf(RULE_SETS["omar"])
    first, again = (play(env, 9, ScriptedPlayer(), np.random.default_rng(5)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", ["five", "omar"])
def test_neither_side_is_lost_from_the_start(name):
    env, rng = Werewolf(RULE_SETS[name]), np.random.default_rng(4)
    wins = sum(play(env, seed, ScriptedPlayer(), rng)[1]["werewolves_wins"] for seed in range(600))
    assert 0.25 < wins / 600 < 0.75


def test_answers_do_not_depend_on_what_the_seat_cannot_know():
    env, step = day_one(*FIVE, said=[(0, "I suspect Bob.")], looks=[(1, "werewolf")])
    player = ScriptedPlayer()
    for seat in (2, 3, 4):
        log = tuple(entry for entry in step.state.log if entry.known_to is None)
        roles = tuple("villager" if other == seat else "werewolf" for other in range(5))
        changed = replace(step.state, roles=roles, log=log)
        for seed in range(20):
            seen, unseen = (
                player.act(env, state, seat, step.asks[seat], (), np.random.default_rng(seed))
                for state in (step.state, changed)
            )
            assert seen == unseen


def test_the_seer_speaks_and_votes_by_its_findings():
    env, step = day_one(*FIVE, task="speech", looks=[(1, "werewolf")])
    said = answers(env, step, 0, replace(NEVER, seer_reveals_wolf=1.0))
    assert said == {line.format(target="Bob") for line in text.SEER_ACCUSES}
    env, step = day_one(*FIVE, task="speech", looks=[(2, "innocent")])
    said = answers(env, step, 0, replace(NEVER, seer_reveals_innocent=1.0))
    assert said == {line.format(target="Carol") for line in text.SEER_CLEARS}
    said = answers(env, step, 0, replace(NEVER, villager_accuses=1.0), games=200)
    assert not any("Carol" in words for words in said)
    env, step = day_one(*FIVE, looks=[(1, "werewolf")])
    assert answers(env, step, 0, replace(NEVER, seer_votes_found=1.0)) == {"Bob"}
    env, step = day_one(*FIVE, looks=[(2, "innocent")], said=[(3, "I am the seer. Emma is a werewolf.")])
    assert answers(env, step, 0, replace(NEVER, seer_votes_claimant=1.0)) == {"David"}
    assert answers(env, step, 0, NEVER) == {"Bob", "David", "Emma"}


def test_villagers_vote_by_what_they_heard():
    claim = [
        (0, "I am the seer. Bob is a werewolf."),
        (3, "Please do not vote for me."),
        (4, "I suspect Carol."),
    ]
    env, step = day_one(*FIVE, said=claim)
    assert answers(env, step, 2, replace(NEVER, follow_seer_claim=1.0)) == {"Bob"}
    assert answers(env, step, 2, replace(NEVER, follow_plead=1.0)) == {"David"}
    assert answers(env, step, 3, replace(NEVER, follow_accusation=1.0)) == {"Carol"}
    assert answers(env, step, 2, NEVER) == {"Alice", "Bob", "David", "Emma"}
    env, step = day_one(*FIVE, said=[(1, "I am the seer. Carol is a werewolf."), (0, "I am the seer. Emma is good.")])
    assert answers(env, step, 2, replace(NEVER, counter_claimant=1.0)) == {"Bob"}
    assert answers(env, step, 3, replace(NEVER, avoid_cleared=1.0)) == {"Alice", "Bob", "Carol"}


def test_claims_of_the_dead_count_by_what_they_were():
    _, step = day_one(*FIVE, said=[(4, "I am the seer. David is a werewolf.")])
    for revealed, proven, accused in (("seer", {3}, {3}), ("villager", set(), set()), ("", set(), {3})):
        log = (*step.state.log, Entry(1, "killed", 4, revealed))
        state = replace(step.state, log=log, died_on=(None, None, None, None, 1))
        evidence = read_evidence(view(state, 2))
        assert evidence.proven == proven and set(evidence.accused) == accused
        assert evidence.claimants == set()


def test_werewolves_speak_and_vote_by_habit():
    env, step = day_one(*FIVE, task="speech")
    said = answers(env, step, 1, replace(NEVER, wolf_false_claim=1.0))
    assert all(words.startswith("I am the seer.") and "Bob" not in words for words in said)
    assert answers(env, step, 1, replace(NEVER, wolf_pleads=1.0)) == set(text.PLEADS)
    env, step = day_one(*FIVE, said=[(0, "I suspect Emma."), (2, "I suspect Emma."), (3, "I suspect Alice.")])
    assert answers(env, step, 1, replace(NEVER, wolf_joins=1.0)) == {"Emma"}
    assert answers(env, step, 1, NEVER) == {"Alice", "Carol", "David", "Emma"}


def test_werewolves_agree_in_the_chat():
    env = Werewolf(replace(RULE_SETS["omar"], kill_on_first_night=True))
    roles = ("villager", "werewolf", "seer", "werewolf", "doctor", "villager", "villager")
    step = env.step(replace(env.reset(0), roles=roles), {})
    step = env.step(step.state, {1: "Let us kill Emma.", 3: "Let us kill Alice."})
    assert answers(env, step, 1, replace(NEVER, wolf_follows=1.0)) == {"Emma"}
    assert answers(env, step, 3, replace(NEVER, wolf_follows=1.0)) == {"Emma"}
    assert len(answers(env, step, 3, NEVER)) == 5


def test_the_seer_looks_at_nobody_twice():
    env = Werewolf(RULE_SETS["five"])
    step = env.step(replace(env.reset(0), roles=FIVE), {})
    looks = tuple(Entry(0, "look", 0, "innocent", target, (0,)) for target in (2, 3))
    step = replace(step, state=replace(step.state, log=looks))
    assert answers(env, step, 0, Habits()) == {"Bob", "Emma"}


def test_scripted_phrases_are_short_and_understood():
    names = ("Alice", "Bob")
    phrases = {
        "SEER_ACCUSES": ["seer", "accuse"],
        "SEER_CLEARS": ["seer", "clear"],
        "ACCUSES": ["accuse"],
        "BELIEVES": ["accuse"],
        "TRUSTS": ["clear"],
        "PLEADS": ["plead"],
        "SMALL_TALK": [],
        "CHAT": [],
    }
    for name, kinds in phrases.items():
        for variant in vars(text)[name]:
            said = variant.format(target="Bob", claimant="Alice")
            assert len(said.split()) <= 12
            claims = text.parse_claims(said, names)
            assert [claim.kind for claim in claims] == kinds
            assert all(claim.target in ("Bob", None) for claim in claims)


@pytest.mark.parametrize(
    ("said", "claims"),
    [
        ("I am the seer. Bob is a werewolf.", [text.Claim("seer"), text.Claim("accuse", "Bob")]),
        ("I think bob is the wolf", [text.Claim("accuse", "Bob")]),
        ("Carol is innocent. I trust Alice.", [text.Claim("clear", "Carol"), text.Claim("clear", "Alice")]),
        ("Carol is not a werewolf.", [text.Claim("clear", "Carol")]),
        ("I am a villager. Please do not vote for me.", [text.Claim("plead")]),
        ("Let us vote for Alice!", [text.Claim("accuse", "Alice")]),
        ("Do not vote for Alice. I am not the seer. Zoe is a werewolf.", []),
    ],
)
def test_claims(said, claims):
    assert text.parse_claims(said, ("Alice", "Bob", "Carol")) == claims
