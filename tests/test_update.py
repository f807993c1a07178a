"""The update: gradients do not depend on how games are cut into microbatches, padded or chunked."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import streams

from omar_jax import catalogue, layout, train_state, update
from omar_jax.envs.werewolf import Werewolf
from omar_jax.envs.werewolf_rules import RULE_SETS
from omar_jax.layout import Sizes
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.rollout import Rollout
from omar_jax.sampler import LegalTable, Sampler, Shapes
from omar_jax.tables import Game, environment_seed
from omar_jax.text.chat import Chat, load_tokenizer
from omar_jax.update import Learner, MinibatchPlan, PPOSettings, Targets

VOCABULARY = 50
CONFIG = DecoderConfig(
    vocabulary=VOCABULARY, width=16, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=24, rope_theta=100.0
)
MODEL = Decoder(CONFIG)
PARAMS = streams.random_params(MODEL, seed=0)
SETTINGS = PPOSettings(0.2, 0.2, 0.5, 0.5, 0.01, 0.01)
# One step of size 1 along the gradient: what changed is the gradient.
LEARNER = Learner(MODEL, functools.partial(update.ppo_loss, SETTINGS), optax.sgd(1.0))

EPISODES = [
    streams.random_game(seed, num_seats, num_steps, VOCABULARY, longest=3)
    for seed, (num_seats, num_steps) in enumerate([(2, 1), (2, 1), (3, 4), (3, 4), (2, 2), (3, 4), (2, 1)], start=20)
]
BUCKETS = (Sizes(6, 24, 8, 4), Sizes(24, 96, 48, 16))
PLAN = MinibatchPlan(
    games_at_once=8,
    minibatch_games=8,
    microbatch_games=2,
    buckets=BUCKETS,
    legal_width=streams.LEGAL_WIDTH,
)
BATCH = PLAN.pack(EPISODES, streams.ROLES)


def random_targets(seed, batch=BATCH):
    """Targets near what the policy says, so that some ratios are clipped and some are not."""
    rng = np.random.default_rng(seed)

    def noise(scale=1.0):
        return rng.normal(size=batch.action_mask.shape).astype(np.float32) * scale

    mask = batch.action_mask & np.take_along_axis(batch.turn_kept, np.maximum(batch.action_turn, 0), axis=1)
    return Targets(noise(), noise(), mask, LOG_PROBS + noise(0.3))


@functools.partial(jax.jit, static_argnums=0)
def evaluate(model, params, batch):
    return update.evaluate_actions(model, params, batch, 1.0)


LOG_PROBS = np.asarray(evaluate(MODEL, PARAMS, BATCH).log_probs)
# Sampled by a slightly other policy.
BATCH = BATCH._replace(
    action_log_probs=LOG_PROBS + 0.3 * np.sin(np.arange(LOG_PROBS.size, dtype=np.float32)).reshape(LOG_PROBS.shape)
)
TARGETS = random_targets(0)


def gradient_and_metrics(microbatches, learner=LEARNER):
    # The state is donated: the parameters are a copy.
    state = train_state.create(jax.tree.map(jnp.copy, PARAMS), learner.optimizer)
    state, metrics = learner.minibatch(state, microbatches, 1.0)
    assert int(state.step) == 1
    return jax.tree.map(lambda old, new: np.asarray(old - new), PARAMS, state.params), jax.device_get(metrics)


def assert_close(found, wanted, tolerance=1e-5):
    """Differences are relative to each parameter's largest gradient."""
    for (path, a), b in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
        assert error < tolerance, (jax.tree_util.keystr(path), error)


WHOLE = gradient_and_metrics([(BATCH, TARGETS)])


def test_the_gradient_moves_every_parameter():
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(WHOLE[0]))
    assert 0 < WHOLE[1]["policy/clip_fraction"] < 1


