"""SSLAM's second stage against the outputs of the published implementation, and by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from EAT.data.clips import ClipDataset, batch_filterbank
from EAT.data.manifest import Manifest
from EAT.errors import ConfigError
from EAT.network.front_end import FrontEnd
from EAT.network.masking import mask_map, masks_from_map
from EAT.network.mixtures import MixturePretraining, draw_regions, mixed_columns, region_width
from EAT.network.objective import TERMS, WATCHED
from EAT.network.pretraining import Batch, Outcome, Pretraining
from EAT.network.random import batch_key, clone_keys
from EAT.network.settings import PretrainingSettings

from ..published import our_name, published_pretraining
from ..tiny import NETWORK

CLONES = 3
ALL, REGIONS = (0, 1, 2, 3), (11, 34)
"""Of the first batch."""
TINY = PretrainingSettings(**NETWORK, mixtures=True, utterance_blocks=1)


@pytest.fixture
def model(conformance: Path) -> MixturePretraining:
    made = published_pretraining(conformance, MixturePretraining, clone_batch=CLONES, utterance_blocks=1)
    assert isinstance(made, MixturePretraining)
    return made


@pytest.fixture(scope="module")
def io(conformance: Path) -> dict[str, Tensor]:
    with np.load(conformance / "sslam_pretrain_io.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def expected(conformance: Path) -> dict:
    return json.loads((conformance / "sslam_pretrain_expected.json").read_text())


def close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual.detach(), wanted, rtol=0, atol=1e-4)


def batch(
    model: MixturePretraining, io: dict[str, Tensor], clips: Sequence[int] = ALL, regions: Sequence[int] = REGIONS
) -> Batch:
    """The stored filterbanks, mixed outside of stored regions, with the stored masks."""
    chosen = list(clips)
    mel, mask = io["mel"].float()[chosen], io["mask"].bool().view(4, CLONES, 512)[chosen]
    drawn = Pretraining.draw(model, mel, clips, seed=1, epoch=1)._replace(masks=masks_from_map(mask))
    return model.mix(drawn, mixed_columns(torch.tensor(regions), 64))


def step(model: MixturePretraining, io: dict[str, Tensor], device: dict) -> tuple[Outcome, Tensor]:
    """One device's part of an update: its outcome, and the published objective, which sums the utterance term."""
    made = batch(model, io, device.get("clips", ALL), device["regions"])
    outcome = model(made, tuple(TERMS))
    assert made.masks.masked.numel() == device.get("masked_patches", 9840)
    terms = outcome.terms
    clones = made.keys.numel()
    close_to = {
        "frame_loss": terms["frame"],
        "retention_loss": terms["retention"],
        "utterance_loss_sum_over_clones": clones * terms["utterance"],
    }
    for name, value in close_to.items():
        assert value.item() == pytest.approx(device[name], rel=1e-4), name
    return outcome, terms["frame"] + terms["retention"] + clones * terms["utterance"]


def deviations(outcome: Outcome) -> dict[str, float]:
    return {k: v.item() for name, sums in outcome.watched.items() for k, v in WATCHED[name].values(sums).items()}


def gradient_norm(model: Pretraining) -> float:
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]).item()


def test_mixtures(model: MixturePretraining, io: dict[str, Tensor]) -> None:
    made = batch(model, io)
    assert torch.equal(made.filterbank, torch.cat([io["mel"], io["mixture"]]).float())
    assert torch.equal(mask_map(made.masks)[4:], io["mask"].bool().view(4, CLONES, 512))


def test_targets(model: MixturePretraining, io: dict[str, Tensor]) -> None:
    made = batch(model, io)
    targets = model.teach(made, ("retention",))
    close(targets["frame"], io["frame_targets"])
    close(targets["utterance"], io["utterance_targets"])
    close(targets["retention"], io["retention_targets"])
    visible = (made.mixed[:, None] * 8 + torch.arange(8)).flatten().expand(4, 1, -1)
    close(model.targets(model.teacher.encoder, made.filterbank[:4], visible)["frame"], io["cropped_targets"])


def test_student(model: MixturePretraining, io: dict[str, Tensor]) -> None:
    made = batch(model, io)
    student = model.study(made)
    close(student.cls.flatten(0, 1), io["cls_outputs"])
    masked = made.masks.masked.flatten(0, 1)
    for stored, sequence in zip(io["predictions"], (0, 12), strict=True):
        close(student.predictions[sequence], stored[masked[sequence]])


