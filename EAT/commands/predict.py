"""``python -m EAT.predict``: the best classes of clips, and when each is active in long recordings."""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ..checkpoint.classes import check_same
from ..data.labels import Label, read_descriptors
from ..errors import CheckpointError, ConfigError, DataError
from ..files import replacing
from ..inference.model import ACTIVATIONS, EATModel
from ..inference.partitions import Problem, Row
from ..inference.prediction import Prediction, score_all
from ..inference.provenance import of_model
from ..inference.segments import Merging
from ..inference.sources import Source, find_sources, output_names
from ..inference.tables import TABLES, pyarrow, write_parquet
from ..inference.windows import check_windows, half_window
from ..pictures.prediction import draw
from ..pictures.style import check_library
from ..progress import progress_bar
from .command_line import described, exit_status
from .on_ray import add_ray_flags, run_on_ray
from .options import RECORDINGS, add_flags, open_model, refuse_remote, status, workers
from .prediction_text import TEXT_FORMATS, Wanted, as_record, audacity, render, table_of

ENDINGS = {**TABLES, ".json": "json", ".rttm": "rttm"}
"""Formats by the ending of --output."""

EXAMPLES = """
python -m EAT.predict --source clip.wav --checkpoint finetuned.pt --top-k 5
python -m EAT.predict --source recordings/ --checkpoint finetuned.pt --output all.csv
python -m EAT.predict --source street.mp3 --checkpoint finetuned.pt --picture street.png
python -m EAT.predict --source day.flac --checkpoint finetuned.pt --segments --output day.parquet \\
    --threshold 0.6 --hold 0.3 --max-gap 2 --min-seconds 1
python -m EAT.predict --ray host:6379 --source recordings/ --checkpoint finetuned.pt --output scores/
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.predict"),
        "Class scores of recordings; of one that is longer than the model's own clips also when each class is active.",
        EXAMPLES,
    )
    add = top.add_argument
    add_flags(top, *RECORDINGS)
    add("--labels", metavar="CSV",
        help="label descriptors, index,label[,display name] or AudioSet's class_labels_indices.csv: what the classes "
        "are called, where the checkpoint does not say so or other words are wanted for them")  # fmt: skip
    add("--top-k", type=int, default=12, metavar="K", help="classes shown (default 12)")
    add("--format", choices=(*TEXT_FORMATS, "parquet"),
        help="by default told by the ending of --output (.csv, .jsonl, .parquet, .json, .rttm), else a table for "
        "people; audacity is a label track")  # fmt: skip
    add("--output", metavar="OUT",
        help="the file to write, or a folder for several label tracks; by default the terminal")  # fmt: skip
    add("--picture", metavar="OUT",
        help="image for one source (.png, .svg, .pdf), else a folder: spectrogram and classes over time")  # fmt: skip
    add("--activation", choices=("auto", *ACTIVATIONS), default="auto",
        help="what makes scores of logits; auto is what the checkpoint was trained for")  # fmt: skip
    add("--segments", action="store_true",
        help="CSV, JSON and Parquet hold segments in which a class is active in place of windows")  # fmt: skip
    add("--threshold", type=float, default=Merging.threshold, metavar="P",
        help="score from which a class is active: in the table, label tracks and --segments (default 0.5)")  # fmt: skip
    add("--hold", type=float, metavar="P",
        help="score down to which an active class stays so, before and after; by default the threshold")  # fmt: skip
    add("--max-gap", type=float, default=Merging.max_gap, metavar="SECONDS",
        help="join segments of a class that lie no farther apart (default 0)")  # fmt: skip
    add("--min-seconds", type=float, default=Merging.min_seconds, metavar="SECONDS",
        help="leave out segments that are shorter (default 0)")  # fmt: skip
    add_ray_flags(top)
    return top


def _classes(options: argparse.Namespace, model: EATModel) -> Sequence[Label]:
    if model.num_classes is None:
        raise CheckpointError(f"{options.checkpoint} was pre-trained, not fine-tuned, and knows no classes.")
    if options.labels is None:
        if model.classes is None:
            raise ConfigError(f"{options.checkpoint} does not say what its classes are called; give --labels.")
        return model.classes
    labels = read_descriptors(options.labels)
    check_same(model.classes, labels, model.num_classes, options.checkpoint, options.labels)
    return labels


def _check(options: argparse.Namespace, model: EATModel) -> tuple[int, int]:
    if options.top_k < 1:
        raise ConfigError(f"--top-k is {options.top_k}; it must be at least 1.")
    window = options.window or model.front_end.target_length
    hop = options.hop or half_window(window, model.patch_size)
    check_windows(model, window, hop)
    if options.picture:
        check_library()
    if options.activation != "auto":
        model.activation = options.activation
    return window, hop


def _wanted(options: argparse.Namespace) -> Wanted:
    merging = Merging(options.threshold, options.hold, options.max_gap, options.min_seconds)
    return Wanted(options.top_k, merging, options.segments)


class Scores:
    """Predictions as rows, for :mod:`.on_ray`: what JSON Lines have, with ``path`` for ``source``."""

    def __init__(self, options: argparse.Namespace) -> None:
        pa = pyarrow()
        self._model = open_model(options)
        self._labels = _classes(options, self._model)
        self._window, self._hop = _check(options, self._model)
        self._wanted, self._options = _wanted(options), options
        named = "\n".join(f"{label.name}\t{label.display}" for label in self._labels)
        self.made = {
            **of_model(self._model, options.checkpoint, self._model.network),
            "activation": self._model.activation,
            "classes": hashlib.blake2b(named.encode(), digest_size=8).hexdigest(),
            "window": self._window,
            "hop": self._hop,
            "top-k": options.top_k,
            "segments": asdict(self._wanted.merging) if options.segments else None,
        }
        score = {"index": pa.int32(), "label": pa.string(), "name": pa.string(), "score": pa.float64()}
        span = {"start": pa.float64(), "end": pa.float64()}
        top = pa.list_(pa.struct(score))
        parts = {"segments": {**span, **score}} if options.segments else {"timeline": {**span, "top": top}}
        lists = {name: pa.list_(pa.struct(fields)) for name, fields in parts.items()}
        self.schema = pa.schema({"path": pa.string(), "duration": pa.float64(), "top": top, **lists})

    def rows(self, sources: Sequence[Source]) -> Iterator[Row | Problem]:
        """A row for each recording, in order."""
        options = self._options
        scored = score_all(self._model, sources, self._window, self._hop, options.batch_size, options.num_workers)
        for source, result in zip(sources, scored, strict=True):
            if isinstance(result, DataError):
                yield Problem(source.address, str(result))
            else:
                record = as_record(result, self._labels, self._wanted)
                yield {"path": record.pop("source"), **record}


def _format(options: argparse.Namespace, several: bool) -> str:
    """The output's format. Raises ConfigError where it and the output do not go together."""
    file_format = options.format or ENDINGS.get(os.path.splitext(options.output or "")[1].lower(), "table")
    if file_format == "audacity" and several and not options.output:
        raise ConfigError("a label track belongs to one recording; for several give a folder as --output.")
    if file_format == "parquet":
        pyarrow()
        if not options.output:
            raise ConfigError("Parquet is no text for a terminal; give --output FILE.parquet.")
    return file_format


