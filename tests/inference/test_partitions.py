"""Parquet partitions: the rows of the one-process commands, begun again wherever they stopped. Ray itself is tried by
tests/commands/cluster/run.sh.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet
import pytest

from EAT.commands import extract, predict
from EAT.commands.on_ray import Worker
from EAT.errors import ConfigError, DataError
from EAT.inference.partitions import BEGUN, TRIES, UNREADABLE, Job, Problem, divide, part_name, resume, write_part
from EAT.inference.sources import Source, find_sources

from ..conftest import CONFORMANCE
from ..shards import write_shards

FEATURES = ["--checkpoint", str(CONFORMANCE / "official_pretrain.pt"), "--output", "-", "--num-workers", "0"]


def job_of(module: Any, sources: list[str], *given: str) -> Job:
    options = module.parser().parse_args(["--source", *sources, *given])
    return {extract: extract.Features, predict: predict.Scores}[module](options)


def fill(folder: Path | str, sources: list[str], job: Job, size: int = 3, **options: bool) -> list[Problem]:
    """Do what is left, as a cluster would; gives back what could not be done."""
    left = resume(folder, find_sources(sources, open_shards=False)[0], job.made, **options)
    written = [write_part(folder, part, job) for part in divide(left.todo, size)]
    return left.problems + [problem for part in written for problem in part.problems]


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    table = pyarrow.parquet.read_table(folder).to_pylist()  # as anybody would: what begins with _ or . is passed over
    assert len({row["path"] for row in table}) == len(table)
    return {row["path"]: row for row in table}


@pytest.fixture
def mixed(clips: list[Path]) -> list[str]:
    """Three short recordings, and two of 5 s, which are longer than a window."""
    by_size = sorted(clips, key=lambda clip: clip.stat().st_size)
    return sorted(str(clip) for clip in [*by_size[:3], *by_size[-2:]])


@pytest.fixture
def vectors() -> Job:
    return job_of(extract, ["x"], *FEATURES, "--granularity", "mean", "--batch-size", "1")


@pytest.mark.parametrize(
    "granularity, more", [("mean", []), ("frame", ["--storage", "float16"]), ("all", ["--layer", "0", "-1"])]
)
@pytest.mark.parametrize("size", [2, 5])
def test_features_are_those_of_one_process(
    mixed: list[str], tmp_path: Path, granularity: str, more: list[str], size: int
) -> None:
    given = [*FEATURES, "--granularity", granularity, "--window", "256", "--batch-size", "4", *more]
    assert extract.main(["--source", *mixed, *given, "--output", str(tmp_path / "one")]) == 0
    assert not fill(tmp_path / "many", mixed, job_of(extract, mixed, *given), size)
    assert len(list((tmp_path / "many").glob("*.parquet"))) == -(-5 // size)
    found, kind = rows(tmp_path / "many"), np.float16 if "float16" in more else np.float32
    assert sorted(found) == mixed
    # in partitions of all five, batches are the same; in others, whether short clips meet in one
    tolerance = 0.0 if size == 5 else {np.float16: 2e-3, np.float32: 1e-5}[kind]
    for path, row in found.items():
        alone = np.load(tmp_path / "one" / f"{Path(path).stem}.npy")
        features = np.array(row["features"], kind).reshape(row.get("shape", -1))
        np.testing.assert_allclose(features, alone, rtol=tolerance, atol=tolerance)
        if granularity != "mean":  # 8 patches side by side every 160 ms, and CLS without a time before them
            lead, times = int(granularity == "all"), row["times"]
            assert len(times) == alone.shape[-2] and times[:lead] == [None] * lead
            assert times[lead:] == [step * 0.16 for step in range(len(times) // 8) for _ in range(8)]


def test_predictions_are_those_of_one_process(mixed: list[str], tmp_path: Path) -> None:
    sources, labels = mixed, tmp_path / "labels.csv"
    labels.write_text("\n".join(f"{index},label{index}" for index in range(6)))
    given = ["--checkpoint", str(CONFORMANCE / "official_finetune.pt"), "--labels", str(labels), "--batch-size", "1",
             "--window", "256", "--num-workers", "0", "--top-k", "3"]  # fmt: skip
    for more, detail in (([], "timeline"), (["--segments", "--threshold", "0.01"], "segments")):
        one, many = tmp_path / f"{detail}.jsonl", tmp_path / detail
        assert predict.main(["--source", *sources, *given, *more, "--output", str(one)]) == 0
        assert not fill(many, sources, job_of(predict, sources, *given, *more))
        expected = [json.loads(line) for line in one.read_text().splitlines()]
        found = rows(many)
        assert any(row[detail] for row in found.values())
        for row in expected:
            assert found[row["source"]] == {
                "path": row["source"], "duration": row["duration"], "top": row["top"], detail: row.get(detail)
            }  # fmt: skip


def test_a_folder_is_filled_from_where_it_stopped(clips: list[Path], tmp_path: Path, vectors: Job) -> None:
    sources, bad = [str(clip) for clip in clips[:7]], tmp_path / "bad.wav"
    bad.write_text("no audio")
    out = tmp_path / "out"
    assert not fill(out, sources[:4], vectors)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (problem,) = fill(out, [*sources, str(bad)], vectors)
    assert problem.path == str(bad) and "is not audio" in problem.error
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())  # nothing was done again
    assert sorted(rows(out)) == sources
    table = pyarrow.parquet.read_table(out / UNREADABLE)
    assert table.column_names == ["path", "error"] and table.to_pylist() == [problem._asdict()]
    (out / ".part-x.parquet.1.2.partial").touch()  # of a machine that died
    left = resume(out, find_sources([*sources, str(bad)])[0], vectors.made)
    assert not list(out.glob(".part*"))
    assert (left.done, [source.address for source in left.todo]) == (7, [str(bad)])  # is tried again
    bad.write_bytes(clips[8].read_bytes())
    assert not fill(out, [*sources, str(bad)], vectors)
    assert sorted(rows(out)) == sorted([*sources, str(bad)]) and not list((out / UNREADABLE).iterdir())


def test_a_store_is_filled_as_a_folder_is(
    clips: list[Path], tmp_path: Path, vectors: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions, what could not be done, what was begun, what made it; and nothing on this machine's disk."""
    monkeypatch.chdir(tmp_path)
    store, address = fsspec.filesystem("memory"), "memory://bucket/of [results]/"
    sources, bad = [str(clip) for clip in clips[:7]], tmp_path / "bad.wav"
    bad.write_text("no audio")
    assert not fill(address, sources[:4], vectors)
    for _ in range(2):
        (problem,) = fill(address, [*sources, str(bad)], vectors)
        assert problem.path == str(bad) and "is not audio" in problem.error
    fill(tmp_path / "out", [*sources, str(bad)], vectors, size=2)
    below = "/bucket/of [results]"
    found = pyarrow.parquet.read_table(below, filesystem=store).to_pylist()
    assert {row["path"]: row for row in found} == rows(tmp_path / "out") and len(found) == 7
    table = pyarrow.parquet.read_table(f"{below}/{UNREADABLE}", filesystem=store)
    assert table.to_pylist() == [problem._asdict()]
    left = resume(address, find_sources([*sources, str(bad)])[0], vectors.made)
    assert (left.done, [source.address for source in left.todo]) == (7, [str(bad)])
    assert not store.find(f"{below}/{BEGUN}")
    other = job_of(extract, sources, *FEATURES, "--granularity", "utterance")
    with pytest.raises(ConfigError, match=r"memory://bucket/of \[results\]/ holds rows that were made with gran"):
        fill(address, sources, other)
    assert not fill(address, sources, other, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.wav", "out"]


def test_a_store_that_does_not_do_as_it_is_told_is_named(clips: list[Path], vectors: Job) -> None:
    with socket.socket() as nobody:  # a port that no server has
        nobody.bind(("127.0.0.1", 0))
        address = f"ftp://127.0.0.1:{nobody.getsockname()[1]}/out"
        with pytest.raises(DataError, match=rf"^{address} cannot be reached \(.+refused\)\.$"):
            fill(address, [str(clips[0])], vectors)
    with pytest.raises(ConfigError, match=r"nonsense://out is no address that fsspec knows"):
        fill("nonsense://out", [str(clips[0])], vectors)


@pytest.mark.parametrize("module", [extract, predict])
def test_one_process_writes_to_no_store(
    module: Any, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--source", str(clips[0]), "--checkpoint", "none.pt", "--output", "s3://bucket/out/"]
    assert module.main(given) == 2
    assert "s3://bucket/out/ is in a store, to which only --ray writes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_another_model_or_readout_is_refused(clips: list[Path], tmp_path: Path, vectors: Job) -> None:
    source = [str(clips[0])]
    fill(tmp_path, source, vectors)
    other = job_of(extract, source, *FEATURES, "--granularity", "utterance")
    with pytest.raises(
        ConfigError, match="rows that were made with granularity mean instead of utterance; give another"
    ):
        fill(tmp_path, source, other)
    teacher = job_of(extract, source, *FEATURES, "--granularity", "mean", "--weights", "teacher")
    with pytest.raises(ConfigError, match="other weights of the same checkpoint file"):
        fill(tmp_path, source, teacher)
    fill(tmp_path, source, other, overwrite=True)
    (tmp_path / ".features.json").unlink()
    with pytest.raises(ConfigError, match="something that is not known any more"):
        fill(tmp_path, source, other)


def test_shards_are_partitions_and_done_as_a_whole(clips: list[Path], tmp_path: Path, vectors: Job) -> None:
    shards = write_shards(tmp_path / "shards", clips[:6], 2)
    shards[1].write_bytes(shards[1].read_bytes()[:-20_000])
    sources = [f"{tmp_path}/shards/{{0..2}}.tar"]
    problems = fill(tmp_path / "out", sources, vectors)
    found = rows(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3 and len(found) == 5
    assert {problem.path.split(":")[0] for problem in problems} == {str(shards[1])}
    assert any("breaks off" in error or "cannot be read to its end" in error for _, error in problems)
    listed = {path: row["features"] for path, row in found.items()}
    fill(tmp_path / "loose", [str(clip) for clip in clips[:6]], vectors)
    loose = {Path(path).name: row["features"] for path, row in rows(tmp_path / "loose").items()}
    assert all(features == loose[path.rpartition(":")[2]] for path, features in listed.items())
    left = resume(tmp_path / "out", find_sources(sources, open_shards=False)[0], vectors.made)
    assert (left.todo, left.done) == ([], 5) and sorted(left.problems) == sorted(problems)  # counted, not done again


def test_what_is_no_partition_is_named(clips: list[Path], tmp_path: Path, vectors: Job) -> None:
    fill(tmp_path, [str(clips[0])], vectors)
    (tmp_path / "part-x.parquet").write_text("none")
    with pytest.raises(DataError, match=r"part-x\.parquet is no partition of results"):
        fill(tmp_path, [str(clips[0])], vectors)


def test_what_kills_its_reader_is_not_begun_for_ever(clips: list[Path], tmp_path: Path, vectors: Job) -> None:
    part = [Source(str(clips[0]), "a")]

    class Dies:
        made, schema = vectors.made, vectors.schema

        def rows(self, sources: object) -> Any:
            raise KeyboardInterrupt  # as the end of its process, nothing is done after it

    for _ in range(TRIES):
        with pytest.raises(KeyboardInterrupt):
            write_part(tmp_path, part, Dies())
        assert not list(tmp_path.glob("*.parquet"))
    with pytest.raises(DataError, match=rf"the 1 recordings from {clips[0]} on has died {TRIES} times"):
        write_part(tmp_path, part, vectors)
    assert not fill(tmp_path, [str(clips[0])], vectors)  # the next command begins anew
    assert list(tmp_path.glob("*.parquet")) == [tmp_path / part_name(part)] and not list((tmp_path / BEGUN).iterdir())


def test_an_actor_says_what_is_wrong_with_its_machine(clips: list[Path], tmp_path: Path) -> None:
    options = extract.parser().parse_args(["--source", "x", *FEATURES, "--batch-size", "1", "--granularity", "mean"])
    options.ray_folder = "/none"
    row = {"part": json.dumps([[str(clips[0]), "a"], [str(tmp_path / "none.wav"), "b"]])}
    result = json.loads(Worker(extract.Features, options, str(tmp_path / "out"))(row)["part"])
    assert result["done"] == 1 and "does not exist" in result["problems"][0][1]
    options.checkpoint = str(tmp_path / "none.pt")
    said = json.loads(Worker(extract.Features, options, str(tmp_path / "out"))(row)["part"])
    assert "none.pt" in said["stop"]


@pytest.mark.parametrize(
    "module, given, sentence",
    [
        (predict, "", "--ray writes Parquet files; give --output FOLDER"),
        (predict, "--output {t}/o --format csv", "not --format csv"),
        (predict, "--output {t}/o --picture {t}/p.png", "--picture goes without --ray alone"),
        (extract, "--output {t}/o --format hdf5", "not --format hdf5"),
        (extract, "--output {t}/file", "is a file; --ray writes a folder"),
        (extract, "--output {t}/o --ray-actors 0", "--ray-actors is 0; it must be at least 1"),
        (extract, "--output {t}/o --part-size 0", "--part-size is 0"),
        (extract, "--output {t}/o --ray-gpus -1", "--ray-gpus is -1"),
    ],
)
def test_flags_that_do_not_go_together(
    module: Any, given: str, sentence: str, clips: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    command = [
        "--ray",
        "local",
        "--source",
        str(clips[0]),
        "--checkpoint",
        "none.pt",
        *given.format(t=tmp_path).split(),
    ]
    assert module.main(command) == 2
    assert sentence in capsys.readouterr().err