def test_losses_deviations_and_every_gradient_in_full(
    model: MixturePretraining, io: dict[str, Tensor], expected: dict, conformance: Path
) -> None:
    first = expected["first_batch"]
    outcome, loss = step(model, io, first)
    assert loss.item() == pytest.approx(first["loss"], rel=1e-4)
    watched = deviations(outcome)
    assert watched["prediction_std"] == pytest.approx(first["pred_var"], rel=1e-4)
    assert watched["target_std"] == pytest.approx(first["target_var"], rel=1e-4)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    with np.load(conformance / "sslam_gradients.npz") as stored:
        wanted = {our_name(name): torch.from_numpy(stored[name]) for name in stored}
    assert gradients.keys() == wanted.keys()
    norms = {our_name(name): norm for name, norm in first["grad_norms"].items()}
    for name, gradient in gradients.items():
        assert (gradient - wanted[name]).norm() <= 1e-4 * wanted[name].norm(), name
        assert gradient.norm().item() == pytest.approx(norms[name], rel=1e-4), name
    assert gradient_norm(model) == pytest.approx(first["grad_norm"], rel=1e-4)


@pytest.mark.parametrize(("term", "weight"), [("frame", 1), ("retention", 1), ("utterance", 2 * 4 * CLONES)])
def test_the_gradient_of_each_term(
    model: MixturePretraining, io: dict[str, Tensor], expected: dict, term: str, weight: float
) -> None:
    (weight * model(batch(model, io), (term,)).terms[term]).backward()
    stored = {name.split("_")[0]: norm for name, norm in expected["first_batch"]["grad_norm_of_each_term"].items()}
    assert gradient_norm(model) == pytest.approx(stored[term], rel=1e-4)


CASES = [*(("regions", number) for number in range(7)), ("one_clip", None), ("two_clips", None)]
CASES += [("two_devices_equal", None), ("two_devices_unequal", None)]


@pytest.mark.parametrize(("case", "number"), CASES)
def test_other_regions_clips_and_devices(
    model: MixturePretraining, io: dict[str, Tensor], expected: dict, case: str, number: int | None
) -> None:
    """Devices weigh as much as they have masked patches, that is, clips."""
    stored = expected[case] if number is None else expected[case][number]
    clips = sum(len(device["clips"]) for device in stored["devices"])
    means = dict.fromkeys(("frame", "retention"), 0.0)
    for device in stored["devices"]:
        outcome, loss = step(model, io, device)
        share = len(device["clips"]) / clips
        (share * loss).backward()
        means = {name: total + share * outcome.terms[name].item() for name, total in means.items()}
    assert gradient_norm(model) == pytest.approx(stored["grad_norm"], rel=1e-4)
    assert means["frame"] == pytest.approx(stored["frame_loss"], rel=1e-4)
    assert means["retention"] == pytest.approx(stored["retention_loss"], rel=1e-4)


def test_eight_updates_with_adamw_and_moving_average(
    model: MixturePretraining, io: dict[str, Tensor], expected: dict
) -> None:
    trajectory = expected["trajectory"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)

    def total(values: list[Tensor]) -> float:
        return torch.nn.utils.get_total_norm(values).item()

    average = list(model.teacher.average.values())
    assert total(average) == pytest.approx(trajectory["teacher_param_norm_at_start"], rel=1e-4)
    for stored in trajectory["steps"]:
        optimizer.zero_grad()
        outcome, loss = step(model, io, stored)
        loss.backward()
        assert gradient_norm(model) == pytest.approx(stored["grad_norm"], rel=1e-4)
        watched = deviations(outcome)
        assert watched["prediction_std"] == pytest.approx(stored["pred_var"], rel=1e-4)
        assert watched["target_std"] == pytest.approx(stored["target_var"], rel=1e-4)
        optimizer.step()
        assert model.update_teacher(stored["update"]) == pytest.approx(stored["ema_decay_used"], abs=1e-12)
        parameters = [parameter.detach() for parameter in model.parameters()]
        assert total(parameters) == pytest.approx(stored["student_param_norm"], rel=1e-4)
        assert total(list(model.teacher.average.values())) == pytest.approx(stored["teacher_param_norm"], rel=1e-4)
    student = dict(model.named_parameters())
    teacher = {f"encoder.{name}": value for name, value in model.teacher.average.items()}
    for which, tensors in (("student", student), ("teacher", teacher)):
        for name, norm in trajectory[f"{which}_tensor_norms_at_end"].items():
            assert tensors[our_name(name)].norm().item() == pytest.approx(norm, rel=1e-4), (which, name)


