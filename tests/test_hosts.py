"""Several processes: they train as one does, stop together, and hand their run to any other number of them."""

import json
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import processes
import pytest

from omar_jax import experiment, hosts, workdirs
from omar_jax.checkpoint import Checkpoints
from omar_jax.runtime import StopRequested
from omar_jax.settings import SettingError

# What depends on the machine's speed, on how often the process was started, or on how games are shared.
VOLATILE = ("time/", "compilations", "play/idle_share")
RELATIVE = 1e-5
CONTINUES = "; the same command, given to all, continues from the last checkpoint"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where the runs of this module are: the model, what was compiled, a run by one process."""
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def start(place):
    """Starts a run in a folder of `place`; its words lie in a folder of the same name."""
    model = processes.small_model(place / "model")
    count = iter(range(1000))

    def start(name, *settings, **how):
        settings = (f"--config.model.source={model}", *settings)
        return processes.start(place / name, place / f"said{next(count)}", place / "cache", *settings, **how)

    return start


@pytest.fixture(scope="module")
def alone(place, start):
    """The run of one process on one device."""
    with start("alone") as job:
        job.succeed()
    return place / "alone"


def metrics_of(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: x for name, x in line.items() if not name.startswith(VOLATILE)} for line in lines]


def games_of(workdir):
    files = sorted((workdir / "episodes").iterdir())
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def trained(workdir):
    """(iteration, parameters and optimizer state) of the newest checkpoint, restored on one device."""
    config = workdirs.stored_config(workdir)
    config.mesh.train = "auto"
    run = experiment.build(config)
    checkpoints = Checkpoints(workdir / "checkpoints", keep=None)
    iteration, moving, _ = checkpoints.restore_latest(run.moving(run.weights()[0]))
    checkpoints.close()
    return iteration, jax.device_get(moving["state"])


def assert_close(found, wanted, absolute):
    """The same but for rounding: everything but fractions exactly."""
    assert type(found) is type(wanted)
    if isinstance(found, dict):
        assert found.keys() == wanted.keys()
        found, wanted = list(found.values()), list(wanted.values())
    if isinstance(found, list):
        assert len(found) == len(wanted)
        for x, y in zip(found, wanted, strict=True):
            assert_close(x, y, absolute)
    elif isinstance(found, float):
        assert found == pytest.approx(wanted, rel=RELATIVE, abs=absolute)
    else:
        assert found == wanted


def difference(found, wanted):
    """The largest difference of two trees' leaves, each measured by the leaf's own size."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) for a, b in pairs)


def assert_same_training(found, wanted):
    assert_close(games_of(found), games_of(wanted), absolute=1.1e-4)  # they are written with four decimals
    # Advantages have unit size, and what cancels among them is as small as their rounding.
    assert_close(metrics_of(found), metrics_of(wanted), absolute=RELATIVE)
    (iteration, state), (last, of_wanted) = trained(found), trained(wanted)
    assert iteration == last
    assert state.step == of_wanted.step
    apart = difference(state.params, of_wanted.params), difference(state.optimizer, of_wanted.optimizer)
    print(f"{found.name}: parameters differ by {apart[0]:.1e}, the optimizer's state by {apart[1]:.1e}")
    assert apart[0] <= RELATIVE
    assert apart[1] <= 10 * RELATIVE  # the second moment is of squares, and small


# ---------------------------------------------------------------- one process


def test_what_belongs_together_must_be_given_together():
    with pytest.raises(SettingError, match="--processes, --process: missing"):
        hosts.start("localhost:1", None, None)
    with pytest.raises(SettingError, match="--process=2 cannot be used: it must be from 0 to 1"):
        hosts.start("localhost:1", 2, 2)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_shares_are_neighbours_and_leave_nothing_out(monkeypatch, count):
    monkeypatch.setattr(jax, "process_count", lambda: count)
    shares = []
    for process in range(count):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.append(list(hosts.share(range(10))))
    assert [item for share in shares for item in share] == list(range(10))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_everything_is_ones_own():
    assert hosts.is_first()
    assert hosts.gather({"any": "thing"}) == [{"any": "thing"}]
    assert hosts.together(lambda: 3) == [3]
    assert not hosts.is_loss(ValueError("Gloo AllGather failed"))

    def stopped():
        raise StopRequested

    with pytest.raises(StopRequested):
        hosts.together(stopped)


@pytest.mark.parametrize(
    ("message", "is_loss"),
    [
        ("UNKNOWN: Gloo AllGather failed: Read error [127.0.0.1]:24988: Connection reset by peer", True),
        ("UNAVAILABLE: Task 1 heartbeat timeout.", True),
        ("DEADLINE_EXCEEDED: Barrier timed out.", True),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.", False),
        ("shapes (2,) and (3,) cannot be added", False),
    ],
)
def test_errors_of_ones_own_are_no_loss(monkeypatch, message, is_loss):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert hosts.is_loss(ValueError(message)) is is_loss


def test_a_tpu_alone_is_a_run_of_one_process(monkeypatch):
    def finds_nobody(*arguments, **options):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts, "_on_tpu", lambda: True)
    monkeypatch.setattr(jax.distributed, "initialize", finds_nobody)
    hosts.start(None, None, None)
    with pytest.raises(ValueError, match="coordinator"):
        hosts.start("localhost:1", 2, 0)
    hosts._let_abort()


