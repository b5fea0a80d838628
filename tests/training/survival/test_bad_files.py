"""200 damaged files among good ones: training and extraction finish, name each of them, and get the good ones right."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ...conftest import ROOT
from ...fairseq_runs import environment, train
from ...recordings import hanging
from .running import SMALLEST

pytestmark = pytest.mark.faults

GOOD, BAD = 40, 200


def recording(rng: np.random.Generator, path: Path, kind: str) -> bytes:
    soundfile.write(path, rng.normal(size=8000) * 0.1, 16000, format=kind)
    return path.read_bytes()


def truncated(rng: np.random.Generator, path: Path) -> None:
    content = recording(rng, path, "WAV" if path.suffix == ".wav" else "FLAC")
    path.write_bytes(content[: int(rng.uniform(0.05, 0.9) * len(content))])


def with_flipped_bits(rng: np.random.Generator, path: Path) -> None:
    content = bytearray(recording(rng, path, "FLAC"))  # whose frames carry checksums
    for place in rng.integers(200, len(content), rng.choice([1, 5, 50])):
        content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def with_swapped_headers(rng: np.random.Generator, path: Path) -> None:
    wav, flac = recording(rng, path, "WAV"), recording(rng, path, "FLAC")
    path.write_bytes(wav[:44] + flac[44:] if path.suffix == ".wav" else flac[:42] + wav[42:])


def of_another_kind(rng: np.random.Generator, path: Path) -> None:
    picture = b"\x89PNG\r\n\x1a\n" + rng.bytes(500)
    path.write_bytes(
        [picture, b"<html>404 Not Found</html>", rng.bytes(3000), b"PK\x03\x04" + rng.bytes(99)][int(rng.integers(4))]
    )


def of_zero_bytes(rng: np.random.Generator, path: Path) -> None:
    path.write_bytes(bytes(int(rng.choice([0, 1, 4096]))))


DAMAGES = (truncated, with_flipped_bits, with_swapped_headers, of_another_kind, of_zero_bytes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], list[str]]:
    """A data folder, and the names of its bad and of its good clips."""
    folder = tmp_path_factory.mktemp("data")
    audio = folder / "audio"
    audio.mkdir()
    rng = np.random.default_rng(0)
    bad = []
    for index in range(BAD):
        damage = DAMAGES[index % len(DAMAGES)]
        bad.append(f"{damage.__name__}{index}.{('wav', 'flac')[index // len(DAMAGES) % 2]}")
        damage(rng, audio / bad[-1])
    good = [f"good{index}.{('wav', 'flac')[index % 2]}" for index in range(GOOD)]
    for name in good:
        # Sound content under a name that belongs to another format is no damage.
        recording(rng, audio / name, ("WAV", "FLAC")[int(rng.integers(2))])
    names = sorted(bad + good)
    (folder / "train.tsv").write_text("\n".join(["audio", *(f"{name}\t8000" for name in names)]) + "\n")
    (folder / "clean.tsv").write_text("\n".join(["audio", *(f"{name}\t8000" for name in good)]) + "\n")
    return folder, bad, good


def test_training_and_extraction_finish_and_name_every_bad_file(
    data: tuple[Path, list[str], list[str]], tmp_path: Path
) -> None:
    folder, bad, _ = data
    run = train(
        "pretraining_AS2M",
        *SMALLEST,
        f"task.data={folder}",
        f"checkpoint.save_dir={tmp_path}/run",
        "task.max_skipped=0.9",
        "dataset.num_workers=2",
        "dataset.batch_size=12",
        "optimization.max_update=40",  # two epochs of 20 batches
    )
    named = [line for line in run.output.splitlines() if "clip skipped" in line]
    assert len(named) == BAD  # each once, although both epochs met it
    for name in bad:
        assert sum(f"/{name} " in line for line in named) == 1, name
    assert sum(run.values("bsz")) == 2 * GOOD
    assert np.isfinite([loss for loss, clips in zip(run.values("loss"), run.values("bsz"), strict=True) if clips]).all()

    for split, expected in (("train", 1), ("clean", 0)):
        done = subprocess.run(
            [
                *(sys.executable, "feature_extract/feature_extract.py"),
                *("--source", str(folder / f"{split}.tsv"), "--output", str(tmp_path / split)),
                *("--checkpoint", str(tmp_path / "run" / "checkpoint_last.pt"), "--num-workers", "2"),
            ],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == expected, done.stderr[-3000:]
        errors = re.findall(r"[^\s/]+\.(?:wav|flac)(?= )", done.stderr)
        assert sorted(set(errors)) == (sorted(bad) if split == "train" else []), done.stderr[-3000:]
        assert "Traceback" not in done.stderr
    written = [path.relative_to(tmp_path / "clean") for path in (tmp_path / "clean").rglob("*.npy")]
    assert len(written) == GOOD == len(list((tmp_path / "train").rglob("*.npy")))
    for name in written:
        np.testing.assert_allclose(
            np.load(tmp_path / "train" / name), np.load(tmp_path / "clean" / name), rtol=1e-4, atol=1e-5
        )


def test_files_that_vanish_change_or_hang_are_skipped(tmp_path: Path) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    rng = np.random.default_rng(0)
    names = [f"{index}.wav" for index in range(8)]
    for name in names:
        recording(rng, audio / name, "WAV")
    lines = [*names, "vanished.wav", "hangs.wav", "grown.wav"]
    (tmp_path / "train.tsv").write_text("\n".join(["audio", *(f"{name}\t8000" for name in lines)]) + "\n")
    content = bytearray(recording(rng, audio / "grown.wav", "WAV"))
    content[40:44] = struct.pack("<I", len(content) * 4)  # the header of a longer recording than was copied so far
    (audio / "grown.wav").write_bytes(content)
    with hanging(audio / "hangs.wav"):
        run = train(
            "pretraining_AS2M",
            *SMALLEST,
            f"task.data={tmp_path}",
            f"checkpoint.save_dir={tmp_path}/run",
            "task.max_skipped=0.5",
            "task.read_timeout=0.5",
            "dataset.num_workers=1",
            "optimization.max_update=6",  # two epochs
        )
    for reason in ("vanished.wav does not exist", "hangs.wav could not be read within 0.5 s", "grown.wav is cut short"):
        assert sum(reason in line for line in run.output.splitlines()) == 1, reason
    assert sum(run.values("bsz")) == 2 * len(names)
