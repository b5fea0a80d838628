"""The command ``python -m EAT.extract``, which ``feature_extract/feature_extract.py`` calls too."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from ..data.manifest import holdable
from ..errors import ConfigError, DataError
from ..files import exclusive, hidden
from ..inference.extraction import ExtractionOptions, extract_all, extract_each
from ..inference.feature_files import (
    FILE_FORMATS,
    SUFFIXES,
    check_library,
    check_names,
    check_writable,
    pack,
    packed,
    parts_folder,
)
from ..inference.model import GRANULARITIES, EATModel
from ..inference.partitions import Problem, Row
from ..inference.provenance import (
    FILE,
    Holding,
    Record,
    check,
    differences,
    made_by,
    others_in,
    parse_record,
    read_record,
    write_record,
)
from ..inference.readouts import READOUTS, width
from ..inference.sources import Source, find_sources, output_names
from ..inference.tables import TABLES, pyarrow
from ..inference.windows import WINDOW, check_windows, half_window
from .command_line import described, exit_status
from .on_ray import add_ray_flags, run_on_ray
from .options import RECORDINGS, add_flags, open_model, refuse_remote, status, workers

STORAGES = ("float32", "float16")

EXAMPLES = """
python -m EAT.extract --source clip.wav --output clip.npy --checkpoint EAT-base.pt
python -m EAT.extract --source recordings/ --output features/ --checkpoint EAT-base.pt \\
    --granularity utterance
python feature_extract/feature_extract.py --source recordings/ --output vectors.parquet --checkpoint CKPT \\
    --granularity mean
torchrun --nproc_per_node 8 feature_extract/feature_extract.py --source list.tsv --output features/ --checkpoint CKPT
python -m EAT.extract --ray auto --source 's3://bucket/{000..123}.tar' --output vectors/ --checkpoint CKPT \\
    --granularity mean
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.extract"),
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
    add_ray_flags(top)
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


class Features:
    """Features as rows, for :mod:`.on_ray`: ``path`` and ``features``, a vector where there is but one.

    Others lie one after the other, (..., D) of the stated ``shape``, with the ``times`` in seconds at which patches
    start; none for CLS.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        pa = pyarrow()
        self._model = open_model(options)
        self._options = _options(options, self._model, 0)
        self.made = made_by(self._model, options.checkpoint, self._options)
        kind, layer = getattr(pa, {"float16": "float16", "float32": "float32"}[options.storage])(), self._options.layer
        self._a_vector = options.granularity in READOUTS and (layer is None or isinstance(layer, int))
        if self._a_vector:
            dim, rows = self._model.encoder.settings.embed_dim, self._model.frequency_patches
            columns = {"features": pa.list_(kind, width(options.granularity, dim, rows))}
        else:
            columns = {"shape": pa.list_(pa.int64()), "times": pa.list_(pa.float64()), "features": pa.list_(kind)}
        self.schema = pa.schema({"path": pa.string(), **columns})

    def rows(self, sources: Sequence[Source]) -> Iterator[Row | Problem]:
        """A row for each recording, as they come."""
        for number, result in extract_each(self._model, sources, self._options):
            path = sources[number].address
            if isinstance(result, DataError):
                yield Problem(path, str(result))
            elif self._a_vector:
                yield {"path": path, "features": result}
            else:
                yield {"path": path, "shape": result.shape, "times": self._times(result), "features": result.ravel()}

    def _times(self, features: NDArray) -> list[float | None] | None:
        if self._options.granularity in READOUTS:
            return None
        lead, model = int(self._options.granularity == "all"), self._model
        steps = (features.shape[-2] - lead) // model.frequency_patches
        starts = [step * model.patch_seconds for step in range(steps) for _ in range(model.frequency_patches)]
        return [None] * lead + starts


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


@dataclass
class _Place:
    """Where features go, and what is there."""

    output: str
    file_format: str
    folder: Path
    """Of the arrays; where one file will hold them all, of those that wait for it."""
    names: list[str]
    """Of all recordings' arrays below it."""
    record: Path
    """Says what made the arrays in the folder."""
    overwrite: bool

    def stored(self) -> Holding:
        """What the one file holds. Raises DataError where it is something else, which ``overwrite`` replaces."""
        if self.file_format == "npy":
            return Holding(None, set(), lambda: 0)
        try:
            with packed(self.file_format, self.output) as content:
                names, record = {f"{name}.npy" for name in content.arrays}, parse_record(content.note)
        except DataError:
            if not self.overwrite:
                raise
            names, record = set(), None
        if self.file_format == "hdf5":
            check_names(self.output, (name.removesuffix(".npy") for name in names.union(self.names)))
        return Holding(record, names.intersection(self.names), lambda: len(names.difference(self.names)))

    def waiting(self) -> Holding:
        """What the folder holds."""
        meant = {name for name in self.names if (self.folder / name).exists()}
        # Beside one array others do not matter, and of those that wait only the ones that are asked for are kept.
        lone = self.record.name != FILE or self.file_format != "npy"
        return Holding(read_record(self.record), meant, lambda: 0 if lone else others_in(self.folder, self.names))

    def prepare(self, made: Record) -> tuple[set[str], bool]:
        """Make way for features that ``made`` makes. Of what something else made nothing is left that is asked for.

        Returns:
            Names that are there and need not be computed; and whether all that will be there is known to be alike.

        Raises:
            ConfigError: where features are there that something else made.
            DataError: for a file that holds something else, or a place that cannot be written.
        """
        waiting, stored = self.waiting(), self.stored()
        known = [check(self.output, holding, made, self.overwrite) for holding in (waiting, stored)]
        check_writable(self.folder)
        if self.overwrite and (waiting.record is None or differences(waiting.record, made)):
            for name in waiting.meant:
                (self.folder / name).unlink(missing_ok=True)
        if known[0]:
            write_record(self.record, made)
        if not all(known):
            print(f"note: nothing says what made the features that {self.output} holds already.", file=sys.stderr)
        return set() if self.overwrite else waiting.meant | stored.meant, all(known)


