"""tpu_vm.sh and worker.sh from start to end, against a cloud of stand-ins with two workers. About 20 seconds."""

import contextlib
import os
import signal

import pytest
from stand_ins import LEFT_OUT, NOTED, TRAINING, Cloud, wait_for

TPU_VM = ("--name=wolves", "--zone=us-west4-a", "--accelerator_type=v5litepod-16", "--bucket=my-bucket")


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def train_on_tpu(cloud, *options):
    return cloud.launch("tpu_vm.sh", *TPU_VM, "--poll_seconds=0", *options, "--", *TRAINING)


def test_a_tpu_is_rented_trained_on_and_given_back(cloud):
    cloud.training('mkdir -p "$workdir"; echo "by $WORKER: $*" >>"$workdir/done"\n')
    done = train_on_tpu(cloud, "--delete")
    assert done.returncode == 0, done.stderr
    assert f"trains: --workdir={cloud.folder}/worker0/omar_jax_bucket/wolves {' '.join(TRAINING)}" in done.stdout
    for state in ("MISSING", "WAITING_FOR_RESOURCES", "PROVISIONING", "CREATING", "READY"):
        assert f"wolves is {state}\n" in done.stderr
    assert "the run is in gs://my-bucket/wolves" in done.stderr
    assert cloud.count("queued-resources create") == cloud.count("queued-resources delete") == 1
    assert cloud.count("gcsfuse --implicit-dirs") == cloud.count("my-bucket ") == 2
    said = (cloud.folder / "bucket/wolves/done").read_text()
    assert said.count("by ") == 2 and "by 0: " in said and "by 1: " in said


def test_what_the_workers_get_and_that_a_machine_is_used_again(cloud):
    cloud.training("cat configs/werewolf.py\n")
    done = train_on_tpu(cloud)
    assert done.returncode == 0, done.stderr
    assert not cloud.count("queued-resources delete")
    assert "wolves is still rented; give it back with: gcloud compute tpus queued-resources delete" in done.stderr
    for worker in (cloud.folder / "worker0", cloud.folder / "worker1"):
        assert (worker / "pip_calls").read_text() == f"pip -m pip install --quiet {worker}/omar_jax jax[tpu]\n"
        assert all((worker / "omar_jax" / name).is_file() for name in ("launch/worker.sh", "docs/runs of others"))
        assert not [name for name in LEFT_OUT if (worker / "omar_jax" / name).exists()]
    assert train_on_tpu(cloud, "--delete").returncode == 0
    assert cloud.count("queued-resources create") == cloud.count("queued-resources delete") == 1


# Worker 0 alone: both would look for the checkpoint at once.
PREEMPTED_ONCE = r"""
[[ $WORKER == 0 ]] || exit 0
mkdir -p "$workdir"
if [[ ! -e $workdir/checkpoint ]]; then
  touch "$workdir/checkpoint"
  %s
fi
echo "continuing after iteration 5"
"""
TAKEN_AWAY = {
    "with its machine": 'echo PREEMPTED >"$CLOUD/machine"; exit 1',
    "without a trace": 'rm "$CLOUD/machine"; exit 1',
    "with its request": 'echo PREEMPTED >"$CLOUD/machine"; echo SUSPENDED >"$CLOUD/request"; exit 1',
    "after the training command noticed": r'printf "READY\nREADY\nREADY\nPREEMPTED\n" >"$CLOUD/machine"; exit 1',
    "after SIGTERM": r"""printf "READY\nREADY\nPREEMPTED\n" >"$CLOUD/machine"
        trap "exit 0" TERM; kill -TERM $PPID; linger""",
}


@pytest.mark.parametrize("how", TAKEN_AWAY)
def test_a_preempted_run_goes_on_with_another_machine(cloud, how):
    cloud.training(PREEMPTED_ONCE % TAKEN_AWAY[how])
    done = train_on_tpu(cloud, "--spot", "--delete")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("continuing after iteration 5") == 1
    assert done.stderr.count("asking for another") == 1
    assert cloud.count("queued-resources create") == cloud.count("queued-resources delete") == 2
    assert all("--spot" in call for call in cloud.calls if "queued-resources create" in call)


def test_a_machine_that_is_taken_away_during_installation_is_replaced(cloud):
    cloud.training("true\n")
    taken = 'if [[ ! -e $CLOUD/once ]]; then touch "$CLOUD/once"; echo PREEMPTED >"$CLOUD/machine"; exit 1; fi\n'
    (cloud.folder / "installing").write_text(taken)
    done = train_on_tpu(cloud, "--spot", "--delete")
    assert done.returncode == 0, done.stderr
    assert cloud.count("queued-resources create") == cloud.count("queued-resources delete") == 2


