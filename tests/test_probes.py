"""Measures on a game made for counting: by hand, against other ways to count, and intervals against the truth."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from omar_jax import probes
from omar_jax.envs.base import Ask, Environment, Step
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import RandomPlayer, ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.metrics import distinct_n, episode_record
from omar_jax.types import Episode, RolloutStep, Turn


class Talk(Environment):
    """A host and a guest talk for 1 + seed % 3 steps, each speaking freely; then the host chooses yes or no."""

    num_seats, seat_names, role_names, choices = 2, ("Ann", "Ben"), ("host", "guest"), ("yes", "no")

    def reset(self, seed):
        return seed, 0

    def step(self, state, actions):
        seed, number = state
        if number == 2 + seed % 3:
            return Step((seed, number + 1), rewards={0: 1.0, 1: -1.0})
        asks = {0: Ask("?", 9), 1: Ask("?", 9)} if number <= seed % 3 else {0: Ask("?", 1, self.choices)}
        return Step((seed, number + 1), asks=asks)

    def roles(self, state):
        return self.role_names

    def team(self, role):
        return role


def talked(seed, *texts, events=None, rewards=(1.0, -1.0), **of_turns):
    """The record of a talk; texts in order, then a choice unless all are given."""
    steps = [(n, seat) for n in range(1 + seed % 3) for seat in (0, 1)] + [(1 + seed % 3, 0)]
    texts = [*texts, "yes"] if len(texts) == len(steps) - 1 else texts
    turns = [
        {"step": n, "seat": seat, "name": Talk.seat_names[seat], "role": Talk.role_names[seat], "text": text}
        for (n, seat), text in zip(steps, texts, strict=rewards is not None)
    ]
    for name, of_turn in of_turns.items():
        for turn, value in zip(turns, of_turn, strict=True):
            turn[name] = value
    ended = None if rewards is None else list(rewards)
    roles = list(Talk.role_names)
    return {"game": seed, "seed": seed, "roles": roles, "rewards": ended, "events": events or {}, "turns": turns}


def werewolf_record(env, seed, player, length=100):
    """A scripted game of at most so many steps, as rollouts record it."""
    rng, step, said, events = np.random.default_rng((seed, 1)), env.step(env.reset(seed), {}), [], {"invalid": 0.0}
    while step.rewards is None and len(said) < length:
        texts = {seat: player.act(env, step.state, seat, ask, (), rng) for seat, ask in step.asks.items()}
        nothing = np.zeros(2)
        said.append(RolloutStep(turns={s: Turn((1,), (2, 3), nothing, nothing, text=t) for s, t in texts.items()}))
        step = env.step(step.state, texts)
    rewards = None if step.rewards is None else tuple(step.rewards.values())
    episode = Episode(seed, seed, tuple(said), (), rewards, env.roles(step.state), events, names=env.seat_names)
    return json.loads(json.dumps(episode_record(episode)))


FIVE = Werewolf(RULE_SETS["five"])


@pytest.fixture(scope="module")
def scripted():
    return [werewolf_record(FIVE, seed, ScriptedPlayer()) for seed in range(60)]


@pytest.fixture(scope="module")
def random():
    return [werewolf_record(FIVE, seed, RandomPlayer()) for seed in range(60)]


# ---------------------------------------------------------------- by hand
def test_measures_of_two_games_by_hand():
    one = talked(0, "a b c", "d", events={"invalid": 1.0}, kept=[True, False, True], tokens=[[1, 2], [3], [4]])
    two = talked(1, "a  b c ", "x", "", "y z")
    found = probes.measure([one, two], Talk())
    assert {name: (of.value, of.count) for name, of in found.items()} == {
        "turn/words": (10 / 6, 6),
        "turn/tokens": (3 / 2, 2),
        "turn/invalid": (1 / 3, 3),  # the other game lacks the event, so its turns do not count
        "turn/filtered": (1 / 3, 3),
        "diversity/same_across_games": (1 / 2, 2),
    }
    # Residuals 4 - 2 * 10/6 = 2/3 and 6 - 4 * 10/6 = -2/3, mean of turns 3: standard error (2/3) / 3.
    margin = probes._student(1) * (2 / 3) / 3
    assert found["turn/words"][1:3] == pytest.approx((10 / 6 - margin, 10 / 6 + margin))


def test_students_t():
    for freedom, t, tolerance in ((2, 4.303, 0.14), (5, 2.571, 1e-2), (10, 2.228, 1e-3), (1000, 1.962, 1e-3)):
        assert probes._student(freedom) == pytest.approx(t, abs=tolerance)


def test_a_share_of_zero_has_an_interval_and_no_game_counts_twice():
    games = [talked(3 * i, "a", "b", kept=[True] * 3) for i in range(20)]
    of = probes.measure(games, Talk())["turn/filtered"]
    assert of.value == of.low == 0 and of.count == 60
    assert of.high == pytest.approx(1.96**2 / (20 + 1.96**2))  # Wilson's for 0 of 20: all games agree
    assert probes.measure(games + games, Talk())["turn/filtered"].high == of.high
    mixed = [*games[:10], *(talked(3 * i, "a", "b", kept=[False] * 3) for i in range(10, 20))]
    once, twice = (probes.measure(records, Talk())["turn/filtered"] for records in (mixed, mixed + mixed))
    assert once[:3] == twice[:3] and twice.count == 2 * once.count
    assert once.high - once.low == pytest.approx(2 * 0.5 * 2.09 / np.sqrt(20), rel=0.2)  # 20 trials, not 60


def test_distinct_n_is_of_a_fixed_number_of_texts():
    def game(seed, words):
        return talked(seed, *words, *[words[0]] * (2 * (seed % 3)))

    seeds = range(1, 3 * 40, 3)  # four texts each
    same = [game(seed, ["a b", "a b"]) for seed in seeds]
    found = probes.measure(same, Talk())
    assert found["diversity/distinct_1"] == (2 / 64, 2 / 64, 2 / 64, 5 * 32)
    assert found["diversity/distinct_2"].value == 1 / 32 and found["diversity/distinct_3"].value == 0
    unlike = [talked(seed, *(f"{seed} {i}" for i in range(4))) for seed in seeds]
    assert probes.measure(unlike, Talk())["diversity/distinct_2"].value == 1
    few, many = (probes.measure(unlike[:n], Talk())["diversity/distinct_1"].value for n in (16, 40))
    assert few == pytest.approx(many, abs=0.02) and few > distinct_n(
        [turn["text"] for record in unlike for turn in record["turns"]], 1
    )
    assert "diversity/distinct_1" not in probes.measure(same[:15], Talk())


def test_differences_by_hand():
    a = [talked(0, "a b", "c"), talked(3, "a b c d", "e"), talked(6, "a", "b")]
    b = [talked(6, "", "b"), talked(0, "a", "c"), talked(3, "a b c", "e")]
    of = probes.compare(a, b, Talk())["turn/words"]
    assert of == pytest.approx((1 / 2, 1 / 2, 1 / 2, 12))  # each seed has one word less in b
    apart = [talked(record["seed"] + 9, *(turn["text"] for turn in record["turns"])) for record in b]
    alone = probes.compare(a, apart, Talk())["turn/words"]
    error, t = np.sqrt(2 * np.var([1.5, 2.5, 1.0], ddof=1) / 3), probes._student(2)
    assert alone == pytest.approx((1 / 2, 1 / 2 - t * error, 1 / 2 + t * error, 12))


def test_what_only_one_group_has_is_not_compared(scripted, random):
    assert "seer/followed" in probes.measure(scripted, FIVE)
    assert "seer/followed" not in probes.measure(random, FIVE)
    assert "seer/followed" not in probes.compare(scripted, random, FIVE)


def test_a_table_of_groups(scripted, random):
    groups = {"scripted": probes.measure(scripted, FIVE), "random": probes.measure(random, FIVE)}
    console = Console(width=120, record=True, quiet=True)
    console.print(probes.table(groups))
    shown = probes.table(groups)
    names, of_scripted, of_random = (list(column.cells) for column in shown.columns)
    assert names == list(groups["scripted"]) and [column.header for column in shown.columns][1:] == list(groups)
    words = groups["random"]["turn/words"]
    assert of_random[names.index("turn/words")] == f"{words.value:.2f} ({words.low:.2f} to {words.high:.2f})"
    assert of_random[names.index("seer/followed")] == ""
    assert of_scripted[names.index("turn/invalid")].startswith("0.0% (0.0 to ")


# ---------------------------------------------------------------- replays
def test_what_happened_in_werewolf_is_measured_with_what_was_said(scripted):
    found = probes.measure(scripted, FIVE)
    assert list(found) == [name for name in probes.DESCRIPTIONS if name in found]
    assert {name.split("/")[0] for name in found} >= {"turn", "diversity", "concealment", "votes", "seer", "out"}
    assert found["turn/tokens"].value == 2 and found["turn/filtered"].value == 0
    free = [turn for record in scripted for turn in record["turns"] if turn["text"] not in FIVE.choices]
    assert found["turn/words"].value == pytest.approx(np.mean([len(turn["text"].split()) for turn in free]))
    assert found == probes.measure(scripted, Werewolf(FIVE.rules, legal_choices=False))


def test_games_cut_short_replay():
    records = [werewolf_record(FIVE, seed, ScriptedPlayer(), length=2) for seed in range(4)]
    found = probes.measure(records, FIVE)
    assert found["turn/words"].count == 20 and "votes/nobody_out" not in found


def test_games_of_other_rules_are_refused(scripted):
    for name in ("omar", "sotopia", "mafia"):
        with pytest.raises(ValueError, match="game 0 of seed 0 does not replay under these rules: its roles are"):
            probes.measure(scripted, Werewolf(RULE_SETS[name]))
    for change, why in (
        ({"kill_on_first_night": True}, r"in step 0 seats \[\d\] act, asked are \[\d, \d\]"),
        ({"discussion_rounds": 2}, r"in step|it ends with"),
        ({"elimination_discount": 0.5}, "it ends with rewards"),
        ({"max_days": 1}, "in step|it ends with"),
    ):
        with pytest.raises(ValueError, match=f"does not replay under these rules: .*({why})") as raised:
            probes.measure(scripted, Werewolf(replace(FIVE.rules, **change)))
        assert "\n" not in str(raised.value)


def test_records_that_lack_a_part_are_refused():
    whole = talked(1, "a", "b", "c", "d")
    for turns, why in (
        (whole["turns"][:-1], r"it ends with rewards None, not \[1.0, -1.0\]"),
        (whole["turns"][1:], r"in step 0 seats \[1\] act, asked are \[0, 1\]"),
        (whole["turns"][2:], "step 1 follows step -1"),
    ):
        with pytest.raises(ValueError, match=why):
            probes.replay({**whole, "turns": turns}, Talk())
    with pytest.raises(ValueError, match="it ends with rewards"):
        probes.replay({**whole, "rewards": None}, Talk())
    late = {**whole["turns"][-1], "step": 3}
    with pytest.raises(ValueError, match=r"in step 3 seats \[0\] act, asked are \[\]"):
        probes.replay({**whole, "turns": [*whole["turns"], late]}, Talk())


def test_rewards_of_a_judge_are_no_objection():
    class Unpaid(Talk):
        def step(self, state, actions):
            step = super().step(state, actions)
            return replace(step, rewards=step.rewards and {0: 0, 1: 0})

    assert probes.replay(talked(0, "a", "b"), Unpaid())[-1].rewards == {0: 0, 1: 0}


def test_an_interval_needs_two_seeds():
    with pytest.raises(ValueError, match="at least 2 seeds, got 3 games of 1"):
        probes.measure([talked(1, "a", "b", "c", "d")] * 3, Talk())
    with pytest.raises(ValueError, match="at least 2 seeds, got 0 games of 0"):
        probes.measure([], Talk())


# ---------------------------------------------------------------- properties
@st.composite
def groups_of_talks(draw):
    seeds = draw(st.lists(st.integers(0, 30), min_size=2, max_size=12, unique=True))
    text = st.sampled_from(["", "a", "b", "a b"])
    records = []
    for seed in seeds:
        turns = 3 + 2 * (seed % 3)
        texts = draw(st.lists(text, min_size=turns - 1, max_size=turns - 1))
        records.append(talked(seed, *texts, kept=draw(st.lists(st.booleans(), min_size=turns, max_size=turns))))
    return records


@settings(max_examples=60, derandomize=True)
@given(groups_of_talks(), groups_of_talks(), st.randoms(use_true_random=False))
def test_measures_of_any_games(a, b, shuffler):
    found = probes.measure(a, Talk())
    assert found.keys() <= probes.DESCRIPTIONS.keys()
    for name, of in found.items():
        assert of.low <= of.value <= of.high and of.count > 0
        assert (of.low >= 0 and of.high <= 1) or name in ("turn/words", "diversity/distinct_1")
    shuffled = list(a)
    shuffler.shuffle(shuffled)
    again = probes.measure(shuffled, Talk())
    assert again.keys() == found.keys() and all(again[name] == pytest.approx(found[name]) for name in found)
    there, back = probes.compare(a, b, Talk()), probes.compare(b, a, Talk())
    for name, of in there.items():
        assert of.low <= of.value <= of.high
        assert back[name] == pytest.approx((-of.value, -of.high, -of.low, of.count))


@settings(max_examples=60, derandomize=True)
@given(groups_of_talks())
def test_same_texts_are_counted_pair_by_pair(records):
    same = pairs = 0
    for one, other in itertools.combinations(records, 2):
        for mine, yours in itertools.product(one["turns"][:-1], other["turns"][:-1]):
            if (mine["step"], mine["role"]) == (yours["step"], yours["role"]):
                same, pairs = same + (mine["text"] == yours["text"]), pairs + 1
    of = probes.measure(records, Talk())["diversity/same_across_games"]
    assert (of.value, of.count) == (pytest.approx(same / pairs), pairs)


# ---------------------------------------------------------------- intervals against the truth
GAMES, SETS = 40, 400  # chance moves a coverage of 95% among so many sets by a percent


def drawn(rng, seeds, rates, texts=None):
    """Games whose turns are filtered with a rate of each game's own, a smaller one in longer games.

    Texts are lists of one, two and three equal words, drawn with these probabilities.
    """
    records = []
    for seed, rate in zip(seeds, rates, strict=True):
        turns = 3 + 2 * (seed % 3)
        said = [0] * (turns - 1) if texts is None else rng.choice(3, turns - 1, p=texts)
        kept = rng.random(turns) > rate * 3 / turns
        records.append(talked(seed, *("x " * (1 + more) for more in said), kept=kept.tolist()))
    return records


def deals(rng, one_in=1):
    return (one_in * rng.choice(10**6, GAMES, replace=False)).tolist()


def coverage(intervals, truth):
    return np.mean([of.low <= truth <= of.high for of in intervals])


def test_intervals_cover_the_truth():
    rng, found = np.random.default_rng(0), []
    for _ in range(SETS):
        of = probes.measure(drawn(rng, deals(rng), rng.beta(1, 3, GAMES), [0.6, 0.3, 0.1]), Talk())
        found.append([of[name] for name in ("turn/filtered", "diversity/same_across_games", "turn/words")])
    # Games of 3, 5 and 7 turns are as frequent: each has 3 * 0.25 filtered turns.
    truths = (0.75 / 5, 0.6**2 + 0.3**2 + 0.1**2, 0.6 + 2 * 0.3 + 3 * 0.1)
    for of, truth in zip(zip(*found, strict=True), truths, strict=True):
        assert 0.92 <= coverage(of, truth) <= 0.975
        assert np.mean([one.value for one in of]) == pytest.approx(truth, rel=0.02)


def test_intervals_of_differences_cover_the_truth():
    rng, paired, apart = np.random.default_rng(1), [], []
    for _ in range(SETS):
        seeds, rates = deals(rng, one_in=3), rng.beta(1, 3, GAMES)
        a, b = drawn(rng, seeds, rates), drawn(rng, seeds, rates / 2)
        paired.append(probes.compare(a, b, Talk())["turn/filtered"])
        others = drawn(rng, deals(rng, one_in=3), rng.beta(1, 3, GAMES) / 2)
        apart.append(probes.compare(a, others, Talk())["turn/filtered"])
    for found in (paired, apart):
        assert 0.92 <= coverage(found, 0.125) <= 0.975
    widths = [np.mean([of.high - of.low for of in found]) for found in (paired, apart)]
    assert widths[0] < 0.95 * widths[1]


def test_intervals_of_rare_shares_do_not_miss_the_truth():
    rng, found = np.random.default_rng(2), []
    for _ in range(SETS):
        records = drawn(rng, deals(rng, one_in=3), [0.02] * GAMES)
        found.append(probes.measure(records, Talk())["turn/filtered"])
    assert coverage(found, 0.02) >= 0.92
    assert any(of.value == 0 for of in found)


def test_intervals_of_distinct_n_hold_for_any_number_of_games():
    rng, found = np.random.default_rng(3), {16: [], 40: []}
    for games, of in found.items():
        for _ in range(120):
            seeds = (1 + 3 * rng.choice(10**6, games, replace=False)).tolist()
            records = [talked(seed, *map(str, rng.integers(0, 100, 4))) for seed in seeds]
            of.append(probes.measure(records, Talk())["diversity/distinct_1"])
    # Of 100 words, 32 draws leave out each with probability 0.99^32.
    truth = 100 * (1 - 0.99**32) / 32
    for of in found.values():
        assert np.mean([one.value for one in of]) == pytest.approx(truth, abs=0.01)
    assert coverage(found[40], truth) > 0.9  # five blocks
