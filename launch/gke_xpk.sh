#!/usr/bin/env bash
# Trains on a TPU slice of a Kubernetes cluster that exists, through xpk.
#
# The life of a run: a copy of the project goes onto a Python image; on every machine of the slice the workload
# installs it and starts the same command. A workload that was evicted or lost a machine is started again and
# continues from the checkpoints in the workdir; one that failed by itself is not.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Trains on a TPU slice of a GKE cluster: launch/gke_xpk.sh OPTIONS -- TRAINING ARGUMENTS

  launch/gke_xpk.sh --cluster=my-cluster --zone=us-west4-a --workload=wolves --tpu_type=v5litepod-16 \
    --storage=my-storage --workdir=/storage/wolves \
    -- --config=configs/werewolf.py:qwen3_4b --config.ppo.iterations=50

  --cluster=CLUSTER           that was created with or adapted to xpk
  --zone=ZONE                 of the cluster, e.g. us-west4-a
  --workload=NAME             of this run on the cluster
  --tpu_type=TYPE             of the slice, e.g. v5litepod-16, v6e-8, v5p-64
  --workdir=FOLDER            keeps the run; must lie on a storage that all machines see
  --storage=STORAGE           to mount, attached to the cluster by `xpk storage attach`; without it, what the cluster
                              mounts by itself
  --project=PROJECT           the default is gcloud's
  --base_docker_image=IMAGE   with Python 3.11 to 3.13; the default is python:3.12
  --max_restarts=NUMBER       after evictions and lost machines; the default is 50
  --wait                      ends when the workload ends: status 0 for success, 125 for failure
  --dry_run                   shows the commands and runs none
  --help                      shows this
END
}

cluster='' zone='' workload='' tpu_type='' workdir='' storage='' project=''
base_docker_image=python:3.12 max_restarts=50 wait=''
while (($#)); do
  case $1 in
    --cluster=*) cluster=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --workload=*) workload=${1#*=} ;;
    --tpu_type=*) tpu_type=${1#*=} ;;
    --workdir=*) workdir=${1#*=} ;;
    --storage=*) storage=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --base_docker_image=*) base_docker_image=${1#*=} ;;
    --max_restarts=*) max_restarts=${1#*=} ;;
    --wait) wait=1 ;;
    --dry_run) dry_run=1 ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) unknown_option "$1" ;;
  esac
  shift
done

need --cluster "$cluster" "give the cluster's name, e.g. --cluster=my-cluster"
need --zone "$zone" "give the cluster's zone, e.g. --zone=us-west4-a"
need --workload "$workload" "give the run a name, e.g. --workload=wolves"
need --tpu_type "$tpu_type" "give a type of slice, e.g. --tpu_type=v5litepod-16"
need --workdir "$workdir" "give a folder on a storage that all machines see, e.g. --workdir=/storage/wolves"
need_form --zone "$zone" '^[a-z]+-[a-z]+[0-9]+-[a-z]$' "a zone, e.g. us-west4-a"
need_form --workload "$workload" '^[a-z]([a-z0-9-]*[a-z0-9])?$' "lower-case letters, digits and dashes, e.g. wolves-1"
need_form --workdir "$workdir" '^/.' "a whole path, e.g. /storage/wolves"
need_form --max_restarts "$max_restarts" '^[0-9]+$' "a whole number, e.g. 50"
no_workdir_among "--workdir=FOLDER before -- says where the run is kept" "$@"

where=("--cluster=$cluster" "--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
archive=$HOME/.cache/omar_jax/launch/$workload.tar.gz
copy=$HOME/.cache/omar_jax/launch/$workload
# `exec`, so that the signal of an eviction reaches the training command.
command="bash launch/worker.sh install tpu && exec bash launch/worker.sh train $(quoted "--workdir=$workdir" "$@")"
# A minute to save a checkpoint.
create=(xpk workload create "--workload=$workload" "${where[@]}" "--tpu-type=$tpu_type"
  "--base-docker-image=$base_docker_image" "--script-dir=$copy" "--max-restarts=$max_restarts"
  --termination-grace-period-seconds=60)
[[ -z $storage ]] || create+=("--storage=$storage")

[[ $dry_run ]] || need_program xpk
pack "$archive"
run rm -rf "$copy"
run mkdir "$copy"
run tar -xzf "$archive" -C "$copy"
run "${create[@]}" "--command=$command"
if [[ $wait ]]; then
  run xpk workload list "${where[@]}" "--wait-for-job-completion=$workload"
fi
