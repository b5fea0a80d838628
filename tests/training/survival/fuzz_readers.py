"""Coverage-guided fuzzing of everything that reads a file: only an EATError may come out.

python -m tests.training.survival.fuzz_readers CORPUS [libFuzzer's options]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["EAT.audio", "EAT.data", "EAT.training.survival", "EAT.checkpoint"]):
    from EAT.audio.recordings import read_audio
    from EAT.checkpoint import read_checkpoint
    from EAT.data.labels import read_descriptors, read_lbl
    from EAT.data.manifest import Manifest
    from EAT.data.normalization import read_normalization
    from EAT.data.sampling import read_weights
    from EAT.errors import EATError
    from EAT.training.survival.checkpoints import corruption

FOLDER = Path(tempfile.mkdtemp())


def read_manifest(path: Path) -> None:
    manifest = Manifest(path)
    for index in range(len(manifest)):
        manifest.name(index)
        manifest.source(index)
        manifest.samples(index)


def prepared(name: str, content: str) -> Path:
    (FOLDER / name).write_text(content)
    return FOLDER / name


CLIPS = Manifest(prepared("clips.tsv", ".\na.wav\t1\nb.wav\t2\n"))
LABELS = read_descriptors(prepared("labels.csv", "0,dog\n1,cat\n"))
READERS = (
    ("read.wav", lambda path: read_audio(str(path))),
    ("read.flac", lambda path: read_audio(str(path), 16000, 0.5)),
    ("read.h5", lambda path: read_audio(f"{path}/clip")),
    ("read.zip", lambda path: read_audio(f"{path}:4:1000")),
    ("read.tsv", read_manifest),
    ("read.csv", read_descriptors),
    ("read.lbl", lambda path: read_lbl(path, CLIPS, LABELS)),
    ("normalization.json", lambda path: read_normalization(path.parent)),
    ("weights.txt", lambda path: read_weights(path, CLIPS)),
    ("read.pt", corruption),
    ("other.pt", read_checkpoint),
)


def one_input(data: bytes) -> None:
    """The first byte chooses the reader, the rest is the file."""
    if not data:
        return
    name, read = READERS[data[0] % len(READERS)]
    # Each in a folder of its own: what is kept open by its path would be read again and again.
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        path = Path(folder) / name
        path.write_bytes(data[1:])
        try:
            read(path)
        except EATError as error:
            assert str(error)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
