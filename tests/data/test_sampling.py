"""Weighted sampling: its distribution, and what is refused about weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from EAT.data.manifest import Manifest
from EAT.data.sampling import read_weights, sample_by_class, sample_without_replacement
from EAT.errors import DataError

WEIGHTS = np.array([0.0, 1.0, 2.0, 3.0, 4.0])


def test_samples_are_distributed_as_successive_draws() -> None:
    """Every ordered pair by its probability w1 / sum * w2 / (sum - w1), summed over both orders."""
    rng = np.random.default_rng(0)
    pairs = [tuple(sorted(sample_without_replacement(WEIGHTS, 2, rng).tolist())) for _ in range(20_000)]
    total = WEIGHTS.sum()
    expected = {}
    for a in range(1, 5):
        for b in range(a + 1, 5):
            one, other = WEIGHTS[a], WEIGHTS[b]
            expected[a, b] = one / total * other / (total - one) + other / total * one / (total - other)
    assert set(pairs) == set(expected) and sum(expected.values()) == pytest.approx(1)
    counts = [pairs.count(pair) for pair in expected]
    assert stats.chisquare(counts, np.array(list(expected.values())) * len(pairs)).pvalue > 1e-3


def test_inclusion_equals_numpys_choice() -> None:
    weights = np.random.default_rng(1).gamma(0.5, size=40)
    ours, theirs = np.random.default_rng(2), np.random.default_rng(3)
    included = np.zeros((2, 40))
    for _ in range(4000):
        included[0, sample_without_replacement(weights, 10, ours)] += 1
        included[1, theirs.choice(40, 10, replace=False, p=weights / weights.sum())] += 1
    assert np.abs(included[0] - included[1]).max() / 4000 < 0.045  # four standard errors


def test_no_clip_twice_and_order_says_nothing_about_weight() -> None:
    weights = np.arange(1.0, 2001.0)
    sample = sample_without_replacement(weights, 500, np.random.default_rng(0))
    assert len(np.unique(sample)) == len(sample) == 500
    assert abs(stats.spearmanr(np.arange(500), weights[sample]).statistic) < 0.15


def test_all_clips_with_a_weight_where_fewer_than_wanted() -> None:
    sample = sample_without_replacement(WEIGHTS, 10, np.random.default_rng(0))
    assert sorted(sample.tolist()) == [1, 2, 3, 4]


def test_classes_are_drawn_equally_and_their_clips_in_turn() -> None:
    classes = [np.arange(3), np.arange(3, 100), np.array([], dtype=np.int64), np.array([100, 200])]
    left_over = np.zeros(3)
    for seed in range(300):
        drawn = sample_by_class(classes, 20, np.random.default_rng(seed))
        assert len(drawn) == 20
        parts = np.array([(drawn < 3).sum(), ((drawn >= 3) & (drawn < 100)).sum(), (drawn >= 100).sum()])
        assert sorted(parts) == [6, 7, 7]
        left_over += parts == 7
        assert np.ptp([(drawn == clip).sum() for clip in range(3)]) <= 1  # each once more before any again
        assert len(np.unique(drawn[(drawn >= 3) & (drawn < 100)])) == parts[1]
    assert stats.chisquare(left_over).pvalue > 1e-3
    several = sample_by_class([np.array([0, 1]), np.array([1])], 400, np.random.default_rng(0))  # clip 1 has both
    assert (several == 0).sum() == 100 and (several == 1).sum() == 300


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (None, "cannot be read"),
        ("1\n2\n", "are 2, but the manifest"),
        ("1\nx\n3\n", "must hold one number a line"),
        ("1\n-2\n3\n", "line 2 of the sampling weights .* is -2"),
        ("1\nnan\n3\n", "line 2 of the sampling weights .* is nan"),
        ("0\n0\n0\n", "are all 0"),
    ],
)
def test_weights_that_cannot_be_used(tmp_path: Path, lines: str | None, sentence: str) -> None:
    (tmp_path / "train.tsv").write_text(".\na.wav\t1\nb.wav\t1\nc.wav\t1\n")
    manifest = Manifest(tmp_path / "train.tsv")
    if lines is not None:
        (tmp_path / "weights").write_text(lines)
    with pytest.raises(DataError, match=sentence):
        read_weights(tmp_path / "weights", manifest)


def test_weights_in_the_manifests_order(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text(".\na.wav\t1\nb.wav\t1\n")
    (tmp_path / "weights").write_text("0.5\n1e3\n")
    assert read_weights(tmp_path / "weights", Manifest(tmp_path / "train.tsv")).tolist() == [0.5, 1000.0]
