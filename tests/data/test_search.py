"""Searching folders and packs."""

import h5py
import pytest

from EAT.audio.recordings import read_audio
from EAT.data.search import find_files, read_pack_keys
from EAT.errors import DataError


def test_suffixes_in_any_case_and_hidden_names(tmp_path):
    for name in ("a.wav", "b.FLAC", "c.txt", ".d.wav", ".git/e.wav", "sub/f g.Mp3", "sub.wav/h.ogg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(find_files(str(tmp_path))) == ["a.wav", "b.FLAC", "sub.wav/h.ogg", "sub/f g.Mp3"]
    assert list(find_files(str(tmp_path), (".txt",))) == ["c.txt"]


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(DataError, match="none cannot be searched"):
        list(find_files(str(tmp_path / "none")))


def test_data_sets_of_a_pack_in_groups_and_behind_links(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as pack:
        pack["b c.wav"] = [1, 2]
        pack["group/inner/d"] = [1]
        pack["again"] = h5py.SoftLink("/b c.wav")
        pack["dangling"] = h5py.SoftLink("/nothing")
        pack.create_group("empty")
    assert sorted(read_pack_keys(str(tmp_path / "a.h5"))) == ["again", "b c.wav", "group/inner/d"]
    with h5py.File(tmp_path / "a.h5", "a") as pack:
        pack["group/self"] = pack["group"]  # links back
        pack["group/inner/up"] = h5py.SoftLink("/")
    assert sorted(read_pack_keys(str(tmp_path / "a.h5"))) == ["again", "b c.wav", "group/inner/d"]
    (tmp_path / "b.h5").write_bytes(b"text")
    with pytest.raises(DataError, match=r"b\.h5 cannot be opened as an HDF5 file"):
        read_pack_keys(str(tmp_path / "b.h5"))


def test_links_that_lead_round_stop_no_search(tmp_path):
    (tmp_path / "a.wav").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.wav").touch()
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "sub" / "round.wav").symlink_to("../sub/round.wav")
    assert sorted(find_files(str(tmp_path))) == ["a.wav", "sub/b.wav", "sub/round.wav"]
    with pytest.raises(DataError, match=r"round\.wav does not exist"):
        read_audio(str(tmp_path / "sub" / "round.wav"))
