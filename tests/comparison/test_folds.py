"""The demo's table: worked out by hand and beside scikit-learn, on clips that are told apart by what they hold."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from EAT.commands import prepare
from EAT.comparison.corpus import read_folds, read_task
from EAT.comparison.folds import Line, cross_validated, divided, fine_tuned, frozen, table, wilson
from EAT.errors import DataError

from ..conftest import CLIPS, CONFORMANCE, ROOT


def test_folds_are_drawn_class_by_class() -> None:
    labels = np.repeat([0, 1, 2], [9, 9, 4])
    folds = divided(labels, 3, seed=1)
    for label, counts in ((0, [3, 3, 3]), (1, [3, 3, 3]), (2, [2, 1, 1])):
        assert np.bincount(folds[labels == label], minlength=3).tolist() == counts
    assert (divided(labels, 3, seed=1) == folds).all() and (divided(labels, 3, seed=2) != folds).any()


def test_what_can_be_told_apart_is_and_what_cannot_is_at_chance() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 15)
    noise = rng.normal(size=(60, 2, 20)).astype(np.float32)
    told = noise.copy()
    told[np.arange(60), 1, labels] += 9  # in the second layer
    assert cross_validated(told, labels, 3) == 1.0
    assert 0.1 < cross_validated(noise, labels, 3) < 0.4


@pytest.mark.parametrize("right", [0, 13, 31, 54])
def test_intervals_are_wilson_s(right: int) -> None:
    wanted = binomtest(right, 54).proportion_ci(method="wilson")
    assert wilson(right / 54, 54) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def test_a_run_s_accuracy_is_that_of_all_its_clips(tmp_path: Path) -> None:
    (tmp_path / "folds.csv").write_text("fold,clips,accuracy,balanced accuracy\nfold1,30,0.5,0\nfold2,10,0.9,0\n")
    assert fine_tuned("run", tmp_path) == Line("run", (0.6,))
    text = table([Line("one", (0.5, 0.25)), Line("run", (0.6,))], 40).splitlines()
    assert text[1].split("]")[0].split() == ["one", "50", "[35,", "65"] and text[2].count("[") == 1


def test_rows_of_real_clips(tmp_path: Path) -> None:
    command = ["folder", str(CLIPS), str(tmp_path), "--labels", str(ROOT / "data" / "families.csv"), "--label-column"]
    assert prepare.main([*command, "family", "--folds", "3", "--num-workers", "0"]) == 0
    lines = frozen(CONFORMANCE / "official_pretrain.pt", tmp_path)
    assert [line.name for line in lines] == ["spectrogram's statistics", "network, untrained", "network, pre-trained"]
    assert all(1 / 6 < value < 0.9 for line in lines for value in line.accuracies)
    assert lines[0].accuracies[1] > 0.45  # more is known of a spectrogram than its means
    task = read_folds("families", tmp_path)
    with open(ROOT / "data" / "families.csv", newline="") as handle:
        assert sorted(task.sources) == sorted(str(CLIPS / row["file"]) for row in csv.DictReader(handle))
    for group in range(3):  # as many of each family in every fold
        assert np.bincount(task.labels[task.groups == group]).tolist() == [3] * 6
    with pytest.raises(DataError, match="has 0 folds; three are needed"):
        read_folds("families", tmp_path / "fold1")
    with pytest.raises(DataError, match="has 3 groups; five are needed"):
        read_task("families", tmp_path)
    assert prepare.main([*command, "family", "--folds", "6", "--num-workers", "0"]) == 0
    assert read_task("families", tmp_path).names == [f"fold{number}" for number in range(1, 7)]
