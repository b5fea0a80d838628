"""Extraction into a place that holds features already: alike they are kept, others refused; and two runs at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from EAT.commands.extract import main
from EAT.data.search import data_sets

from ..conftest import CONFORMANCE, ROOT
from ..recordings import hanging

CHECKPOINT = CONFORMANCE / "official_pretrain.pt"
BASE = ("--granularity", "utterance", "--device", "cpu")
OTHERS = {
    "granularity": (["--granularity", "mean"], "granularity utterance instead of mean"),
    "layer": (["--layer", "1"], "layer 3 instead of 1"),
    "layers": (["--layer", "1", "3"], "layer 3 instead of [1, 3]"),
    "weights": (["--weights", "teacher"], "other weights of the same checkpoint file"),
    "precision": (["--precision", "bfloat16"], "precision float32 instead of bfloat16"),
    "storage": (["--storage", "float16"], "storage float32 instead of float16"),
    "length": (["--target-length", "64"], "target length none instead of 64"),
    "normalisation": (["--norm-mean", "-5"], "front end log_mel 1024 -4.268 4.569 instead of log_mel 1024 -5.0 4.569"),
    "window": (["--window", "512"], "hop 512 instead of 256, longest 12288 instead of 512"),
}


def extract(*arguments: Any, checkpoint: Path = CHECKPOINT) -> int:
    return main(["--checkpoint", str(checkpoint), *map(str, arguments)])


def arrays(output: Path) -> dict[str, np.ndarray]:
    if output.suffix == ".safetensors":
        return load_file(output)
    if output.suffix == ".h5":
        with h5py.File(output) as file:
            return {name: file[name][()] for name in data_sets(file)}
    if output.suffix == ".npy":
        return {output.stem: np.load(output)}
    return {str(path.relative_to(output))[:-4]: np.load(path) for path in output.rglob("*.npy")}


@pytest.mark.parametrize("name", ["features", "one.npy", "all.h5", "all.safetensors"])
def test_features_of_something_else_are_refused_or_computed_again(
    tmp_path: Path, clips: list[Path], name: str, capsys: pytest.CaptureFixture
) -> None:
    output, sources = tmp_path / name, clips[:1] if name == "one.npy" else clips[:2]
    assert extract("--source", *sources, "--output", output, *BASE) == 0
    first = arrays(output)
    assert extract("--source", *sources, "--output", output, *BASE, "--batch-size", "3", "--num-workers", "1") == 0
    for arguments, words in OTHERS.values():
        capsys.readouterr()
        assert extract("--source", *sources, "--output", output, *BASE, *arguments) == 2
        error = capsys.readouterr().err
        assert f"{name} holds features that were made with " in error and f"{words}; give another --output" in error
    assert all(np.array_equal(value, first[key]) for key, value in arrays(output).items())
    again = ["--source", *sources, "--output", output, *BASE, "--layer", "1"]
    assert extract(*again, "--overwrite") == 0
    assert arrays(output).keys() == first.keys()
    assert not any(np.allclose(value, first[key]) for key, value in arrays(output).items())
    capsys.readouterr()
    assert extract(*again) == 0
    assert ("is there already" if "." in name and name != "one.npy" else "0 recordings") in capsys.readouterr().out
    if len(sources) > 1:  # one of two cannot be computed again by itself: they would be of two kinds
        assert extract("--source", clips[0], "--output", output, *BASE, "--overwrite") == 2
        error = capsys.readouterr().err
        assert "holds features of 1 other recordings that were made with layer 1 instead of 3" in error


def test_the_weights_count_and_not_the_name_of_their_file(
    tmp_path: Path, clips: list[Path], capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(CHECKPOINT, tmp_path / "copy.pt")
    state = torch.load(CHECKPOINT)
    state["model"]["blocks.1.mlp.fc1.bias"][3] += 1e-3
    torch.save(state, tmp_path / "other.pt")
    out = tmp_path / "out"
    assert extract("--source", clips[0], "--output", out, *BASE) == 0
    assert extract("--source", clips[1], "--output", out, *BASE, checkpoint=tmp_path / "copy.pt") == 0
    assert extract("--source", clips[2], "--output", out, *BASE, checkpoint=tmp_path / "other.pt") == 2
    assert f"checkpoint {tmp_path}/copy.pt instead of {tmp_path}/other.pt" in capsys.readouterr().err
    assert len(arrays(out)) == 2


def test_features_of_an_earlier_release_are_kept_and_named(
    tmp_path: Path, clips: list[Path], capsys: pytest.CaptureFixture
) -> None:
    for name in ("out", "all.h5"):
        output = tmp_path / name
        assert extract("--source", clips[0], "--output", output, *BASE) == 0
        if name == "out":
            (output / ".features.json").unlink()
        else:
            with h5py.File(output, "a") as file:
                del file.attrs["made_by"]
        for clip in clips[1:3]:
            capsys.readouterr()
            assert extract("--source", clips[0], clip, "--output", output, *BASE) == 0
            assert "nothing says what made the features that" in capsys.readouterr().err
        assert len(arrays(output)) == 3
        assert extract("--source", *clips[:3], "--output", output, *BASE, "--overwrite") == 0
        capsys.readouterr()
        assert extract("--source", *clips[:3], "--output", output, *BASE) == 0
        assert capsys.readouterr().err == ""


def test_what_cannot_be_computed_again_is_not_left_beside_the_others(tmp_path: Path, clips: list[Path]) -> None:
    sources = [tmp_path / "a.flac", tmp_path / "b.flac"]
    for name in ("out", "all.h5", "all.safetensors"):
        for source, clip in zip(sources, clips, strict=False):
            shutil.copy(clip, source)
        assert extract("--source", *sources, "--output", tmp_path / name, *BASE) == 0
        sources[1].write_bytes(b"damaged since")
        assert extract("--source", *sources, "--output", tmp_path / name, *BASE, "--overwrite") == 1
        assert set(arrays(tmp_path / name)) == {"a", "b"}  # what made them is the same
        assert extract("--source", *sources, "--output", tmp_path / name, *BASE, "--overwrite", "--layer", "1") == 1
        assert set(arrays(tmp_path / name)) == {"a"}


def command(output: Path, *sources: Path) -> list[str]:
    script = str(ROOT / "feature_extract" / "feature_extract.py")
    given = ["--checkpoint", str(CHECKPOINT), "--output", str(output), "--source", *map(str, sources)]
    return [sys.executable, script, *given, *BASE, "--num-workers", "0"]


def test_two_extractions_into_one_file_lose_nothing(tmp_path: Path, clips: list[Path]) -> None:
    """The second is sent away while the first is at work, and takes over when that is killed."""
    output, environment = tmp_path / "all.h5", {**os.environ, "OMP_NUM_THREADS": "1"}
    with hanging(tmp_path / "hangs.wav") as waited_for:
        # One of the hanging file's length, so that it is written before that file is waited for.
        first = subprocess.Popen(command(output, *clips[:2], tmp_path / "hangs.wav"), env=environment)
        try:
            while not waited_for() and first.poll() is None:
                time.sleep(0.02)
            second = subprocess.run(command(output, *clips[2:4]), env=environment, capture_output=True, text=True)
            assert (second.returncode, second.stdout) == (2, "")
            assert second.stderr == (
                f"error: another extraction writes {output}; wait for its end, or give another --output.\n"
            )
        finally:
            first.kill()
            first.wait()
    parts = tmp_path / ".all.h5.parts"
    assert parts.is_dir() and not output.exists()
    assert extract("--source", *clips[2:4], "--output", output, *BASE) == 0
    assert set(arrays(output)) == {clip.stem for clip in clips[2:4]} and not parts.exists()
    assert extract("--source", *clips[:2], "--output", output, *BASE) == 0
    assert set(arrays(output)) == {clip.stem for clip in clips[:4]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.h5", "hangs.wav"]
