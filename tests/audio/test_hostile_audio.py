"""Recordings that lie about themselves are refused by a limit, in one sentence, before memory is spent on them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from EAT.audio.recordings import MAX_FRAMES, open_recording, read_audio
from EAT.audio.timeout import within
from EAT.errors import DataError

from ..conftest import ROOT
from ..recordings import hanging


def wav(path: Path, frames: int, rate: int = 16000, channels: int = 1, data_size: int | None = None) -> str:
    """A 16 bit wav of ``frames`` zeros whose header states ``data_size`` bytes."""
    data = bytes(frames * channels * 2)
    size = len(data) if data_size is None else data_size
    form = struct.pack(
        "<HHIIHH", 1, channels & 0xFFFF, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2 & 0xFFFF, 16
    )
    riff = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", size & 0xFFFFFFFF)
    path.write_bytes(b"RIFF" + struct.pack("<I", min(36 + size, 0xFFFFFFFF)) + riff + data)
    return str(path)


@pytest.mark.parametrize(
    ("rate", "channels", "sentence"),
    [(1, 1, "claims 1 Hz"), (16000, 10_000, "10000 channels|not audio"), (4_000_000_000, 1, "Hz|not audio")],
)
def test_absurd_headers(tmp_path: Path, rate: int, channels: int, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_audio(wav(tmp_path / "a.wav", 16, rate, channels))


def test_a_header_that_states_more_than_the_file_holds(tmp_path: Path) -> None:
    claims = 2**31 - 2**17
    with pytest.raises(DataError, match=f"cut short: its header states {claims:,} bytes of audio, it holds 3,200"):
        read_audio(wav(tmp_path / "a.wav", 1600, data_size=claims))
    soundfile.write(tmp_path / "b.wav", np.zeros(16000), 16000)
    content = (tmp_path / "b.wav").read_bytes()
    (tmp_path / "b.wav").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is cut short"):
        read_audio(str(tmp_path / "b.wav"))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF - 36])
def test_wavs_written_to_a_pipe_are_read_to_their_end(tmp_path: Path, size: int) -> None:
    assert len(read_audio(wav(tmp_path / "a.wav", 1600, data_size=size))) == 1600


def endless_flac(path: Path) -> str:
    """A second of audio whose header states 2^36 - 1 samples."""
    soundfile.write(path, np.zeros(16000), 16000)
    content = bytearray(path.read_bytes())
    assert content[4] & 0x7F == 0  # STREAMINFO; its 36 bits of samples end 18 bytes in
    content[8 + 13] |= 0x0F
    content[8 + 14 : 8 + 18] = b"\xff" * 4
    path.write_bytes(content)
    return str(path)


def test_a_flac_of_fifty_days_is_refused_without_memory(tmp_path: Path) -> None:
    source = endless_flac(tmp_path / "a.flac")
    assert open_recording(source).frames == 2**36 - 1 > MAX_FRAMES
    tracemalloc.start()
    with pytest.raises(DataError, match=r"claims to last 1,193\.0 hours"):
        read_audio(source)
    with pytest.raises(DataError, match="breaks off"):
        read_audio(source, 160_000)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize("offset, length", [(0, 10**17), (10**17, 5), (0, 2**31 + 1)])
def test_zip_members_beyond_the_archive(tmp_path: Path, offset: int, length: int) -> None:
    (tmp_path / "a.zip").write_bytes(bytes(1000))
    with pytest.raises(DataError, match="cannot be a recording in it"):
        read_audio(f"{tmp_path}/a.zip:{offset}:{length}")


def test_numbers_too_long_for_a_zip_address(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_audio(f"{tmp_path}/a.zip:0:{'9' * 5000}"[:4000])


def test_hdf5_data_sets_that_decompress_to_more_than_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "pack.h5", "w") as file:
        file.create_dataset("bomb", 2**31, np.int8, chunks=(2**31,), compression="gzip", fillvalue=1)
        file.create_dataset("long", 2**40, np.int16, chunks=(2**16,), compression="gzip")
        file["rate"] = np.zeros(3200, dtype=np.float32)
        file["rate"].attrs["sample_rate"] = "fast"
        file["wide"] = np.zeros((3200, 300), dtype=np.float32)
    for key, sentence in {
        "long": "claims to last",
        "rate": "sample_rate attribute that is no number",
        "wide": "300 channels",
    }.items():
        with pytest.raises(DataError, match=sentence):
            read_audio(f"{tmp_path}/pack.h5/{key}")
    assert len(read_audio(f"{tmp_path}/pack.h5/long", 16000)) == 16000


def test_a_read_that_hangs_is_given_up_and_the_next_one_works(tmp_path: Path) -> None:
    good = wav(tmp_path / "good.wav", 1600)
    with hanging(tmp_path / "hangs.wav"):
        before = time.monotonic()
        with pytest.raises(DataError, match=r"hangs.wav could not be read within 0.3 s"):
            within(0.3, "hangs.wav", lambda: read_audio(str(tmp_path / "hangs.wav")))
        assert time.monotonic() - before < 30
        assert len(within(60, "good.wav", lambda: read_audio(good))) == 1600
    with pytest.raises(DataError, match="does not exist"):  # errors come through
        within(60, "gone.wav", lambda: read_audio(str(tmp_path / "gone.wav")))
    assert threading.active_count() < 10


@pytest.mark.parametrize("name", ["pipe.wav", "pipe.mp3", "pipe.h5/clip", "pipe.zip:0:100"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name.split("/")[0].split(":")[0])  # opening it would wait for a writer that never comes
    with pytest.raises(DataError, match=r"pipe.* is a pipe, a socket or a device; give a file"):
        within(20, name, lambda: read_audio(f"{tmp_path}/{name}"))


CUT = {
    "w64": ("W64", "PCM_16", "its header states 224,104 bytes, it holds 112,052"),
    "rf64": ("RF64", "PCM_16", "its header states 224,096 bytes, it holds 112,044"),
    "ogg": ("OGG", "VORBIS", "it ends inside a page of its Ogg stream"),
    "opus": ("OGG", "OPUS", "it ends inside a page of its Ogg stream"),
    "au": ("AU", "PCM_16", "its header states 224,000 bytes of audio, it holds 111,988"),
    "aiff": ("AIFF", "PCM_16", "its header states 224,008 bytes of audio, it holds 111,981"),
}


@pytest.mark.parametrize("place", [0.5, -1000, -1])
@pytest.mark.parametrize("suffix", CUT)
def test_files_that_are_known_to_be_cut_are_no_shorter_clips(
    tmp_path: Path, clips: list[Path], suffix: str, place: float
) -> None:
    kind, subtype, sentence = CUT[suffix]
    audio = np.concatenate([soundfile.read(clip, dtype="float32")[0] for clip in clips[:20]])[:112_000]
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, audio, 16000, format=kind, subtype=subtype)
    assert len(read_audio(str(path))) == 112_000
    content = path.read_bytes()
    path.write_bytes(content + b"TAG" + bytes(125))  # something behind the audio takes nothing from it
    assert len(read_audio(str(path))) >= 112_000
    if place == -1 and subtype == "PCM_16":
        return  # a byte may be padding
    path.write_bytes(content[: int(place * len(content)) if place == 0.5 else int(place)])
    with pytest.raises(DataError, match=f"is cut short: {sentence if place == 0.5 else ''}"):
        read_audio(str(path))
    with pytest.raises(DataError, match="is cut short"):
        read_audio(str(path), 1600)


def test_mutated_recordings_are_read_or_refused_in_a_sentence() -> None:
    """Within 5 s and 1 GB each, of every format."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.audio.hostile_recordings", "--count", "200", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0 and "200 recordings" in done.stdout, done.stdout + done.stderr
