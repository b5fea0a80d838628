"""Holes: rows that fill a batch up where a clip could not be read, or an epoch ended, and count for nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch._dynamo.backends.debugging import aot_eager
from torch._dynamo.utils import counters

from EAT.data.augmentation import Augmentations, AugmentationSettings
from EAT.data.clips import ClipDataset, batch_filterbank
from EAT.data.labelled import LabelledClips
from EAT.data.manifest import Manifest
from EAT.errors import ConfigError
from EAT.network.front_end import FrontEnd
from EAT.network.masking import MASKINGS, Masks, inverse_block
from EAT.network.pretraining import Batch, Pretraining
from EAT.network.settings import PretrainingSettings
from EAT.training.classification_criterion import ClassificationCriterion, ClassificationCriterionConfig

from ..tiny import NETWORK

FRONT_END = FrontEnd(64, -4.268, 4.569)
SLOTS, CLIPS, DAMAGED = 4, 10, (2, 5)
"""Ten clips in batches of four: an unreadable one in each of the first two, a last batch of two."""


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(0)
    lines = [str(tmp_path)]
    for clip in range(CLIPS):
        path = tmp_path / f"{clip}.wav"
        samples = 6000 + 700 * clip
        if clip in DAMAGED:
            path.write_bytes(b"RIFF, and nothing else")
        else:
            soundfile.write(path, 0.1 * rng.standard_normal(samples), 16000)
        lines.append(f"{path.name}\t{samples}")
    (tmp_path / "train.tsv").write_text("\n".join(lines) + "\n")
    return Manifest(tmp_path / "train.tsv")


def batches(dataset: ClipDataset) -> list[dict[str, Any]]:
    order = [range(start, min(start + SLOTS, CLIPS)) for start in range(0, CLIPS, SLOTS)]
    return [dataset.collate([dataset[index] for index in clips]) for clips in order]


def drawn(model: Pretraining, batch: dict[str, Any]) -> Batch:
    return model.draw(
        batch_filterbank(batch, FRONT_END), batch["numbers"], batch["frames"], seed=1, epoch=batch["epoch"],
        drawn=(batch["keys"], Masks(batch["visible"], batch["masked"])) if "keys" in batch else None,
    )  # fmt: skip


def network(**settings: Any) -> Pretraining:
    torch.manual_seed(0)
    return Pretraining(PretrainingSettings(**{**NETWORK, **settings}))


def test_batches_have_one_shape_and_say_what_counts(manifest: Manifest) -> None:
    dataset = ClipDataset(manifest, FRONT_END, slots=SLOTS)
    made = batches(dataset)
    assert {batch["waveforms"].shape for batch in made} == {(SLOTS, FRONT_END.samples)}
    assert [batch["clips"] for batch in made] == [[0, 1, 3], [4, 6, 7], [8, 9]]
    assert [batch["numbers"].tolist() for batch in made] == [[0, 1, 3, 0], [4, 6, 7, 4], [8, 9, 8, 9]]
    assert [(batch["frames"] > 0).tolist() for batch in made] == [[True] * 3 + [False]] * 2 + [
        [True, True, False, False]
    ]
    assert [clip for batch in made for clip, _ in batch["skipped"]] == list(DAMAGED)
    silent = dataset.collate([dataset[2], dataset[5]])
    assert silent["clips"] == [] and silent["waveforms"].shape == (SLOTS, FRONT_END.samples)
    assert not silent["waveforms"].any() and not silent["frames"].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_holes_change_neither_losses_nor_gradients_nor_figures(manifest: Manifest, dtype: torch.dtype) -> None:
    model = network().to(dtype)
    results = []
    for slots in (0, SLOTS):
        for batch in batches(ClipDataset(manifest, FRONT_END, slots=slots)):
            model.zero_grad()
            outcome = model(drawn(model, batch))
            (outcome.terms["frame"] + outcome.terms["utterance"]).backward()
            gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
            results.append((outcome.terms, outcome.watched, gradients))
    half = len(results) // 2
    loose: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    for without, with_holes in zip(results[:half], results[half:], strict=True):
        for one, other in zip(without, with_holes, strict=True):
            for name in one:
                scale = one[name].abs().max().clamp(min=1e-3)
                torch.testing.assert_close(other[name] / scale, one[name] / scale, **loose, msg=name)


def test_a_batch_of_holes_counts_for_nothing(manifest: Manifest) -> None:
    dataset, model = ClipDataset(manifest, FRONT_END, slots=SLOTS), network()
    outcome = model(drawn(model, dataset.collate([dataset[2]])))
    assert [value.item() for value in outcome.terms.values()] == [0.0, 0.0]
    sum(outcome.terms.values(), torch.zeros(())).backward()
    assert not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert all(not sums.any() for sums in outcome.watched.values())


def test_holes_partner_no_one(manifest: Manifest) -> None:
    """A clip is mixed with the same one as in a batch without holes, its targets alike."""
    augmentations = Augmentations(AugmentationSettings(mixup_alpha=0.5, mixup_prob=1.0, noise=0.1, time_mask=0.2))
    labels = {"labels": [[clip % 3] for clip in range(CLIPS)], "classes": 3, "multi_label": False}
    mixed = []
    for slots in (0, SLOTS):
        dataset = LabelledClips(manifest, FRONT_END, augmentations=augmentations, slots=slots, **labels)
        for batch in batches(dataset):
            given = {**batch, "filterbank": batch_filterbank(batch, FRONT_END), "targets": batch["targets"].float()}
            changed, clips = augmentations.apply(given), len(batch["clips"])
            mixed.append((changed["filterbank"][:clips], changed["targets"][:clips]))
            assert ((changed["targets"][:clips] > 0).sum(dim=1) <= 2).all()
    for without, with_holes in zip(mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :], strict=True):
        for one, other in zip(without, with_holes, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["bce_per_positive", "bce_sum", "cross_entropy"])
def test_a_classifiers_loss_leaves_holes_out(loss: str) -> None:
    class Task:
        multi_label = False
        class_weights = staticmethod(lambda source: None)

    config = OmegaConf.merge(OmegaConf.structured(ClassificationCriterionConfig), {"loss": loss})
    criterion = ClassificationCriterion(Task(), config)
    model, x, targets = torch.nn.Linear(5, 3), torch.randn(4, 5), torch.eye(3)[[0, 1, 2, 0]]
    full = criterion(model, {"filterbank": x[:2], "targets": targets[:2], "clips": [7, 8]})
    holes = criterion(model, {"filterbank": x, "targets": targets, "clips": [7, 8]})
    assert float(holes[0]) == pytest.approx(float(full[0])) and int(holes[1]) == int(full[1])
    nothing = criterion(model, {"filterbank": x, "targets": targets, "clips": []})
    assert float(nothing[0]) == 0.0 and int(nothing[1]) == 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_three_epochs_are_one_graph(manifest: Manifest, checkpointing: bool) -> None:
    """No graph break, no compilation after the first batch, forward and backward, and the same losses as without."""
    torch._dynamo.reset()
    counters.clear()
    dataset = ClipDataset(manifest, FRONT_END, slots=SLOTS)
    model = network(activation_checkpointing=checkpointing, compile_or_stop=True).to(torch.bfloat16)
    dataset.drawing = model.drawing(FRONT_END.target_length)
    model.compile(backend="aot_eager")
    expected, losses = [], []
    for epoch in (1, 2, 3):
        dataset.set_epoch(epoch)
        for batch in batches(dataset):
            with torch.no_grad():
                expected.append(model(drawn(model, batch)).terms["frame"])
            terms = model(drawn(model, batch)).terms
            (terms["frame"] + terms["utterance"]).backward()
            losses.append(terms["frame"].detach())
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=0.02, atol=1e-3)


def test_several_devices_share_one_graph_too(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would split it by the parts in which gradients are averaged. The gradients are those without."""
    torch._dynamo.reset()
    graphs: list[Any] = []

    def counting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    monkeypatch.setattr(dist, "_DEFAULT_FIRST_BUCKET_BYTES", 1024)
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        gradients = []
        for compiled in (False, True):
            model = network(compile_or_stop=True)
            if compiled:
                model.compile(backend=counting)
            parallel = torch.nn.parallel.DistributedDataParallel(model, bucket_cap_mb=0.001)
            for batch in batches(ClipDataset(manifest, FRONT_END, slots=SLOTS))[:2]:
                terms = parallel(drawn(model, batch)).terms
                (terms["frame"] + terms["utterance"]).backward()
            gradients.append({name: p.grad for name, p in model.named_parameters()})
    finally:
        dist.destroy_process_group()
    assert len(graphs) == 1
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_what_cannot_be_compiled_says_so_or_stops(
    manifest: Manifest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("EAT"), "disabled", False)  # as other tests' configuration may leave it
    monkeypatch.setattr(logging.getLogger("EAT"), "propagate", True)

    class Peeking(Pretraining):
        def study(self, batch: Batch) -> Any:
            torch._dynamo.graph_break()
            return super().study(batch)

    dataset = ClipDataset(manifest, FRONT_END, slots=SLOTS)
    for or_stop in (False, True):
        torch._dynamo.reset()
        model = Peeking(PretrainingSettings(**NETWORK, compile_or_stop=or_stop))
        model.compile(backend="aot_eager")
        batch = drawn(model, batches(dataset)[0])
        if or_stop:
            with pytest.raises(ConfigError, match=r"torch.compile gave up: .*; set model.compile_or_stop=false"):
                model(batch)
        else:
            model(batch).terms["frame"].backward()
            model(batch)
            assert caplog.text.count("torch.compile gave up, so training continues uncompiled") == 1


def test_masks_drawn_along_with_batches_are_those_of_the_network(manifest: Manifest) -> None:
    model, dataset = network(), ClipDataset(manifest, FRONT_END, slots=SLOTS)
    without = [drawn(model, batch) for batch in batches(dataset)]
    dataset.drawing = model.drawing(FRONT_END.target_length)
    for one, other in zip(without, (drawn(model, batch) for batch in batches(dataset)), strict=True):
        assert torch.equal(other.keys, one.keys)
        assert all(torch.equal(a, b) for a, b in zip(other.masks, one.masks, strict=True))


def test_masks_that_look_at_the_signal_are_left_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MASKINGS, "loud", lambda settings, grid, keys, filterbank: inverse_block(settings, grid, keys))
    assert network(masking="loud").drawing(64) is None
    assert all(network(masking=name).drawing(64) is not None for name in ("inverse_block", "random"))
