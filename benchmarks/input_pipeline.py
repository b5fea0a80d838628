"""Batches from real wav files through the loader of training: ``python benchmarks/input_pipeline.py``.

Clips/s of the loader alone, by workers and by where filterbanks are computed. Reading is timed from a warm disk cache.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from clips import batches, make_clips
from common import measure, parser, report

from EAT.system import keep_freed_memory


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--clips", type=int, default=96, help="wav files of 10 s at 32 kHz")
    made.add_argument("--batch-size", type=int, default=12)
    made.add_argument("--num-workers", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    count = options.clips // options.batch_size
    results = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_clips(Path(folder), options.clips)
        for where in ("device", "workers"):
            for workers in options.num_workers:
                stream = batches(manifest, options.batch_size, workers, where, device)

                def epoch(stream: Iterator[Any] = stream) -> None:
                    for _ in range(count):
                        next(stream)

                name = f"{workers} workers, front_end={where}"
                clips = count * options.batch_size
                results.append(measure(name, epoch, clips, device, repeats=options.repeats))
                del stream
    report("input_pipeline", results, options, device)


if __name__ == "__main__":
    main()
