#!/usr/bin/env bash
# The long forms of checks whose short forms scripts/test.sh runs: thirty stops of a run, thousands of damaged files.
# An hour or so on two cores; the log goes to benchmarks/long_checks.log.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment requirements.txt requirements-test.txt

log=benchmarks/long_checks.log
: > "$log"
run() { echo "\$ $*" | tee -a "$log"; "$@" 2>&1 | tee -a "$log"; }

run python -m tests.checkpoint.hostile_checkpoints --count 200 --seed 1
run python -m tests.audio.hostile_recordings --count 3000 --seed 2
run python -m tests.audio.hostile_packs --count 5000 --seed 1
EAT_EVERY_RECIPE=1 run python -m pytest -q tests/training/test_every_recipe.py
export EAT_STOPS=${EAT_STOPS:-30}
run python -m pytest -q tests/training/survival/test_stops.py
