"""Meshes: which are chosen, which are refused, and that all of them compute what one device computes."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import streams

from configs.werewolf import get_config
from omar_jax import layout, meshes, metrics, sampler, settings, sharding, train_state, update
from omar_jax.meshes import MeshShape, automatic
from omar_jax.model import lora
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder
from omar_jax.sampler import LegalTable, Sampler, Shapes

ROOT = Path(__file__).parents[1]
MESHES = ((8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2))
RELATIVE = 1e-5

# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "num_devices", "shape"),
    [("8,1,1", 8, (8, 1, 1)), ("2,-1,2", 8, (2, 2, 2)), ("-1,1,1", 6, (6, 1, 1)), (" 1, 4 ,2", 8, (1, 4, 2))],
)
def test_a_setting_is_three_sizes(setting, num_devices, shape):
    assert meshes.parse(setting, num_devices) == shape


@pytest.mark.parametrize(
    "setting", ["8,1", "8,1,1,1", "4,1,1", "8,2,1", "a,b,c", "", "-1,-1,8", "3,-1,1", "0,-1,1", "-2,-4,1", "-1,0,1"]
)
def test_other_settings_are_refused(setting):
    right = "data,fsdp,tensor whose product is the number of devices, 8, as in '8,1,1'"
    with pytest.raises(meshes.MeshError) as caught:
        meshes.parse(setting, 8)
    assert str(caught.value) == right


def test_settings_are_no_methods_of_the_configuration():
    """Which could not be given on the command line."""
    assert dict(get_config().mesh) == {"train": "auto", "play": "auto"}
    assert (get_config().mesh.train, get_config().mesh.play) == ("auto", "auto")


GIB = 2**30


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        # (devices, games, bytes of weights, bytes of memory, what is split first)
        ((1, 16, GIB, None, "fsdp"), (1, 1, 1)),
        ((8, 16, 100 * GIB, None, "fsdp"), (8, 1, 1)),  # nothing is known of memory: nothing is split
        ((8, 16, 4 * GIB, 16 * GIB, "fsdp"), (8, 1, 1)),  # fits into a quarter of it
        ((8, 16, 5 * GIB, 16 * GIB, "fsdp"), (4, 2, 1)),
        ((8, 16, 9 * GIB, 16 * GIB, "fsdp"), (2, 4, 1)),
        ((8, 16, 60 * GIB, 16 * GIB, "fsdp"), (1, 8, 1)),
        ((8, 16, 900 * GIB, 16 * GIB, "fsdp"), (1, 8, 1)),  # does not fit at all: as far as it goes
        ((8, 4, 5 * GIB, 16 * GIB, "fsdp"), (2, 2, 2)),  # four games are no more than four parts
        ((8, 1, 9 * GIB, 16 * GIB, "fsdp"), (1, 1, 8)),
        ((6, 4, GIB, 16 * GIB, "fsdp"), (2, 1, 3)),
        ((8, 0, 4 * GIB, 16 * GIB, "tensor"), (8, 1, 1)),
        ((8, 0, 9 * GIB, 16 * GIB, "tensor"), (2, 1, 4)),
        ((8, 0, 900 * GIB, 16 * GIB, "tensor"), (1, 1, 8)),
        ((4, 0, 900 * GIB, None, "tensor"), (4, 1, 1)),
    ],
)
def test_automatic_splits_weights_no_further_than_memory_demands(arguments, shape):
    assert automatic(*arguments) == shape


def test_a_shape_knows_its_parts():
    shape = MeshShape(2, 3, 4)
    assert (shape.games, shape.devices, str(shape)) == (6, 24, "2,3,4")


CONFIG = DecoderConfig(
    vocabulary=64, width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, rope_theta=100.0
)


def chosen(devices, decoder=CONFIG, **changes):
    """(meshes as shapes, lines reported); devices are those of a machine that is not there."""
    config = get_config("smoke")
    config.update_from_flattened_dict(changes)
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meshes, "make_mesh", lambda shape, devices: shape)
        patch.setattr(meshes, "make_play_mesh", lambda shape, devices: shape)
        found = meshes.choose(config, decoder, np.dtype("float32"), devices, lines.append)
    return found, lines


def machine(num_devices, processes=1, kind="cpu"):
    return [
        SimpleNamespace(id=i, process_index=i * processes // num_devices, device_kind=kind) for i in range(num_devices)
    ]


def test_one_device_is_nothing_to_report():
    assert chosen(machine(1)) == (((1, 1, 1), (1, 1, 1), 1), [])


def test_play_has_the_devices_of_one_process():
    found, lines = chosen(machine(8, processes=4))
    assert found == ((8, 1, 1), (2, 1, 1), 4)
    assert lines == ["8 devices in 4 processes: data,fsdp,tensor = 8,1,1 to update, 2,1,1 to play"]


def test_a_large_model_is_split():
    large = dataclasses.replace(CONFIG, vocabulary=2**18, width=2**12, mlp_width=2**14, layers=16)  # 1e9 x 4.4
    found, _ = chosen(machine(8, kind="TPU v5 lite"), large)
    assert found[:2] == ((1, 8, 1), (1, 1, 8))


def test_heads_that_do_not_come_out_even_are_told_of():
    lone = dataclasses.replace(CONFIG, kv_heads=1)
    _, lines = chosen(machine(8), lone, **{"mesh.train": "2,2,2", "mesh.play": "8,1,1"})
    assert lines[1:] == [
        "config.mesh.train: tensor=2 does not divide the 1 key/value heads, which are therefore the same on all of it"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mesh.train": "2,2,1"},
            "config.mesh.train='2,2,1' cannot be used: it must be data,fsdp,tensor whose product is the number of "
            "devices, 8, as in '8,1,1'",
        ),
        (
            {"mesh.play": "8,1,1"},
            "config.mesh.play='8,1,1' cannot be used: it must be data,fsdp,tensor whose product is the number of "
            "devices, 4, as in '4,1,1'",
        ),
        (
            {"ppo.microbatch_games": 4, "mesh.train": "8,1,1"},
            "config.ppo.microbatch_games=4 cannot be used: it must be a multiple of 8, the parts that "
            "config.mesh.train=8,1,1 splits games into",
        ),
        (
            {"play.games": 15},
            "config.play.games=15 cannot be used: it must be a multiple of 2, the number of processes",
        ),
    ],
)
def test_what_cannot_be_split_is_one_line(changes, message):
    with pytest.raises(settings.SettingError) as caught:
        chosen(machine(8, processes=2), **changes)
    assert str(caught.value) == message


# ---------------------------------------------------------------- the same as one device

ROOM = layout.Sizes(48, 64, 32, 24)
PLAN = update.MinibatchPlan(32, 32, 16, (ROOM,), streams.LEGAL_WIDTH)
END, OPTIONS = 0, ((3, 4, 0), (3, 5, 0), (6, 0))
SHAPES = Shapes(games=(16,), transcript=(32,), piece=8, cue=4, action=8, asked=(2,), legal_nodes=8, legal_width=3)


def model_on(shape, config, adapters):
    """The model on a mesh of all devices, or on the first one; and its random parameters there."""
    mesh = meshes.make_mesh(MeshShape(*shape), jax.devices()) if shape else None
    params = streams.random_params(Decoder(config, lora=adapters), seed=0)
    return Decoder(config, mesh=mesh, lora=adapters), sharding.place(params, mesh, config.kv_heads)


def learned(shape, config, adapters):
    """(losses, parameters) of 5 updates of 32 games in two microbatches, what was trained, what it compiled late."""
    model, params = model_on(shape, config, adapters)
    params, frozen = lora.split(params, adapters)
    coefficients = update.PPOSettings(0.2, 0.2, None, 0.5, 0.1, 0.01)
    optimizer = train_state.make_optimizer(train_state.OptimizerSettings(1e-2, 0, 1.0, 0.01))
    learner = update.Learner(model, functools.partial(update.ppo_loss, coefficients), optimizer)
    episodes = [streams.random_game(seed, vocabulary=config.vocabulary) for seed in range(PLAN.games_at_once)]
    episodes = [episode for episode in episodes if layout.sizes(episode).fits(ROOM)]
    batch = PLAN.pack(episodes, streams.ROLES)
    random = np.random.default_rng(0)
    numbers = random.normal(size=(2, *batch.action_tokens.shape)).astype(np.float32)
    mask = batch.action_index > 0
    whole = lora.combine(params, frozen)
    reference = learner.reference_log_probs(whole, PLAN, episodes, batch, 1.0) - 0.1
    # As they were played, but for some, which are clipped.
    played = np.where(numbers[0] > 1, reference - 0.3, reference + 0.1)
    batch = batch._replace(action_log_probs=played)
    # Around 1, so that the policy's loss is no small difference of large sums.
    targets = update.Targets(1 + numbers[0], numbers[1], mask, reference)
    state, losses, compilations = learner.create(params), [], metrics.CompilationCounter()
    for epoch in range(5):
        for minibatch in PLAN.minibatches(episodes, batch, targets, np.random.default_rng(epoch)):
            state, numbers_of_step = learner.minibatch(state, minibatch, 1.0, frozen)
            losses.append(jax.device_get(numbers_of_step))
        if epoch == 0:
            jax.device_get(state)
            compiled = compilations.count
    return losses, jax.device_get(state), compilations.count - compiled


def played(shape, config, adapters):
    """What 16 games say in three rounds, their order reversed after the first; what it compiled late."""
    model, params = model_on(shape, config, adapters)
    player = Sampler(model, (END,), SHAPES)
    random = np.random.default_rng(1)
    compilations, compiled = metrics.CompilationCounter(), None
    spoken = []
    for repeat in range(2):
        cache, games = player.empty(16), np.arange(16)
        for turn in range(3):
            piece = sampler.nothing_said(len(games), SHAPES)
            said = random.integers(1, config.vocabulary, (16, SHAPES.piece))
            owner = random.choice([-1, 0, 1], (16, SHAPES.piece))
            piece.tokens[:], piece.owner[:], piece.count[:] = said[games], owner[games], SHAPES.piece
            piece.positions[:] = turn * SHAPES.piece + np.arange(SHAPES.piece)
            cache = player.extend(params, cache, piece)
            ask = sampler.nobody_asked(len(games), 2, SHAPES)
            ask.cue[:] = random.integers(1, config.vocabulary, (16, 2, SHAPES.cue))[games]
            ask.cue_count[:], ask.seat[:], ask.limit[:] = SHAPES.cue, [0, 1], SHAPES.action
            ask.position[:], ask.game[:], ask.turn[:] = (turn + 1) * SHAPES.piece, games, [2 * turn, 2 * turn + 1]
            ask.legal[:] = [False, turn == 1]
            ask.legal_tokens[:], ask.legal_next[:] = LegalTable.build(OPTIONS, SHAPES.legal_nodes, SHAPES.legal_width)
            spoken.append(jax.device_get(player.decode(params, cache, ask, player.key(repeat), jnp.float32(1.0))))
            if turn == 0:
                cache, games = player.take(cache, games[::-1]), games[::-1]
        compiled = compiled or compilations.count
    return spoken, compilations.count - compiled


def relative(found, wanted):
    """The largest difference of two trees' leaves, each measured by the leaf's own size."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30)) for a, b in pairs)


