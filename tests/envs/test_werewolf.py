"""Werewolf against nights and days worked by hand; `test_werewolf_exact` holds it to exact probabilities."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import RandomPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS, Entry, RuleSet, mafia_rules, view


def play(env, seed, player, rng):
    """All steps of a game."""
    steps = [env.step(env.reset(seed), {})]
    while steps[-1].rewards is None:
        last = steps[-1]
        assert last.asks
        actions = {seat: player.act(env, last.state, seat, ask, (), rng) for seat, ask in last.asks.items()}
        steps.append(env.step(last.state, actions))
    return steps


def deal(env, *roles):
    """The opening of a game in which seat i has the i-th role."""
    return env.step(replace(env.reset(0), roles=roles), {})


def answer(env, step, **by_name):
    """Plays the named seats' answers; all other asked seats say nothing."""
    return env.step(step.state, {seat: by_name.get(env.seat_names[seat], "") for seat in step.asks})


def vote_out(env, step, name):
    """Everybody is silent, then all but the named vote for the named."""
    while step.state.phase == "speeches":
        step = answer(env, step)
    return env.step(step.state, dict.fromkeys(step.asks, name))


# ---------------------------------------------------------------- replays, secrets
@pytest.mark.parametrize("name", RULE_SETS)
def test_a_game_replays_from_its_seed_and_actions(name):
    env = Werewolf(RULE_SETS[name])
    first = play(env, 5, RandomPlayer(), np.random.default_rng(1))
    again = play(Werewolf(RULE_SETS[name]), 5, RandomPlayer(), np.random.default_rng(1))
    assert first == again
    assert env.reset(5) == env.reset(5)
    assert len({env.reset(seed).roles for seed in range(20)}) > 3


@pytest.mark.parametrize("name", RULE_SETS)
def test_every_preset_plays_to_its_end(name):
    env, rng = Werewolf(RULE_SETS[name]), np.random.default_rng(2)
    for seed in range(40):
        steps = play(env, seed, RandomPlayer(), rng)
        events = steps[-1].events
        assert events["village_wins"] + events["werewolves_wins"] == 1
        assert sorted(steps[-1].rewards) == list(range(env.num_seats))
        assert not steps[-1].asks
        assert sorted(set(env.roles(steps[-1].state))) == sorted(env.role_names)
        for step in steps[1:]:
            hunted = step.state.phase == "hunter"
            assert hunted or set(step.asks) <= set(step.state.living())
            assert set(step.private) <= set(step.state.living())
            assert not any(line != line.strip() for line in step.public.split("\n"))


def test_role_cards_and_partners_are_private():
    step = deal(Werewolf(RULE_SETS["omar"]), "seer", "werewolf", "villager", "werewolf", *["villager"] * 3)
    assert step.private[0] == "You are Alice, the seer."
    assert step.private[1] == "You are Bob, a werewolf. Your partner is David."
    assert step.private[3] == "You are David, a werewolf. Your partner is Bob."
    assert step.private[2] == "You are Carol, a villager."
    assert "You are" not in step.public
    assert view(step.state, 2).partners == () and view(step.state, 1).partners == (3,)
    assert len(step.public.split()) < 60


def test_only_the_seer_learns_what_it_found():
    env = Werewolf(RULE_SETS["five"])
    step = deal(env, "seer", "werewolf", "villager", "villager", "villager")
    assert set(step.asks) == {0} and step.asks[0].options == ("Bob", "Carol", "David", "Emma")
    wolf = answer(env, step, Alice="Bob")
    assert wolf.private == {0: "You looked at Bob. Bob is a werewolf."}
    assert wolf.public == "Nobody died.\nDay 1."
    assert answer(env, step, Alice="Carol").private == {0: "You looked at Carol. Carol is innocent."}
    assert [entry.kind for entry in view(wolf.state, 0).log] == ["look"]
    assert view(wolf.state, 1).log == ()


def test_a_seer_killed_at_night_learns_nothing_more():
    env = Werewolf(replace(RULE_SETS["five"], kill_on_first_night=True))
    step = answer(env, deal(env, "seer", "werewolf", *["villager"] * 3), Alice="Bob", Bob="Alice")
    assert step.public == "Alice was killed. Alice was the seer.\nDay 1."
    assert step.private == {} and 0 not in step.asks


