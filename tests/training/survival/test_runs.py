"""Runs that are killed, told to stop or starved of disk or numbers reach the same end, or end in a clear sentence."""

from __future__ import annotations

import functools
import os
import pickle
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile
import torch

from EAT.training.survival.checkpoints import corruption

from ...fairseq_runs import Run, train
from ...hostile import Opens
from .conftest import FIGURES
from .running import PRECISIONS, SMALLEST, LiveRun, assert_same_end, final, losses, write_noise

pytestmark = pytest.mark.faults

UPDATES = 200
"""Of the run that is killed: more than ten lives before the last one make."""


IN_BOTH = pytest.mark.parametrize("undisturbed", PRECISIONS, indirect=True)
"""For what touches the optimiser's state; everything else runs in bfloat16, as the recipes do."""


class Undisturbed(NamedTuple):
    """A run that nothing happened to."""

    folder: Path
    run: Run
    given: tuple[str, ...]


@pytest.fixture(scope="module")
def undisturbed_in(clip_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    """Runs of ``UPDATES`` updates that nothing happens to, by precision, each made when it is first asked for."""

    @functools.cache
    def made(precision: str) -> Undisturbed:
        folder = tmp_path_factory.mktemp("undisturbed")
        given = (*SMALLEST, *PRECISIONS[precision])
        run = train(
            "pretraining_AS2M",
            *given,
            f"task.data={clip_manifest}",
            f"checkpoint.save_dir={folder}",
            f"optimization.max_update={UPDATES}",
        )
        return Undisturbed(folder, run, given)

    return made


@pytest.fixture
def undisturbed(request: pytest.FixtureRequest, undisturbed_in: Callable[[str], Undisturbed]) -> Undisturbed:
    """The one in a test's precision."""
    return undisturbed_in(getattr(request, "param", "bf16"))


def live_and_die(folder: Path, data: Path, kills: int, given: tuple[str, ...]) -> tuple[str, int]:
    """Run, killed ``kills`` times, to the end; returns what was logged and how many kills met a save."""
    common = (
        *given,
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


def test_twenty_kills_change_nothing(
    clip_manifest: Path, tmp_path: Path, undisturbed_in: Callable[[str], Undisturbed]
) -> None:
    """Two runs at a time, one in each precision, each killed ten times."""
    wanted = {precision: undisturbed_in(precision) for precision in PRECISIONS}
    with ThreadPoolExecutor(2) as pool:
        lives = list(
            pool.map(lambda name: live_and_die(tmp_path / name, clip_manifest, 10, wanted[name].given), PRECISIONS)
        )
    FIGURES.append(f"20 runs killed, {sum(kills for _, kills in lives)} of them during a save")
    assert sum(kills for _, kills in lives) >= 3
    for precision, (output, _) in zip(PRECISIONS, lives, strict=True):
        assert "is damaged" not in output
        lived, expected = losses(output), losses(wanted[precision].run.output)
        assert len(expected) == UPDATES
        missing = expected.keys() - lived.keys()
        assert len(missing) <= 10 and UPDATES not in missing  # a line cut off, or not logged yet, at a kill
        assert lived == pytest.approx({update: expected[update] for update in lived}, rel=1e-6)
        assert_same_end(tmp_path / precision, wanted[precision].folder)


@IN_BOTH
def test_a_signal_to_the_whole_job_saves_and_stops(
    clip_manifest: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    common = (
        *undisturbed.given,
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
    assert lived == pytest.approx(losses(undisturbed.run.output), rel=1e-6)
    assert_same_end(tmp_path, undisturbed.folder)


def test_a_damaged_last_checkpoint_is_replaced_by_the_newest_good_one(
    clip_manifest: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    shutil.copytree(undisturbed.folder, tmp_path / "run")
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
    assert_same_end(tmp_path / "run", undisturbed.folder)
    for path in (last, previous):
        os.truncate(path, 1000)
    run = train("pretraining_AS2M", *common, expect=1)
    assert f"training cannot resume from {last}" in run.output and "Traceback" not in run.output


@pytest.mark.parametrize("what", ["missing", "folder", "fifo", "link"])
def test_a_run_never_starts_over_where_there_is_a_good_checkpoint(
    clip_manifest: Path, tmp_path: Path, undisturbed: Undisturbed, what: str
) -> None:
    shutil.copytree(undisturbed.folder, tmp_path / "run")
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
    assert_same_end(tmp_path / "run", undisturbed.folder)


def test_a_finished_run_says_so_and_changes_nothing(
    clip_manifest: Path, tmp_path: Path, undisturbed: Undisturbed
) -> None:
    shutil.copytree(undisturbed.folder, tmp_path / "run")
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


def test_weights_are_saved_where_the_optimisers_state_is_not_wanted(clip_manifest: Path, tmp_path: Path) -> None:
    given = (*SMALLEST, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}", "optimization.max_update=3")
    train("pretraining_AS2M", *given, "checkpoint.no_save_optimizer_state=true")
    saved = torch.load(tmp_path / "checkpoint_last.pt")
    assert "last_optimizer_state" not in saved and saved["optimizer_history"][-1]["num_updates"] == 3
    again = train("pretraining_AS2M", *given, expect=1)
    assert "it holds no 'last_optimizer_state'" in again.output and "Traceback" not in again.output


def test_a_full_disk_does_not_end_the_run(clip_manifest: Path, tmp_path: Path, undisturbed: Undisturbed) -> None:
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
        assert "cannot be written (File too large). The run continues" in line
        run.wait_for("no checkpoint after")
        assert not list(tmp_path.glob("*.pt")) and not list(tmp_path.glob(".*.partial"))
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, unlimited)  # room was made
        done = run.finish()
    finally:
        run.close()
    assert done.status == 0 and "Traceback" not in done.output
    assert_same_end(tmp_path, undisturbed.folder)


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
        "common.bf16=false",
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


def test_no_pickle_runs_in_training(
    clip_manifest: Path, tmp_path: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", raising=False)  # which the fairseq layer sets in its process
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # what would switch torch's own guard off
    (tmp_path / "run").mkdir()
    state = torch.load(undisturbed.folder / "checkpoint_last.pt", weights_only=True)
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
