"""Everything that is asked of a GPU, in parts of a few minutes: ``python benchmarks/gpu.py [PART ...] --out FILE``.

Each row is written as a line of JSON as soon as it is done, with an ``error`` where it could not be; a limit on time
loses no more than the row at work. What the rows are held against is in ``docs/gpu.md``. PyTorch and what the network
imports are enough for all parts but ``training``, which needs fairseq, and those that read clips, which need soundfile.

``--device cpu --size tiny --budget 1`` tries the whole of it where there is no GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import gpu_kernels
import gpu_runs
import torch
import updates
from common import SIZES, MatrixRate, machine, model_settings, peak_memory, step_work, synchronize
from torch import Tensor
from training import UTTERANCE_WEIGHT, Training

from EAT.network.front_end import FrontEnd
from EAT.network.masking import Drawing
from EAT.network.pretraining import Batch, Pretraining
from EAT.network.random import normals
from EAT.system import keep_freed_memory
from EAT.training.device import DeviceSettings, set_precision


class TooLong(Exception):
    """A row took longer than it may."""


@dataclass
class Bench:
    """What parts share: the device, sizes, and where rows go."""

    device: torch.device
    size: str
    clones: int
    frames: int
    clips: list[int]
    budget: float
    """Seconds a row may take; one that may need more, such as a compilation, says how many times that."""
    out: Any
    folder: Path
    backend: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def write(self, part: str, name: str, **facts: Any) -> None:
        """Write a row at once."""
        row = {"part": part, "row": name, **facts}
        self.rows.append(row)
        text = json.dumps(row)
        print(text, flush=True)
        if self.out is not None:
            self.out.write(text + "\n")
            self.out.flush()
            os.fsync(self.out.fileno())

    def row(self, part: str, name: str, call: Callable[[], dict[str, Any]], allowance: float = 1.0) -> dict[str, Any]:
        """Write what ``call`` returns, or why it returned nothing; returns it."""
        began, facts = time.perf_counter(), {}
        try:
            with limited(allowance * self.budget):
                facts = call()
        except TooLong:
            facts = {"error": f"took longer than {allowance * self.budget:g} s"}
        except Exception as error:  # the rows behind this one are worth having
            facts = {"error": f"{type(error).__name__}: {(str(error).strip() or 'no reason').splitlines()[0][:300]}"}
        self.write(part, name, **facts, seconds=round(time.perf_counter() - began, 3))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return facts

    def time(self, call: Callable[[], Any], share: float = 0.4, most: int = 50) -> dict[str, float]:
        """Median milliseconds of a call with all that it starts, over as many as fit in a share of the budget."""
        for _ in range(2):
            call()
        synchronize(self.device)
        times: list[float] = []
        while len(times) < 3 or (sum(times) < share * self.budget and len(times) < most):
            began = time.perf_counter()
            call()
            synchronize(self.device)
            times.append(time.perf_counter() - began)
        median = statistics.median(times)
        spread = (max(times) - min(times)) / median
        return {"ms": 1000 * median, "spread": round(spread, 3), "repeats": len(times)}

    def settings(self, **settings: Any) -> Any:
        """Of the pre-training network."""
        return model_settings(self.size, self.clones, **settings)

    def filterbank(self, clips: int) -> Tensor:
        """Noise in the shape of ``clips`` filterbanks."""
        return torch.randn(clips, 1, self.frames, 128, device=self.device)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TooLong after so many seconds, as soon as Python runs."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def gradients_of(model: Pretraining, batch: Batch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of one step, on the CPU in float64."""
    model.zero_grad(set_to_none=True)
    terms = model(batch).terms
    (terms["frame"] + UTTERANCE_WEIGHT * terms["utterance"]).backward()
    gradients = {n: p.grad.detach().double().cpu() for n, p in model.named_parameters() if p.grad is not None}
    return {name: value.item() for name, value in terms.items()}, gradients


