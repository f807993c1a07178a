"""What programs do: multiplications against a walk over their jaxprs, memory and communication by hand."""

import functools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import streams

from omar_jax import layout, update
from omar_jax.hlo import Program
from omar_jax.model.config import DecoderConfig
from omar_jax.model.decoder import Decoder

ROOT = Path(__file__).parents[1]
F32 = 4  # bytes


def compiled(function, *shapes):
    """(the program on the CPU, its jaxpr) of a function of float32 arrays, or of integers for ()."""
    given = [jax.ShapeDtypeStruct(shape, jnp.float32 if shape else jnp.int32) for shape in shapes]
    traced = jax.jit(function).trace(*given)
    return Program(traced.lower().compile().as_text()), traced.jaxpr.jaxpr


def multiplied(jaxpr, steps=1):
    """FLOPs of a jaxpr's products, loops that depend on data turning `steps` times, of branches the largest."""
    total = 0
    for equation in jaxpr.eqns:
        params, name = equation.params, equation.primitive.name
        if name == "dot_general":
            contracted = params["dimension_numbers"][0][0]
            given, made = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(made) * math.prod(given[axis] for axis in contracted)
        elif name == "cond":
            total += max(multiplied(branch.jaxpr, steps) for branch in params["branches"])
        else:
            turns = {"scan": params.get("length"), "while": steps}.get(name, 1)
            inner = [params[key] for key in ("jaxpr", "call_jaxpr", "body_jaxpr") if key in params]
            total += turns * sum(multiplied(getattr(each, "jaxpr", each), steps) for each in inner)
    return total


# ---------------------------------------------------------------- matrix products

STEPS = 5
W = (32, 32)


def repeat(step, count):
    """Loops whose number of turns is known: `step` again and again."""
    return lambda a, b: jax.lax.fori_loop(0, count, lambda _, a: step(a, b), a)


def until(a, b, n):
    return jax.lax.while_loop(lambda c: (c[0] < n) & (c[1].sum() > 0), lambda c: (c[0] + 1, c[1] @ b), (0, a))[1]


def choose(n, a, b):
    return jax.lax.switch(n, [lambda: jnp.exp(a), lambda: a @ b @ jnp.sin(b) @ b, lambda: a @ b])


ONE = 2 * 64 * 32 * 32  # FLOPs of [64, 32] x [32, 32]
CASES = {
    "one": (jnp.matmul, ((64, 48), (48, 32)), 2 * 64 * 48 * 32),
    "with a vector": (lambda a, b: a @ b, ((4, 64, 48), (48, 7)), 2 * 4 * 64 * 48 * 7),
    "a batch": (lambda a, b: jnp.einsum("nij,nkj->nik", a, b), ((6, 8, 16), (6, 24, 16)), 2 * 6 * 8 * 16 * 24),
    "over two axes": (lambda a, b: jnp.einsum("ihd,hdo->io", a, b), ((8, 4, 16), (4, 16, 24)), 2 * 8 * 64 * 24),
    "fused": (lambda a, b: jax.nn.relu(2 * a @ b + 1).astype(jnp.bfloat16), ((64, 32), W), ONE),
    "in bfloat16": (lambda a, b: a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16), ((64, 32), W), ONE),
    "none": (lambda a, b: a[:32] * b, ((64, 32), W), 0),
    "scan": (lambda a, b: jax.lax.scan(lambda a, _: (a @ b, a.sum()), a, length=7)[0], ((64, 32), W), 7 * ONE),
    "map": (lambda a, b: jax.lax.map(lambda row: row @ b, a), ((6, 64, 32), W), 6 * ONE),
    "a counter": (repeat(jnp.matmul, 9), ((64, 32), W), 9 * ONE),
    "until": (until, ((64, 32), W, ()), STEPS * ONE),
    "nested": (repeat(repeat(jnp.matmul, 3), 4), ((64, 32), W), 12 * ONE),
    "until in a loop": (repeat(lambda a, b: until(a, b, 8), 4), ((64, 32), W), 4 * STEPS * ONE),
    "the largest branch": (choose, ((), (64, 32), W), 3 * ONE),
}


@pytest.mark.parametrize("case", CASES)
def test_products_are_counted_as_often_as_they_run(case):
    function, shapes, wanted = CASES[case]
    program, jaxpr = compiled(function, *shapes)
    assert program.cost(STEPS).flops == wanted == multiplied(jaxpr, STEPS)


def test_steps_are_those_of_loops_that_data_end():
    program = compiled(lambda a, b, n: until(a, b, n) @ b, (64, 32), W, ())[0]
    assert [program.cost(steps).flops for steps in (0, 1, 2.5)] == [ONE, 2 * ONE, 3.5 * ONE]


# ---------------------------------------------------------------- the update's and play's own programs

