"""The programs of a run, compiled for its devices and never run: for devices that are there, and for TPUs that are not.

The life of a program: the shapes of all weights and arrays are worked out and described with the places they would
have on the devices (`describe`); nothing is loaded or allocated. A call of play or update is traced on them, compiled,
and what XLA says of its memory is kept with its text (`compile_programs`), from which `hlo` reads what it does.
"""

import concurrent.futures
import dataclasses
import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from omar_jax import layout, sharding
from omar_jax.accelerators import Topology
from omar_jax.experiment import Experiment, initial_params
from omar_jax.hlo import Program
from omar_jax.model import lora
from omar_jax.model.decoder import Decoder, convert
from omar_jax.rehearsal import Decode, Extend, Rehearsal
from omar_jax.sampler import nobody_asked, nothing_said
from omar_jax.update import nothing_to_learn

# The programs of the update by name and the sizes of their arrays; those of play are `Extend` and `Decode`. No tuples:
# those of different classes would be equal.


@dataclasses.dataclass(frozen=True, order=True)
class Accumulate:
    """A call of `Learner.accumulate`: the gradients of a microbatch."""

    room: layout.Sizes


@dataclasses.dataclass(frozen=True, order=True)
class Score:
    """A call of `Learner.log_probs`: the reference policy's."""

    room: layout.Sizes


@dataclasses.dataclass(frozen=True, order=True)
class Apply:
    """A call of `Learner.apply`: an optimizer step."""


# Bytes; compilers go deep into large programs.
STACK = 2**28

Call = Accumulate | Score | Apply | Extend | Decode


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A program as the compiler made it.

    Attributes:
      arguments: bytes a device that it is called with.
      results: bytes a device of what it gives, without what lies where donated arguments lay.
      temporaries: bytes a device that it needs while it runs.
      code: bytes a device of the program itself, which stays in memory on TPUs.
      program: what it does; None if it is too large to be compiled, and then all its memory is in `temporaries`.
      optimal_seconds: the compiler's own estimate with every loop turning once; None if it gives none.
    """

    arguments: int
    results: int
    temporaries: int
    code: int
    program: Program | None
    optimal_seconds: float | None


class Described(NamedTuple):
    """The arrays of a run by their shapes, each with the place it has on the devices."""

    trained: Any
    frozen: Any  # None where everything is trained
    state: Any  # `trained`, the optimizer's and the number of updates
    reference: Any  # the whole policy; it shares `frozen`
    policy: Any  # the whole policy, where it plays


def for_one_process(run: Experiment, topology: Topology) -> Experiment:
    """The run with play on `topology.host`: the compiler takes no part of a topology, so play has one of its own."""
    sampler = run.rollout.sampler
    mesh = sampler.model.mesh
    if mesh is None or len(topology.host) == len(topology.devices):
        return run
    host = Mesh(np.asarray(sharding.by_process(topology.host)).reshape(mesh.devices.shape), mesh.axis_names)
    sampler = dataclasses.replace(sampler, model=dataclasses.replace(sampler.model, mesh=host))
    return dataclasses.replace(run, rollout=run.rollout.spoken_by(sampler))


def describe(run: Experiment, device: Any) -> Described:
    """The weights of a run.

    Args:
      run: assembled for the devices.
      device: the only one, or any of them.
    """
    precision, adapters, mesh = run.config.precision, run.model.lora, run.model.mesh
    kept = run.dtype(precision.frozen if adapters else precision.params)

    def weights():
        params = convert(initial_params(Decoder(run.decoder_config), 0), kept)
        return lora.split(lora.add(params, adapters, 0) if adapters else params, adapters)

    def place(tree, mesh):
        if mesh is None:
            return _on(tree, SingleDeviceSharding(device))
        return sharding.described(tree, mesh, run.decoder_config.kv_heads)

    trained, frozen = jax.eval_shape(weights)
    combined = lora.combine(trained, frozen)
    copied = jax.eval_shape(
        lambda: convert(_zeros(trained), run.dtype(precision.frozen if frozen is None else "float32"))
    )
    policy = jax.eval_shape(lambda: convert(_zeros(combined), run.model.dtype))
    state = jax.eval_shape(run.learner.create, trained)
    return Described(
        trained=place(trained, mesh),
        frozen=place(frozen, mesh),
        state=place(state, mesh),
        reference=place(lora.combine(copied, frozen), mesh),
        policy=place(policy, run.rollout.sampler.model.mesh),
    )


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _on(tree: Any, place: Any) -> Any:
    """Arrays or shapes as shapes at a place."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=place), tree)


