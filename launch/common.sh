# shellcheck shell=bash
# Sourced by the launch scripts: one-line errors, commands that can be shown instead of run, the project as an archive.
# Bash 3.2 (macOS) reads it.

script=$(basename "$0")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dry_run=

# Ends the script with one line.
die() {
  echo "$script: $*" >&2
  exit 2
}

# A line about what goes on.
say() {
  echo "$script: $*" >&2
}

# The words as a shell reads them back, on one line.
quoted() {
  local word words=()
  for word in "$@"; do
    if [[ ! $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
      word="'$(printf '%s' "$word" | sed "s/'/'\\\\''/g")'"
    fi
    words+=("$word")
  done
  echo "${words[*]-}"
}

# Runs a command, or shows it in a dry run.
run() {
  if [[ $dry_run ]]; then
    quoted "$@"
  else
    "$@"
  fi
}

# Ends the script: an argument that is no option. The options are those that `usage` lists.
unknown_option() {
  local known
  known=$(usage | sed -n 's/^  \(--[a-z_]*\).*/\1/p' | tr '\n' ' ')
  case " $known" in
    *" $1 "*) die "$1 has no value; give $1=VALUE" ;;
    *" ${1%%=*} "*) die "$1 cannot be used: ${1%%=*} takes no value" ;;
    *) die "$1 is no option; right are ${known% }, and what follows -- goes to the training command" ;;
  esac
}

# Ends the script unless the option NAME got the value VALUE; HINT says what would be right.
need() {
  [[ $2 ]] || die "$1 is missing; $3"
}

# Ends the script unless VALUE of option NAME looks like PATTERN; RIGHT says what it must be.
need_form() {
  [[ $2 =~ $3 ]] || die "$1=$2 cannot be used: it must be $4"
}

# Ends the script unless this machine has the program.
need_program() {
  command -v "$1" >/dev/null || die "$1 is not installed here; --dry_run shows the commands without it"
}

# Ends the script if the training arguments set the workdir; HINT says where it is instead.
no_workdir_among() {
  local hint=$1 argument
  shift
  for argument in "$@"; do
    if [[ $argument =~ ^--?workdir(=|$) ]]; then
      die "$argument after -- cannot be used: $hint"
    fi
  done
}

# Puts the project, uncommitted changes included, into the archive $1.
pack() {
  local name without=()
  for name in ./.git './.venv*' './.*_cache' ./.hypothesis ./runs ./build ./dist __pycache__ '*.egg-info'; do
    without+=("--exclude=$name")
  done
  run mkdir -p "$(dirname "$1")" &&
    run tar -czf "$1" "${without[@]}" -C "$root" .
}
