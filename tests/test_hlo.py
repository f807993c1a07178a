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

from omar_jax import hlo, layout, update
from omar_jax.hlo import Collective, Program
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


# ---------------------------------------------------------------- what TPUs' and GPUs' compilers write


def program_of(entry, computations=""):
    """A program for 8 devices from the lines of its entry and its other computations."""
    lines = [f"  {line}" for line in entry.strip().splitlines()]
    lines[-1] = lines[-1].replace("  ", "  ROOT ", 1)
    head = "HloModule jit_f, is_scheduled=true, num_partitions=8"
    return Program("\n".join([head, computations, "ENTRY %main.1 (a: f32[8]) -> f32[8] {", *lines, "}"]))


A, B = "%a = bf16[1920,96]{0,1:T(8,128)(2,1)} parameter(0)", "%b = bf16[96,48]{1,0:T(8,128)(2,1)S(1)} parameter(1)"
OF_A_BATCH = "window={size=8x2 stride=7x1 lhs_dilate=8x2}, dim_labels=01bf_01io->01bf"


@pytest.mark.parametrize(
    ("left", "right", "made", "labels", "flops"),
    [
        ("[1920,96]", "[96,48]", "[1920,48]", "dim_labels=bf_io->bf", 2 * 1920 * 96 * 48),
        ("[24,1920]", "[96,24]", "[96,1920]", "dim_labels=fb_oi->fb", 2 * 1920 * 24 * 96),
        ("[8,2,512,24]", "[8,2,24,96]", "[8,2,512,96]", OF_A_BATCH, 2 * 16 * 512 * 24 * 96),
    ],
)
def test_products_written_as_convolutions_are_counted(left, right, made, labels, flops):
    layout_of = "{1,0:T(8,128)(2,1)}"
    program = program_of(
        f"%a = bf16{left}{layout_of} parameter(0)\n%b = bf16{right}{layout_of} parameter(1)\n"
        f'%c = bf16{made}{layout_of} convolution(%a, %b), {labels}, metadata={{op_name="dot(general)"}}'
    )
    assert program.cost().flops == flops


def test_products_of_a_library_are_counted():
    dimensions = '"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]'
    program = program_of(
        f"{A}\n{B}\n%c = (bf16[1920,48]{{1,0}}, s8[4096]{{0}}) custom-call(%a, %b), "
        f'custom_call_target="__cublas$gemm", backend_config={{"gemm_backend_config":{{{dimensions}}}}}'
    )
    assert program.cost().flops == 2 * 1920 * 96 * 48


def test_what_lies_close_to_the_units_is_no_traffic():
    add = "bf16[96,48]{1,0:T(8,128)(2,1)} add(%b, %b)"
    assert program_of(f"{B}\n%c = {add}").cost().bytes == 2 * 96 * 48
    assert program_of(f"{B.replace('S(1)', '')}\n%c = {add}").cost().bytes == 3 * 2 * 96 * 48
    assert program_of(f"{B}\n%c = {add.replace('(2,1)', '(2,1)S(1)')}").cost().bytes == 0


def test_a_fusion_reads_what_it_looks_up_and_writes_what_it_changes():
    """Also where an array is only seen in another shape in between."""
    fused = """
%fused (p: f32[8,64], q: f32[512], r: f32[1,64], s: s32[]) -> (f32[512], f32[64]) {
  %p = f32[8,64]{1,0} parameter(0)
  %q = f32[512]{0} parameter(1)
  %r = f32[1,64]{1,0} parameter(2)
  %s = s32[] parameter(3)
  %row = f32[1,64]{1,0} dynamic-slice(%p, %s, %s), dynamic_slice_sizes={1,64}
  %sum = f32[1,64]{1,0} add(%row, %r)
  %rows = f32[8,64]{1,0} bitcast(%q)
  %new = f32[8,64]{1,0} dynamic-update-slice(%rows, %sum, %s, %s)
  %flat = f32[512]{0} bitcast(%new)
  %one = f32[64]{0} bitcast(%sum)
  ROOT %both = (f32[512]{0}, f32[64]{0}) tuple(%flat, %one)
}"""
    program = program_of(
        "%p = f32[8,64]{1,0} parameter(0)\n%q = f32[512]{0} parameter(1)\n%r = f32[1,64]{1,0} parameter(2)\n"
        "%s = s32[]{:S(6)} parameter(3)\n"
        "%f = (f32[512]{0}, f32[64]{0}) fusion(%p, %q, %r, %s), kind=kLoop, calls=%fused",
        fused,
    )
    assert program.cost().bytes == 4 * 64 * F32  # the row and what is added to it; the changed row and the sum


