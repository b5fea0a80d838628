"""The classifier's learning rates and weight decay, tensor by tensor, and its frozen encoder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from EAT.errors import ConfigError
from EAT.network.settings import FineTuningSettings
from EAT.training.adamw import EATAdamW, EATAdamWConfig
from EAT.training.classification_model import EATClassificationModel, EATClassificationModelConfig
from EAT.training.parameter_groups import parameter_groups

from ..published import our_bat_name


def build(**settings) -> EATClassificationModel:
    return EATClassificationModel.build_model(
        OmegaConf.merge(OmegaConf.structured(EATClassificationModelConfig), settings)
    )


@pytest.mark.parametrize("decayed", ["all", "matrices"])
def test_rates_and_decay_of_every_tensor_of_the_base_model(decayed: str) -> None:
    with torch.device("meta"):
        model = build(num_classes=527, layer_decay=0.65)
    config = OmegaConf.merge(
        OmegaConf.structured(EATAdamWConfig), {"lr": [5e-5], "weight_decay": 0.05, "decayed": decayed}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", without_fused(torch.optim.AdamW))  # no fused kernel on meta tensors
        optimizer = EATAdamW(config, model.parameters())
    optimizer.set_lr(2e-5)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    table = []
    for name, parameter in model.named_parameters():
        group = groups.pop(id(parameter))
        block = re.match(r"encoder\.blocks\.(\d+)\.", name)
        expected = 0.65 ** (12 - int(block[1])) if block else 1.0
        assert group["lr"] == pytest.approx(2e-5 * expected, rel=1e-12), name
        one_dimensional = len(parameter.shape) == 1 or name.endswith("bias")
        assert group["weight_decay"] == (0.0 if one_dimensional and decayed == "matrices" else 0.05), name
        table.append(f"{name:45s} lr x {group['lr_scale']:.6f}  decay {group['weight_decay']}")
    assert not groups and len(table) == 5 + 12 * 12 + 4
    print("\n".join(table))


def without_fused(optimizer: type) -> type:
    return lambda *args, fused, **kwargs: optimizer(*args, **kwargs)


@pytest.mark.parametrize("drops", [False, True])
def test_a_frozen_encoder_does_not_learn_and_drops_paths_on_demand_alone(drops: bool) -> None:
    model = build(
        num_classes=3, freeze_encoder=True, frozen_drop_path=drops, drop_path=0.5, embed_dim=32, depth=2, num_heads=2
    )
    model.train()
    filterbank = torch.randn(16, 1, 32, 128)
    assert torch.equal(model(filterbank), model(filterbank)) != drops
    model(filterbank).sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == learning


def test_sizes_are_the_base_models_where_nothing_else_is_known() -> None:
    config = FineTuningSettings(num_classes=527).classifier()
    assert (config.embed_dim, config.depth, config.num_heads) == (768, 12, 12)
    assert config.drop_path == 0.1 and config.pooling == "cls"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "num_classes is not set"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"num_classes": 3, "layer_decay": 0.0}, "layer_decay is 0"),
        ({"num_classes": 3, "pooling": "max"}, "pooling is 'max'"),
    ],
)
def test_settings_that_cannot_work(settings: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        FineTuningSettings(**settings).classifier()


def test_rates_and_decay_are_those_of_bats_published_groups(conformance: Path) -> None:
    """Block by block, with its patches and CLS below the first, and neither CLS nor vectors decayed."""
    stored = json.loads((conformance / "bat_expected.json").read_text())["finetuning_groups"]
    sizes = {"embed_dim": 64, "depth": 3, "num_heads": 4, "attention": "gated", "time_patches": 64}
    model = build(**sizes, num_classes=5, layer_decay=0.75, layer_decay_input=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(model.parameters(), 0.05, "weights")
        for parameter in group["params"]
    }
    own = {"head.ln": "norm", "head.fc": "head"}
    wanted = {}
    for name, pair in stored.items():
        head = next((ours for theirs, ours in own.items() if name.startswith(theirs)), None)
        key = f"{head}.{name.split('.')[-1]}" if head else our_bat_name(f"encoder.{name}")
        wanted[key] = pytest.approx(tuple(pair))
    assert found == wanted