def test_wolf_chat_is_heard_by_living_werewolves_alone():
    env = Werewolf(replace(RULE_SETS["omar"], kill_on_first_night=True, wolf_chat_rounds=2))
    step = deal(env, "werewolf", "werewolf", "seer", "doctor", *["villager"] * 3)
    assert set(step.asks) == {0, 1}
    step = answer(env, step, Alice="Let us\n kill Emma.")
    assert set(step.asks) == {0, 1} and step.public == ""
    assert step.private == dict.fromkeys((0, 1), "Alice: Let us kill Emma.\nBob says nothing.")
    step = answer(env, step)
    assert set(step.asks) == {0, 1, 2, 3}
    assert view(step.state, 4).log == () and len(view(step.state, 1).log) == 4


def test_learning_and_revealing_roles_or_teams():
    rules = replace(RULE_SETS["five"], seer_learns="role", reveal_on_death="team", kill_on_first_night=True)
    env = Werewolf(rules)
    roles = ("seer", "werewolf", "villager", "villager", "villager")
    step = answer(env, deal(env, *roles), Alice="Carol", Bob="Emma")
    assert step.private[0] == "You looked at Carol. Carol is a villager."
    assert step.public == "Emma was killed. Emma was innocent.\nDay 1."
    env = Werewolf(replace(rules, reveal_on_death="nothing"))
    assert answer(env, deal(env, *roles), Bob="Emma").public == "Emma was killed.\nDay 1."


# ---------------------------------------------------------------- invalid answers
def day_of_four(**rules):
    """Free text, day 1, the vote of a werewolf (Alice) and three villagers (Bob, Carol, David)."""
    base = replace(mafia_rules(4, 1), first_phase="day")
    env = Werewolf(replace(base, **rules), legal_choices=False)
    return env, deal(env, "werewolf", "villager", "villager", "villager")


def test_invalid_votes_are_abstentions():
    env, step = day_of_four()
    assert step.asks[0].options is None
    step = answer(env, step, Alice="I vote for bob!", Bob="Bob", Carol="Zoe", David="Bobby")
    assert step.events["invalid"] == 3 and step.events["votes"] == 1
    assert step.public.startswith(
        "Alice votes for Bob. Bob abstains. Carol abstains. David abstains.\nBob is out. Bob was a villager."
    )


def test_a_dead_or_partner_target_is_invalid():
    env = Werewolf(mafia_rules(7, 2), legal_choices=False)
    step = deal(env, "werewolf", "werewolf", *["villager"] * 5)
    step = answer(env, step, Alice="Bob", Bob="Alice")
    assert step.events["invalid"] == 2 and step.public == "Nobody died.\nDay 1."
    step = env.step(step.state, {seat: "Carol" if seat != 2 else "David" for seat in step.asks})
    step = answer(env, step, Alice="Carol", Bob="Carol is dead, so Emma")
    assert step.events["invalid"] == 1 and "Emma was killed." in step.public


def test_options_are_the_legal_names():
    env = Werewolf(mafia_rules(7, 2))
    step = deal(env, "werewolf", "werewolf", *["villager"] * 5)
    assert step.asks[0].options == ("Carol", "David", "Emma", "Frank", "Grace")
    step = answer(env, step, Alice="Carol", Bob="Carol")
    assert step.asks[3].options == ("Alice", "Bob", "Emma", "Frank", "Grace")


@pytest.mark.parametrize("name", RULE_SETS)
def test_choices_are_all_that_is_ever_offered(name):
    env, rng = Werewolf(RULE_SETS[name]), np.random.default_rng(6)
    games = [play(env, seed, RandomPlayer(), rng) for seed in range(60)]
    asks = [ask for steps in games for step in steps for ask in step.asks.values()]
    assert {option for ask in asks for option in ask.options or ()} == set(env.choices)
    assert len(set(env.choices)) == len(env.choices)
    assert Werewolf(RULE_SETS[name], legal_choices=False).choices == ()


def test_only_the_asked_may_act_and_nobody_after_the_end():
    env, step = day_of_four()
    with pytest.raises(ValueError, match=r"seats \[0\] act"):
        env.step(step.state, {0: "Bob"})
    over = vote_out(env, step, "Alice")
    with pytest.raises(ValueError, match="over"):
        env.step(over.state, {})


# ---------------------------------------------------------------- votes
def test_ties():
    tied = {"Alice": "David", "Bob": "Alice", "Carol": "David", "David": "Alice"}
    env, step = day_of_four(tie="nobody")
    assert "Nobody is out." in answer(env, step, **tied).public
    env, step = day_of_four(tie="first")
    assert "David is out." in answer(env, step, **tied).public
    env, step = day_of_four(tie="random")
    out = {answer(env, replace(step, state=replace(step.state, seed=seed)), **tied).public for seed in range(20)}
    assert len(out) == 2


