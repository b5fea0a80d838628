"""Extraction and prediction on a real Ray cluster of three nodes on this machine, one of which is killed.

``bash tests/commands/cluster/run.sh`` runs it and keeps its log.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet
from ray.cluster_utils import Cluster

ROOT = Path(__file__).resolve().parents[3]
CLIPS, CONFORMANCE = ROOT / "data" / "clips", ROOT / "tests" / "conformance"
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(*arguments: object, expect: int = 0) -> str:
    """A command's output; fails unless it ends with that status."""
    process = start(*arguments)
    said = process.communicate(timeout=500)[0]
    assert process.returncode == expect, (process.returncode, said)
    return said


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """All rows of all partitions, by path; none twice."""
    table = pyarrow.parquet.read_table(folder).to_pylist()
    found = {row["path"]: row for row in table}
    assert len(found) == len(table)
    return found


def wait_for(folder: Path, parts: int) -> None:
    """Until so many partitions are written."""
    for _ in range(2400):
        if len(list(folder.glob("part-*.parquet"))) >= parts:
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder} has no {parts} partitions")


def wait_until_busy(node: Any) -> None:
    """Until an actor on a node is in the middle of a partition, as the title of its process says."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for _ in range(2400):
        for child in raylet.children(recursive=True):
            with suppress(psutil.Error):
                if "MapWorker(Map(Worker)).submit" in " ".join(child.cmdline()):
                    return
        time.sleep(0.02)
    raise AssertionError("the node does nothing")


@contextmanager
def cluster(nodes: int, **more: Any) -> Iterator[Cluster]:
    """So many nodes of one CPU each, each a process group of its own with its own object store."""
    started = Cluster(initialize_head=True, head_node_args={**NODE, **more})
    for _ in range(nodes - 1):
        started.add_node(**NODE)
    started.wait_for_nodes()
    try:
        yield started
    finally:
        started.shutdown()


def check_prediction(folder: Path, sources: list[str]) -> None:
    common = ["EAT.predict", "--source", *sources, "--checkpoint", CONFORMANCE / "official_finetune.pt",
              "--labels", folder / "labels.csv", "--batch-size", 1, "--top-k", 6]  # fmt: skip
    lines = run(*common, "--output", folder / "one.jsonl") + (folder / "one.jsonl").read_text()
    expected = {row["source"]: row for row in map(json.loads, lines.splitlines())}
    with cluster(3) as nodes:
        many = folder / "many"
        command = start(*common, "--ray", nodes.address, "--output", many, "--part-size", 4)
        wait_for(many, 4)
        victim = nodes.list_all_nodes()[-1]
        wait_until_busy(victim)
        nodes.remove_node(victim, allow_graceful=False)
        had = len(list(many.glob("part-*.parquet")))
        said = command.communicate(timeout=500)[0]
        assert command.returncode == 0, said
        found = rows(many)
        assert found.keys() == expected.keys() and len(found) == len(sources)
        for path, row in found.items():
            assert row["duration"] == expected[path]["duration"] and row["top"] == expected[path]["top"], path
            assert row["timeline"] == expected[path].get("timeline"), path
        print(f"predict, {len(sources)} clips, 3 nodes, one killed in the middle of a partition after {had} of "
              f"{-(-len(sources) // 4)}: all rows equal the one-process run's to the bit")  # fmt: skip
        print("   " + said.splitlines()[-1])
        again = run(*common, "--ray", nodes.address, "--output", many, "--part-size", 4)
        assert f"{len(sources)} were there already" in again
        changed = run(*common, "--top-k", 3, "--ray", nodes.address, "--output", many, expect=2)
        assert "holds rows that were made with top-k 6 instead of 3" in changed
        print("the same command again: nothing to do; with another --top-k: refused in a sentence")


def check_extraction(folder: Path, sources: list[str]) -> None:
    bad = folder / "bad.wav"
    bad.write_text("no audio")
    common = ["EAT.extract", "--checkpoint", CONFORMANCE / "official_pretrain.pt", "--granularity", "mean"]
    with cluster(2, num_gpus=1) as nodes:
        for size, length, tolerance in ((1, ("--target-length", 512), 0.0), (16, (), 1e-5)):
            given = [*common, "--source", *sources, bad, "--batch-size", size, *length]
            one, many = folder / f"one{size}", folder / f"vectors{size}"
            run(*given, "--output", one, expect=1)
            ray = [
                *given,
                "--ray",
                nodes.address,
                "--ray-gpus",
                0.25,
                "--device",
                "cpu",
                "--output",
                many,
                "--part-size",
                8,
            ]
            first = start(*ray)
            wait_for(many, 3)
            first.send_signal(signal.SIGKILL)
            first.wait()
            had = len(rows(many))
            said = run(*ray, expect=1)
            assert f"{had} were there already, 1 could not be done" in said and "is not audio" in said
            worst = 0.0
            found = rows(many)
            assert len(found) == len(sources)
            for path, row in found.items():
                alone = np.load(one / f"{Path(path).stem}.npy")
                worst = max(worst, float(np.abs(alone - np.array(row["features"], np.float32)).max()))
            assert worst <= tolerance, worst
            table = pyarrow.parquet.read_table(many / "_unreadable").to_pylist()
            assert [row["path"] for row in table] == [str(bad)] and "is not audio" in table[0]["error"]
            assert "as --allow-unreadable" in run(*ray, "--allow-unreadable", 0.1)
            too_many = run(*ray, "--num-workers", 7, "--overwrite", expect=2)
            assert "no machine of the cluster has the 8 CPUs (1 + --num-workers) and 0.25 GPUs" in too_many
            print(f"extract, batch size {size}, a quarter of a GPU each, the command killed at {had} rows, begun "
                  f"again: differs by {worst:.1e} at most; 1 bad file in its table, status 1")  # fmt: skip


@contextmanager
def s3(folder: Path) -> Iterator[None]:
    """A server that speaks S3's protocol, for this process and its children."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "test",
                   "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        server.terminate()


