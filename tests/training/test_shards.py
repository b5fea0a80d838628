"""Training from tars is training from the files in them, resumed or not; what is damaged there is skipped."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from EAT.commands.prepare import main
from EAT.data.manifest import Manifest

from ..fairseq_runs import Run, train
from ..shards import write_shards
from .survival.running import SMALLEST

CLIPS = 24


def run(data: Path, save: Path, updates: int, *more: str) -> Run:
    given = (f"task.data={data}", f"checkpoint.save_dir={save}", f"optimization.max_update={updates}")
    return train("pretraining_AS2M", *SMALLEST, "task.crop=random", *given, *more)


def prepare(source: Path, data: Path) -> int:
    return main(["folder", str(source), str(data), "--unlabelled", "--num-workers", "0"])


@pytest.fixture
def shards(clips: list[Path], tmp_path: Path) -> list[Path]:
    return write_shards(tmp_path / "shards", clips[:CLIPS], 7)


@pytest.mark.slow
def test_shards_train_as_files_do_to_the_bit_resumed_too(
    clips: list[Path], shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "files").mkdir()
    for clip in clips[:CLIPS]:
        shutil.copy(clip, tmp_path / "files")
    assert prepare(tmp_path / "files", tmp_path / "of_files") == 0
    assert prepare(tmp_path / "shards", tmp_path / "of_shards") == 0
    assert f"{CLIPS} clips listed, {CLIPS} found, 0 missing, 0 unreadable" in capsys.readouterr().out
    assert sorted((tmp_path / "shards").iterdir()) == shards  # nothing was unpacked
    manifest = Manifest(tmp_path / "of_shards" / "train.tsv")
    assert re.fullmatch(rf"0\.tar:\d+:{clips[0].stat().st_size}:{clips[0].name}", manifest.name(0))
    normalization = [(tmp_path / data / "normalization.json").read_text() for data in ("of_files", "of_shards")]
    assert normalization[0] == normalization[1]

    whole = run(tmp_path / "of_files", tmp_path / "whole", 9)
    parts = [run(tmp_path / "of_shards", tmp_path / "part", n, f"dataset.num_workers={n % 3}") for n in (4, 9)]
    losses = [line for part in parts for line in part.values("loss")]
    assert len(losses) == 9 and losses == whole.values("loss")
    one, other = (
        torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("whole", "part")
    )
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_damaged_shards_are_skipped_counted_and_named(
    clips: list[Path], shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(tmp_path / "shards", tmp_path / "data") == 0
    content, last = shards[1].read_bytes(), clips[11].name
    shards[1].write_bytes(content[: content.index(last.encode()) + 1000])  # within the fifth of its seven
    output = run(tmp_path / "data", tmp_path / "run", 6, "task.max_skipped=0.5").output
    named = re.findall(r"clip skipped \(\d so far\): \S*1\.tar has .* cannot be a recording in it \((.*)\)", output)
    assert sorted(named) == [clip.name for clip in clips[11:14]] and "clip skipped (3 so far)" in output

    capsys.readouterr()
    assert prepare(tmp_path / "shards", tmp_path / "again") == 1  # prepared after the damage
    captured = capsys.readouterr()
    assert f"{shards[1]} cannot be read to its end" in captured.err
    manifest = Manifest(tmp_path / "again" / "train.tsv")
    assert len(manifest) == CLIPS - 3 and all(last not in manifest.name(i) for i in range(len(manifest)))
