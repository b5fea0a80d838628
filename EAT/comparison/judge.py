"""How good frozen features are: ridge regression across groups of clips, with one readout and one rule for all rows.

The layer and the weight of the squared norm are chosen on the training groups alone: each is left out in turn there.
Features are standardised over all of a task's clips, which uses no label, so that one matrix of products serves every
division into training and test clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..audio.recordings import read_audio
from ..inference.model import EATModel
from ..inference.readouts import READOUTS, Summary, summarise
from ..network.front_end import FrontEnd
from ..network.patches import real_patches
from .corpus import Task

PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""Weights of the squared norm that are tried, of features whose mean square is 1 a clip."""
CHOSEN_ON = 3, 2
"""Groups of a task that recipes are chosen on: three of five folds, four of six speakers; the others come last."""

Features = dict[str, np.ndarray]
"""By readout, (clips, layers, width) float32."""


def encoded(model: EATModel, task: Task, batch_size: int = 64) -> Features:
    """Every readout of every block of every clip, in pieces of the length that the model was trained with."""
    layers = tuple(range(1, model.encoder.settings.depth + 1))
    front_end = model.front_end
    length, step = front_end.target_length, front_end.target_length * front_end.hop
    parts: list[tuple[int, Tensor]] = []  # clip, a piece's samples
    for clip, source in enumerate(task.sources):
        waveform = read_audio(source, **front_end.reading())
        starts = range(0, max(1, len(waveform) - front_end.window + 1), step)
        parts += [(clip, waveform[start : start + front_end.samples_for(length)]) for start in starts]
    summaries: dict[int, Summary] = {}
    for first in range(0, len(parts), batch_size):
        batch = parts[first : first + batch_size]
        lengths = torch.tensor([len(samples) for _, samples in batch])
        padded = torch.nn.utils.rnn.pad_sequence([samples for _, samples in batch], batch_first=True)
        with torch.inference_mode():
            filterbank = front_end(padded, lengths)
            tokens = model(filterbank, layers)  # (B, L, 1 + N, D)
        real = real_patches(front_end.real_frames(lengths), model.encoder.grid(length), model.patch_size)
        for row, (clip, _) in enumerate(batch):
            own = summarise(tokens[row : row + 1], model.frequency_patches, real[row : row + 1])
            summaries[clip] = own if clip not in summaries else summaries[clip] + own
    ordered = [summaries[clip] for clip in range(len(task.sources))]
    return {name: torch.cat([own.read(name) for own in ordered]).float().numpy() for name in READOUTS}


def log_mel(task: Task, front_end: FrontEnd) -> Features:
    """Statistics over time of the plain filterbank, as a model of one layer, weakest readout first.

    ``mean``: of each bin; ``rows``: and standard deviation; ``rows_max``: and that of differences in time.
    """
    found: dict[str, list[np.ndarray]] = {"mean": [], "rows": [], "rows_max": []}
    for source in task.sources:
        waveform = read_audio(source, **front_end.reading())
        mel = front_end.spectrogram((waveform - waveform.mean()).unsqueeze(0))[0].numpy()
        steps = np.diff(mel, axis=0) if len(mel) > 1 else np.zeros_like(mel)
        statistics = [mel.mean(axis=0), mel.std(axis=0), steps.std(axis=0)]
        for count, name in enumerate(found, 1):
            found[name].append(np.concatenate(statistics[:count]))
    return {name: np.stack(rows)[:, None].astype(np.float32) for name, rows in found.items()}


class Division(NamedTuple):
    """Which groups a classifier learns from, and which it is tested on."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def divisions(groups: int) -> dict[str, list[Division]]:
    """How a task is judged, by name.

    ``all``: each group left out in turn; ``choice``: the same among the groups that recipes are chosen on;
    ``held_out``: trained on those, tested on each of the others.
    """
    chosen = tuple(range(-(-groups * CHOSEN_ON[0] // sum(CHOSEN_ON))))
    rest = range(len(chosen), groups)

    def left_out(among: Sequence[int]) -> list[Division]:
        return [Division(tuple(g for g in among if g != test), (test,)) for test in among]

    return {
        "all": left_out(range(groups)),
        "choice": left_out(chosen),
        "held_out": [Division(chosen, (test,)) for test in rest],
    }


class Ridge:
    """Ridge regression on one-hot labels with an intercept, from the products of all clips' features.

    Args:
        features: (clips, width), standardised here.
        labels: (clips,) class numbers.
        groups: (clips,) group numbers.
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> None:
        std = features.std(axis=0)
        scaled = (features - features.mean(axis=0)) / np.where(std > 1e-6, std, 1.0)
        x = torch.from_numpy(scaled)
        self.products = (x @ x.T / x.shape[1]).double()  # (clips, clips), mean of the diagonal 1
        self.labels = labels
        self.one_hot = torch.eye(int(labels.max()) + 1, dtype=torch.float64)[torch.from_numpy(labels)]
        self.regroup(groups)

    def regroup(self, groups: np.ndarray) -> None:
        """Divide the clips into other groups, (clips,) numbers."""
        self.groups = groups
        self._known: dict[tuple[tuple[int, ...], int], np.ndarray] = {}

    def accuracies(self, train: tuple[int, ...], test: int) -> np.ndarray:
        """Accuracy on a group, by penalty: (penalties,)."""
        key = (tuple(sorted(train)), test)
        if key not in self._known:
            learnt = torch.from_numpy(np.isin(self.groups, train).nonzero()[0])
            asked = torch.from_numpy((self.groups == test).nonzero()[0])
            k = self.products[learnt][:, learnt]
            mean = k.mean(dim=0)
            centred = k - mean - mean[:, None] + mean.mean()
            other = self.products[asked][:, learnt]
            other = other - other.mean(dim=1, keepdim=True) - mean + mean.mean()
            y = self.one_hot[learnt]
            found = []
            for penalty in PENALTIES:
                ridge = torch.linalg.cholesky(centred + penalty * torch.eye(len(learnt)))
                scores = other @ torch.cholesky_solve(y - y.mean(dim=0), ridge) + y.mean(dim=0)
                found.append((scores.argmax(dim=1).numpy() == self.labels[asked.numpy()]).mean())
            self._known[key] = np.array(found)
        return self._known[key]


def accuracy(layers: Sequence[Ridge], division: Division) -> float:
    """Accuracy on the tested groups, of the layer and penalty that are best when training groups are left out."""
    train, tests = division
    inner = np.array(
        [[layer.accuracies(tuple(g for g in train if g != held), held) for held in train] for layer in layers]
    ).mean(axis=1)  # (layers, penalties)
    layer, penalty = map(int, np.unravel_index(int(inner.argmax()), inner.shape))
    return float(np.mean([layers[layer].accuracies(train, test)[penalty] for test in tests]))


def scores(features: np.ndarray, task: Task) -> dict[str, list[float]]:
    """Accuracies by :func:`divisions`, a number a tested group.

    Args:
        features: (clips, layers, width).
        task: labels and groups.
    """
    layers = [Ridge(features[:, layer], task.labels, task.groups) for layer in range(features.shape[1])]
    return {
        name: [accuracy(layers, division) for division in divided]
        for name, divided in divisions(len(task.names)).items()
    }
