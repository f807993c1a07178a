"""Advantages against cases worked by hand, and against plain loops over one seat at a time.

All comparisons with float64 loops allow TOLERANCE: sums of some tens of float32 terms of size 1.
"""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omar_jax import advantages
from omar_jax.advantages import AdvantageSettings
from omar_jax.types import PADDING, GameBatch

TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}
NUM_GAMES, NUM_TURNS, NUM_TOKENS, NUM_GROUPS = 3, 12, 48, 3
ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "advantages_reference.py"

compute_jitted = jax.jit(advantages.compute, static_argnames="settings")
whiten_jitted = jax.jit(advantages.whiten, static_argnames=("num_groups", "how"))
both_ways = pytest.mark.parametrize("compute", [advantages.compute, compute_jitted], ids=["plain", "jitted"])


class Seat(NamedTuple):
    """One seat's turns; a silent seat has none."""

    values: list  # of K lists of J_k values
    rewards: list  # [K]
    kept: list  # [K]
    group: int = 0


def seat(values, rewards, kept=None, group=0):
    return Seat(values, rewards, kept or [True] * len(rewards), group)


def make_batch(games, num_turns, num_tokens):
    """Games (lists of seats) as a batch; the padding holds NaN and absurd numbers, which must not leak."""
    num_games = len(games)
    turns = {
        "turn_seat": np.full((num_games, num_turns), PADDING, np.int32),
        "turn_group": np.zeros((num_games, num_turns), np.int32),
        "turn_reward": np.full((num_games, num_turns), np.nan, np.float32),
        "turn_kept": np.zeros((num_games, num_turns), bool),
    }
    tokens = {
        "action_mask": np.zeros((num_games, num_tokens), bool),
        "action_turn": np.full((num_games, num_tokens), PADDING, np.int32),
        "action_values": np.full((num_games, num_tokens), np.nan, np.float32),
    }
    for n, seats in enumerate(games):
        turn, token = 0, 0
        for number, one in enumerate(seats):
            for values, reward, kept in zip(one.values, one.rewards, one.kept, strict=True):
                for name, entry in zip(turns, (number, one.group, reward, kept), strict=True):
                    turns[name][n, turn] = entry
                said = slice(token, token + len(values))
                tokens["action_mask"][n, said] = True
                tokens["action_turn"][n, said] = turn
                tokens["action_values"][n, said] = values
                turn, token = turn + 1, token + len(values)
    unused = dict.fromkeys(set(GameBatch._fields) - set(turns) - set(tokens), np.zeros((num_games, 1)))
    return GameBatch(**turns, **tokens, **unused)


def one_game(*seats):
    """A small batch; always of one shape, so that operations outside of jit compile once."""
    return make_batch([list(seats)], num_turns=3, num_tokens=6)


# ---------------------------------------------------------------- plain loops, as sums instead of recursions


def discounted_sum(terms, decay):
    return [sum(decay ** (j - i) * terms[j] for j in range(i, len(terms))) for i in range(len(terms))]


def gae(rewards, values, gamma, lam):
    following = [*values, 0.0][1:]
    deltas = [r + gamma * ahead - v for r, v, ahead in zip(rewards, values, following, strict=True)]
    return discounted_sum(deltas, gamma * lam)


def within_turn(values, turn_return, gamma, lam):
    return gae([0.0] * (len(values) - 1) + [turn_return], values, gamma, lam)


def loop_seat(one, settings, baselines):
    """A seat's turn advantages [K], and its advantages and targets as one list of all tokens."""
    stand_in = [values[-1 if settings.turn_value == "last" else 0] for values in one.values]
    turn_advantages = gae(one.rewards, stand_in, settings.gamma_turn, settings.lambda_turn)
    turn_returns = [a + v for a, v in zip(turn_advantages, stand_in, strict=True)]
    if settings.mode == "return":
        turn_returns = discounted_sum(one.rewards, settings.gamma_turn)
        turn_advantages = [g - baselines[one.group] for g in turn_returns]

    token_pair = (settings.gamma_token, settings.lambda_token)
    token_advantages, token_targets = [], []
    flat_values = [v for values in one.values for v in values]
    flat_rewards = [r for values, r in zip(one.values, one.rewards, strict=True) for r in [0] * (len(values) - 1) + [r]]
    flat = gae(flat_rewards, flat_values, *token_pair)
    for values, advantage, turn_return in zip(one.values, turn_advantages, turn_returns, strict=True):
        if settings.mode == "hierarchical":
            of_turn = within_turn(values, turn_return, *token_pair)
            targets = [a + v for a, v in zip(of_turn, values, strict=True)]
        elif settings.mode == "token":
            start = len(token_advantages)
            of_turn = flat[start : start + len(values)]
            targets = [a + v for a, v in zip(of_turn, values, strict=True)]
        else:
            of_turn, targets = [advantage] * len(values), [turn_return] * len(values)
        token_advantages += of_turn
        token_targets += targets
    return turn_advantages, token_advantages, token_targets


