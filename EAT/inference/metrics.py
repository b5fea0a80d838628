"""How good predictions are: average precision and its kin for several labels a clip, accuracy for one."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from ..errors import ConfigError, DataError


@dataclass(frozen=True)
class MultiLabelMetrics:
    """Of clips that may have several labels. A class without positives has no average precision and no AUC."""

    mAP: float
    """Average precision, mean over the classes that have positives."""
    AUC: float
    """Area under the ROC curve, mean over the classes that have positives and negatives; NaN without any."""
    d_prime: float
    """sqrt(2) times the standard normal's quantile of ``AUC``."""
    per_class_ap: np.ndarray
    """(classes,), NaN for classes without positives."""
    per_class_auc: np.ndarray
    """(classes,), NaN for classes without positives or without negatives."""
    without_positives: list[int] = field(default_factory=list)
    """Classes that no clip has."""
    without_negatives: list[int] = field(default_factory=list)
    """Classes that every clip has."""


@dataclass(frozen=True)
class SingleLabelMetrics:
    """Of clips that have one label each."""

    accuracy: float
    """Fraction of clips whose highest score is at their label."""
    balanced_accuracy: float
    """The same per class, mean over the classes that have clips."""
    confusion: np.ndarray
    """(classes, classes) clips, rows by truth and columns by prediction."""
    without_positives: list[int] = field(default_factory=list)
    """Classes that no clip has."""


def _sklearn_metrics() -> ModuleType:
    try:
        import sklearn.metrics
    except ImportError:
        raise ConfigError("metrics need scikit-learn: pip install 'eat-audio[evaluate]'.") from None
    return sklearn.metrics


def _checked_scores(scores: np.ndarray, clips: int) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.ndim != 2 or len(scores) != clips or not scores.size:
        raise DataError(f"scores of shape {scores.shape} do not fit the labels of {clips} clips.")
    if not np.isfinite(scores).all():
        raise DataError(f"{int((~np.isfinite(scores)).any(axis=1).sum())} clips have scores that are NaN or infinite.")
    return scores


def d_prime(auc: float) -> float:
    """sqrt(2) z(AUC): how far apart two normal distributions of equal width are that have this AUC."""
    from scipy.special import ndtri  # the standard normal's quantile; scikit-learn brings scipy

    return math.sqrt(2.0) * float(ndtri(auc))


def multi_label_metrics(scores: np.ndarray, targets: np.ndarray) -> MultiLabelMetrics:
    """Mean average precision, AUC and d-prime.

    Args:
        scores: (clips, classes), higher for likelier; logits and probabilities give the same result.
        targets: (clips, classes) in {0, 1}.

    Raises:
        DataError: for shapes that differ, scores that are not finite, targets other than 0 and 1, or no positives.
    """
    targets = np.asarray(targets)
    scores = _checked_scores(scores, len(targets))
    if targets.shape != scores.shape or not np.isin(targets, (0, 1)).all():
        raise DataError(f"targets of shape {targets.shape} must hold 0 and 1 only, as many as scores {scores.shape}.")
    positives = targets.astype(bool)
    counts = positives.sum(axis=0)
    if not counts.any():
        raise DataError("no clip has any of the labels, so there is nothing to measure.")
    metrics = _sklearn_metrics()
    clips, classes = scores.shape
    ap, auc = np.full(classes, np.nan), np.full(classes, np.nan)
    for label in np.flatnonzero(counts):
        ap[label] = metrics.average_precision_score(positives[:, label], scores[:, label])
        if counts[label] < clips:
            auc[label] = metrics.roc_auc_score(positives[:, label], scores[:, label])
    mean_auc = float(np.nanmean(auc)) if np.isfinite(auc).any() else math.nan
    return MultiLabelMetrics(
        mAP=float(np.nanmean(ap)),
        AUC=mean_auc,
        d_prime=d_prime(mean_auc),
        per_class_ap=ap,
        per_class_auc=auc,
        without_positives=np.flatnonzero(counts == 0).tolist(),
        without_negatives=np.flatnonzero(counts == clips).tolist(),
    )


def single_label_metrics(scores: np.ndarray, targets: np.ndarray) -> SingleLabelMetrics:
    """Accuracy, balanced accuracy and confusion.

    Args:
        scores: (clips, classes), higher for likelier.
        targets: (clips,) class indices.

    Raises:
        DataError: for shapes that differ, scores that are not finite, or classes out of range.
    """
    targets = np.asarray(targets)
    scores = _checked_scores(scores, len(targets))
    classes = scores.shape[1]
    if targets.ndim != 1 or targets.dtype.kind not in "iu" or targets.min() < 0 or targets.max() >= classes:
        raise DataError(f"targets must be one class index from 0 to {classes - 1} for each of {len(scores)} clips.")
    metrics = _sklearn_metrics()
    predicted = scores.argmax(axis=1)
    with warnings.catch_warnings():
        # Predicting a class that no clip has is an error like any other, not a mistake in the call.
        warnings.filterwarnings("ignore", message=".*y_pred contains classes not in y_true.*")
        balanced = float(metrics.balanced_accuracy_score(targets, predicted))
    return SingleLabelMetrics(
        accuracy=float(metrics.accuracy_score(targets, predicted)),
        balanced_accuracy=balanced,
        confusion=metrics.confusion_matrix(targets, predicted, labels=np.arange(classes)),
        without_positives=np.flatnonzero(np.bincount(targets, minlength=classes) == 0).tolist(),
    )


def measure(scores: np.ndarray, targets: np.ndarray, multi_label: bool) -> MultiLabelMetrics | SingleLabelMetrics:
    """The metrics of clips that may have several labels, or have one each; ``targets`` (clips, classes) in {0, 1}."""
    if multi_label:
        return multi_label_metrics(scores, targets)
    return single_label_metrics(scores, targets.argmax(axis=1))
