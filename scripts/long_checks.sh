#!/usr/bin/env bash
# The long forms of checks whose short forms scripts/test.sh runs: thirty stops of a run, thousands of damaged files.
# An hour or so on two cores; the log goes to benchmarks/long_checks.log.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment requirements.txt requirements-test.txt

EAT_STOPS=${EAT_STOPS:-30} python -m pytest -q tests/training/survival/test_stops.py 2>&1 | tee benchmarks/long_checks.log
