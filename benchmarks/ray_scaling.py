"""Extraction on Ray nodes of this one machine, which all share its cores, and what does not grow with them.

    python benchmarks/ray_scaling.py                 in an environment with Ray; the log is ray_scaling.log beside it

Clips/s are counted between the first file of results and the last; what comes before the first is what starting takes,
with the cluster already up. Decoding alone and writing alone are timed in this process.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow
import torch
from clips import make_clips
from common import SIZES, machine
from extract import write_model

from EAT.inference.decoding import decode_ahead
from EAT.inference.model import load
from EAT.inference.partitions import Row, divide, write_part
from EAT.inference.sources import Source, find_sources


def timed(title: str, output: Path, clips: int, arguments: Sequence[str]) -> None:
    """Run the command, on one core a process, and print its clips/s and how long it took to start."""
    start = time.time()
    command = [sys.executable, "-m", "EAT.extract", *arguments, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    whole = time.time() - start
    assert done.returncode == 0, done.stdout + done.stderr
    written = sorted(path.stat().st_mtime for path in output.iterdir() if path.suffix in (".npy", ".parquet"))
    each = clips / len(written)
    grown = (written[-1] - written[0]) / (len(written) - 1) / each
    print(
        f"{title}: {1 / grown:.2f} clips/s, {written[0] - start - each * grown:.1f} s to start, {whole:.1f} s in all "
        f"for {clips} clips; load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """The address of so many nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(nodes - 1):
        started.add_node(**node)
    started.wait_for_nodes()
    try:
        yield started.address
    finally:
        started.shutdown()


class Vectors:
    """Rows of numbers that nothing had to be computed for."""

    def __init__(self, width: int) -> None:
        self.made = {"checkpoint": "none"}
        self.schema = pyarrow.schema({"path": pyarrow.string(), "features": pyarrow.list_(pyarrow.float32(), width)})
        self.vector = np.random.default_rng(0).standard_normal(width).astype(np.float32)

    def rows(self, sources: Sequence[Source]) -> Iterator[Row]:
        for source in sources:
            yield {"path": source.address, "features": self.vector}


def rate(seconds: float, clips: int) -> str:
    return f"{clips / seconds:,.1f} clips/s"


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=SIZES, default="small", help="of the model (default small)")
    made.add_argument("--clips", type=int, default=240, help="of 10 s (default 240)")
    made.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    made.add_argument("--part-size", type=int, default=4)
    options = made.parse_args()
    torch.set_num_threads(1)
    told = machine(torch.device("cpu"))
    print(f"{told['processor']}, {told['cores']} cores, torch {told['torch']}; load average at the beginning "
          f"{os.getloadavg()[0]:.1f}; {options}")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = str(folder / "model.safetensors")
        write_model(checkpoint, options.size)
        make_clips(folder / "clips", options.clips)
        common = ["--checkpoint", checkpoint, "--granularity", "mean", "--batch-size", "4", "--num-workers", "0"]
        common += ["--source", str(folder / "clips")]
        timed("one process", folder / "one", options.clips, common)
        for nodes in options.nodes:
            with cluster(nodes) as address:
                ray = ["--ray", address, "--part-size", str(options.part_size)]
                timed(f"{nodes} nodes", folder / f"{nodes}", options.clips, [*common, *ray])
        sources, _ = find_sources([str(folder / "clips")])
        model = load(checkpoint)
        start = time.perf_counter()
        for _ in decode_ahead(model, sources, 1024, True, 0):
            pass
        print(f"decoding and resampling alone, one process: {rate(time.perf_counter() - start, len(sources))}")
        many_sources = [Source(f"clip{number}.wav", f"{number}") for number in range(20_000)]
        start = time.perf_counter()
        for part in divide(many_sources, 512):
            write_part(folder / "written", part, Vectors(model.embed_dim))
        print(f"writing alone, partitions of 512 vectors of {model.embed_dim}: "
              f"{rate(time.perf_counter() - start, 20_000)}")  # fmt: skip


if __name__ == "__main__":
    main()
