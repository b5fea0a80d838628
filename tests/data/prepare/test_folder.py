"""Folders of recordings: loose, a class a sub-folder, a table; and the division into splits."""

import json
import os
import subprocess
import sys
import tarfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from EAT.commands.prepare import main
from EAT.data.manifest import Manifest
from EAT.data.prepare import measure
from EAT.data.prepare.folder import divide
from EAT.errors import ConfigError

from ...recordings import hanging


def names(path):
    manifest = Manifest(path)
    return [manifest.name(i) for i in range(len(manifest))]


def test_real_clips_as_the_manifest_s_error_message_tells_users_to(clips, tmp_path):
    command = [sys.executable, "-m", "EAT.prepare", "folder", str(clips[0].parent), str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "124 clips listed, 124 found, 0 missing, 0 unreadable" in done.stdout and done.stderr == ""
    assert names(tmp_path / "data" / "train.tsv") == [clip.name for clip in clips]
    assert sorted(os.listdir(tmp_path / "data")) == ["normalization.json", "train.tsv"]
    assert json.loads((tmp_path / "data" / "normalization.json").read_text())["clips"] == 124


def test_a_table_of_real_clips(clips, tmp_path, labelled):
    table = clips[0].parents[1] / "clips.csv"
    command = ["folder", str(clips[0].parent), str(tmp_path), "--labels", str(table), "--label-column", "family"]
    assert main([*command, "--eval", "0.25", "--valid", "0.1", "--normalization-clips", "0"]) == 0
    splits = [labelled(tmp_path, split) for split in ("train", "valid", "eval")]
    assert sum(map(len, splits)) == len({name for split in splits for name in split}) == 124
    counts = [Counter(labels[0] for labels in split.values()) for split in splits]
    for family in {labels[0] for split in splits for labels in split.values()}:
        clips_of_it = sum(count[family] for count in counts)
        assert counts[2][family] == max(1, round(0.25 * clips_of_it)) and counts[0][family] >= 1


def test_sub_folders_are_classes(place, tmp_path, labelled):
    for name in ("Dogs, barking/a.wav", "Dogs, barking/deep/b.flac", "cat/é 1.ogg", "cat/b.wav", "cat/.hidden.wav"):
        place(tmp_path / "audio" / name)
    (tmp_path / "audio" / "cat" / "notes.txt").write_text("no audio")
    data = tmp_path / "data"
    assert main(["folder", str(tmp_path / "audio"), str(data), "--eval", "0.5", "--num-workers", "1"]) == 0
    both = labelled(data, "train") | labelled(data, "eval")
    assert both == {
        "Dogs, barking/a.wav": ["Dogs_ barking"],
        "Dogs, barking/deep/b.flac": ["Dogs_ barking"],
        "cat/é 1.ogg": ["cat"],
        "cat/b.wav": ["cat"],
    }
    assert len(labelled(data, "eval")) == 2
    assert (data / "label_descriptors.csv").read_text() == '0,Dogs_ barking,"Dogs, barking"\n1,cat,cat\n'


def test_several_labels_a_clip(place, tmp_path, labelled):
    for name in ("a.wav", "b.wav", "c.wav"):
        place(tmp_path / "audio" / name)
    table = tmp_path / "table.csv"
    table.write_text('fname,labels\na.wav,"Bark,Dog"\nb.wav,Dog\nc.wav,"=HYPERLINK(""x""),Dog"\n')
    command = ["folder", str(tmp_path / "audio"), str(tmp_path), "--labels", str(table), "--file-column", "fname"]
    command += ["--label-column", "labels", "--label-separator", ",", "--eval", "0", "--num-workers", "1"]
    assert main(command) == 0
    assert labelled(tmp_path, "train") == {
        "a.wav": ["Bark", "Dog"],
        "b.wav": ["Dog"],
        "c.wav": ['=HYPERLINK("x")', "Dog"],
    }


def test_what_cannot_be_read_is_named_and_the_rest_done(place, tmp_path, capsys):
    audio = tmp_path / "audio"
    place(audio / "good.wav")
    (audio / "broken.flac").write_bytes(b"fLaC nothing")
    (audio / "line\nbreak.wav").write_bytes(place(audio / "x.wav").read_bytes())
    (audio / os.fsdecode(b"latin\xe9.wav")).write_bytes((audio / "x.wav").read_bytes())
    assert main(["folder", str(audio), str(tmp_path / "data"), "--num-workers", "1"]) == 1
    printed = capsys.readouterr()
    assert "broken.flac is not audio" in printed.err
    assert "'line\\nbreak.wav' has a name that a manifest cannot hold" in printed.err
    assert "'latin\\udce9.wav' has a name" in printed.err
    assert "5 clips listed, 5 found, 0 missing, 3 unreadable" in printed.out
    assert names(tmp_path / "data" / "train.tsv") == ["good.wav", "x.wav"]


def test_nothing_of_an_earlier_run_stays(place, tmp_path, capsys):
    for name in ("dog/a.wav", "dog/b.wav", "cat/c.wav", "cat/d.wav"):
        place(tmp_path / "audio" / name)
    data = tmp_path / "data"
    assert main(["folder", str(tmp_path / "audio"), str(data), "--num-workers", "1"]) == 0
    assert main(["folder", str(tmp_path / "audio"), str(data), "--unlabelled", "--normalization-clips", "0"]) == 0
    assert "eval: an earlier manifest was removed" in capsys.readouterr().out
    assert sorted(os.listdir(data)) == ["label_descriptors.csv", "train.tsv"]
    assert len(names(data / "train.tsv")) == 4


def test_a_link_back_to_a_folder_is_followed_once(place, tmp_path):
    place(tmp_path / "audio" / "sub" / "a.wav")
    (tmp_path / "audio" / "sub" / "back").symlink_to(tmp_path / "audio")
    place(tmp_path / "elsewhere" / "b.wav")
    (tmp_path / "audio" / "linked").symlink_to(tmp_path / "elsewhere")
    assert main(["folder", str(tmp_path / "audio"), str(tmp_path / "data"), "--unlabelled", "--num-workers", "1"]) == 0
    assert names(tmp_path / "data" / "train.tsv") == ["linked/b.wav", "sub/a.wav"]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name,label\na.wav,x\n", "has no column 'file'; its first line names 'name, label'"),
        ("file,label\na.wav,\n", "line 2 of .* has nothing in the column 'label'"),
        ("file,label\n../a.wav,x\n", "paths must be relative"),
        ("file,label\na.wav,x\na.wav,y\n", "lists a.wav more than once"),
        ("file,label\nb.wav,x\n", "none of the 1 recordings"),
    ],
)
def test_unusable_tables(place, tmp_path, table, words, capsys):
    import re

    place(tmp_path / "audio" / "a.wav")
    (tmp_path / "table.csv").write_text(table)
    assert main(["folder", str(tmp_path / "audio"), str(tmp_path), "--labels", str(tmp_path / "table.csv")]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_unusable_folders(place, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["folder", str(tmp_path / "empty"), str(tmp_path / "data")]) == 2
    assert "holds no recordings" in capsys.readouterr().err
    place(tmp_path / "mixed" / "loose.wav")
    place(tmp_path / "mixed" / "dog" / "a.wav")
    assert main(["folder", str(tmp_path / "mixed"), str(tmp_path / "data")]) == 2
    assert "loose.wav and 0 more recordings" in capsys.readouterr().err
    assert main(["folder", str(tmp_path / "mixed"), str(tmp_path / "data"), "--unlabelled", "--eval", "1"]) == 2
    assert "add up to less than 1" in capsys.readouterr().err


@given(st.lists(st.sampled_from("abcdefg"), min_size=1), st.floats(0, 0.6), st.floats(0, 0.39), st.integers(0, 5))
def test_division(classes, eval_share, valid_share, seed):
    splits = divide(classes, eval_share, valid_share, seed)
    again = divide(classes, eval_share, valid_share, seed)
    assert {k: v.tolist() for k, v in splits.items()} == {k: v.tolist() for k, v in again.items()}
    assert sorted(index for split in splits.values() for index in split) == list(range(len(classes)))
    assert {classes[index] for index in splits["train"]} == set(classes)
    held = Counter(classes[index] for index in splits.get("eval", []))
    for name, count in Counter(classes).items():
        wanted = max(1, round(eval_share * count)) if eval_share else 0
        assert held[name] == min(wanted, count - 1)


def test_division_depends_on_the_seed_and_shares_must_leave_something():
    classes = ["a"] * 50 + ["b"] * 50
    assert divide(classes, 0.2, 0, 1)["eval"].tolist() != divide(classes, 0.2, 0, 2)["eval"].tolist()
    with pytest.raises(ConfigError, match="less than 1"):
        divide(classes, 0.6, 0.4, 1)


def test_what_is_no_file_or_cannot_be_opened_is_named(place, tmp_path, capsys, monkeypatch):
    """A pipe, a link that leads round, and a file that hangs as on a disk that went away."""
    audio = tmp_path / "audio"
    place(audio / "good.wav")
    os.mkfifo(audio / "pipe.wav")
    (audio / "round.wav").symlink_to("round.wav")
    monkeypatch.setattr(measure, "READ_SECONDS", 0.5)
    with hanging(audio / "hangs.wav"):
        assert main(["folder", str(audio), str(tmp_path / "data"), "--unlabelled", "--num-workers", "0"]) == 1
    printed = capsys.readouterr()
    for words in ("pipe.wav is a pipe", "round.wav does not exist", "hangs.wav could not be read within 0.5 s"):
        assert printed.err.count(words) == 1
    assert names(tmp_path / "data" / "train.tsv") == ["good.wav"]


def test_members_of_shards_are_labelled_as_files_are(clips, tmp_path, labelled):
    (tmp_path / "shards").mkdir()
    for number in range(3):
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as tar:
            for clip in clips[4 * number : 4 * number + 4]:
                tar.add(clip, f"{clip.stem.split('_')[0]}/{clip.name}")
    wanted = {clip.name: [clip.stem.split("_")[0]] for clip in clips[:12]}
    table = tmp_path / "table.csv"
    rows = [f"{labels[0]}/{name},{labels[0]}\n" for name, labels in wanted.items()]
    table.write_text("file,label\n" + "".join(rows))
    for more in ([], ["--labels", str(table)]):
        data = tmp_path / f"data{len(more)}"
        command = ["folder", str(tmp_path / "shards"), str(data), "--eval", "0.5", "--normalization-clips", "0"]
        assert main([*command, *more]) == 0
        found = labelled(data, "train") | labelled(data, "eval")
        assert {name.rpartition("/")[2]: labels for name, labels in found.items()} == wanted
    table.write_text(table.read_text() + "ambi/none.flac,ambi\n")
    assert main([*command, *more]) == 1