def _lowered(run: Experiment, of: Described, device: Any, call: Call) -> jax.stages.Lowered:
    """The program of a call, for its devices."""
    learner, sampler, plan = run.learner, run.rollout.sampler, run.plan
    update, play = run.model.mesh, sampler.model.mesh

    def games(tree, mesh, *axes):
        place = SingleDeviceSharding(device) if mesh is None else NamedSharding(mesh, P(sharding.GAMES, *axes))
        return _on(tree, place)

    number = jax.ShapeDtypeStruct((), jnp.float32)
    if isinstance(call, Apply):
        return learner.apply.lower(learner, of.state, of.trained)
    if isinstance(call, Accumulate | Score):
        batch = games(layout.empty(plan.microbatch_games, call.room, plan.legal_width), update)
        if isinstance(call, Score):
            return learner.log_probs.lower(learner, of.reference, batch, number)
        targets = games(nothing_to_learn(plan.microbatch_games, call.room), update)
        return learner.accumulate.lower(learner, of.trained, of.trained, of.frozen, batch, targets, number, number)
    cache = jax.eval_shape(lambda: sampler.grow(sampler.empty(call.games), call.room))
    heads = sharding.over_heads(play, run.decoder_config.kv_heads)
    cache = jax.tree.map(lambda x: games(x, play, *([heads] * (x.ndim == 4))), cache)
    if isinstance(call, Extend):
        return sampler.extend.lower(sampler, of.policy, cache, nothing_said(call.games, sampler.shapes))
    key = jax.eval_shape(lambda: sampler.key(0))
    ask = nobody_asked(call.games, call.asked, sampler.shapes)
    return sampler.decode.lower(sampler, of.policy, cache, ask, key, number)


def largest_calls(run: Experiment) -> list[Call]:
    """The calls with the largest arrays of their kind: they decide what fits."""
    shapes, largest = run.rollout.sampler.shapes, run.plan.buckets[-1]
    games, room, asked = shapes.games[0], shapes.transcript[-1], shapes.asked[-1]
    return [Extend(games, room), Decode(games, room, asked), Score(largest), Accumulate(largest), Apply()]


def made_calls(run: Experiment, rehearsed: Rehearsal, processes: int) -> dict[Call, float]:
    """How often each call is made in an iteration, by each of the processes."""
    ppo = run.config.ppo
    made: dict[Call, float] = {}
    for counts in (rehearsed.extends, rehearsed.decodes):
        made |= {call: counts[call] / processes for call in sorted(counts)}
    for room, count in sorted(rehearsed.microbatches.items()):
        made[Score(room)] = count
        made[Accumulate(room)] = ppo.epochs * count
    made[Apply()] = ppo.epochs * run.plan.steps(rehearsed.fitting)
    return made


def compile_programs(
    run: Experiment, of: Described, device: Any, calls: Iterable[Call], report: Callable[[Call, float], None]
) -> dict[Call, Compiled]:
    """Compiles the programs of these calls, several at once; nothing is run.

    Args:
      run: assembled for the devices.
      of: `describe(run, device)`.
      device: the only one, or any of them.
      calls: what to compile.
      report: is told of every program that is compiled, and in how many seconds.
    """

    def compiled(call):
        begun = time.perf_counter()
        found = _compiled(_lowered(run, of, device, call))
        report(call, time.perf_counter() - begun)
        return found

    calls = list(calls)
    threading.stack_size(STACK)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(calls, pool.map(compiled, calls), strict=True))


# What the TPUs' compiler says of a program that no memory of theirs can hold.
_TOO_LARGE = re.compile(r"\(([\d.]+)([KMGT])\) exceeds available|Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm")


def _compiled(lowered: jax.stages.Lowered) -> Compiled:
    try:
        made = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        found = _TOO_LARGE.search(str(error))
        if not found:
            raise
        number, unit = filter(None, found.groups())
        return Compiled(0, 0, int(float(number) * 1024 ** (1 + "KMGT".index(unit))), 0, None, None)
    memory, costs = made.memory_analysis(), made.cost_analysis()
    seconds = costs.get("optimal_seconds", 0)
    return Compiled(
        arguments=memory.argument_size_in_bytes,
        results=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        program=Program(made.as_text()),
        optimal_seconds=seconds if seconds > 0 else None,
    )
