"""What the benchmarks share: work per clip, the machine's own matrix rate, timing, and results as JSON and a table."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from EAT.network.mixtures import region_width
from EAT.network.settings import PretrainingSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "embed_dim": 1024,
        "depth": 24,
        "num_heads": 16,
        "mask_prob": 0.75,
        "mask_prob_adjust": 0.1,
        "decoder_layers": 3,
        "decoder_kernel": 5,
        "decoder_width": 1024,
    },
    "vit_s": {"embed_dim": 384, "num_heads": 6, "decoder_width": 384},
    "tiny": {"embed_dim": 32, "depth": 2, "num_heads": 4, "decoder_layers": 2, "decoder_width": 32},
    "small": {"embed_dim": 192, "depth": 6, "num_heads": 6, "decoder_layers": 3, "decoder_width": 192},
}


def model_settings(size: str, clones: int = 16, **settings: Any) -> PretrainingSettings:
    """The pre-training network of a named size."""
    return PretrainingSettings(**{**SIZES[size], "clone_batch": clones, **settings})


def blocks_work(depth: int, dim: int, mlp_ratio: float, tokens: int, gated: bool) -> float:
    """FLOP of one forward pass of ``tokens`` tokens through Transformer blocks; a multiply-add counts as 2."""
    per_token = 2 * dim * ((4 + gated) * dim + 2 * int(dim * mlp_ratio)) + 4 * tokens * dim
    return float(depth * tokens * per_token)


def encoder_work(settings: PretrainingSettings, tokens: int) -> float:
    """FLOP of one forward pass of ``tokens`` tokens through the encoder's blocks."""
    gated = settings.attention == "gated"
    return blocks_work(settings.depth, settings.embed_dim, settings.mlp_ratio, tokens, gated)