def test_regions_are_those_of_the_published_code_and_all_there() -> None:
    drawn = [draw_regions(64, key).tolist() for key in clone_keys(1, 1, torch.arange(6000), 1)[:, 0]]
    assert region_width(64) == 15
    assert {first for first, _ in drawn} == set(range(32))
    for first, second in drawn:
        assert first + 15 <= second <= 48
        assert len(mixed_columns(torch.tensor([first, second]), 64)) == 34
    assert {second for first, second in drawn if first == 31} == {46, 47, 48}
    # uniform: the first's mean is 15.5 with standard deviation 9.23, so that of 6,000 lies within 3 * 0.12
    assert sum(first for first, _ in drawn) / len(drawn) == pytest.approx(15.5, abs=0.36)
    given = [second for first, second in drawn if first == 8]  # uniform over 23, ..., 48
    assert sum(given) / len(given) == pytest.approx(35.5, abs=3 * 7.5 / len(given) ** 0.5)


@pytest.mark.parametrize("time", [1, 2, 4, 5, 8, 32, 100])
def test_regions_of_other_lengths(time: int) -> None:
    width = 15 * time // 64
    for key in clone_keys(1, 1, torch.arange(200), 1)[:, 0]:
        first, second = draw_regions(time, key).tolist()
        assert 0 <= first < max(1, time // 2) and first + width <= second <= time - width - 1
        mixed = mixed_columns(torch.tensor([first, second]), time).tolist()
        assert mixed == [c for c in range(time) if not (first <= c < first + width or second <= c < second + width)]
        assert mixed[-1] == time - 1


def test_the_batch_and_its_order_decide_on_the_regions() -> None:
    first = batch_key(1, 2, torch.tensor([3, 9, 4]))
    assert torch.equal(batch_key(1, 2, torch.tensor([3, 9, 4])), first)
    others = [(1, 3, [3, 9, 4]), (2, 2, [3, 9, 4]), (1, 2, [9, 3, 4]), (1, 2, [3, 9]), (1, 2, [3, 9, 5])]
    keys = {int(batch_key(seed, epoch, torch.tensor(clips))) for seed, epoch, clips in others}
    assert len(keys | {int(first)}) == 6


def test_what_is_drawn_for_clips_and_mixtures() -> None:
    model = MixturePretraining(TINY)
    x = torch.randn(3, 1, 128, 128)
    made, clean = (kind.draw(model, x, [3, 9, 4], seed=1, epoch=1) for kind in (MixturePretraining, Pretraining))
    assert torch.equal(made.filterbank[:3], x) and made.filterbank.shape == (6, 1, 128, 128)
    for half in (made.masks.masked[:3], made.masks.masked[3:]):
        assert torch.equal(half, clean.masks.masked)
    assert torch.equal(made.keys[:3], clean.keys)
    assert len(set(made.keys.flatten().tolist())) == 12  # noise of its own for every clone of every view
    again = model.draw(x, [3, 9, 4], seed=1, epoch=1)
    assert torch.equal(again.filterbank, made.filterbank) and torch.equal(again.keys, made.keys)
    halves = model.draw(x[:1], [3], seed=1, epoch=1)  # alone, a clip is its own neighbour
    assert torch.equal(halves.filterbank[0], halves.filterbank[1])


def columns(*values: float) -> Tensor:
    """A filterbank whose columns of 16 frames hold these values: (1, 1, 16 * columns, 128)."""
    return torch.tensor(values).repeat_interleave(16)[None, None, :, None].expand(1, 1, -1, 128)


@pytest.mark.parametrize(("foreign_padding", "second"), [(True, [5, 6, 5, 8]), (False, [5, 6, 2, 8])])
def test_a_neighbours_padding_by_hand(foreign_padding: bool, second: list[float]) -> None:
    model = MixturePretraining(PretrainingSettings(**NETWORK, mixtures=True, foreign_padding=foreign_padding))
    clips = torch.cat([columns(1, 1, 5, 5), columns(5, 6, 2, 8)])
    frames = torch.tensor([32, 64])  # the first clip ends after two columns
    drawn = Pretraining.draw(model, clips, [0, 1], frames, seed=1, epoch=1)
    made = model.mix(drawn, torch.tensor([0, 2, 3]))
    assert made.filterbank[2, 0, ::16, 0].tolist() == [5, 1, 5, 8]  # its own padding stays
    assert made.filterbank[3, 0, ::16, 0].tolist() == second
    targets = model.teach(made, ("retention",))
    own, kept = targets["frame"][1].view(4, 8, -1), targets["retention"][1].view(4, 8, -1)
    same = [torch.equal(a, b) for a, b in zip(own, kept, strict=True)]
    assert same == [False, True, not foreign_padding, not foreign_padding]


def test_a_clip_that_cannot_be_read_partners_no_one(clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.flac").write_bytes(b"fLaC" + bytes(200))
    names = [str(clips[0]), str(tmp_path / "broken.flac"), str(clips[1])]
    (tmp_path / "train.tsv").write_text("\n".join([str(tmp_path), *(f"{name}\t16000" for name in names)]) + "\n")
    dataset = ClipDataset(Manifest(tmp_path / "train.tsv", True), FrontEnd(128))
    read = dataset.collate([dataset[number] for number in range(3)])
    assert read["clips"] == [0, 2] and [number for number, _ in read["skipped"]] == [1]
    filterbank = batch_filterbank(read, dataset.front_end)
    made = MixturePretraining(TINY).draw(filterbank, read["clips"], seed=1, epoch=1)
    columns, both = made.filterbank.unflatten(2, (8, 16)), filterbank.amax(dim=0).unflatten(1, (8, 16))
    for mixture in columns[2:]:  # of the two that could be read
        assert torch.equal(mixture[:, made.mixed], both[:, made.mixed])


def test_the_teacher_hears_a_neighbour_in_mixed_columns_alone() -> None:
    torch.manual_seed(0)
    model = MixturePretraining(TINY)
    clips = torch.randn(2, 1, 64, 128)
    drawn = Pretraining.draw(model, clips, [0, 1], seed=1, epoch=1)
    before = model.teach(model.mix(drawn, torch.tensor([0, 3])), ("retention",))["retention"]
    clips[0, :, 16:48] += 1.0  # where the second clip does not hear it
    after = model.teach(model.mix(drawn, torch.tensor([0, 3])), ("retention",))["retention"]
    assert torch.equal(after[1], before[1]) and not torch.allclose(after[0], before[0])


def test_figures_of_learning_are_those_of_the_clips() -> None:
    torch.manual_seed(0)
    model, plain = MixturePretraining(TINY), Pretraining(TINY)
    plain.load_state_dict(model.state_dict())
    x, frames = torch.randn(4, 1, 128, 128), torch.tensor([128, 128, 40, 128])
    mixed, alone = (deviations(m(m.draw(x, range(4), frames, seed=1, epoch=1))) for m in (model, plain))
    for name in ("frame_position_fraction", "frame_clip_fraction", "frame_skill", "utterance_clip_fraction",
                 "utterance_skill"):  # fmt: skip
        assert mixed[name] == pytest.approx(alone[name], abs=1e-4), name


def test_retention_costs_nothing_where_it_is_not_wanted_and_needs_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MixturePretraining(TINY)
    made = model.draw(torch.randn(2, 1, 64, 128), [0, 1], seed=1, epoch=1)
    monkeypatch.setattr(MixturePretraining, "retain", None)  # called, it would fail
    assert set(model(made).terms) == {"frame", "utterance"}
    plain = Pretraining(TINY)
    with pytest.raises(ConfigError, match=r"set model\.mixtures=true, or criterion\.weights\.retention=0"):
        plain(plain.draw(torch.randn(2, 1, 64, 128), [0, 1], seed=1, epoch=1), ("frame", "retention"))


@pytest.mark.parametrize(("blocks", "sentence"), [(-1, "is a number of blocks"), (3, "but the model has 2 blocks")])
def test_utterance_blocks_that_are_not_there(blocks: int, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        PretrainingSettings(**NETWORK, utterance_blocks=blocks)


def test_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    model = MixturePretraining(TINY)
    x = torch.randn(3, 1, 128, 128)
    exact = model(model.draw(x, [0, 1, 2], seed=1, epoch=1), tuple(TERMS)).terms
    model.bfloat16()
    half = model.draw(x, [0, 1, 2], seed=1, epoch=1)
    assert half.filterbank.dtype == torch.bfloat16
    for name, value in model(half, tuple(TERMS)).terms.items():
        assert value.dtype == torch.float32 and value.item() == pytest.approx(exact[name].item(), rel=0.02), name
