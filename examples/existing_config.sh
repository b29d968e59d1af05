#!/usr/bin/env bash
# StableReinforce in a verl run you already have: two overrides, nothing else changes. Arguments are passed on, so
#   examples/existing_config.sh data.train_files=gsm8k.parquet actor_rollout_ref.model.path=/models/mine trainer.logger=console
set -euo pipefail
exec python -m verl.trainer.main_ppo \
  algorithm.adv_estimator=stable_reinforce \
  actor_rollout_ref.actor.policy_loss.loss_mode=stable_reinforce \
  "$@"
