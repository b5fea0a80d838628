"""Speech Commands' archive in miniature, with all its words."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from EAT.commands.prepare import main
from EAT.data.labels import read_descriptors

WORDS = [
    "backward",
    "bed",
    "bird",
    "cat",
    "dog",
    "down",
    "eight",
    "five",
    "follow",
    "forward",
    "four",
    "go",
    "happy",
    "house",
    "learn",
    "left",
    "marvin",
    "nine",
    "no",
    "off",
    "on",
    "one",
    "right",
    "seven",
    "sheila",
    "six",
    "stop",
    "three",
    "tree",
    "two",
    "up",
    "visual",
    "wow",
    "yes",
    "zero",
]


@pytest.fixture
def archive(tmp_path, place):
    root = tmp_path / "speech_commands_v0.02"
    for word in WORDS:
        for clip in ("00176480_nohash_0", "004ae714_nohash_0", "00f0204f_nohash_1"):
            place(root / word / f"{clip}.wav")
    place(root / "_background_noise_" / "white_noise.wav")
    (root / "validation_list.txt").write_text("".join(f"{word}/004ae714_nohash_0.wav\n" for word in WORDS))
    (root / "testing_list.txt").write_text("".join(f"{word}/00f0204f_nohash_1.wav\n" for word in WORDS))
    (root / "README.md").write_text("text")
    return root


def test_official_lists(archive, tmp_path, labelled, capsys):
    data = tmp_path / "data"
    assert main(["speech_commands", str(archive), str(data), "--normalization-clips", "20"]) == 0
    assert "words; version 2" not in capsys.readouterr().out
    clip = {"train": "00176480_nohash_0", "valid": "004ae714_nohash_0", "eval": "00f0204f_nohash_1"}
    for split, name in clip.items():
        assert labelled(data, split) == {f"{word}/{name}.wav": [word] for word in WORDS}
    assert json.loads((data / "normalization.json").read_text())["clips"] == 20


def test_a_listed_clip_that_is_missing(archive, tmp_path, capsys):
    (archive / "bed" / "00f0204f_nohash_1.wav").unlink()
    assert main(["speech_commands", str(archive), str(tmp_path / "data"), "--normalization-clips", "0"]) == 1
    printed = capsys.readouterr()
    assert "bed/00f0204f_nohash_1.wav is listed in testing_list.txt but does not exist" in printed.err
    assert "eval: 35 clips listed, 34 found, 1 missing, 0 unreadable" in printed.out


def test_unusable_archives(archive, tmp_path, capsys):
    (archive / "testing_list.txt").write_text("hello/a.wav\n")
    assert main(["speech_commands", str(archive), str(tmp_path / "data")]) == 2
    assert "the official lists name hello/a.wav" in capsys.readouterr().err
    (archive / "testing_list.txt").unlink()
    assert main(["speech_commands", str(archive), str(tmp_path / "data")]) == 2
    assert "testing_list.txt cannot be read" in capsys.readouterr().err
    assert main(["speech_commands", str(archive / "none"), str(tmp_path / "data")]) == 2
    assert "none is not a folder" in capsys.readouterr().err


def test_twelve_classes(archive, tmp_path, labelled):
    noise = np.arange(10 * 16000, dtype=np.int16)
    soundfile.write(archive / "_background_noise_" / "ramp.wav", noise, 16000)
    soundfile.write(archive / "_background_noise_" / "white_noise.wav", noise[: 16000 * 3 + 8000], 16000)
    data = tmp_path / "data"
    assert main(["speech_commands", str(archive), str(data), "--classes", "12", "--normalization-clips", "0"]) == 0
    descriptors = read_descriptors(data / "label_descriptors.csv")
    ten = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
    assert [label.name for label in descriptors] == [*ten, "unknown", "silence"]
    clip = {"train": "00176480_nohash_0", "valid": "004ae714_nohash_0", "eval": "00f0204f_nohash_1"}
    seconds = {"train": range(8), "valid": [8], "eval": [9]}
    for split, name in clip.items():
        found = labelled(data, split)
        words = {f"speech_commands_v0.02/{word}/{name}.wav": [word if word in ten else "unknown"] for word in WORDS}
        silence = {f"data/silence/{split}/ramp_{second:03d}.wav": ["silence"] for second in seconds[split]}
        other = {path: label for path, label in found.items() if "white_noise" in path}
        assert found == {**words, **silence, **other} and len(other) == {"train": 2, "valid": 1, "eval": 0}[split]
    cut, _ = soundfile.read(data / "silence" / "valid" / "ramp_008.wav", dtype="int16")
    assert np.array_equal(cut, noise[8 * 16000 : 9 * 16000])


def test_twelve_classes_without_background_recordings(archive, tmp_path, capsys):
    shutil.rmtree(archive / "_background_noise_")
    assert main(["speech_commands", str(archive), str(tmp_path / "data"), "--classes", "12"]) == 2
    assert "holds no recordings, of which silence is cut" in capsys.readouterr().err