def check_against_loops(result, games, settings, baselines):
    for n, seats in enumerate(games):
        turn_advantages, token_advantages, targets, mask = [], [], [], []
        for one in seats:
            of_turns, of_tokens, of_targets = loop_seat(one, settings, baselines)
            turn_advantages += of_turns
            targets += of_targets
            kept = [k for values, k in zip(one.values, one.kept, strict=True) for _ in values]
            mask += kept
            token_advantages += [a if k else 0.0 for a, k in zip(of_tokens, kept, strict=True)]

        def padded(entries, length):
            return np.pad(np.asarray(entries, np.float64), (0, length - len(entries)))

        tokens, turns = result.mask.shape[1], result.turn_advantages.shape[1]
        np.testing.assert_array_equal(result.mask[n], padded(mask, tokens).astype(bool))
        np.testing.assert_allclose(result.advantages[n], padded(token_advantages, tokens), **TOLERANCE)
        np.testing.assert_allclose(result.targets[n], padded(targets, tokens), **TOLERANCE)
        np.testing.assert_allclose(result.turn_advantages[n], padded(turn_advantages, turns), **TOLERANCE)


@st.composite
def random_games(draw):
    """Games of up to 4 seats of up to 3 turns of 1 to 4 tokens, some seats silent, some turns filtered."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lengths = st.lists(st.lists(st.integers(1, 4), max_size=3), max_size=4)
    games = []
    for seats in draw(st.lists(lengths, min_size=NUM_GAMES, max_size=NUM_GAMES)):
        games.append(
            [
                Seat(
                    values=[random.normal(size=length).astype(np.float32).tolist() for length in turns],
                    rewards=random.normal(size=len(turns)).astype(np.float32).tolist(),
                    kept=(random.random(len(turns)) < 0.7).tolist(),
                    group=int(random.integers(NUM_GROUPS)),
                )
                for turns in seats
            ]
        )
    return games


SETTINGS = [
    AdvantageSettings("hierarchical", 0.9, 0.8, 0.95, 0.7, "last"),
    AdvantageSettings("hierarchical", 0.9, 0.8, 0.95, 0.7, "first"),
    AdvantageSettings("hierarchical", 1.0, 0.95, 1.0, 1.0, "last"),
    AdvantageSettings("hierarchical", 0.5, 0.0, 0.0, 0.9, "first"),
    AdvantageSettings("token", 0.9, 0.8, 0.95, 0.7, "last"),
    AdvantageSettings("turn", 0.9, 0.8, 0.95, 0.7, "last"),
    AdvantageSettings("turn", 0.9, 0.8, 0.95, 0.7, "first"),
    AdvantageSettings("return", 0.9, 0.8, 0.95, 0.7, "last"),
]
BASELINES = np.array([0.25, -0.5, 2.0], np.float32)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s.mode}-{s.turn_value}-{s.lambda_turn}")
def test_random_games_equal_plain_loops(settings):
    @hypothesis.settings(max_examples=20, derandomize=True)
    @hypothesis.given(random_games())
    def check(games):
        batch = make_batch(games, NUM_TURNS, NUM_TOKENS)
        check_against_loops(compute_jitted(batch, settings, BASELINES), games, settings, BASELINES)

    check()


@pytest.mark.parametrize("settings", SETTINGS[:1] + SETTINGS[4:5], ids=lambda s: s.mode)
def test_without_jit_and_without_padding(settings):
    seats = [
        seat([[0.1, -0.2], [0.7, 0.2, 0.9]], [0.5, -0.25], [False, True], group=1),
        seat([[0.4]], [1.5], group=2),
    ]
    result = advantages.compute(one_game(*seats), settings, BASELINES)
    check_against_loops(result, [seats], settings, BASELINES)


@pytest.mark.skipif(not ORACLE.exists(), reason="the design's reference is not in this checkout")
@pytest.mark.parametrize("settings", SETTINGS[:5], ids=lambda s: f"{s.mode}-{s.turn_value}-{s.lambda_turn}")
def test_equals_the_designs_reference(settings):
    specification = importlib.util.spec_from_file_location("advantages_reference", ORACLE)
    oracle = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(oracle)
    random = np.random.default_rng(0)
    values = [random.normal(size=length).astype(np.float32) for length in (3, 1, 2)]
    rewards, kept = [0.25, 0.0, -1.5], [True, False, True]
    if settings.mode == "token":
        expected = oracle.flat_token_gae(rewards, values, settings.gamma_token, settings.lambda_token)
        expected[1][:] = 0  # the filtered turn
    else:
        expected, targets = oracle.hierarchical(
            rewards, values, *settings[1:6], filtered=[not turn_kept for turn_kept in kept]
        )
    result = advantages.compute(one_game(seat(values, rewards, kept)), settings)
    np.testing.assert_allclose(result.advantages[0], np.concatenate(expected), **TOLERANCE)
    if settings.mode == "hierarchical":
        np.testing.assert_allclose(result.targets[0], np.concatenate(targets), **TOLERANCE)


# ---------------------------------------------------------------- worked by hand


@both_ways
@pytest.mark.parametrize("mode", ["hierarchical", "token", "turn"])
def test_perfect_critic_gives_zero_advantage(compute, mode):
    batch = one_game(seat([[1.0] * 3, [1.0] * 2], [0.0, 1.0]), seat([[-0.5]], [-0.5]))
    result = compute(batch, AdvantageSettings(mode, 1.0, 0.95, 1.0, 1.0))
    np.testing.assert_array_equal(result.advantages, np.zeros((1, 6)))
    np.testing.assert_array_equal(result.targets, [[1, 1, 1, 1, 1, -0.5]])


@both_ways
def test_two_turns_by_hand(compute):
    # V = [.5, .25], r = [0, 1], gamma 1, lambda .5: A_1 = 1 - .25 = .75, A_0 = .25 - .5 + .5 * .75 = .125;
    # inside turn 0: .5 - .1 + .5 * .125 = .4625.
    batch = one_game(seat([[0.1, 0.5], [0.25]], [0.0, 1.0]))
    result = compute(batch, AdvantageSettings("hierarchical", 1.0, 0.5, 1.0, 0.5))
    np.testing.assert_allclose(result.turn_advantages, [[0.125, 0.75, 0]], rtol=1e-6)
    np.testing.assert_allclose(result.advantages, [[0.4625, 0.125, 0.75, 0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(result.targets, [[0.5625, 0.625, 1, 0, 0, 0]], rtol=1e-6)


@both_ways
def test_one_turns_targets_are_its_return(compute):
    result = compute(one_game(seat([[0.3, -0.2, 0.1]], [0.7])), AdvantageSettings())
    np.testing.assert_allclose(result.targets, [[0.7] * 3 + [0] * 3], rtol=1e-6)


@both_ways
def test_read_before_the_turn_targets_are_the_final_reward(compute):
    batch = one_game(seat([[0.3, -0.2], [0.9, 0.1, 0.0]], [0.0, 0.4]))
    result = compute(batch, AdvantageSettings("hierarchical", 1.0, 1.0, 1.0, 1.0, "first"))
    np.testing.assert_allclose(result.targets, [[0.4] * 5 + [0]], rtol=1e-5)


@both_ways
def test_return_mode_by_hand(compute):
    # Returns with gamma .5: 1 + .5 * (-.25) = .875, then -.25; the other seat 2.5. Baselines .125 and 2.
    batch = one_game(seat([[9, 9], [9]], [1.0, -0.25], group=0), seat([[9]], [2.5], group=1))
    result = compute(batch, AdvantageSettings("return", gamma_turn=0.5), np.array([0.125, 2.0]))
    np.testing.assert_allclose(result.advantages, [[0.75, 0.75, -0.375, 0.5, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(result.targets, [[0.875, 0.875, -0.25, 2.5, 0, 0]], rtol=1e-6)


def test_a_filtered_turn_keeps_its_place():
    values, rewards = [[0.1, 0.2], [0.3, 0.4], [0.5]], [0.0, 0.0, 1.0]
    full = advantages.compute(one_game(seat(values, rewards)), AdvantageSettings())
    filtered = advantages.compute(one_game(seat(values, rewards, [True, False, True])), AdvantageSettings())
    np.testing.assert_array_equal(filtered.mask, [[True, True, False, False, True, False]])
    np.testing.assert_array_equal(filtered.advantages, np.where(filtered.mask, full.advantages, 0))
    np.testing.assert_array_equal(filtered.turn_advantages, full.turn_advantages)


def test_a_game_of_nothing_gives_zeros():
    for settings in (SETTINGS[0], SETTINGS[-1]):
        result = compute_jitted(make_batch([[]] * NUM_GAMES, NUM_TURNS, NUM_TOKENS), settings, BASELINES)
        assert all(not np.any(array) for array in result)


def test_result_types():
    result = advantages.compute(one_game(seat([[0.5]], [1])), AdvantageSettings())
    assert [array.dtype for array in result] == [jnp.float32, jnp.float32, jnp.bool_, jnp.float32]


def test_errors_name_the_setting():
    batch = one_game(seat([[0.5]], [1.0]))
    with pytest.raises(ValueError, match=r'mode must be one of .*hierarchical.*got "gae"'):
        advantages.compute(batch, AdvantageSettings(mode="gae"))
    with pytest.raises(ValueError, match="turn_value must be one of"):
        advantages.compute(batch, AdvantageSettings(turn_value="middle"))
    with pytest.raises(ValueError, match="needs baselines"):
        advantages.compute(batch, AdvantageSettings(mode="return"))
    with pytest.raises(ValueError, match="turn_reward must have two axes"):
        advantages.compute(batch._replace(turn_reward=np.ones(1)), AdvantageSettings())


def test_reverse_scan_by_hand():
    # A_2 = 4; A_1 = 2 (decay 0 keeps A_2 out); A_0 = 1 + .5 * 2 = 2.
    solved = advantages.reverse_scan(jnp.array([1.0, 2.0, 4.0]), jnp.array([0.5, 0.0, 0.5]))
    np.testing.assert_array_equal(solved, [2.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="one shape"):
        advantages.reverse_scan(jnp.zeros(3), jnp.zeros(2))


# ---------------------------------------------------------------- whitening and baselines


def random_tokens():
    random = np.random.default_rng(1)
    given = random.normal(3.0, 2.0, size=(4, 30)).astype(np.float32)
    mask = random.random((4, 30)) < 0.6
    return np.where(mask, given, np.nan), mask, random.integers(0, 3, size=(4, 30)).astype(np.int32)


def test_whiten_globally():
    given, mask, group = random_tokens()
    white = whiten_jitted(given, mask, group, num_groups=3, how="global")
    expected = (given[mask] - given[mask].mean()) / given[mask].std()
    np.testing.assert_allclose(white[mask], expected, rtol=1e-5, atol=1e-5)
    assert not np.any(white[~mask])


def test_whiten_by_role():
    given, mask, group = random_tokens()
    white = np.asarray(whiten_jitted(given, mask, group, num_groups=4, how="role"))  # group 3 has nobody
    for number in range(3):
        chosen = mask & (group == number)
        expected = (given[chosen] - given[chosen].mean()) / given[chosen].std()
        np.testing.assert_allclose(white[chosen], expected, rtol=1e-5, atol=1e-5)
    assert not np.any(white[~mask])


def test_no_whitening_still_masks():
    given, mask, group = random_tokens()
    np.testing.assert_array_equal(
        advantages.whiten(given, mask, group, 3, "none"), np.where(mask, given, np.float32(0))
    )


def test_whitening_equal_advantages_gives_zeros():
    given = jnp.array([[1000.1] * 7 + [-3.0, 5.0, 2.0]])
    group = jnp.array([[0] * 7 + [1] * 3])
    mask = jnp.array([[True] * 9 + [False]])
    white = advantages.whiten(given, mask, group, 2, "role")
    np.testing.assert_allclose(white, [[0.0] * 7 + [-1.0, 1.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(advantages.whiten(given, mask & False, group, 2, "global"), np.zeros((1, 10)))


def test_balanced_groups_weigh_the_same():
    rng = np.random.default_rng(3)
    group = rng.choice(3, (4, 25), p=[0.7, 0.2, 0.1])  # of four; the last has nobody
    mask = rng.random((4, 25)) < 0.8
    given = np.where(mask, rng.normal(size=(4, 25)), 0.0).astype(np.float32)
    balanced = np.asarray(jax.jit(advantages.balance, static_argnums=3)(given, mask, group, 4))
    for role in range(3):
        here = mask & (group == role)
        np.testing.assert_allclose(balanced[here], given[here] * mask.sum() / 3 / here.sum(), rtol=1e-6)
    np.testing.assert_array_equal(balanced[~mask], 0)


def test_whiten_errors():
    given, mask, group = random_tokens()
    with pytest.raises(ValueError, match="whiten must be one of"):
        advantages.whiten(given, mask, group, 3, "team")
    with pytest.raises(ValueError, match="one shape"):
        advantages.whiten(given, mask, group[:, 1:], 3, "role")


def test_role_returns_count_learning_seats_once():
    games = [
        [
            seat([[0.0], [0.0, 0.0]], [0.5, 0.25], [True, False], group=1),
            seat([[0.0]], [7.0], [False], group=1),  # another policy's
        ],
        [seat([[0.0]], [-0.125], group=1), seat([], [], group=2), seat([[0.0]], [1.5], group=0)],
    ]
    sums, counts = jax.jit(advantages.role_returns, static_argnums=1)(make_batch(games, 4, 5), 3)
    np.testing.assert_array_equal(sums, [1.5, 0.625, 0.0])
    np.testing.assert_array_equal(counts, [1, 2, 0])


def test_baselines_move_only_for_roles_that_occurred():
    moved = advantages.update_baselines(jnp.array([1.0, -1.0]), jnp.array([6.0, 0.0]), jnp.array([2.0, 0.0]), 0.75)
    np.testing.assert_allclose(moved, [0.75 * 1 + 0.25 * 3, -1.0])
