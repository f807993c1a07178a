"""The whole run, as users start it: killed or stopped, and continued, it ends bit for bit like one left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from omar_jax import experiment, workdirs
from omar_jax.checkpoint import Checkpoints

ITERATIONS = 7
# What depends on the machine's speed or on how often the process was started.
VOLATILE = ("time/", "compilations")


def start(workdir: Path, cache: Path) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "omar_jax.main", "--config=configs/werewolf.py:smoke", f"--workdir={workdir}",
        f"--config.ppo.iterations={ITERATIONS}", "--config.arena.games=0", "--config.play.games=8",
        "--config.log.report=False", "--config.play.batch_eighths=(8,)",  # few programs to compile
        # With a pool of past policies, which has to be continued too.
        "--config.opponents.past=0.5", "--config.opponents.every=2", "--config.opponents.pool=2",
    ]  # fmt: skip
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def metrics_of(workdir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(VOLATILE)} for line in lines]


def parameters_of(workdir: Path) -> list[np.ndarray]:
    run = experiment.build(workdirs.stored_config(workdir))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=None)
    iteration, saved, _ = checkpoints.restore_latest(run.moving(run.weights()[0]))
    checkpoints.close()
    assert iteration == ITERATIONS
    return jax.tree.leaves(jax.device_get(saved))


def assert_same_run(a: Path, b: Path) -> None:
    assert metrics_of(a) == metrics_of(b)
    assert len(metrics_of(a)) == ITERATIONS
    for mine, theirs in zip(parameters_of(a), parameters_of(b), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    files = sorted(path.name for path in (a / "episodes").iterdir())
    assert files == sorted(path.name for path in (b / "episodes").iterdir())
    for name in files:
        assert (a / "episodes" / name).read_bytes() == (b / "episodes" / name).read_bytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cache):
    workdir = tmp_path_factory.mktemp("undisturbed")
    process = start(workdir, cache)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return workdir


def test_killed_and_stopped_and_continued_is_bitwise_the_same(undisturbed, cache, tmp_path):
    moments = random.Random(0)
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        with start(tmp_path, cache) as process:
            for line in process.stdout:
                if line.startswith("iteration"):
                    break
            time.sleep(moments.uniform(0, 1))  # somewhere in one of the next iterations
            process.send_signal(end)
            said = process.stdout.read()
        if end == signal.SIGTERM:  # it saves what it has
            assert process.returncode == 0 and "the same command continues" in said
        else:
            assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    output, _ = (process := start(tmp_path, cache)).communicate(timeout=300)
    assert process.returncode == 0, output
    assert_same_run(undisturbed, tmp_path)


def test_nothing_is_compiled_after_the_second_iteration(undisturbed):
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines()
    counts = [json.loads(line)["compilations"] for line in lines]
    assert len(set(counts[1:])) == 1, counts
