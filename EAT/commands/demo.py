"""``eat demo``: the whole of EAT on the clips that come with it, in a few minutes on two CPU cores."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ..data.manifest import Manifest
from ..errors import ConfigError
from ..recipes import CLIPS
from .command_line import described, exit_status

NEEDED = ("fairseq", "sklearn", "matplotlib")
MADE = {
    "data": "manifests, labels, normalisation constants",
    "pretraining": "the pre-trained checkpoint, its log and configuration",
    "finetuning": "the classifier, likewise",
    "report": "how good it is: open the HTML file in a browser",
    "features": "one vector a clip, as .npy",
    "pictures/masks.png": "a clip, and what three masks leave of it for the student to see",
    "pictures/pretraining.png": "the losses falling",
    "pictures/features.png": "that clip's features as colours under its spectrogram",
    "pictures/map.png": "all those clips' features in the plane, a colour a family",
    "map.html": "the same as a page on which they are heard",
}
"""What there is afterwards, below the folder."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="eat demo"),
        "The whole of EAT on 124 real clips in a few minutes on two CPU cores: prepare, pre-train, fine-tune, "
        "evaluate, extract features, predict, draw.",
        "eat demo\neat demo somewhere/else",
    )
    top.add_argument("folder", nargs="?", type=Path, default=Path("demo"), metavar="FOLDER",
        help="where everything goes, in place of what an earlier demo left there (default demo)")  # fmt: skip
    return top


def run(folder: Path) -> int:
    """Do one step after the other; returns 0, or the status of the first that fails. Raises ConfigError."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo needs {', '.join(missing)}: pip install 'eat-audio[train,evaluate]'.")
    for name in {made.split("/")[0] for made in MADE}:
        shutil.rmtree(folder / name, ignore_errors=True)
    began = time.monotonic()

    def step(title: str) -> None:
        print(f"\n\033[1m[{time.monotonic() - began:3.0f} s] {title}\033[0m", flush=True)

    def eat(*arguments: object) -> None:
        subprocess.run([sys.executable, "-m", "EAT", *map(str, arguments)], check=True)

    pretrained, finetuned = (folder / name / "checkpoint_last.pt" for name in ("pretraining", "finetuning"))
    try:
        step("1/7 Manifests, labels and normalisation constants of the clips")
        eat("prepare", "folder", CLIPS / "clips", folder / "data", "--labels", CLIPS / "clips.csv",
            "--label-column", "family", "--eval", 0.25)  # fmt: skip
        step("2/7 Pre-training a small EAT (config/pretraining_demo.yaml)")
        eat("train", "--config-name", "pretraining_demo", f"task.data={folder / 'data'}",
            f"checkpoint.save_dir={pretrained.parent}")  # fmt: skip
        step("3/7 Fine-tuning it to tell ten families of sounds apart (config/finetuning_demo.yaml)")
        eat("train", "--config-name", "finetuning_demo", f"task.data={folder / 'data'}",
            f"checkpoint.save_dir={finetuned.parent}", f"model.model_path={pretrained}")  # fmt: skip
        step("4/7 Evaluating it on clips that it has not seen")
        eat("evaluate", "--data", folder / "data", "--split", "eval", "--checkpoint", finetuned,
            "--report", folder / "report")  # fmt: skip
        step("5/7 Features of those clips")
        eat("extract", "--source", folder / "data" / "eval.tsv", "--output", folder / "features",
            "--checkpoint", pretrained, "--granularity", "utterance")  # fmt: skip
        clips = Manifest(folder / "data" / "eval.tsv")
        unseen = max((clips.samples(index), clips.source(index)) for index in range(len(clips)))[1]
        step("6/7 Labels for one of them")
        eat("predict", "--source", unseen, "--checkpoint", finetuned, "--top-k", 3)
        step("7/7 Pictures")
        pictures = folder / "pictures"
        eat("plot", "masks", unseen, "--target-length", 512, "--output", pictures / "masks.png")
        for name in ("pretraining", "finetuning"):
            eat("plot", "run", folder / name, "--output", pictures / f"{name}.png")
        eat("plot", "features", unseen, "--checkpoint", pretrained, "--output", pictures / "features.png")
        eat("plot", "map", folder / "features", "--manifest", folder / "data" / "eval.tsv",
            "--output", pictures / "map.png")  # fmt: skip
        eat("plot", "map", folder / "features", "--manifest", folder / "data" / "eval.tsv",
            "--output", folder / "map.html")  # fmt: skip
    except subprocess.CalledProcessError as error:
        return error.returncode
    step(f"Done. What there is now, in {folder}/:")
    for name, what in MADE.items():
        print(f"  {name if '.' in name else name + '/':<28}{what}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, the status of the step that failed, or 2 where something is missing."""
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options.folder))
