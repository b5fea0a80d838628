"""What follows a backward pass, clipping, AdamW and the teacher's average, as a share of the whole step."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from common import DTYPES, SIZES, Result, measure, model_settings, parser, report
from training import Training, gradients

from EAT.system import keep_freed_memory
from EAT.training.gradients import clip_gradients


def main() -> None:
    made = parser(__doc__, repeats=5)
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--clips", type=int, default=2)
    made.add_argument("--precision", choices=DTYPES, nargs="+", default=list(DTYPES))
    made.add_argument("--device", default="cpu")
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    device = torch.device(options.device)
    results = []
    for precision in options.precision:
        training = Training(model_settings(options.size), device, DTYPES[precision])
        filterbank = torch.randn(options.clips, 1, 1024, 128, device=device)
        clips = list(range(options.clips))

        def timed(name: str, call: Callable[[], Any], repeats: int, precision: str = precision) -> Result:
            made = measure(f"{name}, {precision}", call, options.clips, device, repeats=repeats)
            results.append(made)
            return made

        step = timed("forward and backward", functools.partial(training.forward_backward, filterbank, clips), 2)
        rest = timed("clipping, AdamW and average", training.update, options.repeats)
        rest.more["share_of_step"] = rest.ms_per_clip / (rest.ms_per_clip + step.ms_per_clip)
        clipping = functools.partial(clip_gradients, gradients(training.masters), 4.0)
        timed("of it: clipping", clipping, options.repeats)
        timed("of it: AdamW", training.optimizer.step, options.repeats)
        masters: dict[str, torch.Tensor] = dict(zip(training.names, training.masters, strict=True))
        timed(
            "of it: average",
            functools.partial(training.model.update_teacher, 1, masters if training.half else None),
            options.repeats,
        )
        del training
    report("ema_and_optimizer", results, options, device)


if __name__ == "__main__":
    main()
