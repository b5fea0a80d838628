"""AudioSet laid out as it is downloaded: names of clips, packs, missing and broken clips, weights."""

import h5py
import numpy as np
import pytest
import soundfile

from EAT.audio.recordings import read_audio
from EAT.commands.prepare import main
from EAT.data.manifest import Manifest
from EAT.data.prepare.audioset import parse_clip_name

CLASSES = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/04rlf,"Music"\n2,/m/03fwl,"Goat, bleating"\n'
TRAIN = """# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=6, num_segs=6, num_unique_labels=3, num_positive_labels=9
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/m/04rlf"
__Z_evVpy1s, 50.000, 60.000, "/m/04rlf"
Yabcdefghij, 0.000, 10.000, "/m/03fwl,/m/04rlf,/m/09x0r"
-aE2O5G5WE_, 22.500, 32.500, "/m/09x0r"
0123456789a, 10.000, 20.000, "/m/09x0r"
missing0000, 10.000, 20.000, "/m/04rlf"
"""
EVAL = '# a\n# b\n# c\n--4gqARaEJE, 0.000, 10.000, "/m/03fwl"\nbroken00000, 20.000, 30.000, "/m/09x0r"\n'


@pytest.fixture
def download(tmp_path, place):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "class_labels_indices.csv").write_text(CLASSES)
    (lists / "balanced_train_segments.csv").write_text(TRAIN)
    (lists / "eval_segments.csv").write_text(EVAL)
    audio = tmp_path / "audio"
    place(audio / "train" / "Y--PJHxphWEs.wav")
    place(audio / "train" / "__Z_evVpy1s.flac")
    place(audio / "train" / "part 2" / "Yabcdefghij_0.000_10.000.wav")
    place(audio / "train" / "-aE2O5G5WE__22500_32500.flac")
    place(audio / "train" / "0123456789a_200_210.wav")  # another excerpt of a listed video
    place(audio / "train" / "notlisted00.wav")
    place(audio / "train" / "README.wav")
    place(audio / "eval" / "--4gqARaEJE_0.WAV")
    (audio / "eval" / "broken00000.wav").write_bytes(b"RIFF no audio")
    return tmp_path


def arguments(download, *more):
    lists = download / "lists"
    return [
        *("audioset", str(download / "audio"), str(download / "data")),
        *("--train-segments", str(lists / "balanced_train_segments.csv")),
        *("--eval-segments", str(lists / "eval_segments.csv"), "--num-workers", "1", *more),
    ]


def test_official_layout(download, labelled, capsys):
    assert main(arguments(download)) == 1  # because of the broken clip
    printed = capsys.readouterr()
    assert "train: 6 clips listed, 4 found, 2 missing, 0 unreadable" in printed.out
    assert "eval: 2 clips listed, 2 found, 0 missing, 1 unreadable" in printed.out
    assert "broken00000.wav is not audio" in printed.err
    data = download / "data"
    assert labelled(data, "train") == {
        "train/Y--PJHxphWEs.wav": ["/m/09x0r", "/m/04rlf"],
        "train/__Z_evVpy1s.flac": ["/m/04rlf"],
        "train/part 2/Yabcdefghij_0.000_10.000.wav": ["/m/03fwl", "/m/04rlf", "/m/09x0r"],
        "train/-aE2O5G5WE__22500_32500.flac": ["/m/09x0r"],
    }
    assert labelled(data, "eval") == {"eval/--4gqARaEJE_0.WAV": ["/m/03fwl"]}
    assert [line.split("\t")[0] for line in (data / "train.lbl").read_text().splitlines()] == [
        "--PJHxphWEs",
        "__Z_evVpy1s",
        "Yabcdefghij",
        "-aE2O5G5WE_",
    ]
    assert (data / "train.missing").read_text() == "0123456789a\nmissing0000\n"
    manifest = Manifest(data / "train.tsv")
    assert [manifest.samples(i) for i in range(4)] == [soundfile.info(manifest.source(i)).frames for i in range(4)]
    # Speech and Music have three clips each, Goat one; a clip's weight is the sum of 1000 / (count + 0.01).
    three, one = 1000 / 3.01, 1000 / 1.01
    weights = [float(line) for line in (data / "weights").read_text().splitlines()]
    assert weights == pytest.approx([2 * three, three, 2 * three + one, three])