def _place(options: argparse.Namespace, sources: list[Source], problems: list[str]) -> _Place:
    """Where the options have features go. Sources whose names a file of features cannot hold become problems."""
    file_format, folder, single = _format_and_folder(options, sources)
    if file_format != "npy":
        for source in [source for source in sources if not holdable(source.name)]:
            problems.append(f"{source.address!r} has a name that {options.output} cannot hold; rename it.")
            sources.remove(source)
    names = [os.path.basename(options.output)] if single else output_names(sources, nested=file_format != "hdf5")
    record = hidden(Path(options.output), FILE[1:]) if single else folder / FILE
    return _Place(options.output, file_format, folder, names, record, options.overwrite)


def run(options: argparse.Namespace) -> int:
    """Do what the options say; returns the exit status, 0 or 1. Raises ConfigError, CheckpointError or DataError."""
    if options.ray:
        return run_on_ray(options, Features)
    refuse_remote(options.output)
    sources, problems = find_sources(options.source)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = _place(options, sources, problems)
    model = open_model(options)
    wanted = _options(options, model, len(sources))
    for problem in problems if rank == 0 else ():
        print(f"error: {problem}", file=sys.stderr)
    if not sources:
        return 1
    made = made_by(model, options.checkpoint, wanted)
    if not options.overwrite and (stored := place.stored()).meant.issuperset(place.names):
        check(options.output, stored, made, overwrite=False)
        print(f"{options.output} is there already; --overwrite computes it again")
        return status(options, len(problems), len(sources) + len(problems))
    with contextlib.ExitStack() as alone:
        if place.file_format != "npy":
            busy = f"another extraction writes {options.output}; wait for its end, or give another --output."
            alone.enter_context(exclusive(place.folder, busy))
        there, known = place.prepare(made)
        mine = list(zip(sources, place.names, strict=True))[rank::world]
        todo = [(source, place.folder / name) for source, name in mine if name not in there]
        began = time.perf_counter()
        outcome = extract_all(model, [source for source, _ in todo], [target for _, target in todo], wanted)
        seconds = time.perf_counter() - began
        if place.file_format != "npy":
            note = json.dumps(made) if known else None
            pack(place.file_format, place.folder, place.names, options.output, note, options.overwrite)
    rate = f", {outcome.done / seconds:.1f} clips/s" if outcome.done else ""
    had = f", {len(mine) - len(todo)} were there already" if len(mine) > len(todo) else ""
    failed = len(outcome.problems) + (len(problems) if rank == 0 else 0)
    bad = f", {failed} could not be done" if failed else ""
    print(f"features of {outcome.done} recordings written to {options.output}{rate}{had}{bad}")
    return status(options, failed, len(mine) + (len(problems) if rank == 0 else 0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status: 0, 1 where some inputs could not be done, 2 for unusable arguments."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options), stopped="stopped; the same command resumes from here.")
