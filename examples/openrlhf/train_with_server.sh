#!/usr/bin/env bash
# Train a policy in OpenRLHF with a reward model that compares the samples of a prompt with each other.
#
#   examples/openrlhf/train_with_server.sh http://host:8001/v1 8 \
#     python -m openrlhf.cli.train_ppo_ray --n_samples_per_prompt 8 ...
#
# Starts `r1reward serve` before the reward model's servers, waits until it is ready, runs the training with
# --remote_rm_url, and stops the service. PORT chooses another port. OpenRLHF from 0.10.2 on calls the option
# --reward.remote_url: set OPTION.
set -euo pipefail
model=$1 samples=$2
shift 2
port=${PORT:-8080}
r1reward serve --url "$model" --port "$port" &
service=$!
trap 'kill "$service" 2>/dev/null; wait "$service" || true' EXIT
until curl --silent --fail --output /dev/null "http://127.0.0.1:$port/ready"; do
  kill -0 "$service" || exit 1
  sleep 0.5
done
"$@" "${OPTION:---remote_rm_url}" "http://127.0.0.1:$port/get_reward?cohort=$samples"
