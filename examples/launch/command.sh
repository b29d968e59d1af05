# shellcheck shell=bash disable=SC2034  # the launchers use the variables
# From settings.env to the command that trains; the launchers read this file. DRY_RUN=1 prints what would be run.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=settings.env
source "$here/settings.env"

fail() {
  echo "$1" >&2
  exit 2
}

for name in MODEL TRAIN_FILES VAL_FILES OUTPUT; do
  [[ ${!name} == /* ]] || fail "$name=${!name}: give an absolute path that is the same on every node"
done
[[ $HARDWARE =~ ^(([0-9]+)x)?([0-9]+)gpu$ ]] ||
  fail "HARDWARE=$HARDWARE: give GPUs such as 8gpu, or nodes and GPUs such as 2x8gpu"
NODES=${BASH_REMATCH[2]:-1}
GPUS_PER_NODE=${BASH_REMATCH[3]}

train=(
  python3 -m verl.trainer.main_ppo
  "+recipe=$RECIPE" "+hardware=$HARDWARE" "judge=$JUDGE"
  "actor_rollout_ref.model.path=$MODEL"
  "data.train_files=$TRAIN_FILES" "data.val_files=$VAL_FILES"
  "trainer.default_local_dir=$OUTPUT/checkpoints"
  "hydra.run.dir=$OUTPUT/hydra" # a job is started in a folder of Ray's head
  "$@"
)

worker_env=()
for name in $WORKER_ENV; do
  [[ -z ${!name:-} ]] || worker_env+=("$name=${!name}")
done

# Ray gives the command of a job to a shell, after quoting that knows spaces only.
one_line() {
  for word in "$@"; do
    [[ $word =~ ^[][A-Za-z0-9_./:,=+@%{}~*-]+$ ]] ||
      fail "$word: what a job is made of cannot have spaces, quotes or signs of the shell"
  done
  echo "$*"
}

runtime_env() {
  python3 -c 'import json, sys; print(json.dumps({"env_vars": dict(one.split("=", 1) for one in sys.argv[1:])}))' \
    "${worker_env[@]}"
}

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    exec "$@"
  fi
}
