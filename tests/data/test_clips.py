"""Clips in batches: crops, filterbanks in workers or on the device, epochs that reach living workers, skipping."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from EAT.data.clips import ClipDataset, batch_filterbank
from EAT.data.manifest import Manifest
from EAT.data.skipping import SkipLog
from EAT.errors import ConfigError, TrainingError
from EAT.network.front_end import FrontEnd

FRONT_END = FrontEnd(64)


@pytest.fixture
def manifest(clip_manifest: Path) -> Manifest:
    return Manifest(clip_manifest / "train.tsv")


def test_workers_and_device_compute_the_same_filterbanks(manifest: Manifest) -> None:
    chosen = [0, 17, 60, 100]
    batches = []
    for where in ("workers", "device"):
        dataset = ClipDataset(manifest, FRONT_END, where=where)
        batches.append(dataset.collate([dataset[i] for i in chosen]))
    assert "filterbank" in batches[0] and batches[1]["waveforms"].dtype == torch.int32
    one, other = (batch_filterbank(batch, FRONT_END) for batch in batches)
    assert torch.equal(one, other) and one.shape == (4, 1, 64, 128)
    assert batches[0]["clips"] == chosen


def test_random_crops_follow_from_seed_epoch_and_clip(manifest: Manifest) -> None:
    def crop(seed: int, epoch: int, clip: int) -> torch.Tensor:
        dataset = ClipDataset(manifest, FRONT_END, crop="random", seed=seed)
        dataset.set_epoch(epoch)
        return dataset[clip]["waveform"]

    long = next(i for i in range(len(manifest)) if manifest.samples(i) > 4 * FRONT_END.samples)
    assert torch.equal(crop(1, 1, long), crop(1, 1, long))
    for other in (crop(2, 1, long), crop(1, 2, long)):
        assert not torch.equal(other, crop(1, 1, long))
    start = ClipDataset(manifest, FRONT_END)[long]["waveform"]
    assert len(start) == len(crop(1, 1, long)) == FRONT_END.samples


def test_living_workers_see_the_epoch_change(manifest: Manifest) -> None:
    dataset = ClipDataset(manifest, FRONT_END, crop="random")
    loader = DataLoader(dataset, batch_size=62, num_workers=2, persistent_workers=True, collate_fn=dataset.collate)
    epochs = []
    for epoch in (1, 2, 3):
        dataset.set_epoch(epoch)
        epochs.append([batch["epoch"] for batch in loader])
    assert epochs == [[1, 1], [2, 2], [3, 3]]


def test_unreadable_clips_are_left_out_of_their_batch(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "train.tsv").write_text(f"{manifest.root}\n{manifest.name(0)}\t1\ngone.wav\t1\n")
    dataset = ClipDataset(Manifest(tmp_path / "train.tsv"), FRONT_END)
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch["clips"] == [0] and len(batch["lengths"]) == 1
    [(clip, reason)] = batch["skipped"]
    assert clip == 1 and "gone.wav does not exist" in reason
    assert dataset.collate([dataset[1]])["clips"] == []


def test_skip_log_counts_each_clip_once() -> None:
    log = SkipLog(100, 0.02)
    for _ in range(5):
        log.record([(1, "one"), (2, "two")])
    with pytest.raises(TrainingError, match=r"3 of 100 clips could not be read.*max_skipped=0.02"):
        log.record([(3, "three")])


def test_settings(manifest: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"task\.crop is 'end'"):
        ClipDataset(manifest, FRONT_END, crop="end")
    with pytest.raises(ConfigError, match=r"task\.front_end is 'gpu'"):
        ClipDataset(manifest, FRONT_END, where="gpu")
