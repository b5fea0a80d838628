"""Recordings in tars: listed by their headers, read by a seek, locally and through fsspec."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from EAT.audio.recordings import read_audio
from EAT.audio.stored import is_remote, member
from EAT.data.manifest import Manifest
from EAT.data.shards import expand, find_recordings, read_shard
from EAT.errors import ConfigError, DataError
from EAT.inference.sources import find_sources, output_names

from ..shards import write_shards


def test_members_are_the_files_to_the_bit(clips: list[Path], tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, clips[:5], 5)
    found = read_shard(str(shard))
    assert found.damage == [] and [name for _, name in found.members] == [clip.name for clip in clips[:5]]
    for (address, _), clip in zip(found.members, clips, strict=False):
        assert torch.equal(read_audio(address), read_audio(str(clip)))
        where = member(address)
        assert where is not None and where.archive == str(shard)
        assert shard.read_bytes()[where.offset : where.offset + where.length] == clip.read_bytes()


def test_what_is_no_recording_is_passed_over(clips: list[Path], tmp_path: Path) -> None:
    content = clips[0].read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("./one.flac", "one.json", "folder/._two.flac", "folder/" + "é" * 90 + ".FLAC"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("link.flac")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = read_shard(str(tmp_path / "a.tar"))
    assert [name for _, name in found.members] == ["one.flac", "folder/" + "é" * 90 + ".FLAC"] and not found.damage
    assert all(torch.equal(read_audio(address), read_audio(str(clips[0]))) for address, _ in found.members)


def test_damaged_shards_give_what_lies_before_the_damage(clips: list[Path], tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, clips[:4], 4)
    whole, content = read_shard(str(shard)).members, shard.read_bytes()
    where = member(whole[2].address)
    assert where is not None
    damaged = {
        "in the middle of the third": (content[: where.offset + 100], 3),  # whose header is whole
        "between two": (content[: where.offset - 512], 2),
        "a header": (content[: where.offset - 512] + b"\1" * 512 + content[where.offset :], 2),
        "nothing at all": (b"", 0),
        "compressed": (b"\x1f\x8b" + content, 0),
    }
    for what, (bad, count) in damaged.items():
        shard.write_bytes(bad)
        members, damage = read_shard(str(shard))
        assert members == whole[:count] and len(damage) == 1, what
        assert str(shard) in damage[0] and f"the {count} recordings before that are used" in damage[0]
    shard.write_bytes(content[: where.offset + 100])
    with pytest.raises(DataError, match=rf"cannot be a recording in it \({clips[2].name}\)"):
        read_audio(whole[2].address)


def test_random_damage_is_said_and_nothing_else(clips: list[Path], tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, clips[:3], 3)
    content, rng = shard.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(content)
        for place in rng.integers(0, len(bad), 200):
            bad[place] = rng.integers(256)
        place = 512 * int(rng.integers(0, len(bad) // 512))
        bad[place : place + 512] = rng.bytes(512)
        shard.write_bytes(bad[: rng.integers(1, len(bad))])
        for address, _ in read_shard(str(shard)).members:
            try:
                read_audio(address)
            except DataError as error:
                assert str(shard) in str(error)


def test_patterns(tmp_path: Path) -> None:
    for number in (8, 9, 10, 11):
        (tmp_path / f"{number:03}.tar").touch()
    assert expand(f"{tmp_path}/{{008..011}}.tar") == [f"{tmp_path}/{n:03}.tar" for n in (8, 9, 10, 11)]
    assert expand(f"{tmp_path}/01?.tar") == [f"{tmp_path}/010.tar", f"{tmp_path}/011.tar"]
    assert expand("{1..2}/{3..4}") == ["1/3", "1/4", "2/3", "2/4"]
    (tmp_path / "{1..2}.wav").touch()
    assert expand(f"{tmp_path}/{{1..2}}.wav") == [f"{tmp_path}/{{1..2}}.wav"]  # there is one of that name
    for wrong in ("{5..3}.tar", str(tmp_path / "no*")):
        with pytest.raises(DataError):
            expand(wrong)


def test_a_folder_s_shards_count_where_it_holds_no_recordings(clips: list[Path], tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", clips[:6], 2)
    assert [name for _, name in find_recordings(str(tmp_path)).members] == [clip.name for clip in clips[:6]]
    whole = find_recordings(str(tmp_path), open_shards=False).members
    assert [address for address, _ in whole] == [str(shard) for shard in shards]
    (tmp_path / "clip.flac").write_bytes(clips[0].read_bytes())
    assert [name for _, name in find_recordings(str(tmp_path)).members] == ["clip.flac"]


def test_a_manifest_s_members_stay_in_its_root(clips: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    (shard,) = write_shards(tmp_path / "outside", clips[:1], 1)
    root.mkdir()
    (root / "a.tar").symlink_to(shard)
    where = member(read_shard(str(shard)).members[0].address)
    assert where is not None
    (tmp_path / "train.tsv").write_text(f"{root}\na.tar:{where.offset}:{where.length}:a.flac\t100\n")
    with pytest.raises(DataError, match="leaves, by a link, the root folder"):
        Manifest(tmp_path / "train.tsv").source(0)
    assert torch.equal(read_audio(Manifest(tmp_path / "train.tsv", True).source(0)), read_audio(str(clips[0])))


@pytest.fixture
def bucket(clips: list[Path], tmp_path: Path) -> str:
    """A store in memory, read through fsspec as S3 is, with four recordings and two shards of two."""
    store = fsspec.filesystem("memory")
    store.rm("/", recursive=True)
    for clip in clips[:4]:
        store.pipe_file(f"/bucket/sounds/{clip.name}", clip.read_bytes())
    for shard in write_shards(tmp_path / "s", clips[:4], 2):
        store.pipe_file(f"/bucket/shards/{shard.name}", shard.read_bytes())
    return "memory://bucket"


def test_remote_files_and_members(clips: list[Path], bucket: str) -> None:
    for source in ("sounds/", "sounds/*.flac", "shards/", "shards/{0..1}.tar", "shards/*.tar"):
        sources, problems = find_sources([f"{bucket}/{source}"])
        assert not problems and len(sources) == 4 and all(is_remote(source.address) for source in sources)
        for (address, _), clip in zip(sources, clips, strict=False):
            assert torch.equal(read_audio(address), read_audio(str(clip)))
        assert output_names(sources) == [f"{clip.stem}.npy" for clip in clips[:4]]
    whole, _ = find_sources([f"{bucket}/shards/"], open_shards=False)
    assert [name for _, name in whole] == ["0.tar", "1.tar"]


def test_what_is_wrong_with_remote_files_is_said(bucket: str) -> None:
    with pytest.raises(DataError, match=r"memory://bucket/none\.wav does not exist"):
        read_audio("memory://bucket/none.wav")
    with pytest.raises(
        DataError, match=r"has 0 bytes there; 100 from 10,000,000,000 on cannot be a recording in it \(a\.wav\)"
    ):
        read_audio("memory://bucket/shards/0.tar:10000000000:100:a.wav")
    fsspec.filesystem("memory").pipe_file("/bucket/text.wav", b"no audio")
    with pytest.raises(DataError, match=r"memory://bucket/text\.wav is not audio"):
        read_audio("memory://bucket/text.wav")
    _, problems = find_sources(["memory://bucket/empty/", "memory://bucket/none.tar"])
    assert "holds no recordings" in problems[0] and "cannot be read" in problems[1]
    for address, said in (("s3://bucket/a/", "s3fs"), ("nowhere://bucket/", "nowhere")):
        with pytest.raises(ConfigError, match=said):
            find_sources([address])
