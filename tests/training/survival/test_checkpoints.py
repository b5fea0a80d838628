"""Checkpoints are whole, checked and replaceable, whatever happens to the disk."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from EAT.errors import CheckpointError
from EAT.training.survival.checkpoints import copy, corruption, newest_good, save

from ...conftest import ROOT
from ...hostile import Opens


def content(updates: int, size: int = 1000) -> dict:
    return {
        "model": {"weight": torch.full((size,), float(updates))},
        "optimizer_history": [{"num_updates": updates, "criterion_name": "C", "optimizer_name": "O"}],
        "extra_state": {
            "train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "shuffle": True},
            "EATPretrainingTask": {"nonfinite": {"total": 0, "in_row": 0}, "scaler": {}},
        },
        "last_optimizer_state": {"state": {}, "param_groups": [{}]},
    }


def held(path: Path | str) -> int:
    return int(torch.load(path, weights_only=True)["model"]["weight"][0])


def test_the_one_before_stays_until_the_new_one_is_there(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint_last.pt"
    for updates in (1, 2, 3):
        save(content(updates), str(last))
        assert held(last) == updates
        assert updates == 1 or held(tmp_path / "checkpoint_previous.pt") == updates - 1
    copy(str(last), str(tmp_path / "checkpoint_best.pt"))
    assert sorted(os.listdir(tmp_path)) == ["checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_previous.pt"]


def test_left_overs_of_killed_writers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint_last.pt.4000000.partial").write_bytes(b"half")
    save(content(1), str(tmp_path / "checkpoint_last.pt"))
    assert os.listdir(tmp_path) == ["checkpoint_last.pt"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_found_wherever_it_matters(tmp_path: Path, place: float, bit: int) -> None:
    path = tmp_path / "checkpoint_last.pt"
    whole = content(7)
    torch.save(whole, path)
    flipped = bytearray(path.read_bytes())
    flipped[int(place * len(flipped))] ^= 1 << bit
    path.write_bytes(flipped)
    if corruption(path) is None:  # in a part of the file that holds nothing
        loaded = torch.load(path, weights_only=True)
        assert torch.equal(loaded.pop("model")["weight"], whole.pop("model")["weight"]) and loaded == whole


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_truncated_checkpoint_is_found(tmp_path: Path, share: float) -> None:
    path = tmp_path / "checkpoint_last.pt"
    torch.save(content(7), path)
    os.truncate(path, int(share * path.stat().st_size))
    assert corruption(path) is not None


def test_the_newest_good_one_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    for updates in (10, 20, 30):
        save(content(updates), str(tmp_path / f"checkpoint_1_{updates}.pt"))
    os.utime(tmp_path / "checkpoint_1_10.pt")  # written last, but of an earlier update
    last = tmp_path / "checkpoint_last.pt"
    save(content(30), str(last))
    assert newest_good(str(last)) == str(last)
    for damaged, expected in ((last, 30), (tmp_path / "checkpoint_1_30.pt", 20)):
        os.truncate(damaged, damaged.stat().st_size - 100)
        assert held(newest_good(str(last))) == expected
    torch.save({"model": {}}, tmp_path / "checkpoint_9_90.pt")  # whole, but nothing to go on from
    assert held(newest_good(str(last))) == 20


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (["optimizer_history"], [], "its optimizer_history is empty"),
        (["optimizer_history"], "abc", "its optimizer_history is no list"),
        (["optimizer_history", 0, "num_updates"], "abc", "its optimizer_history.num_updates is no int"),
        (["optimizer_history", 0, "num_updates"], -3, "its optimizer_history.num_updates is -3"),
        (["optimizer_history", 0, "num_updates"], True, "its optimizer_history.num_updates is no int"),
        (["extra_state", "train_iterator"], None, "its extra_state.train_iterator is no dict"),
        (["extra_state", "train_iterator", "epoch"], 1.5, "its extra_state.train_iterator.epoch is no int"),
        (["extra_state", "train_iterator"], {"epoch": 1}, "it holds no extra_state.train_iterator.iterations_in_epoch"),
        (["extra_state", "train_iterator", "clips"], 4, "it holds no extra_state.train_iterator.batch_size"),
        (["extra_state", "EATPretrainingTask"], [1], "its EATPretrainingTask is no dict"),
        (["extra_state", "EATPretrainingTask", "nonfinite", "total"], "x", "its EATPretrainingTask.nonfinite.total"),
        (["extra_state", "EATPretrainingTask", "scaler"], 3, "its EATPretrainingTask.scaler is no dict"),
        (["last_optimizer_state"], None, "its last_optimizer_state is no dict"),
        (["last_optimizer_state", "param_groups"], [], "its last_optimizer_state.param_groups is empty"),
        (["model"], [1], "its model is no dict"),
        (["model", "weight"], torch.full((3,), float("nan")), "its weight holds NaN or infinity"),
    ],
)
def test_a_malformed_state_is_found_and_replaced(tmp_path: Path, path: list, value: object, problem: str) -> None:
    last = tmp_path / "checkpoint_last.pt"
    whole = content(9)
    save(whole, str(last))
    *parents, key = path
    part = whole
    for parent in parents:
        part = part[parent]
    part[key] = value
    torch.save(whole, last)
    assert str(corruption(last)).startswith(problem)
    save(content(7), str(tmp_path / "checkpoint_1_7.pt"))
    assert held(newest_good(str(last))) == 7


def test_the_optimisers_state_is_needed_unless_it_is_reset(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_last.pt"
    torch.save({key: value for key, value in content(3).items() if key != "last_optimizer_state"}, path)
    with pytest.raises(CheckpointError, match="it holds no 'last_optimizer_state'"):
        newest_good(str(path))
    assert newest_good(str(path), with_optimizer=False) == str(path)


def test_an_empty_folder_is_where_a_run_begins(tmp_path: Path) -> None:
    last = str(tmp_path / "checkpoint_last.pt")
    assert newest_good(last) == last
    with pytest.raises(CheckpointError, match="it is missing"):
        newest_good(str(tmp_path / "mine.pt"))


def test_no_good_one_left_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint_last.pt"
    last.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no other good checkpoint beside it\. Remove the file to start anew"):
        newest_good(str(last))
    named = tmp_path / "mine.pt"
    named.write_bytes(b"PK")
    save(content(1), str(tmp_path / "checkpoint_1_1.pt"))
    with pytest.raises(CheckpointError, match=r"cannot resume from .*mine\.pt"):  # what the user named is not replaced
        newest_good(str(named))


def test_checking_runs_no_pickle(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint_last.pt"
    bomb = {**content(1), "args": Opens(tmp_path / "ran")}
    for write in (lambda: torch.save(bomb, last), lambda: last.write_bytes(pickle.dumps(bomb))):
        write()
        (tmp_path / "ran").unlink(missing_ok=True)
        assert corruption(last) is not None
        assert not (tmp_path / "ran").exists()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint_last.pt"
    save(content(1), str(last))
    script = (
        "import sys, torch\n"
        "from EAT.training.survival.checkpoints import save\n"
        "from tests.training.survival.test_checkpoints import content\n"
        "save(content(2, 100_000), sys.argv[1])\n"
    )

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(
        [sys.executable, "-c", script, str(last)], cwd=ROOT, preexec_fn=full, capture_output=True, text=True
    )
    assert f"CheckpointError: {last} cannot be written (File too large)." in done.stderr
    assert os.listdir(tmp_path) == ["checkpoint_last.pt"] and held(last) == 1


def test_a_writer_killed_again_and_again_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    last = tmp_path / "checkpoint_last.pt"
    script = (
        "import sys, itertools\n"
        "from EAT.training.survival.checkpoints import save\n"
        "from tests.training.survival.test_checkpoints import content\n"
        "for updates in itertools.count(int(sys.argv[2])):\n"
        "    save(content(updates, 300_000), sys.argv[1])\n"
        "    print(updates, flush=True)\n"
    )
    reached, interrupted = 0, 0
    for attempt in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(last), str(reached + 1)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(attempt + 1):
            reached = int(writer.stdout.readline())
        while not list(tmp_path.glob(".*.partial")):
            pass
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        interrupted += bool(list(tmp_path.glob(".*.partial")))
        assert corruption(last) is None and held(last) >= reached
        assert corruption(tmp_path / "checkpoint_previous.pt") is None or attempt == 0
        reached = held(last)
    assert interrupted
