"""An evaluation as tables: by class, by clip, and the numbers that sum it up."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from ..data.events import write_events
from ..errors import ConfigError
from ..files import replacing
from .evaluation import Evaluation, EventEvaluation
from .event_metrics import EventMetrics, found_events, step_edges
from .metrics import MultiLabelMetrics
from .tables import TABLES, pyarrow, write_parquet

Row = dict[str, Any]
CONFUSED = "most often taken for"
"""The column of the class that a class is most often mistaken for."""


def summary(evaluation: Evaluation | EventEvaluation) -> dict[str, float]:
    """The metrics by name, the most important first."""
    metrics = evaluation.metrics
    if isinstance(metrics, EventMetrics):
        return {**metrics.psds, "segment F1": metrics.segment_f1, "onset F1": metrics.onset_f1, "mAP": metrics.mAP}
    if isinstance(metrics, MultiLabelMetrics):
        return {"mAP": metrics.mAP, "AUC": metrics.AUC, "d-prime": metrics.d_prime}
    return {"accuracy": metrics.accuracy, "balanced accuracy": metrics.balanced_accuracy}


def left_out(evaluation: Evaluation | EventEvaluation) -> list[str]:
    """Display names of the classes that no clip has, which are left out of means over classes."""
    return [evaluation.labels[index].display for index in evaluation.metrics.without_positives]


def class_rows(evaluation: Evaluation) -> list[Row]:
    """One row a class. Values that are not defined are NaN."""
    clips = evaluation.targets.sum(axis=0, dtype=np.int64)
    metrics = evaluation.metrics
    rows: list[Row] = []
    for label in evaluation.labels:
        row: Row = {"index": label.index, "label": label.name, "display": label.display}
        row["clips"] = int(clips[label.index])
        if isinstance(metrics, MultiLabelMetrics):
            row["AP"] = float(metrics.per_class_ap[label.index])
            row["AUC"] = float(metrics.per_class_auc[label.index])
        else:
            confusion = metrics.confusion
            right, predicted = confusion[label.index, label.index], confusion[:, label.index].sum()
            row["recall"] = right / row["clips"] if row["clips"] else math.nan
            row["precision"] = right / predicted if predicted else math.nan
            others = confusion[label.index].copy()
            others[label.index] = 0
            most = int(others.argmax())
            row[CONFUSED] = evaluation.labels[most].name if others[most] else ""
        rows.append(row)
    return rows


def mistakes(evaluation: Evaluation) -> np.ndarray:
    """How wrong each clip's scores are, (n,): its best wrong class's score minus its worst right class's."""
    right = evaluation.targets.astype(bool)
    wrong = np.where(right, 0.0, evaluation.scores).max(axis=1)  # scores are probabilities
    return wrong - np.where(right, evaluation.scores, 1.0).min(axis=1)


def clip_rows(evaluation: Evaluation) -> list[Row]:
    """One row a clip: truth, the highest-scored class and its score, and how wrong that is."""
    names = [label.name for label in evaluation.labels]
    wrong = mistakes(evaluation)
    rows: list[Row] = []
    for row, clip in enumerate(evaluation.clips):
        best = int(evaluation.scores[row].argmax())
        rows.append(
            {
                "clip": evaluation.manifest.name(int(clip)),
                "truth": ",".join(names[index] for index in np.flatnonzero(evaluation.targets[row])),
                "prediction": names[best],
                "score": float(evaluation.scores[row, best]),
                "mistake": float(wrong[row]),
            }
        )
    return rows


