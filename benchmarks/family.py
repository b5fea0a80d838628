"""The family side by side: work and speed of a training step and of an encoder pass, a clip of 10 s each.

    python benchmarks/family.py --precision bfloat16 --clips 2

Each step is that of the published recipe, with its number of clones; clips/s of a step are those of source clips.
"""

from __future__ import annotations

import argparse
import functools
from typing import Any

import torch
from common import DTYPES, MatrixRate, encoder_work, measure, model_settings, parser, report, step_work
from training import Training

from EAT.system import keep_freed_memory

FRAMES = 1024
MEMBERS: dict[str, dict[str, Any]] = {
    "EAT-base": {"size": "base"},
    "EAT-large": {"size": "large"},
    "EAT, ViT-S": {"size": "vit_s"},
    "SSLAM, stage 2": {"size": "base", "clones": 8, "mixtures": True, "utterance_blocks": 1},
}
"""Settings of each, by name."""


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--members", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    made.add_argument("--clips", type=int, default=2)
    made.add_argument("--precision", choices=DTYPES, default="bfloat16")
    made.add_argument("--device", default="cpu")
    made.add_argument("--work", action="store_true", help="print the work alone, in GFLOP a clip, and measure nothing")
    return made.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), DTYPES[options.precision]
    keep_freed_memory()
    results, rate = [], None
    for name in options.members:
        settings = model_settings(**MEMBERS[name])
        patches = FRAMES // settings.patch_size * (settings.mel_bins // settings.patch_size)
        work = {"step": step_work(settings, FRAMES), "encoder": encoder_work(settings, 1 + patches)}
        print(f"{name}: {work['step'] / 1e9:,.1f} GFLOP a training step, {work['encoder'] / 1e9:,.1f} an encoder pass")
        if options.work:
            continue
        rate = rate or MatrixRate(device, dtype)
        training = Training(settings, device, dtype)
        filterbank = torch.randn(options.clips, 1, FRAMES, 128, device=device)
        encode = torch.no_grad()(training.model.eval().encoder)
        calls = {
            "step": functools.partial(training.forward_backward, filterbank, list(range(options.clips))),
            "encoder": functools.partial(encode, filterbank.to(dtype)),
        }
        for what, call in calls.items():
            training.model.train(what == "step")
            row = measure(
                f"{name}, {what}", call, options.clips, device, repeats=options.repeats, work_per_clip=work[what],
                rate=rate,
            )  # fmt: skip
            row.more = {"GFLOP a clip": work[what] / 1e9}
            results.append(row)
        del training, calls, encode
    if results:
        report("family", results, options, device)


if __name__ == "__main__":
    main()
