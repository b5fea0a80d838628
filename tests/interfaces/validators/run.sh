#!/usr/bin/env bash
# Runs the programs that judge an interface against ours, each in an environment of its own, and writes what each says to
# NAME.txt beside this file. They bring TensorFlow and more, which is why no test of the suite runs them.
#
#   bash tests/interfaces/validators/run.sh              all: hear, baseline, xares, mteb; environments in a temporary folder
#   bash tests/interfaces/validators/run.sh mteb         one of them
#   ENVIRONMENTS=FOLDER bash .../run.sh                  in a folder that is kept and used again
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."

ENVIRONMENTS=${ENVIRONMENTS:-$(mktemp -d)}
PYTHON=${PYTHON:-python3.11}
CHECKPOINT=tests/conformance/official_pretrain.pt
MODEL=", the small conformance checkpoint (width 64, 3 blocks)"
HERE=tests/interfaces/validators
export OMP_NUM_THREADS=2 TF_CPP_MIN_LOG_LEVEL=3 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONPATH=$PWD PYTHONWARNINGS=ignore

environment() { # name, packages: made once; torch first, so that nothing else chooses a build of it
    local folder="$ENVIRONMENTS/$1"
    shift
    [ -x "$folder/bin/python" ] || "$PYTHON" -m venv "$folder"
    "$folder/bin/pip" install --quiet "$(grep '^torch==' requirements.txt)" soundfile tqdm safetensors
    "$folder/bin/pip" install --quiet "$@"
}

judge() { # name, title, command: its output goes to the log, without progress bars and this machine's paths
    local log="$HERE/$1.txt" title="$2"
    shift 2
    {
        echo "Written by $HERE/run.sh on $(date +%F): Python $("$PYTHON" -c 'import platform; print(platform.python_version())'),"
        echo "$(grep '^torch==' requirements.txt)$MODEL."
        echo
        echo "## $title"
        "$@" 2>&1 | tr '\r' '\n' | grep -v -e '%|' -e 'it/s' -e 's/it' -e '^\s*$' -e absl:: -e '^I0000' -e 'Epoch: ' |
            sed -e 's/\x1b\[[0-9;]*m//g' -e "s#$PWD/##g" -e "s#$ENVIRONMENTS#ENVIRONMENTS#g" \
                -e 's#/tmp/tmp[a-z0-9_]*#TEMPORARY#g'
    } | tee "$log"
}

[ $# -gt 0 ] || set -- hear baseline xares mteb
for name in "$@"; do
    case $name in
        hear)
            environment hear hearvalidator==2021.0.2
            version=$("$ENVIRONMENTS/hear/bin/pip" list 2> /dev/null | awk '$1 == "tensorflow" {print $1, $2}')
            judge hear "hear-validator 2021.0.2 ($version)" \
                "$ENVIRONMENTS/hear/bin/hear-validator" EAT.interfaces.hear --model "$CHECKPOINT" --device cpu
            ;;
        baseline)
            environment baseline librosa==0.9.2 "setuptools<81" "numpy<2"
            "$ENVIRONMENTS/baseline/bin/pip" install --quiet --no-deps hearbaseline==2021.1.1 # it asks for all its models want
            MODEL="" judge baseline "hearbaseline 2021.1.1: the lines that docs/lines.md has of it, as they stand" \
                "$ENVIRONMENTS/baseline/bin/python" "$HERE/baseline_lines.py"
            ;;
        xares)
            environment xares xares==0.1.3 transformers==5.24.0 pytest
            judge xares "xares 0.1.3: its check of an encoder, then one of its tasks, on the clips in data/" \
                "$ENVIRONMENTS/xares/bin/python" "$HERE/xares_task.py" "$CHECKPOINT"
            ;;
        mteb)
            environment mteb mteb==2.26.24 pytest
            judge mteb "mteb 2.26.24: its protocol of an encoder, then a classification and a clustering, on the clips in data/" \
                "$ENVIRONMENTS/mteb/bin/python" "$HERE/mteb_task.py" "$CHECKPOINT"
            ;;
        *)
            echo "there is no $name; give some of hear, baseline, xares, mteb" >&2
            exit 2
            ;;
    esac
done