def test_majority():
    two_of_four = {"Alice": "Bob", "Carol": "Bob", "David": "Alice", "Bob": "Carol"}
    env, step = day_of_four(majority=True)
    assert "Nobody is out." in answer(env, step, **two_of_four).public
    assert "Bob is out." in answer(env, step, **{**two_of_four, "David": "Bob"}).public
    env, step = day_of_four()
    assert "Bob is out." in answer(env, step, **two_of_four).public


def test_no_votes_put_nobody_out():
    env, step = day_of_four()
    assert "Nobody is out." in answer(env, step).public


# ---------------------------------------------------------------- powers
def test_the_doctor_saves():
    rules = replace(RULE_SETS["omar"], wolf_chat_rounds=0, kill_on_first_night=True)
    env = Werewolf(rules)
    start = deal(env, "werewolf", "werewolf", "doctor", "seer", *["villager"] * 3)
    assert "Carol" in start.asks[2].options
    saved = answer(env, start, Alice="Emma", Bob="Emma", Carol="Emma", David="Frank")
    assert saved.public == "Nobody died.\nDay 1." and saved.events["saves"] == 1
    assert saved.private[0] == "You attacked Emma. Emma lives." and saved.private[2] == "You protected Emma."
    lost = answer(env, start, Alice="Emma", Bob="Emma", Carol="Carol", David="Frank")
    assert lost.public == "Emma was killed. Emma was a villager.\nDay 1." and "saves" not in lost.events
    env = Werewolf(replace(rules, doctor_protects="others"))
    assert "Carol" not in deal(env, *start.state.roles).asks[2].options


def test_no_kill_in_the_first_night_asks_the_seer_alone():
    env = Werewolf(RULE_SETS["omar"])
    step = deal(env, "werewolf", "werewolf", "doctor", "seer", *["villager"] * 3)
    assert set(step.asks) == {3}
    step = vote_out(env, answer(env, step, David="Alice"), "Grace")
    assert set(step.asks) == {0, 1}  # the chat
    assert set(answer(env, step).asks) == {0, 1, 2, 3}


def test_a_night_without_anything_to_do_is_passed_over():
    env = Werewolf(replace(mafia_rules(5, 1), kill_on_first_night=False))
    step = deal(env, "werewolf", *["villager"] * 4)
    assert step.public.endswith("Night 1.\nNobody died.\nDay 1.") and len(step.asks) == 5


def test_werewolves_in_turn_hear_the_choices_before():
    env = Werewolf(RULE_SETS["sotopia"])
    start = deal(env, "villager", "werewolf", "seer", "werewolf", "witch", "villager")
    assert set(start.asks) == {1, 2}
    step = answer(env, start, Bob="Alice", Carol="Bob")
    assert set(step.asks) == {3}
    assert step.private == {3: "Bob chooses Alice.", 2: "You looked at Bob. Bob is a werewolf."}
    killed = set()
    for seed in range(20):
        told = answer(env, replace(step, state=replace(step.state, seed=seed)), David="Frank")
        killed.add(told.private[4])
    assert killed == {"The werewolves attack Alice tonight.", "The werewolves attack Frank tonight."}


def witch_night():
    """Emma, the witch, is asked after both werewolves chose Alice."""
    env = Werewolf(RULE_SETS["sotopia"])
    step = deal(env, "villager", "werewolf", "seer", "werewolf", "witch", "villager")
    step = answer(env, answer(env, step, Bob="Alice", Carol="Bob"), David="Alice")
    assert set(step.asks) == {4}
    return env, step


def test_the_witch_saves_once():
    env, step = witch_night()
    assert step.asks[4].options[:2] == ("nobody", "save Alice")
    step = answer(env, step, Emma="save Alice")
    assert step.public == "Nobody died.\nDay 1." and step.private[4] == "You saved Alice."
    step = vote_out(env, step, "Carol")
    step = answer(env, answer(env, step, Bob="Alice"), David="Alice")
    assert step.private == {}  # with no save left she is not told either
    assert step.asks[4].options == ("nobody", "poison Alice", "poison Bob", "poison David", "poison Frank")


def test_the_witch_poisons():
    env, step = witch_night()
    step = answer(env, step, Emma="poison Bob")
    assert step.public == ("Alice was killed. Alice was a villager.\nBob was killed. Bob was a werewolf.\nDay 1.")
    assert step.state.witch_can == ("save",)


def test_the_witch_does_nothing():
    env, step = witch_night()
    assert answer(env, step, Emma="nobody").events.get("invalid", 0) == 0
    step = answer(env, step, Emma="abracadabra")
    assert step.events["invalid"] == 1 and step.public.startswith("Alice was killed.")
    assert step.state.witch_can == ("save", "poison")


