"""The command line of ``feature_extract/feature_extract.py``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..inference.extraction import ExtractionOptions, extract_all
from ..inference.feature_files import FILE_FORMATS, SUFFIXES, check_library, check_writable, pack, packed, parts_folder
from ..inference.model import GRANULARITIES, EATModel
from ..inference.readouts import READOUTS
from ..inference.sources import Source, find_sources, output_names
from ..inference.tables import TABLES
from ..inference.windows import WINDOW, check_windows, half_window
from .command_line import described, exit_status
from .options import RECORDINGS, add_flags, open_model, status, workers

STORAGES = ("float32", "float16")

EXAMPLES = """
python feature_extract/feature_extract.py --source clip.wav --output clip.npy --checkpoint EAT-base.pt
python feature_extract/feature_extract.py --source recordings/ --output features/ --checkpoint EAT-base.pt \\
    --granularity utterance
python feature_extract/feature_extract.py --source recordings/ --output vectors.parquet --checkpoint CKPT \\
    --granularity mean
torchrun --nproc_per_node 8 feature_extract/feature_extract.py --source list.tsv --output features/ --checkpoint CKPT
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="feature_extract.py"),
        "Features of recordings. Needs neither fairseq nor a GPU. Run under torchrun, the list is split.",
        EXAMPLES,
    )
    add = top.add_argument
    add_flags(top, *RECORDINGS, "--weights")
    add("--output", required=True, metavar="OUT",
        help="for one file a name that ends in .npy; else a folder that mirrors the sources, or one file for all: .h5, "
        ".hdf5 or .safetensors; of one vector a recording also .csv, .jsonl or .parquet")  # fmt: skip
    add("--granularity", choices=GRANULARITIES, default="all",
        help="all: CLS, then patches (1 + N, D); frame: patches (N, D); or one vector: utterance: CLS (D); mean of the "
        "patches (D); rows: mean over time of each frequency row (F D); rows_max: their maxima beside them (2 F D) "
        "(default all)")  # fmt: skip
    add("--target-length", type=int, metavar="FRAMES",
        help="pad or cut every clip to so many frames of 10 ms, a multiple of 16; by default each keeps its own "
        "length, rounded up to one")  # fmt: skip
    add("--layer", type=int, nargs="+", metavar="K",
        help="0: input to the first block; 1 to depth: a block's output; negative: from the end. Several give "
        "(L, ...). By default the last block")  # fmt: skip
    add("--storage", choices=STORAGES, default="float32", help="type of the numbers on disk (default float32)")
    add("--format", choices=FILE_FORMATS, help="by default told by the ending of OUT")
    add("--overwrite", action="store_true", help="compute again what is there already; by default it is skipped")
    return top


def _options(options: argparse.Namespace, model: EATModel, count: int) -> ExtractionOptions:
    window = options.window or WINDOW
    hop = options.hop or half_window(window, model.patch_size)
    if options.target_length is not None and (options.window is not None or options.hop is not None):
        raise ConfigError("--target-length cuts every clip, --window and --hop keep all of it; give one or the other.")
    check_windows(model, window, hop)
    layer = options.layer[0] if options.layer and len(options.layer) == 1 else options.layer
    model.layer_numbers(layer)
    return ExtractionOptions(
        layer=layer,
        granularity=options.granularity,
        target_length=options.target_length,
        max_frames=options.window or model.encoder.max_frames,
        window=window,
        hop=hop,
        batch_size=options.batch_size,
        workers=workers(options, count),
        storage=options.storage,
    )


def _format_and_folder(options: argparse.Namespace, sources: Sequence[Source]) -> tuple[str, Path, bool]:
    """The output's format, the folder that arrays are written to, and whether there is but one of them."""
    suffix = os.path.splitext(options.output)[1].lower()
    file_format = options.format or SUFFIXES.get(suffix, "npy")
    if file_format != "npy":
        check_library(file_format)
        if file_format in TABLES.values() and (options.granularity not in READOUTS or len(options.layer or ()) > 1):
            raise ConfigError(
                f"a table holds one vector a recording; give --granularity {', '.join(READOUTS[:-1])} or "
                f"{READOUTS[-1]}, and no more than one --layer."
            )
        if os.path.isdir(options.output):
            raise ConfigError(f"{options.output} is a folder; --format {file_format} writes one file.")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("several processes cannot write one file; use --format npy with a folder.")
        return file_format, parts_folder(options.output), False
    single = suffix == ".npy" and not os.path.isdir(options.output)
    if single and (len(options.source) > 1 or len(sources) > 1 or os.path.isdir(options.source[0])):
        raise ConfigError(f"{options.output} is one file, but there are several sources; give a folder.")
    if not single and os.path.exists(options.output) and not os.path.isdir(options.output):
        raise ConfigError(f"{options.output} is a file; give a folder, or a name that ends in .npy for one source.")
    return file_format, Path(options.output).parent if single else Path(options.output), single


def run(options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit status, 0 or 1. Raises ConfigError or CheckpointError."""
    sources, problems = find_sources(options.source)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    file_format, folder, single = _format_and_folder(options, sources)
    names = [os.path.basename(options.output)] if single else output_names(sources)
    model = open_model(options)
    wanted = _options(options, model, len(sources))
    for problem in problems if rank == 0 else ():
        print(f"error: {problem}", file=sys.stderr)
    if not sources:
        return 1
    stored: set[str] = set()
    if file_format != "npy" and not options.overwrite:
        with packed(file_format, options.output) as arrays:
            stored = {f"{name}.npy" for name in arrays}
    mine = list(zip(sources, names, strict=False))[rank::world]
    todo = [
        (source, folder / name)
        for source, name in mine
        if options.overwrite or not (name in stored or (folder / name).exists())
    ]
    if stored.issuperset(names):
        print(f"{options.output} is there already; --overwrite computes it again")
        return status(options, len(problems), len(sources) + len(problems))
    check_writable(folder)
    began = time.perf_counter()
    outcome = extract_all(model, [source for source, _ in todo], [target for _, target in todo], wanted)
    seconds = time.perf_counter() - began
    if file_format != "npy":
        pack(file_format, folder, names, options.output, options.overwrite)
    rate = f", {outcome.done / seconds:.1f} clips/s" if outcome.done else ""
    there = f", {len(mine) - len(todo)} were there already" if len(mine) > len(todo) else ""
    failed = len(outcome.problems) + (len(problems) if rank == 0 else 0)
    bad = f", {failed} could not be done" if failed else ""
    print(f"features of {outcome.done} recordings written to {options.output}{rate}{there}{bad}")
    return status(options, failed, len(mine) + (len(problems) if rank == 0 else 0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where some inputs could not be done, 2 for unusable arguments."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options), stopped="stopped; the same command resumes from here.")