def compare(shapes, changes, rank):
    """Prints, as JSON, by how much each mesh of eight devices differs from one device."""
    config = dataclasses.replace(CONFIG, **changes)
    adapters = lora.LoRA(rank, 8.0) if rank else None
    losses, state, _ = learned(None, config, adapters)
    spoken, _ = played(None, config, adapters)
    for shape in shapes:
        losses_there, state_there, late = learned(shape, config, adapters)
        spoken_there, late_too = played(shape, config, adapters)
        found = {
            "losses": max(relative(a[name], b[name]) for a, b in zip(losses_there, losses, strict=True) for name in a),
            "parameters": relative(state_there.params, state.params),
            "optimizer": relative(state_there.optimizer, state.optimizer),
            "tokens": all(
                (a.tokens == b.tokens).all() and (a.count == b.count).all()
                for a, b in zip(spoken_there, spoken, strict=True)
            ),
            "log_probs": relative([s.log_probs for s in spoken_there], [s.log_probs for s in spoken]),
            "values": relative([s.values for s in spoken_there], [s.values for s in spoken]),
            "compiled late": late + late_too,
        }
        print(json.dumps(found), flush=True)


def on_eight_devices(shapes, changes, rank=0):
    """What `compare` prints, by mesh."""
    flags = f"{processes.FAST_COMPILER} --xla_force_host_platform_device_count=8"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    driver = f"import test_meshes; test_meshes.compare({shapes}, {changes}, {rank})"
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", driver]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "full rematerialization" not in done.stderr, done.stderr
    return dict(zip(shapes, map(json.loads, done.stdout.splitlines()), strict=True))


