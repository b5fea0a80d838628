"""Batches sent ahead to the device are those that would be taken from the loader, and count when they are taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.data.iterators import BufferedIterator
from hypothesis import given, settings
from hypothesis import strategies as st

from EAT.training.prefetching import Prefetched, sender

from ..conftest import ROOT
from ..fairseq_runs import Run, train
from .survival.running import SMALLEST, write_noise
from .test_clip_batches import LAYOUT, go_on, iterators


class Journal:
    """Sends batches nowhere, and writes down when each was sent and handed out."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.handed_out: list[Any] = []

    def __call__(self, batch: Any) -> Callable[[], Any]:
        self.sent.append(batch)

        def hand_out() -> Any:
            self.handed_out.append(batch)
            return batch

        return hand_out


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_each_is_sent_before_the_one_in_front_of_it_is_handed_out_and_no_earlier(count: int) -> None:
    journal = Journal()
    for place, batch in enumerate(Prefetched(iter(range(count)), journal)):
        assert batch == place and journal.handed_out == list(range(place + 1))
        assert journal.sent == list(range(min(place + 2, count)))
    assert journal.handed_out == list(range(count))


def test_an_error_of_the_loader_loses_no_batch() -> None:
    """The batch in front of it is there still, and the place in the epoch has not moved."""

    def loader() -> Any:
        yield 1
        raise RuntimeError("DataLoader worker is dead")

    batches = Prefetched(loader(), Journal())
    with pytest.raises(RuntimeError):
        next(batches)
    assert list(batches) == [1]


def test_fairseq_s_buffer_is_not_waited_for_beyond_its_end() -> None:
    assert list(Prefetched(BufferedIterator(10, range(3)), Journal())) == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@settings(max_examples=100, deadline=None)
@given(layout=LAYOUT, updates=st.integers(1, 6))
def test_the_place_in_an_epoch_is_that_of_what_was_taken(layout: tuple, updates: int) -> None:
    journals = [Journal() for _ in range(layout[0])]
    plain, ahead = iterators(*layout), iterators(*layout)
    for device, journal in zip(ahead, journals, strict=True):
        device.send = journal
    expected, state = go_on(plain, updates)
    assert go_on(ahead, updates) == (expected, state)
    if state is None:
        return
    assert all(len(journal.sent) - len(journal.handed_out) in (0, 1) for journal in journals)
    resumed = iterators(*layout, send=Journal())
    for device in resumed:
        device.load_state_dict(state)
    assert go_on(resumed, None) == go_on(plain_from(layout, state), None)


def plain_from(layout: tuple, state: dict[str, Any]) -> list[Any]:
    devices = iterators(*layout)
    for device in devices:
        device.load_state_dict(state)
    return devices


def test_a_cpu_has_none() -> None:
    assert sender(cpu=True) is None
    assert torch.cuda.is_available() or sender(cpu=False) is None


MODULE = """
import EAT.models, EAT.tasks, torch
from torch.utils._pytree import tree_map_only
from EAT.training import clip_task

def send(batch):
    copy = tree_map_only(torch.Tensor, torch.clone, batch)
    print("SENT", batch["clips"], flush=True)
    return lambda: copy

clip_task.sender = lambda cpu: send
"""


def test_a_run_stopped_and_resumed_ends_in_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clip that cannot be read, an epoch's short last batch, two batches an update, and buffers in between."""
    lines = write_noise(tmp_path / "clips", 22)
    (tmp_path / "clips" / "3.wav").write_bytes(b"RIFF, and nothing else")
    (tmp_path / "train.tsv").write_text("\n".join([str(tmp_path / "clips"), *lines]) + "\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(name: str, updates: int, ahead: bool) -> Run:
        given = [*SMALLEST, f"task.data={tmp_path}", f"checkpoint.save_dir={tmp_path}/{name}", "task.max_skipped=0.1"]
        given += ["dataset.num_workers=1", "optimization.update_freq=[2]", f"optimization.max_update={updates}"]
        return train("pretraining_AS2M", *given, *[f"common.user_dir={tmp_path}/mine"] * ahead)

    plain = run("plain", 5, ahead=False)
    first, second = run("ahead", 2, ahead=True), run("ahead", 5, ahead=True)
    assert first.output.count("SENT") >= 5 and "SENT" in second.output and "SENT" not in plain.output
    assert first.values("loss") + second.values("loss") == plain.values("loss")
    assert plain.output.count("clip skipped (1 so far)") == 1
    one, other = (torch.load(tmp_path / name / "checkpoint_last.pt") for name in ("plain", "ahead"))
    assert one["extra_state"]["train_iterator"] == other["extra_state"]["train_iterator"]
    for name, value in one["model"].items():
        assert torch.equal(other["model"][name], value), name