CONFIG = DecoderConfig(
    vocabulary=64, width=16, layers=1, heads=4, kv_heads=2, head_dim=4, mlp_width=24, rope_theta=100.0
)
ROOM, GAMES = layout.Sizes(48, 64, 32, 24), 4


def test_a_gradient_is_what_its_jaxpr_multiplies():
    model = Decoder(CONFIG)
    params = jax.eval_shape(lambda: streams.random_params(model, seed=0))
    settings = update.PPOSettings(0.2, 0.2, None, 0.5, 0.01, 0.0)
    learner = update.Learner(model, functools.partial(update.ppo_loss, settings), optax.sgd(1.0))
    batch, targets = layout.empty(GAMES, ROOM, 1), update.nothing_to_learn(GAMES, ROOM)
    traced = learner.accumulate.trace(learner, params, params, None, batch, targets, 1.0, np.float32(1))
    found = Program(traced.lower().compile().as_text()).cost().flops
    # What the compiler makes of it: attention's scores, multiplied again for their gradient, are the same product; the
    # critic's row times every token becomes a sum.
    pairs = ROOM.shared**2 + ROOM.seat * (ROOM.shared + ROOM.seat)
    scores = 2 * GAMES * CONFIG.heads * CONFIG.head_dim * pairs
    critic = 2 * GAMES * ROOM.actions * CONFIG.width
    assert found == multiplied(traced.jaxpr.jaxpr) - scores - critic
    # By hand: each weight times each token, forwards and for two gradients.
    c, tokens = CONFIG, GAMES * (ROOM.shared + ROOM.seat)
    weights = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads) + 3 * c.width * c.mlp_width
    read = GAMES * ROOM.actions * c.width * (c.vocabulary + 1)
    assert found == 3 * 2 * (weights * tokens + read) + 6 * scores - critic


# ---------------------------------------------------------------- memory


def test_what_is_read_and_written_is_counted():
    program, _ = compiled(lambda a, b: 2 * a + b, (128, 64), (128, 64))
    assert program.cost().bytes == 3 * 128 * 64 * F32


def test_a_lookup_reads_what_it_gives():
    program, _ = compiled(lambda a, n: jax.lax.dynamic_slice_in_dim(a, n, 8), (1024, 64), ())
    assert program.cost().bytes == pytest.approx(2 * 8 * 64 * F32, abs=16)


def test_an_update_in_place_writes_the_update():
    """In a loop, where the array is nobody else's."""

    def fill(rows):
        def step(n, out):
            return jax.lax.dynamic_update_slice_in_dim(out, rows * n, 8 * n, 0)

        return jax.lax.fori_loop(0, 100, step, jnp.zeros((1024, 64)))

    program, _ = compiled(fill, (8, 64))
    per_turn = 2 * 8 * 64 * F32  # read and written
    whole = 1024 * 64 * F32  # written once before the loop, and perhaps copied into it
    assert 100 * per_turn + whole <= program.cost().bytes < 101 * per_turn + 3 * whole


# ---------------------------------------------------------------- communication


# Devices must be simulated before jax starts, so in another process.
DRIVER = """
import json
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from omar_jax.hlo import Program

mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(jax.sharding.AxisType.Auto,) * 2)


def show(function, out, **given):
    arrays = [jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(mesh, at)) for at in given.values()]
    made = jax.jit(function, out_shardings=NamedSharding(mesh, out)).lower(*arrays).compile()
    cost = Program(made.as_text()).cost()
    print(json.dumps([[list(found) for found, _ in cost.collectives], cost.flops]))


def mapped(inside):
    return jax.shard_map(inside, mesh=mesh, in_specs=P("y"), out_specs=P("y"), check_vma=False)


show(lambda a: a, P(), a=P("y"))
show(lambda a, b: a @ b.T, P("x"), a=P("x", "y"), b=P(None, "y"))
show(mapped(lambda a: jax.lax.psum_scatter(a, "y", tiled=True)), P("y"), a=P("y"))
show(mapped(lambda a: jax.lax.all_to_all(a, "x", 0, 0, tiled=True)), P("y"), a=P("y"))
show(mapped(lambda a: jax.lax.ppermute(a, "y", [(0, 1), (1, 0)])), P("y"), a=P("y"))
"""


def test_devices_tell_one_another_what_they_must():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", DRIVER]
    done = subprocess.run(command, env={**os.environ, **flags}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    part = 16 * 32 * F32  # of four
    assert list(map(json.loads, done.stdout.splitlines())) == [
        [[["all-gather", part, 4]], 0],
        [[["all-reduce", 32 * 64 * F32, 4]], 2 * 32 * 8 * 64],
        [[["reduce-scatter", part, 4]], 0],
        [[["all-to-all", part, 2]], 0],
        [[["collective-permute", part, 2]], 0],
    ]
