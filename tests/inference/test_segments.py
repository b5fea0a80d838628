"""Segments by hand: thresholds, what holds them, gaps, short ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from EAT.errors import ConfigError
from EAT.inference.prediction import Prediction
from EAT.inference.segments import Merging, Segment, find_segments
from EAT.inference.windows import ScoredWindow

#          0    1    2    3    4    5    6    7    8    9
SCORES = [0.1, 0.4, 0.8, 0.4, 0.1, 0.1, 0.6, 0.1, 0.9, 0.4]


def timeline(*classes: list[float]) -> Prediction:
    """Windows of 3 s, one a second, each standing for its middle second."""
    rows = torch.tensor(classes).T
    windows = [ScoredWindow(k - 1, k + 2, (float(k), k + 1.0), row) for k, row in enumerate(rows)]
    return Prediction("x.wav", float(len(rows)), rows.mean(dim=0).numpy(), tuple(windows))


@pytest.mark.parametrize(
    "merging, expected",
    [
        (Merging(0.5), [(2, 3, 0.8), (6, 7, 0.6), (8, 9, 0.9)]),
        (Merging(0.5, hold=0.4), [(1, 4, 0.8), (6, 7, 0.6), (8, 10, 0.9)]),
        (Merging(0.7, hold=0.4), [(1, 4, 0.8), (8, 10, 0.9)]),  # what only holds is not active
        (Merging(0.5, max_gap=1.0), [(2, 3, 0.8), (6, 9, 0.9)]),
        (Merging(0.5, hold=0.4, max_gap=2.0), [(1, 10, 0.9)]),
        (Merging(0.5, hold=0.4, min_seconds=2.0), [(1, 4, 0.8), (8, 10, 0.9)]),
        (Merging(0.5, max_gap=1.0, min_seconds=2.0), [(6, 9, 0.9)]),  # joined before short ones go
        (Merging(0.95), []),
        (Merging(0.0), [(0, 10, 0.9)]),
    ],
)
def test_by_hand(merging: Merging, expected: list[tuple[float, float, float]]) -> None:
    found = find_segments(timeline(SCORES, [0.0] * 10), 1, merging)
    assert [(s.start, s.end) for s in found] == [(start, end) for start, end, _ in expected]
    assert [s.score for s in found] == pytest.approx([score for _, _, score in expected])


def test_classes_are_the_best_and_segments_in_order_of_time() -> None:
    prediction = timeline([0.0, 0.0, 0.95, 0.0], [0.9, 0.9, 0.9, 0.0], [0.6, 0.6, 0.6, 0.6])
    found = find_segments(prediction, 2, Merging(0.5))
    assert [(s.start, s.end, s.index) for s in found] == [(0, 3, 1), (2, 3, 0)]


def test_a_short_recording_is_one_slot() -> None:
    short = Prediction("x.wav", 1.5, np.array([0.2, 0.7], np.float32), ())
    assert find_segments(short, 2, Merging(0.5)) == [Segment(0.0, 1.5, 1, pytest.approx(0.7))]


def test_segments_cover_exactly_what_scores_enough() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores = rng.random((30, 3)).astype(np.float32)
        found = find_segments(timeline(*scores.T.tolist()), 3, Merging(0.6))
        covered = np.zeros_like(scores, dtype=bool)
        for segment in found:
            covered[int(segment.start) : int(segment.end), segment.index] = True
        assert (covered == (scores >= 0.6)).all()


@pytest.mark.parametrize(
    "numbers, what",
    [((1.5,), "1.5"), ((0.5, 0.6), "0.6"), ((0.5, None, -1.0), "gap"), ((0.5, None, 0.0, float("nan")), "shortest")],
)
def test_numbers_that_cannot_be(numbers: tuple, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        Merging(*numbers)