@pytest.mark.parametrize("seed", range(3))
def test_microbatches_of_several_buckets_add_up_to_the_whole(seed):
    order = PLAN.microbatches(EPISODES, np.random.default_rng(seed))
    assert {room for room, _ in order} == set(BUCKETS)
    assert any(len(games) == 1 for _, games in order)
    microbatches = [(PLAN.crop(BATCH, games, room), PLAN.crop(TARGETS, games, room)) for room, games in order]
    gradient, metrics = gradient_and_metrics(microbatches)
    assert_close(gradient, WHOLE[0])
    for name, value in WHOLE[1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_an_epoch_takes_every_game_once():
    seen = []
    for minibatch in PLAN.minibatches(EPISODES, BATCH, TARGETS, np.random.default_rng(0)):
        assert len(minibatch) <= PLAN.minibatch_games // PLAN.microbatch_games
        for batch, targets in minibatch:
            assert batch.num_games == PLAN.microbatch_games
            seen += [tuple(row) for row, mask in zip(batch.action_tokens, batch.action_mask, strict=True) if mask.any()]
            assert not (targets.mask & ~batch.action_mask).any()
    wanted = [row[: mask.sum()] for row, mask in zip(BATCH.action_tokens, BATCH.action_mask, strict=True) if mask.any()]
    assert sorted(np.trim_zeros(row, "b").tolist() for row in map(np.array, seen)) == sorted(map(list, wanted))


@pytest.mark.parametrize(("minibatch_games", "lengths"), [(2, [1, 1, 2]), (4, [2, 2]), (6, [4])])
def test_minibatches_of_an_epoch_are_of_a_size(minibatch_games, lengths):
    """Microbatches that are not full make no minibatch over: three and three games take four microbatches of two."""
    plan = dataclasses.replace(PLAN, minibatch_games=minibatch_games)
    minibatches = plan.minibatches(EPISODES[:6], BATCH, TARGETS, np.random.default_rng(0))
    assert sorted(len(minibatch) for minibatch in minibatches) == lengths


def test_padding_changes_nothing():
    """Neither the size of the padding games and tokens nor what stands in them."""
    games, room = [2, 3], BUCKETS[1]
    tight = gradient_and_metrics([(PLAN.crop(BATCH, games, room), PLAN.crop(TARGETS, games, room))])
    wide = [layout.crop(arrays, games, 8, room) for arrays in (BATCH, TARGETS)]
    assert_close(gradient_and_metrics([tuple(wide)])[0], tight[0])
    batch, targets = wide
    rng = np.random.default_rng(0)

    def scribble(x, where, high):
        return np.where(where, rng.integers(0, high, x.shape), x).astype(x.dtype)

    nobody = batch.seat_owner < 0
    unseen = batch.shared_clock == layout.NEVER
    padding = ~batch.action_mask
    batch = batch._replace(
        shared_tokens=scribble(batch.shared_tokens, unseen, VOCABULARY),
        shared_positions=scribble(batch.shared_positions, unseen, 99),
        seat_tokens=scribble(batch.seat_tokens, nobody, VOCABULARY),
        seat_positions=scribble(batch.seat_positions, nobody, 99),
        action_tokens=scribble(batch.action_tokens, padding, VOCABULARY),
        action_index=scribble(batch.action_index, padding, room.seat),
        action_log_probs=scribble(batch.action_log_probs, padding, 99),
    )
    targets = targets._replace(
        advantages=scribble(targets.advantages, padding, 99), returns=scribble(targets.returns, padding, 99)
    )
    assert_close(gradient_and_metrics([(batch, targets)])[0], tight[0])


def test_nothing_to_learn_is_a_step_of_zero():
    room = BUCKETS[0]
    padding = (layout.empty(2, room, streams.LEGAL_WIDTH), update.nothing_to_learn(2, room))
    gradient, metrics = gradient_and_metrics([padding])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))
    assert not any(metrics.values())
    both, _ = gradient_and_metrics([padding, (BATCH, TARGETS)])
    assert_close(both, WHOLE[0], 1e-6)


