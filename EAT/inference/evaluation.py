"""A model's scores of the clips of a manifest, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..checkpoint.classes import check_same
from ..data.events import events_file, read_events
from ..data.labels import DESCRIPTORS, Label, read_descriptors, read_lbl
from ..data.loading import filterbank_batches
from ..data.manifest import Manifest
from ..errors import CheckpointError, ConfigError, DataError
from ..network.classifier import Classifier
from ..network.front_end import FrontEnd
from .event_metrics import EventMetrics, Finding, ScoredClip, library, measure_events, scored_clip
from .metrics import MultiLabelMetrics, SingleLabelMetrics, measure
from .model import EATModel, check_model


@dataclass(frozen=True)
class Evaluation:
    """What a model made of a split."""

    split: str
    labels: list[Label]
    manifest: Manifest
    front_end: FrontEnd
    multi_label: bool
    """Whether clips may have several labels."""
    clips: np.ndarray
    """(n,) numbers in the manifest of the clips that could be read."""
    scores: np.ndarray
    """(n, classes) float32 probabilities."""
    targets: np.ndarray
    """(n, classes) uint8, 1 at each clip's labels."""
    metrics: MultiLabelMetrics | SingleLabelMetrics

    @property
    def task(self) -> str:
        """In words."""
        return "multi-label" if self.multi_label else "single-label"

    @property
    def unreadable(self) -> int:
        """How many clips could not be read."""
        return len(self.manifest) - len(self.clips)


@dataclass(frozen=True)
class EventEvaluation:
    """What a model made of a split whose events are known."""

    split: str
    labels: list[Label]
    manifest: Manifest
    clips: np.ndarray
    """(n,) numbers in the manifest of the clips that could be read."""
    scored: list[ScoredClip]
    seconds: float
    """Of a time step."""
    finding: Finding
    metrics: EventMetrics
    task: str = "events"

    @property
    def unreadable(self) -> int:
        """How many clips could not be read."""
        return len(self.manifest) - len(self.clips)


def have_several(multi_label: bool | None, truth: Sequence[Sequence[int]]) -> bool:
    """Whether clips may have several labels; None lets the data decide.

    Raises:
        ConfigError: where they must not and a clip has several.
    """
    first = next((number for number, clip in enumerate(truth) if len(clip) > 1), None)
    if multi_label is None:
        return first is not None
    if not multi_label and first is not None:
        raise ConfigError(f"clip {first + 1} has {len(truth[first])} labels; use --task multi-label.")
    return multi_label


def one_hot(truth: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    """(clips, classes) uint8, 1 at each clip's labels."""
    targets = np.zeros((len(truth), classes), dtype=np.uint8)
    for row, clip in zip(targets, truth, strict=True):
        row[clip] = 1
    return targets


def evaluate(
    model: EATModel,
    data: Path,
    split: str,
    labels_path: Path | None = None,
    multi_label: bool | None = None,
    target_length: int | None = None,
    batch_size: int = 32,
    workers: int | None = None,
) -> Evaluation:
    """Score every clip of a split and work out the metrics.

    Args:
        model: a fine-tuned one.
        data: folder of the manifests.
        split: which one.
        labels_path: label descriptors; None takes those in ``data``.
        multi_label: whether clips may have several labels; None lets the data decide.
        target_length: frames that clips are padded or cut to; None takes what the model was trained with.
        batch_size: clips at a time.
        workers: processes that read clips; None chooses.

    Raises:
        CheckpointError: for a model without classes, or with others than the descriptors.
        DataError: for manifests and labels that cannot be used, or where no clip could be read.
    """
    labels = classes_of(model, data, labels_path)
    manifest = Manifest(data / f"{split}.tsv")
    truth = read_lbl(data / f"{split}.lbl", manifest, labels)
    multi_label = have_several(multi_label, truth)
    front_end = model.front_end if target_length is None else replace(model.front_end, target_length=target_length)
    clips, scores = score(model, manifest, front_end, batch_size, workers, split)
    if not len(clips):
        raise DataError(f"none of the {len(manifest):,} clips in {manifest.path} could be read.")
    targets = one_hot([truth[clip] for clip in clips], len(labels))
    metrics = measure(scores, targets, multi_label)
    return Evaluation(split, labels, manifest, front_end, multi_label, clips, scores, targets, metrics)


def classes_of(model: EATModel, data: Path, labels_path: Path | None) -> list[Label]:
    """The descriptors of a data folder. Raises CheckpointError for a model without classes, or with others."""
    check_model(model)
    if model.num_classes is None:
        raise CheckpointError(
            "the checkpoint was pre-trained, not fine-tuned, and knows no classes; give a classifier."
        )
    descriptors = labels_path or data / DESCRIPTORS
    labels = read_descriptors(descriptors)
    check_same(model.classes, labels, model.num_classes, "the checkpoint", str(descriptors))
    return labels


def evaluate_events(
    model: EATModel,
    data: Path,
    split: str,
    labels_path: Path | None = None,
    target_length: int | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    finding: Finding | None = None,
) -> EventEvaluation:
    """Score every time step of a split and work out how well its events are found.

    Args:
        model: as for :func:`evaluate`.
        data: as for :func:`evaluate`.
        split: as for :func:`evaluate`.
        labels_path: as for :func:`evaluate`.
        target_length: as for :func:`evaluate`; events that begin after it do not count.
        batch_size: as for :func:`evaluate`.
        workers: as for :func:`evaluate`.
        finding: how events are read off scores; None has the defaults.

    Raises:
        CheckpointError: as :func:`evaluate`.
        ConfigError: where a library is missing.
        DataError: for manifests and events that cannot be used, or where no clip could be read.
    """
    library()
    labels = classes_of(model, data, labels_path)
    finding = finding or Finding()
    manifest = Manifest(data / f"{split}.tsv")
    events = read_events(events_file(data, split), manifest, labels)
    front_end = model.front_end if target_length is None else replace(model.front_end, target_length=target_length)
    network = model.network
    assert isinstance(network, Classifier)
    clips: list[int] = []
    scored: list[ScoredClip] = []
    with torch.inference_mode():
        for batch in filterbank_batches(manifest, front_end, batch_size, workers, model.device, split):
            scores = network.frames(batch.filterbank).float().sigmoid().cpu().numpy()
            clips += batch.clips
            scored += [
                scored_clip(rows, samples, front_end, model.patch_size, events[clip])
                for rows, samples, clip in zip(scores, batch.lengths.tolist(), batch.clips, strict=True)
            ]
    if not clips:
        raise DataError(f"none of the {len(manifest):,} clips in {manifest.path} could be read.")
    metrics = measure_events(scored, labels, model.patch_seconds, finding)
    return EventEvaluation(
        split, labels, manifest, np.array(clips, np.int64), scored, model.patch_seconds, finding, metrics
    )


def score(
    model: EATModel, manifest: Manifest, front_end: FrontEnd, batch_size: int, workers: int | None, description: str
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the clips that could be read, and their scores (clips, classes) as probabilities."""
    clips: list[int] = []
    scores = [np.zeros((0, model.num_classes or 0), dtype=np.float32)]
    batches = filterbank_batches(manifest, front_end, batch_size, workers, model.device, description)
    with torch.inference_mode():
        for batch in batches:
            logits = model.network(batch.filterbank).float()
            probabilities = logits.softmax(dim=-1) if model.activation == "softmax" else logits.sigmoid()
            clips += batch.clips
            scores.append(probabilities.cpu().numpy())
    return np.array(clips, dtype=np.int64), np.concatenate(scores)
