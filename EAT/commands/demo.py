"""``eat demo``: the whole of EAT on the clips that come with it, in a few minutes on two CPU cores."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..comparison.corpus import read_folds
from ..comparison.folds import fine_tuned, frozen, table
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
HERE = ("--num-workers", 0)
"""So few clips are read before a process that reads them has started."""
GUARDS = ("criterion.max_position_fraction=0.74", "criterion.guarded_from=200")
"""With these a run whose targets are little but positions ends in a sentence: docs/learning.md has one that does."""


def compare(folder: Path) -> str:
    """What pre-training was worth, as a table with the words to read it by."""
    families = folder / "families"
    clips = len(read_folds("families", families).sources)
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


class Demo:
    """The steps; each raises CalledProcessError where one of its commands fails."""

    def __init__(self, folder: Path, settings: Sequence[str]) -> None:
        self.folder, self.settings = folder, settings
        self.data, self.families = folder / "data", folder / "families"
        self.pretrained = folder / "pretraining" / "checkpoint_last.pt"
        self.began = time.monotonic()

    def step(self, title: str) -> None:
        """Say what comes now, and when."""
        print(f"\n\033[1m[{time.monotonic() - self.began:3.0f} s] {title}\033[0m", flush=True)

    def pre_train(self) -> None:
        """Prepare the data, pre-train, and ask whether that learned."""
        self.step("1/8 Manifests, labels and normalisation constants of the clips")
        eat("prepare", "folder", CLIPS / "clips", self.data, "--unlabelled", "--eval", 0, *HERE)
        eat("prepare", "folder", CLIPS / "clips", self.families, "--labels", CLIPS / "families.csv",
            "--label-column", "family", "--folds", 3, *HERE)  # fmt: skip
        self.step("2/8 Pre-training a small EAT on all clips, without labels (config/pretraining_demo.yaml)")
        training = command("train", "--config-name", "pretraining_demo", f"task.data={self.data}",
            f"checkpoint.save_dir={self.pretrained.parent}", *GUARDS, *self.settings)  # fmt: skip
        subprocess.run(training, check=True)
        self.step("3/8 Does it learn? What its targets and features are like")
        eat("doctor", "--checkpoint", self.pretrained, "--source", self.data / "train.tsv")

    def tuning(self, name: str, *start: str) -> list[str]:
        """The command that fine-tunes fold by fold."""
        mean, std = read_normalization(self.data)
        return command(
            "train", "--config-name", "finetuning_demo", "--folds", f"task.data={self.families}", *start,
            f"checkpoint.save_dir={self.folder / name}", f"task.norm_mean={mean}", f"task.norm_std={std}",
            *SHORT, *self.settings,
        )  # fmt: skip

    def fine_tune(self) -> None:
        """Fine-tune from pre-training and from scratch, side by side, and compare."""
        log_file = self.folder / "from_scratch.log"
        self.step("4/8 Fine-tuning it to tell six families of sounds apart, fold by fold; beside it the same network")
        print(f"from scratch, whose log is {log_file} (config/finetuning_demo.yaml)", flush=True)
        one_core = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(log_file, "w") as log:
            other = subprocess.Popen(self.tuning("from_scratch", *SIZES), env=one_core, stdout=log, stderr=log)
            try:
                subprocess.run(
                    self.tuning("finetuning", f"model.model_path={self.pretrained}"), env=one_core, check=True
                )
                if other.wait():
                    raise subprocess.CalledProcessError(other.returncode, other.args)
            finally:
                other.kill()
        self.step("5/8 What pre-training was worth")
        compared = compare(self.folder)
        print(compared)
        with replacing(self.folder / "comparison.txt") as handle:
            handle.write(compared)

    def use(self) -> None:
        """Evaluate, predict, extract, draw."""
        fold, classifier = self.families / "fold1", self.folder / "finetuning" / "fold1" / "checkpoint_last.pt"
        self.step("6/8 One of the classifiers on clips that it was not trained on")
        eat("evaluate", "--data", fold, "--split", "eval", "--checkpoint", classifier,
            "--report", self.folder / "report", *HERE)  # fmt: skip
        clips = Manifest(fold / "eval.tsv")
        longest = max((clips.samples(index), clips.source(index)) for index in range(len(clips)))[1]
        eat("predict", "--source", longest, "--checkpoint", classifier, "--top-k", 3)
        self.step("7/8 Features of the clips that it was trained on")
        eat("extract", "--source", fold / "train.tsv", "--output", self.folder / "features",
            "--checkpoint", self.pretrained, "--granularity", "mean", *HERE)  # fmt: skip
        self.step("8/8 Pictures")
        pictures = self.folder / "pictures"
        eat("plot", "masks", longest, "--target-length", 512, "--output", pictures / "masks.png")
        eat("plot", "run", self.pretrained.parent, "--output", pictures / "pretraining.png")
        eat("plot", "features", longest, "--checkpoint", self.pretrained, "--output", pictures / "features.png")
        for drawn in (pictures / "map.png", self.folder / "map.html"):
            eat("plot", "map", self.folder / "features", "--manifest", fold / "train.tsv", "--output", drawn)


def command(*arguments: object) -> list[str]:
    """One of ``eat``'s commands, as a process is started with it."""
    return [sys.executable, "-m", "EAT", *map(str, arguments)]


def eat(name: str, *arguments: object) -> None:
    """Run one of ``eat``'s commands in this process, which has imported already what they share."""
    if status := importlib.import_module(f"EAT.commands.{name}").main(list(map(str, arguments))):
        raise subprocess.CalledProcessError(status, name)


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
    demo = Demo(folder, settings)
    try:
        demo.pre_train()
        demo.fine_tune()
        demo.use()
    except subprocess.CalledProcessError as error:
        return error.returncode
    demo.step(f"Done. What there is now, in {folder}/:")
    for name, what in MADE.items():
        print(f"  {name if '.' in name else name + '/':<28}{what}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, the status of the step that failed, or 2 where something is missing."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options.folder, options.settings))
