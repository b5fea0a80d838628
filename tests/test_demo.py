"""The demo, as a newcomer runs it."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import EAT
from EAT.inference.model import EATModel
from EAT.network.encoder import Encoder
from EAT.pictures.run_logs import read_log, read_run

from .conftest import CLIPS, ROOT


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
        classes = len(list(csv.reader(descriptors)))
    accuracies = read_run_of_validation(done.stdout)
    accuracy = max(accuracies)
    logged = read_log(demo / "finetuning")["eval"]["accuracy"]
    assert {round(value, 4) for value in logged} <= {
        round(value, 4) for value in accuracies
    }  # as the console prints them
    assert classes == 10 and accuracy > 3.0 / classes  # chance, for a guess by the clips' frequencies, is below 2 / 10

    beats_untrained_encoders(demo / "pretraining" / "checkpoint_last.pt")

    clips = (demo / "data" / "eval.tsv").read_text().splitlines()[1:]
    features = list((demo / "features").rglob("*.npy"))
    assert len(features) == len(clips)
    assert all(np.load(feature).shape == (128,) for feature in features)
    for made in (
        "report",
        "pictures/masks.png",
        "pictures/features.png",
        "pictures/map.png",
        "map.html",
        "pictures/pretraining.png",
        "pictures/finetuning.png",
    ):
        assert (demo / made).exists(), made


def probed(model: EATModel, recordings: list[np.ndarray], families: list[str]) -> float:
    """Accuracy of a linear probe of the last layer's mean patch, three times four-fold cross-validated."""
    with torch.inference_mode():
        features = [patches.mean(dim=0).numpy() for patches in model.extract(recordings, granularity="frame")]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    folds = RepeatedStratifiedKFold(n_splits=4, n_repeats=3, random_state=0)
    return float(cross_val_score(probe, np.stack(features), families, cv=folds).mean())


def beats_untrained_encoders(checkpoint: Path) -> None:
    """The pre-trained encoder, frozen, tells families apart better than untrained ones do."""
    with open(ROOT / "data" / "clips.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    recordings = [soundfile.read(CLIPS / row["file"], dtype="float32")[0] for row in rows]
    families = [row["family"] for row in rows]
    model = EAT.load(checkpoint)
    trained = probed(model, recordings, families)
    untrained = []
    for seed in range(1, 4):
        torch.manual_seed(seed)
        model.network = Encoder(model.network.settings).eval()
        untrained.append(probed(model, recordings, families))
    print(f"frozen linear probe: pre-trained {trained:.3f}, untrained {', '.join(f'{u:.3f}' for u in untrained)}")
    assert trained > np.mean(untrained) + 0.02 and trained > max(untrained)


def read_run_of_validation(output: str) -> list[float]:
    """Accuracies that validation logged."""
    return [float(found) for found in re.findall(r"accuracy[\"':= ]+([\d.]+)", output)]
