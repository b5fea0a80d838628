"""The family side by side: work and speed of a training step and of an encoder pass, a clip each.

    python benchmarks/family.py --frames 256 --threads 1 --lines benchmarks/family.jsonl

Each step is that of the published recipe, with its number of clones; clips/s of a step are those of source clips.
Members take turns, so that what else a machine does meets all of them alike, and the table counts processor time, which
others disturb less than the clock; with ``--threads 1`` it is what a quiet core takes.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from common import DTYPES, encoder_work, machine, measure, model_settings, parser, step_work
from training import Training

from EAT.system import keep_freed_memory

REFERENCE = "EAT-base"
PARTS: dict[str, dict[str, Any]] = {
    "gates": {"attention": "gated"},
    "block targets": {"targets": "block_outputs"},
    "Transformer decoder": {"decoder": "transformer"},
}
BAT = {key: value for part in PARTS.values() for key, value in part.items()} | {"positions": "bat", "time_patches": 64}
MEMBERS: dict[str, dict[str, Any]] = {
    REFERENCE: {"size": "base"},
    "EAT-large": {"size": "large"},
    "EAT, ViT-S": {"size": "vit_s"},
    "SSLAM, stage 2": {"size": "base", "clones": 8, "mixtures": True, "utterance_blocks": 1},
    "BAT": {"size": "base", **BAT},
    **{f"EAT-base with BAT's {name}": {"size": "base", **part} for name, part in PARTS.items()},
}
"""Settings of each, by name."""


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--members", nargs="+", choices=MEMBERS, default=list(MEMBERS))
    made.add_argument("--clips", type=int, default=1)
    made.add_argument("--frames", type=int, default=1024, help="of 10 ms, of a clip")
    made.add_argument("--precision", choices=DTYPES, default="bfloat16")
    made.add_argument("--device", default="cpu")
    made.add_argument("--work", action="store_true", help="print the work alone, in GFLOP a clip, and measure nothing")
    made.add_argument("--lines", type=Path, help="write what was measured there, a line a member and turn")
    made.add_argument("--table", type=Path, help="print the table of such lines and measure nothing")
    return made.parse_args()


def work_of(settings: Any, frames: int) -> dict[str, float]:
    """FLOP of a clip."""
    patches = frames // settings.patch_size * (settings.mel_bins // settings.patch_size)
    return {"step": step_work(settings, frames), "encoder": encoder_work(settings, 1 + patches)}


def turn(
    settings: Any, clips: int, frames: int, device: torch.device, dtype: torch.dtype
) -> dict[str, dict[str, float]]:
    """Milliseconds a clip of one step and one encoder pass, the latter done before; by the clock, of all processors."""
    training = Training(settings, device, dtype)
    filterbank = torch.randn(clips, 1, frames, 128, device=device)
    encode = torch.no_grad()(training.model.encoder)
    calls = {
        "step": functools.partial(training.forward_backward, filterbank, list(range(clips))),
        "encoder": functools.partial(encode, filterbank.to(dtype)),
    }
    times = {}
    calls["encoder"]()
    for what, call in calls.items():
        training.model.train(what == "step")
        found = measure(what, call, clips, device, repeats=1, warmup=0)
        times[what] = {"ms": found.ms_per_clip, "processor_ms": found.cpu_ms_per_clip or float("nan")}
    return times


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device, dtype = torch.device(options.device), DTYPES[options.precision]
    keep_freed_memory()
    members = {name: model_settings(**MEMBERS[name]) for name in options.members}
    if options.table:
        head, *read = map(json.loads, options.table.read_text().splitlines())
        print(table(members, read, head["frames"]))
        return
    for name, settings in members.items():
        work = {what: value / 1e9 for what, value in work_of(settings, options.frames).items()}
        print(f"{name}: {work['step']:,.1f} GFLOP a training step, {work['encoder']:,.1f} an encoder pass", flush=True)
    if options.work:
        return
    lines: list[dict[str, Any]] = []
    for number in range(options.repeats):
        for name, settings in members.items():
            lines.append(
                {"member": name, "turn": number, **turn(settings, options.clips, options.frames, device, dtype)}
            )
            gc.collect()
            print(json.dumps(lines[-1]), flush=True)
    head = {**machine(device), "precision": options.precision, "clips": options.clips}
    head |= {"frames": options.frames, "turns": options.repeats}
    if options.lines:
        options.lines.write_text("".join(json.dumps(line) + "\n" for line in [head, *lines]))
    print(table(members, lines, options.frames))


def table(members: dict[str, Any], lines: list[dict[str, Any]], frames: int) -> str:
    """Work, and clips a second of processor time beside the reference's: medians, and the spread of a step's."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in lines:
        for what in ("step", "encoder"):
            found[line["member"], what].append(line[what]["processor_ms"])
    middle = {key: statistics.median(values) for key, values in found.items()}
    first = REFERENCE if REFERENCE in members else next(iter(members))
    rows = [
        f"| | GFLOP a step | clips/s, {first} = 1 | spread | GFLOP an encoder pass | clips/s, {first} = 1 |",
        "|---|---|---|---|---|---|",
    ]
    for name, settings in members.items():
        step, encoder = ((work / 1e9, what) for what, work in work_of(settings, frames).items())
        times = found[name, "step"]
        spread = (max(times) - min(times)) / middle[name, "step"]
        shown = [f"{work:,.1f} | {middle[first, what] / middle[name, what]:.2f}" for work, what in (step, encoder)]
        rows.append(f"| {name} | {shown[0]} | {spread:.0%} of {len(times)} | {shown[1]} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
