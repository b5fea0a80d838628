#!/usr/bin/env bash
# The base installation where little is as in scripts/test.sh: a Python of your choice, and the oldest PyTorch that setup.py
# allows, from PyPI (some gigabytes). The commands run from an empty folder, the tests of what needs no fairseq beside them.
#
#   bash scripts/oldest.sh python3.13 [FOLDER]     FOLDER (default: a temporary one) gets the environment and the results
#
# benchmarks/oldest.log is what it said last.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${1:?"say which Python, such as python3.13"}
folder=${2:-$(mktemp -d)}
oldest=$(sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' "$root/setup.py")

[ -x "$folder/env/bin/python" ] || "$python" -m venv "$folder/env"
export PATH="$folder/env/bin:$PATH" PYTHONWARNINGS=ignore
pip install --quiet "torch==$oldest.*" "torchaudio==$oldest.*" setuptools wheel pytest hypothesis h5py safetensors scikit-learn soxr
mkdir -p "$folder/source" "$folder/wheel" "$folder/empty"
cp -r "$root"/{EAT,config,data,setup.py,pyproject.toml,MANIFEST.in,README.md,LICENSE} "$folder/source"
pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder/wheel" "$folder/source"
pip install --quiet --force-reinstall --no-deps "$folder"/wheel/eat_audio-*.whl
pip install --quiet "$folder"/wheel/eat_audio-*.whl
python -c 'import sys, torch, numpy; print("Python", sys.version.split()[0], "torch", torch.__version__, "numpy", numpy.__version__)'

ln -sfn "$root" "$folder/clone"
cd "$folder/empty"
clips=../clone/data/clips models=../clone/tests/conformance
run() { echo "\$ eat $*"; eat "$@"; }
run extract --source "$clips" --output features --checkpoint "$models/official_pretrain.pt" --num-workers 1
printf '%s\n' 0,a 1,b 2,c 3,d 4,e 5,f > labels.csv
run predict --source "$clips" --checkpoint "$models/official_finetune.pt" --labels labels.csv --output scores.csv
run convert --to huggingface "$models/official_pretrain.pt" converted
run extract --source "$clips" --output again --checkpoint converted --num-workers 0
run prepare folder "$clips" prepared --unlabelled --eval 0 --num-workers 0
run weights list
run doctor
python - <<'END'
from pathlib import Path
import numpy as np
pairs = [(path, Path("again") / path.relative_to("features")) for path in sorted(Path("features").rglob("*.npy"))]
print(len(pairs), "features, converted and not,", max(np.abs(np.load(a) - np.load(b)).max() for a, b in pairs), "apart at most")
END
if eat train --config-name pretraining_demo task.data=prepared; then exit 1; else echo "(as it should be without fairseq)"; fi

cd "$root"
python -m pytest -q -m 'not slow' -p no:cacheprovider tests/network tests/checkpoint/test_reading.py tests/audio/test_recordings.py \
    tests/inference/test_readouts.py tests/inference/test_segments.py tests/data/test_manifest.py
