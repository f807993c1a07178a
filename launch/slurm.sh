#!/usr/bin/env bash
# Trains on GPU nodes of a Slurm cluster.
#
# The life of a run: on the login node this script installs the project into .venv-slurm and submits itself; on the
# first node of the job it starts one training process a node. Ahead of the time limit the processes are told to save
# a checkpoint, and the job goes back to the queue; so it does when it is preempted. Started again, the same command
# continues from the checkpoints in the workdir.
#
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --exclusive
#SBATCH --ntasks-per-node=1
set -euo pipefail

# What the job runs: in_job ROOT GPUS TRAINING ARGUMENTS
in_job() {
  local process stopped='' ended=0
  cd "$1"
  # JAX takes a Slurm task for the owner of one GPU unless it is told of all.
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $(($2 - 1)))
  export JAX_LOCAL_DEVICE_IDS
  srun --kill-on-bad-exit=1 --cpu-bind=none .venv-slurm/bin/python -m omar_jax.main "${@:3}" &
  process=$!
  # Only ahead of the time limit: scancel and preemption signal the processes themselves. Not through srun, which
  # would end the step at once.
  trap 'stopped=1; scancel --signal=TERM "$SLURM_JOB_ID.0" || true' USR1
  wait "$process" || ended=$?
  while kill -0 "$process" 2>/dev/null; do # the signal cut `wait` short
    ended=0
    wait "$process" || ended=$?
  done
  if [[ $stopped ]]; then
    echo "slurm.sh: the time limit is near; job $SLURM_JOB_ID goes back to the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  exit "$ended"
}
if [[ ${1-} == --in_job ]]; then # before anything else: the job runs a copy that lies elsewhere
  in_job "${@:2}"
fi

# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Trains on GPU nodes under Slurm: launch/slurm.sh OPTIONS -- TRAINING ARGUMENTS

  launch/slurm.sh --nodes=2 --gpus_per_node=8 --time=12:00:00 --workdir=/shared/wolves --partition=gpu \
    -- --config=configs/werewolf.py:qwen3_4b --config.ppo.iterations=50

  --gpus_per_node=NUMBER   all GPUs of a node; one process uses them
  --workdir=FOLDER         keeps the run; must lie on a file system that all nodes see, as must this project
  --nodes=NUMBER           the default is 1
  --time=TIME              limit, e.g. 12:00:00; ahead of it the job saves and goes back to the queue; the default
                           is the partition's
  --partition=PARTITION    the default is the cluster's
  --account=ACCOUNT        the default is yours
  --job_name=NAME          the default is omar_jax
  --stop_seconds=SECONDS   ahead of the time limit, for the checkpoint; at least an iteration; the default is 300
  --jax=EXTRA              of jax to install; the default is cuda13
  --python=PYTHON          3.11 to 3.13, seen by all nodes; the default is python3
  --sbatch_flag=FLAG       one more flag for sbatch, e.g. --sbatch_flag=--qos=long; may be repeated
  --dry_run                shows the commands and runs none
  --help                   shows this
END
}

gpus_per_node='' workdir='' nodes=1 time='' partition='' account='' job_name=omar_jax stop_seconds=300
jax=cuda13 python=python3 sbatch_flags=()
while (($#)); do
  case $1 in
    --gpus_per_node=*) gpus_per_node=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --nodes=*) nodes=${1#*=} ;;
    --time=*) time=${1#*=} ;;
    --partition=*) partition=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --job_name=*) job_name=${1#*=} ;;
    --stop_seconds=*) stop_seconds=${1#*=} ;;
    --jax=*) jax=${1#*=} ;;
    --python=*) python=${1#*=} ;;
    --sbatch_flag=*) sbatch_flags+=("${1#*=}") ;;
    --dry_run) dry_run=1 ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) unknown_option "$1" ;;
  esac
  shift
done

need --gpus_per_node "$gpus_per_node" "give the number of GPUs of a node, e.g. --gpus_per_node=8"
need --workdir "$workdir" "give a folder that all nodes see, e.g. --workdir=/shared/wolves"
need_form --gpus_per_node "$gpus_per_node" '^[1-9][0-9]*$' "a whole number of at least 1, e.g. 8"
need_form --nodes "$nodes" '^[1-9][0-9]*$' "a whole number of at least 1, e.g. 2"
need_form --workdir "$workdir" '^/.' "a whole path, e.g. /shared/wolves"
need_form --stop_seconds "$stop_seconds" '^[1-9][0-9]*$' "a whole number of seconds, e.g. 300"
no_workdir_among "--workdir=FOLDER before -- says where the run is kept" "$@"

environment=$root/.venv-slurm
submit=(sbatch "--job-name=$job_name" "--nodes=$nodes" "--gpus-per-node=$gpus_per_node"
  "--signal=B:USR1@$stop_seconds" "--output=$workdir/slurm-%j.log")
[[ -z $time ]] || submit+=("--time=$time")
[[ -z $partition ]] || submit+=("--partition=$partition")
[[ -z $account ]] || submit+=("--account=$account")
submit+=(${sbatch_flags[@]+"${sbatch_flags[@]}"})

if [[ -z $dry_run ]]; then
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null ||
    die "--python=$python cannot be used: it must be Python 3.11 to 3.13, e.g. --python=python3.12"
  need_program sbatch
fi
# Here, not in the job: nodes often see no package index.
run "$python" -m venv "$environment"
run "$environment/bin/python" -m pip install --quiet "$root" "jax[$jax]"
run mkdir -p "$workdir"
run "${submit[@]}" "$root/launch/slurm.sh" --in_job "$root" "$gpus_per_node" "--workdir=$workdir" "$@"
