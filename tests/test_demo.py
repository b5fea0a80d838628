"""The demo, as a newcomer runs it."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from EAT.plot.logs import read_run

from .conftest import ROOT


@pytest.mark.slow
def test_the_demo_does_what_it_says(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "demo.sh")],
        env={**os.environ, "DEMO": str(demo), "EAT_VENV": sys.prefix},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "Traceback" not in done.stdout

    pretraining = read_run(demo / "pretraining")
    assert pretraining["frame_loss"][-1] < 0.8 * pretraining["frame_loss"][0]
    assert pretraining["utterance_loss"][-1] < pretraining["utterance_loss"][0]

    with open(demo / "data" / "label_descriptors.csv", newline="") as descriptors:
        classes = len(list(csv.DictReader(descriptors)))
    accuracy = max(read_run_of_validation(done.stdout))
    assert classes == 10 and accuracy > 3.0 / classes  # chance, for a guess by the clips' frequencies, is below 2 / 10

    clips = (demo / "data" / "eval.tsv").read_text().splitlines()[1:]
    features = list((demo / "features").rglob("*.npy"))
    assert len(features) == len(clips)
    assert all(np.load(feature).shape == (192,) for feature in features)
    for made in (
        "report",
        "pictures/masks.png",
        "pictures/features.png",
        "pictures/map.png",
        "pictures/pretraining.png",
        "pictures/finetuning.png",
    ):
        assert (demo / made).exists(), made


def read_run_of_validation(output: str) -> list[float]:
    """Accuracies that validation logged."""
    import re

    return [float(found) for found in re.findall(r"accuracy[\"':= ]+([\d.]+)", output)]
