"""A place in an epoch holds for any number of devices, clips a batch and batches an update."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator, GroupedIterator
from fairseq.tasks import FairseqTask
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch.utils.data import DataLoader, Dataset

from EAT.training.clip_batches import AwaitedBatches, ClipBatches
from EAT.training.prefetching import Send
from EAT.training.pretraining_task import EATPretrainingConfig, EATPretrainingTask

from ..fairseq_runs import train
from .survival.running import SMALLEST, losses

CLIPS, EPOCH = 53, 3
LAYOUT = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 3))


def iterators(devices: int, batch_size: int, frequency: int, send: Send | None = None) -> list[ClipBatches]:
    """One of each device, over clips that are their own numbers."""
    order = np.random.default_rng(EPOCH).permutation(CLIPS)
    batches = [order[first : first + batch_size] for first in range(0, CLIPS, batch_size)]
    shared = {"dataset": Numbers(), "collate_fn": list, "num_shards": devices, "epoch": EPOCH}
    plain = (EpochBatchIterator(**shared, batch_sampler=lambda *_: batches, shard_id=shard) for shard in range(devices))
    return [ClipBatches(one, [frequency], send=send) for one in plain]


class Numbers(Dataset):
    def __getitem__(self, index: int) -> int:
        return int(index)

    def __len__(self) -> int:
        return CLIPS


def go_on(devices: list[ClipBatches], updates: int | None) -> tuple[list[set[int]], dict | None]:
    """The clips of each update, and the state after so many; None: to the epoch's end."""
    frequency = devices[0].update_freq[0]
    grouped = [GroupedIterator(device.next_epoch_itr(), frequency) for device in devices]
    heard: list[set[int]] = []
    while grouped[0].has_next() and len(heard) != updates:
        assert all(one.has_next() for one in grouped)
        clips = [clip for one in grouped for batch in next(one) for clip in batch]
        assert len(set(clips)) == len(clips)
        heard.append(set(clips))
    if not grouped[0].has_next():
        return heard, None
    states = [device.state_dict() for device in devices]
    assert all(state == states[0] for state in states)
    return heard, states[0]


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@settings(max_examples=200, deadline=None)
@given(layouts=st.lists(st.tuples(LAYOUT, st.integers(1, 5)), min_size=1, max_size=4), last=LAYOUT)
def test_every_clip_is_heard_once_an_epoch_however_it_is_shared_out(layouts: list, last: tuple) -> None:
    heard: list[set[int]] = []
    state = None
    for layout, updates in [*layouts, (last, None)]:
        devices = iterators(*layout)
        for device in devices if state else ():
            device.load_state_dict(state)
        more, state = go_on(devices, updates)
        heard += more
        if state is None:
            break
    assert sorted(clip for update in heard for clip in update) == list(range(CLIPS))


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@settings(max_examples=100, deadline=None)
@given(one=LAYOUT, updates=st.integers(1, 6), earlier=st.booleans())
def test_as_many_clips_an_update_are_the_same_clips(one: tuple, updates: int, earlier: bool) -> None:
    devices, batch_size, frequency = one
    whole, _ = go_on(iterators(*one), None)
    begun = iterators(*one)
    before, state = go_on(begun, updates)
    if state is None:
        return
    if earlier:  # as release 1.0 kept its place, and what its checkpoint says of the run
        state = {name: state[name] for name in ("epoch", "iterations_in_epoch", "shuffle", "version")}
        state |= {"devices": devices, "batch_size": batch_size}
    swapped = iterators(frequency, batch_size, devices)
    for device in swapped:
        device.load_state_dict(state)
    after, _ = go_on(swapped, None)
    assert before + after == whole


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.parametrize("devices", [1, 3])
def test_every_epoch_is_in_fairseq_s_own_order(clip_manifest: Path, devices: int) -> None:
    """Epoch after epoch, from one iterator that fairseq keeps and from the next."""

    def epochs(iterator_of: Callable[[FairseqTask, FairseqDataset, int], EpochBatchIterator]) -> list[list[list[int]]]:
        given = {"data": str(clip_manifest), "norm_mean": 0.0, "norm_std": 1.0, "target_length": 64}
        of_other_sections = {"seed": 1, "train_subset": "train", "update_freq": [1], "cpu": True, "batch_size": 4,
                             "max_update": 9}  # fmt: skip
        cfg = OmegaConf.structured(EATPretrainingConfig(**given, **of_other_sections))
        task = EATPretrainingTask(cfg)
        task.load_dataset("train")
        found, epoch = [], 1
        for _ in range(3):
            iterator = iterator_of(task, task.dataset("train"), epoch)
            counting = iterator.next_epoch_itr()
            found.append([list(map(int, batch)) for batch in iterator.epoch_batch_sampler])
            counting.n = counting.total
            epoch = iterator.next_epoch_idx
        return found

    given = {"max_sentences": 4, "seed": 1, "num_shards": devices, "shard_id": devices - 1}
    ours = epochs(lambda task, dataset, epoch: task.get_batch_iterator(dataset, epoch=epoch, **given))
    theirs = epochs(lambda task, dataset, epoch: FairseqTask.get_batch_iterator(task, dataset, epoch=epoch, **given))
    assert ours == theirs
    assert ours[0] != ours[1] != ours[2]