def check_s3(folder: Path, sources: list[str]) -> None:
    import s3fs

    with s3(folder):
        store = s3fs.S3FileSystem()
        store.mkdir("bucket")
        for number in range(4):
            with tarfile.open(folder / "shard.tar", "w") as tar:
                for clip in sources[5 * number : 5 * number + 5]:
                    tar.add(clip, Path(clip).name)
            store.put_file(str(folder / "shard.tar"), f"bucket/shards/{number:03}.tar")
        for clip in sources[20:30]:
            store.put_file(clip, f"bucket/sounds/{Path(clip).name}")
        given = ["EAT.extract", "--source", "s3://bucket/shards/{000..003}.tar", "s3://bucket/sounds/", "--checkpoint",
                 CONFORMANCE / "official_pretrain.pt", "--granularity", "frame", "--batch-size", 1,
                 "--target-length", 512]  # fmt: skip
        run(*given, "--num-workers", 2, "--output", folder / "of_s3")
        with cluster(2) as nodes:
            run(*given, "--ray", nodes.address, "--output", folder / "rows_of_s3", "--part-size", 5)
            inside = [*given, "--ray", nodes.address, "--output", "s3://bucket/rows", "--part-size", 5]
            first = start(*inside)
            while len(store.glob("bucket/rows/part-*")) < 2:
                assert first.poll() is None
                time.sleep(0.2)
                store.invalidate_cache()
            first.send_signal(signal.SIGKILL)
            first.wait()
            assert "were there already" in run(*inside)
        store.get("bucket/rows/", f"{folder}/rows_in_s3/", recursive=True)
        run("EAT.extract", "--source", *sources[:30], *given[4:], "--output", folder / "of_files")
    found = rows(folder / "rows_of_s3")
    assert len(found) == 30 and rows(folder / "rows_in_s3") == found
    for path, row in found.items():
        name = Path(path.rpartition(":")[2] if ".tar:" in path else path).stem + ".npy"
        patches = np.array(row["features"], np.float32).reshape(row["shape"])
        assert row["times"][::8] == [0.16 * step for step in range(len(row["times"]) // 8)]
        for other in ("of_s3", "of_files"):
            assert np.array_equal(patches, np.load(folder / other / name)), (path, other)
    print("extract from S3's protocol, 4 tars of 5 clips and 10 files, frames with times, on 2 nodes and in one "
          "process: as from local files to the bit; so are rows in S3, the command killed and begun again")  # fmt: skip


CHECKS = check_prediction, check_extraction, check_s3


def main() -> None:
    sources = [str(clip) for clip in sorted(CLIPS.glob("*.flac"))]
    folder = Path(tempfile.mkdtemp())
    (folder / "labels.csv").write_text("\n".join(f"{index},label{index}" for index in range(6)))
    try:
        for check in CHECKS if len(sys.argv) == 1 else [CHECKS[int(number)] for number in sys.argv[1:]]:
            began = time.perf_counter()
            check(folder, sources)
            print(f"   {time.perf_counter() - began:.0f} s", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