def test_an_installation_that_fails_ends_the_script(cloud):
    (cloud.folder / "installing").write_text("exit 1\n")
    done = train_on_tpu(cloud, "--spot")
    assert done.returncode == 2
    assert "the training could not be started on wolves; it is said above why; give it back with: " in done.stderr
    assert cloud.count("queued-resources create") == 1 and not cloud.count(r"worker.sh\ start")


def test_without_spot_a_machine_that_is_taken_away_is_not_replaced(cloud):
    cloud.training(PREEMPTED_ONCE % TAKEN_AWAY["with its machine"])
    done = train_on_tpu(cloud)
    assert done.returncode == 2
    assert done.stderr.endswith("tpu_vm.sh: wolves was taken away; the same command asks for another and continues\n")
    assert cloud.count("queued-resources create") == 1


@pytest.mark.parametrize("spot", [(), ("--spot",)])
def test_a_training_command_that_fails_is_not_repeated(cloud, spot):
    cloud.training('echo "omar_jax: config.seed cannot be used" >&2; exit 3\n')
    done = train_on_tpu(cloud, *spot)
    assert done.returncode == 3
    assert "the training command failed with status 3" in done.stderr
    assert done.stdout.count("trains: ") == 3  # worker 0 in the log, then both workers' last lines
    assert cloud.count(r"worker.sh\ start") == 1
    assert cloud.count("queued-resources create") == 1 and not cloud.count("queued-resources delete")


@contextlib.contextmanager
def watch(cloud):
    """tpu_vm.sh as in a terminal, once it shows worker 0's log."""
    with cloud.running("tpu_vm.sh", *TPU_VM, "--poll_seconds=0", "--", *TRAINING) as watcher:
        while "worker 0" not in (line := watcher.stdout.readline()):
            assert line, watcher.stderr.read()
        yield watcher
        watcher.communicate()


def test_a_run_whose_watcher_left_is_followed_not_started_again(cloud):
    cloud.training("until_there $CLOUD/go_on\n")
    with watch(cloud) as watcher:
        os.killpg(watcher.pid, signal.SIGINT)
    assert watcher.returncode == 130
    other = cloud.launch("tpu_vm.sh", *TPU_VM, "--poll_seconds=0", "--", "--config=other.py")
    assert other.returncode == 2 and "another training command runs here" in other.stderr
    with watch(cloud) as watcher:
        (cloud.folder / "go_on").touch()
    assert watcher.returncode == 0
    assert cloud.count("scp") == 1


def test_a_request_that_failed_and_a_gcloud_that_fails_end_the_script(cloud):
    (cloud.folder / "request").write_text("FAILED\n")
    done = train_on_tpu(cloud, "--spot")
    assert done.returncode == 2 and "the request for wolves has FAILED" in done.stderr
    cloud.program("gcloud", NOTED + 'echo "ERROR: (gcloud) log in first" >&2; exit 1\n')
    done = train_on_tpu(cloud, "--spot")
    assert done.returncode == 2 and "log in first" in done.stderr
    assert done.stderr.endswith("could not tell the state of wolves 10 times; it said why above\n")
    assert not cloud.count("create")


################################### worker ###################################


def test_a_training_command_stopped_by_sigterm_has_not_succeeded(cloud):
    cloud.training('trap "echo saved; exit 0" TERM; touch "$CLOUD/ready"; linger\n')
    assert cloud.launch("worker.sh", "install", "tpu").returncode == 0
    with cloud.running("worker.sh", "train", *TRAINING) as training:
        wait_for(cloud.folder / "ready")
        training.terminate()
        assert training.communicate()[0].endswith("saved\n")
    assert training.returncode == 143


def test_uv_brings_python_where_there_is_none_that_fits(cloud):
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        cloud.program(name, "exit 1\n")
    uv = r"mkdir -p $HOME/.local/bin; cp $CLOUD/bin/uv $HOME/.local/bin/uv"
    cloud.program("curl", NOTED + f"echo '{uv}'\n")
    cloud.program("uv", NOTED + 'mkdir -p "${!#}/bin"; cp "$CLOUD/bin/python3.14" "${!#}/bin/python"\n')
    cloud.program("python3.14", NOTED)
    done = cloud.launch("worker.sh", "install", "tpu")
    assert done.returncode == 0, done.stderr
    home = cloud.environment["HOME"]
    assert cloud.calls[1] == f"uv venv --seed --python=3.12 {home}/omar_jax_env"
    assert cloud.calls[2] == rf"python -m pip install --quiet {cloud.project} jax\[tpu\]"