@pytest.mark.parametrize(
    ("start", "size"),
    [
        ("(bf16[1920,96]{0,1:T(8,128)S(1)}, bf16[1920,96]{0,1}, u32[]{:S(2)}) copy-start(%a)", 1920 * 96),
        ("((bf16[1920,96]{0,1}), bf16[1920,24]{0,1:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:9]}", 1920 * 24),
        ("bf16[1920,24]{0,1:T(8,128)S(1)} dynamic-slice(%a, %n), dynamic_slice_sizes={1920,24}", 1920 * 24),
        ("bf16[1920,24]{0,1:T(8,128)} dynamic-slice(%a, %n), dynamic_slice_sizes={1920,24}", 2 * 1920 * 24),
    ],
)
def test_a_fetch_is_read_once(start, size):
    done = "" if "dynamic" in start else "\n%d = bf16[1920,24]{0,1:T(8,128)S(1)} copy-done(%c)"
    assert program_of(f"{A}\n%c = {start}{done}").cost().bytes == 2 * size


def test_a_condition_is_one_of_two_branches():
    def branch(name, line):
        return f"%{name} (p: bf16[96,96]) -> bf16[96,96] {{\n  %p = bf16[96,96]{{1,0}} parameter(0)\n{line}\n}}\n"

    body = "  ROOT %r = bf16[96,96]{1,0} dot(%p, %p), lhs_contracting_dims={1}, rhs_contracting_dims={0}"
    program = program_of(
        "%q = pred[] parameter(0)\n%a = bf16[96,96]{1,0} parameter(1)\n"
        "%c = bf16[96,96]{1,0} conditional(%q, %a, %a), true_computation=%yes, false_computation=%no",
        branch("yes", "  ROOT %r = bf16[96,96]{1,0} negate(%p)") + branch("no", body),
    )
    assert (program.cost().flops, program.cost().bytes) == (2 * 96**3, 3 * 2 * 96 * 96)


# ---------------------------------------------------------------- communication

GATHER = "%g = bf16[96,96]{1,0} all-gather(%b), channel_id=1, "


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,2,4},{1,3,5}}", 3),
        ("{}", 8),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,2,2]T(0,2,1)", 2),
        ("mesh['x'=2,'y'=4] {'y'}", 4),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", 4),
        ("mesh['x'=8] {'x':(2)4}", 4),
        ("mesh['x'=2,'y'=4], device_ids=([8]T(0)) {'x'}", 2),
    ],
)
def test_groups_are_read_in_all_ways_they_are_written(groups, size):
    program = program_of(f"{B}\n{GATHER}replica_groups={groups}, dimensions={{0}}, use_global_device_ids=true")
    assert program.cost().collectives == ((Collective("all-gather", 2 * 96 * 48, size), 1.0),)


def test_communication_in_pairs_of_start_and_end_counts_once():
    wrapped = (
        "%wrapped (p: bf16[96,48]) -> bf16[12,48] {\n  %p = bf16[96,48]{1,0} parameter(0)\n"
        "  ROOT %r = bf16[12,48]{1,0} reduce-scatter(%p), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%sum\n}\n"
    )
    program = program_of(
        f"{B}\n%s = ((bf16[96,48]{{1,0}}), bf16[12,48]{{1,0}}) async-start(%b), calls=%wrapped\n"
        "%e = bf16[12,48]{1,0} async-done(%s)\n"
        "%t = (bf16[96,48]{1,0}, bf16[384,48]{1,0}) all-gather-start(%b), replica_groups=[2,4]<=[8], dimensions={0}\n"
        "%u = bf16[384,48]{1,0} all-gather-done(%t)\n"
        "%v = (bf16[96,48]{1,0}, f32[8]{0}) all-reduce(%b, %x), replica_groups={}, to_apply=%sum\n"
        "%w = bf16[96,48]{1,0} collective-permute(%b), source_target_pairs={{0,1},{1,0}}",
        wrapped,
    )
    size = 2 * 96 * 48
    assert [found for found, _ in program.cost().collectives] == [
        Collective("reduce-scatter", size, 8),
        Collective("all-gather", size, 4),
        Collective("all-reduce", size, 8),
        Collective("collective-permute", size, 2),
    ]


