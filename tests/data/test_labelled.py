"""Labelled clips: targets, and random numbers that follow from seed, epoch and clip alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from EAT.data.augmentation import AUGMENTATIONS, Augmentations, AugmentationSettings
from EAT.data.labelled import LabelledClips
from EAT.data.manifest import Manifest
from EAT.errors import DataError
from EAT.network.front_end import FrontEnd

EVERYTHING = Augmentations(
    AugmentationSettings(
        mixup_alpha=0.8, mixup_prob=1.0, time_mask=0.2, frequency_mask=0.2, roll=True, gain=10.0, noise=0.1, shift=10
    )
)


def clips_of(folder: Path, **changes) -> LabelledClips:
    manifest = Manifest(folder / "train.tsv")
    settings = {
        "labels": [[index % 3] + [3] * (index % 2) for index in range(len(manifest))],
        "classes": 5,
        "multi_label": True,
        "augmentations": EVERYTHING,
        **changes,
    }
    return LabelledClips(manifest, FrontEnd(64, -8.0, 5.0), "random", "device", 1, **settings)


def test_targets_by_hand(clip_manifest: Path) -> None:
    assert clips_of(clip_manifest).targets([5, 0]).tolist() == [[0, 0, 1, 1, 0], [1, 0, 0, 0, 0]]


def equal(one: dict, other: dict) -> bool:
    pairs = [(one[key], other[key]) for key in ("waveforms", "lengths", "targets")]
    pairs += [(one["drawn"][name], other["drawn"][name]) for name in one["drawn"]]
    return len(one["drawn"]) == len(other["drawn"]) == len(AUGMENTATIONS) and all(torch.equal(*pair) for pair in pairs)


def test_workers_and_repetition_change_nothing_and_epochs_everything(clip_manifest: Path) -> None:
    batches = {}
    for workers in (0, 2):
        dataset = clips_of(clip_manifest)
        dataset.set_epoch(3)
        loader = DataLoader(dataset, batch_size=4, num_workers=workers, collate_fn=dataset.collate)
        batches[workers] = [batch for batch, _ in zip(loader, range(3), strict=False)]
    assert all(equal(one, other) for one, other in zip(batches[0], batches[2], strict=True))
    dataset = clips_of(clip_manifest)
    dataset.set_epoch(4)
    later = dataset.collate([dataset[index] for index in range(4)])
    for name in ("mixup", "time_mask", "noise"):
        assert not torch.equal(later["drawn"][name], batches[0][0]["drawn"][name])
    assert not torch.equal(later["waveforms"], batches[0][0]["waveforms"])


def test_a_clip_draws_the_same_in_any_batch(clip_manifest: Path) -> None:
    dataset = clips_of(clip_manifest)
    one, other = dataset.collate([dataset[7], dataset[2]]), dataset.collate([dataset[2]])
    for name in ("time_mask", "frequency_mask", "noise", "shift"):
        assert torch.equal(one["drawn"][name][1], other["drawn"][name][0])
        assert one["drawn"][name].dtype == torch.float64  # float32 would be halved on its way to the device


def test_without_augmentation_clips_are_as_recorded(clip_manifest: Path) -> None:
    dataset = clips_of(clip_manifest, augmentations=None)
    batch = dataset.collate([dataset[0]])
    assert "drawn" not in batch
    assert torch.equal(
        dataset[0]["waveform"],
        clips_of(clip_manifest, augmentations=Augmentations(AugmentationSettings()))[0]["waveform"],
    )


def test_an_empty_batch_still_has_targets(clip_manifest: Path) -> None:
    batch = clips_of(clip_manifest).collate([])
    assert batch["clips"] == [] and batch["targets"].shape == (0, 5) and len(batch["drawn"]["noise"]) == 0


def test_several_labels_where_one_is_asked_for(clip_manifest: Path) -> None:
    with pytest.raises(DataError, match=r"ambi_dark_woosh.flac in .*train.tsv has 2 labels"):
        clips_of(clip_manifest, multi_label=False)


def test_labels_take_a_few_bytes_a_clip(clip_manifest: Path) -> None:
    dataset = clips_of(clip_manifest)
    assert dataset._labels.dtype == np.int32 and dataset._labels.nbytes + dataset._starts.nbytes < 20 * len(dataset)