def test_one_that_meets_nobody_says_so():
    nobody = f"localhost:{processes.free_port()}"
    driver = f"from omar_jax import hosts; hosts.MEETING_SECONDS = 1; hosts.start({nobody!r}, 2, 1)"
    command = [sys.executable, "-c", driver]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == hosts.LOST
    said = done.stderr.splitlines()[-1]
    assert said.startswith("omar_jax: process 1 did not find process 0 and all others within 1 s (JAX's words ")
    assert said.endswith(CONTINUES)


# ---------------------------------------------------------------- several


def test_two_processes_train_as_one_does(start, place, alone):
    with start("two", processes=2) as job:
        job.succeed()
        assert "2 devices in 2 processes: data,fsdp,tensor = 2,1,1 to update, 1,1,1 to play" in job.said(0)
        assert "iteration" not in job.said(1)
        assert not job.said(0, "err") and not job.said(1, "err")
    assert_same_training(place / "two", alone)
    lines = (place / "two" / "metrics.jsonl").read_text().splitlines()
    assert len({json.loads(line)["compilations"] for line in lines[1:]}) == 1, lines


@pytest.mark.slow
def test_four_processes_train_as_one_does(start, place, alone):
    with start("four", processes=4) as job:
        job.succeed()
    assert_same_training(place / "four", alone)


@pytest.mark.slow
def test_stored_weights_are_trained_alike(start, place):
    """The embedded model's, with whose words games are long."""
    settings = [
        *("--config.model.source=embedded", "--config.model.weights=stored", "--config.environment.speech_tokens=24"),
        *("--config.play.action_tokens=24", "--config.play.piece_tokens=64"),
        "--config.layout.buckets=((448,512,256,24),)",
    ]
    for name, count in (("stored alone", 1), ("stored", 2)):
        with start(name, *settings, processes=count) as job:
            job.succeed()
    assert_same_training(place / "stored", place / "stored alone")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "victim"), [(2, 0), (2, 1), (4, 0), (4, 2)])
def test_when_one_is_killed_the_rest_stop_and_the_same_command_continues(start, place, alone, count, victim):
    name = f"killed {victim} of {count}"
    with start(name, processes=count) as job:
        job.wait_for("iteration    0")
        job.processes[victim].kill()
        killed = time.monotonic()
        statuses = job.statuses(seconds=60)
        print(f"{name}: the rest stopped after {time.monotonic() - killed:.1f} s")
        assert statuses.pop(victim) == -signal.SIGKILL, "the run was over before it was killed"
        assert set(statuses) == {hosts.LOST}
        for survivor in set(range(count)) - {victim}:
            lines = job.said(survivor, "err").splitlines()
            ours = [line for line in lines if not is_of_jax(line)]
            assert ours == lines[-1:]
            assert ours[0].startswith(f"omar_jax: process {survivor} ") and ours[0].endswith(CONTINUES)
            if victim:  # else JAX may abort the rest with words of its own before ours
                assert len(lines) == 1, lines
    with start(name, processes=count) as job:
        job.succeed()
    assert_same_training(place / name, alone)


def is_of_jax(line):
    """Whether JAX's C++ wrote it: a log line, or the reason of the one above."""
    return (line[:1] in "EFW" and line[1:5].isdigit()) or line.startswith(
        ("Additional GRPC", ":UNKNOWN", "***", "    @ ")
    )


@pytest.mark.slow
def test_a_run_goes_from_four_processes_to_one_of_eight_devices_and_back(start, place, alone):
    name = "moved"
    for iterations, how in (
        (1, {"processes": 4}),
        (2, {"devices": 8}),
        (3, {"processes": 4}),
    ):
        mesh = "2,2,2" if "devices" in how else "1,4,1"
        settings = (f"--config.ppo.iterations={iterations}", f"--config.mesh.train={mesh}")
        with start(name, *settings, **how) as job:
            job.succeed()
            assert ("starting at" if iterations == 1 else f"continuing after iteration {iterations - 1}") in job.said(0)
    assert_same_training(place / name, alone)


# ---------------------------------------------------------------- stops


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[0], [1], [0, 1]])
def test_all_stop_when_any_is_asked_to_and_the_same_command_continues(start, place, alone, asked):
    name = f"asked {sum(asked)} {len(asked)}"
    with start(name, processes=2) as job:
        job.wait_for("iteration    0")
        begun = time.monotonic()
        for process in asked:
            job.processes[process].send_signal(signal.SIGTERM)
        job.succeed()
        print(f"{name}: all stopped after {time.monotonic() - begun:.1f} s")
        assert "saved after" in job.said(0) and "the same command continues" in job.said(0)
        assert not job.said(1, "err")
    with start(name, processes=2) as job:
        job.succeed()
    assert_same_training(place / name, alone)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [[1], [0, 1]])
def test_all_stop_in_the_arena_when_any_is_asked_to(start, place, alone, asked):
    name = f"arena {len(asked)}"
    shutil.copytree(alone, place / name)
    with start(name, "--config.arena.games=4000", processes=2) as job:
        job.wait_for(f"{place / name}: continuing after iteration 3")
        for process in asked:
            job.processes[process].send_signal(signal.SIGTERM)
        job.succeed()
        assert "the same command continues" in job.said(0)
    assert not (place / name / "arena.json").exists()
