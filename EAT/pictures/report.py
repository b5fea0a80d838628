"""An evaluation as one HTML file that needs nothing beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ..audio.recordings import read_audio
from ..errors import DataError
from ..files import replacing
from ..inference.evaluation import Evaluation
from ..inference.evaluation_tables import CONFUSED, Row, class_rows, left_out, mistakes, summary
from ..inference.metrics import MultiLabelMetrics
from .evaluation import bars, confusion_picture, data_uri, flac, precision_recall
from .spectrogram import as_png, clip_mel

WORST_CLIPS = 12
PREDICTIONS = 3
HEADINGS = {"display": "class"}

STYLE = """
:root { --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --blue: #2f6fde; --orange: #e8743b; --green: #2a9d8f; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f7fa; color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 0 0 4px; }
p { margin: 4px 0 12px; color: var(--muted); } p b { color: var(--ink); }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px; margin-top: 20px; }
.numbers { display: flex; flex-wrap: wrap; gap: 14px; margin-top: 20px; }
.numbers div { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 14px 20px; }
.numbers div { flex: 1 1 150px; }
.numbers b { display: block; font-size: 30px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.numbers div:first-child { background: var(--blue); border-color: var(--blue); color: #fff; }
.numbers span { color: var(--muted); } .numbers div:first-child span { color: #e1ebfd; }
.picture { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 16px; }
.clip { border: 1px solid var(--line); border-radius: 10px; overflow: hidden; }
.clip > img { display: block; width: 100%; height: 96px; background: #000; }
.clip audio { display: block; width: calc(100% - 24px); height: 34px; margin: 10px 12px 0; }
.clip > div { padding: 8px 14px 14px; }
.name { font-weight: 600; overflow-wrap: anywhere; }
.score { display: grid; grid-template-columns: 1fr 92px 40px; gap: 8px; align-items: center; font-size: 13px; }
.score span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.caption { font-size: 12px; color: var(--muted); margin-top: 6px; }
.bar { background: var(--line); border-radius: 4px; height: 8px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--blue); border-radius: 4px; }
.right .bar i { background: var(--green); } .wrong .bar i { background: var(--orange); }
.value { text-align: right; font-variant-numeric: tabular-nums; }
.table { max-height: 560px; overflow: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { position: sticky; top: 0; background: #f5f7fa; text-align: left; padding: 8px 12px; z-index: 1; }
td { padding: 5px 12px; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
th.value { text-align: right; } td .bar { width: 120px; }
"""


def write_report(folder: Path, evaluation: Evaluation, checkpoint: str) -> Path:
    """Write ``report.html`` with everything embedded. Every name in it is escaped.

    Returns:
        The file.

    Raises:
        ConfigError: where matplotlib is not installed.
        DataError: where the file cannot be written.
    """
    path = folder / "report.html"
    title = f"{evaluation.split}: {evaluation.task} evaluation"
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(checkpoint)} on {escape(evaluation.manifest.path)}, "
        f"{len(evaluation.labels):,} classes, {evaluation.front_end.target_length / 100:g} s a clip</p>",
        _numbers(evaluation),
        *_pictures(evaluation),
        _worst_clips(evaluation),
        _class_table(evaluation),
    ]
    with replacing(path) as handle:
        handle.write(
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n".encode(
                "utf-8", "replace"
            ).decode()
        )
    return path


def _section(title: str, text: str, content: str) -> str:
    """``text`` and ``content`` are HTML already."""
    return f"<section><h2>{escape(title)}</h2><p>{text}</p>{content}</section>"


def _image(svg: bytes, description: str) -> str:
    return f'<img class="picture" src="{data_uri("image/svg+xml", svg)}" alt="{escape(description)}">'


def _numbers(evaluation: Evaluation) -> str:
    shown = {name: _number(value, 4) for name, value in summary(evaluation).items()}
    shown["clips"] = f"{len(evaluation.clips):,}"
    if evaluation.unreadable:
        shown["could not be read"] = f"{evaluation.unreadable:,}"
    cards = "".join(f"<div><b>{value}</b><span>{escape(name)}</span></div>" for name, value in shown.items())
    absent = left_out(evaluation)
    note = ""
    if absent:
        note = f"<p>Left out of means, because no clip has them: {escape(', '.join(absent))}.</p>"
    return f'<div class="numbers">{cards}</div>{note}'


def _pictures(evaluation: Evaluation) -> Iterable[str]:
    names = [label.display for label in evaluation.labels]
    if isinstance(evaluation.metrics, MultiLabelMetrics):
        svg = bars(names, evaluation.metrics.per_class_ap, "Average precision")
        yield _section("Average precision by class", "From the best class to the worst.", _image(svg, "bars"))
    else:
        svg = confusion_picture(names, evaluation.metrics.confusion)
        text = "Each row is a true class, each column what it was taken for. The diagonal is right."
        yield _section("Confusion", text, _image(svg, "confusion matrix"))
        recall = np.array([row["recall"] for row in class_rows(evaluation)])
        text = "The share of each class's clips that were recognised."
        yield _section("Recall by class", text, _image(bars(names, recall, "Recall"), "bars"))
    text = (
        "How many of the clips given a class have it (precision), for each share of its clips that is found (recall)."
    )
    yield _section("Precision and recall", text, _image(precision_recall(evaluation), "precision-recall curves"))


def _worst_clips(evaluation: Evaluation) -> str:
    wrong = mistakes(evaluation)
    order = [row for row in np.argsort(-wrong, kind="stable")[:WORST_CLIPS] if wrong[row] > 0]
    text = "Clips with a wrong class furthest above a right one, worst first."
    if not order:
        return _section("The clips it got most wrong", text, "<p>No clip has a wrong class above a right one.</p>")
    cards = "".join(_clip_card(evaluation, int(row)) for row in order)
    return _section("The clips it got most wrong", text, f'<div class="clips">{cards}</div>')


def _clip_card(evaluation: Evaluation, row: int) -> str:
    clip = int(evaluation.clips[row])
    media = ""
    try:
        waveform = read_audio(
            evaluation.manifest.source(clip), evaluation.front_end.samples, **evaluation.front_end.reading()
        )
    except DataError:  # it was read a moment ago; the report does without its sound
        waveform = None
    if waveform is not None:
        sound = data_uri("audio/flac", flac(waveform, evaluation.front_end.sample_rate))
        media = (
            f'<img src="{data_uri("image/png", as_png(clip_mel(waveform - waveform.mean())))}" alt="spectrogram">'
            f'<audio controls preload="metadata" src="{sound}"></audio>'
        )
    truth = set(np.flatnonzero(evaluation.targets[row]).tolist())
    best = np.argsort(-evaluation.scores[row], kind="stable")[:PREDICTIONS].tolist()
    return (
        f'<div class="clip">{media}<div><div class="name">{escape(evaluation.manifest.name(clip))}</div>'
        f'<div class="caption">truth</div>{_scores(evaluation, row, sorted(truth), truth)}'
        f'<div class="caption">prediction</div>{_scores(evaluation, row, best, truth)}</div></div>'
    )


def _scores(evaluation: Evaluation, row: int, classes: Sequence[int], truth: set[int]) -> str:
    lines = []
    for index in classes:
        score, display = float(evaluation.scores[row, index]), escape(evaluation.labels[index].display)
        lines.append(
            f'<div class="score {"right" if index in truth else "wrong"}"><span title="{display}">{display}</span>'
            f'{_bar(score)}<span class="value">{score:.2f}</span></div>'
        )
    return "".join(lines)


def _bar(value: float) -> str:
    return f'<div class="bar"><i style="width:{100 * min(1.0, max(0.0, value)):.1f}%"></i></div>'


def _number(value: float, digits: int = 3) -> str:
    return "\N{EN DASH}" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:.{digits}f}"


def _class_table(evaluation: Evaluation) -> str:
    rows = class_rows(evaluation)
    displays = {label.name: label.display for label in evaluation.labels}
    for row in rows:
        if row.get(CONFUSED):
            row[CONFUSED] = displays[row[CONFUSED]]
    main = "AP" if isinstance(evaluation.metrics, MultiLabelMetrics) else "recall"
    rows.sort(key=lambda row: (math.isnan(row[main]), -row[main], row["index"]))
    numeric = ("clips", "AUC", "precision", main)
    head = "".join(
        f"<th{' class=value' * (name in numeric)}>{escape(HEADINGS.get(name, name))}</th>{'<th></th>' * (name == main)}"
        for name in _columns(rows)
    )
    body = "".join(f"<tr>{_class_cells(row, main)}</tr>" for row in rows)
    text = "All of them, from the best to the worst; the same is in <b>classes.csv</b>."
    return _section("Classes", text, f'<div class="table"><table><tr>{head}</tr>{body}</table></div>')


def _columns(rows: Sequence[Row]) -> list[str]:
    return [name for name in rows[0] if name not in ("index", "label")]


def _class_cells(row: Row, main: str) -> str:
    cells = []
    for name in _columns([row]):
        value = row[name]
        if isinstance(value, str):
            cells.append(f"<td>{escape(value)}</td>")
        else:
            cells.append(f'<td class="value">{value:,}</td>' if name == "clips" else _value_cell(float(value)))
        if name == main:
            cells.append(f"<td>{_bar(0.0 if math.isnan(row[main]) else float(row[main]))}</td>")
    return "".join(cells)


def _value_cell(value: float) -> str:
    return f'<td class="value">{_number(value)}</td>'
