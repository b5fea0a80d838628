"""How long training stands still to save: ``python benchmarks/checkpoints.py [--tree A_CHECKOUT ...]``.

Real runs of ``fairseq-hydra-train``, saving every few updates and never, in turns; of several checkouts where several
are named. Time stood still is what the log says of each checkpoint: "training stood still for", or as before fairseq's
"writing took".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch
from common import SIZES, machine

HERE = Path(__file__).resolve().parents[1]
STOOD_STILL = re.compile(r"training stood still for ([\d.]+) s|writing took ([\d.]+) seconds")


def overrides(options: argparse.Namespace, data: str, folder: str, every: int) -> list[str]:
    """Of the pre-training recipe."""
    model = {"clone_batch": options.clones, **SIZES[options.size]}
    return [
        f"task.data={data}",
        f"checkpoint.save_dir={folder}",
        f"checkpoint.save_interval_updates={every}",
        f"optimization.max_update={options.updates}",
        f"dataset.batch_size={options.clips}",
        "checkpoint.save_interval=1000000",
        "lr_scheduler.warmup_updates=1",
        "distributed_training.distributed_world_size=1",
        "dataset.num_workers=1",
        "common.cpu=true",
        "common.log_interval=1",
        *(f"model.{name}={value}" for name, value in model.items()),
    ]


def run(tree: Path, options: argparse.Namespace, data: str, every: int) -> dict[str, Any]:
    """One run: seconds between its first and last update, and seconds that each save but the last held it up."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        command = [str(Path(sys.executable).with_name("fairseq-hydra-train")), "--config-dir", "config"]
        command += [
            "--config-name",
            "pretraining_AS2M",
            "common.user_dir=EAT",
            *overrides(options, data, folder, every),
        ]
        environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(options.threads)}
        process = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        updates, stood_still, said = [], [], []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "[train_inner]" in line:
                updates.append(time.perf_counter())
            if found := STOOD_STILL.search(line):
                stood_still.append(float(found[1] or found[2]))
        if process.wait():
            sys.exit("".join(said[-20:]))
        size = max((path.stat().st_size for path in Path(folder).glob("*.pt")), default=0)
    return {"seconds": updates[-1] - updates[0], "stood_still": stood_still[:-1], "gigabytes": size / 1e9}


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--tree", type=Path, nargs="+", default=[HERE], help="checkouts to compare (default this one)")
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--clips", type=int, default=1)
    made.add_argument("--clones", type=int, default=16)
    made.add_argument("--updates", type=int, default=61)
    made.add_argument("--every", type=int, default=20, help="updates between saves")
    made.add_argument("--repeats", type=int, default=2)
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--folder", type=Path, help="where checkpoints go (default the system's temporary folder)")
    made.add_argument("--json", type=Path, help="write the results here")
    options = made.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as data:
        clips = sorted((HERE / "data" / "clips").glob("*.flac"))
        lines = [str(HERE / "data" / "clips"), *(f"{clip.name}\t{soundfile.info(clip).frames}" for clip in clips)]
        (Path(data) / "train.tsv").write_text("\n".join(lines) + "\n")
        for _ in range(options.repeats):
            for tree in options.tree:
                saving, never = (run(tree.resolve(), options, data, every) for every in (options.every, 0))
                results.append({"tree": str(tree), **saving, "seconds_without": never["seconds"]})
                print(results[-1], file=sys.stderr, flush=True)
    for tree in options.tree:
        own = [result for result in results if result["tree"] == str(tree)]
        still = statistics.median(sum(result["stood_still"]) / result["seconds"] for result in own)
        lost = statistics.median(1 - result["seconds_without"] / result["seconds"] for result in own)
        each = statistics.median(second for result in own for second in result["stood_still"])
        print(
            f"{tree}: {own[0]['gigabytes']:.2f} GB every {options.every} updates; {each:.2f} s each, {still:.1%} of "
            f"the time stood still; {lost:.1%} of the time more than without saving",
            file=sys.stderr,
        )
    text = json.dumps(
        {"benchmark": "checkpoints", "machine": machine(torch.device("cpu")), "results": results}, indent=1
    )
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
