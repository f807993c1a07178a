"""Which meshes and which microbatch make an iteration shortest on given devices, and still fit.

The life of a search: for every way to split the update over the devices, the largest microbatch is looked for whose
gradient fits; among those that fit, what a game costs decides. The meshes of play are compared by what a call of
decoding takes. Programs are compiled for it, and none is run.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ml_collections import ConfigDict

from omar_jax import programs
from omar_jax.accelerators import Topology
from omar_jax.experiment import Experiment
from omar_jax.forecast import estimate, loop_steps, memory
from omar_jax.meshes import MeshShape
from omar_jax.rehearsal import Rehearsal

# Of a device's memory; the rest is left to programs of other sizes and to what the compiler does not count.
USABLE = 0.92


class Candidate(NamedTuple):
    """A way to split that was looked at."""

    setting: str  # "train" or "play": of `config.mesh`
    mesh: MeshShape
    games: int  # of a microbatch, or that one process plays at once
    memory: float  # bytes of a device
    seconds: float  # of a game's gradient, or of its part of a call of decoding
    fits: bool


def splits(num_devices: int, kv_heads: int, most_games: int) -> Iterator[MeshShape]:
    """The meshes worth looking at: heads split evenly or not at all, weights over all that is left or not at all."""
    for tensor in (size for size in range(1, num_devices + 1) if num_devices % size == 0 and kv_heads % size == 0):
        rest = num_devices // tensor
        for fsdp in dict.fromkeys((1, rest)):
            if most_games % rest == 0:
                yield MeshShape(rest // fsdp, fsdp, tensor)


def search(
    config: ConfigDict,
    assemble: Callable[[ConfigDict], Experiment],
    topology: Topology,
    rehearsed: Rehearsal,
    report: Callable[[Candidate], None],
) -> ConfigDict:
    """The configuration with the best meshes and the largest microbatch that were found; as given where none fits.

    Args:
      config: the run's.
      assemble: a configuration as a run on the topology's devices.
      topology: of the devices.
      rehearsed: an iteration of it.
      report: is told of every candidate.
    """
    config = config.copy_and_resolve_references()
    run = assemble(config)
    kv_heads = run.decoder_config.kv_heads
    training = []
    for mesh in splits(len(topology.devices), kv_heads, config.ppo.minibatch_games):
        for candidate in _of_update(config, mesh, assemble, topology, rehearsed):
            report(candidate)
            training.append(candidate)
            if candidate.fits:
                break
    if best := _best(training):
        config.mesh.train, config.ppo.microbatch_games = str(best.mesh), best.games
    playing = []
    for mesh in splits(len(topology.host), kv_heads, run.rollout.sampler.shapes.games[0]):
        playing.append(_of_play(config, mesh, assemble, topology, rehearsed))
        report(playing[-1])
    if best := _best(playing):
        config.mesh.play = str(best.mesh)
    return config


def _best(candidates: list[Candidate]) -> Candidate | None:
    return min((each for each in candidates if each.fits), key=lambda each: each.seconds, default=None)


def _of_update(
    config: ConfigDict,
    mesh: MeshShape,
    assemble: Callable[[ConfigDict], Experiment],
    topology: Topology,
    rehearsed: Rehearsal,
) -> Iterator[Candidate]:
    """Ever smaller microbatches that the mesh splits evenly."""
    games = config.ppo.minibatch_games
    while games % mesh.games == 0:
        changed = config.copy_and_resolve_references()
        changed.mesh.train, changed.ppo.microbatch_games = str(mesh), games
        run = assemble(changed)
        yield _candidate("train", mesh, games, run, topology, programs.Accumulate(run.plan.buckets[-1]), rehearsed)
        if games % 2:
            return
        games //= 2


def _of_play(
    config: ConfigDict,
    mesh: MeshShape,
    assemble: Callable[[ConfigDict], Experiment],
    topology: Topology,
    rehearsed: Rehearsal,
) -> Candidate:
    changed = config.copy_and_resolve_references()
    changed.mesh.play = str(mesh)
    run = assemble(changed)
    shapes = run.rollout.sampler.shapes
    games = shapes.games[0]
    call = programs.Decode(games, shapes.transcript[-1], shapes.asked[-1])
    return _candidate("play", mesh, games, run, topology, call, rehearsed)


def _candidate(setting, mesh, games, run, topology, call, rehearsed) -> Candidate:
    steps = loop_steps(run, [call], rehearsed)
    of = estimate(run, topology, [call], steps, report=lambda call, seconds: None)
    [phase] = memory(run, topology, of)
    fits = phase.total <= USABLE * topology.chip.memory
    seconds = of[call].seconds / games
    return Candidate(setting, mesh, games, phase.total, math.inf if math.isnan(seconds) else seconds, fits)