def decoder_work(settings: PretrainingSettings, patches: int) -> float:
    """FLOP of the decoder's forward pass for one clone, its last projection counted at every patch."""
    dim, width = settings.embed_dim, settings.decoder_width
    if settings.decoder == "transformer":
        gated = settings.attention == "gated"
        blocks = blocks_work(settings.decoder_layers, width, settings.decoder_mlp_ratio, patches, gated)
        return blocks + float(patches * 2 * width * dim)
    widths = [dim] + [width] * settings.decoder_layers
    kernel = settings.decoder_kernel**2
    pairs = itertools.pairwise(widths)
    convolutions = sum(2 * after * before // settings.decoder_groups * kernel for before, after in pairs)
    return float(patches * (convolutions + 2 * width * dim))


def step_work(settings: PretrainingSettings, frames: int) -> float:
    """FLOP per clip of a training step: the teacher's forward, and three times the student's and the decoder's.

    Base, 16 clones, 1024 frames: 1 083 GFLOP, BAT's 3 555. What an implementation leaves out or computes twice changes
    nothing. With mixtures both are done for two views, and the teacher also hears each clip in its mixed columns alone;
    base, 8 clones: 1 228 GFLOP.
    """
    rows = settings.mel_bins // settings.patch_size
    time = frames // settings.patch_size
    student = encoder_work(settings, 1 + settings.kept(time * rows)) + decoder_work(settings, time * rows)
    once = encoder_work(settings, 1 + time * rows) + 3 * settings.clone_batch * student
    if not settings.mixtures:
        return once
    return 2 * once + encoder_work(settings, 1 + (time - 2 * region_width(time)) * rows)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Wall-clock time of one call, with all that it started on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


class MatrixRate:
    """The machine's own matrix-multiply rate: products of 4096 x 768 with 768 x 3072 in one precision."""

    SHAPE = (4096, 768, 3072)

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        rows, inner, columns = self.SHAPE
        self.device = device
        self.left = torch.randn(rows, inner, device=device).to(dtype)
        self.right = torch.randn(columns, inner, device=device).to(dtype)
        self.out = torch.empty(rows, columns, device=device, dtype=dtype)
        self.calls = 1
        for _ in range(3):
            self.measure()
        self.calls = max(1, round(0.06 * self.measure() / (2 * rows * inner * columns)))

    def measure(self, bursts: int = 5) -> float:
        """FLOP/s: the median of a few bursts of 60 ms, so that a neighbour's moment does not count."""

        def run() -> None:
            for _ in range(self.calls):
                torch.mm(self.left, self.right.t(), out=self.out)

        rows, inner, columns = self.SHAPE
        work = self.calls * 2 * rows * inner * columns
        return work / statistics.median(seconds_of(run, self.device) for _ in range(bursts))


@dataclass
class Result:
    """One row of a table."""

    name: str
    clips_per_s: float
    ms_per_clip: float
    spread: float
    """(slowest - fastest) / median over the repeats."""
    repeats: int
    cpu_ms_per_clip: float | None = None
    """Processor time of all threads, waiting for each other included; steadier than the clock on a shared machine."""
    tflops: float | None = None
    matrix_tflops: float | None = None
    share: float | None = None
    """Of the matrix rate that was measured between the repeats; the median of each repeat's own."""
    peak_memory_gib: float | None = None
    more: dict[str, Any] = field(default_factory=dict)


def peak_memory(device: torch.device) -> float:
    """GiB: the largest of the process on a CPU, of its tensors on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(
    name: str,
    call: Callable[[], Any],
    clips: float,
    device: torch.device,
    *,
    repeats: int = 5,
    warmup: int = 1,
    work_per_clip: float | None = None,
    rate: MatrixRate | None = None,
) -> Result:
    """Time ``call``, which processes ``clips`` clips, with the matrix rate measured before and after every repeat."""
    for _ in range(warmup):
        call()
    times, processor, rates = [], [], [rate.measure()] if rate else []
    for _ in range(repeats):
        start = time.process_time()
        times.append(seconds_of(call, device))
        processor.append(time.process_time() - start)
        if rate:
            rates.append(rate.measure())
    median = statistics.median(times)
    result = Result(
        name, clips / median, 1000 * median / clips, (max(times) - min(times)) / median, repeats,
        cpu_ms_per_clip=1000 * statistics.median(processor) / clips, peak_memory_gib=peak_memory(device),
    )  # fmt: skip
    if work_per_clip is not None:
        result.tflops = work_per_clip * clips / median / 1e12
    if work_per_clip is not None and rate:
        around = [(before + after) / 2 for before, after in itertools.pairwise(rates)]
        result.matrix_tflops = statistics.median(rates) / 1e12
        result.share = statistics.median(
            work_per_clip * clips / seconds / own for seconds, own in zip(times, around, strict=True)
        )
    return result


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    flags = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        facts = {key.strip(): value.strip() for key, value in lines.items()}
        processor, flags = facts.get("model name", processor), facts.get("flags", "")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    return {
        "processor": processor,
        "instructions": [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags.split()],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit,
    }


def parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    logging.getLogger().setLevel(logging.WARNING)  # importing fairseq turns on every library's debugging messages
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--threads", type=int, default=defaults.get("threads", 2), help="of PyTorch on the CPU")
    made.add_argument("--repeats", type=int, default=defaults.get("repeats", 5))
    made.add_argument("--json", type=Path, help="write the results here")
    return made


def report(
    benchmark: str, results: Sequence[Result], options: argparse.Namespace, device: torch.device, **more: Any
) -> None:
    """Print the table and the JSON, and write the JSON where ``--json`` says."""
    record = {
        "benchmark": benchmark,
        "machine": machine(device),
        "options": {key: str(value) for key, value in vars(options).items() if key != "json"},
        "results": [asdict(result) for result in results],
        **more,
    }
    print(table(results), file=sys.stderr)
    text = json.dumps(record, indent=1)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")


def table(results: Sequence[Result]) -> str:
    """Results as a Markdown table."""

    def number(value: float | None, places: int) -> str:
        return "" if value is None else f"{value:.{places}f}"

    lines = [
        "| what | clips/s | ms a clip | CPU ms a clip | TFLOP/s | matrix TFLOP/s | share | peak GiB | spread | more |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        more = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                         for key, value in r.more.items())  # fmt: skip
        lines.append(
            f"| {r.name} | {number(r.clips_per_s, 3)} | {number(r.ms_per_clip, 3)} "
            f"| {number(r.cpu_ms_per_clip, 3)} | {number(r.tflops, 3)} "
            f"| {number(r.matrix_tflops, 3)} | {number(r.share, 2)} | {number(r.peak_memory_gib, 2)} "
            f"| {r.spread:.0%} of {r.repeats} | {more} |"
        )
    return "\n".join(lines)
