"""How much memory a run takes and how long an iteration: from its compiled programs and a rehearsed iteration.

The life of a forecast: every program of play and update is compiled for the devices (`estimate`). A program's memory
and what else is alive while it runs make the memory of its phase (`memory`); what it does, times how often a rehearsed
iteration calls it (`rehearsal`), makes the iteration's time (`forecast`). Time is a roofline's: every operation at the
pace of what limits it, communication behind computation. No run is faster; real ones take longer.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from omar_jax.accelerators import Topology
from omar_jax.experiment import Experiment
from omar_jax.model import attention, long_attention, lora
from omar_jax.model.families import tensor_shapes
from omar_jax.programs import (
    Accumulate,
    Apply,
    Call,
    Compiled,
    Decode,
    Extend,
    Score,
    compile_programs,
    describe,
    for_one_process,
    largest_calls,
    made_calls,
)
from omar_jax.rehearsal import Rehearsal


class Estimate(NamedTuple):
    """What a call takes on one device."""

    arguments: float  # bytes that it is called with
    results: float  # bytes it gives
    temporaries: float  # bytes it needs meanwhile
    code: float  # bytes of the program
    flops: float  # of matrix products; this and the following are NaN for a program too large to be compiled
    traffic: float  # bytes between the device and its memory
    sent: float  # bytes that a device gives into communication
    compute_seconds: float
    communication_seconds: float
    compiler_seconds: float | None  # the compiler's own estimate, every loop turning once

    @property
    def seconds(self) -> float:
        """At best: the longer of computation and communication, one behind the other."""
        return max(self.compute_seconds, self.communication_seconds)

    @property
    def own(self) -> float:
        """Bytes beside what it is called with."""
        return self.results + self.temporaries


def measured(compiled: Compiled, topology: Topology, steps: float) -> Estimate:
    """What a compiled program takes; its loops that data end turn `steps` times."""
    program = compiled.program
    # On the CPU the runtime lays a matrix out anew before it multiplies, which the compiler does not know of.
    scratch = program.largest_matrix() if program and topology.devices[0].platform == "cpu" else 0
    memory = (compiled.arguments, compiled.results, compiled.temporaries + scratch, compiled.code)
    if program is None:
        return Estimate(*memory, *[math.nan] * 5, None)
    cost = program.cost(steps)
    return Estimate(
        *memory,
        flops=cost.flops,
        traffic=cost.bytes,
        sent=sum(times * collective.bytes for collective, times in cost.collectives),
        compute_seconds=cost.seconds(topology.chip.flops, topology.chip.bandwidth),
        communication_seconds=cost.communication(topology.link),
        compiler_seconds=compiled.optimal_seconds,
    )


def estimate(
    run: Experiment,
    topology: Topology,
    wanted: Sequence[Call],
    steps: Mapping[Call, float],
    report: Callable[[Call, float], None],
) -> dict[Call, Estimate]:
    """What calls take, found by compiling them.

    Args:
      run: assembled for the devices.
      topology: of the devices.
      wanted: the calls.
      steps: how often the loops of a call turn that data end; see `loop_steps`.
      report: is told of every program that is compiled, and in how many seconds.
    """
    mine = for_one_process(run, topology)
    of = describe(mine, topology.devices[0])
    made = compile_programs(mine, of, topology.devices[0], wanted, report)
    return {call: measured(compiled, topology, steps.get(call, 1.0)) for call, compiled in made.items()}


# ---------------------------------------------------------------- memory


class Phase(NamedTuple):
    """The memory of one device in the worst moment of a phase, in bytes."""

    name: str
    kept: Mapping[str, float]  # what is alive all the while
    call: Call  # that takes most
    own: float  # what that takes beside

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.kept.values()) + self.own


def device_bytes(tree: Any) -> int:
    """Bytes of described arrays on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _copied_bytes(tree: Any, sources: Any) -> int:
    """Bytes on one device of those arrays that are not the ones of `sources`, leaf by leaf: other places or dtypes."""

    def own(x, source):
        is_same = x.dtype == source.dtype and x.sharding.is_equivalent_to(source.sharding, x.ndim)
        return 0 if is_same else device_bytes(x)

    return sum(jax.tree.leaves(jax.tree.map(own, tree, sources)))


def memory(run: Experiment, topology: Topology, of: Mapping[Call, Estimate]) -> list[Phase]:
    """The phases of an iteration.

    Args:
      run: assembled for the devices.
      topology: of the devices.
      of: what its calls take, see `programs.largest_calls`; phases without any are left out.
    """
    shapes = run.rollout.sampler.shapes
    placed = describe(for_one_process(run, topology), topology.devices[0])
    frozen = device_bytes(placed.frozen)
    policy = device_bytes(placed.policy)
    gradients = device_bytes(placed.trained)
    # Programs of every shape stay loaded; of those of one kind the largest stands for all.
    play_shapes = len(shapes.games) * len(shapes.transcript)
    copies = {Extend: play_shapes, Decode: play_shapes * len(shapes.asked), Apply: 1}
    copies |= dict.fromkeys((Accumulate, Score), len(run.plan.buckets))
    code = sum(
        n * max((e.code for call, e in of.items() if isinstance(call, kind)), default=0) for kind, n in copies.items()
    )
    kept = {
        "weights and optimizer": device_bytes(placed.state) + frozen,
        "reference": device_bytes(placed.reference) - frozen,
        "programs": code,
    }
    playing = kept | {"copy to play": _copied_bytes(placed.policy, lora.combine(placed.trained, placed.frozen))}
    stepping = kept | {"gradients": gradients}
    # What a call is called with and is not kept: caches, games.
    kinds: Sequence[tuple[str, Mapping[str, float], type | tuple[type, ...], float]] = (
        ("play", playing, (Extend, Decode), policy),
        ("score", kept, Score, device_bytes(placed.reference)),
        ("update", stepping, Accumulate, 2 * gradients + frozen),
        ("step", stepping, Apply, device_bytes(placed.state) + gradients),
    )
    phases = []
    for name, alive, kind, counted in kinds:
        taken = {}
        for call, e in of.items():
            if isinstance(call, kind):
                given = max(e.arguments - counted, 0)
                # When games have ended, the cache of the others is copied. Each lane has caches.
                taken[call] = run.rollout.lanes * (given + max(e.own, given)) if name == "play" else given + e.own
        if taken:
            worst = max(taken, key=taken.__getitem__)
            phases.append(Phase(name, alive, worst, taken[worst]))
    return phases