def test_packs_and_a_folder_of_its_own_for_evaluation(download, labelled):
    with h5py.File(download / "audio" / "pack.h5", "w") as pack:
        pack["0123456789a"] = (np.random.default_rng(0).normal(size=32000) * 3000).astype(np.int16)
        pack["sub/Ymissing0000.wav"] = np.random.default_rng(1).normal(size=6400).astype(np.float32)
    (download / "audio" / "eval").rename(download / "eval clips")
    assert main(arguments(download, "--eval-audio", str(download / "eval clips"))) == 1
    train = labelled(download / "data", "train")
    assert train["pack.h5/0123456789a"] == ["/m/09x0r"] and train["pack.h5/sub/Ymissing0000.wav"] == ["/m/04rlf"]
    assert list(labelled(download / "data", "eval")) == ["--4gqARaEJE_0.WAV"]
    manifest = Manifest(download / "data" / "train.tsv")
    place = [manifest.name(i) for i in range(len(manifest))].index("pack.h5/0123456789a")
    assert manifest.samples(place) == 32000 and len(read_audio(manifest.source(place))) == 16000


def test_a_broken_pack_is_named_and_the_rest_is_done(download, capsys, labelled):
    (download / "audio" / "eval" / "broken00000.wav").unlink()
    (download / "audio" / "pack.hdf5").write_bytes(b"no pack")
    assert main(arguments(download)) == 1
    assert "pack.hdf5 cannot be opened as an HDF5 file" in capsys.readouterr().err
    assert len(labelled(download / "data", "train")) == 4


def test_lengths_can_be_assumed(download):
    assert main(arguments(download, "--assume-samples", "160000", "--normalization-clips", "0")) == 0
    assert {line.split("\t")[1] for line in (download / "data" / "eval.tsv").read_text().splitlines()[1:]} == {"160000"}
    assert not (download / "data" / "normalization.json").exists()


def test_repeated_rows_count_once(download, capsys, labelled):
    lists = download / "lists"
    assert main([*arguments(download), "--train-segments", *[str(lists / "balanced_train_segments.csv")] * 2]) == 1
    assert "train: 6 rows repeat a clip" in capsys.readouterr().out
    assert len(labelled(download / "data", "train")) == 4


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("Y--PJHxphWEs.wav", ("--PJHxphWEs", None)),
        ("a/b/Yabcdefghij.flac", ("Yabcdefghij", None)),
        ("YYabcdefghij.flac", ("Yabcdefghij", None)),
        ("Yabcdefghij_30_40.wav", ("Yabcdefghij", "30")),
        ("YYabcdefghij_30.000_40.000.wav", ("Yabcdefghij", "30.000")),
        ("abcdefghij__30000_40000.mp3", ("abcdefghij_", "30000")),
        ("Yabcdefghij__30.wav", ("abcdefghij_", "30")),
        ("pack.h5/abc.efghijk", None),
        ("pack.h5/Y--PJHxphWEs.wav", ("--PJHxphWEs", None)),
        ("too-short.wav", None),
        ("abcdefghijklmno.wav", None),
    ],
)
def test_clip_names(name, clip):
    assert parse_clip_name(name) == clip


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# c\n", "list no clips"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/none"\n', "line 1 of .* has the label '/m/none', which is not in the class"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/04rlf"\nabc, x, y\n', "line 2 of .* must be YTID, start, end"),
        ('--PJHxphWEs, 30.000, 40.000, "/m/04rlf"\nabc, 1, 2, ""\n', "line 2 of .* must be YTID, start, end"),
    ],
)
def test_unusable_segment_lists(download, content, words, capsys):
    import re

    (download / "lists" / "balanced_train_segments.csv").write_text(content)
    assert main(arguments(download)) == 2
    assert re.search(words, capsys.readouterr().err)
    assert not (download / "data").exists()


def test_unusable_arguments(download, capsys):
    assert main(["audioset", str(download / "audio"), str(download / "data")]) == 2
    assert "give --train-segments" in capsys.readouterr().err
    (download / "lists" / "class_labels_indices.csv").rename(download / "classes.csv")
    assert main(arguments(download)) == 2
    assert "give the class list with --labels" in capsys.readouterr().err
    assert main(arguments(download, "--labels", str(download / "classes.csv"), "--assume-samples", "0")) == 2
    assert "--assume-samples is 0" in capsys.readouterr().err
