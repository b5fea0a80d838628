#!/usr/bin/env bash
# Sets up the environment (see environment.sh) and runs everything that guards users: style, types and all tests.
#
#   bash scripts/test.sh            everything
#   bash scripts/test.sh -k masks   pytest's own options choose tests
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment requirements.txt requirements-test.txt

ruff check .
ruff format --check .
mypy
# Two files at a time, a thread each: most tests wait for processes that they start.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
