"""Processes that die, hang or meet: another rank, a DataLoader worker, another run in the same folder."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest
import torch

from ...fairseq_runs import train
from ...recordings import hanging
from .running import SMALLEST, LiveRun, assert_same_end, final, losses, write_noise

pytestmark = pytest.mark.faults

UPDATES = 200
"""Of the run that is killed: more than ten lives before the last one make."""


def ranks(folder: Path, data: Path, *overrides: str) -> list[LiveRun]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        LiveRun(
            *SMALLEST,
            f"task.data={data}",
            f"checkpoint.save_dir={folder}",
            "distributed_training.distributed_world_size=2",
            f"distributed_training.distributed_rank={rank}",
            f"distributed_training.distributed_init_method=tcp://127.0.0.1:{port}",
            "distributed_training.distributed_no_spawn=true",
            "distributed_training.distributed_backend=gloo",
            "distributed_training.ddp_backend=legacy_ddp",
            "dataset.batch_size=2",
            *overrides,
        )
        for rank in range(2)
    ]


def test_one_rank_killed_another_stopped_and_both_restarted(clip_manifest: Path, tmp_path: Path) -> None:
    """The supervising loop does what torchrun and a requeueing scheduler do: start all processes again."""
    whole = ranks(tmp_path / "whole", clip_manifest, "optimization.max_update=60")
    expected = [run.finish() for run in whole]
    assert [run.status for run in expected] == [0, 0], expected[0].output[-2000:] + expected[1].output[-2000:]

    output = ""
    for fault in (signal.SIGKILL, signal.SIGUSR1, None):
        pair = ranks(
            tmp_path / "run", clip_manifest, "optimization.max_update=60", "checkpoint.save_interval_updates=5"
        )
        try:
            if fault is not None:
                pair[0].wait_for_updates(12)
                os.kill(pair[1].process.pid, fault)
            ended = [run.finish(timeout=60) for run in pair]
        finally:
            for run in pair:
                run.close()
        output += ended[0].output
        if fault == signal.SIGKILL:
            assert ended[0].status == 1 and "process 0 of 2 lost touch with another one after" in ended[0].output
            assert "Traceback" not in ended[0].output
        elif fault == signal.SIGUSR1:  # to one of them: both stop, after the same update
            assert [run.status for run in ended] == [75, 75], ended[0].output[-2000:] + ended[1].output[-2000:]
        else:
            assert [run.status for run in ended] == [0, 0]
    assert losses(output) == pytest.approx(losses(expected[0].output), rel=1e-6)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_two_processes_and_one_take_turns(clip_manifest: Path, tmp_path: Path) -> None:
    """As many clips an update are the same clips, and the weights the same to the last bit."""

    def both(folder: str, updates: int) -> str:
        pair = ranks(tmp_path / folder, clip_manifest, f"optimization.max_update={updates}")
        ended = [run.finish() for run in pair]
        assert [run.status for run in ended] == [0, 0], ended[0].output[-2000:] + ended[1].output[-2000:]
        return ended[0].output

    whole = both("whole", 36)
    output = both("run", 5)
    last = tmp_path / "run" / "checkpoint_last.pt"
    saved = torch.load(last)
    for name in ("clips", "batch_size", "order"):  # as release 1.0 kept its place
        del saved["extra_state"]["train_iterator"][name]
    torch.save(saved, last)
    alone = ("dataset.batch_size=2", "optimization.update_freq=[2]", "optimization.max_update=12")
    given = (f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}/run")
    output += train("pretraining_AS2M", *SMALLEST, *given, *alone).output + both("run", 36)
    assert len(losses(whole)) == 36  # of which 31 are an epoch
    assert losses(output) == pytest.approx(losses(whole), rel=1e-6)
    one, other = final(tmp_path / "run"), final(tmp_path / "whole")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_rank_that_hangs_is_waited_for_no_longer_than_is_set(clip_manifest: Path, tmp_path: Path) -> None:
    pair = ranks(tmp_path, clip_manifest, "optimization.max_update=100000", "task.process_timeout=20")
    try:
        pair[0].wait_for_updates(3)
        os.kill(pair[1].process.pid, signal.SIGSTOP)
        ended = pair[0].finish(timeout=180)
    finally:
        for run in pair:
            run.close()
    assert ended.status == 1 and "Traceback" not in ended.output
    assert "process 0 of 2 lost touch with another one after" in ended.output and "imed out" in ended.output


def test_a_reading_process_that_dies_names_its_file(tmp_path: Path) -> None:
    lines = write_noise(tmp_path / "audio", 12)
    (tmp_path / "train.tsv").write_text("\n".join(["audio", *lines, "hangs.wav\t8000"]) + "\n")
    with hanging(tmp_path / "audio" / "hangs.wav") as waited_for:
        run = LiveRun(
            *SMALLEST,
            f"task.data={tmp_path}",
            f"checkpoint.save_dir={tmp_path}/run",
            "dataset.num_workers=1",
            "dataset.batch_size=1",
            "optimization.max_update=1000",
        )
        try:
            family = psutil.Process(run.process.pid)
            while not (waited_for() and family.children()):  # the run itself looks at it first, for a while
                time.sleep(0.05)
            time.sleep(6)
            family.children()[0].kill()
            ended = run.finish()
        finally:
            run.close()
    assert ended.status == 1 and "Traceback" not in ended.output
    assert "a DataLoader worker ended unexpectedly" in ended.output
    assert f"while it was on {tmp_path}/audio/hangs.wav" in ended.output, ended.output[-700:]


def test_a_worker_that_dies_loses_no_update(clip_manifest: Path, tmp_path: Path) -> None:
    given = (
        *SMALLEST, f"task.data={clip_manifest}", "dataset.num_workers=1",
        "optimization.update_freq=[3]", f"optimization.max_update={UPDATES}",
    )  # fmt: skip
    run = LiveRun(*given, f"checkpoint.save_dir={tmp_path}/run")
    try:
        run.wait_for_updates(4)
        assert not list((tmp_path / "run").glob("*.pt"))
        psutil.Process(run.process.pid).children()[0].kill()
        ended = run.finish()
    finally:
        run.close()
    assert ended.status == 1 and "a DataLoader worker ended unexpectedly" in ended.output
    assert f"The same command resumes from the last checkpoint in {tmp_path}/run." in ended.output
    made = max(losses(ended.output))
    saved = torch.load(tmp_path / "run" / "checkpoint_last.pt")
    assert made - 1 <= saved["optimizer_history"][-1]["num_updates"] <= made + 1
    train("pretraining_AS2M", *given, f"checkpoint.save_dir={tmp_path}/run")
    train("pretraining_AS2M", *given, f"checkpoint.save_dir={tmp_path}/whole")
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_two_runs_do_not_share_a_folder(clip_manifest: Path, tmp_path: Path) -> None:
    given = (*SMALLEST, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}")
    first = LiveRun(*given, "optimization.max_update=100000")
    try:
        first.wait_for_updates(1)
        second = train("pretraining_AS2M", *given, "optimization.max_update=3", expect=1)
        assert f"another run writes its checkpoints to {tmp_path}" in second.output
        assert "Traceback" not in second.output and losses(second.output) == {}
        first.kill()
        first.process.wait()
    finally:
        first.close()
    train("pretraining_AS2M", *given, "optimization.max_update=3")  # the dead one's lock is gone with it


def test_a_worker_that_hangs_is_waited_for_no_longer_than_is_set(clip_manifest: Path, tmp_path: Path) -> None:
    given = (*SMALLEST, f"task.data={clip_manifest}", "dataset.num_workers=2", "optimization.update_freq=[2]")
    run = LiveRun(
        *given, f"checkpoint.save_dir={tmp_path}/run", "optimization.max_update=100000", "task.process_timeout=4"
    )
    try:
        run.wait_for_updates(3)
        os.kill(psutil.Process(run.process.pid).children()[1].pid, signal.SIGSTOP)
        ended = run.finish(timeout=120)
    finally:
        run.close()
    assert ended.status == 1 and "Traceback" not in ended.output
    assert "no batch came from the DataLoader workers in 4 s (task.process_timeout): one of them hangs" in ended.output
    made = torch.load(tmp_path / "run" / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]
    assert made == max(losses(ended.output))  # it is saved before the run ends
    for name in ("run", "whole"):
        train(
            "pretraining_AS2M", *given, f"checkpoint.save_dir={tmp_path / name}", f"optimization.max_update={made + 5}"
        )
    assert_same_end(tmp_path / "run", tmp_path / "whole")
