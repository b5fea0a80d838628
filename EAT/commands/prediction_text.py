"""Predictions as a table, JSON, CSV, or an Audacity label track."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.labels import Label
from ..inference.prediction import Prediction, best

TEXT_FORMATS = ("table", "json", "csv", "audacity")
CSV_HEADER = ("source", "start", "end", "rank", "index", "label", "name", "score")


def clock(seconds: float) -> str:
    """Seconds as ``1:02:03.4``, or ``2:03.4`` below an hour."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def table(prediction: Prediction, labels: Sequence[Label], count: int) -> str:
    """Lines for people: the best classes with a bar each; for a long recording then one line a window."""
    lines = [f"{_printable(prediction.source)}  ({clock(prediction.duration)})"]
    if prediction.timeline:
        first = prediction.timeline[0]
        lines[0] += f"  mean of {len(prediction.timeline)} windows of {first.end - first.start:.1f} s"
    names = [_printable(labels[index].display) for index in prediction.top(count)]
    width = max(len(name) for name in names)
    for rank, (index, name) in enumerate(zip(prediction.top(count), names, strict=True), 1):
        score = float(prediction.scores[index])
        lines.append(f"{rank:4d}  {score:.3f}  {name:<{width}}  {'#' * round(30 * score)}".rstrip())
    for window in prediction.timeline:
        top = best(window.scores.numpy(), min(count, 3))
        named = ", ".join(f"{_printable(labels[i].display)} {float(window.scores[i]):.2f}" for i in top)
        lines.append(f"  {clock(window.start):>10} - {clock(window.end):<10}  {named}")
    return "\n".join(lines) + "\n\n"


def _printable(text: str) -> str:
    """Text from a file without anything that would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _ranked(scores: NDArray[np.float32], labels: Sequence[Label], count: int) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "label": labels[index].name,
            "name": labels[index].display,
            "score": round(float(scores[index]), 6),
        }
        for index in best(scores, count)
    ]


def as_record(prediction: Prediction, labels: Sequence[Label], count: int) -> dict[str, Any]:
    """A prediction as plain data: source, duration, the best classes, and the same for every window."""
    record: dict[str, Any] = {
        "source": prediction.source,
        "duration": round(prediction.duration, 3),
        "top": _ranked(prediction.scores, labels, count),
    }
    if prediction.timeline:
        record["timeline"] = [
            {"start": round(w.start, 3), "end": round(w.end, 3), "top": _ranked(w.scores.numpy(), labels, count)}
            for w in prediction.timeline
        ]
    return record


def csv_rows(prediction: Prediction, labels: Sequence[Label], count: int) -> str:
    """A line for each of the best classes of each window; a short recording is one window."""
    spans = [(w.start, w.end, w.scores.numpy()) for w in prediction.timeline]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for start, end, scores in spans or [(0.0, prediction.duration, prediction.scores)]:
        for rank, entry in enumerate(_ranked(scores, labels, count), 1):
            values = (entry["index"], entry["label"], entry["name"], f"{entry['score']:.6f}")
            writer.writerow((prediction.source, f"{start:.3f}", f"{end:.3f}", rank, *values))
    return text.getvalue()


def audacity(prediction: Prediction, labels: Sequence[Label], count: int, threshold: float) -> str:
    """An Audacity label track: ``start<TAB>end<TAB>class`` for every stretch in which a class is active.

    Classes are the ``count`` best of the recording by their highest score; one is active where it scores
    ``threshold`` or more. Neighbouring windows are joined.
    """
    slots = [(*w.slot, w.scores.numpy()) for w in prediction.timeline]
    slots = slots or [(0.0, prediction.duration, prediction.scores)]
    peaks = np.max([scores for _, _, scores in slots], axis=0)
    stretches: list[tuple[float, float, int, float]] = []
    for index in best(peaks, count):
        active: list[tuple[float, float, int, float]] = []
        for start, end, scores in slots:
            score = float(scores[index])
            if score < threshold:
                continue
            if active and active[-1][1] == start:
                start, _, _, highest = active.pop()
                score = max(score, highest)
            active.append((start, end, index, score))
        stretches += active
    return "".join(
        f"{start:.6f}\t{end:.6f}\t{_printable(labels[index].display)} {score:.2f}\n"
        for start, end, index, score in sorted(stretches)
    )


def render(
    predictions: Iterator[Prediction], labels: Sequence[Label], count: int, file_format: str, threshold: float
) -> Iterator[str]:
    """Text of all predictions, piece by piece as they come."""
    if file_format == "json":
        separator = "[\n"
        for prediction in predictions:
            yield separator + json.dumps(as_record(prediction, labels, count), ensure_ascii=False)
            separator = ",\n"
        yield "[]\n" if separator == "[\n" else "\n]\n"
        return
    if file_format == "csv":
        yield ",".join(CSV_HEADER) + "\n"
    forms: dict[str, Callable[[Prediction], str]] = {
        "table": lambda prediction: table(prediction, labels, count),
        "csv": lambda prediction: csv_rows(prediction, labels, count),
        "audacity": lambda prediction: audacity(prediction, labels, count, threshold),
    }
    for prediction in predictions:
        yield forms[file_format](prediction)