def _pictures(options: argparse.Namespace, sources: Sequence[Source], several: bool) -> list[str]:
    """Where each recording's picture goes; empty where none is wanted."""
    if not options.picture:
        return []
    if not several:
        if not os.path.splitext(options.picture)[1]:
            raise ConfigError(f"--picture {options.picture} must end in .png, .svg or .pdf for a single source.")
        return [options.picture]
    return [str(Path(options.picture) / name) for name in output_names(sources, ".png")]


def _write(
    output: str | None,
    file_format: str,
    predictions: Iterator[Prediction],
    labels: Sequence[Label],
    wanted: Wanted,
    names: Sequence[tuple[Source, str]],
    several: bool,
) -> None:
    """Write predictions as they come. Raises DataError where that is not possible."""
    by_source = {source.address: name for source, name in names}
    if output and file_format == "parquet":
        columns, rows = table_of(wanted)
        with replacing(output, "wb") as handle:
            write_parquet(handle, columns, (rows(prediction, labels, wanted) for prediction in predictions))
    elif output and file_format == "audacity" and several:
        for prediction in predictions:
            with replacing(Path(output) / f"{by_source[prediction.source]}.txt") as handle:
                handle.write(audacity(prediction, labels, wanted))
    else:
        pieces = render(predictions, labels, wanted, file_format, by_source)
        if output:
            with replacing(output) as handle:
                handle.writelines(pieces)
            return
        for piece in pieces:
            sys.stdout.write(piece)
            sys.stdout.flush()


def run(options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit status, 0 or 1. Raises ConfigError, CheckpointError or DataError."""
    if options.ray:
        return run_on_ray(options, Scores)
    refuse_remote(options.output)
    sources, problems = find_sources(options.source)
    several = len(sources) > 1 or any(os.path.isdir(path) for path in options.source)
    file_format = _format(options, several)
    pictures = _pictures(options, sources, several)
    named = file_format == "rttm" or (file_format == "audacity" and several)
    names = list(zip(sources, output_names(sources, ""), strict=True)) if named else []
    wanted = _wanted(options)
    model = open_model(options)
    labels = _classes(options, model)
    window, hop = _check(options, model)
    failed = len(problems)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    bar = progress_bar(len(sources), "predictions")

    def predictions() -> Iterator[Prediction]:
        nonlocal failed
        scored = score_all(model, sources, window, hop, options.batch_size, workers(options, len(sources)))
        for number, result in enumerate(scored):
            bar.update(1)
            try:
                if isinstance(result, DataError):
                    raise result
                if pictures:
                    draw(result, labels, pictures[number])
            except DataError as error:
                failed += 1
                print(f"error: {error}", file=sys.stderr, flush=True)
            if isinstance(result, Prediction):
                yield result

    try:
        _write(options.output, file_format, predictions(), labels, wanted, names, several)
    finally:
        bar.close()
    return status(options, failed, len(sources) + len(problems))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where some inputs could not be read, 2 for unusable arguments."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every letter of every name
    return exit_status(lambda: run(options))
