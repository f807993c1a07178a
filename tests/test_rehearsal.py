"""Rehearsed iterations: the calls, tokens and microbatches of games that are really played."""

import dataclasses
import functools
from collections import Counter

import jax
import numpy as np
import pytest
import streams

from configs.werewolf import get_config
from omar_jax import experiment, layout, rehearsal
from omar_jax.envs.werewolf_bots import ScriptedPlayer
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.rehearsal import Decode, Extend, rehearse
from omar_jax.rollout import Rollout
from omar_jax.sampler import Sampler
from omar_jax.tables import Game, environment_seed

SEED = 3


def smoke(**changes):
    config = get_config("smoke")
    config.play.lanes = 1  # all games in one batch, whose calls are counted here
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in changes.items()})
    return experiment.build(config)


def rehearsed(run, player, seed=SEED):
    return rehearse(run.rollout, run.plan, seed, player)


def games(run, players, seed=SEED):
    numbers = range(run.plan.games_at_once)
    return [Game(n, environment_seed(seed, n), lambda roles: [players] * len(roles)) for n in numbers]


@functools.cache
def scripted():
    """The episodes of the scripted games; how they are laid out is all the same to them."""
    run = smoke()
    return run.rollout.play(games(run, ScriptedPlayer()), [], jax.random.key(0))[0]


def turns_of(episode):
    return [turn for step in episode.steps for turn in step.turns.values()]


def rounds(episode):
    return sum(bool(step.turns) for step in episode.steps)


@pytest.mark.parametrize("player", [ScriptedPlayer(), None], ids=["scripted", "by chance"])
def test_a_rehearsal_is_known_by_its_seed(player):
    run = smoke()
    assert rehearsed(run, player) == rehearsed(run, player)
    assert rehearsed(run, player) != rehearsed(run, player, seed=SEED + 1)


# ---------------------------------------------------------------- scripted games


def test_scripted_tokens_are_those_of_the_scripted_games():
    run = smoke()
    found, episodes = rehearsed(run, ScriptedPlayer()), scripted()
    sizes = list(map(layout.sizes, episodes))
    assert found.games == found.fitting == len(episodes) == 16
    assert found.tokens == sum(size.shared + size.seat for size in sizes)
    assert found.actions == sum(len(turn.action) for episode in episodes for turn in turns_of(episode))
    assert found.spoken == sum(len(turn.cue) + len(turn.action) for e in episodes for turn in turns_of(e))
    # What is said last is heard by nobody.
    assert found.heard == sum(
        len(step.public) + sum(map(len, step.private.values())) for e in episodes for step in e.steps if step.turns
    )


def test_scripted_games_fill_the_run_s_own_microbatches():
    run = smoke(layout__buckets=((184, 208, 64, 12), (448, 512, 256, 24)), ppo__microbatch_games=4)
    order = run.plan.microbatches(scripted(), np.random.default_rng(0))
    found = rehearsed(run, ScriptedPlayer())
    assert found.microbatches == Counter(room for room, _ in order)
    assert sorted(found.microbatches.values()) == [2, 3]  # 5 games of one day, 11 of two


def test_every_round_is_a_call_that_turns_as_often_as_its_longest_turn_is_long():
    run = smoke()
    found, episodes = rehearsed(run, ScriptedPlayer()), scripted()
    longest = max(map(rounds, episodes))
    assert found.decodes.total() == longest <= found.extends.total()
    said = [
        max(len(turn.action) for e in episodes if r < rounds(e) for turn in e.steps[r].turns.values())
        for r in range(longest)
    ]
    assert found.steps.total() == sum(said)
    for calls in (found.extends, found.decodes):
        assert {call.games for call in calls} <= set(run.rollout.sampler.shapes.games)