# ---------------------------------------------------------------- time


class Row(NamedTuple):
    """A program in an iteration."""

    call: Call
    times: float  # that each process calls it
    estimate: Estimate  # of one call


@dataclasses.dataclass(frozen=True)
class Forecast:
    """What an iteration takes.

    Attributes:
      phases: of memory, on one device.
      rows: its programs.
      seconds: of an iteration by phase: play, score, update.
      games: played in it.
      fitting: of them those that the layout holds.
      model_flops: multiplications and additions of its tokens with the model's matrices, in play, score and update
        together, padding, recomputation and attention not counted.
      utilisation: those of a second as a part of what all devices can do.
    """

    phases: Sequence[Phase]
    rows: Sequence[Row]
    seconds: Mapping[str, float]
    games: int
    fitting: int
    model_flops: float
    utilisation: float

    @property
    def total_seconds(self) -> float:
        """Of an iteration; NaN if a program is too large to be compiled."""
        return sum(self.seconds.values())

    @property
    def flops(self) -> float:
        """Of an iteration's matrix products on one device, padding, recomputation and attention included."""
        return sum(row.times * row.estimate.flops for row in self.rows)

    @property
    def worst(self) -> Phase:
        """The phase that takes most memory."""
        return max(self.phases, key=lambda phase: phase.total)


def loop_steps(run: Experiment, wanted: Iterable[Call], rehearsed: Rehearsal) -> dict[Call, float]:
    """How often the loops of each call turn on average that data end.

    Decoding turns once a token that is spoken, a call that is not made as often as any other. Attention in blocks turns
    once a block of keys that a block of queries sees: here all earlier ones.
    """
    turns, made = rehearsed.steps, rehearsed.decodes
    of_any = turns.total() / max(made.total(), 1)
    longest = run.model.longest_dense or attention.LONGEST_DENSE
    found = {}
    for call in wanted:
        if isinstance(call, Decode):
            found[call] = turns[call] / made[call] if made[call] else of_any
        elif isinstance(call, Accumulate | Score) and call.room.shared + call.room.seat > longest:
            blocks = math.ceil((call.room.shared + call.room.seat) / long_attention.BLOCK)
            found[call] = (blocks + 1) / 2
    return found


def model_flops(run: Experiment, rehearsed: Rehearsal, epochs: int) -> float:
    """See `Forecast`."""
    config = run.decoder_config
    matrices = sum(
        math.prod(shape) for name, shape in tensor_shapes(config).items() if len(shape) == 2 and "embedding" not in name
    )
    vocabulary = config.vocabulary * config.width
    # Forward; back to the activations; and to the weights, where they are trained.
    passes = 1 + epochs * (3 if run.model.lora is None else 2)
    update = passes * (matrices * rehearsed.tokens + vocabulary * rehearsed.actions)
    play = matrices * (rehearsed.heard + rehearsed.spoken) + vocabulary * rehearsed.actions
    return 2.0 * (update + play)


def forecast(
    run: Experiment,
    topology: Topology,
    rehearsed: Rehearsal,
    found: Mapping[Call, Estimate],
) -> Forecast:
    """Puts together what an iteration takes.

    Args:
      run: assembled for the devices.
      topology: of the devices.
      rehearsed: an iteration of it.
      found: `estimate` of `programs.largest_calls` and of any others; for calls without one, the largest of their kind
        stands, which takes no less.
    """
    largest = {type(call): found[call] for call in largest_calls(run)}
    made = made_calls(run, rehearsed, len(topology.devices) // len(topology.host))
    rows = [Row(call, times, found.get(call, largest[type(call)])) for call, times in made.items()]
    phase_of = {Extend: "play", Decode: "play", Score: "score", Accumulate: "update", Apply: "update"}
    seconds = dict.fromkeys(("play", "score", "update"), 0.0)
    for row in rows:
        seconds[phase_of[type(row.call)]] += row.times * row.estimate.seconds
    flops = model_flops(run, rehearsed, run.config.ppo.epochs)
    return Forecast(
        phases=memory(run, topology, found),
        rows=rows,
        seconds=seconds,
        games=rehearsed.games,
        fitting=rehearsed.fitting,
        model_flops=flops,
        utilisation=flops / (sum(seconds.values()) * len(topology.devices) * topology.chip.flops),
    )
