"""Everything that is asked of a GPU, in one command: ``python benchmarks/gpu.py --json gpu.json``.

1. Where the time of a step goes: the profiler's table.
2. A sweep over batch sizes: clips/s, share of the card's own matrix rate, peak memory; eager and compiled.
3. Input: clips/s from wav files through the real loader against synthetic input at the best batch size.
4. The loss curve of 200 updates in bfloat16, compiled, against float32, eager, on the same batches.
5. GPU-hours for 10 epochs of AudioSet-2M at the measured rate, with real input.

``--device cpu --size small --updates 4`` tries the harness itself where there is no GPU.
"""

import argparse
import functools
import statistics
import tempfile
import time
from pathlib import Path

import torch
from clips import batches, make_clips
from common import DTYPES, SIZES, MatrixRate, Result, measure, model_settings, parser, report, step_work, synchronize
from train_step import profile
from training import Training

from EAT.data.manifest import Manifest
from EAT.network.settings import PretrainingSettings
from EAT.system import keep_freed_memory

AUDIOSET_CLIPS = 1_920_000
"""Clips of AudioSet-2M: 400 000 updates of 48 clips are 10 epochs."""
EPOCHS = 10
FRAMES = 1024


def sweep(
    options: argparse.Namespace, settings: PretrainingSettings, device: torch.device, rate: MatrixRate
) -> list[Result]:
    """Whole training steps on synthetic input, by batch size."""
    results = []
    for compiled in (False, True):
        training = Training(settings, device, DTYPES["bfloat16"], compiled)
        for clips in options.clips:
            filterbank = torch.randn(clips, 1, FRAMES, 128, device=device)
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)

            def step(training: Training = training, x: torch.Tensor = filterbank, clips: int = clips) -> None:
                training.step(x, list(range(clips)))

            name = f"{clips} x {options.clones}, bfloat16, {'compiled' if compiled else 'eager'}"
            try:
                made = measure(
                    name, step, clips, device, repeats=options.repeats, warmup=3,
                    work_per_clip=step_work(settings, FRAMES), rate=rate,
                )  # fmt: skip
            except torch.OutOfMemoryError:
                print(f"{name}: out of memory", flush=True)
                break
            made.more = {"clips": clips, "compiled": compiled}
            results.append(made)
    return results


def real_input(
    options: argparse.Namespace, settings: PretrainingSettings, device: torch.device, manifest: Manifest, best: Result
) -> Result:
    """The best setting again with clips that come through the loader."""
    clips = best.more["clips"]
    training = Training(settings, device, DTYPES["bfloat16"], best.more["compiled"])
    stream = batches(manifest, clips, options.num_workers, "device", device)
    for _ in range(5):
        training.step(*next(stream))
    synchronize(device)
    start = time.perf_counter()
    for _ in range(options.input_steps):
        training.step(*next(stream))
    synchronize(device)
    rate = options.input_steps * clips / (time.perf_counter() - start)
    more = {"of_synthetic": rate / best.clips_per_s, "workers": options.num_workers}
    return Result(f"{best.name}, from wav files", rate, 1000 / rate, 0.0, options.input_steps, more=more)


def loss_curves(
    options: argparse.Namespace, settings: PretrainingSettings, device: torch.device, manifest: Manifest
) -> dict[str, object]:
    """Losses of the same updates in float32, eager, and in bfloat16, compiled."""
    curves: dict[str, list[float]] = {}
    stored: list[tuple[torch.Tensor, list[int]]] = []
    stream = batches(manifest, options.curve_clips, options.num_workers, "device", device)
    for _ in range(min(options.updates, 20)):
        filterbank, clips = next(stream)
        stored.append((filterbank, clips))
    for name, dtype, compiled in (("float32", torch.float32, False), ("bfloat16", torch.bfloat16, True)):
        training = Training(settings, device, dtype, compiled)
        losses = [training.step(*stored[update % len(stored)]) for update in range(options.updates)]
        curves[name] = torch.stack([loss.float() for loss in losses]).tolist()
        del training
    apart = [abs(a - b) / b for a, b in zip(curves["bfloat16"], curves["float32"], strict=True)]
    return {**curves, "largest_difference": max(apart), "median_difference": statistics.median(apart)}


def main() -> None:
    made = parser(__doc__, threads=8, repeats=10)
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--clips", type=int, nargs="+", default=[4, 8, 12, 16, 24, 32, 48, 64])
    made.add_argument("--clones", type=int, default=16)
    made.add_argument("--device", default="cuda")
    made.add_argument("--num-workers", type=int, default=8)
    made.add_argument("--updates", type=int, default=200, help="of the loss curves")
    made.add_argument("--curve-clips", type=int, default=12)
    made.add_argument("--input-steps", type=int, default=60)
    made.add_argument("--wav", type=int, default=512, help="wav files of 10 s at 32 kHz that are made")
    made.add_argument("--data", help="folder with a train.tsv to read instead")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    settings = model_settings(options.size, options.clones)
    rate = MatrixRate(device, DTYPES["bfloat16"])

    training = Training(settings, device, DTYPES["bfloat16"])
    filterbank = torch.randn(min(12, max(options.clips)), 1, FRAMES, 128, device=device)
    for _ in range(2):
        training.step(filterbank, list(range(len(filterbank))))
    profile(functools.partial(training.step, filterbank, list(range(len(filterbank)))), device)
    del training

    results = sweep(options, settings, device, rate)
    best = max(results, key=lambda result: result.clips_per_s)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(f"{options.data}/train.tsv") if options.data else make_clips(Path(folder), options.wav)
        fed = real_input(options, settings, device, manifest, best)
        curves = loss_curves(options, settings, device, manifest)
    fed.more["gpu_hours_10_epochs"] = EPOCHS * AUDIOSET_CLIPS / fed.clips_per_s / 3600
    print(f"loss curves differ by {curves['largest_difference']:.2%} at most")
    report("gpu", [*results, fed], options, device, loss_curves=curves)


if __name__ == "__main__":
    main()
