#!/usr/bin/env bash
# Runs several_nodes.py, which checks extraction and prediction on a real Ray cluster of several nodes, in an environment
# of its own, and writes what it says to log.txt beside this file. Ray and a stand-in for S3 make half a gigabyte, which is
# why no test of the suite runs it.
#
#   bash tests/commands/cluster/run.sh              the environment in a temporary folder
#   ENVIRONMENT=FOLDER bash .../run.sh              in a folder that is kept and used again
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

ENVIRONMENT=${ENVIRONMENT:-$(mktemp -d)}
PYTHON=${PYTHON:-python3.11}
HERE=tests/commands/cluster
export OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONPATH=$PWD PYTHONWARNINGS=ignore

[ -x "$ENVIRONMENT/bin/python" ] || "$PYTHON" -m venv "$ENVIRONMENT"
"$ENVIRONMENT/bin/pip" install --quiet "$(grep '^torch==' requirements.txt)" soundfile tqdm shtab \
    "$(grep '^pyarrow==' requirements-test.txt)"
size() { du -sm "$ENVIRONMENT" | cut -f1; }
before=$(size) began=$(date +%s)
"$ENVIRONMENT/bin/pip" install --quiet 'ray[data]==2.60.0'
installed="$(($(size) - before)) MB, installed in $(($(date +%s) - began)) s"
"$ENVIRONMENT/bin/pip" install --quiet s3fs 'moto[server]' psutil

{
    echo "Written by $HERE/run.sh on $(date +%F): $("$ENVIRONMENT/bin/python" --version), $(grep '^torch==' requirements.txt),"
    echo "ray[data]==2.60.0 beside torch and pyarrow: $installed."
    "$ENVIRONMENT/bin/python" -u "$HERE/several_nodes.py" 2>&1 | grep --line-buffered -v '[[:space:]]INFO ' |
        sed -u -e "s#$PWD/##g" -e 's#/tmp/tmp[a-z0-9_]*#TEMPORARY#g'
} | tee "$HERE/log.txt"
