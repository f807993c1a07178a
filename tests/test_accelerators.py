"""Topologies: how many devices and machines they are, what a device can do, and what is refused."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from omar_jax import accelerators
from omar_jax.accelerators import CHIPS, GIB, Chip, Topology, TopologyError

ROOT = Path(__file__).parents[1]
RIGHT = "it must be local or a TPU's like v5e:4x4, v6e:2x4, v5p:2x4x4 or v4:2x2x2"


def stand_in(kind, platform="gpu", **stats):
    """A device that is not there."""
    return SimpleNamespace(device_kind=kind, platform=platform, memory_stats=lambda: stats or None)


@pytest.fixture
def in_no_time(monkeypatch):
    monkeypatch.setattr(accelerators, "_SIDE", 64)
    monkeypatch.setattr(accelerators, "_NUMBERS", 2**12)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "topology",
    [
        *("", "v5e", "v5e:", "v5e:4", "v5e:4x", "v5e:axb", "v5e:-2x2", "v7:2x2", "V5E:2x2", "H100", "Local"),
        *("v5e:2x2x2", "v6e:2x2x1", "v5p:2x2", "v4:4x4", "v4:2x2x2x2"),  # the wrong number of axes
    ],
)
def test_topologies_that_are_none_are_one_line(topology):
    with pytest.raises(TopologyError) as caught:
        accelerators.find(topology)
    assert str(caught.value) == f"--topology={topology} is unknown: {RIGHT}"


def test_tpus_need_their_compiler(monkeypatch):
    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError) as caught:
        accelerators.find("v5e:4x4")
    assert str(caught.value) == '--topology=v5e:4x4 needs the compiler of TPUs: pip install "jax[tpu]"'


def test_what_the_compiler_refuses_is_one_line(monkeypatch):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("no such layout\nand much more")

    monkeypatch.setattr(accelerators.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(accelerators, "_devices", refuse)
    with pytest.raises(TopologyError) as caught:
        accelerators.find("v5e:3x5")
    assert str(caught.value) == f"--topology=v5e:3x5 cannot be used (no such layout): {RIGHT}"


def test_what_is_not_there_must_be_known():
    with pytest.raises(TopologyError) as caught:
        accelerators.chip(stand_in("TPU v99", "tpu"))
    assert str(caught.value) == f"the device kind 'TPU v99' is unknown: it must be one of {', '.join(CHIPS)}"


# ---------------------------------------------------------------- devices at hand


def test_local_are_the_devices_at_hand(in_no_time):
    found = accelerators.find("local")
    assert (found.devices, found.host) == (jax.devices(), jax.local_devices())
    assert found.chip.name == "CPU"
    assert not found.ring and found.link == found.chip.link


def test_a_cpu_is_measured():
    """Between a tenth of a core of an old laptop and the largest servers."""
    found = accelerators.measured(jax.devices()[0])
    assert found.name == "CPU"
    assert GIB < found.memory < 2**14 * GIB
    assert 1e9 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13


def test_devices_that_are_one_cpu_share_it(in_no_time, monkeypatch):
    monkeypatch.setattr(accelerators, "_REPEATS", 50)
    alone = accelerators.measured(jax.devices()[0])
    monkeypatch.setattr(jax, "local_device_count", lambda: 1000)
    shared = accelerators.measured(jax.devices()[0])
    assert shared.memory == alone.memory // 1000
    assert shared.flops < alone.flops / 10
    assert shared.bandwidth == shared.link < alone.bandwidth / 10


def test_an_accelerator_at_hand_has_the_memory_that_jax_has_of_it():
    known = CHIPS["NVIDIA H200"]
    found = accelerators.at_hand(stand_in("NVIDIA H200", bytes_limit=120 * GIB))
    assert found.memory == 120 * GIB != known.memory
    assert (found.name, found.flops, found.bandwidth, found.link) == ("H200", known.flops, known.bandwidth, known.link)
    assert accelerators.at_hand(stand_in("NVIDIA H200")) == known


def test_an_unknown_accelerator_at_hand_is_measured(in_no_time, monkeypatch):
    monkeypatch.setattr(jax, "default_device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(jax, "local_device_count", lambda: pytest.fail("it is shared with nobody"))
    found = accelerators.at_hand(stand_in("NVIDIA Z900", bytes_limit=7 * GIB))
    assert (found.name, found.memory) == ("NVIDIA Z900", 7 * GIB)
    assert found.flops > 0 and found.bandwidth == found.link > 0


def test_a_ring_is_passed_along_both_ways():
    chip = Chip("c", 1, 1.0, 1.0, link=3.0)
    assert Topology([], [], chip, ring=False).link == 3.0
    assert Topology([], [], chip, ring=True).link == 6.0


# ---------------------------------------------------------------- TPUs that are not there

DRIVER = """
import json, sys
import jax
from omar_jax import accelerators

for topology in sys.argv[1:]:
    found = accelerators.find(topology)
    assert all(device.process_index == 0 for device in found.host)
    processes = {device.process_index for device in found.devices}
    print(json.dumps([len(found.devices), len(found.host), len(processes), found.chip.name, found.ring]))
try:
    accelerators.find("v5e:3x5")
except accelerators.TopologyError as error:
    print(json.dumps(str(error)))
"""
TPUS = {  # chips, of them in one machine, machines, name, ring
    "v5e:1x1": [1, 1, 1, "v5e", False],
    "v5e:2x2": [4, 4, 1, "v5e", False],
    "v5e:2x4": [8, 8, 1, "v5e", False],
    "v5e:4x4": [16, 4, 4, "v5e", False],
    "v5e:8x16": [128, 4, 32, "v5e", True],
    "v6e:2x4": [8, 8, 1, "v6e", False],
    "v6e:16x16": [256, 4, 64, "v6e", True],
    "v5p:2x2x1": [4, 4, 1, "v5p", False],
    "v5p:2x4x4": [32, 4, 8, "v5p", True],
    "v4:2x2x2": [8, 4, 2, "v4", False],
    "v4:2x2x4": [16, 4, 4, "v4", True],
}


def test_tpus_that_are_not_there_are_counted_by_machines():
    """In another process: their compiler stays in the one that asks it."""
    pytest.importorskip("libtpu")
    # The packages of this process, wherever they lie.
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": paths}
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", DRIVER, *TPUS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    *found, refused = map(json.loads, done.stdout.splitlines())
    assert dict(zip(TPUS, found, strict=True)) == TPUS
    assert refused.startswith("--topology=v5e:3x5 cannot be used (") and refused.endswith(f"): {RIGHT}")
    assert "\n" not in refused