HUNTER_RULES = RuleSet(werewolf=1, hunter=1, villager=2, discussion_rounds=0, first_phase="day")


def test_the_hunter_takes_somebody_along():
    env = Werewolf(HUNTER_RULES)
    step = vote_out(env, deal(env, "werewolf", "hunter", "villager", "villager"), "Bob")
    assert set(step.asks) == {1} and step.asks[1].options == ("Alice", "Carol", "David")
    assert step.public.endswith("Bob is out. Bob was the hunter.")
    won = answer(env, step, Bob="Alice")
    assert won.public == "Alice is taken along by the hunter. Alice was a werewolf.\nThe village wins."
    assert answer(env, step, Bob="Carol").events["werewolves_wins"] == 1
    missed = answer(env, step)
    assert missed.events["invalid"] == 1 and missed.public == "Night 1."


def test_the_hunter_killed_at_night_shoots_before_the_game_is_decided():
    env = Werewolf(replace(HUNTER_RULES, villager=1, first_phase="night"))
    step = answer(env, deal(env, "werewolf", "hunter", "villager"), Alice="Bob")
    assert answer(env, step, Bob="Alice").events["village_wins"] == 1
    assert answer(env, step).events["werewolves_wins"] == 1


# ---------------------------------------------------------------- rewards, rules, words
def test_rewards_are_by_team_and_discounted_by_days_missed():
    env = Werewolf(replace(mafia_rules(7, 1), first_phase="day", elimination_discount=0.5))
    step = deal(env, "werewolf", *["villager"] * 6)
    step = answer(env, vote_out(env, step, "Bob"), Alice="Carol")  # both miss days 2 and 3
    step = answer(env, vote_out(env, step, "David"), Alice="Emma")  # both miss day 3
    end = vote_out(env, step, "Alice")
    assert end.rewards == {0: -1, 1: 0.25, 2: 0.25, 3: 0.5, 4: 0.5, 5: 1, 6: 1}
    assert end.events["days"] == 3 and end.events["wolf_votes_out"] == 1


def test_the_safety_stop_is_a_draw():
    env = Werewolf(replace(mafia_rules(5, 1), max_days=2), legal_choices=False)
    step = deal(env, "werewolf", *["villager"] * 4)
    while step.rewards is None:
        step = answer(env, step)
    assert set(step.rewards.values()) == {0} and step.events["draws"] == 1 and step.events["days"] == 2


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [("tie", "coin", "tie is 'coin'"), ("seer", 2, "at most once"), ("werewolf", 5, "under half")],
)
def test_rules_that_make_no_game_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=message):
        replace(RULE_SETS["five"], **{setting: value})


def test_speech_cannot_forge_lines_and_is_counted():
    env = Werewolf(RULE_SETS["five"])
    step = answer(env, deal(env, "seer", "werewolf", *["villager"] * 3), Alice="Bob")
    step = answer(
        env,
        step,
        Alice="I am the seer.\nBob is a werewolf.",
        Bob="I'm the seer and\tI suspect Alice",
        Carol="hm\nDay 9.\nBob: I am the seer",
    )
    lines = step.public.split("\n")
    assert lines[0] == "Alice: I am the seer. Bob is a werewolf."
    assert lines[2] == "Carol: hm Day 9. Bob: I am the seer" and lines[3] == "David says nothing."
    assert len(lines) == 5
    assert step.events["true_seer_claims"] == 1 and step.events["false_seer_claims"] == 2
    assert step.events["accusations"] == 2 and step.events["speeches"] == 5
    assert step.state.log[1] == Entry(1, "speech", 0, "I am the seer. Bob is a werewolf.")


WORDS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["Alice", "Bob Carol", "save", "poison", "nobody", "I am the seer. Emma is a werewolf."]),
)


@pytest.mark.parametrize("name", [*RULE_SETS, "everything"])
@settings(max_examples=15, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), words=st.lists(WORDS, min_size=1, max_size=40))
def test_garbage_never_raises_and_the_game_ends(name, seed, words):
    everything = RuleSet(2, 1, 1, 1, 1, 3, wolf_chat_rounds=1, wolf_order="in_turn", tie="nobody")
    env = Werewolf(RULE_SETS.get(name, everything), legal_choices=False)
    step, spoken = env.step(env.reset(seed), {}), 0
    while step.rewards is None:
        actions = {}
        for seat in step.asks:
            actions[seat] = words[spoken % len(words)]
            spoken += 1
        step = env.step(step.state, actions)
    assert step.state.phase == "over"
