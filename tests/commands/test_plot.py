"""``python -m EAT.plot`` writes pictures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from EAT.commands.plot import main

from ..conftest import CLIPS, CONFORMANCE, ROOT


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_command_writes_pictures(tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"new folder/masks.{ending}"
    command = [sys.executable, "-m", "EAT.plot", "masks", str(CLIPS / "elec_bell.flac"), "--target-length", "128"]
    done = subprocess.run([*command, "--output", str(output)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert output.read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")


def test_unusable_arguments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["masks", str(CLIPS / "elec_bell.flac"), "--target-length", "128"]
    for bad in (["--output", str(tmp_path / "x.jpg")], ["--mask-length", "4"], ["--target-length", "100"]):
        assert main([*command, *bad]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_commands_for_features(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(CONFORMANCE / "official_pretrain.pt")
    clip, output = str(CLIPS / "elec_bell.flac"), str(tmp_path / "features.svg")
    assert main(["features", clip, "--checkpoint", checkpoint, "--layer", "1", "--output", output]) == 0
    assert "block 1 of 3" in Path(output).read_text()
    for folder in ("a", "b"):
        (tmp_path / "f" / folder).mkdir(parents=True)
        for index in range(3):
            np.save(tmp_path / "f" / folder / f"{index}.npy", np.random.default_rng(index).normal(size=4))
    assert main(["map", str(tmp_path / "f"), "--output", str(tmp_path / "map.png")]) == 0
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    for bad in (["map", str(tmp_path / "none")], ["features", clip, "--checkpoint", checkpoint, "--layer", "9"]):
        assert main([*bad, "--output", str(tmp_path / "x.png")]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "x.png").exists()
