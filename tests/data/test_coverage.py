"""How much of the clips a length leaves out, worked out by hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from EAT.data.coverage import coverage
from EAT.data.manifest import Manifest


def test_seconds_beyond_a_length_whatever_the_rate(tmp_path: Path) -> None:
    for name, seconds, rate in (("a", 4, 16_000), ("b", 1, 8_000), ("c", 3, 44_100)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(seconds * rate), rate)
    (tmp_path / "d.wav").write_bytes(b"no audio")
    os.mkfifo(tmp_path / "e.wav")
    (tmp_path / "train.tsv").write_text("\n".join([".", *(f"{name}.wav\t1" for name in "abcde")]) + "\n")
    found = coverage(Manifest(tmp_path / "train.tsv"), 2.0, 1.0)
    assert (found.clips, found.longer) == (3, 2)
    assert found.cut == pytest.approx(3 / 8)  # of 4 + 1 + 3 seconds, 2 and 1
