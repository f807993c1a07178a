#!/usr/bin/env bash
# Trains on a Cloud TPU that is rented for the run.
#
# The life of a run: a queued resource is created or found, and waited for; the project is copied to every worker and
# installed there, a bucket is mounted, and all workers start the same command; its log is shown until it ends. When
# the TPU is taken away meanwhile (--spot), another is asked for and the same command continues from the checkpoints
# in the bucket. The workers train by themselves: this script may be interrupted, and continues when it is started
# again.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<'END'
Trains on a Cloud TPU: launch/tpu_vm.sh OPTIONS -- TRAINING ARGUMENTS

  launch/tpu_vm.sh --name=wolves --zone=us-west4-a --accelerator_type=v5litepod-16 --bucket=my-bucket --spot --delete \
    -- --config=configs/werewolf.py:qwen3_4b --config.ppo.iterations=50

  --name=NAME                 of the queued resource and its TPU; made if it is not there
  --zone=ZONE                 that has this type of TPU, e.g. us-west4-a
  --accelerator_type=TYPE     e.g. v5litepod-16 (v5e), v6e-8, v5p-64, v4-8
  --bucket=BUCKET             Cloud Storage bucket that outlives the TPU and holds the run
  --run=RUN                   folder of the run in the bucket; the default is NAME
  --project=PROJECT           the default is gcloud's
  --runtime_version=VERSION   the default is right for JAX on this type
  --create_flag=FLAG          one more flag for creating the TPU, e.g. --create_flag=--reserved; may be repeated
  --spot                      rents at the low price, and goes on by itself after the TPU was taken away
  --delete                    gives the TPU back when the training command has ended, with success or without
  --poll_seconds=SECONDS      between two looks at the TPU; the default is 30
  --dry_run                   shows the commands and runs none
  --help                      shows this
END
}

name='' zone='' accelerator_type='' bucket='' run_folder='' project='' runtime_version=''
create_flags=() spot='' delete='' poll_seconds=30
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --accelerator_type=*) accelerator_type=${1#*=} ;;
    --bucket=*) bucket=${1#*=} ;;
    --run=*) run_folder=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --runtime_version=*) runtime_version=${1#*=} ;;
    --create_flag=*) create_flags+=("${1#*=}") ;;
    --spot) spot=1 ;;
    --delete) delete=1 ;;
    --poll_seconds=*) poll_seconds=${1#*=} ;;
    --dry_run) dry_run=1 ;;
    --help) usage && exit ;;
    --) shift && break ;;
    *) unknown_option "$1" ;;
  esac
  shift
done
arguments=("$@")

need --name "$name" "give the TPU a name, e.g. --name=wolves"
need --zone "$zone" "give a zone that has this type of TPU, e.g. --zone=us-west4-a"
need --accelerator_type "$accelerator_type" "give a type of TPU, e.g. --accelerator_type=v5litepod-16"
need --bucket "$bucket" "give a Cloud Storage bucket that keeps the run, e.g. --bucket=my-bucket"
need_form --name "$name" '^[a-z]([a-z0-9-]*[a-z0-9])?$' "lower-case letters, digits and dashes, e.g. wolves-1"
need_form --zone "$zone" '^[a-z]+-[a-z]+[0-9]+-[a-z]$' "a zone, e.g. us-west4-a"
need_form --bucket "$bucket" '^[a-z0-9][a-z0-9._-]+$' "the name of a bucket without gs://, e.g. my-bucket"
need_form --poll_seconds "$poll_seconds" '^[0-9]+$' "a whole number of seconds, e.g. 30"
run_folder=${run_folder:-$name}
need_form --run "$run_folder" '^[A-Za-z0-9][A-Za-z0-9._/-]*$' "a folder's name, e.g. wolves-1"
if [[ -z $runtime_version ]]; then # docs.cloud.google.com/tpu/docs/runtimes
  case $accelerator_type in
    v5litepod-*) runtime_version=v2-alpha-tpuv5-lite ;;
    v5p-*) runtime_version=v2-alpha-tpuv5 ;;
    v6e-*) runtime_version=v2-alpha-tpuv6e ;;
    v2-* | v3-* | v4-*) runtime_version=tpu-ubuntu2204-base ;;
    *)
      die "--accelerator_type=$accelerator_type cannot be used: it must begin with v5litepod-, v6e-, v5p- or v4-;" \
        "for another give its --runtime_version as well"
      ;;
  esac
fi
no_workdir_among "the run is kept in gs://$bucket/$run_folder, which --bucket and --run say" \
  ${arguments[@]+"${arguments[@]}"}

################################## Commands ##################################
where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
requests=(gcloud compute tpus queued-resources)
machines=(gcloud compute tpus tpu-vm)
create=("${requests[@]}" create "$name" "--node-id=$name" "--accelerator-type=$accelerator_type"
  "--runtime-version=$runtime_version" "${where[@]}")
[[ -z $spot ]] || create+=(--spot)
create+=(${create_flags[@]+"${create_flags[@]}"})
give_back=("${requests[@]}" delete "$name" "${where[@]}" --force --quiet)
look_at_request=("${requests[@]}" describe "$name" "${where[@]}" '--format=value(state.state)')
look_at_machine=("${machines[@]}" describe "$name" "${where[@]}" '--format=value(state)')
how_to_end="give it back with: $(quoted "${give_back[@]}")"
archive=$HOME/.cache/omar_jax/launch/$name.tar.gz
worker='bash omar_jax/launch/worker.sh'

# Runs COMMAND on WORKER, a number or all.
on_worker() {
  run "${machines[@]}" ssh "$name" "${where[@]}" --quiet "--worker=$1" "--command=$2"
}

