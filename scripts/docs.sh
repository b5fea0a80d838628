#!/usr/bin/env bash
# The API reference, built from docstrings; a warning is an error. The first page is build/reference/index.html.
#
#   REFERENCE   where it goes (default: build/reference in the checkout)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_environment requirements.txt requirements-test.txt
python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env docs/reference "${REFERENCE:-build/reference}"
