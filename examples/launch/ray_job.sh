#!/usr/bin/env bash
# Submit the training to a Ray cluster that runs (`ray start` on every node), and follow its log.
#
#   HARDWARE=2x8gpu RAY_DASHBOARD=http://head:8265 examples/launch/ray_job.sh
#
# The training outlives this script: `ray job stop` ends it. Every node needs this package, the model and the data, at
# the same paths; nothing is uploaded.
set -euo pipefail
source "$(dirname "$0")/command.sh"
command=$(one_line "${train[@]}")
environment=$(runtime_env)
# shellcheck disable=SC2086  # words of a checked line
run ray job submit --address "$RAY_DASHBOARD" --runtime-env-json "$environment" -- $command