prepare() {
  pack "$archive" &&
    run "${machines[@]}" scp "$archive" "$name:omar_jax.tar.gz" "${where[@]}" --quiet --worker=all &&
    on_worker all "rm -rf omar_jax && mkdir omar_jax && tar -xzf omar_jax.tar.gz -C omar_jax && $worker install tpu" &&
    on_worker all "$worker mount $bucket"
}

start() {
  on_worker all "$worker start $(quoted "$run_folder" ${arguments[@]+"${arguments[@]}"})"
}

if [[ $dry_run ]]; then
  run "${look_at_request[@]}"
  run "${create[@]}"
  run "${look_at_machine[@]}"
  on_worker 0 "$worker status"
  prepare
  start
  on_worker 0 "$worker follow +1"
  on_worker 0 "$worker status"
  [[ -z $delete ]] || run "${give_back[@]}"
  exit
fi
need_program gcloud

################################### States ###################################
# What a command that looks at a state says; MISSING if there is nothing; UNKNOWN, and why, if it cannot be told.
state_of() {
  local answer
  if answer=$("$@" 2>&1); then
    echo "${answer##*$'\n'}"
  elif [[ $answer == *NOT_FOUND* || $answer == *"not found"* ]]; then
    echo MISSING
  else
    echo "$answer" >&2
    echo UNKNOWN
  fi
}

# Whether the TPU is being taken away, or was.
is_gone() {
  case $(state_of "${look_at_request[@]}") in SUSPENDING | SUSPENDED | MISSING) return 0 ;; esac
  case $(state_of "${look_at_machine[@]}") in PREEMPTED | TERMINATED | MISSING) return 0 ;; esac
  return 1
}

# The same, for a training command that ended badly: it may notice before the states do.
goes_soon() {
  local look
  for ((look = 0; look < 6; look++)); do
    ! is_gone || return 0
    sleep "$poll_seconds"
  done
  return 1
}

# Returns when the TPU is ready. One that was taken away is replaced: its name must be free for the next.
get_machine() {
  local state before='' unknown=0
  while true; do
    state=$(state_of "${look_at_request[@]}")
    if [[ $state == ACTIVE ]]; then
      state=$(state_of "${look_at_machine[@]}")
      [[ $state != MISSING ]] || state=GONE
    fi
    [[ $state == "$before" ]] || say "$name is $state"
    before=$state
    case $state in
      READY) return ;;
      MISSING) "${create[@]}" || die "gcloud could not create $name; it said why above" ;;
      SUSPENDED | PREEMPTED | TERMINATED | GONE) "${give_back[@]}" || die "gcloud could not delete $name, which is $state" ;;
      FAILED) die "the request for $name has FAILED; '$(quoted "${give_back[@]}")' removes it" ;;
      STOPPED) die "$name is STOPPED; '$(quoted "${machines[@]}" start "$name" "${where[@]}")' starts it" ;;
      UNKNOWN) ((++unknown < 10)) || die "gcloud could not tell the state of $name 10 times; it said why above" ;;
    esac
    sleep "$poll_seconds"
  done
}

# A machine that has just come up may refuse for a while.
await_ssh() {
  local attempt
  for ((attempt = 0; attempt < 10; attempt++)); do
    ! on_worker all true || return 0
    sleep "$poll_seconds"
  done
  return 1
}

# Of the training command on worker 0: running, lost, none, its exit status, or nothing if it cannot be told.
training_status() {
  on_worker 0 "$worker status" 2>/dev/null | tail -n 1 | grep -Ex 'running|lost|none|[0-9]+' || true
}

# Gets all workers to train, unless they do.
set_off() {
  await_ssh || return
  if [[ $(training_status) != running ]]; then
    say "installing on every worker"
    prepare || return
  fi
  start
}

# Shows the log until the training command has ended; sets `ended` to its exit status, lost, or gone with the TPU.
follow() {
  local lines=+1 failures=0
  while true; do
    on_worker 0 "$worker follow $lines" || true
    ended=$(training_status)
    case $ended in
      running) lines=10 failures=0 ;; # only the connection broke
      '')
        if is_gone; then
          ended=gone
          return
        fi
        ((++failures < 10)) || die "$name cannot be reached; the training goes on, and the same command follows it"
        ;;
      *) return ;;
    esac
    sleep "$poll_seconds"
  done
}

#################################### Run #####################################
trap 'say "what runs on $name goes on, and costs; the same command follows it; $how_to_end"; exit 130' INT

while true; do
  get_machine
  if set_off; then
    follow
  else
    ended=unprepared
  fi
  if [[ $spot && $ended != 0 ]]; then
    say "the training command: $ended; looking whether $name is being taken away"
    if goes_soon; then
      say "it is; asking for another"
      continue
    fi
  fi
  break
done

case $ended in
  0) say "the training has ended; the run is in gs://$bucket/$run_folder" ;;
  unprepared) die "the training could not be started on $name; it is said above why; $how_to_end" ;;
  gone) die "$name was taken away; the same command asks for another and continues" ;;
  lost | none) die "the training command is not there, maybe after a restart of $name; the same command continues it" ;;
  143) say "the training was stopped by SIGTERM; the same command continues it" ;;
  *)
    say "the training command failed with status $ended; the last lines of every worker:"
    on_worker all "tail -n 20 omar_jax_state/log" || true
    ;;
esac
if [[ $delete ]]; then
  "${give_back[@]}"
else
  say "$name is still rented; $how_to_end"
fi
exit "$ended"