def assert_same(found):
    print(found)
    assert found["tokens"]
    assert found["compiled late"] == 0
    for name in ("losses", "parameters", "log_probs", "values"):
        assert found[name] <= RELATIVE, name
    assert found["optimizer"] <= 10 * RELATIVE  # moments of gradients that all but cancel


@pytest.fixture(scope="module")
def differences():
    with ThreadPoolExecutor() as pool:  # a half on each of two cores
        halves = pool.map(lambda shapes: on_eight_devices(shapes, {"layers": 1}), (MESHES[:2], MESHES[2:]))
        return {shape: found for half in halves for shape, found in half.items()}


@pytest.mark.parametrize("shape", MESHES)
def test_every_mesh_trains_and_plays_as_one_device_does(differences, shape):
    assert_same(differences[shape])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "rank"),
    [
        ({"kv_heads": 1}, 0),  # which two devices cannot share
        ({"vocabulary": 63, "tied_embeddings": False, "qkv_bias": True}, 0),  # nor 63 rows
        ({"sliding_window": 9, "windowed_layers": (True, False)}, 4),  # rank of adapters
    ],
)
def test_so_does_it_with_what_does_not_come_out_even_and_with_adapters(changes, rank):
    for found in on_eight_devices(MESHES, changes, rank).values():
        assert_same(found)
