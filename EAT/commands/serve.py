"""The command ``python -m EAT.serve``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint.classes import check_same
from ..data.labels import read_descriptors
from ..errors import ConfigError
from ..inference.model import EATModel
from ..inference.nearest import Collection, collect
from ..inference.sources import find_sources
from ..inference.windows import check_windows, half_window
from ..pictures.hearing import Listener
from ..pictures.style import check_library
from .command_line import described, exit_status
from .options import RUNNING, add_flags, open_model, workers
from .sound_server import Limits, SoundServer

EXAMPLES = """
python -m EAT.serve --checkpoint finetuned.pt
python -m EAT.serve --checkpoint finetuned.pt --labels labels.csv --collection recordings/ --window 256
python -m EAT.serve --checkpoint EAT-base.pt --collection prepared/train.tsv --port 9000 --max-seconds 60
"""
DEFAULTS = Limits(max_megabytes=50.0, max_seconds=300.0, timeout=120.0)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.serve"),
        "A page in the browser on which sounds are dropped or recorded: their spectrogram, classes over time, features "
        "as colours, and the clips of a collection that are most like them. Nothing that is sent is kept.",
        EXAMPLES,
    )
    add = top.add_argument
    add_flags(top, "--checkpoint", "--weights", *RUNNING, "--window", "--hop")
    add(
        "--labels",
        type=Path,
        metavar="CSV",
        help="label descriptors: what the classes are called, where the checkpoint does not say",
    )
    add("--collection", nargs="+", default=[], metavar="PATH",
        help="recordings, folders or manifests among which like clips are looked for; heard at the start")  # fmt: skip
    add("--host", default="127.0.0.1", metavar="ADDRESS",
        help="where to listen; by default 127.0.0.1, which this machine alone reaches")  # fmt: skip
    add("--port", type=int, default=8000, metavar="P", help="0 takes a free one (default 8000)")
    add("--max-megabytes", type=float, default=DEFAULTS.max_megabytes, metavar="MB",
        help="largest file that is taken (default %(default)g)")  # fmt: skip
    add("--max-seconds", type=float, default=DEFAULTS.max_seconds, metavar="S",
        help="longest recording that is taken (default %(default)g)")  # fmt: skip
    add("--timeout", type=float, default=DEFAULTS.timeout, metavar="S",
        help="seconds that an upload, and computing, may take each (default %(default)g)")  # fmt: skip
    return top


def _class_names(options: argparse.Namespace, model: EATModel) -> tuple[list[str], str]:
    """What the classes are called, and a sentence for the page. Raises ConfigError for labels that do not fit."""
    if model.num_classes is None:
        if options.labels is not None:
            raise ConfigError(
                f"{options.checkpoint} knows no classes for {options.labels} to name; leave --labels out."
            )
        return [], "This model was pre-trained, not fine-tuned, and knows no classes."
    if options.labels is not None:
        labels = read_descriptors(options.labels)
        check_same(model.classes, labels, model.num_classes, options.checkpoint, options.labels)
        return [label.display for label in labels], ""
    if model.classes is not None:
        return [label.display for label in model.classes], ""
    return [f"class {index}" for index in range(model.num_classes)], "Its classes have names where --labels gives them."


def _collection(options: argparse.Namespace, model: EATModel) -> Collection | None:
    if not options.collection:
        return None
    sources, problems = find_sources(options.collection)
    collection, unread = collect(model, sources, options.batch_size, workers(options, len(sources)))
    for problem in (*problems, *unread):
        print(f"error: {problem}", file=sys.stderr)
    print(f"collection: {len(collection.sources):,} clips", flush=True)
    return collection


def server(options: argparse.Namespace) -> SoundServer:
    """The server that the options ask for, bound to its address. Raises EATError where that cannot be."""
    check_library()
    limits = Limits(options.max_megabytes, options.max_seconds, options.timeout)
    for name, value in vars(limits).items():
        if not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} is {value:g}; it must be greater than 0.")
    model = open_model(options)
    classes, note = _class_names(options, model)
    window = options.window or model.front_end.target_length
    hop = options.hop or half_window(window, model.patch_size)
    check_windows(model, window, hop)
    batch_size = min(options.batch_size, 4)  # the clock is looked at between batches
    listener = Listener(model, classes, window, hop, batch_size, _collection(options, model))
    try:
        return SoundServer((options.host, options.port), listener, limits, os.path.basename(options.checkpoint), note)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{options.host}, port {options.port}, cannot be listened on ({reason}).") from None


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C; returns 0. Raises EATError."""
    with server(options) as serving:
        print(f"open {serving.url} in a browser; Ctrl-C ends", flush=True)
        if not serving.is_local:
            print(f"warning: whoever reaches {options.host} can send sounds, and hear those of --collection",
                  file=sys.stderr, flush=True)  # fmt: skip
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a page; returns 0 after Ctrl-C, or 2 for unusable arguments."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options))
