"""Probes side by side on frozen features: nearest neighbours, linear, and trained heads on every layer's patches.

    python benchmarks/probes.py --checkpoint demo/pretraining/checkpoint_last.pt --corpus corpus/ --lines probes.jsonl

Two tasks, one label a clip: the ten families of ``data/clips`` in four folds (drawn, a family in equal parts), and
ESC-10 in its five official ones, from ``esc10.zip`` and ``esc10.csv`` in the corpus' folder (docs/science.md). Each
fold is ``python -m EAT.probe`` on it, of the checkpoint and of an untrained network of its sizes, so that rows are
paired fold by fold. A run that was stopped goes on; ``--table`` prints what there is.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import statistics
import tempfile
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import machine
from sklearn.model_selection import StratifiedKFold

from EAT.commands.probe import main as probe
from EAT.data.labels import DESCRIPTORS, label_names, write_descriptors, write_lbl
from EAT.data.manifest import write_manifest
from EAT.recipes import CLIPS

FRAMES = {"data/clips": 128, "ESC-10": 256}
"""That clips are padded or cut to."""
HEADS = ("cgp", "lcgp", "attentive", "linear")


def demo_clips() -> tuple[Path, list[str], list[str], np.ndarray]:
    """Root, paths, labels and folds of the clips that come with EAT."""
    with open(CLIPS / "clips.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    labels = [row["family"] for row in rows]
    folds = np.zeros(len(rows), dtype=int)
    for number, (_, held) in enumerate(StratifiedKFold(4, shuffle=True, random_state=1).split(labels, labels)):
        folds[held] = number
    return CLIPS / "clips", [row["file"] for row in rows], labels, folds


def esc10(corpus: Path, work: Path) -> tuple[Path, list[str], list[str], np.ndarray]:
    """The same of ESC-10, unpacked."""
    with open(corpus / "esc10.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    with zipfile.ZipFile(corpus / "esc10.zip") as archive:
        archive.extractall(work / "esc10", [row["member"] for row in rows])
    folds = np.array([int(row["fold"]) - 1 for row in rows])
    return work / "esc10", [row["member"] for row in rows], [row["class"] for row in rows], folds


def prepare(data: Path, root: Path, paths: list[str], labels: list[str], held: np.ndarray) -> None:
    """One fold's data folder."""
    data.mkdir(parents=True)
    named = label_names(sorted(set(labels)))
    names = {label.display: label.name for label in named}
    write_descriptors(data / DESCRIPTORS, named)
    for split, chosen in (("train", ~held), ("eval", held)):
        clips = [path for path, wanted in zip(paths, chosen, strict=True) if wanted]
        write_manifest(data / f"{split}.tsv", str(root), ((c, soundfile.info(root / c).frames) for c in clips))
        kept = [label for label, wanted in zip(labels, chosen, strict=True) if wanted]
        write_lbl(data / f"{split}.lbl", zip(clips, ([names[label]] for label in kept), strict=True))


def measured(data: Path, frames: int, untrained: bool, options: argparse.Namespace) -> dict[str, float]:
    """Accuracies of a fold by probe: of the last layer, of the learned mix, of each head."""
    command = ["--data", str(data), "--checkpoint", str(options.checkpoint), "--target-length", str(frames)]
    command += ["--heads", ",".join(HEADS), "--updates", str(options.updates), "--num-workers", "0", "--device", "cpu"]
    command += ["--output", str(data / "table.csv"), *(["--untrained"] if untrained else [])]
    with contextlib.redirect_stdout(io.StringIO()):
        if probe(command):
            raise SystemExit(f"{' '.join(command)} did not end well")
    with open(data / "table.csv", newline="") as handle:
        rows = {row["layer"]: row for row in csv.DictReader(handle)}
    last = max((layer for layer in rows if layer.isdigit()), key=int)
    found = {f"head {name}": float(rows[name]["head accuracy"]) for name in HEADS}
    for name, layer in (("last layer", last), ("mix of layers", "mix")):
        found[f"neighbours, {name}"] = float(rows[layer]["neighbours accuracy"])
        found[f"linear, {name}"] = float(rows[layer]["linear accuracy"])
    return found


def table(lines: list[dict]) -> str:
    """Mean accuracies over folds in per cent, the standard deviation over folds behind them."""
    found: dict[str, dict[tuple[str, bool], list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for name, value in line["accuracy"].items():
            found[name][line["task"], line["untrained"]].append(100 * value)
    columns = [(task, untrained) for task in FRAMES for untrained in (False, True)]
    heads = [f"{task}{', untrained' if untrained else ''}" for task, untrained in columns]
    rows = [f"| probe | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in sorted(found):
        cells = []
        for column in columns:
            values = found[name][column]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            cells.append(f"{statistics.mean(values):.1f} ± {spread:.1f}" if values else "")
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--checkpoint", type=Path)
    made.add_argument("--corpus", type=Path, help="leave it out for data/clips alone")
    made.add_argument("--updates", type=int, default=120)
    made.add_argument(
        "--folds", type=int, nargs="+", help="these alone, counted from 0, so that processes share them out"
    )
    made.add_argument("--lines", type=Path, required=True)
    made.add_argument("--table", action="store_true", help="print the lines' table and measure nothing")
    options = made.parse_args()
    lines = [json.loads(line) for line in options.lines.read_text().splitlines()] if options.lines.exists() else []
    if not options.table:
        done = {(line["task"], line["fold"], line["untrained"]) for line in lines}
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            tasks = {"data/clips": demo_clips()}
            if options.corpus:
                tasks["ESC-10"] = esc10(options.corpus, work)
            for task, (root, paths, labels, folds) in tasks.items():
                for fold in options.folds or range(folds.max() + 1):
                    if not (folds == fold).any():
                        continue
                    data = work / f"{task.replace('/', '_')}{fold}"
                    prepare(data, root, paths, labels, folds == fold)
                    for untrained in (False, True):
                        if (task, fold, untrained) in done:
                            continue
                        line = {"task": task, "fold": int(fold), "untrained": untrained, "updates": options.updates}
                        line["accuracy"] = measured(data, FRAMES[task], untrained, options)
                        line["processor"] = machine(torch.device("cpu"))["processor"]
                        lines.append(line)
                        options.lines.parent.mkdir(parents=True, exist_ok=True)
                        with open(options.lines, "a") as handle:
                            handle.write(json.dumps(line) + os.linesep)
                        print(json.dumps(line), flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
