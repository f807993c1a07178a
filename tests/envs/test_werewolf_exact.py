"""Werewolf among random players against exact probabilities."""

import math
from dataclasses import replace

import numpy as np
import pytest
from exact_mafia import wolves_win

from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import RandomPlayer
from omar_jax.envs.werewolf_rules import mafia_rules


class KnowingPlayer(RandomPlayer):
    """Werewolves vote for a random villager, together or each for himself, everybody else at random."""

    def __init__(self, together: bool):
        self.together = together

    def act(self, env, state, seat, ask, heard, rng):
        if state.roles[seat] == "werewolf" and state.phase == "votes":
            villagers = state.living("villager")
            shared = np.random.default_rng((state.seed, state.steps, 7))  # the same draw for all werewolves
            return env.seat_names[villagers[(shared if self.together else rng).integers(len(villagers))]]
        return super().act(env, state, seat, ask, heard, rng)


def werewolves_win(env, seed, player, rng):
    """Plays a game; 1 if the werewolves win it, else 0."""
    step = env.step(env.reset(seed), {})
    while step.rewards is None:
        actions = {seat: player.act(env, step.state, seat, ask, (), rng) for seat, ask in step.asks.items()}
        step = env.step(step.state, actions)
    return step.events["werewolves_wins"]


@pytest.mark.parametrize("first", ["night", "day"])
@pytest.mark.parametrize("pair", [(4, 1), (5, 1), (6, 1), (7, 1), (5, 2), (7, 2), (8, 2), (9, 3)], ids=str)
def test_random_players_win_as_often_as_they_must(pair, first):
    check_win_rate(replace(mafia_rules(*pair), first_phase=first), RandomPlayer(), wolves_win(*pair, first))


@pytest.mark.parametrize("first", ["night", "day"])
@pytest.mark.parametrize("pair", [(6, 2), (7, 2)], ids=str)
@pytest.mark.parametrize("votes", ["apart", "together"])
def test_werewolves_voting_for_villagers_win_as_often_as_they_must(votes, pair, first):
    rules = replace(mafia_rules(*pair), first_phase=first)
    check_win_rate(rules, KnowingPlayer(votes == "together"), wolves_win(*pair, first, votes))


def check_win_rate(rules, player, exact, games=1500):
    env, rng = Werewolf(rules), np.random.default_rng(11)
    wins = sum(werewolves_win(env, seed, player, rng) for seed in range(games))
    error = math.sqrt(float(exact * (1 - exact)) / games)
    assert abs(wins / games - float(exact)) <= 3 * error, (wins / games, float(exact))


def test_the_exact_probabilities_by_hand():
    assert wolves_win(4, 1, "day") == pytest.approx(3 / 4)  # a villager is out: 3 left, the night leaves 2
    assert wolves_win(5, 1, "night") == wolves_win(4, 1, "day")
    assert wolves_win(3, 1, "day") == pytest.approx(2 / 3)
