"""Tables of events: reading, what is refused, targets of time steps by hand, and batches of crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from EAT.commands.prepare import main as prepare
from EAT.data.augmentation import Augmentations, AugmentationSettings
from EAT.data.events import Event, read_events, step_targets, write_events
from EAT.data.labelled import ClipsWithEvents
from EAT.data.labels import Label, read_descriptors
from EAT.data.manifest import Manifest
from EAT.errors import DataError
from EAT.network.front_end import FrontEnd

from ..scenes import write_scenes

LABELS = [Label(0, "dog", "Dog"), Label(1, "bell", "Bell")]
HEADER = "filename\tonset\toffset\tevent_label\n"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "train.tsv").write_text(f"{tmp_path}\na/one.wav\t16000\na/two.wav\t16000\nb/two.wav\t16000\n")
    return Manifest(tmp_path / "train.tsv")


def read(manifest: Manifest, text: str) -> list[list[Event]]:
    path = Path(manifest.root) / "train.events.tsv"
    path.write_text(text)
    return read_events(path, manifest, LABELS)


def test_events_in_any_order_under_any_name_of_a_clip(manifest: Manifest) -> None:
    lines = "one\t2\t3.5\tbell\nb/two.wav\t0\t0.25\tdog\none.wav\t1\t2.5\tbell\na/one\t0.5\t9\tdog\na/two\t\t\t\n"
    found = read(manifest, HEADER + lines)
    assert found == [[Event(0.5, 9.0, 0), Event(1.0, 3.5, 1)], [], [Event(0.0, 0.25, 0)]]  # a bell that rings on is one
    audioset = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    assert read(manifest, audioset + lines) == found
    turned = "event_label\tfilename\toffset\tonset\ndog\tb/two\t0.25\t0\n"
    assert read(manifest, turned) == [[], [], [Event(0.0, 0.25, 0)]]
    named = [(manifest.name(0), [(0.5, 9.0, "dog"), (1.0, 3.5, "bell")]), ("a/two.wav", []), ("b/two.wav", [])]
    write_events(Path(manifest.root) / "written.tsv", named)
    assert read_events(Path(manifest.root) / "written.tsv", manifest, LABELS)[:2] == found[:2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must name the columns filename, onset, offset, event_label"),
        ("one.wav\t0\t1\tdog\n", "must name the columns"),
        (HEADER + "one\t1\t1\tdog\n", "line 2 .* a later offset and a label"),
        (HEADER + "one\t-1\t1\tdog\n", "line 2 .* an onset of 0 s or more"),
        (HEADER + "one\t0\tinf\tdog\n", "line 2"),
        (HEADER + "one\t0\tnan\tdog\n", "line 2"),
        (HEADER + "one\tzero\t1\tdog\n", "line 2"),
        (HEADER + "one\t0\t1\n", "line 2"),
        (HEADER + "\t0\t1\tdog\n", "line 2"),
        (HEADER + "\none\t0\t1\tcat\n", "line 3 .* label 'cat', which is not in the label descriptors"),
        (HEADER + "three\t0\t1\tdog\n", "clip 'three', which is not in the manifest"),
        (HEADER + "two\t0\t1\tdog\n", "clip 'two', which is the name of several clips"),
    ],
)
def test_tables_that_cannot_be_used(manifest: Manifest, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(manifest, text)


def test_a_table_that_is_not_there(manifest: Manifest) -> None:
    with pytest.raises(DataError, match=r"nothing\.tsv cannot be read"):
        read_events("nothing.tsv", manifest, LABELS)


def test_targets_by_hand() -> None:
    """A step of 160 ms has what is heard at its beginning, both ends included; nothing that is heard is lost."""
    events = [Event(0.16, 0.32, 0), Event(0.5, 0.81, 1), Event(0.85, 0.9, 0), Event(1.5, 9.0, 0)]
    dog = [0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 1, 1]
    bell = [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0]
    assert step_targets(events, 2, 12, 0.16).T.tolist() == [dog, bell]
    assert step_targets(events, 2, 4, 0.16, start=0.32).T.tolist() == [dog[2:6], bell[2:6]]
    assert step_targets(events, 2, 4, 0.16, start=-0.32).T.tolist() == [[0, 0, 0, 1], [0] * 4]
    assert step_targets([], 2, 3, 0.16).sum() == 0


def test_targets_follow_a_random_crop(tmp_path: Path) -> None:
    """Where a cut-out scene is loud, its targets say so: the crop moves them along."""
    write_scenes(tmp_path / "scenes", 6)
    assert prepare(["folder", str(tmp_path / "scenes"), str(tmp_path / "data"), "--events",
                    str(tmp_path / "events.tsv"), "--eval", "0", "--num-workers", "0"]) == 0  # fmt: skip
    manifest = Manifest(tmp_path / "data" / "train.tsv")
    labels = read_descriptors(tmp_path / "data" / "label_descriptors.csv")
    events = read_events(tmp_path / "data" / "train.events.tsv", manifest, labels)
    assert [len(clip) for clip in events] == [0, 2, 2, 0, 2, 2] and not (tmp_path / "data" / "train.lbl").exists()
    clips = ClipsWithEvents(manifest, FrontEnd(208), "random", events=events, classes=3, patch_size=16)
    agree = []
    for epoch in (1, 2, 3):
        clips.set_epoch(epoch)
        batch = clips.collate([clips[number] for number in range(6)])
        assert batch["targets"].shape == (6, 13, 3) and batch["targets"].dtype == torch.uint8
        steps = batch["waveforms"].view(torch.float32)[:, : 13 * 2560].unflatten(1, (13, 2560))
        loud = steps[:, :, :160].abs().amax(dim=2) > 0.05  # at the beginning of each step
        heard = batch["targets"].any(dim=2)
        agree.append((loud == heard).float().mean())
        assert not heard[0].any()
    assert np.mean(agree) > 0.85  # sounds die away


def test_mixing_mixes_targets_of_time_steps() -> None:
    mixing = Augmentations(AugmentationSettings(mixup_alpha=0.8, mixup_prob=1.0))
    drawn = {name: torch.zeros(2, 4, dtype=torch.float64) for name in mixing.chain}
    drawn["mixup"][:] = 0.25
    targets = torch.tensor([[[1.0], [0.0]], [[0.0], [0.0]]])
    mixed = mixing.apply({"filterbank": torch.zeros(2, 1, 32, 128), "targets": targets, "drawn": drawn})
    assert mixed["targets"].flatten().tolist() == [0.25, 0.0, 0.75, 0.0]
