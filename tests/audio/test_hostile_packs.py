"""Damaged HDF5 packs: a sentence from every reader, and a pack that takes another's place is the one that is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from EAT.audio.recordings import read_audio
from EAT.data.search import read_pack_keys
from EAT.errors import DataError
from EAT.inference.feature_files import packed

from ..conftest import ROOT


def test_mutated_packs_raise_nothing_foreign() -> None:
    """A part of what ``tests/audio/hostile_packs.py`` does with 5,000."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.audio.hostile_packs", "--count", "150", "--seed", "3"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0 and "150 packs" in done.stdout and "FAULT" not in done.stdout, done.stdout + done.stderr


def test_a_pack_that_takes_anothers_place_is_read(tmp_path: Path) -> None:
    for number, length in enumerate((1600, 3200, 800)):
        with h5py.File(tmp_path / "new.h5", "w") as file:
            file["clip"] = np.full(length, number + 1, np.int16)
            file["clip"].attrs["sample_rate"] = 16000
        os.replace(tmp_path / "new.h5", tmp_path / "pack.h5")
        samples = read_audio(f"{tmp_path}/pack.h5/clip")
        assert len(samples) == length and round(float(samples[0]) * 32768) == number + 1


def test_samples_that_are_damaged_are_named(tmp_path: Path) -> None:
    """Found only when they are read: a checksum that does not fit."""
    with h5py.File(tmp_path / "pack.h5", "w") as file:
        file.create_dataset("clip", data=np.arange(8000, dtype=np.int16), chunks=(1000,), fletcher32=True)
    content = bytearray((tmp_path / "pack.h5").read_bytes())
    place = content.find(np.arange(4000, 4010, dtype=np.int16).tobytes())
    content[place] ^= 255
    (tmp_path / "pack.h5").write_bytes(content)
    with pytest.raises(DataError, match=r"pack\.h5/clip cannot be read from its pack"):
        read_audio(f"{tmp_path}/pack.h5/clip")


@pytest.mark.parametrize("content", [b"", b"text", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_files_that_are_no_packs(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pack.h5").write_bytes(content)
    for read in (lambda: read_pack_keys(f"{tmp_path}/pack.h5"), lambda: read_audio(f"{tmp_path}/pack.h5/clip")):
        with pytest.raises(DataError, match=r"pack\.h5"):
            read()
    with pytest.raises(DataError, match=r"pack\.h5 is there, but no hdf5 file"), packed("hdf5", tmp_path / "pack.h5"):
        pass
