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
from .evaluation import bars, confusion_picture, precision_recall
from .listening import SOUNDS, listen_section, silence
from .pages import data_uri, page
from .report_clips import PREDICTIONS, clip_data, confusions
from .sounds import clip_mp3, clip_sounds
from .spectrogram import as_png, clip_mel

WORST_CLIPS = 12
MOST_PAIRS = 500
"""Pairs of classes that are listed, the most frequent ones."""
HEADINGS = {"display": "class"}


def write_report(folder: Path, evaluation: Evaluation, checkpoint: str, sounds: int = SOUNDS) -> Path:
    """Write ``report.html`` with everything embedded. Every name in it is escaped.

    Args:
        folder: where it goes.
        evaluation: what a model made of a split.
        checkpoint: what the model is called.
        sounds: clips whose sound the page holds, those with the gravest mistakes first.

    Returns:
        The file.

    Raises:
        ConfigError: where matplotlib is not installed.
        DataError: where the file cannot be written.
    """
    path = folder / "report.html"
    title = f"{evaluation.split}: {evaluation.task} evaluation"
    order = np.argsort(-mistakes(evaluation), kind="stable")[:sounds]
    held = clip_sounds({int(row): evaluation.manifest.source(int(evaluation.clips[row])) for row in order})
    data = clip_data(evaluation, silence(len(held), len(evaluation.clips)))
    parts = [
        f"<h1>{escape(title)}</h1><p>{escape(checkpoint)} on {escape(evaluation.manifest.path)}, "
        f"{len(evaluation.labels):,} classes, {evaluation.front_end.target_length / 100:g} s a clip</p>",
        _numbers(evaluation),
        listen_section(
            "Clips to be heard",
            "Each point is a clip. To the right the model is sure of what it is, at the top of what it is not; above "
            "the line it is mistaken.",
            "Clips by the scores of their own and of other classes",
        ),
        _confusion_table(evaluation),
        *_pictures(evaluation),
        _worst_clips(evaluation),
        _class_table(evaluation),
    ]
    with replacing(path) as handle:
        handle.write(page(title, "".join(parts), ("page.css", "report.css", "listen.css"), "listen.js", data, held))
    return path


def _confusion_table(evaluation: Evaluation) -> str:
    names = [escape(label.display) for label in evaluation.labels]
    pairs = list(confusions(evaluation)[1].items())
    text = "The class with the highest score among the wrong ones, of clips where it is above one of their own."
    if not pairs:
        return _section("What is taken for what", text, "<p>No class is taken for another.</p>")
    rows = "".join(
        f'<tr data-pair="{number}"><td>{names[own]}</td><td>{names[other]}</td>'
        f'<td class="value" data-value="{count}">{count:,}</td></tr>'
        for number, ((own, other), count) in enumerate(pairs[:MOST_PAIRS])
    )
    head = '<tr><th>truth</th><th>taken for</th><th class="value">clips</th></tr>'
    return _section("What is taken for what", text, _table("confusions", head, rows, 2))


def _table(label: str, head: str, rows: str, ordered: int) -> str:
    """A table in a box that scrolls, in falling order of one of its columns."""
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{label}"><table data-sorted="{ordered}">'
        f"<thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )


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
        text = "The fraction of each class's clips that were recognised."
        yield _section("Recall by class", text, _image(bars(names, recall, "Recall"), "bars"))
    text = "How many of the clips given a class have it (precision), for each fraction of its clips found (recall)."
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
        source, front_end = evaluation.manifest.source(clip), evaluation.front_end
        waveform = read_audio(source, front_end.samples, **front_end.reading())
        sound = data_uri("audio/mpeg", clip_mp3(source, len(waveform) / front_end.sample_rate))
        picture = as_png(clip_mel(waveform - waveform.mean(), front_end=type(front_end)))
        media = (
            f'<img src="{data_uri("image/png", picture)}" alt="spectrogram">'
            f'<audio controls preload="metadata" src="{sound}"></audio>'
        )
    except DataError:  # it was read a moment ago; the report does without its sound
        pass
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
        f"<th{' class=value' * (name in numeric)}>{escape(HEADINGS.get(name, name))}</th>{'<td></td>' * (name == main)}"
        for name in _columns(rows)
    )
    body = "".join(f'<tr data-class="{row["index"]}">{_class_cells(row, main)}</tr>' for row in rows)
    text = "All of them, from the best to the worst; the same is in <b>classes.csv</b>."
    return _section("Classes", text, _table("classes", f"<tr>{head}</tr>", body, _columns(rows).index(main)))


def _columns(rows: Sequence[Row]) -> list[str]:
    return [name for name in rows[0] if name not in ("index", "label")]


def _class_cells(row: Row, main: str) -> str:
    cells = []
    for name in _columns([row]):
        value = row[name]
        if isinstance(value, str):
            cells.append(f"<td>{escape(value)}</td>")
        else:
            text = f"{value:,}" if name == "clips" else _number(float(value))
            cells.append(f'<td class="value" data-value="{"" if math.isnan(value) else value}">{text}</td>')
        if name == main:
            cells.append(f"<td>{_bar(0.0 if math.isnan(row[main]) else float(row[main]))}</td>")
    return "".join(cells)
