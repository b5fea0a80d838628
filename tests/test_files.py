"""Files that are written whole or not at all."""

import os
import threading

import pytest

from EAT.errors import DataError
from EAT.files import exclusive, replacing


def test_a_file_is_replaced_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    for text in ("first\r\n", "é\n"):
        with replacing(path) as handle:
            handle.write(text)
            assert not path.exists() or path.read_bytes() == b"first\r\n"
        assert path.read_bytes() == text.encode()
    assert os.listdir(path.parent) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), replacing(path, "wb") as handle:
        handle.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/a\.txt cannot be written"), replacing(tmp_path / "file" / "a.txt"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="folder cannot be written"), replacing(tmp_path / "folder") as handle:
        handle.write("x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_names_as_long_as_a_file_system_takes(tmp_path):
    for name in ("a" * 255, "é" * 127):
        with replacing(tmp_path / name) as handle:
            handle.write("x")
        assert (tmp_path / name).read_text() == "x"
    with pytest.raises(DataError, match="File name too long"), replacing(tmp_path / ("a" * 256)):
        pass
    assert len(os.listdir(tmp_path)) == 2


def test_one_at_a_time(tmp_path):
    """Eight threads that take turns: never two inside, and nothing is left."""
    inside, turns, most = [], [], []

    def work():
        while len(turns) < 200:
            try:
                with exclusive(tmp_path / "new" / "parts", "busy"):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    turns.append(1)
            except DataError as error:
                assert str(error) == "busy"

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(most) == 1 and len(turns) >= 200
    assert os.listdir(tmp_path / "new") == []
