"""Runs that are killed, told to stop or starved of disk or numbers reach the same end, or end in a clear sentence."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import resource
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import torch

from EAT.training.survival.checkpoints import corruption

from ...fairseq_runs import Run, train
from ...hostile import Opens
from .conftest import FIGURES
from .running import SMALLEST, LiveRun, losses

pytestmark = pytest.mark.faults

UPDATES = 200
"""Of the run that is killed: more than ten lives before the last one make."""


def final(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def assert_same_end(folder: Path, reference: Path) -> None:
    one, other = final(folder), final(reference)
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-6, atol=1e-8)


@pytest.fixture(scope="module")
def undisturbed(clip_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run of ``UPDATES`` updates that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run = train(
        "pretraining_AS2M",
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={folder}",
        f"optimization.max_update={UPDATES}",
    )
    return folder, run


def live_and_die(folder: Path, data: Path, kills: int) -> tuple[str, int]:
    """Run, killed ``kills`` times, to the end; returns what was logged and how many kills met a save."""
    common = (
        *SMALLEST,
        f"task.data={data}",
        f"checkpoint.save_dir={folder}",
        "checkpoint.save_interval_updates=1",
        f"optimization.max_update={UPDATES}",
    )
    moments = random.Random(folder.name)
    output, during_save = "", 0
    for life in range(kills):
        run = LiveRun(*common)
        try:
            run.wait_for_updates(moments.randint(1, 8))
            if life % 4 == 0:  # in the middle of a save
                while not list(folder.glob(".*.partial")):
                    assert run.process.poll() is None
                    time.sleep(0.001)
            else:
                time.sleep(moments.uniform(0, 0.05))
            run.kill(signal.SIGKILL)
            died = run.finish()
        finally:
            run.close()
        assert died.status == -signal.SIGKILL
        during_save += bool(list(folder.glob(".*.partial")))
        for name in ("checkpoint_last.pt", "checkpoint_previous.pt"):
            assert not (folder / name).exists() or corruption(folder / name) is None
        output += died.output
    return output + train("pretraining_AS2M", *common).output, during_save


def test_twenty_kills_change_nothing(clip_manifest: Path, tmp_path: Path, undisturbed: tuple[Path, Run]) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]  # two runs at a time, each killed ten times
    with ThreadPoolExecutor(2) as pool:
        lives = list(pool.map(lambda folder: live_and_die(folder, clip_manifest, 10), folders))
    FIGURES.append(f"20 runs killed, {sum(kills for _, kills in lives)} of them during a save")
    assert sum(kills for _, kills in lives) >= 3
    expected = losses(undisturbed[1].output)
    assert len(expected) == UPDATES
    for folder, (output, _) in zip(folders, lives, strict=True):
        assert "is damaged" not in output
        lived = losses(output)
        missing = expected.keys() - lived.keys()
        assert len(missing) <= 10 and UPDATES not in missing  # a line cut off, or not logged yet, at a kill
        assert lived == pytest.approx({update: expected[update] for update in lived}, rel=1e-6)
        assert_same_end(folder, undisturbed[0])


def test_a_signal_to_the_whole_job_saves_and_stops(
    clip_manifest: Path, tmp_path: Path, undisturbed: tuple[Path, Run]
) -> None:
    common = (
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "dataset.num_workers=2",
        f"optimization.max_update={UPDATES}",
    )
    output = ""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        run = LiveRun(*common)
        try:
            run.wait_for_updates(20)
            run.kill(number)
            stopped = run.finish()
        finally:
            run.close()
        output += stopped.output
        assert stopped.status == 75, stopped.output[-2000:]
        saved = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
        after = saved["optimizer_history"][-1]["num_updates"]
        assert after == max(losses(stopped.output)) < UPDATES  # nothing that was made is lost
        assert f"told to stop; it is saved, {tmp_path}, after {after} updates" in stopped.output
        assert "Traceback" not in stopped.output
    last = train("pretraining_AS2M", *common)
    lived = {**losses(output), **losses(last.output)}
    assert lived == pytest.approx(losses(undisturbed[1].output), rel=1e-6)
    assert_same_end(tmp_path, undisturbed[0])


def test_a_damaged_last_checkpoint_is_replaced_by_the_newest_good_one(
    clip_manifest: Path, tmp_path: Path, undisturbed: tuple[Path, Run]
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "run")
    last, previous = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "run" / "checkpoint_previous.pt"
    assert previous.exists()
    common = (
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}/run",
        f"optimization.max_update={UPDATES}",
    )
    flipped = bytearray(last.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    last.write_bytes(flipped)
    run = train("pretraining_AS2M", *common)
    assert f"{last} cannot be used (the checksum of" in run.output and f"resuming from {previous}" in run.output
    assert_same_end(tmp_path / "run", undisturbed[0])
    for path in (last, previous):
        os.truncate(path, 1000)
    run = train("pretraining_AS2M", *common, expect=1)
    assert f"training cannot resume from {last}" in run.output and "Traceback" not in run.output


@pytest.mark.parametrize("what", ["missing", "folder", "fifo", "link"])
def test_a_run_never_starts_over_where_there_is_a_good_checkpoint(
    clip_manifest: Path, tmp_path: Path, undisturbed: tuple[Path, Run], what: str
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "run")
    last, previous = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "run" / "checkpoint_previous.pt"
    last.unlink()
    make = {"folder": last.mkdir, "fifo": lambda: os.mkfifo(last), "link": lambda: last.symlink_to("nowhere")}
    make.get(what, lambda: None)()
    run = train(
        "pretraining_AS2M",
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}/run",
        f"optimization.max_update={UPDATES}",
        expect=1 if what == "folder" else 0,
    )
    if what == "folder":
        assert f"{last} is a folder, where the run's last checkpoint belongs; move it away." in run.output
        return
    said = "it is missing" if what == "missing" else "it is no file"
    assert f"{last} cannot be used ({said}); resuming from {previous}" in run.output
    assert min(losses(run.output)) > 1
    assert_same_end(tmp_path / "run", undisturbed[0])


def test_a_finished_run_says_so_and_changes_nothing(
    clip_manifest: Path, tmp_path: Path, undisturbed: tuple[Path, Run]
) -> None:
    shutil.copytree(undisturbed[0], tmp_path / "run")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (tmp_path / "run").glob("*.pt")}
    given = (*SMALLEST, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}/run")
    for _ in range(2):
        run = train("pretraining_AS2M", *given, f"optimization.max_update={UPDATES}")
        assert f"the run in {tmp_path}/run is finished, with {UPDATES} updates" in run.output
        assert losses(run.output) == {}
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    missing = train("pretraining_AS2M", *given, f"checkpoint.restore_file={tmp_path}/none.pt", expect=1)
    assert f"checkpoint.restore_file={tmp_path}/none.pt is not there" in missing.output
    assert "Traceback" not in missing.output


def test_a_full_disk_does_not_end_the_run(clip_manifest: Path, tmp_path: Path, undisturbed: tuple[Path, Run]) -> None:
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))

    run = LiveRun(
        *SMALLEST,
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "checkpoint.save_interval_updates=10",
        f"optimization.max_update={UPDATES}",
        preexec=full,
    )
    try:
        line = run.wait_for("no checkpoint after")
        assert "cannot be written (File too large). The run goes on" in line
        run.wait_for("no checkpoint after")
        assert not list(tmp_path.glob("*.pt")) and not list(tmp_path.glob(".*.partial"))
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, unlimited)  # room was made
        done = run.finish()
    finally:
        run.close()
    assert done.status == 0 and "Traceback" not in done.output
    assert_same_end(tmp_path, undisturbed[0])


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


def write_noise(folder: Path, count: int) -> list[str]:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        soundfile.write(folder / f"{index}.wav", rng.normal(size=8000) * 0.1, 16000)
    return [f"{index}.wav\t8000" for index in range(count)]


def test_absurd_samples_are_skipped_and_a_run_that_diverges_is_stopped(tmp_path: Path) -> None:
    lines = write_noise(tmp_path / "audio", 15)
    huge = np.random.default_rng(1).normal(size=8000) * 1e30  # finite, but not when it is squared
    soundfile.write(tmp_path / "audio" / "huge.wav", huge, 16000, subtype="FLOAT")
    (tmp_path / "train.tsv").write_text("\n".join(["audio", *lines, "huge.wav\t8000"]) + "\n")
    common = (*SMALLEST, f"task.data={tmp_path}", "dataset.batch_size=2")
    given = (f"checkpoint.save_dir={tmp_path}/run", "optimization.max_update=24", "task.max_skipped=0.1")
    run = train("pretraining_AS2M", *common, *given)
    assert list(losses(run.output)) == list(range(1, 25)) and np.isfinite(list(losses(run.output).values())).all()
    assert '"nonfinite": "0"' in [line for line in run.output.splitlines() if "[train_inner]" in line][-1]
    skipped = [line for line in run.output.splitlines() if "clip skipped" in line]
    assert len(skipped) == 1 and "huge.wav holds samples as large as" in skipped[0]
    assert all(torch.isfinite(value).all() for value in final(tmp_path / "run").values())
    assert not (tmp_path / "run" / "crash.pt").exists()

    stopped = train(
        "pretraining_AS2M",
        *common,
        f"checkpoint.save_dir={tmp_path}/strict",
        "task.max_skipped=0.1",
        "optimization.max_update=24",
        "optimization.lr=[1e30]",
        "lr_scheduler.warmup_updates=0",
        "task.max_nonfinite=4",
        expect=1,
    )
    assert "the gradients of 4 updates in a row" in stopped.output and "Traceback" not in stopped.output


def test_an_overflow_in_float16_reaches_neither_student_nor_teacher(clip_manifest: Path, tmp_path: Path) -> None:
    run = train(
        "pretraining_AS2M",
        *SMALLEST,
        "common.fp16=true",
        f"common.fp16_init_scale={2**60}",
        f"task.data={clip_manifest}",
        f"checkpoint.save_dir={tmp_path}",
        "optimization.max_update=3",
        "lr_scheduler.warmup_updates=0",
    )
    assert run.output.count("is skipped: float16 overflowed; the loss scale is now") == 3
    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)
    assert state["last_optimizer_state"]["loss_scale"] == 2.0**57
    model = state["model"]
    for name in (key.removeprefix("teacher.") for key in model if key.startswith("teacher.")):
        assert torch.equal(model[f"teacher.{name}"].half(), model[f"encoder.{name}"].half())  # as both began


def test_a_reading_process_that_dies_names_its_file(tmp_path: Path) -> None:
    lines = write_noise(tmp_path / "audio", 12)
    os.mkfifo(tmp_path / "audio" / "hangs.wav")  # keeps whoever reads it where they are
    (tmp_path / "train.tsv").write_text("\n".join(["audio", *lines, "hangs.wav\t8000"]) + "\n")
    run = LiveRun(
        *SMALLEST,
        f"task.data={tmp_path}",
        f"checkpoint.save_dir={tmp_path}/run",
        "dataset.num_workers=1",
        "dataset.batch_size=1",
        "optimization.max_update=1000",
    )
    try:
        run.wait_for(r"\[train_inner\]")
        worker = psutil.Process(run.process.pid).children()[0]
        writer = None
        while writer is None:
            with contextlib.suppress(OSError):  # until somebody reads
                writer = os.open(tmp_path / "audio" / "hangs.wav", os.O_WRONLY | os.O_NONBLOCK)
        worker.kill()
        ended = run.finish()
        os.close(writer)
    finally:
        run.close()
    assert ended.status == 1  # a line that was being logged at that moment may be replaced by a traceback
    assert "a DataLoader worker ended unexpectedly" in ended.output
    assert f"while it was on {tmp_path}/audio/hangs.wav" in ended.output, ended.output[-700:]


def test_a_worker_that_dies_loses_no_update(clip_manifest: Path, tmp_path: Path) -> None:
    given = (
        *SMALLEST, "common.bf16=true", f"task.data={clip_manifest}", "dataset.num_workers=1",
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


def test_no_pickle_runs_in_training(
    clip_manifest: Path, tmp_path: Path, undisturbed: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)  # which the fairseq layer sets in its process
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what would switch torch's own guard off
    (tmp_path / "run").mkdir()
    state = torch.load(undisturbed[0] / "checkpoint_last.pt", weights_only=True)
    for name in ("checkpoint_last.pt", "other.pt"):
        torch.save({**state, "args": Opens(tmp_path / "ran")}, tmp_path / "run" / name)
    (tmp_path / "run" / "plain.pt").write_bytes(pickle.dumps(Opens(tmp_path / "ran")))
    for restored in ("checkpoint_last.pt", f"{tmp_path}/run/other.pt", f"{tmp_path}/run/plain.pt"):
        run = train(
            "pretraining_AS2M",
            *SMALLEST,
            f"task.data={clip_manifest}",
            f"checkpoint.save_dir={tmp_path}/run",
            f"checkpoint.restore_file={restored}",
            "optimization.max_update=3",
            expect=1,
        )
        assert "training cannot resume from" in run.output and "Traceback" not in run.output
        assert not (tmp_path / "ran").exists()
