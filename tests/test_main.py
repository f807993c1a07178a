"""The whole run, as users start it: killed or stopped, and continued, it ends bit for bit like one left alone."""

import itertools
import json
import random
import signal
import time
from pathlib import Path

import jax
import numpy as np
import processes
import pytest

from omar_jax import experiment, workdirs
from omar_jax.checkpoint import Checkpoints

ITERATIONS = 12
# What depends on the machine's speed or on how often the process was started.
VOLATILE = ("time/", "compilations")
SETTINGS = (
    *(f"--config.ppo.iterations={ITERATIONS}", "--config.log.report=False"),
    # With a pool of past policies, which has to be continued too.
    *("--config.opponents.past=0.5", "--config.opponents.every=2", "--config.opponents.pool=2"),
)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts a run in a folder; all share a model and what was compiled."""
    place = tmp_path_factory.mktemp("runs")
    model = f"--config.model.source={processes.small_model(place / 'model')}"
    count = itertools.count()
    return lambda workdir: processes.start(workdir, place / f"said{next(count)}", place / "cache", model, *SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    with start(workdir) as job:
        job.succeed()
    return workdir


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


def test_killed_and_stopped_and_continued_is_bitwise_the_same(undisturbed, start, tmp_path):
    moments = random.Random(0)
    for end in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        with start(tmp_path) as job:
            job.wait_for("iteration")
            time.sleep(moments.uniform(0, 0.5))  # somewhere in one of the next iterations
            job.processes[0].send_signal(end)
            if end == signal.SIGTERM:  # it saves what it has
                job.succeed()
                assert "the same command continues" in job.said(0)
            else:
                assert job.statuses() == [-signal.SIGKILL], "the run was over before it was killed"
    assert len(metrics_of(tmp_path)) < ITERATIONS
    with start(tmp_path) as job:
        job.succeed()
    assert_same_run(undisturbed, tmp_path)


def test_nothing_is_compiled_after_the_second_iteration(undisturbed):
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines()
    counts = [json.loads(line)["compilations"] for line in lines]
    assert len(set(counts[1:])) == 1, counts
