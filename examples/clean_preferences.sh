#!/usr/bin/env bash
# Clean a preference file: keep the pairs whose better response a reward model prefers clearly, in both orders.
#
#   examples/clean_preferences.sh preferences.jsonl cleaned http://host:8001/v1
#
# preferences.jsonl: TRL's preferences, VL-RewardBench, or a file of `r1reward data`. cleaned/pairs.jsonl is in TRL's form.
# With --min-margin 1 both orders must agree; without --agreeing pairs whose label is wrong are turned around instead.
set -euo pipefail
preferences=$1 out=$2 server=$3
r1reward judge "$preferences" "$out" --url "$server" --agreeing --min-margin 1
