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
from ...labelled_clips import write_multi_label

FOLDERS = ("EAT", "feature_extract", "scripts", "benchmarks", "examples")
UNSAFE = {"Unpickler", "unsafe_load", "full_load", "read_pickle"}


def sources() -> list[Path]:
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    assert len(found) > 80
    return found


def name_of(function: ast.expr) -> str:
    return ast.unparse(function)


def test_every_load_says_weights_only_and_nothing_else_runs_data() -> None:
    seen = 0
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name, where = name_of(node.func), f"{path}:{node.lineno}"
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name == "torch.load":
                seen += 1
                assert keywords.get("weights_only") == "True", where
            if name in ("np.load", "numpy.load"):
                assert keywords.get("allow_pickle", "False") == "False", where
            assert not name.startswith(("pickle.", "dill.", "joblib.load", "shelve.", "marshal.")), where
            assert name not in ("eval", "exec"), where
            assert name.split(".")[-1] not in UNSAFE, where
    assert seen


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


class Opens:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return open, (str(self.marker), "w")


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
