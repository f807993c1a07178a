"""Says before a machine is rented whether a run fits on it, and how long an iteration takes at best.

    python -m omar_jax.plan --config=configs/werewolf.py:qwen3_4b --topology=v5e:4x4
    python -m omar_jax.plan --config=configs/werewolf.py                                 for the devices at hand

The programs of play and update are compiled for the devices and not run; TPUs need not be there, only their compiler:
pip install "jax[tpu]". No weights are read. It ends with status 1 if the run does not fit.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from omar_jax import catalogue, experiment, programs, settings
from omar_jax.accelerators import GIB, LOCAL, Topology, TopologyError, find
from omar_jax.command_line import define_config, parse_flags
from omar_jax.envs.base import Player
from omar_jax.forecast import Forecast, Row, estimate, forecast, loop_steps
from omar_jax.model import families, hf
from omar_jax.model.hf import ModelError
from omar_jax.rehearsal import Rehearsal, rehearse
from omar_jax.search import USABLE, Candidate, search

CONFIG = define_config()
TOPOLOGY = flags.DEFINE_string(
    "topology", LOCAL, "local for the devices at hand, or TPUs: v5e:4x4, v6e:2x4, v5p:2x4x4, v4:2x2x2."
)
QUICK = flags.DEFINE_bool(
    "quick", False, "Compile only the programs with the largest arrays: the same memory, and more time than it takes."
)
OUT = flags.DEFINE_string("out", None, "JSON file for what was found.")
SEARCH = flags.DEFINE_bool("search", False, "Look for the best meshes and the largest microbatch first.")

# What is known of the hub's models without asking it: their config.json.
SHAPES = Path(__file__).parent / "assets" / "shapes"


def describe_model(config: ConfigDict, report) -> tuple[Path, families.DecoderConfig, experiment.Chat]:
    """(folder, shape, chat) of the model, without its weights.

    A model that cannot be reached, but whose shape is known, speaks with the embedded tokenizer.

    Raises:
      ModelError: the model cannot be reached and its shape is not known.
    """
    name = config.model.source
    try:
        folder = experiment.model_folder(config, report, weights=False)
        return folder, hf.read_config(folder), experiment.read_chat(folder, config)
    except ModelError as error:
        known = SHAPES / f"{name.removeprefix('pip:').rpartition('/')[2]}.json"
        if not known.is_file():
            raise
        report(f"{error}; its shape is known, and the embedded tokenizer stands in for its own")
    shape = families.decoder_config(hf.read_json(known))
    folder = catalogue.EMBEDDED[config.environment.name]
    return folder, shape, experiment.read_chat(folder, config)


def player(config: ConfigDict) -> Player | None:
    """Who plays the rehearsal: what the policy learned from, or chance."""
    learned = config.model.source == "embedded" or config.cold_start.train
    return catalogue.player(config, config.cold_start.player) if learned else None


# ---------------------------------------------------------------- what is shown


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:.2f}"


def name_of(call: programs.Call) -> str:
    """A program and the sizes of its arrays."""
    if isinstance(call, programs.Apply):
        return "optimizer step"
    if isinstance(call, programs.Accumulate | programs.Score):
        kind = "gradient" if isinstance(call, programs.Accumulate) else "score"
        return f"{kind} {call.room.shared}+{call.room.seat} tokens"
    asked = f", {call.asked} seats" if isinstance(call, programs.Decode) else ""
    return f"{'speak' if asked else 'read'} {call.games} games of {call.room}{asked}"


def memory_table(found: Forecast, topology: Topology) -> Table:
    """The memory of every phase."""
    parts = list(dict.fromkeys(part for phase in found.phases for part in phase.kept))
    table = Table(title=f"memory in GiB, of {gib(topology.chip.memory)} a device")
    for column in ("phase", *parts, "at work", "together", "share"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in found.phases:
        kept = (gib(phase.kept[part]) if part in phase.kept else "" for part in parts)
        share = f"{phase.total / topology.chip.memory:.0%}"
        table.add_row(phase.name, *kept, gib(phase.own), gib(phase.total), share)
    return table


def time_table(found: Forecast) -> Table:
    """What every program does, on one device."""
    table = Table(title="programs, one call on one device")
    columns = ("calls", "TFLOP", "GiB moved", "GiB sent", "compute s", "send s", "XLA's own s")
    for column in ("program", *columns):
        table.add_column(column, justify="left" if column == "program" else "right")

    def cells(row: Row) -> Iterator[str]:
        of = row.estimate
        yield from (f"{row.times:.0f}", f"{of.flops / 1e12:.3f}", gib(of.traffic), gib(of.sent))
        yield from (f"{of.compute_seconds:.4f}", f"{of.communication_seconds:.4f}")
        yield "" if of.compiler_seconds is None else f"{of.compiler_seconds:.4f}"

    for row in found.rows:
        table.add_row(name_of(row.call), *cells(row))
    return table


def advice(config: ConfigDict, found: Forecast, topology: Topology) -> Iterator[str]:
    """What makes a run smaller that does not fit, the first the most promising."""
    phase, devices = found.worst, len(topology.devices)
    kept = sum(phase.kept.values())
    if kept > phase.own:
        if phase.kept.get("copy to play", 0) > kept / 2 and len(topology.host) > 1:
            yield f"--config.mesh.play=1,1,{len(topology.host)}"
        if devices > 1:
            yield f"--config.mesh.train=1,{devices},1"
        if not config.lora.rank:
            yield "--config.lora.rank=32"
            yield "--config.precision.momentum=bfloat16"
    elif phase.name == "play":
        yield f"--config.play.batch_games={(config.play.batch_games or config.play.games) // 2}"
        yield "smaller --config.play.transcript_tokens"
    else:
        if config.ppo.microbatch_games > 1:
            yield f"--config.ppo.microbatch_games={config.ppo.microbatch_games // 2}"
        if not config.model.remat:
            yield "--config.model.remat=true"
        yield "smaller --config.layout.buckets"
    yield "more devices"


def show(console: Console, config: ConfigDict, found: Forecast, topology: Topology) -> bool:
    """Prints the forecast; whether the run fits."""
    console.print(memory_table(found, topology))
    console.print(time_table(found))
    if found.fitting < found.games:
        console.print(
            f"{found.games - found.fitting} of {found.games} games are longer than the largest of config.layout.buckets"
            " or config.play.transcript_tokens and would train nothing",
        )
    each = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in found.seconds.items())
    if found.total_seconds == found.total_seconds:  # not NaN, as with a program too large to be compiled
        console.print(
            f"An iteration of {found.games} games takes {found.total_seconds:.2f} s by the roofline ({each}): "
            f"{3600 * found.games / found.total_seconds:,.0f} games an hour, {found.utilisation:.1%} of the devices' "
            "FLOP/s in model FLOPs."
        )
    room = topology.chip.memory - found.worst.total
    if room < 0:
        change = ", ".join(advice(config, found, topology))
        console.print(
            f"It does not fit: {found.worst.name} lacks {gib(-room)} GiB a device. Try, in this order: {change}."
        )
        return False
    console.print(f"It fits, with room for {gib(room)} GiB a device ({room / topology.chip.memory:.0%}).")
    return True


def show_candidate(console: Console, candidate: Candidate) -> None:
    """A line of the search."""
    took = f"{gib(candidate.memory)} GiB" + ("" if candidate.fits else f", more than {USABLE:.0%}")
    console.print(
        f"mesh.{candidate.setting}={candidate.mesh}, {candidate.games} games at once: {took}, "
        f"{1000 * candidate.seconds:.1f} ms a game"
    )


def as_json(run: experiment.Experiment, found: Forecast, topology: Topology) -> dict[str, Any]:
    """A forecast for programs; sizes in bytes, of one device."""
    meshes = {"train": run.model.mesh, "play": run.rollout.sampler.model.mesh}
    return {
        "devices": len(topology.devices),
        "chip": dataclasses.asdict(topology.chip),
        "mesh": {name: [1, 1, 1] if mesh is None else list(mesh.devices.shape) for name, mesh in meshes.items()},
        "games": found.games,
        "fitting": found.fitting,
        "microbatch_games": run.plan.microbatch_games,
        "memory": {phase.name: dict(phase.kept) | {"at work": phase.own} for phase in found.phases},
        "programs": [{"name": name_of(row.call), "calls": row.times, **row.estimate._asdict()} for row in found.rows],
        "seconds": dict(found.seconds),
        "flops": found.flops,
        "model_flops": found.model_flops,
        "utilisation": found.utilisation,
    }


# ---------------------------------------------------------------- the command


def plan(config: ConfigDict, topology: Topology, console: Console) -> bool:
    """Plans a run, prints what was found, and says whether it fits.

    Raises:
      SettingError, ModelError: the configuration cannot be used.
    """
    settings.check(config)

    def report(line: str) -> None:
        console.print(line, markup=False)

    folder, shape, chat = describe_model(config, report)

    def assemble(config, report=lambda line: None):
        return experiment.assemble(config, folder, shape, chat, topology.devices, report)

    def rehearsed_on(run: experiment.Experiment) -> Rehearsal:
        return rehearse(run.rollout, run.plan, config.seed, player(config))

    if SEARCH.value:
        run = assemble(config)
        given = config
        config = search(config, assemble, topology, rehearsed_on(run), lambda each: show_candidate(console, each))
        changed = settings.changes(given, config)
        report("the best that was found: " + (" ".join(f"--config.{change}" for change in changed) or "as given"))
    run = assemble(config, report)
    rehearsed = rehearsed_on(run)
    calls = programs.largest_calls(run)
    if not QUICK.value:
        made = programs.made_calls(run, rehearsed, len(topology.devices) // len(topology.host))
        calls = sorted({*calls, *made}, key=name_of)
    report(f"compiling {len(calls)} programs for {len(topology.devices)} x {topology.chip.name}; none is run")
    found = estimate(
        run,
        topology,
        calls,
        loop_steps(run, calls, rehearsed),
        lambda call, seconds: report(f"  {name_of(call)}: {seconds:.0f} s"),
    )
    made = forecast(run, topology, rehearsed, found)
    if OUT.value:
        Path(OUT.value).write_text(json.dumps(as_json(run, made, topology), indent=1) + "\n")
    return show(console, config, made, topology)


def console() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    made = Console(highlight=False, soft_wrap=True)
    return made if made.is_terminal else Console(highlight=False, soft_wrap=True, width=120)


def main(argv: list[str]) -> None:
    """Plans, and puts what the user can mend into one line."""
    del argv
    try:
        if TOPOLOGY.value != LOCAL:
            jax.config.update("jax_platforms", "cpu")  # the devices at hand are not asked
        fits = plan(CONFIG.value, find(TOPOLOGY.value), console())
    except (*experiment.USER_ERRORS, TopologyError) as error:
        sys.exit(f"omar_jax: {error}")
    sys.exit(0 if fits else 1)


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    app.run(main, flags_parser=parse_flags)
