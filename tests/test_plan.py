"""The command that plans: for the devices at hand, and for TPUs where their compiler is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import pytest

from configs.werewolf import get_config
from omar_jax import search, settings
from omar_jax.meshes import MeshShape

ROOT = Path(__file__).parents[1]


def plan(*arguments, **environment):
    """`python -m omar_jax.plan` with these arguments, run to its end."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, "-m", "omar_jax.plan", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    """The same in a process that has everything imported."""
    with commands.of("omar_jax.plan", tmp_path_factory.mktemp("cache")) as give:
        yield give


SMALL = (
    *("--config=configs/werewolf.py:smoke", "--quick", "--config.layout.buckets=((184, 208, 64, 12),)"),
    *("--config.play.transcript_tokens=(256,)", "--config.play.games=8", "--config.ppo.microbatch_games=4"),
)


def test_a_plan_for_the_devices_at_hand(planner, tmp_path):
    done = planner(*SMALL, f"--out={tmp_path / 'plan.json'}")
    assert done.status == 0, done
    assert "compiling 5 programs for 1 x CPU; none is run" in done.out
    assert "It fits, with room for " in done.out
    found = json.loads((tmp_path / "plan.json").read_text())
    assert (found["devices"], found["mesh"]["train"], found["games"]) == (1, [1, 1, 1], 8)
    assert set(found["memory"]) == {"play", "score", "update", "step"}
    assert set(found["seconds"]) == {"play", "score", "update"} and min(found["seconds"].values()) > 0
    assert 0 < found["model_flops"] < found["flops"]


@pytest.mark.slow  # 40 s
def test_the_search_tries_meshes_and_names_the_best(tmp_path):
    devices = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    done = plan(*SMALL, "--search", f"--out={tmp_path / 'plan.json'}", XLA_FLAGS=devices)
    assert done.returncode == 0, done.stderr
    for tried in ("mesh.train=2,1,1, 8 games", "mesh.train=1,2,1, 8 games", "mesh.train=1,1,2, 8 games"):
        assert f"{tried} at once: " in done.stdout
    assert "mesh.play=2,1,1, 8 games" in done.stdout
    assert "the best that was found: --config." in done.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["microbatch_games"] == 8


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--topology=v9:4x4",), "--topology=v9:4x4 is unknown: it must be local or a TPU's like v5e:4x4"),
        (("--topology=v5p:4x4",), "--topology=v5p:4x4 is unknown"),
        (("--config.ppo.epochs=0",), "config.ppo.epochs=0 cannot be used: it must be at least 1"),
        (("--config.model.source=nobody/knows",), "model.source='nobody/knows'"),
    ],
)
def test_mistakes_are_one_line(planner, arguments, line):
    done = planner("--config=configs/werewolf.py:smoke", *arguments)
    assert done.status == 1
    assert done.err.count("\n") == 1 and line in done.err


def test_the_meshes_looked_at_split_everything_evenly():
    found = list(search.splits(8, 2, 16))
    assert found == [MeshShape(*sizes) for sizes in ((8, 1, 1), (1, 8, 1), (4, 1, 2), (1, 4, 2))]
    assert list(search.splits(8, 1, 4)) == []  # four games are not split over eight
    assert list(search.splits(1, 4, 3)) == [MeshShape(1, 1, 1)]


def test_changes_are_named_as_settings():
    before = get_config("smoke")
    after = before.copy_and_resolve_references()
    after.mesh.train, after.ppo.microbatch_games = "1,8,1", 4
    assert settings.changes(before, after) == ["mesh.train=1,8,1", "ppo.microbatch_games=4"]


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPUs' compiler is missing: jax[tpu]")
def test_gemma_trains_on_a_slice_of_v5e_that_is_not_there(tmp_path):
    settings = ("--config.ppo.microbatch_games=4", "--config.play.batch_eighths=(8,)", "--quick")
    done = plan(
        *("--config=configs/werewolf.py:gemma3_270m", "--topology=v5e:2x2", *settings),
        f"--out={tmp_path / 'plan.json'}",
        JAX_EXEC_TIME_OPTIMIZATION_EFFORT="-1",
    )
    assert done.returncode == 0, done.stderr
    assert "compiling 5 programs for 4 x v5e" in done.stdout and "It fits" in done.stdout
    found = json.loads((tmp_path / "plan.json").read_text())
    assert found["mesh"] == {"train": [4, 1, 1], "play": [4, 1, 1]}
    frozen = 2 * 268e6  # bfloat16
    assert frozen < found["memory"]["update"]["weights and optimizer"] < 1.3 * frozen


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPUs' compiler is missing: jax[tpu]")
def test_what_does_not_fit_is_said_with_what_to_change():
    sizes = ("--config.play.games=4096", "--config.play.batch_eighths=(8,)", "--config.ppo.minibatch_games=4096")
    done = plan(
        *("--config=configs/werewolf.py:smoke", "--topology=v5e:1x1", "--quick", *sizes),
        *("--config.ppo.microbatch_games=4096", "--config.cold_start.minibatch_games=4096"),
        "--config.cold_start.games_at_once=4096",
        JAX_EXEC_TIME_OPTIMIZATION_EFFORT="-1",
    )
    assert done.returncode == 1, done.stderr
    assert "It does not fit: update lacks " in done.stdout
    assert "Try, in this order: --config.ppo.microbatch_games=2048" in done.stdout
