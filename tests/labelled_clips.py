"""Data folders of labelled real clips, laid out as the preparation does it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from .conftest import CLIPS, ROOT


def families() -> dict[str, str]:
    """Every clip's family of instruments or sounds."""
    with open(ROOT / "data" / "clips.csv", newline="") as handle:
        return {row["file"]: row["family"] for row in csv.DictReader(handle)}


def write_split(data: Path, split: str, clips: dict[str, Sequence[str]]) -> None:
    """A manifest and its labels: file names with their labels."""
    data.mkdir(parents=True, exist_ok=True)
    (data / f"{split}.tsv").write_text("\n".join([str(CLIPS), *(f"{name}\t16000" for name in clips)]) + "\n")
    (data / f"{split}.lbl").write_text("".join(f"{name}\t{','.join(labels)}\n" for name, labels in clips.items()))


def write_multi_label(data: Path, train: int = 24, evaluation: int = 19) -> list[str]:
    """Clips labelled by family and by whether they belong to it together with others; returns the labels.

    The last of the labels is no clip's.
    """
    names = families()
    labels = [*sorted(set(names.values())), "percussive", "nobody's"]
    percussive = {"drum_kit", "kick_drum", "percussion", "tabla"}
    clips = {name: [family] + ["percussive"] * (family in percussive) for name, family in names.items()}
    order = sorted(clips, key=lambda name: name[::-1])
    write_split(data, "train", {name: clips[name] for name in order[:train]})
    write_split(data, "eval", {name: clips[name] for name in order[train : train + evaluation]})
    write_descriptors(data, labels)
    return labels


def write_single_label(data: Path, train: int = 24, evaluation: int = 19) -> list[str]:
    """Clips labelled by family; returns the labels."""
    names = families()
    labels = sorted(set(names.values()))
    order = sorted(names, key=lambda name: name[::-1])
    write_split(data, "train", {name: [names[name]] for name in order[:train]})
    write_split(data, "eval", {name: [names[name]] for name in order[train : train + evaluation]})
    write_descriptors(data, labels)
    return labels


def write_descriptors(data: Path, labels: Sequence[str]) -> None:
    lines = [f"{index},{label},{label.title()}\n" for index, label in enumerate(labels)]
    (data / "label_descriptors.csv").write_text("".join(lines))
    (data / "normalization.json").write_text(json.dumps({"mean": -7.5, "std": 5.0}))
