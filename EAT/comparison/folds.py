"""What a cross-validation's folds say of a pre-trained model: its frozen features beside those of no training at all.

The rows are the spectrogram's statistics, an untrained network of the model's sizes, and the model; read out by one
rule and judged by one classifier (:mod:`EAT.comparison.judge`), which learns from all folds but that it is tested on. A
classifier is trained in no time, so the clips are divided into folds many times over, and accuracies are means.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..inference.model import load
from ..inference.probe_features import untrained
from .corpus import read_folds
from .judge import Division, Features, Ridge, accuracy, encoded, log_mel

READ = {"mean": "mean of patches", "rows_max": "rows and maxima"}
"""The readouts of the table: the plainest, and the one that keeps most."""


DIVISIONS = 10


class Line(NamedTuple):
    """A row of the table."""

    name: str
    accuracies: tuple[float, ...]
    """One a readout; one alone of a fine-tuned network, which reads itself."""


def divided(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """(clips,) the fold of each clip, drawn so that every fold has as many clips of a class as another, or one more."""
    rng = np.random.default_rng(seed)
    found = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        found[rng.permutation(np.flatnonzero(labels == label))] = np.arange((labels == label).sum()) % folds
    return found


def cross_validated(features: np.ndarray, labels: np.ndarray, folds: int, times: int = DIVISIONS) -> float:
    """Mean accuracy over folds that are drawn so many times.

    Args:
        features: (clips, layers, width) float32.
        labels: (clips,) class numbers.
        folds: three or more.
        times: divisions, of seeds 1, 2, ...
    """
    tests = [Division(tuple(n for n in range(folds) if n != test), (test,)) for test in range(folds)]
    layers = [Ridge(features[:, layer], labels, divided(labels, folds, 1)) for layer in range(features.shape[1])]
    means = []
    for seed in range(1, times + 1):
        for layer in layers:
            layer.regroup(divided(labels, folds, seed))
        means.append(np.mean([accuracy(layers, test) for test in tests]))
    return float(np.mean(means))


def frozen(checkpoint: Path, data: Path, seed: int = 1) -> list[Line]:
    """Accuracies of frozen features by :data:`READ`: the spectrogram's, an untrained network's, the model's.

    Args:
        checkpoint: of the pre-trained model.
        data: with ``fold1/``, ``fold2/``, ... of clips with one label each.
        seed: of the untrained network.

    Raises:
        DataError: where there are fewer than three folds, or a clip cannot be read.
        CheckpointError: where the checkpoint cannot be read.
    """
    task = read_folds(data.name, data)
    model = load(checkpoint)

    def line(name: str, features: Features) -> Line:
        return Line(name, tuple(cross_validated(features[way], task.labels, len(task.names)) for way in READ))

    trained = line("network, pre-trained", encoded(model, task))
    return [
        line("spectrogram's statistics", log_mel(task, model.front_end)),
        line("network, untrained", encoded(untrained(model, seed), task)),
        trained,
    ]


def fine_tuned(name: str, run: Path) -> Line:
    """The accuracy of a cross-validation by ``eat train --folds``: of all its clips."""
    with open(run / "folds.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    clips = [int(row["clips"]) for row in rows]
    right = sum(number * float(row["accuracy"]) for number, row in zip(clips, rows, strict=True))
    return Line(name, (right / sum(clips),))


def wilson(accuracy: float, clips: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy over so many clips, by Wilson's score."""
    z = 1.959964
    middle = (accuracy + z * z / (2 * clips)) / (1 + z * z / clips)
    half = z / (1 + z * z / clips) * math.sqrt(accuracy * (1 - accuracy) / clips + (z / (2 * clips)) ** 2)
    return middle - half, middle + half


def table(lines: Sequence[Line], clips: int) -> str:
    """The table as text: percentages, each with its interval in brackets."""
    width = max(len(line.name) for line in lines)
    text = [f"{'':<{width}}" + "".join(f"{title:>21}" for title in READ.values())]
    for line in lines:
        cells = [(100 * value, *(100 * end for end in wilson(value, clips))) for value in line.accuracies]
        text.append(f"{line.name:<{width}}" + "".join(f"{f'{a:.0f} [{b:.0f}, {c:.0f}]':>21}" for a, b, c in cells))
    return "\n".join(text) + "\n"
