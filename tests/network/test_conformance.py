"""The network against the outputs of the published implementation."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from EAT.network.acceleration import plain
from EAT.network.masking import masks_from_map
from EAT.network.objective import WATCHED
from EAT.network.patches import Grid
from EAT.network.positions import sine_cosine
from EAT.network.pretraining import Batch, Pretraining

from ..published import our_name, published_pretraining


@pytest.fixture
def model(conformance: Path) -> Pretraining:
    return published_pretraining(conformance)


@pytest.fixture(scope="module")
def io(conformance: Path) -> dict[str, torch.Tensor]:
    with np.load(conformance / "official_pretrain_io.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def expected(conformance: Path) -> dict:
    return json.loads((conformance / "official_pretrain_expected.json").read_text())


def close(actual: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(actual.detach(), wanted, rtol=0, atol=1e-4)


def batch(model: Pretraining, io: dict[str, torch.Tensor]) -> Batch:
    """The stored filterbanks with the stored masks in place of drawn ones."""
    masks = masks_from_map(io["mask"].bool().view(2, 4, 512))
    return model.draw(io["mel"], [0, 1], seed=1, epoch=1)._replace(masks=masks)


def test_features_and_feed_forward_outputs(model: Pretraining, io: dict[str, torch.Tensor]) -> None:
    output = model.encoder(io["mel"], collect=True)
    close(output.tokens, io["features"])
    close(torch.stack(output.feed_forward), io["ffn_outputs"])
    close(output.blocks[-1], io["features"])
    close(model.encoder(io["mel"][:, :, :512]).tokens, io["features_512"])


def test_teacher_targets(model: Pretraining, io: dict[str, torch.Tensor]) -> None:
    targets = model.teach(batch(model, io))
    close(targets["frame"], io["teacher_targets"])
    close(targets["utterance"], io["teacher_targets"].mean(dim=1))


@pytest.mark.parametrize(("checkpointing", "accelerated"), [(False, True), (True, True), (False, False)])
def test_losses_standard_deviations_and_every_gradient(
    model: Pretraining, io: dict[str, torch.Tensor], expected: dict, checkpointing: bool, accelerated: bool
) -> None:
    model.settings.activation_checkpointing = checkpointing
    step = batch(model, io)
    with contextlib.nullcontext() if accelerated else plain():
        terms, watched = model(step)
        weight = 2 * 4  # the published objective sums over the device's clones
        (terms["frame"] + weight * terms["utterance"]).backward()
    assert terms["frame"].item() == pytest.approx(expected["frame_loss"], rel=1e-4)
    assert weight * terms["utterance"].item() == pytest.approx(expected["utterance_loss_sum_over_clones"], rel=1e-4)
    values = {
        name: value.item() for kind, sums in watched.items() for name, value in WATCHED[kind].values(sums).items()
    }
    assert values["prediction_std"] == pytest.approx(expected["pred_var"], rel=1e-4)
    assert values["target_std"] == pytest.approx(expected["target_var"], rel=1e-4)
    assert step.masks.masked.numel() == expected["masked_patches"]
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    wanted = {our_name(name): norm for name, norm in expected["grad_norms"].items()}
    assert norms == pytest.approx(wanted, rel=1e-4)


def test_eight_updates_with_adamw_and_moving_average(
    model: Pretraining, io: dict[str, torch.Tensor], expected: dict
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    for step in expected["trajectory"]["steps"]:
        optimizer.zero_grad()
        terms = model(batch(model, io)).terms
        (terms["frame"] + 8 * terms["utterance"]).backward()
        optimizer.step()
        decay = model.update_teacher(step["update"])
        norm = torch.cat([value.flatten() for value in model.teacher.average.values()]).norm()
        assert terms["frame"].item() == pytest.approx(step["frame_loss"], rel=1e-4)
        assert 8 * terms["utterance"].item() == pytest.approx(step["utterance_loss"], rel=1e-4)
        assert decay == pytest.approx(step["ema_decay_used"], abs=1e-12)
        assert norm.item() == pytest.approx(step["teacher_param_norm"], rel=1e-4)


def test_the_position_table_is_the_published_one(conformance: Path) -> None:
    state = torch.load(conformance / "official_pretrain.pt")["model"]
    table = state["modality_encoders.IMAGE.fixed_positional_encoder.positions"]
    torch.testing.assert_close(sine_cosine(64, Grid(768, 8)), table, rtol=0, atol=1e-6)
