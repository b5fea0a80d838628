"""How well events are found: average precision over time steps, F1 of segments and onsets, PSDS (docs/bat.md, 11)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.events import Event, joined, step_targets
from ..data.labels import Label
from ..errors import ConfigError
from ..network.front_end import FrontEnd
from .metrics import multi_label_metrics

SEGMENT = 1.0
"""Seconds of the segments that F1 is taken over."""
COLLAR = 0.2
"""Seconds by which an onset may be off."""
SCENARIOS: dict[str, dict[str, float]] = {
    "PSDS1": {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_ct": 0.0, "alpha_st": 1.0, "max_efpr": 100.0},
    "PSDS2": {
        "dtc_threshold": 0.1, "gtc_threshold": 0.1, "cttc_threshold": 0.3, "alpha_ct": 0.5, "alpha_st": 1.0,
        "max_efpr": 100.0,
    },
}  # fmt: skip
"""The two of DCASE: when exactly, and what at all."""


@dataclass(frozen=True)
class Finding:
    """How events are read off scores.

    Raises:
        ConfigError: for numbers that cannot be.
    """

    threshold: float = 0.5
    """A class is heard where it scores more."""
    median: int = 3
    """Time steps of the median filter over scores; 1 is none."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold <= 1.0:
            raise ConfigError(f"the threshold is {self.threshold:g}; it must be a score from 0 to 1.")
        if self.median < 1 or self.median % 2 == 0:
            raise ConfigError(f"the median filter is over {self.median} time steps; it must be odd and at least 1.")

    def smoothed(self, scores: np.ndarray) -> np.ndarray:
        """(T, classes) to the same."""
        from scipy.ndimage import median_filter  # scikit-learn brings scipy

        return median_filter(scores, size=(self.median, 1))


class ScoredClip(NamedTuple):
    """A clip's scores with the truth."""

    scores: np.ndarray
    """(T, classes) probabilities of the time steps that begin with audio."""
    duration: float
    """Seconds of it that were heard."""
    events: list[Event]
    """Those that begin in that time, cut where it ends."""


@dataclass(frozen=True)
class EventMetrics:
    """Of clips whose events are known. Classes without events are left out of all of them."""

    mAP: float
    """Average precision over the time steps of all clips, mean over classes."""
    segment_f1: float
    """F1 over segments of 1 s, of all classes together."""
    onset_f1: float
    """F1 over events whose onset is found within 200 ms, of all classes together."""
    psds: dict[str, float]
    """Polyphonic sound detection score of each scenario."""
    per_class: dict[str, np.ndarray]
    """(classes,) of each figure, NaN for classes without events."""
    without_positives: list[int] = field(default_factory=list)
    """Classes that no clip has."""


def library() -> ModuleType:
    """sed_scores_eval. Raises ConfigError where it is not installed."""
    try:
        import sed_scores_eval
    except ImportError:
        raise ConfigError("figures of events need sed_scores_eval: pip install 'eat-audio[events]'.") from None
    return sed_scores_eval


def heard(events: Sequence[Event], duration: float) -> list[Event]:
    """Events that begin within ``duration`` seconds, cut there."""
    return [event._replace(offset=min(event.offset, duration)) for event in events if event.onset < duration]


def scored_clip(
    scores: np.ndarray, samples: int, front_end: FrontEnd, patch_size: int, events: Sequence[Event]
) -> ScoredClip:
    """A clip of so many samples, at the front end's rate, from scores (T, classes) of its padded spectrogram."""
    frames = int(front_end.real_frames(torch.tensor([samples]))[0])
    duration = min(samples, front_end.target_length * front_end.hop) / front_end.sample_rate
    return ScoredClip(scores[: -(-frames // patch_size)], duration, heard(events, duration))


def step_edges(steps: int, seconds: float, duration: float) -> np.ndarray:
    """(T + 1,) seconds between which scores stand: each half a step before and after the moment that it is of."""
    edges = np.concatenate([[0.0], (np.arange(1, steps) - 0.5) * seconds, [max(duration, (steps - 0.5) * seconds)]])
    return np.round(edges, 6)


def found_events(scores: np.ndarray, edges: np.ndarray, finding: Finding) -> list[Event]:
    """Events in a clip's scores (T, classes), by onset."""
    active = np.pad(finding.smoothed(scores) > finding.threshold, ((1, 1), (0, 0))).astype(np.int8)
    changes = np.diff(active, axis=0)
    events = []
    for label in range(scores.shape[1]):
        firsts, ends = np.flatnonzero(changes[:, label] == 1), np.flatnonzero(changes[:, label] == -1)
        events += [Event(float(edges[a]), float(edges[b]), label) for a, b in zip(firsts, ends, strict=True)]
    return joined(events)


def measure_events(
    clips: Sequence[ScoredClip], labels: Sequence[Label], seconds: float, finding: Finding
) -> EventMetrics:
    """The figures of clips.

    Args:
        clips: their scores and events.
        labels: the classes.
        seconds: of a time step.
        finding: how events are read off scores; PSDS takes every threshold.

    Raises:
        ConfigError: where a library is missing.
        DataError: for scores that are not finite, or no events at all.
    """
    events = library()
    classes = len(labels)
    targets = [step_targets(clip.events, classes, len(clip.scores), seconds) for clip in clips]
    frames = multi_label_metrics(np.concatenate([clip.scores for clip in clips]), np.concatenate(targets))
    present = [label for label in range(classes) if label not in frames.without_positives]
    names = [str(label) for label in present]
    scores, truth, durations = {}, {}, {}
    for number, clip in enumerate(clips):
        edges = step_edges(len(clip.scores), seconds, clip.duration)
        shown = finding.smoothed(clip.scores)[:, present].astype(np.float64)
        key = str(number)
        scores[key] = events.base_modules.scores.create_score_dataframe(shown, edges, names)
        truth[key] = [(*event[:2], str(event.label)) for event in clip.events if event.label in present]
        durations[key] = float(edges[-1])
    segment = events.segment_based.fscore(
        scores, truth, durations, threshold=finding.threshold, segment_length=SEGMENT
    )[0]
    onset = events.collar_based.fscore(
        scores, truth, threshold=finding.threshold, onset_collar=COLLAR, offset_collar=1e9
    )[0]
    by_scenario = {
        name: events.intersection_based.psds(scores, truth, durations, **scenario)[:2]
        for name, scenario in SCENARIOS.items()
    }

    def each(values: Mapping[str, Any]) -> np.ndarray:
        return np.array([float(values.get(str(label), np.nan)) for label in range(classes)])

    return EventMetrics(
        mAP=frames.mAP,
        segment_f1=float(segment["micro_average"]),
        onset_f1=float(onset["micro_average"]),
        psds={name: float(value) for name, (value, _) in by_scenario.items()},
        per_class={
            "AP": frames.per_class_ap,
            "segment F1": each(segment),
            "onset F1": each(onset),
            **{name: each(values) for name, (_, values) in by_scenario.items()},
        },
        without_positives=frames.without_positives,
    )
