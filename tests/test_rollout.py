"""Games between environment and sampler: what was sampled is trained, whatever the batch looked like."""

import dataclasses
import functools
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import streams
import tokenizer_families

from omar_jax import catalogue, layout, update
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_bots import RandomPlayer, ScriptedPlayer
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.metrics import CompilationCounter
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.rollout import Guest, Rollout
from omar_jax.sampler import LegalTable, Sampler, Shapes
from omar_jax.tables import Game, environment_seed
from omar_jax.text.chat import Chat, load_tokenizer
from omar_jax.types import PADDING

NUM_GAMES, ROOM = 4, layout.Sizes(512, 1024, 512, 96)
CHAT = Chat(load_tokenizer(catalogue.EMBEDDED["werewolf"]))
CONFIG = DecoderConfig(
    vocabulary=len(CHAT.tokenizer), width=16, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=24
)
# Of all rule sets, so that they share what is compiled.
NODES, WIDTH = map(
    max,
    *(LegalTable.size(CHAT.action(choice) for choice in Werewolf(rules).choices) for rules in RULE_SETS.values()),
)
# Whole games in one batch and one cache; only single turns are limited.
PLAIN = Shapes((NUM_GAMES,), (512,), 64, 48, 8, (8,), NODES, WIDTH)
# For role cards in cues, which grow with everything a seat is told.
IN_CUE = dataclasses.replace(PLAIN, cue=192)
# The same, in a batch that shrinks and a cache that grows.
CHANGING = dataclasses.replace(PLAIN, games=(NUM_GAMES, 2), transcript=(128, 512))
KEY = jax.random.key(3)


@functools.cache
def params_of(config):
    return streams.random_params(Decoder(config), seed=0)


def rollout_of(rules="five", legal=True, role_card="private", shapes=PLAIN, config=CONFIG):
    return Rollout(Werewolf(RULE_SETS[rules], legal), CHAT, Sampler(Decoder(config), CHAT.ends, shapes), role_card)


def everybody(roles):
    return [0] * len(roles)


def games(numbers, players=everybody, **options):
    return [Game(number, environment_seed(0, number), players, **options) for number in numbers]


def play(rollout, specs, key=KEY, temperature=1.0, num_policies=1):
    params = params_of(rollout.sampler.model.config)
    return rollout.play(specs, [params] * num_policies, key, temperature)


def turns_of(episode):
    return [(t, seat, turn) for t, step in enumerate(episode.steps) for seat, turn in step.turns.items()]


