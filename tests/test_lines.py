"""docs/lines.md: what a task takes, here and with transformers, is run as the table has it, and counted."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import ROOT, import_torchaudio
from .test_docs import GUIDES, code_blocks, commands, environment, sandbox  # noqa: F401, a checkout as a reader has it

ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "lines.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| task")
]
MADE = {
    "vectors of a folder, as a table": "vectors.parquet",
    "when which class sounds in a long recording": "street.csv",
    "the best classifier for it, and a page of its mistakes": "report/report.html",
    "pre-training on a folder": "checkpoints/pretraining_demo/checkpoint_last.pt",
    "a model without Python": "scores.onnx",
}
SHOWN = {
    "a vector of a file": "tuple(vector.shape) == (64,)",
    "what is heard when": "len(embeddings) == len(start) and abs(float(start[1]) - hop) < 1e-6",
    "classes of a file by name": "len(scores) == 3 and scores[0].label.startswith('Sound, number')",
    "a classifier for a folder of classes, today": "set(model.predict(files)) == {'bass', 'drum', 'electronic'}",
}
"""What is true afterwards of each task's result: a file, or something in Python."""
WITH_TRANSFORMERS = {
    "a vector of a file": "tuple(vector.shape) == (1, 32)",
    "classes of a file by name": "len(scores) == 2",
}


def lines(cell: str) -> list[str]:
    """The lines of a cell, of which it says how many they are."""
    found = re.match(r"(\d+): ((?:`[^`]+`(?:<br>)?)+)", cell)
    assert found is not None, cell
    code = re.findall(r"`([^`]+)`", found[2])
    assert len(code) == int(found[1]), cell
    return code


def run_python(code: list[str], then: str) -> None:
    names: dict[str, object] = {}
    exec("\n".join(code), names)
    assert eval(then, names), code


@pytest.mark.parametrize("task, here", [row[:2] for row in ROWS], ids=[row[0] for row in ROWS])
def test_lines_do_what_the_table_says(task: str, here: str, sandbox: Path, monkeypatch) -> None:  # noqa: F811
    """Commands that stand in a guide's shell block are run there, by tests/test_docs.py."""
    code = lines(here)
    if task in SHOWN:
        monkeypatch.chdir(sandbox)
        run_python(code, SHOWN[task])
        return
    elsewhere = [command for guide in GUIDES for block in code_blocks(guide, "bash") for command in commands(block)]
    if set(code) <= set(elsewhere):
        return
    for command in code:
        done = subprocess.run(
            ["bash", "-c", command], cwd=sandbox, env=environment(sandbox), capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert (sandbox / MADE[task]).stat().st_size > 0


@pytest.mark.parametrize("task", WITH_TRANSFORMERS)
def test_lines_with_transformers_do_too(task: str, sandbox: Path, monkeypatch) -> None:  # noqa: F811
    import_torchaudio()  # transformers imports it where it is installed
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    monkeypatch.chdir(sandbox)
    config = ASTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    ASTForAudioClassification(config).save_pretrained("AST")
    ASTFeatureExtractor().save_pretrained("AST")
    code = lines(next(row[2] for row in ROWS if row[0] == task))
    if "pipeline" in code[-1] and shutil.which("ffmpeg") is None:
        with pytest.raises(ValueError, match="ffmpeg was not found"):
            run_python(code, WITH_TRANSFORMERS[task])
    else:
        run_python(code, WITH_TRANSFORMERS[task])
