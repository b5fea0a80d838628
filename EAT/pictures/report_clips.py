"""What the report's script is told of every clip, and which classes are taken for which."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..inference.evaluation import Evaluation
from ..inference.evaluation_tables import mistakes

PREDICTIONS = 3
"""Classes that are shown of a clip, the best ones."""
GROUPS = [["no wrong class above a right one", "#2a9d8f", 0], ["a wrong class above a right one", "#e8743b", 2]]
COLUMNS = ["clip", "truth", "prediction", "score", "mistake"]


def confusions(evaluation: Evaluation) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
    """Of each clip its lowest-scored right class and its highest-scored wrong one, (n, 2); and how often which pair is.

    Only clips count whose wrong class is above the right one. With one label a clip that is the confusion matrix
    without its diagonal.
    """
    right = evaluation.targets.astype(bool)
    lowest = np.where(right, evaluation.scores, np.inf).argmin(axis=1)
    highest = np.where(right, -np.inf, evaluation.scores).argmax(axis=1)
    pairs = np.stack([lowest, highest], axis=1)
    wrong = pairs[mistakes(evaluation) > 0]
    distinct, counts = np.unique(wrong, axis=0, return_counts=True) if len(wrong) else (wrong, np.zeros(0, int))
    order = np.argsort(-counts, kind="stable")
    return pairs, {(int(distinct[i, 0]), int(distinct[i, 1])): int(counts[i]) for i in order}


def clip_data(evaluation: Evaluation, silent: str) -> dict[str, Any]:
    """Every clip for ``listen.js``, at the scores of its lowest right class and of its highest wrong one.

    Args:
        evaluation: what a model made of a split.
        silent: what is said of clips without sound.
    """
    wrong = mistakes(evaluation)
    pairs, counts = confusions(evaluation)
    numbers = {pair: number for number, pair in enumerate(counts)}
    names = [label.display for label in evaluation.labels]
    clips: list[dict[str, Any]] = []
    for row, clip in enumerate(evaluation.clips):
        scores = evaluation.scores[row]
        truth = np.flatnonzero(evaluation.targets[row]).tolist()
        best = np.argsort(-scores, kind="stable")[:PREDICTIONS].tolist()
        pair = (int(pairs[row, 0]), int(pairs[row, 1]))
        found = {
            "at": [_round(scores[pair[0]]), _round(scores[pair[1]]) if len(truth) < len(names) else 0.0],
            "group": int(wrong[row] > 0),
            "labels": truth,
            "truth": [[index, _round(scores[index]), 1] for index in truth],
            "best": [[index, _round(scores[index]), int(index in truth)] for index in best],
            "cells": [
                evaluation.manifest.name(int(clip)), ", ".join(names[index] for index in truth), names[best[0]],
                _round(scores[best[0]]), _round(wrong[row]),
            ],
        }  # fmt: skip
        clips.append(found | ({"pair": numbers[pair]} if wrong[row] > 0 else {}))
    axes = {
        "x": ["score of its own class, the lowest", 0, 1],
        "y": ["score of another class, the highest", 0, 1],
        "diagonal": True,
        "numbered": True,
        "equal": False,
    }
    return {
        "classes": names, "axes": axes, "groups": GROUPS, "columns": COLUMNS, "sorted": COLUMNS.index("mistake"),
        "silent": silent, "clips": clips,
    }  # fmt: skip


def _round(value: float) -> float:
    return round(float(value), 4)