def assert_same_games(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert a.transcript == b.transcript
        assert (a.game, a.rewards, a.roles, a.events) == (b.game, b.rewards, b.roles, b.events)
        for (*at, mine), (*other, theirs) in zip(turns_of(a), turns_of(b), strict=True):
            assert (*at, mine.cue, mine.action, mine.legal) == (*other, theirs.cue, theirs.action, theirs.legal)
            np.testing.assert_allclose(mine.log_probs, theirs.log_probs, rtol=1e-5, atol=2e-5)
            np.testing.assert_allclose(mine.values, theirs.values, rtol=1e-5, atol=2e-5)


# ---------------------------------------------------------------- identity (b)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, params, batch, temperature):
    return update.evaluate_actions(model, params, batch, temperature)


def gaps(rollout, episodes, temperature=1.0):
    """Largest differences between the sampler's log-probabilities and values and the trainer's."""
    model = rollout.sampler.model
    # Cues that repeat all a seat was told make long rows.
    room = ROOM if rollout.role_card == "private" else ROOM._replace(seat=2048)
    batch = layout.pack(episodes, rollout.env.role_names, room, WIDTH)
    outputs = evaluate(model, params_of(model.config), batch, temperature)

    def gap(mine, theirs):
        return np.abs(np.where(batch.action_mask, mine - theirs, 0)).max()

    assert batch.action_mask.any()
    return gap(outputs.log_probs, batch.action_log_probs), gap(outputs.values, batch.action_values)


WINDOW = dataclasses.replace(
    CONFIG, layers=2, sliding_window=40, windowed_layers=(True, False), window_rope_theta=100.0, qkv_bias=True
)
VARIETY = {
    "five": {},
    "sotopia": {"rules": "sotopia", "temperature": 0.6},
    "five_free": {"legal": False},
    "five_window": {"config": WINDOW},
    "five_in_cue": {"role_card": "cue"},
}
SLOW = {
    "omar": {"rules": "omar"},
    "omar_free": {"rules": "omar", "legal": False},
    "omar_in_cue": {"rules": "omar", "role_card": "cue", "shapes": IN_CUE},
    "sotopia_free_in_cue": {"rules": "sotopia", "legal": False, "role_card": "cue", "shapes": IN_CUE},
    "omar_window_in_cue": {"rules": "omar", "config": WINDOW, "role_card": "cue", "shapes": IN_CUE},
}
VARIETY = [
    *(pytest.param(options, id=name) for name, options in VARIETY.items()),
    *(pytest.param(options, id=name, marks=pytest.mark.slow) for name, options in SLOW.items()),
]


@pytest.mark.parametrize("options", VARIETY)
def test_what_is_trained_was_sampled(options):
    temperature = options.get("temperature", 1.0)
    rollout = rollout_of(**{name: option for name, option in options.items() if name != "temperature"})
    episodes, statistics = play(rollout, games(range(NUM_GAMES)), temperature=temperature)
    turns = [turn for episode in episodes for _, _, turn in turns_of(episode)]
    assert len({turn.action for turn in turns}) > 10
    assert any(turn.legal for turn in turns) == options.get("legal", True)
    assert statistics.action_tokens == sum(len(turn.action) for turn in turns)
    log_prob_gap, value_gap = gaps(rollout, episodes, temperature)
    assert log_prob_gap < 1e-4 and value_gap < 1e-4
    told = any(step.private for episode in episodes for step in episode.steps)
    assert told == (options.get("role_card") != "cue")


# ---------------------------------------------------------------- batches, caches, policies


def test_shrinking_batches_and_growing_caches_change_nothing_and_compile_nothing():
    """A warmed-up sampler plays any games without compiling, and they are those of one fixed shape."""
    changing = rollout_of(shapes=CHANGING)
    changing.sampler.warm_up(params_of(CONFIG))
    plays = [play(changing, games(range(NUM_GAMES)))]  # small programs outside of the sampler
    compilations = CompilationCounter()
    for first in (4, 8, 12):
        plays.append(play(changing, games(range(first, first + NUM_GAMES)), jax.random.key(first)))
    plays.append(play(changing, games([20]), temperature=0.7))
    plays.append(play(changing, games(range(30, 37))))  # more than fit at once
    assert compilations.count == 0
    lengths = {max(layout.sizes(e).shared + layout.sizes(e).seat for e in found) for found, _ in plays}
    assert len(lengths) > 2  # outcomes differed
    slots = sum(statistics.game_slots for _, statistics in plays)
    assert slots < NUM_GAMES * sum(statistics.decode_calls for _, statistics in plays)  # batches shrank

    plain = rollout_of()
    assert_same_games(plays[0][0], play(plain, games(range(NUM_GAMES)))[0])
    assert_same_games(plays[1][0], play(plain, games(range(4, 8)), jax.random.key(4))[0])
    assert_same_games(plays[4][0], play(plain, games([20]), temperature=0.7)[0])
    assert_same_games(plays[5][0], play(plain, games(range(30, 37)))[0])


def test_games_do_not_depend_on_their_place():
    rollout = rollout_of()
    together = play(rollout, games(range(NUM_GAMES)))[0]
    turned = play(rollout, games(reversed(range(NUM_GAMES))))[0]
    assert_same_games(turned, together[::-1])
    assert_same_games(play(rollout, games([2]))[0], together[2:3])


def test_equal_policies_play_as_one():
    rollout = rollout_of()
    together = play(rollout, games(range(NUM_GAMES)))[0]
    mixed = games(range(NUM_GAMES), lambda roles: [seat % 2 for seat in range(len(roles))])
    assert_same_games(play(rollout, mixed, num_policies=2)[0], together)


def test_replays_are_exact():
    rollout = rollout_of()
    (first, _), (second, _) = (play(rollout, games(range(NUM_GAMES))) for _ in range(2))
    assert_same_games(second, first)
    for a, b in zip(first, second, strict=True):
        for (_, _, mine), (_, _, theirs) in zip(turns_of(a), turns_of(b), strict=True):
            np.testing.assert_array_equal(mine.log_probs, theirs.log_probs)
            np.testing.assert_array_equal(mine.values, theirs.values)
    other = play(rollout, games(range(NUM_GAMES)), jax.random.key(4))[0]
    assert [e.transcript for e in other] != [e.transcript for e in first]


def test_the_environment_heard_what_was_said():
    """The recorded texts, given to the environment again, give the recorded game."""
    rollout = rollout_of("omar")
    for episode in play(rollout, games(range(NUM_GAMES)))[0]:
        env, transcript = rollout.env, []
        now = env.step(env.reset(episode.seed), {})
        for step in episode.steps:
            transcript += [("public", now.public)] if now.public else []
            transcript += [(env.seat_names[seat], text) for seat, text in now.private.items() if text]
            assert step.public[-1:] == CHAT.event(now.public)[-1:]
            if step.turns:
                texts = {seat: turn.text for seat, turn in step.turns.items()}
                assert texts == {seat: CHAT.say(turn.action) for seat, turn in step.turns.items()}
                transcript += [(f"{env.seat_names[seat]}'s turn", text) for seat, text in texts.items()]
                now = env.step(now.state, texts)
        assert tuple(transcript) == episode.transcript
        if episode.rewards is not None:
            assert tuple(now.rewards[seat] for seat in range(env.num_seats)) == episode.rewards


# ---------------------------------------------------------------- scripts and cut games


def test_scripts_need_no_model():
    """A sampler without any call would fail at the first one."""
    rollout = rollout_of(shapes=PLAIN)
    rollout.sampler = SimpleNamespace(shapes=dataclasses.replace(PLAIN, transcript=(2048,)))
    player = ScriptedPlayer()
    episodes, statistics = rollout.play(games(range(6), lambda roles: [player] * len(roles)), [], KEY)
    assert statistics.decode_calls == statistics.action_tokens == 0
    assert all(episode.rewards is not None for episode in episodes)
    for episode in episodes:
        for _, _, turn in turns_of(episode):
            assert turn.action == CHAT.action(turn.text)
            assert not turn.log_probs.any() and turn.legal is None


def test_a_model_may_sit_among_scripts():
    rollout, player = rollout_of(), ScriptedPlayer()

    def players(roles):
        return [0 if role == "werewolf" else player for role in roles]

    def learns(roles):
        return tuple(role == "werewolf" for role in roles)

    episodes, statistics = play(rollout, games(range(NUM_GAMES), players, learns=learns))
    batch = layout.pack(episodes, rollout.env.role_names, ROOM, WIDTH)
    model_turns = 0
    for n, episode in enumerate(episodes):
        sampled = [(seat, turn) for _, seat, turn in turns_of(episode) if turn.log_probs.any()]
        assert {episode.roles[seat] for seat, _ in sampled} <= {"werewolf"}
        model_turns += len(sampled)
        rows = batch.turn_seat[n][batch.turn_seat[n] != PADDING]
        assert {episode.roles[seat] for seat in rows} <= {"werewolf"}
    assert model_turns > 0
    assert statistics.action_tokens == sum(
        len(turn.action) for e in episodes for _, seat, turn in turns_of(e) if e.roles[seat] == "werewolf"
    )


def test_overlong_games_are_cut_and_train_nothing():
    rollout = rollout_of("omar", legal=False)
    episodes, statistics = play(rollout, games(range(NUM_GAMES)))
    cut = [episode for episode in episodes if episode.rewards is None]
    assert len(cut) == statistics.cut_games > 0
    room = PLAIN.transcript[-1]
    for episode in cut:
        said = sum(len(s.public) + sum(map(len, s.private.values())) for s in episode.steps)
        assert said > room - PLAIN.piece
        assert not episode.steps[-1].turns
    batch = layout.pack(cut, rollout.env.role_names, layout.Sizes(1024, 1024, 512, 96), WIDTH)
    assert not batch.turn_kept.any()


def test_a_game_whose_question_is_too_long_is_cut():
    rollout = rollout_of(shapes=dataclasses.replace(PLAIN, cue=2))
    episodes, cost = play(rollout, games([0, 1]))
    assert cost.cut_games == len(episodes)
    assert all(episode.rewards is None for episode in episodes)


# ---------------------------------------------------------------- lanes


def test_games_are_the_same_in_one_lane_and_in_several():
    rollout, specs = rollout_of(shapes=CHANGING), games(range(2 * NUM_GAMES + 1))
    wanted, cost = play(rollout, specs)
    rollout.lanes, told = 3, []
    found, cost_in_lanes = rollout.play(specs, [params_of(CONFIG)], KEY, progress=lambda *now: told.append(now))
    assert_same_games(found, wanted)
    assert cost_in_lanes.action_tokens == cost.action_tokens
    assert told == sorted(told) and told[-1] == (len(specs), cost.action_tokens)


def test_few_games_are_not_cut_up_into_batches_smaller_than_any_that_is_compiled():
    rollout = rollout_of(shapes=dataclasses.replace(PLAIN, games=(8, 4)))
    rollout.lanes = 2

    def sizes(num_games):
        return [len(batch) for batch in rollout._batches(games(range(num_games)))]

    assert [sizes(n) for n in (3, 5, 9, 16, 17)] == [[3], [4, 1], [5, 4], [8, 8], [8, 8, 1]]
    assert rollout.at_once == 16


def test_a_stop_in_one_lane_stops_all():
    rollout = rollout_of(shapes=CHANGING)
    rollout.lanes = 2

    def progress(finished, tokens):
        if tokens:
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        rollout.play(games(range(2 * NUM_GAMES)), [params_of(CONFIG)], KEY, progress=progress)


# ---------------------------------------------------------------- guests and players that wait


def village_by(village):
    return lambda roles: [0 if role == "werewolf" else village for role in roles]


def test_a_guest_of_the_same_model_plays_as_a_policy():
    rollout, params = rollout_of(), params_of(CONFIG)
    specs = games(range(NUM_GAMES), village_by(1))
    wanted, _ = rollout.play(specs, [params, params], KEY)
    found, _ = rollout.play(specs, [params, Guest(rollout, params)], KEY)
    assert_same_games(found, wanted)


@functools.cache
def spelling_rollout():
    """Of a model that reads letter by letter, with a chat template."""
    chat = Chat(tokenizer_families.FAMILIES["qwen3"]())
    model = Decoder(dataclasses.replace(CONFIG, vocabulary=len(chat.tokenizer)))
    sizes = LegalTable.size(chat.action(choice) for choice in Werewolf(RULE_SETS["five"]).choices)
    shapes = dataclasses.replace(CHANGING, transcript=(1024, 4096), cue=96, legal_nodes=sizes[0], legal_width=sizes[1])
    return Rollout(Werewolf(RULE_SETS["five"]), chat, Sampler(model, chat.ends, shapes))


def test_a_guest_of_another_model_hears_and_speaks_in_its_own_tokens():
    ours, theirs = rollout_of(shapes=CHANGING), spelling_rollout()
    guest = Guest(theirs, params_of(theirs.sampler.model.config))
    specs = games(range(NUM_GAMES), lambda roles: [1] * len(roles))
    wanted, _ = theirs.play(games(range(NUM_GAMES)), [guest.params], KEY)
    found, _ = ours.play(specs, [params_of(CONFIG), guest], KEY)
    for mine, its in zip(found, wanted, strict=True):
        assert (mine.transcript, mine.rewards) == (its.transcript, its.rewards)
    for _, _, turn in turns_of(found[0]):  # in the episode's own tokens
        assert turn.action == CHAT.action(turn.text)


def test_two_models_play_one_game_together():
    ours, theirs = rollout_of(shapes=CHANGING), spelling_rollout()
    guest = Guest(theirs, params_of(theirs.sampler.model.config))
    found, _ = ours.play(games(range(NUM_GAMES), village_by(1)), [params_of(CONFIG), guest], KEY)
    own, _ = play(ours, games(range(NUM_GAMES)))
    for episode, alone in zip(found, own, strict=True):
        first, of_ours = episode.steps[0].turns, alone.steps[0].turns
        assert first.keys() == of_ours.keys()
        for seat, turn in episode.steps[1].turns.items():
            assert (episode.roles[seat] == "werewolf") == bool(turn.log_probs.any())
        assert episode.rewards is not None


def test_policies_of_other_batches_cannot_play_together():
    theirs = rollout_of(shapes=CHANGING)
    with pytest.raises(ValueError, match="same sizes"):
        rollout_of().play(games([0]), [{}, Guest(theirs, {})], KEY)


class Waiting(RandomPlayer):
    """Answers only while others are answering, too."""

    at_once = NUM_GAMES

    def __init__(self):
        self.meeting, self.heard = threading.Barrier(NUM_GAMES), {}

    def act(self, env, state, seat, ask, heard, rng):
        self.heard[state.seed, state.steps, seat] = heard
        if state.phase == "opening" or state.steps == 1:
            self.meeting.wait(timeout=30)
        return super().act(env, state, seat, ask, heard, rng)


def test_players_that_wait_answer_at_the_same_time_and_hear_what_their_seat_may():
    rollout, player = rollout_of(), Waiting()
    specs = games(range(NUM_GAMES), lambda roles: [player] * len(roles))
    found, _ = rollout.play(specs, [], KEY)
    patient, _ = rollout.play(games(range(NUM_GAMES), lambda roles: [RandomPlayer()] * len(roles)), [], KEY)
    assert [episode.transcript for episode in found] == [episode.transcript for episode in patient]
    for episode in found:
        names = rollout.env.seat_names
        for (seed, _, seat), heard in player.heard.items():
            if seed == episode.seed:
                own = [text for who, text in episode.transcript if who in ("public", names[seat])]
                assert heard == own[: len(heard)]
                assert f"You are {names[seat]}" in heard[1]
