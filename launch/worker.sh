#!/usr/bin/env bash
# What the other launch scripts run on a rented machine, in a copy of the project.
#
#   worker.sh install EXTRA         the project with jax[EXTRA] in an environment of its own
#   worker.sh mount BUCKET          the Cloud Storage bucket, as the folder ~/omar_jax_bucket
#   worker.sh train ARGUMENTS       python -m omar_jax.main ARGUMENTS; status 143 if SIGTERM stopped it
#   worker.sh start RUN ARGUMENTS   the same in the background, its workdir RUN in the bucket, unless it runs already
#   worker.sh follow LINES          the log of what was started, from its last LINES (+1: the first) to its end
#   worker.sh status                of what was started: running, its exit status, lost (no process, no status) or none
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$HOME/omar_jax_env/bin/python
bucket_folder=$HOME/omar_jax_bucket
state=$HOME/omar_jax_state # of `start`: lock, pid, command, log, status

die() {
  echo "worker.sh: $*" >&2
  exit 2
}

# A Python of this machine that the project runs on, if there is one.
suitable_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

make_environment() {
  local found folder=$HOME/omar_jax_env
  if found=$(suitable_python) && "$found" -m venv "$folder"; then
    return
  fi
  # The images of TPU machines bring Python 3.10; uv brings a newer one.
  rm -rf "$folder"
  curl -LsSf https://astral.sh/uv/install.sh | sh
  "$HOME/.local/bin/uv" venv --seed --python=3.12 "$folder"
}

install() {
  [[ -x $python ]] || make_environment
  "$python" -m pip install --quiet "$project" "jax[$1]"
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc site=https://packages.cloud.google.com/apt
  curl -fsS "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -cs) main" |
    sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
  sudo apt-get update
  # A fresh machine may still be updating itself.
  sudo apt-get -o DPkg::Lock::Timeout=300 install -y gcsfuse
}

mount_bucket() {
  command -v gcsfuse >/dev/null || install_gcsfuse
  mkdir -p "$bucket_folder"
  if mountpoint -q "$bucket_folder"; then # maybe of another bucket
    fusermount -u "$bucket_folder"
  fi
  # A checkpoint becomes whole when its folder is renamed; and no worker may see another's files as they were before.
  gcsfuse --implicit-dirs --rename-dir-limit=200000 --metadata-cache-ttl-secs=0 "$1" "$bucket_folder"
}

# Sets `ended` to the exit status. A run that SIGTERM stops saves a checkpoint and ends well, and yet is not done.
train() {
  local child stopped=
  cd "$project"
  "$python" -m omar_jax.main "$@" 9>&- &
  child=$!
  trap 'stopped=1; kill -TERM "$child" 2>/dev/null || true' TERM
  ended=0
  wait "$child" || ended=$?
  while kill -0 "$child" 2>/dev/null; do # the signal cut `wait` short
    ended=0
    wait "$child" || ended=$?
  done
  [[ -z $stopped ]] || ended=143
}

supervise() {
  train "$@"
  echo "$ended" >"$state/status.new"
  mv "$state/status.new" "$state/status"
}

status() {
  if [[ ! -e $state/pid ]]; then
    echo none
  elif [[ -e $state/status ]]; then
    cat "$state/status"
  elif ! flock --nonblock "$state/lock" true; then # a process holds it, so this holds after a reboot too
    echo running
  elif [[ -e $state/status ]]; then # written in between
    cat "$state/status"
  else
    echo lost
  fi
}

start() {
  local words="${*@Q}"
  mkdir -p "$state"
  if [[ $(status) == running ]]; then
    [[ $(cat "$state/command") == "$words" ]] ||
      die "another training command runs here: $(cat "$state/command"); 'kill $(cat "$state/pid")' stops it"
    return
  fi
  rm -f "$state/status"
  echo "$words" >"$state/command"
  exec 9>"$state/lock"
  flock --nonblock 9
  setsid bash "$0" supervise "--workdir=$bucket_folder/$1" "${@:2}" >"$state/log" 2>&1 </dev/null &
  echo $! >"$state/pid"
}

verb=${1-}
(($# == 0)) || shift
case $verb in
  install) install "$1" ;;
  mount) mount_bucket "$1" ;;
  train)
    train "$@"
    exit "$ended"
    ;;
  start) start "$@" ;;
  supervise) supervise "$@" ;;
  follow) tail --pid="$(cat "$state/pid")" --sleep-interval=0.2 --lines="$1" --follow=name "$state/log" ;;
  status) status ;;
  *) die "'$verb' is no command; right are install, mount, train, start, follow, status" ;;
esac
