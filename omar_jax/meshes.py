"""Which meshes a configuration asks for on the devices at hand.

The life of a mesh: `config.mesh.train` and `config.mesh.play` give its sizes, or "auto", which splits weights no
further than memory demands and games as far as they go (`automatic`); the sizes are checked against the devices and
the batches; what was chosen is reported. The update's mesh has all devices, play's those of one process.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh
from ml_collections import ConfigDict

from omar_jax.accelerators import CHIPS
from omar_jax.model.config import DecoderConfig
from omar_jax.model.families import tensor_shapes
from omar_jax.settings import SettingError
from omar_jax.sharding import AXES, by_process


class MeshError(ValueError):
    """A mesh that cannot be used; the message says what would be right."""


class MeshShape(NamedTuple):
    """How many devices each axis has."""

    data: int
    fsdp: int
    tensor: int

    @property
    def games(self) -> int:
        """Into how many parts the games are split."""
        return self.data * self.fsdp

    @property
    def devices(self) -> int:
        """All of them."""
        return self.data * self.fsdp * self.tensor

    def __str__(self) -> str:
        return f"{self.data},{self.fsdp},{self.tensor}"


def parse(setting: str, num_devices: int) -> MeshShape:
    """The mesh of a setting like "2,4,1"; -1 stands for all devices that are left.

    Raises:
      MeshError: these are not three sizes whose product is the number of devices.
    """
    right = f"data,fsdp,tensor whose product is the number of devices, {num_devices}, as in '{num_devices},1,1'"
    try:
        sizes = [int(size) for size in setting.split(",")]
    except ValueError as error:
        raise MeshError(right) from error
    if sizes.count(-1) == 1:
        rest = -np.prod(sizes)
        sizes[sizes.index(-1)] = num_devices // rest if rest > 0 else 0
    if len(sizes) != 3 or min(sizes) < 1 or np.prod(sizes) != num_devices:
        raise MeshError(right)
    return MeshShape(*sizes)


def make_mesh(shape: MeshShape, devices: Sequence[Any]) -> Mesh | None:
    """The mesh of these devices, neighbours next to each other where the machine has neighbours; None for one."""
    if shape.devices == 1:
        return None
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def make_play_mesh(shape: MeshShape, devices: Sequence[Any]) -> Mesh | None:
    """The mesh of one process's devices in the order of their numbers, which `to_play` relies on; None of one."""
    if shape.devices == 1:
        return None
    return Mesh(np.asarray(by_process(devices)).reshape(shape), AXES)


def automatic(num_devices: int, games: int, weights: int, memory: int | None, split_first: str) -> MeshShape:
    """A sensible mesh: the weights are split only as far as they must be, the games as far as they can be.

    Args:
      num_devices: of the mesh.
      games: that are computed together; must divide by data x fsdp.
      weights: bytes that are kept for the parameters, unsplit.
      memory: bytes of a device; None if that is unknown or does not matter.
      split_first: what splits weights that do not fit into a quarter of the memory (they may lie there twice, to
        update and to play): "fsdp", or "tensor", which suits decoding, where every gathered weight would be used for
        a handful of tokens.
    """
    parts = [size for size in range(1, num_devices + 1) if num_devices % size == 0]
    split = next((size for size in parts if memory is None or weights / size <= memory / 4), num_devices)
    if split_first == "tensor":
        return MeshShape(num_devices // split, 1, split)
    over_games = max(size for size in parts if games % size == 0)
    fsdp = next(size for size in parts if over_games % size == 0 and (size >= split or size == over_games))
    # What the games cannot be split over is left to the tensors.
    return MeshShape(over_games // fsdp, fsdp, num_devices // over_games)


class Meshes(NamedTuple):
    """The meshes of a run, None where one device does it all, and how many processes take part."""

    update: Mesh | None
    play: Mesh | None
    processes: int


def choose(
    config: ConfigDict,
    decoder: DecoderConfig,
    compute: np.dtype,
    devices: Sequence[Any],
    report: Callable[[str], None],
) -> Meshes:
    """The meshes that the configuration asks for on these devices; `report` is told which.

    Args:
      config: the run's.
      decoder: its model's.
      compute: the dtype that it computes in.
      devices: of all processes, also of a topology that is not there.
      report: is told what was chosen, where there is a choice.

    Raises:
      SettingError: the devices or the games cannot be split like that.
    """
    mine = [device for device in devices if device.process_index == jax.process_index()]
    processes = len(devices) // len(mine)
    weights = sum(math.prod(shape) for shape in tensor_shapes(decoder).values())
    # Frozen weights; or float32 ones, their gradients and both moments, and the reference policy.
    kept = weights * (compute.itemsize if config.lora.rank else 4 * 4 + compute.itemsize)
    chip = CHIPS.get(devices[0].device_kind)
    memory = chip and chip.memory
    games = config.ppo.microbatch_games
    update = _shape(config, "train", automatic(len(devices), games, kept, memory, "fsdp"))
    play = _shape(config, "play", automatic(len(mine), games, weights * compute.itemsize, memory, "tensor"))
    if games % update.games:
        raise SettingError(
            f"config.ppo.microbatch_games={games} cannot be used: it must be a multiple of {update.games}, the parts "
            f"that config.mesh.train={update} splits games into"
        )
    if config.play.games % processes:
        raise SettingError(
            f"config.play.games={config.play.games} cannot be used: it must be a multiple of {processes}, the number "
            "of processes"
        )
    if len(devices) > 1:
        report(
            f"{len(devices)} devices in {processes} processes: data,fsdp,tensor = {update} to update, {play} to play"
        )
    for name, shape in (("train", update), ("play", play)):
        if decoder.kv_heads % shape.tensor:
            report(
                f"config.mesh.{name}: tensor={shape.tensor} does not divide the {decoder.kv_heads} key/value heads, "
                "which are therefore the same on all of it"
            )
    return Meshes(make_mesh(update, devices), make_play_mesh(play, mine), processes)


def _shape(config: ConfigDict, name: str, auto: MeshShape) -> MeshShape:
    setting = config.mesh[name]
    try:
        return auto if setting == "auto" else parse(setting, auto.devices)
    except MeshError as error:
        raise SettingError(f"config.mesh.{name}={setting!r} cannot be used: it must be {error}") from error
