"""The layout against its definition in `streams`, on random games."""

import dataclasses
import importlib.util
import itertools
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import streams

from omar_jax import layout, update
from omar_jax.layout import Sizes
from omar_jax.model import attention
from omar_jax.types import PADDING, Episode, GameBatch, RolloutStep, Turn

ORACLE = Path(__file__).resolve().parents[2] / "shared" / "oracles" / "streams_reference.py"
few = hypothesis.settings(max_examples=25)
ONE_ROOM = Sizes(24, 192, 64, 24)  # for every game of `streams.games`, where shapes cost compilations
SPARE = 3  # padding behind every axis


def roomy(*episodes):
    """Room for the games with padding behind all of them."""
    return Sizes(*(max(size) + SPARE for size in zip(*map(layout.sizes, episodes), strict=True)))


def packed(*episodes):
    return layout.pack(episodes, streams.ROLES, roomy(*episodes), streams.LEGAL_WIDTH)


def told(episode):
    """The game's tokens, its shared ones, and its packed row: the seats that learn."""
    num_seats = len(episode.roles)
    tokens = streams.tell(episode.steps, num_seats)
    row = [token for token in streams.by_seat(tokens, num_seats) if learns(episode, token.seat)]
    return tokens, [token for token in tokens if token.seat is None], row


def learns(episode, seat):
    return not episode.learns or episode.learns[seat]


def turns_in_order(episode):
    """(seat, turn) in the order of the batch: seat after seat of those that learn."""
    seats = [seat for seat in range(len(episode.roles)) if learns(episode, seat)]
    return [(seat, step.turns[seat]) for seat in seats for step in episode.steps if seat in step.turns]


def assert_padded(row, wanted, padding):
    np.testing.assert_array_equal(row[: len(wanted)], wanted)
    np.testing.assert_array_equal(row[len(wanted) :], padding)


# ---------------------------------------------------------------- one game


@few
@hypothesis.given(streams.games())
def test_every_token_stands_where_the_definition_says(episode):
    _, shared, row = told(episode)
    batch = packed(episode)
    assert layout.sizes(episode)[:2] == (len(shared), len(row))
    assert_padded(batch.shared_tokens[0], [token.id for token in shared], 0)
    assert_padded(batch.shared_positions[0], [token.position for token in shared], 0)
    assert_padded(batch.shared_clock[0], [token.clock for token in shared], layout.NEVER)
    assert_padded(batch.seat_tokens[0], [token.id for token in row], 0)
    assert_padded(batch.seat_positions[0], [token.position for token in row], 0)
    assert_padded(batch.seat_clock[0], [token.clock for token in row], 0)
    assert_padded(batch.seat_owner[0], [token.seat for token in row], PADDING)
    assert_padded(batch.seat_branch[0], [token.branch for token in row], 0)


@few
@hypothesis.given(streams.games(), st.sampled_from([None, 2, 5]))
def test_everyone_sees_what_the_definition_lets_them(episode, window):
    _, shared, row = told(episode)
    batch = layout.pack([episode], streams.ROLES, ONE_ROOM, streams.LEGAL_WIDTH)
    batch = GameBatch(*(field[0] for field in batch))

    def sees(query, key):
        return streams.sees(query, key) and (window is None or query.position - key.position < window)

    def matrix(queries, keys):
        return np.array([[sees(q, k) for k in keys] for q in queries], bool).reshape(len(queries), len(keys))

    num_shared, num_row = len(shared), len(row)
    found = np.asarray(attention.shared_visible(batch, window))
    np.testing.assert_array_equal(found[:num_shared, :num_shared], matrix(shared, shared))
    assert not found[:num_shared, num_shared:].any()

    found = np.asarray(attention.seat_visible(batch, window))[:num_row]
    room = len(batch.shared_tokens)
    np.testing.assert_array_equal(found[:, :num_shared], matrix(row, shared))
    np.testing.assert_array_equal(found[:, room : room + num_row], matrix(row, row))
    assert not found[:, num_shared:room].any()
    assert not found[:, room + num_row :].any()


@few
@hypothesis.given(streams.games())
def test_positions_rise_along_everything_a_token_sees(episode):
    tokens, _, row = told(episode)
    for token in row:
        positions = [key.position for key in streams.view(tokens, token)]
        assert all(a < b for a, b in itertools.pairwise(positions))
        assert positions[-1] == token.position


