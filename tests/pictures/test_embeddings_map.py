"""Maps of clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from EAT.errors import DataError
from EAT.pictures.components import principal_components
from EAT.pictures.embeddings_map import Embeddings, draw_map, read_embeddings
from EAT.pictures.style import PALETTE


def test_a_map_shows_every_clip_in_its_labels_colour() -> None:
    vectors = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    labels = ["often"] * 18 + [f"rare {i}" for i in range(12)]
    axes = draw_map(Embeddings(vectors, labels, 0), title="30 clips").axes[0]
    assert sum(len(points.get_offsets()) for points in axes.collections) == 30
    names = [points.get_label() for points in axes.collections]
    assert names[0] == "others (3)" and names[1] == "often (18)" and len(names) == 1 + len(PALETTE)
    often = axes.collections[1].get_offsets()
    np.testing.assert_allclose(often, principal_components(vectors, 2).values[:18], atol=1e-5)
    assert axes.get_xlabel().startswith("first principal component (") and axes.get_ylabel().startswith("second (")
    assert axes.get_title(loc="left") == "30 clips by their two principal components"
    assert axes.get_aspect() == 1.0  # near is near in every direction
    embedded = draw_map(Embeddings(vectors, [], 0), "tsne").axes[0]
    assert len(embedded.collections[0].get_offsets()) == 30 and list(embedded.get_xticks()) == []


def test_embeddings_are_read_with_labels(tmp_path: Path) -> None:
    for folder in ("dogs", "cats"):
        (tmp_path / "features" / folder).mkdir(parents=True)
        for index in range(2):
            np.save(tmp_path / "features" / folder / f"{index}.npy", np.full(4, index, np.float32))
    found = read_embeddings(tmp_path / "features")
    assert found.labels == ["cats", "cats", "dogs", "dogs"] and found.vectors.shape == (4, 4)
    assert found.names == ["cats/0", "cats/1", "dogs/0", "dogs/1"]
    (tmp_path / "audio").mkdir()
    (tmp_path / "eval.tsv").write_text("audio\ndogs/1.wav\t5\ncats/0.flac\t5\ncats/1.wav\t5\n")
    (tmp_path / "eval.lbl").write_text("1\tdog,pet\n0\tcat\n1\tcat\n")
    (tmp_path / "label_descriptors.csv").write_text("0,cat,Cat\n1,dog,Dog\n2,pet,Pet\n")
    found = read_embeddings(tmp_path / "features", tmp_path / "eval.tsv")
    assert found.labels == ["Dog", "Cat", "Cat"] and found.multi_label == 1 and found.vectors[0, 0] == 1
    np.save(tmp_path / "features" / "dogs" / "2.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(DataError, match="--granularity utterance"):
        read_embeddings(tmp_path / "features")


def test_files_that_hold_no_vectors_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "many.npz", a=np.zeros(3))
    header = b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }"
    cases = {
        "empty.npy": b"",
        "cut.npy": b"\x93NUMPY",
        "text.npy": b"not an array",
        "archive.npy": (tmp_path / "many.npz").read_bytes(),
        "huge.npy": (header % b"999999999999").ljust(128) + b"\0" * 16,
        "deep.npy": (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535),
    }
    arrays = {
        "none.npy": np.zeros(0, np.float32),
        "nan.npy": np.full(4, np.nan, np.float32),
        "words.npy": np.array(["a"]),
    }
    for name in (*cases, *arrays):
        folder = tmp_path / name.removesuffix(".npy")
        folder.mkdir()
        for index in range(3):
            np.save(folder / f"{index}.npy", np.zeros(4, np.float32))
        if name in cases:
            (folder / "1.npy").write_bytes(cases[name])
        else:
            np.save(folder / "1.npy", arrays[name])
        with pytest.raises(DataError, match=r"1\.npy (cannot be read|has shape|holds (no numbers|NaN))"):
            read_embeddings(folder)
