"""Predictions as text: a table for people, JSON, CSV, label tracks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.labels import Label
from ..inference.prediction import Prediction, best
from ..inference.segments import Merging, find_segments

TEXT_FORMATS = ("table", "json", "jsonl", "csv", "audacity", "rttm")
WINDOW_COLUMNS: dict[str, type] = {
    "source": str, "start": float, "end": float, "rank": int, "index": int, "label": str, "name": str, "score": float
}  # fmt: skip
SEGMENT_COLUMNS = {name: kind for name, kind in WINDOW_COLUMNS.items() if name != "rank"}
PAGE = 40
"""Segments of a recording that a table shows at most."""


@dataclass(frozen=True)
class Wanted:
    """What of a prediction is shown."""

    top_k: int = 12
    """Classes."""
    merging: Merging = Merging()
    segments: bool = False
    """Whether JSON, CSV and Parquet hold segments in place of windows."""


Rows = Callable[[Prediction, Sequence[Label], Wanted], list[tuple[Any, ...]]]


def clock(seconds: float) -> str:
    """Seconds as ``1:02:03.4``, or ``2:03.4`` below an hour."""
    tenths = round(seconds * 10)
    hours, rest = divmod(tenths, 36_000)
    minutes, rest = divmod(rest, 600)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def table(prediction: Prediction, labels: Sequence[Label], wanted: Wanted) -> str:
    """Lines for people: the best classes with a bar each; for a long recording then when each class is active."""
    lines = [f"{_printable(prediction.source)}  ({clock(prediction.duration)})"]
    if prediction.timeline:
        first = prediction.timeline[0]
        lines[0] += f"  mean of {len(prediction.timeline)} windows of {first.end - first.start:.1f} s"
    top = prediction.top(wanted.top_k)
    names = [_printable(labels[index].display) for index in top]
    width = max(len(name) for name in names)
    for rank, (index, name) in enumerate(zip(top, names, strict=True), 1):
        score = float(prediction.scores[index])
        lines.append(f"{rank:4d}  {score:.3f}  {name:<{width}}  {'#' * round(30 * score)}".rstrip())
    if prediction.timeline:
        lines += _page(prediction, labels, wanted)
    return "\n".join(lines) + "\n\n"


def _page(prediction: Prediction, labels: Sequence[Label], wanted: Wanted) -> list[str]:
    """A line for each segment, at most :data:`PAGE` of them, the longest."""
    found = find_segments(prediction, wanted.top_k, wanted.merging)
    if not found:
        return [f"      no class reaches {wanted.merging.threshold:g} in any window; --threshold sets what is shown"]
    shown = sorted(sorted(found, key=lambda segment: segment.start - segment.end)[:PAGE])
    lines = [f"{clock(s.start):>12} - {clock(s.end):<10}  {_printable(labels[s.index].display)} {s.score:.2f}"
             for s in shown]  # fmt: skip
    if len(found) > PAGE:
        lines.append(
            f"      and {len(found) - PAGE:,} shorter ones; --max-gap joins them, --min-seconds leaves them out, "
            "--segments --format csv has all"
        )
    return lines


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


def as_record(prediction: Prediction, labels: Sequence[Label], wanted: Wanted) -> dict[str, Any]:
    """A prediction as plain data: source, duration, the best classes; then segments, or the same for every window."""
    record: dict[str, Any] = {
        "source": prediction.source,
        "duration": round(prediction.duration, 3),
        "top": _ranked(prediction.scores, labels, wanted.top_k),
    }
    if wanted.segments:
        names = [name for name in SEGMENT_COLUMNS if name != "source"]
        rows = (row[1:] for row in segment_rows(prediction, labels, wanted))
        record["segments"] = [dict(zip(names, row, strict=True)) for row in rows]
    elif prediction.timeline:
        record["timeline"] = [
            {
                "start": round(w.start, 3),
                "end": round(w.end, 3),
                "top": _ranked(w.scores.numpy(), labels, wanted.top_k),
            }
            for w in prediction.timeline
        ]
    return record


def window_rows(prediction: Prediction, labels: Sequence[Label], wanted: Wanted) -> list[tuple[Any, ...]]:
    """A row of :data:`WINDOW_COLUMNS` for each of the best classes of each window; a short recording is one window."""
    spans = [(w.start, w.end, w.scores.numpy()) for w in prediction.timeline]
    return [
        (prediction.source, round(start, 3), round(end, 3), rank, *entry.values())
        for start, end, scores in spans or [(0.0, prediction.duration, prediction.scores)]
        for rank, entry in enumerate(_ranked(scores, labels, wanted.top_k), 1)
    ]


def segment_rows(prediction: Prediction, labels: Sequence[Label], wanted: Wanted) -> list[tuple[Any, ...]]:
    """A row of :data:`SEGMENT_COLUMNS` for each segment."""
    return [
        (prediction.source, round(s.start, 3), round(s.end, 3), s.index, labels[s.index].name,
         labels[s.index].display, round(s.score, 6))
        for s in find_segments(prediction, wanted.top_k, wanted.merging)
    ]  # fmt: skip


def table_of(wanted: Wanted) -> tuple[dict[str, type], Rows]:
    """The columns of CSV and Parquet, and what makes rows of a prediction."""
    return (SEGMENT_COLUMNS, segment_rows) if wanted.segments else (WINDOW_COLUMNS, window_rows)


def csv_lines(columns: dict[str, type], rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV: times to the millisecond, scores to six digits."""
    digits = {"start": 3, "end": 3, "score": 6}
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [f"{value:.{digits[name]}f}" if name in digits else value for name, value in zip(columns, row, strict=True)]
        for row in rows
    )
    return text.getvalue()