def test_another_order_of_clips_is_refused() -> None:
    (begun,) = iterators(1, 4, 1)
    _, state = go_on([begun], 5)
    for changed in ({"order": 0}, {"clips": CLIPS}):
        with pytest.raises(SystemExit):
            iterators(1, 4, 1)[0].load_state_dict({**state, **changed})


def test_a_manifest_that_changed_inside_an_epoch_is_refused(tmp_path: Path, clip_manifest: Path) -> None:
    lines = (clip_manifest / "train.tsv").read_text().splitlines()
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    given = (*SMALLEST, f"task.data={tmp_path}", f"checkpoint.save_dir={tmp_path}/run")
    train("pretraining_AS2M", *given, "optimization.max_update=5")
    (tmp_path / "train.tsv").write_text("\n".join(lines[:30]) + "\n")
    run = train("pretraining_AS2M", *given, "optimization.max_update=8", expect=1)
    said = "the run stopped inside epoch 1, after 20 of its clips, and this epoch has other clips now"
    assert said in run.output and "Traceback" not in run.output and losses(run.output) == {}
    run = train("pretraining_AS2M", *given, "optimization.max_update=8", "checkpoint.reset_dataloader=true")
    assert list(losses(run.output)) == [6, 7, 8]


def test_another_batch_goes_on_from_the_right_clip(clip_manifest: Path, tmp_path: Path) -> None:
    given = (*SMALLEST, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}")
    train("pretraining_AS2M", *given, "optimization.max_update=5")
    run = train("pretraining_AS2M", *given, "dataset.batch_size=8", "optimization.max_update=18")
    said = "epoch 1 began in batches of 4 clips a device and continues, after 20 clips, in batches of 8"
    assert said in run.output
    assert len(losses(run.output)) == 13 and "end of epoch 1 " in run.output  # 104 clips are left, of 124


@pytest.mark.parametrize(("taken", "frequency", "left"), [(50, 2, 50), (51, 2, 50), (32, 3, 30), (0, 2, 0)])
def test_batches_of_an_update_that_has_not_all_of_them_are_given_back(taken: int, frequency: int, left: int) -> None:
    batches = ClipBatches.__new__(ClipBatches)
    batches.epoch, batches.update_freq, batches._cur_epoch_itr = 1, [frequency], SimpleNamespace(n=taken)
    batches.back_to_update()
    assert batches._cur_epoch_itr.n == left


class Slow(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        time.sleep(0.2 if index else 0)
        return index


def test_a_worker_s_death_is_raised_while_a_batch_is_waited_for_and_only_then() -> None:
    loader = DataLoader(Slow(), num_workers=1, prefetch_factor=1)
    batches = AwaitedBatches(iter(loader))
    assert next(batches).item() == 0
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(20):  # its signal comes between any two lines of these
        time.sleep(0.05)
    with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid {worker.pid}\) is killed by signal: Killed"):
        next(batches)
