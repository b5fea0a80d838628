"""Heads that are trained on frozen features: what they learn, and a run that is stopped and goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import EAT
from EAT.data.labels import read_descriptors, read_lbl
from EAT.data.manifest import Manifest
from EAT.errors import CheckpointError, ConfigError
from EAT.inference import head_training
from EAT.inference.evaluation import one_hot
from EAT.inference.head_training import NAMES, HeadTraining, batches_of, measure_heads, train_heads
from EAT.pictures.layer_weights import draw_layer_weights

from ..conftest import CONFORMANCE
from ..labelled_clips import write_single_label


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> tuple[EAT.EATModel, Manifest, np.ndarray]:
    data = tmp_path_factory.mktemp("data")
    labels = write_single_label(data)
    manifest = Manifest(data / "train.tsv")
    truth = one_hot(
        read_lbl(data / "train.lbl", manifest, read_descriptors(data / "label_descriptors.csv")), len(labels)
    )
    model = EAT.load(CONFORMANCE / "bat_pretrain.pt")
    model.front_end = replace(model.front_end, target_length=64)
    return model, manifest, truth


def train(clips: tuple, place: Path, several: bool = False, **settings: object) -> dict[str, torch.nn.Module]:
    model, manifest, truth = clips
    training = HeadTraining(**{"heads": NAMES, "updates": 6, "batch_size": 10, "prototypes": 20, **settings})
    return train_heads(model, manifest, truth, several, model.front_end, training, 0, place, "weights")


def test_every_epoch_sees_every_clip_in_another_order() -> None:
    batches = batches_of(25, HeadTraining(("cgp",), updates=9, batch_size=10))
    assert [len(batch) for batch in batches] == [10, 10, 5] * 3
    epochs = [[*batches[start], *batches[start + 1], *batches[start + 2]] for start in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(25)) for epoch in epochs) and epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("several", [False, True])
def test_heads_learn_the_clips_they_were_given(clips: tuple, tmp_path: Path, several: bool) -> None:
    model, manifest, truth = clips
    heads = train(clips, tmp_path, several, updates=30, batch_size=24, prototypes=100, rate=0.05, dropout=0.0)
    numbers, results = measure_heads(model, heads, manifest, model.front_end, 8, 0, "test")
    assert list(numbers) == list(range(24))
    for name, result in results.items():
        right = (result.scores.argmax(axis=1) == truth.argmax(axis=1)).mean()
        assert right > 0.5, name
        assert result.layers.sum() == pytest.approx(1, abs=1e-6)
        assert len(result.layers) == (1 if name == "linear" else 3)


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    clips: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(clips, tmp_path / "whole")
    monkeypatch.setattr(head_training, "SAVE_SECONDS", -1.0)
    steps, step = [], head_training._step

    def stopping(*arguments: object) -> None:
        if len(steps) == 3 * len(NAMES):
            raise KeyboardInterrupt
        steps.append(1)
        step(*arguments)

    monkeypatch.setattr(head_training, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(clips, tmp_path / "part")
    steps.clear()
    resumed = train(clips, tmp_path / "part")
    assert len(steps) == 3 * len(NAMES)  # the other three updates
    for name, head in whole.items():
        for key, value in head.state_dict().items():
            assert torch.equal(resumed[name].state_dict()[key], value), (name, key)
    steps.clear()
    train(clips, tmp_path / "part")
    assert not steps  # all is there
    (tmp_path / "part" / next(p.name for p in (tmp_path / "part").iterdir())).write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="remove it to begin anew"):
        train(clips, tmp_path / "part")


def test_weight_decay_acts_on_linear_weights_alone(clips: tuple) -> None:
    training = HeadTraining(NAMES)
    for name, head in training.build(clips[0], 3).items():
        names = {id(p): n for n, p in head.named_parameters()}
        groups = training.optimizer(head).param_groups
        decayed = sorted(names[id(p)] for group in groups if group["weight_decay"] for p in group["params"])
        assert decayed == (["fc.weight", "kv.weight", "proj.weight"] if name == "attentive" else ["fc.weight"])


def test_what_cannot_be_trained() -> None:
    with pytest.raises(ConfigError, match="a name in --heads is 'gcp'; it must be one of cgp, lcgp, attentive, linear"):
        HeadTraining(("gcp",))
    with pytest.raises(ConfigError, match="--updates is 1"):
        HeadTraining(("cgp",), updates=1)


def test_layer_weights_are_drawn() -> None:
    figure = draw_layer_weights({"cgp": np.array([0.2, 0.5, 0.3]), "lcgp": np.array([0.1, 0.1, 0.8])})
    heights = [[bar.get_height() for bar in axes.patches] for axes in figure.axes]
    assert heights == [[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]
