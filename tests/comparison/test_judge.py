"""The judge: scikit-learn's ridge, groups apart, choices on training groups alone, features as users extract them."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge as SklearnRidge

import EAT
from EAT.audio.recordings import read_audio
from EAT.comparison.corpus import Task, read_task
from EAT.comparison.judge import PENALTIES, Ridge, divisions, encoded, log_mel, scores
from EAT.network.front_end import FrontEnd, filterbank


def made(seed=0, clips=90, groups=6, width=12, classes=3, informative=1, layers=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, clips)
    features = rng.normal(size=(clips, layers, width)).astype(np.float32) * rng.uniform(0.1, 9, width).astype(
        np.float32
    )
    features[np.arange(clips), informative, labels] += 30.0
    return features, labels, rng.permutation(clips) % groups


@pytest.mark.parametrize("width", [12, 400])
def test_accuracies_are_those_of_scikit_learn_s_ridge(width):
    features, labels, groups = made(width=width)
    x = features[:, 0].astype(np.float64)
    x[:, 0] += labels  # something to find
    ours = Ridge(x.astype(np.float32), labels, groups).accuracies((0, 2, 3), 5)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    learnt, asked = np.isin(groups, (0, 2, 3)), groups == 5
    for penalty, accuracy in zip(PENALTIES, ours, strict=True):
        reference = SklearnRidge(alpha=penalty * width).fit(standard[learnt], np.eye(3)[labels[learnt]])
        assert accuracy == (reference.predict(standard[asked]).argmax(axis=1) == labels[asked]).mean()


def test_groups_are_never_on_both_sides_and_those_held_out_are_not_chosen_on():
    for groups in (5, 6):
        divided = divisions(groups)
        for train, test in itertools.chain(*divided.values()):
            assert not set(train) & set(test)
        assert {g for _, test in divided["all"] for g in test} == set(range(groups))
        chosen = {g for division in divided["choice"] for part in division for g in part}
        assert chosen == set(range({5: 3, 6: 4}[groups]))
        assert {g for _, test in divided["held_out"] for g in test} == set(range(groups)) - chosen
        assert all(set(train) == chosen for train, _ in divided["held_out"])


def test_the_layer_is_chosen_without_the_tested_group():
    """A layer that gives the answer away in one group alone is worth nothing to the others."""
    features, labels, groups = made(informative=0, layers=2)
    features[:, 1] = np.random.default_rng(5).normal(size=features[:, 1].shape)
    features[groups == 0, 1, labels[groups == 0]] += 100.0
    task = Task("made", [""] * len(labels), labels, groups, list("abcdef"))
    assert scores(features, task)["all"] == scores(features[:, :1], task)["all"]
    assert np.mean(scores(features[:, :1], task)["all"]) > 0.9


def test_features_are_those_that_users_extract(data_with_groups, conformance):
    model = EAT.load(conformance / "official_pretrain.pt")
    model.front_end = replace(model.front_end, target_length=256)
    task = read_task("families", data_with_groups)
    features, several = encoded(model, task), 0
    for clip in range(0, len(task.sources), 17):
        waveform = read_audio(task.sources[clip])
        pieces = [waveform[start:][: FrontEnd(256).samples] for start in range(0, len(waveform) - 399, 256 * 160)]
        several += len(pieces) > 1
        vectors = torch.stack([model.extract(piece, layer=[1, 3], target_length=256, granularity="rows_max")
                               for piece in pieces])  # fmt: skip
        steps = torch.tensor([-(-FrontEnd(256).frames(len(piece)) // 16) for piece in pieces]).view(-1, 1, 1)
        means, largest = vectors.chunk(2, dim=-1)
        means = (means * steps).sum(dim=0) / steps.sum()
        expected = {
            "mean": means.unflatten(-1, (8, 64)).mean(dim=1),
            "rows": means,
            "rows_max": torch.cat([means, largest.amax(dim=0)], dim=-1),
        }
        for readout, value in expected.items():
            assert np.allclose(features[readout][clip][[0, 2]], value, atol=1e-4)
    assert several > 0
    mel = log_mel(task, model.front_end)
    wave = read_audio(task.sources[3])
    frames = filterbank(wave - wave.mean()).numpy()
    by_hand = np.concatenate([frames.mean(axis=0), frames.std(axis=0), (frames[1:] - frames[:-1]).std(axis=0)])
    assert np.allclose(mel["rows_max"][3, 0], by_hand, atol=1e-4)
