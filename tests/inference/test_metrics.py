"""Metrics against values worked out by hand, scikit-learn's own multi-label averages, and the normal distribution."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import sklearn.metrics

from EAT.errors import DataError
from EAT.inference.metrics import d_prime, multi_label_metrics, single_label_metrics


def test_average_precision_worked_out_by_hand():
    # Class 0 ranks its positives 1st and 3rd: (1/1 + 2/3) / 2. Class 1: its only positive is 2nd: 1/2.
    scores = np.array([[0.9, 0.8], [0.7, 0.9], [0.5, 0.1], [0.1, 0.2]])
    targets = np.array([[1, 1], [0, 0], [1, 0], [0, 0]])
    result = multi_label_metrics(scores, targets)
    assert result.per_class_ap == pytest.approx([5 / 6, 1 / 2])
    assert result.mAP == pytest.approx(2 / 3)
    # AUC: pairs in the right order. Class 0: 3 of 4. Class 1: 2 of 3.
    assert result.per_class_auc == pytest.approx([3 / 4, 2 / 3])
    assert math.isclose(result.AUC, 17 / 24)
    assert result.d_prime == pytest.approx(math.sqrt(2) * NormalDist().inv_cdf(17 / 24))


def test_equals_scikit_learn_over_all_classes_at_once():
    rng = np.random.default_rng(0)
    targets = rng.random((300, 40)) < 0.1
    scores = (rng.normal(size=(300, 40)) + 2 * targets).astype(np.float32)
    result = multi_label_metrics(scores, targets.astype(np.int8))
    assert result.mAP == pytest.approx(sklearn.metrics.average_precision_score(targets, scores, average="macro"))
    assert math.isclose(result.AUC, sklearn.metrics.roc_auc_score(targets, scores, average="macro"))
    # Only the order of a class's scores counts.
    assert multi_label_metrics(1 / (1 + np.exp(-scores.astype(float))), targets).mAP == pytest.approx(result.mAP)


def test_classes_without_positives_or_negatives_are_left_out_and_listed():
    scores = np.array([[0.9, 0.3, 0.2], [0.1, 0.4, 0.3]])
    targets = np.array([[1, 0, 1], [0, 0, 1]])
    result = multi_label_metrics(scores, targets)
    assert result.without_positives == [1] and result.without_negatives == [2]
    assert np.isnan(result.per_class_ap[1]) and np.isnan(result.per_class_auc[[1, 2]]).all()
    assert result.mAP == 1.0 and result.AUC == 1.0 and result.d_prime == math.inf


def test_tied_scores_do_not_depend_on_the_order_of_clips():
    targets = np.array([[1], [0], [0], [1]])
    for order in ([0, 1, 2, 3], [1, 2, 0, 3]):
        assert multi_label_metrics(np.zeros((4, 1)), targets[order]).mAP == pytest.approx(0.5)


def test_single_label_worked_out_by_hand():
    scores = np.eye(4)[[0, 0, 1, 1, 3]]
    result = single_label_metrics(scores, np.array([0, 0, 0, 1, 1]))
    assert result.accuracy == pytest.approx(3 / 5)
    assert result.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result.confusion.tolist() == [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert result.without_positives == [2, 3]


def test_d_prime_of_chance_is_zero():
    assert d_prime(0.5) == 0.0
    assert d_prime(0.975) == pytest.approx(math.sqrt(2) * 1.959964, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "targets", "words"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), "nothing to measure"),
        (np.zeros((2, 3)), np.ones((2, 2)), "as many as scores"),
        (np.zeros((2, 3)), np.ones((3, 3)), "do not fit the labels of 3 clips"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "2 clips have scores that are NaN"),
        (np.zeros((2, 3)), np.full((2, 3), 0.5), "0 and 1 only"),
    ],
)
def test_unusable_multi_label_input(scores, targets, words):
    with pytest.raises(DataError, match=words):
        multi_label_metrics(scores, targets)


@pytest.mark.parametrize("targets", [np.array([0, 3]), np.array([-1, 0]), np.array([0.0, 1.0]), np.array([[0], [1]])])
def test_unusable_single_label_targets(targets):
    with pytest.raises(DataError, match="one class index from 0 to 2 for each of 2 clips"):
        single_label_metrics(np.zeros((2, 3)), targets)