def audacity(prediction: Prediction, labels: Sequence[Label], wanted: Wanted) -> str:
    """An Audacity label track: ``start<TAB>end<TAB>class score`` for every segment."""
    return "".join(
        f"{s.start:.6f}\t{s.end:.6f}\t{_printable(labels[s.index].display)} {s.score:.2f}\n"
        for s in find_segments(prediction, wanted.top_k, wanted.merging)
    )


def rttm(prediction: Prediction, labels: Sequence[Label], wanted: Wanted, name: str) -> str:
    """Rich Transcription Time Marked lines, ten fields each, with the class as speaker and its score as confidence.

    Fields are separated by spaces, so that those within a name become ``_``.
    """

    def field(text: str) -> str:
        return "_".join(_printable(text).split()) or "_"

    return "".join(
        f"SPEAKER {field(name)} 1 {s.start:.3f} {s.end - s.start:.3f} <NA> <NA> {field(labels[s.index].display)} "
        f"{s.score:.6f} <NA>\n"
        for s in find_segments(prediction, wanted.top_k, wanted.merging)
    )


def render(
    predictions: Iterator[Prediction],
    labels: Sequence[Label],
    wanted: Wanted,
    file_format: str,
    names: Mapping[str, str],
) -> Iterator[str]:
    """Text of all predictions, piece by piece as they come.

    Args:
        predictions: of recordings.
        labels: the classes.
        wanted: what of them is shown.
        file_format: of :data:`TEXT_FORMATS`.
        names: what each source is called in RTTM.
    """
    if file_format == "json":
        separator = "[\n"
        for prediction in predictions:
            yield separator + json.dumps(as_record(prediction, labels, wanted), ensure_ascii=False)
            separator = ",\n"
        yield "[]\n" if separator == "[\n" else "\n]\n"
        return
    columns, rows = table_of(wanted)
    if file_format == "csv":
        yield ",".join(columns) + "\n"
    forms: dict[str, Callable[[Prediction], str]] = {
        "table": lambda p: table(p, labels, wanted),
        "jsonl": lambda p: json.dumps(as_record(p, labels, wanted), ensure_ascii=False) + "\n",
        "csv": lambda p: csv_lines(columns, rows(p, labels, wanted)),
        "audacity": lambda p: audacity(p, labels, wanted),
        "rttm": lambda p: rttm(p, labels, wanted, names[p.source]),
    }
    for prediction in predictions:
        yield forms[file_format](prediction)
