"""Manifests and packs reach nothing outside their root folder, unless that is allowed."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from EAT.audio.recordings import read_audio
from EAT.data.manifest import Manifest
from EAT.errors import DataError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The root folder of a manifest, and a folder beside it."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        soundfile.write(folder / "a.wav", np.full(1600, 0.25), 16000)
    return root, outside


def manifest(root: Path, name: str, **options: bool) -> Manifest:
    path = root.parent / "train.tsv"
    path.write_text(f"{root}\n{name}\t1600\n")
    return Manifest(path, **options)


def test_names_and_links_that_leave_the_root_are_refused(folders: tuple[Path, Path]) -> None:
    root, outside = folders
    (root / "file.wav").symlink_to(outside / "a.wav")
    (root / "folder").symlink_to(outside)
    (root / "chain.wav").symlink_to(root / "folder" / "a.wav")
    (root / "archive.zip").symlink_to(outside / "archive.zip")
    (root / "pack.h5").symlink_to(outside / "pack.h5")
    leaving = ["../outside/a.wav", str(outside / "a.wav"), "file.wav", "folder/a.wav", "chain.wav"]
    for name in [*leaving, "archive.zip:0:100", "pack.h5/a", "folder/pack.h5/a/b", "x/../../outside/a.wav"]:
        with pytest.raises(DataError, match=r"the root folder .*; if that is meant, set task.allow_outside_root=true"):
            manifest(root, name).source(0)
    for name in leaving:
        assert len(read_audio(manifest(root, name, allow_outside_root=True).source(0))) == 1600


def test_links_within_the_root_are_followed(folders: tuple[Path, Path]) -> None:
    root, _ = folders
    (root / "sub").mkdir()
    (root / "sub" / "link.wav").symlink_to(root / "a.wav")
    (root.parent / "alias").symlink_to(root)
    assert len(read_audio(manifest(root, "sub/link.wav").source(0))) == 1600
    assert len(read_audio(manifest(root.parent / "alias", "sub/link.wav").source(0))) == 1600


def test_the_environment_allows_it_for_other_commands(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAT_ALLOW_OUTSIDE_ROOT", "1")
    assert len(read_audio(manifest(folders[0], "../outside/a.wav").source(0))) == 1600


def test_packs_hold_their_clips_themselves(tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["clip"] = np.full(3200, 0.5, dtype=np.float32)
    (tmp_path / "raw").write_bytes(np.full(3200, 0.5, dtype=np.float32).tobytes())
    virtual = h5py.VirtualLayout(3200, np.float32)
    virtual[:] = h5py.VirtualSource(str(other), "clip", shape=3200)
    with h5py.File(tmp_path / "pack.h5", "w") as file:
        file["own"] = np.full(3200, 0.5, dtype=np.float32)
        file["soft"] = h5py.SoftLink("/own")
        file["external"] = h5py.ExternalLink(str(other), "/clip")
        file["through"] = h5py.SoftLink("/external")
        file["whole"] = h5py.ExternalLink(str(other), "/")
        file.create_virtual_dataset("virtual", virtual)
        file.create_dataset("raw", 3200, np.float32, external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])
    for key in ("own", "soft"):
        assert len(read_audio(f"{tmp_path}/pack.h5/{key}")) == 1600
    for key in ("external", "through", "whole/clip", "virtual", "raw"):
        with pytest.raises(DataError, match="is a link to another file"):
            read_audio(f"{tmp_path}/pack.h5/{key}")
