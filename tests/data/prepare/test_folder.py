"""Folders of recordings: loose, a class a sub-folder, a table; and the division into splits."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from EAT.commands.prepare import main
from EAT.data.manifest import Manifest
from EAT.data.prepare import measure
from EAT.data.prepare.division import cross_validation, divide, divide_groups
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
    table.write_text("file,label,take\n" + "".join(f"{row[:-1]},{number % 6}\n" for number, row in enumerate(rows)))
    assert main([*command, *more, "--group", "take"]) == 0
    take = {name: number % 6 for number, name in enumerate(wanted)}
    splits = [labelled(data, split) for split in ("train", "eval")]
    heard = [{take[name.rpartition("/")[2]] for name in split} for split in splits]
    assert [len(split) for split in splits] == [6, 6] and not heard[0] & heard[1]
    table.write_text(table.read_text() + "ambi/none.flac,ambi,0\n")
    assert main([*command, *more]) == 1


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize(
    "option, text",
    [
        (["--label-member", "cls"], lambda name: f"{name}\n"),
        (["--label-member", "txt", "--label-separator", ","], lambda name: f"{name}, any"),
        (["--label-member", "json:tags"], lambda name: json.dumps({"id": 3, "tags": [name, "any"]})),
        (["--label-member", "json:class"], lambda name: json.dumps({"class": len(name)})),
    ],
)
def test_labels_beside_recordings_in_tars(clips, tmp_path, labelled, option, text):
    """The same keys in two tars; labels before and behind their recordings."""
    (tmp_path / "shards").mkdir()
    wanted = []
    for number in range(2):
        members = []
        for key, clip in enumerate(clips[4 * number : 4 * number + 4]):
            name = clip.stem.split("_")[0]
            label = f"{key:06}.{option[1].partition(':')[0]}", text(name).encode()
            both = [(f"{key:06}.flac", clip.read_bytes()), label]
            members += both[:: 1 if key % 2 else -1]
            wanted.append([str(len(name))] if "class" in option[1] else [name, "any"] if "any" in text("") else [name])
        write_tar(tmp_path / "shards" / f"{number}.tar", members)
    data = tmp_path / "data"
    command = ["folder", str(tmp_path / "shards"), str(data), "--eval", "0.5", "--normalization-clips", "0", *option]
    assert main([*command, "--num-workers", "0"]) == 0
    found = labelled(data, "train") | labelled(data, "eval")
    assert [labels for _, labels in sorted(found.items())] == wanted


@pytest.mark.parametrize(
    "option, more, sentence",
    [
        ("cls", [], r"a\.tar has no 1\.cls beside 1\.flac"),
        ("cls", [("1.cls", b" \n")], r"1\.cls in \S+a\.tar gives 1\.flac no label\."),
        ("json:tag", [("1.json", b'{"tags": []}')], r"1\.json in \S+a\.tar gives 1\.flac no label under 'tag'"),
        ("json:tag", [("1.json", b'{"tag": {"a": 1}}')], r"gives 1\.flac no label under 'tag'"),
        ("json:tag", [("1.json", b"no json")], r"gives 1\.flac no label under 'tag'"),
        ("cls", [("1.cls", bytes(1 << 17))], r"1\.cls in \S+a\.tar has 131,072 bytes and is no label"),
        ("cls", [("1.cls", b"\xff\xfe")], r"1\.cls in \S+a\.tar is no text in UTF-8"),
    ],
)
def test_a_recording_in_a_tar_without_its_label_is_named(clips, tmp_path, capsys, option, more, sentence):
    write_tar(tmp_path / "a.tar", [("1.flac", clips[0].read_bytes()), *more])
    command = ["folder", str(tmp_path), str(tmp_path / "data"), "--num-workers", "0", "--label-member", option]
    assert main(command) == 2
    assert re.search(sentence, capsys.readouterr().err) and not (tmp_path / "data").exists()


def test_files_have_no_members_beside_them(place, tmp_path, capsys):
    place(tmp_path / "audio" / "a.wav")
    command = ["folder", str(tmp_path / "audio"), str(tmp_path / "data"), "--label-member", "cls"]
    assert main(command) == 2
    assert "--label-member is for recordings in tars, and" in capsys.readouterr().err


def speakers(several: int = 10, each: int = 3) -> tuple[list[str], list[str]]:
    """Classes and groups of clips: every speaker says both words as often."""
    pairs = [(word, f"s{speaker}") for speaker in range(several) for word in ("yes", "no") for _ in range(each)]
    return [word for word, _ in pairs], [speaker for _, speaker in pairs]


def test_groups_stay_together_and_classes_in_proportion():
    classes, groups = speakers()
    splits = divide_groups(classes, groups, 0.2, 0.1, seed=3)
    assert {split: len(clips) for split, clips in splits.items()} == {"train": 42, "valid": 6, "eval": 12}
    assert np.array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(60))
    for clips in splits.values():
        assert Counter(classes[clip] for clip in clips) == {"yes": len(clips) // 2, "no": len(clips) // 2}
    heard = [{groups[clip] for clip in clips} for clips in splits.values()]
    assert sum(map(len, heard)) == 10  # no speaker in two
    again, other = divide_groups(classes, groups, 0.2, 0.1, seed=3), divide_groups(classes, groups, 0.2, 0.1, seed=4)
    assert all(np.array_equal(again[split], splits[split]) for split in splits)
    assert any(not np.array_equal(other[split], splits[split]) for split in splits)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 12)), min_size=30), st.integers(0, 5))
def test_no_group_is_in_two_splits(clips, seed):
    classes, groups = [name for name, _ in clips], [str(group) for _, group in clips]
    try:
        divided = [divide_groups(classes, groups, 0.3, 0.2, seed), *cross_validation(classes, groups, 3, 0.3, seed)]
    except ConfigError as error:
        assert re.search("too few for|do not allow 3 folds", str(error))
        return
    for splits in divided:
        assert sorted(clip for split in splits.values() for clip in split) == list(range(len(clips)))
        assert min(map(len, splits.values())) > 0 and set(splits) == {"train", "valid", "eval"}
        heard = [{groups[clip] for clip in split} for split in splits.values()]
        assert sum(map(len, heard)) == len(set(groups))
    assert sorted(clip for splits in divided[1:] for clip in splits["eval"]) == list(range(len(clips)))


def test_too_few_groups_and_clips_are_said():
    classes, groups = speakers(2)
    with pytest.raises(ConfigError, match="2 groups are too few for the splits wanted"):
        divide_groups(classes, groups, 0.3, 0.3, 1)
    with pytest.raises(ConfigError, match="2 groups are too few for 3 folds"):
        cross_validation(classes, groups, 3, 0, 1)
    with pytest.raises(ConfigError, match="no class has more than 6 clips, too few for 7 parts"):
        cross_validation(classes, None, 7, 0, 1)
    with pytest.raises(ConfigError, match="--folds is 1; it must be at least 2"):
        cross_validation(classes, None, 1, 0, 1)


def test_folds_without_groups_hold_every_class_as_evenly_as_can_be():
    classes = ["a"] * 25 + ["b"] * 10 + ["c"] * 5
    for splits in cross_validation(classes, None, 5, 0.2, 1):
        assert Counter(classes[clip] for clip in splits["eval"]) == {"a": 5, "b": 2, "c": 1}
        assert Counter(classes[clip] for clip in splits["valid"]) == {"a": 4, "b": 2, "c": 1}


def test_folds_of_real_clips_with_groups_from_the_paths(place, tmp_path, labelled, capsys):
    for speaker in "uvwxyz":
        for name in ("dog", "cat"):
            for take in "12":
                place(tmp_path / "audio" / name / f"{speaker}_{take}.flac")
    (tmp_path / "audio" / "cat" / "u_3.flac").write_bytes(b"fLaC nothing")
    data = tmp_path / "data"
    command = ["folder", str(tmp_path / "audio"), str(data), "--group-pattern", r"/(\w)_", "--num-workers", "1"]
    assert main([*command, "--folds", "4", "--normalization-clips", "0"]) == 1
    assert main([*command, "--folds", "3", "--valid", "0.25", "--normalization-seconds", "0.2"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("0 missing, 1 unreadable; ") == 4 + 3  # in every fold's training clips
    assert not (data / "fold4" / "train.tsv").exists()
    held = []
    for number in (1, 2, 3):
        splits = {split: labelled(data / f"fold{number}", split) for split in ("train", "valid", "eval")}
        assert sum(map(len, splits.values())) == 24 == len({path for clips in splits.values() for path in clips})
        heard = {split: {path[4] for path in clips} for split, clips in splits.items()}
        assert sum(map(len, heard.values())) == 6 and len(heard["eval"]) == 2
        assert all(
            Counter(labels[0] for labels in clips.values())["dog"] * 2 == len(clips) for clips in splits.values()
        )
        assert (data / f"fold{number}" / "normalization.json").exists()
        held += splits["eval"]
    assert len(set(held)) == 24


def test_groups_of_a_table(clips, tmp_path, labelled, capsys):
    table = tmp_path / "table.csv"
    rows = [f"{clip.name},{'even' if number % 2 else 'odd'},s{number // 10}\n" for number, clip in enumerate(clips)]
    table.write_text("file,label,speaker\n" + "".join(rows))
    command = ["folder", str(clips[0].parent), str(tmp_path / "data"), "--normalization-clips", "0"]
    assert main([*command, "--labels", str(table), "--group", "speaker", "--eval", "0.25"]) == 0
    splits = [labelled(tmp_path / "data", split) for split in ("train", "eval")]
    speaker = {clip.name: number // 10 for number, clip in enumerate(clips)}
    heard = [{speaker[name] for name in split} for split in splits]
    assert len(heard[0]) + len(heard[1]) == 13 and len(splits[0]) + len(splits[1]) == 124
    assert 0.15 < len(splits[1]) / 124 < 0.35
    assert main([*command, "--group", "speaker"]) == 2
    assert main([*command, "--labels", str(table), "--group", "singer"]) == 2
    assert main([*command, "--group-pattern", "nowhere"]) == 2
    assert main([*command, "--group-pattern", "("]) == 2
    said = capsys.readouterr().err
    for words in ("--group names a column of the table --labels", "has no column 'singer'", "is not found in",
                  "is no regular expression"):  # fmt: skip
        assert words in said
