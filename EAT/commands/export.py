"""``python -m EAT.export CKPT OUT.onnx``: a trained model as ONNX, for runtimes without PyTorch."""

from __future__ import annotations

import argparse
import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..inference.model import load
from ..interfaces.onnx_graph import GRAPHS, export_onnx
from ..progress import waiting
from .command_line import described, exit_status
from .options import add_flags

EXAMPLES = """
python -m EAT.export finetuned.pt eat.onnx
python -m EAT.export finetuned.pt scores.onnx --from waveform --int8
python -m EAT.export EAT-base-hf eat.onnx --no-check
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.export"),
        "A trained model as ONNX, from the filterbank or from the waveform on, for any batch and length.",
        EXAMPLES,
    )
    add = top.add_argument
    add("checkpoint", metavar="CKPT", help="a checkpoint of any format")
    add("output", metavar="OUT", help="the .onnx file to write")
    add_flags(top, "--weights")
    add("--from", dest="start", choices=tuple(GRAPHS), default="filterbank",
        help="filterbank: normalised (batch, 1, frames, 128) to features, and logits of a classifier (default); "
        "waveform: (batch, samples) at 16 kHz and lengths (batch) to scores, without a head to features")  # fmt: skip
    add("--int8", action="store_true", help="weights of the blocks in 8 bits: a quarter of the size")
    add("--no-check", action="store_true", help="do not compare with PyTorch in onnxruntime")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 0 or 2."""
    options = parser().parse_args(arguments)
    with _hushed():
        return exit_status(lambda: run(options))


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keep from the console what the exporter says of packages that are missing, and the quantiser by way of advice."""
    levels = {name: logging.getLogger(name).level for name in ("torch.onnx", "root")}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        with warnings.catch_warnings():
            for category in (FutureWarning, DeprecationWarning, UserWarning):
                warnings.filterwarnings("ignore", category=category)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def run(options: argparse.Namespace) -> int:
    """Export and say what was written; returns 0. Raises EATError."""
    model = load(options.checkpoint, weights=options.weights)
    with waiting("exporting"):
        export_onnx(model, options.output, not options.no_check, options.start, options.int8)
    size = Path(options.output).stat().st_size / 1e6
    graph = GRAPHS[options.start](model)
    print(f"{options.output}: {size:.1f} MB; inputs {', '.join(graph.inputs)}; outputs {', '.join(graph.outputs)}")
    return 0