def test_communication_cut_up_among_products_counts_once_and_so_does_every_product():
    gather = (
        "%p = bf16[96,48]{1,0:S(1)} parameter(0)\n"
        "  %g = bf16[96,96]{1,0:S(1)} all-gather(%p), replica_groups=[4,2]<=[8]"
    )
    chain = (
        f"%one (p: bf16[96,48]) -> bf16[96,96] {{\n  {gather}\n"
        "  ROOT %r = (bf16[96,96]{1,0:S(1)}, u32[]{:S(2)}) custom-call(%g), "
        'custom_call_target="AsyncCollectiveStart"\n}\n'
        f"%async_collective_fusion.2 (p: bf16[96,48]) -> bf16[96,96] {{\n  {gather}\n"
        "  %q = bf16[1920,96]{0,1} parameter(1)\n  %w = bf16[96,96]{1,0:S(1)} parameter(2)\n"
        "  %c = bf16[1920,96]{1,0} convolution(%q, %w), dim_labels=bf_io->bf\n"
        "  ROOT %r = (bf16[1920,96]{1,0}, bf16[96,48]{1,0:S(1)}, bf16[96,96]{1,0:S(1)}) tuple(%c, %p, %g)\n}\n"
        f"%three (p: bf16[96,48]) -> bf16[96,96] {{\n  {gather}\n"
        '  ROOT %r = bf16[96,96]{1,0:S(1)} custom-call(%g), custom_call_target="AsyncCollectiveDone"\n}\n'
    )
    program = program_of(
        f"{A}\n{B}\n%x = bf16[96,96]{{1,0:S(1)}} copy-done(%y)\n"
        "%s = (bf16[96,96]{1,0:S(1)}, u32[]{:S(2)}) fusion(%b), kind=kCustom, calls=%one\n"
        "%f = (bf16[1920,96]{1,0}, bf16[96,48]{1,0}, bf16[96,96]{1,0}) fusion(%b, %a, %x), kind=kOutput, "
        "calls=%async_collective_fusion.2\n"
        "%d = bf16[96,96]{1,0:S(1)} fusion(%b), kind=kCustom, calls=%three",
        chain,
    )
    cost = program.cost()
    assert cost.collectives == ((Collective("all-gather", 2 * 96 * 48, 2), 1.0),)
    assert (cost.flops, cost.bytes) == (2 * 1920 * 96 * 96, 2 * 2 * 1920 * 96)


@pytest.mark.parametrize(
    ("kind", "group", "passed"),
    [
        ("all-gather", 4, 3 * 100),  # the last of a line hears of three others
        ("reduce-scatter", 4, 75),  # each device adds to three of four parts
        ("all-reduce", 4, 150),  # and hands them around
        ("all-to-all", 4, 100),  # two devices send half of theirs past the middle
        ("all-to-all", 8, 200),
        ("collective-permute", 2, 100),
        ("collective-broadcast", 4, 100),
    ],
)
def test_what_passes_the_busiest_link(kind, group, passed):
    cost = hlo.Cost((), ((Collective(kind, 100, group), 3.0),))
    assert cost.communication(link=10) == pytest.approx(3 * passed / 10)


def test_an_operation_takes_what_the_slower_of_units_and_memory_takes():
    cost = hlo.Cost((hlo.Operation(100, 10, 2.0), hlo.Operation(10, 100, 3.0)), ())
    assert cost.seconds(flops=100, bandwidth=10) == 2 * 1 + 3 * 10


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
