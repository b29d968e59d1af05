#!/usr/bin/env bash
# Submit the training to Slurm: one task a node starts Ray there, and the first one runs the training.
#
#   HARDWARE=2x8gpu SBATCH_OPTIONS="--partition=gpu --time=24:00:00" examples/launch/slurm.sh
#
# The same file is the job's script. Slurm runs a copy of it from a folder of its own, so it is told where this one is.
set -euo pipefail
source "${LAUNCH:-$(dirname "$0")}/command.sh"

if [[ -z ${SLURM_JOB_ID:-} ]]; then
  [[ -n ${DRY_RUN:-} ]] || mkdir -p "$OUTPUT"  # Slurm drops the log where its folder is missing
  # shellcheck disable=SC2086  # several options
  run sbatch --job-name="$JOB_NAME" --nodes="$NODES" --ntasks-per-node=1 --gpus-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="$CPUS_PER_NODE" --exclusive --mem=0 --output="$OUTPUT/slurm-%j.log" --export="ALL,LAUNCH=$here" \
    $SBATCH_OPTIONS "$here/slurm.sh" "$@"
  exit
fi

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
export "${worker_env[@]}"  # of the Ray processes that srun starts on every node, and so of the workers
# shellcheck disable=SC2086  # several options
run srun --kill-on-bad-exit=1 --nodes="$NODES" --ntasks-per-node=1 $SRUN_OPTIONS \
  ray symmetric-run --address "$head:6379" --min-nodes "$NODES" \
  --num-gpus="$GPUS_PER_NODE" --num-cpus="$CPUS_PER_NODE" -- "${train[@]}"