def test_games_that_one_process_cannot_play_at_once_are_played_one_after_another():
    run = smoke()
    shapes = dataclasses.replace(run.rollout.sampler.shapes, games=(8, 4))
    half = run.rollout.spoken_by(dataclasses.replace(run.rollout.sampler, shapes=shapes))
    found = rehearse(half, run.plan, SEED, ScriptedPlayer())
    batches = [scripted()[:8], scripted()[8:]]
    assert found.decodes.total() == sum(max(map(rounds, batch)) for batch in batches)
    whole = rehearsed(run, ScriptedPlayer())
    for name in ("tokens", "actions", "heard", "spoken", "fitting", "microbatches"):
        assert getattr(found, name) == getattr(whole, name)


def test_games_too_long_for_the_layout_are_left_out():
    run = smoke(layout__buckets=((184, 208, 64, 12),))
    fitting = run.plan.fitting(scripted())
    found = rehearsed(run, ScriptedPlayer())
    assert 0 < found.fitting == len(fitting) < found.games == 16
    assert found.actions == sum(layout.sizes(episode).actions for episode in fitting)


# ---------------------------------------------------------------- games by chance


def test_by_chance_every_speech_is_as_long_as_it_may_be():
    run = smoke(environment__speech_tokens=9)
    found = rehearsed(run, None)
    longer = rehearsed(smoke(environment__speech_tokens=19), None)
    assert longer.decodes == found.decodes  # the same choices, in the same rounds
    whole = Decode(16, 512, 5)  # the first day: everybody speaks, then votes for a name of two tokens
    assert found.decodes[whole] == 2
    assert (found.steps[whole], longer.steps[whole]) == (9 + 2, 19 + 2)
    speeches, rest = divmod(longer.actions - found.actions, 10)
    assert speeches > 16 * 3 and rest == 0
    assert longer.tokens - found.tokens > longer.actions - found.actions  # they are heard, too


def test_by_chance_no_fewer_tokens_are_said_than_by_script():
    run = smoke()
    by_chance, by_script = rehearsed(run, None), rehearsed(run, ScriptedPlayer())
    for name in ("tokens", "actions", "heard", "spoken"):
        assert getattr(by_chance, name) > getattr(by_script, name)
    assert by_chance.steps.total() / by_chance.decodes.total() >= by_script.steps.total() / by_script.decodes.total()


# ---------------------------------------------------------------- played


class Counting(Sampler):
    """A sampler that notes down its calls."""

    def count(self):
        object.__setattr__(self, "extends", Counter())
        object.__setattr__(self, "decodes", Counter())
        object.__setattr__(self, "steps", Counter())

    def extend(self, params, cache, piece):
        self.extends[Extend(len(piece.count), cache.room)] += 1
        return super().extend(params, cache, piece)

    def decode(self, params, cache, ask, key, temperature):
        call = Decode(len(ask.game), cache.room, ask.seat.shape[1])
        spoken = super().decode(params, cache, ask, key, temperature)
        self.decodes[call] += 1
        # The loop's turns, told by the last token that anybody said.
        self.steps[call] += int(np.flatnonzero(np.asarray(spoken.tokens).any((0, 1)))[-1]) + 1
        return spoken


def test_a_model_s_games_said_again_make_the_same_calls():
    """In a batch that shrinks."""
    run = smoke(environment__speech_tokens=6)
    chat = run.chat
    config = DecoderConfig(
        vocabulary=len(chat.tokenizer), width=8, layers=1, heads=2, kv_heads=1, head_dim=4, mlp_width=8
    )
    shapes = dataclasses.replace(run.rollout.sampler.shapes, games=(2, 1), transcript=(512,), action=8, asked=(5,))
    sampler = Counting(Decoder(config), chat.ends, shapes)
    sampler.count()
    rollout = Rollout(run.env, chat, sampler)
    params = streams.random_params(sampler.model, seed=0)
    played = games(run, 0, seed=1)[:2]  # one ends first
    episodes, _ = rollout.play(played, [params], jax.random.key(0))
    again = rehearsal._NoModel(chat, shapes, episodes)
    same, _ = Rollout(run.env, chat, again).play(played, [{}], jax.random.key(0))
    assert [e.transcript for e in same] == [e.transcript for e in episodes]
    assert (again.extends, again.decodes, again.steps) == (sampler.extends, sampler.decodes, sampler.steps)
    assert {call.games for call in again.decodes} == {2, 1}
