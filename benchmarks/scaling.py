"""Data-parallel training steps of a small model: ``python benchmarks/scaling.py`` (gloo, one thread a process)."""

from __future__ import annotations

import os
import tempfile
import time
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import SIZES, Result, model_settings, parser, peak_memory, report
from torch.nn.parallel import DistributedDataParallel
from training import UTTERANCE_WEIGHT

from EAT.network.pretraining import Pretraining
from EAT.system import keep_freed_memory


def work(rank: int, world: int, rendezvous: str, size: str, clips: int, repeats: int, out: SimpleQueue[Any]) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    torch.manual_seed(1)
    model = Pretraining(model_settings(size)).train()
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    filterbank = torch.randn(clips, 1, 1024, 128)
    times = []
    for update in range(repeats + 1):
        dist.barrier()
        start = time.perf_counter()
        numbers = [rank * clips + clip for clip in range(clips)]
        terms = parallel(model.draw(filterbank, numbers, seed=1, epoch=1)).terms
        (terms["frame"] + UTTERANCE_WEIGHT * terms["utterance"]).backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_teacher(update + 1)
        dist.barrier()
        times.append(time.perf_counter() - start)
    if rank == 0:
        out.put((times[1:], peak_memory(torch.device("cpu"))))
    dist.destroy_process_group()


def main() -> None:
    made = parser(__doc__, threads=1, repeats=5)
    made.add_argument("--size", choices=SIZES, default="small")
    made.add_argument("--clips", type=int, default=2, help="a process")
    made.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    options = made.parse_args()
    torch.set_num_threads(1)
    results: list[Result] = []
    for world in options.processes:
        out: SimpleQueue[Any] = mp.get_context("spawn").SimpleQueue()
        with tempfile.TemporaryDirectory() as folder:
            rendezvous = os.path.join(folder, "rendezvous")
            arguments = (world, rendezvous, options.size, options.clips, options.repeats, out)
            context = mp.spawn(work, arguments, nprocs=world, join=False)
            times, memory = out.get()
            while not context.join():
                pass
        times.sort()
        median, clips = times[len(times) // 2], world * options.clips
        result = Result(
            f"{options.size}, {world} processes x {options.clips} clips", clips / median, 1000 * median / clips,
            (times[-1] - times[0]) / median, len(times), peak_memory_gib=memory,
        )  # fmt: skip
        if results:
            result.more["times_one"] = result.clips_per_s / results[0].clips_per_s
        results.append(result)
    report("scaling", results, options, torch.device("cpu"))


if __name__ == "__main__":
    main()
