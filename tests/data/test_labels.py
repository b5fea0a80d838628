"""Label descriptors and label files: AudioSet's own layout, hostile names, and every refusal."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from EAT.data.labels import Label, label_names, read_descriptors, read_lbl, write_descriptors, write_lbl
from EAT.data.manifest import Manifest
from EAT.errors import DataError

AUDIOSET = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n2,/t/dd00,"Go"\n'


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na.wav\t160\nb c.wav\t320\n")
    return Manifest(tmp_path / "train.tsv")


@pytest.fixture
def labels():
    return [Label(0, "/m/09x0r", "Speech"), Label(1, "/m/05zppz", "Male speech, man speaking")]


def test_audioset_class_list(tmp_path):
    path = tmp_path / "class_labels_indices.csv"
    path.write_text(AUDIOSET)
    assert read_descriptors(path) == [
        (0, "/m/09x0r", "Speech"),
        (1, "/m/05zppz", "Male speech, man speaking"),
        (2, "/t/dd00", "Go"),
    ]


def test_without_header_or_display_and_in_any_order(tmp_path):
    path = tmp_path / "label_descriptors.csv"
    path.write_bytes(b"\xef\xbb\xbf1,dog\r\n\r\n0,cat,A cat\r\n")
    assert read_descriptors(path) == [Label(0, "cat", "A cat"), Label(1, "dog", "dog")]


def test_white_space_of_any_kind_around_a_class_number(tmp_path):
    path = tmp_path / "label_descriptors.csv"
    path.write_text("0\x1f\x1f,cat\n 1\t,dog\n")
    assert [label.name for label in read_descriptors(path)] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "hold no labels"),
        ("index,mid\n", "hold no labels"),
        ("0,a\n2,b\n", "none with index 1"),
        ("0,a\n0,b\n", "row 2 .* index 0 of an earlier row"),
        ("0,a\n1,a\n", "row 2 .* label 'a' of an earlier row"),
        ("0,a\nb\n", "row 2 .* index,label"),
        ("0,a\nx,b\n", "row 2 .* index,label"),
        ("0,a\n1,\n", "row 2 .* index,label"),
        ("0,a\n\u0661,b\n", "row 2 .* index,label"),
        (f"0,a\n{'1' * 5000},b\n", "row 2 .* index,label"),
    ],
)
def test_unusable_descriptors(tmp_path, content, words):
    path = tmp_path / "label_descriptors.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=words):
        read_descriptors(path)


def test_missing_and_binary_descriptors(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_descriptors(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a CSV table in UTF-8"):
        read_descriptors(tmp_path / "binary.csv")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1), min_size=1))
def test_any_class_name_survives_the_table_and_the_label_file(displays):
    import tempfile
    from pathlib import Path

    labels = label_names(displays)
    assert len({label.name for label in labels}) == len(labels)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_descriptors(folder / "label_descriptors.csv", labels)
        with open(folder / "label_descriptors.csv", encoding="utf-8", newline="") as handle:
            assert [row[2] for row in csv.reader(handle)] == displays
        read = read_descriptors(folder / "label_descriptors.csv")
        (folder / "train.tsv").write_text("\n".join([name, *(f"{i}.wav\t160" for i in range(len(labels)))]))
        write_lbl(folder / "train.lbl", [(str(label.index), [label.name]) for label in read])
        clips = read_lbl(folder / "train.lbl", Manifest(folder / "train.tsv"), read)
    assert clips == [[index] for index in range(len(labels))]


def test_label_file(tmp_path, manifest, labels):
    (tmp_path / "train.lbl").write_bytes(b"a\t/m/05zppz,/m/09x0r,/m/05zppz\r\nb\tc\t/m/09x0r\r\n\n")
    assert read_lbl(tmp_path / "train.lbl", manifest, labels) == [[1, 0], [0]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\t/m/09x0r\nb\t/m/none\n", r"line 2 of .*train.lbl has the label '/m/none', which is not in"),
        ("a\t\nb\t/m/09x0r\n", r"line 1 of .*train.lbl gives 'a' no label"),
        ("a\t/m/09x0r\nb\n", r"line 2 of .*train.lbl gives 'b' no label"),
        ("a\t/m/09x0r\n/m/09x0r\n", "line 2 of .*train.lbl gives '/m/09x0r' no label"),
        ("a\t,\nb\t/m/09x0r\n", "line 1 of .*train.lbl gives 'a' no label"),
        ("a\t/m/09x0r\n", r"has 1 clips, but the manifest .*train.tsv has 2"),
        ("a\t/m/09x0r\n" * 3, r"has 3 clips, but the manifest .*train.tsv has 2"),
    ],
)
def test_unusable_label_files(tmp_path, manifest, labels, content, words):
    (tmp_path / "train.lbl").write_text(content)
    with pytest.raises(DataError, match=words):
        read_lbl(tmp_path / "train.lbl", manifest, labels)


def test_missing_label_file(tmp_path, manifest, labels):
    with pytest.raises(DataError, match="cannot be read"):
        read_lbl(tmp_path / "train.lbl", manifest, labels)


@pytest.mark.parametrize(
    ("ids", "refused"),
    [
        (["a.wav", "b c.wav"], None),
        (["a", "b c"], None),
        (["sub/a", "b c"], None),  # the path of no clip
        (["b c.wav", "a.wav"], 0),
        (["a", "a"], 1),
        (["x1", "a"], 1),
        (["-id_0_10", "other"], None),
    ],
)
def test_labels_in_another_order_than_the_clips(tmp_path, manifest, labels, caplog, ids, refused):
    (tmp_path / "train.lbl").write_text("\n" + "".join(f"{clip}\t/m/09x0r\n" for clip in ids))
    with caplog.at_level("INFO", "EAT"):
        if refused is None:
            assert read_lbl(tmp_path / "train.lbl", manifest, labels) == [[0], [0]]
        else:
            with pytest.raises(
                DataError, match=f"line {refused + 2} of the label file .* is of the clip '{ids[refused]}'"
            ):
                read_lbl(tmp_path / "train.lbl", manifest, labels)
    strange = {"-id_0_10": "2 of 2", "sub/a": "1 of 2"}.get(ids[0])
    assert (strange is None) == ("were not compared" not in caplog.text)
    assert strange is None or f"{strange} clip ids" in caplog.text
