"""Pictures hold what they should: curves with the logged numbers, masks with blocks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from EAT.config import MaskConfig
from EAT.errors import DataError
from EAT.plot.logs import read_run
from EAT.plot.pictures import draw_masks, draw_runs

from .conftest import CLIPS, ROOT

LINES = [
    {"num_updates": str(u), "loss": 10.0 / u, "frame_loss": 5.0 / u, "lr": "0.001", "note": "text"} for u in (1, 2, 3)
]


def write_log(folder: Path, lines: list[str], start: int = 1) -> Path:
    log = folder / "hydra" / f"start_{start}" / "hydra_train.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(["[2026-01-01 00:00:00,000][EAT][INFO] - train: 3 clips listed", *lines]))
    return log


def as_json(line: dict) -> str:
    return f"[2026-01-01 00:00:00,000][train_inner][INFO] - {json.dumps(line)}"


def as_pairs(line: dict) -> str:
    pairs = ", ".join(f"{key}={value}" for key, value in line.items())
    return f"[2026-01-01 00:00:00,000][train_inner][INFO] - epoch 001:      1 / 3 {pairs}"


@pytest.mark.parametrize("form", [as_json, as_pairs])
def test_logs_are_read_in_both_forms(tmp_path: Path, form) -> None:
    write_log(tmp_path, [form(line) for line in LINES])
    run = read_run(tmp_path)
    assert run["num_updates"] == [1, 2, 3] and run["loss"] == [10.0, 5.0, 10 / 3] and "note" not in run


def test_a_resumed_run_is_joined(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json(line) for line in LINES], start=1)
    write_log(
        tmp_path, [as_json({"num_updates": "3", "loss": 7.0}), as_json({"num_updates": "4", "loss": 6.0})], start=2
    )
    run = read_run(tmp_path)
    assert run["num_updates"] == [1, 2, 3, 4] and run["loss"] == [10.0, 5.0, 7.0, 6.0]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no log of a run"):
        read_run(tmp_path)
    write_log(tmp_path, [])
    with pytest.raises(DataError, match="holds no statistics yet"):
        read_run(tmp_path)


def test_a_picture_of_runs_draws_their_numbers(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json(line) for line in LINES])
    run = read_run(tmp_path)
    panels = {axes.get_title(loc="left"): axes for axes in draw_runs({"one": run, "two": run}).axes}
    assert set(panels) == {"Loss", "Frame and utterance loss", "Learning rate"}
    lines = panels["Loss"].lines
    assert [line.get_label() for line in lines] == ["one", "two"]
    assert lines[0].get_xdata().tolist() == [1, 2, 3] and lines[0].get_ydata().tolist() == run["loss"]
    assert panels["Loss"].get_xlabel() == "update" and panels["Loss"].get_yscale() == "log"


def test_a_picture_of_masks_shows_blocks(tmp_path: Path) -> None:
    figure = draw_masks(str(CLIPS / "loop_garzul.flac"), 512, MaskConfig(), clones=2)
    assert len(figure.axes) == 3
    whole = figure.axes[0].images[0].get_array()
    assert whole.shape == (128, 512) and not np.ma.getmaskarray(whole).any()
    for axes in figure.axes[1:]:
        image = np.ma.getmaskarray(np.ma.masked_invalid(axes.images[0].get_array()))
        patches = ~image.reshape(8, 16, 32, 16).transpose(0, 2, 1, 3).reshape(8, 32, 256)
        assert (patches.all(axis=-1) == patches.any(axis=-1)).all()  # whole patches, visible or not
        visible = patches.all(axis=-1)
        assert visible.sum() == 51 == int(256 * (1 - 0.8))
        assert (visible[1:] & visible[:-1]).sum() > 20  # in blocks: at random, about 9 neighbouring pairs
        assert axes.get_ylabel() == "mel bin"
    assert figure.axes[-1].get_xlabel() == "seconds"


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_command_writes_pictures(tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"new folder/masks.{ending}"
    command = [sys.executable, "-m", "EAT.plot", "masks", str(CLIPS / "elec_bell.flac"), "--target-length", "128"]
    done = subprocess.run([*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    for bad in (["--output", str(tmp_path / "x.jpg")], ["--mask-length", "4"], ["--target-length", "100"]):
        done = subprocess.run([*command, *bad], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.startswith("EAT.plot: ") and "Traceback" not in done.stderr