@few
@hypothesis.given(streams.games())
def test_actions_are_read_one_token_before_they_stand(episode):
    _, _, row = told(episode)
    batch = packed(episode)
    at = [i for i, token in enumerate(row) if token.said is not None]
    assert_padded(batch.action_index[0], np.subtract(at, 1), 0)
    assert_padded(batch.action_tokens[0], [row[i].id for i in at], 0)
    assert_padded(batch.action_mask[0], [True] * len(at), False)
    assert_padded(batch.action_log_probs[0], [row[i].turn.log_probs[row[i].said] for i in at], 0)
    assert_padded(batch.action_values[0], [row[i].turn.values[row[i].said] for i in at], 0)
    # What is read there belongs to the same turn: its cue's last token or the action token before.
    assert all(row[i - 1].turn is row[i].turn for i in at)
    legal = batch.legal_tokens[0]
    for i, choices in zip(at, legal, strict=False):
        given_turn = row[i].turn
        assert_padded(choices, () if given_turn.legal is None else given_turn.legal[row[i].said], PADDING)
    assert (legal[len(at) :] == PADDING).all()


@few
@hypothesis.given(streams.games())
def test_turns_stand_seat_after_seat(episode):
    batch, turns = packed(episode), turns_in_order(episode)
    kept = [turn.kept and episode.rewards is not None for _, turn in turns]
    assert_padded(batch.turn_seat[0], [seat for seat, _ in turns], PADDING)
    assert_padded(batch.turn_group[0], [streams.ROLES.index(episode.roles[seat]) for seat, _ in turns], 0)
    assert_padded(batch.turn_kept[0], kept, False)
    rows = [i for i, (_, turn) in enumerate(turns) for _ in turn.action]
    assert_padded(batch.action_turn[0], rows, PADDING)


@few
@hypothesis.given(streams.games())
def test_a_seat_is_rewarded_at_its_last_turn(episode):
    batch, turns = packed(episode), turns_in_order(episode)
    wanted = np.zeros(len(batch.turn_reward[0]))
    if episode.rewards is not None:
        for seat, reward in enumerate(episode.rewards):
            its_own = [i for i, (owner, _) in enumerate(turns) if owner == seat]
            if its_own:
                wanted[its_own[-1]] = reward
    np.testing.assert_array_equal(batch.turn_reward[0], wanted)


def test_a_game_worked_by_hand():
    def turn(cue, action):
        return Turn(cue, action, np.zeros(len(action), np.float32), np.zeros(len(action), np.float32))

    steps = (
        RolloutStep((1, 2, 3), {0: (10,), 1: (20, 21)}, {0: turn((11,), (12, 13)), 1: turn((22,), (23,))}),
        RolloutStep((4, 5), {1: (24,)}, {1: turn((25,), (26, 27))}),
        RolloutStep((), {}, {0: turn((14,), (15,))}),
    )
    episode = Episode(0, 0, steps, (), (1.0, -1.0), ("fox", "hare"), {}, (True, False))
    everybody = dataclasses.replace(episode, learns=())
    batch = packed(everybody)
    assert batch.shared_positions[0, :5].tolist() == [0, 1, 2, 5, 6]
    assert batch.seat_tokens[0, :13].tolist() == [10, 11, 12, 13, 14, 15, 20, 21, 22, 23, 24, 25, 26]
    assert batch.seat_positions[0, :14].tolist() == [3, 5, 6, 7, 8, 9, 3, 4, 5, 6, 7, 8, 9, 10]
    assert batch.seat_branch[0, :14].tolist() == [0, 1, 1, 1, 2, 2, 0, 0, 1, 1, 0, 2, 2, 2]
    assert batch.action_index[0, :6].tolist() == [1, 2, 4, 8, 11, 12]
    assert batch.turn_reward[0, :4].tolist() == [0, 1, 0, -1]
    assert batch.turn_kept[0, :4].tolist() == [True] * 4
    assert layout.sizes(everybody) == Sizes(5, 14, 6, 4)
    # Where the hare is not the learner's, all else stands where it stood.
    batch = packed(episode)
    assert batch.shared_positions[0, :5].tolist() == [0, 1, 2, 5, 6]
    assert batch.seat_tokens[0, :6].tolist() == [10, 11, 12, 13, 14, 15]
    assert batch.seat_positions[0, :6].tolist() == [3, 5, 6, 7, 8, 9]
    assert batch.turn_seat[0, :3].tolist() == [0, 0, PADDING]
    assert layout.sizes(episode) == Sizes(5, 6, 3, 2)


