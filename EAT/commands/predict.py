"""``python -m EAT.predict``: the best classes of clips, and a timeline of them for long recordings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..checkpoint.classes import check_same
from ..data.labels import Label, read_descriptors
from ..errors import CheckpointError, ConfigError, DataError
from ..files import replacing
from ..inference.model import ACTIVATIONS, EATModel
from ..inference.prediction import Prediction, score_all
from ..inference.sources import find_sources, output_names
from ..inference.windows import check_windows, half_window
from ..pictures.prediction import draw
from ..pictures.style import check_library
from ..progress import progress_bar
from .command_line import described, exit_status
from .options import RECORDINGS, add_flags, open_model, workers
from .prediction_text import TEXT_FORMATS, render

EXAMPLES = """
python -m EAT.predict --source clip.wav --checkpoint finetuned.pt --top-k 5
python -m EAT.predict --source recordings/ --checkpoint finetuned.pt --format csv --output all.csv
python -m EAT.predict --source street.mp3 --checkpoint finetuned.pt --labels labels.csv --picture street.png
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.predict"),
        "Class scores of recordings. One that is longer than the model's own clips gets a timeline.",
        EXAMPLES,
    )
    add = top.add_argument
    add_flags(top, *RECORDINGS)
    add("--labels", metavar="CSV",
        help="label descriptors, index,label[,display name] or AudioSet's class_labels_indices.csv: what the classes "
        "are called, where the checkpoint does not say so or other words are wanted for them")  # fmt: skip
    add("--top-k", type=int, default=12, metavar="K", help="classes shown (default 12)")
    add("--format", choices=TEXT_FORMATS, default="table", help="audacity is a label track; default table")
    add("--output", metavar="FILE", help="where the text goes; by default to the terminal")
    add("--picture", metavar="OUT",
        help="image for one source (.png, .svg, .pdf), else a folder: spectrogram and classes over time")  # fmt: skip
    add("--activation", choices=("auto", *ACTIVATIONS), default="auto",
        help="what makes scores of logits; auto is what the checkpoint was trained for")  # fmt: skip
    add("--threshold", type=float, default=0.5, metavar="P",
        help="score from which the label track shows a class (default 0.5)")  # fmt: skip
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


def run(options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit status, 0 or 1. Raises ConfigError, CheckpointError or DataError."""
    sources, problems = find_sources(options.source)
    several = len(sources) > 1 or any(os.path.isdir(path) for path in options.source)
    if options.format == "audacity" and several:
        raise ConfigError("a label track belongs to one recording; give one source with --format audacity.")
    if options.picture and not several and not os.path.splitext(options.picture)[1]:
        raise ConfigError(f"--picture {options.picture} must end in .png, .svg or .pdf for a single source.")
    pictures = [options.picture]
    if options.picture and several:
        pictures = [str(Path(options.picture) / name) for name in output_names(sources, ".png")]
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
                if options.picture:
                    draw(result, labels, pictures[number])
            except DataError as error:
                failed += 1
                print(f"error: {error}", file=sys.stderr, flush=True)
            if isinstance(result, Prediction):
                yield result

    pieces = render(predictions(), labels, options.top_k, options.format, options.threshold)
    try:
        if options.output:
            with replacing(options.output) as handle:
                handle.writelines(pieces)
        else:
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
    finally:
        bar.close()
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where some inputs could not be read, 2 for unusable arguments."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal may not know every letter of every name
    return exit_status(lambda: run(options))
