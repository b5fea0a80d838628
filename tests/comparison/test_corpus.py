"""The corpus of docs/science.md, of zips and tables as it has them, with clips that are in the repository."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import pytest
import soundfile

from EAT.commands.bench import parser, sources
from EAT.comparison.corpus import prepare_corpus, read_task
from EAT.data.manifest import Manifest
from EAT.errors import ConfigError, DataError

from ..conftest import CLIPS

MEMBERS = sorted(path.name for path in CLIPS.iterdir())[:30]
COLUMNS = {"voices": (), "esc10": ("class", "fold"), "fsdd": ("digit", "speaker")}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Thirty clips a zip, in a folder there; classes and groups count up."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, columns in COLUMNS.items():
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            for member in MEMBERS:
                archive.write(CLIPS / member, f"part/{member}")
        with open(folder / f"{name}.csv", "w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(["member", *columns])
            for number, member in enumerate(MEMBERS):
                writer.writerow([f"part/{member}", f"label{number % 2}", f"group{number % 5}"][: 1 + len(columns)])
    return folder


def test_it_is_unpacked_once_and_prepared_with_its_groups(corpus: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    prepare_corpus(corpus, work)
    voices = Manifest(work / "voices" / "train.tsv")
    assert len(voices) == 30 and not (work / "voices" / "train.lbl").exists()
    for name, clips in (("esc10", 30), ("fsdd", 10)):  # of the digits, every third
        task = read_task(name, work / name)
        assert len(task.sources) == clips and task.names == [f"group{number}" for number in range(5)]
        rows = [MEMBERS.index(Path(source).with_suffix(".flac").name) for source in task.sources]
        assert task.labels.tolist() == [row % 2 for row in rows] and task.groups.tolist() == [row % 5 for row in rows]
    wave, rate = soundfile.read(task.sources[0], dtype="int16")
    original, same = soundfile.read(CLIPS / MEMBERS[rows[0]], dtype="int16")
    assert rate == same and (wave == original).all()
    Path(task.sources[0]).unlink()
    prepare_corpus(corpus, work)
    assert not Path(task.sources[0]).exists()  # what was prepared is not prepared again


def test_further_tasks_stand_beside_its_own(corpus: Path, tmp_path: Path) -> None:
    given = ["--results", "r.jsonl", "--work", str(tmp_path / "work"), "--task", "mine=folds"]
    data, tasks = sources(parser().parse_args([*given, "--corpus", str(corpus)]))
    assert data == tmp_path / "work" / "voices" and list(tasks) == ["esc10", "fsdd", "mine"]
    assert sources(parser().parse_args([*given, "--data", "clips"])) == (Path("clips"), {"mine": Path("folds")})
    for wrong in ([], ["--corpus", str(corpus), "--data", "clips"], ["--data", "clips", "--task", "=folds"]):
        with pytest.raises(ConfigError, match=r"give --corpus FOLDER, or --data|needs a --task NAME=FOLDER"):
            sources(parser().parse_args([*given, *wrong]))


def test_what_cannot_be_unpacked_is_named(corpus: Path, tmp_path: Path) -> None:
    (corpus / "esc10.zip").write_bytes((corpus / "esc10.zip").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"esc10\.zip cannot be unpacked \(.*\); fetch it again"):
        prepare_corpus(corpus, tmp_path / "work")
    assert not (tmp_path / "work" / "esc10" / "done").exists()
    table = corpus / "esc10.csv"
    table.write_text(table.read_text().replace("fold", "part", 1))
    with pytest.raises(DataError, match=r"esc10\.csv has no column 'fold'"):
        prepare_corpus(corpus, tmp_path / "work")
    table.unlink()
    with pytest.raises(DataError, match=r"esc10\.csv"):
        prepare_corpus(corpus, tmp_path / "work")
