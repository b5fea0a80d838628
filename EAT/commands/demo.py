"""``eat demo``: the whole of EAT on the clips that come with it, in a few minutes on two CPU cores."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..comparison.folds import fine_tuned, frozen, read_folds, table
from ..data.manifest import Manifest
from ..data.normalization import read_normalization
from ..errors import ConfigError
from ..files import replacing
from ..recipes import CLIPS
from .command_line import described, exit_status

NEEDED = ("fairseq", "sklearn", "matplotlib")
MADE = {
    "data": "the manifest of all clips without labels, normalisation constants",
    "families": "three folds of six families of nine clips, with labels",
    "pretraining": "the pre-trained checkpoint, its log and configuration",
    "finetuning": "a classifier for each fold, likewise, and what they scored",
    "from_scratch": "the same without pre-training",
    "comparison.txt": "what it was worth: the table above",
    "report": "how good one of the classifiers is: open the HTML file in a browser",
    "features": "one vector a clip, as .npy",
    "pictures/masks.png": "a clip, and what three masks leave of it for the student to see",
    "pictures/pretraining.png": "the losses falling, and whether it learns",
    "pictures/features.png": "that clip's features as colours under its spectrogram",
    "pictures/map.png": "all those clips' features in the plane, a colour a family",
    "map.html": "the same as a page on which they are heard",
}
"""What there is afterwards, below the folder."""
SIZES = ("model.embed_dim=128", "model.depth=4", "model.num_heads=4")
"""Those of ``pretraining_demo``, for a network that starts from scratch."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="eat demo"),
        "The whole of EAT on 124 real clips in some five minutes on two CPU cores: prepare, pre-train, fine-tune, "
        "compare with no pre-training, evaluate, extract features, predict, draw.",
        "eat demo\neat demo somewhere/else optimization.max_update=100",
    )
    top.add_argument("folder", nargs="?", type=Path, default=Path("demo"), metavar="FOLDER",
        help="where everything goes, in place of what an earlier demo left there (default demo)")  # fmt: skip
    top.add_argument("settings", nargs="*", metavar="key=value", help="settings of both trainings in place of theirs")
    return top


SHORT = ("optimization.max_update=60", "lr_scheduler.warmup_updates=10", "dataset.num_workers=0")
"""Fine-tunings on 36 clips, six of them in two minutes."""
GUARDS = ("criterion.max_position_fraction=0.8", "criterion.guarded_from=150")
"""With these a run whose targets are little but positions ends in a sentence: docs/learning.md has one that does."""


def compare(folder: Path) -> str:
    """What pre-training was worth, as a table with the words to read it by."""
    families = folder / "families"
    clips = sum(len(task.labels) for task in read_folds(families))
    lines = [
        *frozen(folder / "pretraining" / "checkpoint_last.pt", families),
        fine_tuned("fine-tuned from scratch", folder / "from_scratch"),
        fine_tuned("fine-tuned from pre-training", folder / "finetuning"),
    ]
    return f"""Accuracy in % over {clips} clips of six families (chance 17), always of clips that were not trained
on, with 95 % intervals. Above: linear classifiers of frozen features, by what they read; below: networks trained whole.

{table(lines, clips)}
So few clips and two minutes cannot tell rows apart whose intervals overlap widely. What pre-training is worth where
there is more to learn from is measured in docs/science.md.
"""