def correctness(bench: Bench) -> None:
    """The same weights, masks and noise on the CPU and on the device: how far apart is what they compute."""
    settings = bench.settings()
    clips = torch.arange(2)
    torch.manual_seed(1)
    waves = torch.randn(2, FrontEnd.samples_for(bench.frames))
    front_end = FrontEnd(bench.frames)

    def filterbanks() -> dict[str, Any]:
        apart = front_end(waves.to(bench.device)).cpu() - front_end(waves)
        return {"largest_difference": apart.abs().max().item()}

    def masks() -> dict[str, Any]:
        grid = Pretraining(settings).encoder.grid(bench.frames)
        here, there = (Drawing(settings, grid)(clips.to(place), seed=1, epoch=2) for place in ("cpu", bench.device))
        equal = torch.equal(here[0], there[0].cpu())
        same = all(torch.equal(a, b.cpu()) for a, b in zip(here[1], there[1], strict=True))
        noise = [normals(keys.flatten(), 4096).cpu() for keys in (here[0], there[0])]
        return {"keys_equal": equal, "masks_equal": same, "noise_difference": (noise[0] - noise[1]).abs().max().item()}

    bench.row("correctness", "filterbanks", filterbanks)
    bench.row("correctness", "masks and noise", masks)

    torch.manual_seed(1)
    reference = Pretraining(settings)
    weights = reference.state_dict()
    x = torch.randn(2, 1, bench.frames, 128)
    batch = reference.draw(x, clips, seed=1, epoch=1)
    known: dict[str, Any] = {}

    def on_the_cpu() -> dict[str, Any]:
        known["losses"], known["gradients"] = gradients_of(reference, batch)
        return known["losses"]

    bench.row("correctness", "losses on the CPU, float32", on_the_cpu, allowance=4)
    for name, dtype, tf32 in (
        ("float32", torch.float32, False), ("tf32", torch.float32, True), ("bfloat16", torch.bfloat16, False),
    ):  # fmt: skip

        def compared(dtype: torch.dtype = dtype, tf32: bool = tf32) -> dict[str, Any]:
            set_precision(DeviceSettings(tf32=tf32))
            model = Pretraining(settings)
            model.load_state_dict(weights)
            model.to(bench.device).to(dtype)
            there = model.draw(x.to(bench.device), clips.to(bench.device), seed=1, epoch=1)
            losses, gradients = gradients_of(model, there)
            again = gradients_of(model, there)[1]
            apart = {
                key: ((gradients[key] - wanted).norm() / wanted.norm().clamp(min=1e-12)).item()
                for key, wanted in known["gradients"].items()
            }
            worst = max(apart, key=apart.__getitem__)
            return {
                **losses,
                "loss_difference": max(abs(losses[key] / known["losses"][key] - 1) for key in losses),
                "worst_gradient": worst, "worst_gradient_difference": apart[worst],
                "median_gradient_difference": statistics.median(apart.values()),
                "gradients_repeat": all(torch.equal(gradients[key], again[key]) for key in gradients),
            }  # fmt: skip

        bench.row("correctness", f"losses and gradients, {name}", compared, allowance=2)
    set_precision(DeviceSettings())


def count_synchronisations(call: Callable[[], Any]) -> int:
    """How often a call waits for the GPU, as PyTorch's own debugging mode counts."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        return sum("synchroniz" in str(warning.message) for warning in caught)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def phases(bench: Bench, training: Training, filterbank: Tensor, clips: Tensor) -> dict[str, float]:
    """Milliseconds of a step's parts, each waited for."""
    model, times = training.model, []

    def lap() -> None:
        synchronize(bench.device)
        times.append(time.perf_counter())

    for parameter in training.parameters:
        parameter.grad = None
    lap()
    batch = model.draw(filterbank, clips, seed=1, epoch=1)
    lap()
    targets = model.teach(batch)
    lap()
    tokens = model.encoder(batch.filterbank, batch.masks.visible).tokens
    lap()
    terms = model(batch).terms
    lap()
    (terms["frame"] + UTTERANCE_WEIGHT * terms["utterance"]).backward()
    lap()
    training.update()
    lap()
    del targets, tokens
    names = ("draw", "teacher", "student_encoder_forward", "whole_forward", "backward", "update")
    return {f"{n}_ms": 1000 * (b - a) for n, a, b in zip(names, times, times[1:], strict=False)}


def steps(bench: Bench, part: str, variants: dict[str, dict[str, Any]]) -> None:
    """Whole training steps in bfloat16 on synthetic input, by batch size."""
    rate = MatrixRate(bench.device, torch.bfloat16)
    for variant, options in variants.items():
        for clips in bench.clips:

            def measured(options: dict[str, Any] = options, clips: int = clips) -> dict[str, Any]:
                cuda = bench.device.type == "cuda"
                torch._dynamo.reset()
                settings = bench.settings(
                    activation_checkpointing=options.get("checkpointing", False), compile_or_stop=True
                )
                set_precision(DeviceSettings(repeatable=not options.get("timed", False)))
                training = Training(settings, bench.device, torch.bfloat16)
                if "compile" in options:
                    training.model.compile(bench.backend, **options["compile"])
                x, numbers = bench.filterbank(clips), torch.arange(clips, device=bench.device)
                if cuda:
                    torch.cuda.reset_peak_memory_stats(bench.device)
                began = time.perf_counter()
                training.step(x, numbers)
                synchronize(bench.device)
                facts: dict[str, Any] = {"first_step_s": time.perf_counter() - began}
                facts |= bench.time(lambda: training.step(x, numbers))
                if training.model.fell_back:
                    raise RuntimeError("torch.compile gave up, so this row is no compiled one")
                work = step_work(settings, bench.frames) * clips / facts["ms"] * 1000
                facts |= {
                    "clips_per_s": 1000 * clips / facts["ms"], "tflops": work / 1e12, "share": work / rate.measure(),
                    "peak_memory_gib": peak_memory(bench.device),
                }  # fmt: skip
                facts["synchronisations"] = count_synchronisations(lambda: training.step(x, numbers)) if cuda else None
                if not options:
                    facts |= phases(bench, training, x, numbers)
                    if clips == min(12, max(bench.clips)):
                        facts["trace"] = trace(bench, lambda: training.step(x, numbers))
                return facts

            bench.row(part, f"{variant}, {clips} x {bench.clones}", measured, allowance=4 if variant == "eager" else 10)
    set_precision(DeviceSettings())