def write_rows(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV; NaN becomes an empty field."""
    with replacing(path) as handle:
        writer = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _field(value) for key, value in row.items()})


def _field(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def score_rows(evaluation: Evaluation) -> list[Row]:
    """One row a clip, in the manifest's order: ``path``, ``truth``, ``prediction``, and ``score_LABEL`` of each class.

    ``truth`` has the labels' names with commas in between, ``prediction`` the highest-scored class, and scores are
    probabilities.
    """
    names = [label.name for label in evaluation.labels]
    rows: list[Row] = []
    for row in np.argsort(evaluation.clips, kind="stable").tolist():
        scores = evaluation.scores[row]
        truth = ",".join(names[index] for index in np.flatnonzero(evaluation.targets[row]))
        path = evaluation.manifest.source(int(evaluation.clips[row]))
        fields = {"path": path, "truth": truth, "prediction": names[int(scores.argmax())]}
        rows.append({**fields, **{f"score_{name}": float(score) for name, score in zip(names, scores, strict=True)}})
    return rows


def table_format(path: Path) -> str:
    """The format that a table's name asks for. Raises ConfigError for another ending, or Parquet without pyarrow."""
    file_format = TABLES.get(path.suffix.lower())
    if file_format is None:
        raise ConfigError(f"{path} has no ending of a table; give one of {', '.join(TABLES)}.")
    if file_format == "parquet":
        pyarrow()
    return file_format


def write_scores(path: Path, evaluation: Evaluation) -> None:
    """Write :func:`score_rows` as CSV, JSON Lines or Parquet by the name's ending."""
    rows, file_format = score_rows(evaluation), table_format(path)
    if file_format == "csv":
        write_rows(path, rows)
    elif file_format == "jsonl":
        with replacing(path) as handle:
            handle.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    else:
        columns = {name: type(value) for name, value in rows[0].items()}
        with replacing(path, "wb") as handle:
            write_parquet(handle, columns, [[list(row.values()) for row in rows]])


def write_tables(folder: Path, evaluation: Evaluation, checkpoint: str) -> None:
    """Write ``classes.csv``, ``clips.csv`` and ``metrics.json``; for one label a clip also ``confusion.csv``."""
    write_rows(folder / "classes.csv", class_rows(evaluation))
    write_rows(folder / "clips.csv", clip_rows(evaluation))
    if not isinstance(evaluation.metrics, MultiLabelMetrics):
        names = [label.name for label in evaluation.labels]
        with replacing(folder / "confusion.csv") as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["truth \\ prediction", *names])
            rows = evaluation.metrics.confusion.tolist()
            writer.writerows([name, *row] for name, row in zip(names, rows, strict=True))
    _write_metrics(folder, evaluation, checkpoint)


def write_event_tables(folder: Path, evaluation: EventEvaluation, checkpoint: str) -> None:
    """Write ``classes.csv``, ``metrics.json``, and ``events.tsv``: the events that were found, in DCASE's columns."""
    counts = np.bincount([event.label for clip in evaluation.scored for event in clip.events],
                         minlength=len(evaluation.labels))  # fmt: skip
    rows: list[Row] = [
        {"index": label.index, "label": label.name, "display": label.display, "events": int(counts[label.index])}
        | {name: float(values[label.index]) for name, values in evaluation.metrics.per_class.items()}
        for label in evaluation.labels
    ]
    write_rows(folder / "classes.csv", rows)
    names = [label.name for label in evaluation.labels]
    found = []
    for number, clip in zip(evaluation.clips, evaluation.scored, strict=True):
        edges = step_edges(len(clip.scores), evaluation.seconds, clip.duration)
        events = found_events(clip.scores, edges, evaluation.finding)
        found.append((evaluation.manifest.name(int(number)), [(*event[:2], names[event.label]) for event in events]))
    write_events(folder / "events.tsv", found)
    _write_metrics(folder, evaluation, checkpoint)


def _write_metrics(folder: Path, evaluation: Evaluation | EventEvaluation, checkpoint: str) -> None:
    values: dict[str, Any] = {"checkpoint": checkpoint, "split": evaluation.split, "task": evaluation.task}
    values |= {"clips": len(evaluation.clips), "unreadable": evaluation.unreadable}
    # JSON knows neither NaN nor infinity.
    values |= {name: value if math.isfinite(value) else None for name, value in summary(evaluation).items()}
    values["without_positives"] = [evaluation.labels[index].name for index in evaluation.metrics.without_positives]
    with replacing(folder / "metrics.json") as handle:
        json.dump(values, handle, indent=1)
        handle.write("\n")
