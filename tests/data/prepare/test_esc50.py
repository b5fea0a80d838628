"""ESC-50's repository in miniature."""

import json

import numpy as np
import pytest

from EAT.audio.recordings import read_audio
from EAT.commands.prepare import main

HEADER = "filename,fold,target,category,esc10,src_file,take\n"


@pytest.fixture
def repository(tmp_path, place):
    rows = []
    for fold in range(1, 6):
        for target, category in ((0, "dog"), (1, "chirping_birds"), (2, "vacuum_cleaner")):
            name = f"{fold}-{100 + target}-A-{target}.wav"
            place(tmp_path / "ESC-50-master" / "audio" / name)
            rows.append(f"{name},{fold},{target},{category},False,{100 + target},A\n")
    (tmp_path / "ESC-50-master" / "meta").mkdir()
    (tmp_path / "ESC-50-master" / "meta" / "esc50.csv").write_text(HEADER + "".join(reversed(rows)))
    return tmp_path / "ESC-50-master"


def test_five_folds(repository, tmp_path, labelled, capsys):
    from EAT.network.front_end import filterbank

    assert main(["esc50", str(repository), str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.count("15 clips listed") == 0
    everything = set()
    for fold in range(1, 6):
        data = tmp_path / "data" / f"fold{fold}"
        assert (data / "label_descriptors.csv").read_text().splitlines()[1] == "1,chirping_birds,chirping_birds"
        train, evaluation = labelled(data, "train"), labelled(data, "eval")
        assert all(name.startswith(f"{fold}-") for name in evaluation) and len(evaluation) == 3
        assert not any(name.startswith(f"{fold}-") for name in train) and len(train) == 12
        assert train | evaluation == {**train, **evaluation} and len(train | evaluation) == 15
        assert evaluation[f"{fold}-102-A-2.wav"] == ["vacuum_cleaner"]
        everything |= set(evaluation)
        # The constants, worked out in one go over all values of the training clips.
        values = [filterbank((w := read_audio(str(repository / "audio" / name))) - w.mean()).numpy() for name in train]
        values = np.concatenate([value.ravel() for value in values]).astype(np.float64)
        constants = json.loads((data / "normalization.json").read_text())
        assert constants == {"mean": pytest.approx(values.mean()), "std": pytest.approx(values.std()), "clips": 12}
    assert len(everything) == 15


def test_missing_and_broken_clips_are_named_and_the_rest_is_done(repository, tmp_path, labelled, capsys):
    (repository / "audio" / "1-100-A-0.wav").unlink()
    (repository / "audio" / "2-101-A-1.wav").write_bytes(b"")
    assert main(["esc50", str(repository), str(tmp_path / "data")]) == 1
    printed = capsys.readouterr()
    assert "1-100-A-0.wav is listed in" in printed.err and "2-101-A-1.wav is not audio" in printed.err
    assert "eval: 3 clips listed, 2 found, 1 missing, 0 unreadable" in printed.out
    assert len(labelled(tmp_path / "data" / "fold3", "train")) == 10


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("filename,fold\na.wav,1\n", "has no column 'target'"),
        (HEADER, "lists nothing"),
        (HEADER + "1-100-A-0.wav,6,0,dog\n", "into fold '6'"),
        (HEADER + "1-100-A-0.wav,1,x,dog\n", "class number 'x'"),
        (HEADER + "1-100-A-0.wav,1,0,dog\n2-100-A-0.wav,1,0,cat\n", "do not fit its other rows"),
        (HEADER + "1-100-A-0.wav,1,1,dog\n", "do not run from 0 to 0"),
        (HEADER + "1-100-A-0.wav,1,0\n", "nothing in the column 'category'"),
    ],
)
def test_unusable_tables(repository, tmp_path, table, words, capsys):
    (repository / "meta" / "esc50.csv").write_text(table)
    assert main(["esc50", str(repository), str(tmp_path / "data")]) == 2
    assert words in capsys.readouterr().err
