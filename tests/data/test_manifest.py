"""Manifests: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from EAT.data.manifest import Manifest
from EAT.errors import DataError


def write(folder: Path, text: str) -> Path:
    path = folder / "train.tsv"
    path.write_bytes(text.encode())
    return path


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "the root").mkdir()
    manifest = Manifest(write(tmp_path, f"{tmp_path}/the root\na b.wav\t10\nsub/ü\tx.flac\t20\n\nlast.wav\t30"))
    assert len(manifest) == 3
    assert [manifest.name(i) for i in range(3)] == ["a b.wav", "sub/ü\tx.flac", "last.wav"]
    assert [manifest.samples(i) for i in range(3)] == [10, 20, 30]
    assert manifest.source(0) == f"{tmp_path}/the root/a b.wav"


def test_windows_line_ends_and_a_root_beside_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    manifest = Manifest(write(tmp_path, "audio\r\na.wav\t10\r\n"))
    assert (manifest.source(0), manifest.samples(0)) == (f"{tmp_path}/audio/a.wav", 10)


@pytest.mark.parametrize("name", ["../up.wav", "a/../../up.wav", "/etc/passwd", "..\\up.wav"])
def test_paths_stay_inside_the_root(tmp_path: Path, name: str) -> None:
    manifest = Manifest(write(tmp_path, f"{tmp_path}\n{name}\t10\n"))
    with pytest.raises(DataError, match="leaves the root folder"):
        manifest.source(0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{root}\n", "lists no clips"),
        ("", "must be the clips' root folder"),
        ("a.wav\t10\nb.wav\t10\n", "must be the clips' root folder"),
        ("{root}/nothing\na.wav\t10\n", "does not exist"),
        ("{root}\na.wav\t10\nb.wav 10\n", "a line without a tab, 'b.wav 10'"),
    ],
)
def test_what_is_no_manifest(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Manifest(write(tmp_path, text.format(root=tmp_path)))


@pytest.mark.parametrize("text", ["ten", "-1", "1_000", "1.5", "", "9" * 5000, "\u0661"])
def test_a_length_that_is_no_number(tmp_path: Path, text: str) -> None:
    manifest = Manifest(write(tmp_path, f"{tmp_path}\na.wav\t{text}\n"))
    with pytest.raises(DataError, match=rf"says '{text[:80]}' where a\.wav has its length"):
        manifest.samples(0)
