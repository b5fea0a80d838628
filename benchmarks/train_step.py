"""A training step on synthetic filterbanks: teacher, student, decoder, objective and gradients.

    python benchmarks/train_step.py --precision float32 bfloat16 --clips 2

``--update`` adds clipping, AdamW and the teacher's average; ``ema_and_optimizer.py`` times those alone. In bfloat16
parameters and activations are bfloat16, as ``common.bf16`` trains.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from common import DTYPES, SIZES, MatrixRate, measure, model_settings, parser, report, step_work
from training import Training

from EAT.system import keep_freed_memory


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--clips", type=int, nargs="+", default=[2])
    made.add_argument("--clones", type=int, default=16)
    made.add_argument("--frames", type=int, default=1024)
    made.add_argument("--precision", choices=DTYPES, nargs="+", default=list(DTYPES))
    made.add_argument("--device", default="cpu")
    made.add_argument("--compile", action="store_true", help="torch.compile, as model.compile=true")
    made.add_argument("--checkpointing", action="store_true", help="as model.activation_checkpointing=true")
    made.add_argument("--update", action="store_true", help="with clipping, AdamW and the teacher's average")
    made.add_argument("--profile", action="store_true", help="print where the time of one step goes")
    return made.parse_args()


def profile(step: Callable[[], Any], device: torch.device) -> None:
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiler:
        step()
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    print(profiler.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60))


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    keep_freed_memory()
    results = []
    for precision in options.precision:
        rate = MatrixRate(device, DTYPES[precision])
        settings = model_settings(options.size, options.clones, activation_checkpointing=options.checkpointing)
        training = Training(settings, device, DTYPES[precision], options.compile)
        for clips in options.clips:
            filterbank = torch.randn(clips, 1, options.frames, 128, device=device)
            call = training.step if options.update else training.forward_backward
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            step = functools.partial(call, filterbank, list(range(clips)))

            results.append(
                measure(
                    f"{options.size}, {clips} x {options.clones}, {precision}" + ", compiled" * options.compile,
                    step,
                    clips,
                    device,
                    repeats=options.repeats,
                    warmup=2,
                    work_per_clip=step_work(settings, options.frames),
                    rate=rate,
                )
            )
            if options.profile:
                profile(step, device)
        del training
    report("train_step", results, options, device)


if __name__ == "__main__":
    main()
