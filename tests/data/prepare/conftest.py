"""Helpers to lay out small data sets as they are downloaded, with real recordings."""

import shutil
from pathlib import Path

import pytest

from EAT.data.labels import read_descriptors, read_lbl
from EAT.data.manifest import Manifest


@pytest.fixture
def place(clips):
    """place(path): put the next real clip there; made into the format that the name asks for."""
    taken = iter(clips * 10)

    def put(path: Path) -> Path:
        import soundfile

        path.parent.mkdir(parents=True, exist_ok=True)
        source = next(taken)
        if path.suffix == source.suffix:
            shutil.copy(source, path)
        else:
            samples, rate = soundfile.read(source)
            soundfile.write(path, samples, rate)
        return path

    return put


@pytest.fixture
def labelled():
    """labelled(data, split): clips' paths with their label names, through the readers that training uses."""

    def read(data: Path, split: str) -> dict[str, list[str]]:
        manifest = Manifest(data / f"{split}.tsv")
        labels = read_descriptors(data / "label_descriptors.csv")
        classes = read_lbl(data / f"{split}.lbl", manifest, labels)
        return {manifest.name(i): [labels[k].name for k in classes[i]] for i in range(len(manifest))}

    return read