@few
@hypothesis.given(streams.games())
@pytest.mark.skipif(not ORACLE.is_file(), reason="the shared oracle is not here")
def test_streams_agree_with_the_shared_oracle(episode):
    spec = importlib.util.spec_from_file_location("streams_reference", ORACLE)
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    steps = [
        {
            "public": list(step.public),
            "private": {seat: list(ids) for seat, ids in step.private.items()},
            "turns": {seat: (list(turn.cue), list(turn.action)) for seat, turn in step.turns.items()},
        }
        for step in episode.steps
    ]
    num_seats = len(episode.roles)
    game = oracle.build(steps, num_seats)
    tokens, shared, _ = told(episode)
    found_tokens, found_positions, found_clock, found_seats = layout.streams(episode.steps, num_seats)
    assert game["shared"]["token"] == [token.id for token in shared] == found_tokens
    assert game["shared"]["position"] == [token.position for token in shared] == found_positions
    assert game["shared"]["clock"] == [token.clock for token in shared] == found_clock
    for seat, (stream, found) in enumerate(zip(game["seat"], found_seats, strict=True)):
        mine = [token for token in tokens if token.seat == seat]
        assert stream["token"] == [token.id for token in mine] == found.token
        assert stream["position"] == [token.position for token in mine] == found.position
        assert stream["clock"] == [token.clock for token in mine] == found.clock
        assert stream["branch"] == [token.branch for token in mine] == found.branch
        assert stream["action"] == [int(token.said is not None) for token in mine]
        for i, token in enumerate(mine):
            seen = [(key.position, key.id) for key in streams.view(tokens, token)]
            assert seen == oracle.view(game, seat, i)


# ---------------------------------------------------------------- many games


def test_a_game_that_does_not_fit_is_named():
    episode = streams.random_game(7)
    room = layout.sizes(episode)
    assert layout.pack([episode], streams.ROLES, room, streams.LEGAL_WIDTH).num_games == 1
    for i, size in enumerate(room):
        small = Sizes(*(size - 1 if j == i else other for j, other in enumerate(room)))
        with pytest.raises(ValueError, match=r"game 7 needs Sizes.* layout\.buckets"):
            layout.pack([episode], streams.ROLES, small, streams.LEGAL_WIDTH)


@few
@hypothesis.given(st.lists(streams.games(most_steps=3), min_size=2, max_size=4), st.data())
def test_a_microbatch_is_its_games_packed_alone(episodes, data):
    chosen = data.draw(st.lists(st.sampled_from(range(len(episodes))), unique=True))
    batch = packed(*episodes)
    room = Sizes(0, 0, 0, 0)
    for game in chosen:
        room = Sizes(*map(max, room, layout.sizes(episodes[game])))
    cut = layout.crop(batch, chosen, len(episodes), room)
    wanted = layout.empty(len(episodes), room, streams.LEGAL_WIDTH)
    alone = layout.pack([episodes[game] for game in chosen], streams.ROLES, room, streams.LEGAL_WIDTH)
    for name, found, padding, own in zip(GameBatch._fields, cut, wanted, alone, strict=True):
        np.testing.assert_array_equal(found, np.concatenate([own, padding[len(chosen) :]]), err_msg=name)
        assert found.dtype == padding.dtype
    targets = update.Targets(*(np.arange(batch.action_mask.size).reshape(batch.action_mask.shape),) * 4)
    cut = layout.crop(targets, chosen, len(episodes), room)
    np.testing.assert_array_equal(cut.returns[: len(chosen)], targets.returns[chosen, : room.actions])
    assert not cut.mask[len(chosen) :].any()


BUCKETS = (Sizes(8, 8, 4, 2), Sizes(8, 16, 8, 4), Sizes(32, 32, 16, 8))
game_sizes = st.builds(Sizes, st.integers(0, 32), st.integers(0, 32), st.integers(0, 16), st.integers(0, 8))


@few
@hypothesis.given(st.lists(game_sizes, max_size=20), st.integers(1, 5), st.integers(0, 99))
def test_every_game_is_in_one_microbatch_of_the_smallest_bucket(sizes, num_games, seed):
    found = layout.microbatches(sizes, BUCKETS, num_games, np.random.default_rng(seed))
    assert sorted(game for _, games in found for game in games) == list(range(len(sizes)))
    partial = []
    for room, games in found:
        assert 1 <= len(games) <= num_games
        partial += [room] * (len(games) < num_games)
        for game in games:
            assert room == next(bucket for bucket in BUCKETS if sizes[game].fits(bucket))
    assert len(partial) == len(set(partial))
    again = layout.microbatches(sizes, BUCKETS, num_games, np.random.default_rng(seed))
    assert found == again


def test_the_order_of_games_is_drawn():
    orders = [layout.microbatches([Sizes(1, 1, 1, 1)] * 6, BUCKETS, 2, np.random.default_rng(i)) for i in range(5)]
    assert len({str(order) for order in orders}) > 1


def test_games_cut_short_train_nothing():
    episode = dataclasses.replace(streams.random_game(3), rewards=None)
    batch = packed(episode)
    assert layout.sizes(episode).turns > 0
    assert not batch.turn_kept.any()
    assert not batch.turn_reward.any()
