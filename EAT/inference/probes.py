"""Probes of frozen features: nearest neighbours, a linear classifier, and a learned mix of layers."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import ConfigError
from .metrics import MultiLabelMetrics, measure

MIX_UPDATES = 400
MIX_BATCH = 4096


class Features(NamedTuple):
    """Clips' features with the truth."""

    train: np.ndarray
    """(clips, D) or, for several layers, (clips, L, D) float32."""
    train_targets: np.ndarray
    """(clips, classes) in {0, 1}."""
    evaluation: np.ndarray
    evaluation_targets: np.ndarray


class ProbeResult(NamedTuple):
    """What the two probes reach: mAP for several labels a clip, accuracy for one."""

    neighbours: float
    linear: float


def metric(scores: np.ndarray, targets: np.ndarray, multi_label: bool) -> float:
    """The mAP, or the accuracy where clips have one label each."""
    found = measure(scores, targets, multi_label)
    return found.mAP if isinstance(found, MultiLabelMetrics) else found.accuracy


def standardised(train: np.ndarray, evaluation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both with the training clips' mean taken off and divided by their standard deviation, dimension by dimension."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    std = np.where(std > 1e-6, std, 1.0)
    return (train - mean) / std, (evaluation - mean) / std


def probe(features: Features, multi_label: bool, neighbours: int, regularisation: float) -> ProbeResult:
    """Both probes of (clips, D) features, standardised."""
    train, evaluation = standardised(features.train, features.evaluation)
    found = neighbour_scores(train, features.train_targets, evaluation, neighbours)
    scores = linear_scores(train, features.train_targets, evaluation, multi_label, regularisation)
    targets = features.evaluation_targets
    return ProbeResult(metric(found, targets, multi_label), metric(scores, targets, multi_label))


def neighbour_scores(train: np.ndarray, targets: np.ndarray, evaluation: np.ndarray, neighbours: int) -> np.ndarray:
    """(clips, classes): the fraction of the most similar training clips that have each label, by cosine.

    A closer clip counts for a little more, so that ties are decided by closeness.
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=min(neighbours, len(train)), metric="cosine").fit(train)
    distance, found = index.kneighbors(evaluation)
    weights = 1.0 + 1e-3 * (2.0 - distance)
    return (weights[..., None] * targets[found]).sum(axis=1) / weights.sum(axis=1, keepdims=True)


def linear_scores(
    train: np.ndarray, targets: np.ndarray, evaluation: np.ndarray, multi_label: bool, regularisation: float
) -> np.ndarray:
    """(clips, classes) of scikit-learn's logistic regression; classes without training clips come last."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1.0 / regularisation, max_iter=1000)
    scores = np.full((len(evaluation), targets.shape[1]), -1e9)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        if multi_label:
            for label in np.flatnonzero(targets.any(axis=0)):
                column = targets[:, label]
                scores[:, label] = 1e9 if column.all() else model.fit(train, column).decision_function(evaluation)
            return scores
        classes = np.unique(targets.argmax(axis=1))
        if len(classes) == 1:
            scores[:, classes] = 0.0
            return scores
        found = model.fit(train, targets.argmax(axis=1)).predict_log_proba(evaluation)
    scores[:, model.classes_] = np.maximum(found, -1e8)
    return scores


def learn_mix(
    train: np.ndarray, targets: np.ndarray, multi_label: bool, regularisation: float, seed: int
) -> np.ndarray:
    """Weights of a convex mix of layers, learned together with a linear classifier of the mix.

    Args:
        train: (clips, L, D) standardised features.
        targets: (clips, classes) in {0, 1}.
        multi_label: whether clips may have several labels.
        regularisation: the weight of the classifier's squared norm, as in the linear probe.
        seed: of the batches.

    Returns:
        (L,) weights that are positive and add up to 1.
    """
    x, y = torch.from_numpy(train), torch.from_numpy(targets).float()
    generator = torch.Generator().manual_seed(seed)
    mix = torch.zeros(x.shape[1], requires_grad=True)
    head = torch.nn.Linear(x.shape[2], y.shape[1])
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.Adam([{"params": [mix], "lr": 0.05}, {"params": head.parameters(), "lr": 0.01}])
    for _ in range(MIX_UPDATES):
        rows = torch.randperm(len(x), generator=generator)[:MIX_BATCH] if len(x) > MIX_BATCH else slice(None)
        logits = head(torch.einsum("l,bld->bd", mix.softmax(dim=0), x[rows]))
        if multi_label:
            loss = F.binary_cross_entropy_with_logits(logits, y[rows], reduction="sum") / len(logits)
        else:
            loss = F.cross_entropy(logits, y[rows].argmax(dim=1))
        loss = loss + regularisation / (2 * len(x)) * head.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mix.detach().softmax(dim=0).numpy()


def probe_mix(
    features: Features, multi_label: bool, neighbours: int, regularisation: float, seed: int
) -> tuple[ProbeResult, np.ndarray]:
    """Both probes of the learned mix of (clips, L, D) features, and the layers' weights in it."""
    train, evaluation = standardised(features.train, features.evaluation)
    weights = learn_mix(train, features.train_targets, multi_label, regularisation, seed)
    mixed = features._replace(
        train=np.einsum("l,nld->nd", weights, train), evaluation=np.einsum("l,nld->nd", weights, evaluation)
    )
    return probe(mixed, multi_label, neighbours, regularisation), weights


def check_settings(neighbours: int, regularisation: float) -> None:
    """Raises ConfigError for settings that make no sense."""
    if neighbours < 1:
        raise ConfigError(f"--neighbours is {neighbours}; it must be at least 1.")
    if not regularisation > 0:
        raise ConfigError(f"--regularisation is {regularisation:g}; it must be positive.")
