#!/usr/bin/env bash
# Train on this machine. Arguments are further Hydra overrides.
#
#   examples/launch/one_node.sh                      # settings.env says what
#   DRY_RUN=1 examples/launch/one_node.sh            # prints the command
set -euo pipefail
source "$(dirname "$0")/command.sh"
((NODES == 1)) || fail "HARDWARE=$HARDWARE: more than one node needs ray_job.sh, slurm.sh or kuberay.sh"
export "${worker_env[@]}"  # Ray is started here, and its workers inherit
run "${train[@]}"
