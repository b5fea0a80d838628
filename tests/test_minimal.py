"""Extraction and prediction where nothing is installed but torch, numpy and soundfile."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from .conftest import CONFORMANCE, ROOT

BLOCKED = """
import importlib.metadata, re, sys

ALLOWED = {"torch", "torchaudio", "numpy", "soundfile", "eat-audio"}
waiting = set(ALLOWED)
while waiting:  # and what these bring with them
    try:
        needs = importlib.metadata.requires(waiting.pop()) or []
    except importlib.metadata.PackageNotFoundError:
        continue
    for need in needs:
        name = re.match(r"[\\w.-]+", need)[0].lower()
        if "extra ==" not in need and name not in ALLOWED and name != "tqdm":
            ALLOWED.add(name)
            waiting.add(name)
ALLOWED = {name.replace("_", "-").lower() for name in ALLOWED}
MODULES = {
    module
    for module, packages in importlib.metadata.packages_distributions().items()
    if not {package.replace("_", "-").lower() for package in packages} & ALLOWED
}

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in MODULES:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocked())
for name in ("fairseq", "hydra", "omegaconf", "tqdm", "safetensors", "h5py", "matplotlib", "sklearn"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} should be blocked")
import runpy
sys.argv = sys.argv[1:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__")
"""


def run(*arguments):
    command = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_extraction(tmp_path, clips):
    checkpoint = CONFORMANCE / "official_pretrain.pt"
    script = "feature_extract/feature_extract.py"
    done = run(script, "--source", *clips[:9], "--output", tmp_path, "--checkpoint", checkpoint, "--num-workers", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.iterdir())) == 9
    assert np.load(tmp_path / f"{clips[0].stem}.npy").shape[1] == 64


def test_prediction(tmp_path, clips):
    (tmp_path / "labels.csv").write_text("\n".join(f"{index},label{index}" for index in range(6)))
    options = ["--checkpoint", CONFORMANCE / "official_finetune.pt", "--labels", tmp_path / "labels.csv"]
    done = run("EAT.predict", "--source", clips[0], *options, "--format", "json", "--top-k", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)[0]["top"]) == 3


@pytest.mark.parametrize(
    "arguments, extra",
    [
        (["--checkpoint", "{c}/hf_pretrain", "--output", "{t}/o"], "eat-audio[huggingface]"),
        (["--checkpoint", "{c}/official_pretrain.pt", "--output", "{t}/o.h5"], "eat-audio[hdf5]"),
    ],
)
def test_what_is_missing_is_named(tmp_path, clips, arguments, extra):
    arguments = [argument.format(c=CONFORMANCE, t=tmp_path) for argument in arguments]
    done = run("feature_extract/feature_extract.py", "--source", clips[0], *arguments)
    assert done.returncode == 2
    assert extra in done.stderr and "Traceback" not in done.stderr
