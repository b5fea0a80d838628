"""The numbers of the fine-tuning and probing recipes are those that were published."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from .conftest import ROOT

SPASS = {
    "optimization.max_update": 3906,
    "lr_scheduler.warmup_updates": 390,
    "optimization.lr": [5e-5],
    "dataset.batch_size": 48,
    "task.target_length": 1024,
    "task.mixup_alpha": 0.8,
    "task.time_mask": 0.2,
    "criterion.loss": "bce_per_positive",
    "task.norm_mean": -5.275,
    "task.norm_std": 3.268,
    "model.num_classes": None,
    "checkpoint.best_checkpoint_metric": "mAP",
}

PUBLISHED = {
    "finetuning_SPASS": {**SPASS, "model.freeze_encoder": False},
    "finetuning_SPASS_linear": {
        **SPASS,
        "lr_scheduler.warmup_updates": 0,
        "optimization.lr": [1e-3],
        "model.freeze_encoder": True,
        "model.frozen_drop_path": True,
    },
    "finetuning_AS2M_SSLAM": {
        "optimization.max_update": 400000,
        "lr_scheduler.warmup_updates": 40000,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 96,
        "task.weights": "weights",
        "task.samples_per_epoch": 200000,
    },
    "finetuning_AS2M": {
        "optimization.max_update": 300000,
        "lr_scheduler.warmup_updates": 30000,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 96,
        "task.target_length": 1024,
        "task.mixup_alpha": 0.8,
        "task.time_mask": 0.2,
        "criterion.label_smoothing": 0,
        "criterion.loss": "bce_per_positive",
        "task.noise": 0,
        "task.shift": 0,
        "task.weights": "weights",
        "task.samples_per_epoch": 200000,
        "task.norm_mean": -4.268,
        "task.norm_std": 4.569,
        "model.num_classes": 527,
        "checkpoint.best_checkpoint_metric": "mAP",
    },
    "finetuning_AS20K": {
        "optimization.max_update": 40000,
        "lr_scheduler.warmup_updates": 4000,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 48,
        "task.target_length": 1024,
        "task.mixup_alpha": 0.8,
        "task.time_mask": 0.2,
        "criterion.label_smoothing": 0,
        "criterion.loss": "bce_per_positive",
        "task.noise": 0,
        "task.shift": 0,
        "task.weights": None,
        "task.norm_mean": -4.268,
        "task.norm_std": 4.569,
        "model.num_classes": 527,
        "checkpoint.best_checkpoint_metric": "mAP",
    },
    "finetuning_ESC50": {
        "optimization.max_update": 4000,
        "lr_scheduler.warmup_updates": 400,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 48,
        "task.target_length": 512,
        "task.mixup_alpha": 0,
        "task.time_mask": 0.4,
        "criterion.label_smoothing": 0.1,
        "criterion.loss": "cross_entropy",
        "task.noise": 0,
        "task.shift": 0,
        "task.weights": None,
        "task.norm_mean": -6.627,
        "task.norm_std": 5.359,
        "model.num_classes": 50,
        "checkpoint.best_checkpoint_metric": "accuracy",
    },
    "finetuning_SPCv2": {
        "optimization.max_update": 40000,
        "lr_scheduler.warmup_updates": 4000,
        "optimization.lr": [2e-4],
        "dataset.batch_size": 256,
        "task.target_length": 128,
        "task.mixup_alpha": 0.8,
        "task.time_mask": 0.2,
        "criterion.label_smoothing": 0.1,
        "criterion.loss": "bce_sum",
        "task.noise": 0.1,
        "task.shift": 10,
        "task.weights": None,
        "task.norm_mean": -6.846,
        "task.norm_std": 5.565,
        "model.num_classes": 35,
        "checkpoint.best_checkpoint_metric": "accuracy",
    },
}
BAT = {
    "finetuning_BAT_AS2M": {
        "optimization.max_update": 200000,
        "lr_scheduler.warmup_updates": 20000,
        "dataset.batch_size": 96,
        "task.target_length": 1024,
        "task.fit_waveform": True,
        "task.crop": "random",
        "task.roll": True,
        "task.augmentations.clip_mixup": 0.8,
        "criterion.loss": "asymmetric",
    },
    "finetuning_BAT_AS20K": {
        "optimization.max_update": 40000,
        "lr_scheduler.warmup_updates": 4000,
        "dataset.batch_size": 48,
        "task.target_length": 1024,
        "task.fit_waveform": True,
        "task.crop": "random",
        "task.roll": True,
        "task.time_mask": 64 / 1024,
        "task.augmentations": {"clip_mixup": 0.8, "further_masks": 1},
        "criterion.loss": "asymmetric",
        "model.head_dropout": 0.2,
    },
    "finetuning_BAT_ESC50": {
        "optimization.max_update": 4000,
        "lr_scheduler.warmup_updates": 400,
        "dataset.batch_size": 48,
        "task.target_length": 512,
        "task.roll": False,
        "task.time_mask": 32 / 512,
        "task.augmentations": {"coloured_noise": 0.3, "roll_filterbank": 1},
        "criterion.loss": "cross_entropy",
        "model.head_dropout": 0.2,
    },
    "finetuning_BAT_SPC12": {
        "optimization.max_update": 10000,
        "lr_scheduler.warmup_updates": 1000,
        "dataset.batch_size": 256,
        "task.target_length": 112,
        "task.roll": False,
        "task.time_mask": 32 / 112,
        "task.augmentations": {"coloured_noise": 0.3, "roll_filterbank": 1},
        "criterion.loss": "cross_entropy",
        "model.num_classes": 12,
        "model.head_dropout": 0,
    },
}
COMMON_BAT = {
    "optimization.lr": [5e-5],
    "optimization.clip_norm": 0,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.weight_decay": 0.05,
    "optimizer.decayed": "weights",
    "lr_scheduler.shape": "floored_cosine",
    "lr_scheduler.min_lr": 1e-6,
    "task.spectrogram": "decibels",
    "task.norm_mean": None,
    "task.gain": 0,
    "task.noise": 0,
    "task.shift": 0,
    "task.mixup_alpha": 0,
    "task.mixup_prob": 0.9,
    "task.frequency_mask": 16 / 128,
    "criterion.label_smoothing": 0,
    "model.layer_decay": 0.75,
    "model.layer_decay_input": True,
    "model.drop_path": 0.1,
}
COMMON = {
    "task.mixup_prob": 0.9,
    "task.roll": True,
    "task.gain": 10,
    "lr_scheduler.min_lr": 1e-6,
    "optimizer.weight_decay": 0.05,
    "model.layer_decay": 0.65,
    "model.drop_path": 0.1,
    "checkpoint.maximize_best_checkpoint_metric": True,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    for key, value in {**COMMON, **PUBLISHED[name]}.items():
        assert OmegaConf.select(config, key, throw_on_missing=True) == value, key
    assert config.task.frequency_mask == config.task.time_mask


PROBES = {
    "probing_AS20K": (20000, 48, 500, 0.05, 1024, "asymmetric", 527),
    "probing_ESC50": (4000, 48, 400, 0.2, 512, "cross_entropy", 50),
    "probing_SPC12": (10000, 256, 1000, 0.05, 112, "cross_entropy", 12),
    "probing_SPCv2": (10000, 256, 1000, 0.05, 112, "cross_entropy", 35),
}
"""Updates, batch, warm-up, weight decay, frames, loss and classes."""


@pytest.mark.parametrize("name", PROBES)
def test_the_published_protocol_of_probes(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    found = (
        config.optimization.max_update, config.dataset.batch_size, config.lr_scheduler.warmup_updates,
        config.optimizer.weight_decay, config.task.target_length, config.criterion.loss, config.model.num_classes,
    )  # fmt: skip
    assert found == PROBES[name]
    assert (config.optimization.lr, config.lr_scheduler.min_lr, config.optimization.clip_norm) == ([1e-3], 1e-6, 0)
    assert (config.optimizer.betas, config.optimizer.decayed) == ([0.9, 0.999], "weights")
    assert (config.model.head, config.model.head_prototypes, config.model.head_dropout) == ("cgp", 10000, 0.2)
    assert config.model.freeze_encoder and config.task.roll == (name == "probing_AS20K")


@pytest.mark.parametrize("name", BAT)
def test_bats_published_numbers(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    for key, value in {**COMMON_BAT, **BAT[name]}.items():
        found = OmegaConf.select(config, key, throw_on_missing=True)
        assert (OmegaConf.to_container(found) if OmegaConf.is_dict(found) else found) == value, key
