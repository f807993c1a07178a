"""What the devices that one can rent are able to do, and devices that are not there.

The life of a topology: `find("v5e:4x4")` asks libtpu, the TPUs' compiler, for devices that programs can be compiled
for but not run on; `find("local")` gives those at hand. What one of them can do stands in its maker's data sheet
(`CHIPS`); the CPU, and a device at hand that does not stand there, are measured for about a second.
"""

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies

LOCAL = "local"
GIB = 2**30
# What is measured: the matrix product of two squares of this side, and the sum of so many numbers.
_SIDE, _NUMBERS, _REPEATS = 2048, 2**26, 5


class TopologyError(ValueError):
    """Devices that there are not; the message is one line that says what would be right."""


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device can do, at best.

    Attributes:
      name: what people call it.
      memory: bytes that programs can have of it.
      flops: multiplications and additions a second in bfloat16; on a CPU in float32.
      bandwidth: bytes a second between it and its memory.
      link: bytes a second to a neighbour, in one direction.
      ring: an axis of the topology whose length is a multiple of this closes to a ring; 0 where a switch connects all.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    link: float
    ring: int = 0


# By JAX's `device_kind`. TPUs: the pages on system architecture in Cloud TPU's documentation; links of v5e and v6e are
# 4 a chip with 400 and 800 GB/s in both directions together, of v4 and v5p 6 with 300 and 600 GB/s in one. Memory is
# what their compiler lets a program have: found by compiling ever larger ones. GPUs: NVIDIA's data sheets (SXM, without
# sparsity); JAX takes three quarters of their memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
CHIPS = {
    "TPU v4": Chip("v4", int(30.75 * GIB), 275e12, 1228e9, 50e9, ring=4),
    "TPU v5 lite": Chip("v5e", int(15.75 * GIB), 197e12, 819e9, 50e9, ring=16),
    "TPU v5": Chip("v5p", int(95.73 * GIB), 459e12, 2765e9, 100e9, ring=4),
    "TPU v6 lite": Chip("v6e", int(31.24 * GIB), 918e12, 1638e9, 100e9, ring=16),
    "NVIDIA H100 80GB HBM3": Chip("H100", int(0.75 * 80e9), 989e12, 3350e9, 450e9),
    "NVIDIA H200": Chip("H200", int(0.75 * 141e9), 989e12, 4800e9, 450e9),
    "NVIDIA A100-SXM4-80GB": Chip("A100", int(0.75 * 80e9), 312e12, 2039e9, 300e9),
    "NVIDIA A100-SXM4-40GB": Chip("A100", int(0.75 * 40e9), 312e12, 1555e9, 300e9),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that train together.

    Attributes:
      devices: all of them.
      host: as many, in the same places, as one process has; programs of one process compile for these.
      chip: what each can do.
      ring: whether lines of devices close to rings.
    """

    devices: Sequence[Any]
    host: Sequence[Any]
    chip: Chip
    ring: bool

    @property
    def link(self) -> float:
        """Bytes a second that a line or ring of devices passes on."""
        return self.chip.link * (2 if self.ring else 1)


def find(topology: str) -> Topology:
    """The devices of a topology: those at hand for "local", else TPUs that are not there.

    Args:
      topology: "local", or a generation and its axes: "v5e:4x4", "v6e:2x4", "v5p:2x4x4", "v4:2x2x2".

    Raises:
      TopologyError: there is no such topology, it is not known here, or libtpu is not installed.
    """
    if topology == LOCAL:
        return Topology(jax.devices(), jax.local_devices(), at_hand(jax.local_devices()[0]), ring=False)
    right = "it must be local or a TPU's like v5e:4x4, v6e:2x4, v5p:2x4x4 or v4:2x2x2"
    match = re.fullmatch(r"(v4|v5e|v5p|v6e):(\d+x\d+(?:x\d+)?)", topology)
    if not match or (match[1] in ("v4", "v5p")) != (topology.count("x") == 2):
        raise TopologyError(f"--topology={topology} is unknown: {right}")
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(f'--topology={topology} needs the compiler of TPUs: pip install "jax[tpu]"')
    generation, axes = match[1], [int(size) for size in match[2].split("x")]
    # Up to 8 chips of v5e and v6e are in one machine, more of them in machines of 4, as are all others.
    whole = generation in ("v5e", "v6e") and axes in ([1, 1], [2, 2], [2, 4])
    host = axes if whole else [2, 2, 1][: len(axes)]
    try:
        devices = _devices(generation, axes, host)
        alone = devices if host == axes else _devices(generation, host, host)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise TopologyError(f"--topology={topology} cannot be used ({reason}): {right}") from error
    of_one = chip(devices[0])
    return Topology(devices, alone, of_one, any(size % of_one.ring == 0 for size in axes))


def _devices(generation: str, axes: Sequence[int], host: Sequence[int]) -> Sequence[Any]:
    # What libtpu would ask the machine it believes to be on, where nobody answers.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is taken hold of, so that several may compile
    options = {"chips_per_host_bounds": [*host, 1][:3], "num_slices": 1}
    if generation == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip are one device, as they are where it exists
    name = f"{generation}:{'x'.join(map(str, axes))}"
    return topologies.get_topology_desc(name, "tpu", **options).devices


def chip(device: Any) -> Chip:
    """What a device can do that need not be there.

    Raises:
      TopologyError: it is of a kind that is not known here.
    """
    if device.device_kind not in CHIPS:
        raise TopologyError(f"the device kind {device.device_kind!r} is unknown: it must be one of {', '.join(CHIPS)}")
    return CHIPS[device.device_kind]


def at_hand(device: Any) -> Chip:
    """What a device of this process can do, with the memory that JAX has of it."""
    found = chip(device) if device.device_kind in CHIPS else measured(device)
    return dataclasses.replace(found, memory=(device.memory_stats() or {}).get("bytes_limit", found.memory))


def measured(device: Any) -> Chip:
    """A device of this process, measured for about a second; a CPU that stands for several is shared among them."""
    is_cpu = device.platform == "cpu"
    sharers, scale = (jax.local_device_count(), 1) if is_cpu else (1, 4)

    def seconds(call: Callable, *arguments) -> float:
        jax.block_until_ready(call(*arguments))
        times = []
        for _ in range(_REPEATS):
            begun = time.perf_counter()
            jax.block_until_ready(call(*arguments))
            times.append(time.perf_counter() - begun)
        return min(times)

    side, count = scale * _SIDE, scale * _NUMBERS
    with jax.default_device(device):
        square = jnp.ones((side, side), jnp.float32 if is_cpu else jnp.bfloat16)
        flops = 2 * side**3 / seconds(jax.jit(jnp.matmul), square, square) / sharers
        bandwidth = 4 * count / seconds(jax.jit(jnp.sum), jnp.ones(count)) / sharers
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // sharers
    return Chip("CPU" if is_cpu else device.device_kind, memory, flops, bandwidth, link=bandwidth)
