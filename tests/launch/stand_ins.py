"""Programs that stand in for gcloud, xpk, Slurm's and a rented machine's, and note how they were called.

The cloud is a folder: `request` and `machine` hold the states of the queued resource and its TPU, one a line, of
which every look takes the first until one is left; `calls` has a line for each call; `worker0`, `worker1` are the
workers' home folders; `bucket` outlives them. `project` is a small copy of this project, from which things are
launched. The training command is `training`, a shell script of the test, and `installing` one that pip runs.
"""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# All that the scripts find of the machine that runs the tests: a gcloud that is installed there is out of reach.
TOOLS = (
    *("basename", "bash", "cat", "chmod", "cp", "dirname", "env", "flock", "grep", "gzip", "head", "ln", "mkdir", "mv"),
    *("rm", "rmdir", "sed", "seq", "setsid", "sh", "sleep", "tail", "tar", "touch", "tr", "wc"),
)
TRAINING = ("--config=configs/werewolf.py:smoke", "--config.layout.buckets=((448, 512, 256, 24),)")
LEFT_OUT = (".git/config", ".venv/bin/python", "runs/wolves/config.json", "configs/__pycache__/werewolf.pyc")

NOTED = r"""
printf '%s' "${0##*/}" >>"$CLOUD/calls"
printf ' %q' "$@" >>"$CLOUD/calls"
echo >>"$CLOUD/calls"
"""

GCLOUD = (
    NOTED
    + r"""
look() { # at the states in a file
  if [[ ! -e $1 ]]; then echo "ERROR: (gcloud) NOT_FOUND: no such resource" >&2; exit 1; fi
  head -n 1 "$1"
  if (($(wc -l <"$1") > 1)); then sed -i 1d "$1"; fi
}
worker='' command=''
for word in "$@"; do
  case $word in --worker=*) worker=${word#*=} ;; --command=*) command=${word#*=} ;; esac
done
workers=(0 1)
[[ $worker == all ]] || workers=("$worker")
case "$3 $4" in
  "queued-resources describe") look "$CLOUD/request" ;;
  "tpu-vm describe") look "$CLOUD/machine" ;;
  "queued-resources create")
    if [[ -e $CLOUD/request ]]; then echo "ERROR: (gcloud) ALREADY_EXISTS" >&2; exit 1; fi
    printf 'WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n' >"$CLOUD/request"
    printf 'CREATING\nREADY\n' >"$CLOUD/machine"
    mkdir "$CLOUD/worker0" "$CLOUD/worker1"
    ;;
  "queued-resources delete")
    for w in 0 1; do # of which none may write any more
      [[ ! -d $CLOUD/worker$w/omar_jax_state ]] || flock --timeout 20 "$CLOUD/worker$w/omar_jax_state/lock" true
    done
    rm -rf "$CLOUD/request" "$CLOUD/machine" "$CLOUD/worker0" "$CLOUD/worker1"
    ;;
  "tpu-vm scp") for w in "${workers[@]}"; do cp "$5" "$CLOUD/worker$w/${6#*:}"; done ;;
  "tpu-vm ssh")
    if ! head -n 1 "$CLOUD/machine" | grep -qx READY; then echo "ERROR: (gcloud) no connection" >&2; exit 255; fi
    status=0
    for w in "${workers[@]}"; do
      (cd "$CLOUD/worker$w" && HOME=$PWD WORKER=$w bash -c "$command") || status=$?
    done
    exit "$status"
    ;;
  *) echo "ERROR: (gcloud) Invalid choice: $3 $4" >&2; exit 2 ;;
esac
"""
)
PYTHON = r"""
case "$1 $2" in
  "-c "*) ;; # asked for its version: a right one
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")
    printf 'pip %s\n' "$*" >>"$HOME/pip_calls"
    [[ ! -e $CLOUD/installing ]] || bash "$CLOUD/installing"
    ;;
  "-m omar_jax.main") exec bash "$CLOUD/training" "${@:3}" ;;
  *) exit 99 ;;
esac
"""
# A mounted bucket is a link to it.
GCSFUSE = NOTED + 'rmdir "${!#}" && ln -s "$CLOUD/bucket" "${!#}"\n'
UNMOUNT = 'rm "$2" && mkdir "$2"\n'

TRAINS = r"""
for word in "$@"; do case $word in --workdir=*) workdir=${word#*=} ;; esac; done
echo "worker ${WORKER-} of $PWD trains: $*"
linger() { for ((i = 0; i < 600; i++)); do sleep 0.05; done; } # half a minute: nothing outlives a failed test for long
until_there() { for ((i = 0; i < 2400; i++)); do [[ ! -e $1 ]] || return 0; sleep 0.05; done; return 1; }
"""


class Cloud:
    """The folder of a cloud, and the environment in which launch scripts meet it."""

    def __init__(self, folder: Path):
        self.folder = folder
        for name in ("bin", "home", "bucket"):
            (folder / name).mkdir()
        self.project = folder / "project"
        shutil.copytree(ROOT / "launch", self.project / "launch")
        for name in ("configs/werewolf.py", "docs/runs of others", *LEFT_OUT):
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            (self.project / name).touch()
        self.environment = {
            **os.environ,
            "PATH": str(folder / "bin"),
            "HOME": str(folder / "home"),
            "CLOUD": str(folder),
        }
        for name in TOOLS:
            (folder / "bin" / name).symlink_to(shutil.which(name))
        for name in ("python3.13", "python3"):
            self.program(name, PYTHON)
        self.program("gcloud", GCLOUD)
        self.program("gcsfuse", GCSFUSE)
        self.program("mountpoint", "[[ -L $2 ]]\n")
        self.program("fusermount", UNMOUNT)

    def program(self, name: str, text: str) -> None:
        """Puts a shell script where the launch scripts find it."""
        path = self.folder / "bin" / name
        path.unlink(missing_ok=True)  # what it links to stays as it is
        path.write_text("#!/usr/bin/env bash\n" + text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def training(self, text: str) -> None:
        """What the training command does; $workdir is its folder; it may `linger` and wait `until_there FILE`."""
        (self.folder / "training").write_text("set -eu\n" + TRAINS + text)

    @contextlib.contextmanager
    def running(self, script: str, *arguments: str, at: Path | None = None, **environment: str):
        """A launch script that runs, or a copy `at` another path; killed after 100 seconds, or where the block ends."""
        command = ["bash", str(at or self.project / "launch" / script), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=self.environment | environment, start_new_session=True, **pipes) as process:
            timer = threading.Timer(100, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
            try:
                yield process
            finally:
                timer.cancel()
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def launch(self, script: str, *arguments: str) -> subprocess.CompletedProcess:
        """Runs a launch script to its end."""
        with self.running(script, *arguments) as process:
            said = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, *said)

    @property
    def calls(self) -> list[str]:
        """The calls so far, as shell commands."""
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def count(self, words: str) -> int:
        """How many calls contain the words."""
        return sum(words in call for call in self.calls)


def wait_for(path: Path) -> None:
    """Returns when the file is there, within 20 seconds."""
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)
