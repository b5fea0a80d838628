"""A command's recordings on the machines of a Ray cluster: actors that hold the model, results as Parquet partitions.

Every machine sees the checkpoint, the recordings and the output folder under the same names: on a disk that they share,
or by names of the Hub and of remote stores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..audio.stored import is_remote
from ..errors import ConfigError, DataError, EATError
from ..files import exclusive
from ..inference.partitions import PART_SIZE, UNREADABLE, Job, Problem, Written, divide, resume, write_part
from ..inference.sources import Source, find_sources
from ..progress import progress_bar
from .options import status

MAX_BLOCKS = 10_000

MakeJob = Callable[[argparse.Namespace], Job]


def add_ray_flags(top: argparse.ArgumentParser) -> None:
    """The flags of a command that runs on a cluster too."""
    add = top.add_argument_group("many machines").add_argument
    add("--ray", metavar="ADDRESS",
        help="run on the Ray cluster there (host:port; auto: this machine's; local: this machine alone); OUT is then a "
        "folder of Parquet files with a row a recording, which the same command continues to fill")  # fmt: skip
    add("--ray-actors", type=int, metavar="N", help="models at a time; by default what the cluster has room for")
    add("--ray-gpus", type=float, metavar="G",
        help="GPUs of a model; 0.25 puts four on one. By default 1 where the cluster has GPUs, else 0")  # fmt: skip
    add("--part-size", type=int, default=PART_SIZE, metavar="P",
        help=f"recordings of a Parquet file, and what is lost with a machine (default {PART_SIZE}); a tar is one "
        "whatever it holds")  # fmt: skip


class Worker:
    """An actor: opens the model at its first partition, and writes one after the other.

    What is wrong with its machine comes back as a sentence, not as an exception that Ray would wrap and try again.
    """

    def __init__(self, make_job: MakeJob, options: argparse.Namespace, folder: str) -> None:
        self._make_job, self._options, self._folder = make_job, options, folder
        self._job: Job | None = None

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Write the partition whose recordings a row lists; gives back how many were done and what could not be."""
        try:
            if self._job is None:
                with contextlib.suppress(OSError):  # where the command runs, if this machine has such a folder
                    os.chdir(self._options.ray_folder)
                self._job = self._make_job(self._options)
            written = write_part(self._folder, [Source(*source) for source in json.loads(row["part"])], self._job)
        except EATError as error:
            return {"part": json.dumps({"stop": str(error)})}
        return {"part": json.dumps(written._asdict())}


def _ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("--ray needs Ray Data: pip install 'eat-audio[ray]'.") from None
    return ray


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at an address."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what matters comes as an exception
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"--ray {address}: no cluster can be used there ({said}); 'ray start --head' starts one."
        ) from None
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours counts recordings
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        ray.shutdown()


class _Room(NamedTuple):
    """How many actors a cluster has room for, and what each takes."""

    actors: int
    cpus: float
    gpus: float


def _room(ray: Any, options: argparse.Namespace) -> _Room:
    machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
    cpus = 1.0 + options.num_workers
    gpus = options.ray_gpus
    if gpus is None:
        gpus = float(any(machine.get("GPU", 0) for machine in machines))
    rooms = [(machine.get("CPU", 0) / cpus, machine.get("GPU", 0) / gpus if gpus else math.inf) for machine in machines]
    fits = sum(int(min(room)) for room in rooms)
    if not fits:
        raise ConfigError(
            f"no machine of the cluster has the {cpus:g} CPUs (1 + --num-workers) and {gpus:g} GPUs (--ray-gpus) that "
            "a model wants."
        )
    return _Room(min(fits, options.ray_actors or fits), cpus, gpus)


