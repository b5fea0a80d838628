"""The network against the outputs of the published implementation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from EAT.network.masking import masks_from_map
from EAT.network.pretraining import Pretraining

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


def test_features_and_feed_forward_outputs(model: Pretraining, io: dict[str, torch.Tensor]) -> None:
    output = model.encoder(io["mel"], collect_ffn=True, collect_blocks=True)
    close(output.tokens, io["features"])
    close(torch.stack(output.ffn), io["ffn_outputs"])
    close(output.blocks[-1], io["features"])
    close(model.encoder(io["mel"][:, :, :512]).tokens, io["features_512"])


def test_teacher_targets(model: Pretraining, io: dict[str, torch.Tensor]) -> None:
    close(model.teacher.targets(io["mel"]), io["teacher_targets"])


@pytest.mark.parametrize("checkpointing", [False, True])
def test_losses_deviations_and_every_gradient(
    model: Pretraining, io: dict[str, torch.Tensor], expected: dict, checkpointing: bool
) -> None:
    object.__setattr__(model.encoder.config, "activation_checkpointing", checkpointing)
    masks = masks_from_map(io["mask"].bool().view(2, 4, 512))
    output = model(io["mel"], [0, 1], seed=1, epoch=1, masks=masks)
    weight = 2 * 4  # the published objective sums over the device's clones
    (output.frame_loss + weight * output.utterance_loss).backward()
    assert output.frame_loss.item() == pytest.approx(expected["frame_loss"], rel=1e-4)
    assert weight * output.utterance_loss.item() == pytest.approx(expected["utterance_loss_sum_over_clones"], rel=1e-4)
    assert output.prediction_deviation.item() == pytest.approx(expected["pred_var"], rel=1e-4)
    assert output.target_deviation.item() == pytest.approx(expected["target_var"], rel=1e-4)
    assert masks.masked.numel() == expected["masked_patches"]
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    wanted = {our_name(name): norm for name, norm in expected["grad_norms"].items()}
    assert norms == pytest.approx(wanted, rel=1e-4)


def test_eight_updates_with_adamw_and_moving_average(
    model: Pretraining, io: dict[str, torch.Tensor], expected: dict
) -> None:
    masks = masks_from_map(io["mask"].bool().view(2, 4, 512))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    for step in expected["trajectory"]["steps"]:
        optimizer.zero_grad()
        output = model(io["mel"], [0, 1], seed=1, epoch=1, masks=masks)
        (output.frame_loss + 8 * output.utterance_loss).backward()
        optimizer.step()
        decay = model.update_teacher(step["update"])
        norm = torch.cat([value.flatten() for value in model.teacher.average.values()]).norm()
        assert output.frame_loss.item() == pytest.approx(step["frame_loss"], rel=1e-4)
        assert 8 * output.utterance_loss.item() == pytest.approx(step["utterance_loss"], rel=1e-4)
        assert decay == pytest.approx(step["ema_decay_used"], abs=1e-12)
        assert norm.item() == pytest.approx(step["teacher_param_norm"], rel=1e-4)


def test_the_position_table_is_the_published_one(conformance: Path) -> None:
    from EAT.network.positions import sine_cosine_positions

    state = torch.load(conformance / "official_pretrain.pt")["model"]
    table = state["modality_encoders.IMAGE.fixed_positional_encoder.positions"]
    torch.testing.assert_close(sine_cosine_positions(64), table, rtol=0, atol=1e-6)
