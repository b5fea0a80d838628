"""Extraction and prediction where nothing is installed but torch, numpy and soundfile."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from .conftest import CONFORMANCE, ROOT
from .environments import link_packages

PACKAGES = ("torch", "torchaudio", "numpy", "soundfile")
ABSENT = ("fairseq", "hydra", "omegaconf", "transformers", "tqdm", "safetensors", "h5py", "matplotlib", "sklearn",
          "huggingface_hub", "ray", "pyarrow")  # fmt: skip

START = """
import importlib.util, runpy, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
for name in sys.argv[3].split(","):
    assert importlib.util.find_spec(name) is None, name
sys.argv = sys.argv[4:]
if sys.argv[0].endswith(".py"):
    runpy.run_path(sys.argv[0], run_name="__main__")
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """A folder of those packages, what they require, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    link_packages(folder, PACKAGES, ABSENT)
    return folder


def run(packages, *arguments):
    """A command where Python sees the checkout and those packages alone (-S leaves site-packages out)."""
    start = [sys.executable, "-S", "-c", START, str(packages), str(ROOT), ",".join(ABSENT)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["OMP_NUM_THREADS"] = "1"
    command = start + [str(argument) for argument in arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_extraction(tmp_path, clips, packages):
    checkpoint = CONFORMANCE / "official_pretrain.pt"
    script = "feature_extract/feature_extract.py"
    done = run(
        packages, script, "--source", *clips[:9], "--output", tmp_path, "--checkpoint", checkpoint, "--num-workers", 1
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(list(tmp_path.glob("*.npy"))) == 9
    assert np.load(tmp_path / f"{clips[0].stem}.npy").shape[1] == 64


def test_prediction(tmp_path, clips, packages):
    (tmp_path / "labels.csv").write_text("\n".join(f"{index},label{index}" for index in range(6)))
    options = ["--checkpoint", CONFORMANCE / "official_finetune.pt", "--labels", tmp_path / "labels.csv"]
    done = run(packages, "EAT.predict", "--source", clips[0], *options, "--format", "json", "--top-k", 3)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(json.loads(done.stdout)[0]["top"]) == 3


@pytest.mark.parametrize(
    "arguments, extra",
    [
        (["--checkpoint", "{c}/hf_pretrain", "--output", "{t}/o"], "eat-audio[huggingface]"),
        (["--checkpoint", "EAT-base_epoch30_pretrain", "--output", "{t}/o"], "eat-audio[hub]"),
        (["--checkpoint", "{c}/official_pretrain.pt", "--output", "{t}/o.h5"], "eat-audio[hdf5]"),
        (["--checkpoint", "{c}/official_pretrain.pt", "--output", "{t}/o", "--ray", "auto"], "eat-audio[ray]"),
    ],
)
def test_what_is_missing_is_named(tmp_path, clips, packages, arguments, extra):
    arguments = [argument.format(c=CONFORMANCE, t=tmp_path) for argument in arguments]
    done = run(packages, "feature_extract/feature_extract.py", "--source", clips[0], *arguments)
    assert done.returncode == 2
    assert extra in done.stderr and "Traceback" not in done.stderr


def test_the_doctor_works_without_any_extra(packages):
    done = run(packages, "EAT.doctor", "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip install 'eat-audio[train]'" in done.stdout and "EAT works here." in done.stdout


def test_the_doctor_names_what_is_missing_of_the_base(tmp_path, packages):
    for entry in packages.iterdir():
        if "soundfile" not in entry.name:
            (tmp_path / entry.name).symlink_to(entry)
    done = run(tmp_path, "EAT.doctor")
    assert done.returncode == 1
    assert done.stderr == "error: soundfile is not installed: pip install soundfile\n"