def _check(options: argparse.Namespace) -> None:
    if not options.output:
        raise ConfigError("--ray writes Parquet files; give --output FOLDER.")
    if getattr(options, "format", None) not in (None, "parquet"):
        raise ConfigError(f"--ray writes Parquet files, not --format {options.format}.")
    if getattr(options, "picture", None):
        raise ConfigError("--picture goes without --ray alone.")
    if os.path.exists(options.output) and not os.path.isdir(options.output):
        raise ConfigError(f"{options.output} is a file; --ray writes a folder of Parquet files.")
    for flag, value in (("--ray-actors", options.ray_actors), ("--part-size", options.part_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{flag} is {value}; it must be at least 1.")
    if options.ray_gpus is not None and options.ray_gpus < 0:
        raise ConfigError(f"--ray-gpus is {options.ray_gpus:g}; it must be 0 or more.")
    options.num_workers = options.num_workers or 0
    options.ray_folder = os.getcwd()


def _results(
    ray: Any, options: argparse.Namespace, make_job: MakeJob, folder: str, parts: Sequence[list[Source]], room: _Room
) -> Iterator[Written]:
    """What became of each partition, as they come. Raises DataError where the cluster gives up."""
    if not parts:
        return
    items = [{"part": json.dumps(part)} for part in parts]
    rows = ray.data.from_items(items, override_num_blocks=min(len(items), MAX_BLOCKS)).map(
        Worker,
        fn_constructor_args=(make_job, options, folder),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=room.actors, initial_size=room.actors),
        num_cpus=room.cpus,
        num_gpus=room.gpus,
    )
    try:
        for row in rows.iter_rows():
            result = json.loads(row["part"])
            if "stop" in result:
                raise DataError(result["stop"])
            yield Written(result["done"], [Problem(*problem) for problem in result["problems"]])
    except ray.exceptions.RayError as error:
        said = " ".join(str(error).split())[-300:]
        raise DataError(f"the cluster gave up ({said}); what is done stays, the same command resumes.") from None


def run_on_ray(options: argparse.Namespace, make_job: MakeJob) -> int:
    """Do a command's recordings on a cluster; returns the exit status.

    Args:
        options: the command's.
        make_job: what each actor makes its rows with, from the options; a class or a function of a module.

    Raises:
        ConfigError, CheckpointError, DataError: as the command on one machine, and where no cluster can be used.
    """
    _check(options)
    _ray()  # asked for before the model is opened
    sources, lost = find_sources(options.source, open_shards=False)
    for problem in lost:
        print(f"error: {problem}", file=sys.stderr)
    if not sources:
        return 1
    # Here the model only says what it is; this machine may have no GPU.
    made = make_job(
        argparse.Namespace(**{**vars(options), "device": "cpu", "batch_size": options.batch_size or 1})
    ).made
    done = bad = 0
    busy = f"another command fills {options.output}; wait for its end, or give another --output."
    remote = is_remote(options.output)
    folder = options.output if remote else os.path.abspath(options.output)
    alone = contextlib.nullcontext() if remote else exclusive(Path(folder), busy)  # stores have no locks
    with alone, _connected(options.ray) as ray:
        room = _room(ray, options)
        left = resume(folder, sources, made, getattr(options, "overwrite", False))
        parts = divide(left.todo, options.part_size)
        began = time.perf_counter()
        with contextlib.closing(progress_bar(len(parts), "partitions")) as bar:
            for written in _results(ray, options, make_job, folder, parts, room):
                done += written.done
                bad += len(written.problems)
                for _, error in written.problems:
                    print(f"error: {error}", file=sys.stderr, flush=True)
                bar.update(1)
    rate = f", {done / (time.perf_counter() - began):.1f} clips/s" if done else ""
    had = f", {left.done:,} were there already" if left.done else ""
    bad += len(left.problems)
    failed = f", {bad:,} could not be done (see {UNREADABLE} there)" if bad else ""
    print(f"rows of {done:,} recordings written to {options.output}{rate}{had}{failed}")
    return status(options, bad + len(lost), done + left.done + bad + len(lost))
