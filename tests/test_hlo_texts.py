"""What programs do that other devices' compilers write: their text by hand, in the manner of TPUs and GPUs."""

import pytest

from omar_jax import hlo
from omar_jax.hlo import Collective, Program

F32 = 4  # bytes


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


BODY = """
%body (p: (s32[], bf16[96,96], s32[])) -> (s32[], bf16[96,96], s32[]) {
  %p = (s32[], bf16[96,96]{1,0}, s32[]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = bf16[96,96]{1,0} get-tuple-element(%p), index=1
  %n = s32[]{:T(128)} get-tuple-element(%p), index=2
  %y = bf16[96,96]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %copied = s32[]{:T(128)} copy(%i)
  %next = s32[]{:T(128)} add(%copied, STEP)
  ROOT %r = (s32[], bf16[96,96]{1,0}, s32[]) tuple(%next, %y, LAST)
}
%condition (p: (s32[], bf16[96,96], s32[])) -> pred[] {
  %p = (s32[], bf16[96,96]{1,0}, s32[]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %n = s32[]{:T(128)} get-tuple-element(%p), index=2
  %most = s32[]{:T(128)} constant(8)
  ROOT %r = pred[]{:T(512)} compare(%i, BOUND), direction=LT
}"""


@pytest.mark.parametrize(
    ("last", "step", "bound", "third", "turns"),
    [
        ("%n", "%n", "%most", "constant(1)", 7),
        ("%n", "%n", "%most", "constant(2)", 4),  # 1, 3, 5, 7
        ("%n", "%i", "%n", "constant(6)", 5),  # nothing is known of the step
        ("%n", "%n", "%n", "parameter(1)", 50),  # data are the bound
        ("%next", "%i", "%n", "constant(6)", 50),  # the bound changes
    ],
)
def test_a_loop_s_turns_are_told_by_its_counter(last, step, bound, third, turns):
    program = program_of(
        f"%one = s32[]{{:T(128)}} constant(1)\n%a = bf16[96,96]{{1,0}} parameter(0)\n%k = s32[]{{:T(128)}} {third}\n"
        "%t = (s32[], bf16[96,96]{1,0}, s32[]) tuple(%one, %a, %k)\n"
        "%w = (s32[], bf16[96,96]{1,0}, s32[]) while(%t), condition=%condition, body=%body",
        BODY.replace("STEP", step).replace("LAST", last).replace("BOUND", bound),
    )
    assert program.cost(steps=50).flops == turns * 2 * 96**3


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
