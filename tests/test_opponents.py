"""Who sits opposite the learner, and that only the learner's turns train."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import RandomPlayer, ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.opponents import LEARNER, PAST, Opponents
from omar_jax.tables import environment_seed

ENV = Werewolf(RULE_SETS["omar"])


def opponents(past=0.0, every=2, pool=3, player=None, side="village", seed=0):
    return Opponents(ENV, seed, past, every, pool, player, side)


def dealt(game):
    return ENV.roles(ENV.reset(game.seed))


def test_by_default_the_learner_plays_every_seat_and_there_is_no_pool():
    alone = opponents()
    for number, game in enumerate(alone.games(range(5), iteration=0)):
        assert (game.game, game.seed) == (number, environment_seed(0, number))
        assert list(game.players(dealt(game))) == [LEARNER] * 7
        assert game.learns(dealt(game)) == (True,) * 7
    assert alone.start({"w": jnp.ones(2)}) == alone.grown({}, 2, {}) == {}
    assert alone.drawn({}, 3) == []


def test_a_past_policy_plays_one_side_of_the_wanted_part_of_the_games():
    found = opponents(past=0.3).games(range(4000), iteration=1)
    sides = []
    for game in found:
        roles = dealt(game)
        players, learns = game.players(roles), game.learns(roles)
        assert learns == tuple(player == LEARNER for player in players)
        past = {ENV.team(role) for role, player in zip(roles, players, strict=True) if player == PAST}
        learning = {ENV.team(role) for role, player in zip(roles, players, strict=True) if player == LEARNER}
        assert len(past) <= 1 and not past & learning
        sides += past
    assert len(sides) / len(found) == pytest.approx(0.3, abs=3 * np.sqrt(0.3 * 0.7 / 4000))
    assert sides.count("village") / len(sides) == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / len(sides)))


def test_draws_depend_on_seed_and_iteration_alone():
    def shared_out(seed, iteration):
        return [tuple(g.players(dealt(g))) for g in opponents(past=0.5, seed=seed).games(range(50), iteration)]

    assert shared_out(0, 3) == shared_out(0, 3)
    assert shared_out(0, 3) != shared_out(0, 4)
    assert shared_out(0, 3) != shared_out(1, 3)


def test_a_script_always_plays_its_side():
    script = RandomPlayer()
    for game in opponents(player=script, side="village").games(range(20), iteration=0):
        for role, player, learns in zip(dealt(game), game.players(dealt(game)), game.learns(dealt(game)), strict=True):
            assert (player is script) == (role != "werewolf") == (not learns)


def test_lessons_have_a_teacher_in_the_learners_place():
    script, teacher = RandomPlayer(), ScriptedPlayer()
    for lesson in opponents(player=script, side="village").lessons(range(20), teacher):
        roles = dealt(lesson)
        assert lesson.learns(roles) == tuple(role == "werewolf" for role in roles)
        assert lesson.players(roles) == [teacher if role == "werewolf" else script for role in roles]
    for lesson in opponents(past=1.0).lessons(range(3), teacher):
        assert lesson.players(dealt(lesson)) == [teacher] * 7 and all(lesson.learns(dealt(lesson)))


def test_the_pool_keeps_the_newest_and_copies_of_its_own():
    pooled = opponents(past=0.5, every=2, pool=3)
    params = {"w": jnp.zeros(2)}
    moving = pooled.start(params)
    entered = []
    for iterations_done in range(1, 11):
        params = {"w": jnp.full(2, float(iterations_done))}
        moving = pooled.grown(moving, iterations_done, params)
        entered.append(sorted(moving["pool"]["iterations"].tolist()))
        for policy, iteration in zip(moving["pool"]["policies"], moving["pool"]["iterations"], strict=True):
            np.testing.assert_array_equal(policy["w"], np.full(2, iteration))
        pointers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((moving["pool"]["policies"], params))]
        assert len(set(pointers)) == len(pointers)
    assert entered == [
        [0, 0, 0],
        [0, 0, 2],
        [0, 0, 2],
        [0, 2, 4],
        [0, 2, 4],
        *[[2, 4, 6]] * 2,
        *[[4, 6, 8]] * 2,
        [6, 8, 10],
    ]


def test_all_of_the_pool_are_drawn():
    pooled = opponents(past=0.5, pool=3)
    moving = {"pool": {"policies": ["a", "b", "c"], "iterations": np.arange(3)}}
    drawn = [pooled.drawn(moving, iteration) for iteration in range(60)]
    assert {policy for [policy] in drawn} == {"a", "b", "c"}
    assert drawn == [pooled.drawn(moving, iteration) for iteration in range(60)]