def trace(bench: Bench, step: Callable[[], Any]) -> str:
    """Write where the time of a step goes, and print its 15 longest operations; returns the file's name."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        step()
        synchronize(bench.device)
    order = "self_cuda_time_total" if bench.device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60), file=sys.stderr)
    path = bench.folder / "trace.json"
    profiler.export_chrome_trace(str(path))
    return path.name


def eager(bench: Bench) -> None:
    """The step as it stands, with its phases, memory, synchronisations and a trace."""
    steps(bench, "eager", {"eager": {}, "eager, timed kernels": {"timed": True}})


def compiled(bench: Bench) -> None:
    """The step as one graph, with recomputed blocks, and replayed as a CUDA graph."""
    variants: dict[str, dict[str, Any]] = {
        "compiled": {"compile": {}},
        "compiled, timed kernels": {"compile": {}, "timed": True},
        "compiled, checkpointing": {"compile": {}, "checkpointing": True},
    }
    if bench.device.type == "cuda":
        variants["compiled, graphed"] = {"compile": {"mode": "reduce-overhead"}, "timed": True}
    steps(bench, "compiled", variants)


def update(bench: Bench) -> None:
    """What follows a backward pass in bfloat16, as training does it and compiled in one pass."""
    for name, fused, (trained, averaged) in (
        ("as in training", False, updates.PLAIN_BYTES), ("compiled in one pass", True, updates.ONE_PASS_BYTES),
    ):  # fmt: skip

        def measured(fused: bool = fused, trained: int = trained, averaged: int = averaged) -> dict[str, Any]:
            training = Training(bench.settings(), bench.device, torch.bfloat16)
            training.step(bench.filterbank(1), torch.arange(1, device=bench.device))
            found = bench.time(updates.OnePass(training, bench.backend) if fused else training.update)
            counted = sum(m.numel() for m in training.masters) * trained
            counted += sum(p.numel() for p in training.model.encoder.parameters()) * averaged
            return {**found, "gb": counted / 1e9, "gb_per_s": counted / found["ms"] / 1e6}

        bench.row("update", name, measured, allowance=10 if fused else 2)


PARTS: dict[str, Callable[[Bench], None]] = {
    "ceilings": gpu_kernels.ceilings,
    "correctness": correctness,
    "convolution": gpu_kernels.convolution,
    "attention": gpu_kernels.attention,
    "update": update,
    "eager": eager,
    "compiled": compiled,
    "training": gpu_runs.training,
    "input": gpu_runs.feeding,
    "checkpoint": gpu_runs.checkpoint,
    "use": gpu_runs.use,
    "learning": gpu_runs.learning,
}
"""All parts, in the order in which they run; ``learning`` only where it is named."""


def main() -> None:
    logging.getLogger().setLevel(logging.WARNING)
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all but learning")
    made.add_argument("--out", type=Path, help="add a line of JSON for each row to this file")
    made.add_argument("--device", default="cuda")
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--clones", type=int, default=16)
    made.add_argument("--frames", type=int, default=1024)
    made.add_argument("--clips", type=int, nargs="+", default=[6, 12, 48, 96], help="clips a batch")
    made.add_argument("--budget", type=float, default=15.0, help="seconds a row")
    made.add_argument("--backend", default="inductor", help="of torch.compile")
    options = made.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        made.error(f"there is no part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        made.error("PyTorch finds no GPU; --device cpu --size tiny tries the benchmark itself")
    keep_freed_memory()
    set_precision(DeviceSettings())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
        bench = Bench(
            device, options.size, options.clones, options.frames, options.clips, options.budget,
            stack.enter_context(open(options.out, "a")) if options.out else None,
            options.out.parent if options.out else folder, options.backend,
        )  # fmt: skip
        bench.write("machine", "machine", **machine(device), size=options.size)
        for part in options.parts or [name for name in PARTS if name != "learning"]:
            began = time.perf_counter()
            PARTS[part](bench)
            bench.write(part, "all of it", seconds=round(time.perf_counter() - began, 1))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
