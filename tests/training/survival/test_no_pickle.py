"""Nowhere in the repository is there a way to run what a file holds."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import EAT
from EAT.errors import CheckpointError

from ...conftest import ROOT
from ...fairseq_runs import arguments, environment
from ...hostile import Opens
from ...labelled_clips import write_multi_label

FOLDERS = ("EAT", "feature_extract", "scripts", "benchmarks")
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NAMES = {"eval", "exec", "torch.jit.load", "torch.package.PackageImporter", "yaml.unsafe_load", "yaml.full_load"}
METHODS = {"Unpickler", "unsafe_load", "full_load", "read_pickle"}
SAFE = {"torch.load": ("weights_only", "True"), "numpy.load": ("allow_pickle", "False")}
"""Functions that load nothing but data if a keyword is as it is here; numpy's is so by default."""


def unsafe_places(text: str) -> tuple[list[int], int]:
    """Lines on which what a file holds could be run, whatever names were imported; how many loads were looked at."""
    tree, names = ast.parse(text), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else alias.name.split(".")[0]
                      for alias in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found, looked_at, safe = [], 0, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and full_name(node.func, names) in SAFE:
            name = full_name(node.func, names)
            keyword, wanted = SAFE[name]
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            looked_at += 1
            if given.get(keyword, wanted if name == "numpy.load" else None) == wanted and None not in given:
                safe.add(node.func)
        if isinstance(node, ast.Name | ast.Attribute):
            name = full_name(node, names)
            last = name.split(".")[-1]
            unsafe = name in SAFE and node not in safe
            module = "." in name and name.split(".")[0] in MODULES and not last.endswith("Error")
            if unsafe or name in NAMES or last in METHODS or module:
                found.append(node.lineno)
    return found, looked_at


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """``t.load`` is ``torch.load`` where torch was imported as t."""
    first, _, rest = ast.unparse(node).partition(".")
    return ".".join(filter(None, (names.get(first, first), rest)))


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_in_the_repository_runs_what_a_file_holds(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    looked_at = 0
    for path in paths:
        found, loads = unsafe_places(path.read_text())
        assert not found, f"{path}: lines {found}"
        looked_at += loads
    assert looked_at or folder != "EAT"


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(p)",
        "import torch\ntorch.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=flag)",
        "import torch\ntorch.load(p, **options)",
        "import torch as t\nt.load(p)",
        "from torch import load\nload(p)",
        "from torch import load as read\nread(p)",
        "import torch\nread = torch.load",
        "import functools, torch\nf = functools.partial(torch.load, weights_only=False)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "from numpy import load\nload(p, allow_pickle=True)",
        "import pickle\npickle.loads(b)",
        "from pickle import load\nload(f)",
        "import joblib as j\nj.load(f)",
        "import pandas\npandas.read_pickle(p)",
        "import yaml\nyaml.unsafe_load(s)",
        "eval(s)",
    ],
)
def test_the_scan_finds(text: str) -> None:
    assert unsafe_places(text)[0]


def test_the_scan_lets_safe_loads_pass() -> None:
    text = "import torch, numpy as np\ntorch.load(p, weights_only=True)\nnp.load(p)\nnp.load(p, allow_pickle=False)"
    assert unsafe_places(text) == ([], 3)


@pytest.mark.parametrize("variable", ["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_third_parties_load_no_pickle_either_once_training_is_set_up(tmp_path: Path, variable: str) -> None:
    script = (
        "import sys, pathlib, pickle, torch\n"
        "import EAT.tasks\n"
        "class Opens:\n"
        "    def __reduce__(self):\n"
        "        return open, (sys.argv[1] + '/ran', 'w')\n"
        "torch.save({'args': Opens()}, sys.argv[1] + '/bomb.pt')\n"
        "from fairseq.checkpoint_utils import load_checkpoint_to_cpu\n"
        "try:\n"
        "    load_checkpoint_to_cpu(sys.argv[1] + '/bomb.pt')\n"
        "except pickle.UnpicklingError:\n"
        "    print('refused')\n"
    )
    extra = {variable: "1"} if variable else {}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env=environment(**extra),
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith("refused"), done.stderr[-2000:]
    assert os.listdir(tmp_path) == ["bomb.pt"]


def test_every_way_to_open_a_model_refuses_a_checkpoint_with_code(tmp_path: Path) -> None:
    bomb, data = tmp_path / "bomb.pt", tmp_path / "data"
    state = torch.load(ROOT / "tests" / "conformance" / "official_pretrain.pt", weights_only=True)
    torch.save({**state, "args": Opens(tmp_path / "ran")}, bomb)
    write_multi_label(data)
    with pytest.raises(CheckpointError, match="could run code"):
        EAT.load(bomb)
    convert = [sys.executable, "-m", "EAT.convert", str(bomb), str(tmp_path / "out"), "--to", "huggingface"]
    evaluate = [sys.executable, "-m", "EAT.evaluate", "--data", str(data), "--checkpoint", str(bomb)]
    finetune = arguments(
        "finetuning_AS20K",
        "common.cpu=true",
        "common.bf16=false",
        f"task.data={data}",
        "model.num_classes=12",
        f"model.model_path={bomb}",
        f"checkpoint.save_dir={tmp_path}/run",
    )
    for command in (convert, evaluate, finetune):
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
        assert done.returncode in (1, 2), done.stdout + done.stderr
        assert "could run code" in done.stdout + done.stderr and "Traceback" not in done.stderr, (
            done.stdout + done.stderr
        )
    assert not (tmp_path / "ran").exists()
