"""Opening many recordings at once: their lengths, and the statistics of their filterbanks."""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from ...audio.recordings import MIN_SECONDS, open_recording, read_audio
from ...audio.timeout import READ_SECONDS, within
from ...errors import DataError
from ...network.front_end import FrontEnd, filterbank
from ...progress import progress

Result = TypeVar("Result")

Statistics = np.ndarray
"""(3,) float64: how many values, their sum, and the sum of their squares."""


def clip_length(source: str) -> int | str:
    """The recording's samples at its own rate, counted where its header only lets them be estimated; or why not."""
    try:
        recording = within(READ_SECONDS, source, lambda: open_recording(source))
        recording.close()
    except DataError as error:
        return str(error)
    if recording.frames < MIN_SECONDS * recording.rate:
        return f"{source} holds {recording.frames} samples; a clip must last 10 ms at least."
    return recording.frames


def clip_statistics(source: str, seconds: float) -> Statistics | str:
    """Statistics of the unpadded filterbank of the clip's first ``seconds``, or why it cannot be read."""
    try:
        waveform = within(READ_SECONDS, source, lambda: read_audio(source, round(seconds * FrontEnd.sample_rate)))
    except DataError as error:
        return str(error)
    values = filterbank(waveform - waveform.mean()).double()
    return np.array([values.numel(), values.sum().item(), values.square().sum().item()])


def for_each(
    function: Callable[[str], Result], sources: Sequence[str], description: str, workers: int, chunk: int
) -> Iterator[Result]:
    """Call ``function`` for every source, on ``workers`` processes, with a progress bar.

    Args:
        function: what to call; a module's function, perhaps with arguments bound.
        sources: what to call it with.
        description: for the progress bar.
        workers: processes; where the work is a single chunk, none is started.
        chunk: sources that a process takes at a time.

    Yields:
        The results, in the order of ``sources``.

    Raises:
        DataError: when a process is killed.
    """
    chunks = [sources[start : start + chunk] for start in range(0, len(sources), chunk)]
    if workers <= 1 or len(chunks) <= 1:
        yield from progress(map(function, sources), len(sources), description)
        return
    # Processes are forked from one that has imported this module and done nothing else: quick, and safe where this
    # process has threads of its own.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(min(workers, len(chunks)), context, initializer=_start_worker) as pool:
        try:
            results = pool.map(functools.partial(_each, function), chunks)
            yield from progress((result for part in results for result in part), len(sources), description)
        except BrokenProcessPool:
            raise DataError(
                "a worker process was killed, most likely because memory ran out; try again with fewer --num-workers."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)


def _each(function: Callable[[str], Result], sources: Sequence[str]) -> list[Result]:
    return [function(source) for source in sources]
