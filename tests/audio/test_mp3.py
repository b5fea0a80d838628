"""MP3s: exact lengths where the header has none, all of the audio, and a sentence for those that were cut."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from EAT.audio.recordings import open_recording, read_audio
from EAT.audio.stream import AudioStream
from EAT.commands.prepare import main
from EAT.errors import DataError

from ..recordings import at_rate, first_frame, id3, mp3, without_header

DELAY = 1105
"""Samples that LAME puts in front, which only its header lets a decoder take away."""
SECONDS = 7


@pytest.fixture(scope="module")
def samples(clips: list[Path]) -> np.ndarray:
    """Seven seconds of real audio at 44.1 kHz, the first quiet: what a variable rate starts low for."""
    audio = np.concatenate([at_rate(clip, 44100, 1)[:, 0] for clip in clips[:20]])
    assert len(audio) >= 44100 * SECONDS
    audio = audio[: 44100 * SECONDS].copy()
    audio[:44100] *= 1e-3
    return audio


def frames(content: bytes) -> int:
    """MPEG frames, one header after the other."""
    place = number = 0
    while place + 4 <= len(content) and content[place] == 0xFF:
        place += first_frame(content[place:])
        number += 1
    return number


def check_whole(path: Path, content: bytes, exact: bytes) -> None:
    """All frames of ``content`` are read, by every way there is, and they are what ``exact`` decodes to."""
    path.write_bytes(content)
    length = 1152 * frames(without_header(exact))
    recording = open_recording(str(path))
    assert recording.frames == length
    got = np.concatenate([recording.read(start, 50_000) for start in range(0, length, 50_000)])[:, 0]
    recording.close()
    wanted, _ = soundfile.read(io.BytesIO(exact), dtype="float32")
    np.testing.assert_allclose(got[DELAY : DELAY + len(wanted)], wanted, atol=1e-4)
    whole = read_audio(str(path))
    assert len(whole) == -(-length * 160 // 441)
    np.testing.assert_allclose(read_audio(str(path), 16000, position=1.0), whole[-16000:], atol=1e-3)
    first = int(0.003 * (len(whole) - 1600))
    np.testing.assert_allclose(read_audio(str(path), 1600, position=0.003), whole[first : first + 1600], atol=1e-3)
    with AudioStream(str(path), block_seconds=1.0) as stream:
        assert stream.samples == len(whole)
        np.testing.assert_allclose(stream.read(0, stream.samples), whole, atol=1e-5)


@pytest.mark.parametrize("tag", [0, 10_000, 300_000])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_a_length_that_no_header_states_is_counted(tmp_path: Path, samples: np.ndarray, mode: str, tag: int) -> None:
    """Behind a tag, one with an embedded picture, or none; at 1.8 of 7 s the old estimate was cut off."""
    exact = mp3(samples, 44100, mode)
    content = (id3(tag) if tag else b"") + without_header(exact)
    estimate = soundfile.info(io.BytesIO(content)).frames
    assert (mode, tag) == ("CONSTANT", 0) or abs(estimate - len(samples)) > 10_000
    check_whole(tmp_path / "a.mp3", content, exact)


def test_an_estimate_that_is_too_short_loses_no_tail(tmp_path: Path, samples: np.ndarray) -> None:
    exact = mp3(np.concatenate([samples[44100:], samples[:44100]]), 44100, "VARIABLE")
    content = without_header(exact)
    assert soundfile.info(io.BytesIO(content)).frames < 0.7 * len(samples)
    check_whole(tmp_path / "a.mp3", content, exact)


@pytest.mark.parametrize("tag", [b"TAG" + b"x" * 125, b"APETAGEX" + bytes([208, 7, 0, 0, 32]) + bytes(19)])
def test_tags_at_the_end_are_no_audio(tmp_path: Path, samples: np.ndarray, tag: bytes) -> None:
    exact = mp3(samples, 44100)
    check_whole(tmp_path / "a.mp3", without_header(exact) + tag, exact)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE", "AVERAGE"])
@pytest.mark.parametrize("tag", [0, 10_000, 300_000])
def test_a_length_that_a_header_states_is_taken(tmp_path: Path, samples: np.ndarray, mode: str, tag: int) -> None:
    (tmp_path / "a.mp3").write_bytes((id3(tag) if tag else b"") + mp3(samples, 44100, mode))
    recording = open_recording(str(tmp_path / "a.mp3"))
    recording.close()
    assert recording.frames == len(samples)  # without the encoder's delay
    assert len(read_audio(str(tmp_path / "a.mp3"))) == SECONDS * 16000


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_a_truncated_file_is_refused(tmp_path: Path, samples: np.ndarray, mode: str, header: bool) -> None:
    content = mp3(samples, 44100, mode)
    content = content if header else without_header(content)
    (tmp_path / "cut.mp3").write_bytes(content[: len(content) // 2 + 7])
    with pytest.raises(DataError, match=r"cut\.mp3 (breaks off after|is cut short or damaged)"):
        read_audio(str(tmp_path / "cut.mp3"))


def test_a_file_with_a_hole_is_refused_with_the_place(tmp_path: Path, samples: np.ndarray) -> None:
    content = bytearray(without_header(mp3(samples, 44100)))
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    (tmp_path / "hole.mp3").write_bytes(content)
    with pytest.raises(DataError, match=r"hole\.mp3 is cut short or damaged: it cannot be decoded after 3\.[345] s"):
        read_audio(str(tmp_path / "hole.mp3"), 1600)


def test_a_member_of_a_zip_and_a_file_that_was_replaced(tmp_path: Path, samples: np.ndarray) -> None:
    exact = mp3(samples, 44100)
    content = id3(10_000) + without_header(exact)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.mp3", content)
        archive.writestr("b.mp3", exact)
    whole = len(read_audio(f"{tmp_path}/a.zip:{30 + len('a.mp3')}:{len(content)}"))
    stated = read_audio(f"{tmp_path}/a.zip:{2 * (30 + len('a.mp3')) + len(content)}:{len(exact)}")
    (tmp_path / "b.mp3").write_bytes(exact)
    assert torch.equal(stated, read_audio(str(tmp_path / "b.mp3"))) and len(stated) == SECONDS * 16000
    (tmp_path / "a.mp3").write_bytes(content)
    assert len(read_audio(str(tmp_path / "a.mp3"))) == whole > SECONDS * 16000
    (tmp_path / "a.mp3").write_bytes(content + without_header(exact))
    os.utime(tmp_path / "a.mp3", (0, 0))
    assert len(read_audio(str(tmp_path / "a.mp3"))) > 1.9 * whole


def test_prepare_writes_the_counted_length(tmp_path: Path, samples: np.ndarray, capsys: pytest.CaptureFixture) -> None:
    exact, audio = mp3(samples, 44100, "VARIABLE"), tmp_path / "audio"
    audio.mkdir()
    (audio / "counted.mp3").write_bytes(id3(10_000) + without_header(exact))
    (audio / "stated.mp3").write_bytes(exact)
    (audio / "cut.mp3").write_bytes(without_header(exact)[:20_001])
    assert main(["folder", str(audio), str(tmp_path / "data"), "--unlabelled", "--num-workers", "0"]) == 1
    assert "cut.mp3 is cut short or damaged" in capsys.readouterr().err
    counted = 1152 * frames(without_header(exact))
    lines = (tmp_path / "data" / "train.tsv").read_text().splitlines()[1:]
    assert lines == [f"counted.mp3\t{counted}", f"stated.mp3\t{len(samples)}"]
