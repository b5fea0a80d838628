#!/usr/bin/env bash
# The whole of EAT on the 124 clips that ship with it, in a few minutes on two CPU cores: makes an environment, and runs
# `eat demo` in it. Everything it makes goes to demo/ in the checkout.
#
#   EAT_VENV   where the environment goes (default: .venv)
#   DEMO       where the results go (default: demo)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment requirements.txt
python -m EAT demo "${DEMO:-demo}"
