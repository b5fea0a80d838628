"""Reading: every format, rate, channel count and container; parts of long files; and what cannot be read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from EAT.audio.recordings import read_audio
from EAT.audio.resampling import SINC, SOXR, Resampler
from EAT.audio.stream import AudioStream
from EAT.data.manifest import Manifest
from EAT.errors import DataError

from ..recordings import FORMATS, at_rate, write_mixed_manifest


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    length = min(len(a), len(b))
    return torch.cosine_similarity(a[:length], b[:length], dim=0).item()


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("suffix", FORMATS)
def test_formats(clips: list[Path], tmp_path: Path, suffix: str, channels: int) -> None:
    kind, subtype, rate = FORMATS[suffix]
    clip = next(c for c in clips if c.stem == "loop_amen")
    samples = at_rate(clip, rate, channels)
    soundfile.write(tmp_path / f"clip.{suffix}", samples, rate, format=kind, subtype=subtype)
    original = read_audio(str(clip))
    read = read_audio(str(tmp_path / f"clip.{suffix}"))
    assert read.dtype == torch.float32 and read.ndim == 1
    assert abs(len(read) - len(original)) <= (2500 if suffix == "mp3" else 2)
    if suffix == "mp3":  # the encoder's delay shifts the clip
        assert read.norm().item() == pytest.approx((1.0 if channels == 1 else 0.75) * original.norm().item(), rel=0.05)
    else:
        assert similarity(read, original) > (0.998 if suffix in ("wav", "flac", "aiff") else 0.95)
        loudness = 1.0 if channels == 1 else 0.75  # the mean of a channel and its half
        assert (read.norm() / original.norm()).item() == pytest.approx(loudness, rel=0.1)


def test_containers_hold_the_same_clip(clips: list[Path], tmp_path: Path) -> None:
    write_mixed_manifest(tmp_path, clips[:12])
    manifest = Manifest(tmp_path / "train.tsv")
    names = [manifest.name(index) for index in range(len(manifest))]
    for index in range(4):
        original = read_audio(str(clips[index]))
        packed = read_audio(manifest.source(names.index(f"pack.h5/{clips[index].stem}")))
        zipped = read_audio(manifest.source(len(names) - 4 + index))
        assert similarity(packed, original) > 0.999
        assert torch.equal(zipped, original)
    slow = read_audio(manifest.source(names.index(f"pack.h5/{clips[4].stem}")))
    assert abs(len(slow) - len(read_audio(str(clips[4])))) <= 2


@pytest.mark.parametrize("resampler", [SINC, SOXR], ids=["sinc", "soxr"])
@pytest.mark.parametrize("rate", [16000, 44100, 8000, 48000, 22050, 11025])
def test_a_part_equals_the_same_part_of_the_whole(tmp_path: Path, rate: int, resampler: Resampler) -> None:
    samples = np.random.default_rng(0).normal(size=rate * 3) * 0.1
    path = str(tmp_path / "long.wav")
    soundfile.write(path, samples, rate, subtype="FLOAT")
    whole = read_audio(path, resampler=resampler)
    assert torch.equal(read_audio(path, max_samples=10**9, resampler=resampler), whole)
    start = read_audio(path, max_samples=16000, resampler=resampler)
    torch.testing.assert_close(start, whole[:16000], rtol=0, atol=1e-6)
    end = read_audio(path, max_samples=16000, position=1.0, resampler=resampler)
    torch.testing.assert_close(end, whole[-16000:], rtol=0, atol=1e-6)
    middle = read_audio(path, max_samples=16000, position=0.4321, resampler=resampler)
    first = int(0.4321 * (len(whole) - 16000))
    torch.testing.assert_close(middle, whole[first : first + 16000], rtol=0, atol=1e-6)
    with AudioStream(path, block_seconds=0.3, resampler=resampler) as stream:
        pieces = [stream.read(place, 7000) for place in range(0, stream.samples, 7000)]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-6)


def test_soxr_is_the_librarys_high_quality_and_keeps_the_highest_octaves_end(tmp_path: Path) -> None:
    time = np.arange(44100) / 44100
    tone = np.sin(2 * np.pi * 7300 * time).astype(np.float32)
    soundfile.write(tmp_path / "t.wav", tone, 44100, subtype="FLOAT")
    kept = read_audio(str(tmp_path / "t.wav"), resampler=SOXR)
    assert kept.shape == (16000,)
    assert np.abs(kept.numpy() - soxr.resample(tone, 44100, 16000, quality="HQ")).max() < 1e-6
    weakened = read_audio(str(tmp_path / "t.wav"))
    assert kept[2000:-2000].abs().max() > 0.99 and weakened[2000:-2000].abs().max() < 0.75


def test_soxr_is_asked_for_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soxr", None)  # how Python marks a module that cannot be imported
    samples = np.zeros(16000, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    soundfile.write(tmp_path / "b.wav", samples, 44100)
    assert len(read_audio(str(tmp_path / "a.wav"), resampler=SOXR)) == 16000  # nothing to resample
    with pytest.raises(DataError, match=r"44100 Hz .* pip install 'eat-audio\[soxr\]'"):
        read_audio(str(tmp_path / "b.wav"), resampler=SOXR)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("hello")
    (tmp_path / "folder.wav").mkdir()
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(4000, np.nan), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "loud.wav", np.full(4000, 1e30), 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", np.zeros(4000), 100)
    cases = {
        "text.wav": "not audio that libsndfile can read",
        "folder.wav": "is a folder",
        "gone.wav": "does not exist",
        "empty.wav": "holds 0 samples",
        "nan.wav": "NaN or infinite",
        "loud.wav": "samples as large as 1e\\+30",
        "slow.wav": "claims 100 Hz",
        "gone.zip:0:10": "cannot be read",
        "gone.h5/key": "cannot be opened",
    }
    for name, reason in cases.items():
        with pytest.raises(DataError, match=reason) as caught:
            read_audio(str(tmp_path / name))
        assert name.split(":")[0].split("/")[0] in str(caught.value)


def test_an_hdf5_pack_without_the_clip(clips: list[Path], tmp_path: Path) -> None:
    write_mixed_manifest(tmp_path, clips[:5])
    with pytest.raises(DataError, match="holds no data set 'nothing'"):
        read_audio(str(tmp_path / "audio files" / "pack.h5/nothing"))


def test_damaged_packs_are_named_and_nothing_foreign_is_raised(tmp_path: Path) -> None:
    """Links that dangle, loop or leave, types without data, rates that are none, and bytes that were changed."""
    import h5py

    pack = tmp_path / "pack.h5"
    with h5py.File(pack, "w") as file:
        file["good"] = np.zeros(16000, np.int16)
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["loop"] = h5py.SoftLink("/loop")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
        file["type"] = np.dtype("f8")
        file["group/inner"] = np.zeros(16000, np.int16)
        for name, rate in (("infinite", np.inf), ("word", "fast"), ("zero", 0)):
            file[name] = np.zeros(16000, np.int16)
            file[name].attrs["sample_rate"] = rate
    assert len(read_audio(f"{pack}/good")) == 8000 and len(read_audio(f"{pack}/group/inner")) == 8000
    for name in ("dangling", "loop", "outside", "type", "group", "infinite", "word", "zero"):
        with pytest.raises(DataError, match=r"pack\.h5"):
            read_audio(f"{pack}/{name}")
    whole, rng = pack.read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for number in range(300):
        changed = bytearray(whole)
        for place in rng.integers(len(whole), size=1 + number % 40):
            changed[place] ^= int(rng.integers(1, 256))
        path = tmp_path / f"changed{number}.h5"
        path.write_bytes(changed)
        try:
            outcomes.add(len(read_audio(f"{path}/good")))
        except DataError as error:
            assert path.name in str(error)
            outcomes.add("refused")
        path.unlink()
    assert "refused" in outcomes and 8000 in outcomes


def test_every_committed_clip_is_read(clips: list[Path]) -> None:
    assert len(clips) == 124
    for clip in clips:
        assert len(read_audio(str(clip))) == soundfile.info(clip).frames
