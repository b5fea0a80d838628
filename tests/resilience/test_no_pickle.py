"""Nowhere in the repository is there a way to run what a file holds."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT
from ..fairseq_runs import environment

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
