"""The command line of ``feature_extract/feature_extract.py``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoint.formats import WEIGHTS
from ..errors import ConfigError
from ..inference.extraction import Wanted, extract_all
from ..inference.feature_files import FORMATS, SUFFIXES, check_library, check_writable, pack, packed, parts_folder
from ..inference.model import GRANULARITIES, MAX_FRAMES, EATModel, load
from ..inference.sources import Source, find_sources, output_names
from ..inference.windows import WINDOW, check_windows
from ..network.settings import FREQUENCY_PATCHES, check_target_length
from ..system import available_memory, default_workers, keep_freed_memory
from .command_line import described, exit_status

PRECISIONS = ("float32", "bfloat16", "float16")
STORAGES = ("float32", "float16")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Options that say which model computes, where, and of which audio."""
    add = parser.add_argument
    add("--source", nargs="+", required=True, metavar="PATH",
        help="wav, flac, ogg, opus, mp3 or aiff files of any rate and channel count, folders (searched), or manifests "
        "(.tsv)")  # fmt: skip
    add("--checkpoint", required=True, metavar="CKPT",
        help="one of ours, a published fairseq checkpoint, or a Hugging Face folder or file")  # fmt: skip
    add("--device", help="cpu or cuda; by default cuda where there is one")
    add("--precision", choices=PRECISIONS, default="float32", help="what the model computes in (default float32)")
    add("--batch-size", type=int, metavar="B",
        help="clips of 10 s at once; of shorter ones more (by default 16, on a GPU 64, or what half of the free memory "
        "holds)")  # fmt: skip
    add("--num-workers", type=int, metavar="W",
        help="processes that decode ahead; by default one a core, and none for a few files")  # fmt: skip
    add("--norm-mean", type=float, metavar="M", help="mean of the filterbank; by default the checkpoint's")
    add("--norm-std", type=float, metavar="S", help="its standard deviation; by default the checkpoint's")
    add("--window", type=int, metavar="FRAMES",
        help="recordings longer than this many frames of 10 ms go window by window")  # fmt: skip
    add("--hop", type=int, metavar="FRAMES", help="frames from one window to the next; by default half a window")


def choose_device(name: str | None) -> torch.device:
    """The device called ``name``; None is CUDA where there is any. Raises ConfigError for one that cannot be used."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"--device {name} cannot be used ({reason}); try --device cpu.") from None
    return device


def open_model(options: argparse.Namespace, weights: str = "student") -> EATModel:
    """The model that the options ask for; fills in a batch size that was left to us.

    Raises:
        ConfigError: for options that cannot be used.
        CheckpointError: for a checkpoint that cannot.
    """
    if options.batch_size is not None and options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}; it must be at least 1.")
    if options.num_workers is not None and options.num_workers < 0:
        raise ConfigError(f"--num-workers is {options.num_workers}; it must be 0 or more.")
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    model = load(options.checkpoint, weights=weights, norm_mean=options.norm_mean, norm_std=options.norm_std)
    model = model.to(device=device, dtype=getattr(torch, options.precision))
    if options.batch_size is None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        options.batch_size = fitting_batch_size(model, free)
    return model


def fitting_batch_size(model: EATModel, free: int | None) -> int:
    """Clips of 10 s that a batch may have: 16 on a CPU, 64 elsewhere, or fewer where memory is short.

    Args:
        model: on its device, in its precision.
        free: bytes that may be had on that device; None where nobody knows.
    """
    most = 16 if model.device.type == "cpu" else 64  # more makes neither any faster
    if free is None:
        return most
    config = model.encoder.settings
    # At once: a block's input, queries, keys, values and result, the hidden layer before and after GELU, all blocks
    # that were asked for at the worst.
    numbers = config.embed_dim * (8 + 2 * config.mlp_ratio + config.depth) * (1 + 64 * FREQUENCY_PATCHES)
    return max(1, min(most, int(free / 2 / (numbers * model.encoder.cls_token.element_size()))))


EXAMPLES = """
python feature_extract/feature_extract.py --source clip.wav --output clip.npy --checkpoint EAT-base.pt
python feature_extract/feature_extract.py --source recordings/ --output features/ --checkpoint EAT-base.pt \\
    --granularity utterance
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
    add_model_options(top)
    add("--output", required=True, metavar="OUT",
        help="for one file a name that ends in .npy; else a folder that mirrors the sources, or one .h5, .hdf5 or "
        ".safetensors file")  # fmt: skip
    add("--granularity", choices=GRANULARITIES, default="all",
        help="all: CLS, then patches (1 + N, D); frame: patches (N, D); utterance: CLS (D) (default all)")  # fmt: skip
    add("--target-length", type=int, metavar="FRAMES",
        help="pad or cut every clip to so many frames of 10 ms, a multiple of 16; by default each keeps its own "
        "length, rounded up to one")  # fmt: skip
    add("--layer", type=int, nargs="+", metavar="K",
        help="0: input to the first block; 1 to depth: a block's output; negative: from the end. Several give "
        "(L, ...). By default the last block")  # fmt: skip
    add("--weights", choices=WEIGHTS, default="student", help="whose encoder, of a pre-trained checkpoint")
    add("--storage", choices=STORAGES, default="float32", help="type of the numbers on disk (default float32)")
    add("--format", choices=FORMATS, help="by default told by the ending of OUT")
    add("--overwrite", action="store_true", help="compute again what is there already; by default it is skipped")
    return top


def _wanted(options: argparse.Namespace, model: EATModel, count: int) -> Wanted:
    window = options.window or WINDOW
    hop = options.hop or max(16, window // 2 // 16 * 16)
    if options.target_length is not None:
        check_target_length(options.target_length, "--target-length")
        if options.window is not None or options.hop is not None:
            raise ConfigError(
                "--target-length cuts every clip, --window and --hop keep all of it; give one or the other."
            )
    check_windows(window, hop)
    layer = options.layer[0] if options.layer and len(options.layer) == 1 else options.layer
    model.layer_numbers(layer)
    return Wanted(
        layer=layer,
        granularity=options.granularity,
        target_length=options.target_length,
        max_frames=options.window or MAX_FRAMES,
        window=window,
        hop=hop,
        batch_size=options.batch_size,
        workers=default_workers(count) if options.num_workers is None else options.num_workers,
        storage=options.storage,
    )


def _format_and_folder(options: argparse.Namespace, sources: Sequence[Source]) -> tuple[str, Path, bool]:
    """The output's format, the folder that arrays are written to, and whether there is but one of them."""
    suffix = os.path.splitext(options.output)[1].lower()
    file_format = options.format or SUFFIXES.get(suffix, "npy")
    if file_format != "npy":
        check_library(file_format)
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
    model = open_model(options, options.weights)
    wanted = _wanted(options, model, len(sources))
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
        return 1 if problems else 0
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
    return 1 if outcome.problems or problems else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where some inputs could not be done, 2 for unusable arguments."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options), stopped="stopped; the same command goes on from here.")
