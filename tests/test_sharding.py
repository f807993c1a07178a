"""Where arrays lie: every parameter of every family has a rule, and what is placed is the array that was given."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import processes
import pytest
import streams
from jax.sharding import PartitionSpec as P
from model import family_cases

from omar_jax import meshes, sharding, train_state
from omar_jax.model import families, lora
from omar_jax.model.attention import causal
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder

ROOT = Path(__file__).parents[1]
OPTIMIZER = train_state.make_optimizer(train_state.OptimizerSettings(1e-3, 0, 1.0, 0.01, momentum_dtype="bfloat16"))


def mesh_of(data, fsdp, tensor):
    """As much of a mesh as the rules read."""
    return SimpleNamespace(shape={"data": data, "fsdp": fsdp, "tensor": tensor})


# ---------------------------------------------------------------- the table


def shapes_of(config, adapters):
    """The shapes of a whole training state, nothing computed."""
    model = Decoder(config, lora=adapters)

    def create(key):
        tokens = jnp.zeros((1, 2), jnp.int32)
        params = model.init(key, tokens, tokens, causal(config, tokens), method="init_all")
        return train_state.create(params, OPTIMIZER)

    return jax.eval_shape(create, jax.random.key(0))


def named(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.mark.parametrize("adapters", [None, lora.LoRA(4, 8.0)], ids=["whole", "adapters"])
@pytest.mark.parametrize(("family", "seed"), family_cases.CASES)
def test_every_parameter_of_every_family_has_a_rule(family, seed, adapters):
    config = families.decoder_config(family_cases.config_json(family, seed))
    for name, leaf in named(shapes_of(config, adapters)).items():
        spec = sharding.partition(name, leaf.shape, mesh_of(1, 2, 2), config.kv_heads)
        assert len(spec) <= len(leaf.shape)
        axes = [axis for axis in spec if axis]
        assert len(axes) == len(set(axes))
        for axis, size in zip(spec, leaf.shape, strict=False):
            assert axis is None or size % 2 == 0
        if re.search(r"(kernel|embedding)$", name) and "value_head" not in name:
            assert axes or leaf.shape[0] % 2 or leaf.shape[1] % 2, f"{name} {leaf.shape} is on every device whole"


WANTED = {  # of a mesh of 2, 4, 2; by (name, shape, kv heads)
    ("params/embedding", (32, 8), 2): P("tensor", "fsdp"),
    ("params/unembedding", (32, 8), 2): P("tensor", "fsdp"),
    ("params/block_0/query/kernel", (8, 16), 2): P("fsdp", "tensor"),
    ("params/block_0/key/kernel", (8, 16), 2): P("fsdp", "tensor"),
    ("params/block_0/key/kernel", (8, 16), 1): P("fsdp", None),
    ("params/block_0/value/bias", (16,), 2): P("tensor"),
    ("params/block_0/value/bias", (16,), 3): P(None),
    ("params/block_0/key/lora_a", (8, 4), 1): P("fsdp", None),
    ("params/block_0/key/lora_b", (4, 16), 2): P(None, "tensor"),
    ("params/block_0/key/lora_b", (4, 16), 1): P(None, None),
    ("params/block_0/query/kernel", (8, 16), 1): P("fsdp", "tensor"),
    ("params/block_0/out/kernel", (16, 8), 2): P("tensor", "fsdp"),
    ("params/block_0/out/lora_a", (16, 4), 2): P("tensor", None),
    ("params/block_0/down/lora_b", (4, 8), 2): P(None, "fsdp"),
    ("params/block_0/down/kernel", (15, 8), 2): P(None, "fsdp"),  # 15 is odd
    ("params/block_0/gate/kernel", (6, 16), 2): P(None, "tensor"),  # 6 is no multiple of 4
    ("params/block_0/query_norm/weight", (8,), 2): P(),
    ("params/value_head/kernel", (8, 1), 2): P(),
    ("optimizer/1/0/mu/params/block_0/up/kernel", (8, 16), 2): P("fsdp", "tensor"),
    ("optimizer/1/0/count", (), 2): P(),
    ("step", (), 2): P(),
}


@pytest.mark.parametrize("case", WANTED)
def test_rules(case):
    name, shape, kv_heads = case
    assert sharding.partition(name, shape, mesh_of(2, 4, 2), kv_heads) == WANTED[case]


def test_a_name_without_a_rule_is_refused():
    with pytest.raises(sharding.ShardingError, match=r"no rule of sharding\.RULES fits the parameter 'block_0/gizmo'"):
        sharding.partition("block_0/gizmo", (2, 3), mesh_of(1, 2, 1), 2)


def test_heads_stay_whole():
    assert sharding.over_heads(mesh_of(1, 1, 2), 4) == "tensor"
    assert sharding.over_heads(mesh_of(1, 1, 4), 2) is None
    assert sharding.over_heads(mesh_of(1, 1, 2), 3) is None


# ---------------------------------------------------------------- one device


def test_one_device_has_no_mesh():
    tree = {"embedding": np.ones((4, 2), np.float32)}
    assert sharding.spread(tree, None) is tree
    assert sharding.place(tree, None, 2) is tree
    assert sharding.described(tree, None, 2) is tree
    assert sharding.keep_split(tree, None, 2) is tree
    assert sharding.to_play(tree, None, None, 2) is tree
    assert sharding.num_game_parts(None) == 1
    assert sharding.partition("gizmo", (2,), None, 2) == P()
    assert isinstance(sharding.put(tree["embedding"], None, P()), jax.Array)


# ---------------------------------------------------------------- eight devices


CONFIG = DecoderConfig(vocabulary=16, width=8, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=12)


def check_places():
    """On eight devices: everything is where the table says, whole when put together."""
    devices = jax.devices()
    update = meshes.make_mesh(meshes.MeshShape(2, 2, 2), devices)
    play = meshes.make_play_mesh(meshes.MeshShape(4, 1, 2), devices)
    assert [device.id for device in play.devices.flat] == list(range(8))
    assert sharding.num_game_parts(update) == 4

    params = streams.random_params(Decoder(CONFIG), 0)
    host = jax.tree.map(np.asarray, params)
    state = jax.jit(functools.partial(train_state.create, optimizer=OPTIMIZER))(params)
    placed = sharding.place(state, update, CONFIG.kv_heads)
    wanted = named(sharding.shardings(placed, update, CONFIG.kv_heads))
    for name, leaf in named(placed).items():
        assert leaf.sharding == wanted[name]
        np.testing.assert_array_equal(leaf, named(state)[name])
    again = sharding.place(placed, update, CONFIG.kv_heads)
    assert all(x is y for x, y in zip(jax.tree.leaves(again), jax.tree.leaves(placed), strict=True))
    described = sharding.described(jax.eval_shape(lambda: state), update, CONFIG.kv_heads)
    assert all(leaf.sharding == wanted[name] for name, leaf in named(described).items())

    kernel = placed.params["params"]["block_0"]["query"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 8)  # of [8, 16]

    played = sharding.to_play(placed.params, update, play, CONFIG.kv_heads)
    assert sharding.to_play(placed.params, update, update, CONFIG.kv_heads) is placed.params
    for name, leaf in named(played).items():
        assert leaf.sharding.mesh == play
        np.testing.assert_array_equal(leaf, named(host)[name])

    games = {"tokens": np.arange(24).reshape(8, 3), "mask": np.arange(8) > 3}
    spread = sharding.spread(games, update)
    assert spread["tokens"].sharding.spec == P(sharding.GAMES)
    assert spread["tokens"].addressable_shards[0].data.shape == (2, 3)
    jax.tree.map(np.testing.assert_array_equal, spread, games)

    table = jax.jit(lambda x: sharding.gather_rows(x, update))(placed.params["params"]["embedding"])
    assert table.sharding.spec in (P("tensor"), P("tensor", None))
    odd = jax.jit(lambda x: sharding.gather_rows(x, update))(np.ones((15, 8), np.float32))
    assert odd.sharding.is_fully_replicated


def test_on_eight_devices_everything_is_in_its_place():
    flags = {"XLA_FLAGS": f"{processes.FAST_COMPILER} --xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    environment = {**os.environ, **flags, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    command = [sys.executable, "-W", "error", "-c", "import test_sharding; test_sharding.check_places()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