def test_filtered_turns_have_no_gradient():
    filtered = BATCH.action_mask & ~TARGETS.mask
    assert filtered.any()
    wild = TARGETS._replace(
        advantages=np.where(filtered, 1e3, TARGETS.advantages).astype(np.float32),
        returns=np.where(filtered, 1e3, TARGETS.returns).astype(np.float32),
        reference_log_probs=np.where(filtered, -50, TARGETS.reference_log_probs).astype(np.float32),
    )
    old = np.where(filtered, -100, BATCH.action_log_probs).astype(np.float32)
    gradient, metrics = gradient_and_metrics([(BATCH._replace(action_log_probs=old), wild)])
    assert_close(gradient, WHOLE[0], 1e-6)
    assert metrics["loss/policy"] == pytest.approx(WHOLE[1]["loss/policy"])
    gradient, _ = gradient_and_metrics([(BATCH, TARGETS._replace(mask=np.zeros_like(TARGETS.mask)))])
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("limit", "value"),
    [("LOGITS_AT_ONCE", 7 * VOCABULARY), pytest.param("TOKENS_AT_ONCE", 16, marks=pytest.mark.slow)],
)
def test_logits_in_chunks_are_the_same(monkeypatch, limit, value):
    """With and without a last chunk that is not full: of 7 tokens and of 16."""
    assert BATCH.action_tokens.size % 7 and not BATCH.action_tokens.size % 16
    assert BATCH.action_tokens.size <= min(update.TOKENS_AT_ONCE, update.LOGITS_AT_ONCE // VOCABULARY)
    monkeypatch.setattr(update, limit, value)
    # Another learner, so that it is traced anew.
    learner = dataclasses.replace(LEARNER, loss=functools.partial(update.ppo_loss, SETTINGS))
    gradient, metrics = gradient_and_metrics([(BATCH, TARGETS)], learner)
    assert_close(gradient, WHOLE[0])
    for name, value in WHOLE[1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_reference_log_probs_find_their_games():
    found = LEARNER.reference_log_probs(PARAMS, PLAN, EPISODES, BATCH, 1.0)
    np.testing.assert_allclose(np.where(BATCH.action_mask, found - LOG_PROBS, 0), 0, atol=1e-5)


# ---------------------------------------------------------------- from play to update


@pytest.mark.slow  # the positive controls assert it too
def test_the_first_minibatch_finds_the_samplers_log_probs():
    chat = Chat(load_tokenizer(catalogue.EMBEDDED["werewolf"]))
    env = Werewolf(RULE_SETS["five"])
    model = Decoder(
        DecoderConfig(len(chat.tokenizer), width=16, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=24)
    )
    params = streams.random_params(model, seed=1)
    nodes, width = LegalTable.size(chat.action(choice) for choice in env.choices)
    shapes = Shapes((4,), (512,), 64, 192, 8, (8,), nodes, width)
    rollout = Rollout(env, chat, Sampler(model, chat.ends, shapes))
    specs = [Game(i, environment_seed(1, i), lambda roles: [0] * len(roles)) for i in range(4)]
    episodes, _ = rollout.play(specs, [params], jax.random.key(0))
    room = Sizes(*map(max, zip(*map(layout.sizes, episodes), strict=True)))
    plan = MinibatchPlan(4, 2, 2, (room,), width)
    batch = plan.pack(episodes, env.role_names)
    learner = Learner(model, functools.partial(update.ppo_loss, SETTINGS), optax.sgd(0.3))
    rng = np.random.default_rng(0)
    noise = rng.normal(size=batch.action_mask.shape).astype(np.float32)
    targets = Targets(noise, noise, batch.action_mask, batch.action_log_probs)
    minibatches = list(plan.minibatches(episodes, batch, targets, rng))
    assert len(minibatches) == 2
    state = train_state.create(params, learner.optimizer)
    state, metrics = learner.update(state, minibatches, 1.0)
    assert int(state.step) == 2
    assert metrics["policy/log_prob_gap"] < 1e-4