def run(folder: Path, settings: Sequence[str] = ()) -> int:
    """Do one step after the other; returns 0, or the status of the first that fails. Raises ConfigError."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {', '.join(missing)}: pip install 'eat-audio[train,evaluate]'.")
    for name in {made.split("/")[0] for made in MADE}:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    began = time.monotonic()

    def step(title: str) -> None:
        print(f"\n\033[1m[{time.monotonic() - began:3.0f} s] {title}\033[0m", flush=True)

    def command(*arguments: object) -> list[str]:
        return [sys.executable, "-m", "EAT", *map(str, arguments)]

    def eat(*arguments: object, **how: Any) -> None:
        subprocess.run(command(*arguments), check=True, **how)

    here = ("--num-workers", 0)  # so few clips are read before a process that reads them has started
    data, families = folder / "data", folder / "families"
    pretrained = folder / "pretraining" / "checkpoint_last.pt"
    classifier, held_out = folder / "finetuning" / "fold1" / "checkpoint_last.pt", families / "fold1" / "eval.tsv"
    learned = families / "fold1" / "train.tsv"

    def tuning(name: str, *start: str) -> list[str]:
        mean, std = read_normalization(data)
        return ["train", "--config-name", "finetuning_demo", "--folds", f"task.data={families}", *start,
                f"checkpoint.save_dir={folder / name}", f"task.norm_mean={mean}", f"task.norm_std={std}",
                *SHORT, *settings]  # fmt: skip

    try:
        step("1/8 Manifests, labels and normalisation constants of the clips")
        eat("prepare", "folder", CLIPS / "clips", data, "--unlabelled", "--eval", 0, *here)
        eat("prepare", "folder", CLIPS / "clips", families, "--labels", CLIPS / "families.csv",
            "--label-column", "family", "--folds", 3, *here)  # fmt: skip
        step("2/8 Pre-training a small EAT on all clips, without labels (config/pretraining_demo.yaml)")
        eat("train", "--config-name", "pretraining_demo", f"task.data={data}",
            f"checkpoint.save_dir={pretrained.parent}", *GUARDS, *settings)  # fmt: skip
        step("3/8 Does it learn? What its targets and features are like")
        eat("doctor", "--checkpoint", pretrained, "--source", data / "train.tsv")
        step("4/8 Fine-tuning it to tell six families of sounds apart, fold by fold (config/finetuning_demo.yaml);\n"
             f"      beside it the same network from scratch, whose log is {folder / 'from_scratch.log'}")  # fmt: skip
        one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(folder / "from_scratch.log", "w") as log:
            other = subprocess.Popen(command(*tuning("from_scratch", *SIZES)), env=one_core, stdout=log, stderr=log)
            try:
                eat(*tuning("finetuning", f"model.model_path={pretrained}"), env=one_core)
                if other.wait():
                    raise subprocess.CalledProcessError(other.returncode, other.args)
            finally:
                other.kill()
        step("5/8 What pre-training was worth")
        compared = compare(folder)
        print(compared)
        with replacing(folder / "comparison.txt") as handle:
            handle.write(compared)
        step("6/8 One of the classifiers on clips that it was not trained on")
        eat("evaluate", "--data", held_out.parent, "--split", "eval", "--checkpoint", classifier,
            "--report", folder / "report", *here)  # fmt: skip
        clips = Manifest(held_out)
        longest = max((clips.samples(index), clips.source(index)) for index in range(len(clips)))[1]
        eat("predict", "--source", longest, "--checkpoint", classifier, "--top-k", 3)
        step("7/8 Features of the clips that it was trained on")
        eat("extract", "--source", learned, "--output", folder / "features", "--checkpoint", pretrained,
            "--granularity", "mean", *here)  # fmt: skip
        step("8/8 Pictures")
        pictures = folder / "pictures"
        eat("plot", "masks", longest, "--target-length", 512, "--output", pictures / "masks.png")
        eat("plot", "run", pretrained.parent, "--output", pictures / "pretraining.png")
        eat("plot", "features", longest, "--checkpoint", pretrained, "--output", pictures / "features.png")
        for drawn in (pictures / "map.png", folder / "map.html"):
            eat("plot", "map", folder / "features", "--manifest", learned, "--output", drawn)
    except subprocess.CalledProcessError as error:
        return error.returncode
    step(f"Done. What there is now, in {folder}/:")
    for name, what in MADE.items():
        print(f"  {name if '.' in name else name + '/':<28}{what}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, the status of the step that failed, or 2 where something is missing."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options.folder, options.settings))
