"""The configurations: keys that users override, the published numbers, and run configurations that compose."""

from __future__ import annotations

import subprocess

import pytest
import torch
from omegaconf import OmegaConf

from EAT.network.pretraining import Pretraining
from EAT.network.settings import PretrainingSettings

from .conftest import ROOT
from .fairseq_runs import arguments, environment

NAMES = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
OVERRIDDEN = [
    *(f"common.{k}" for k in ("cpu", "seed", "log_interval", "log_format", "fp16", "bf16", "tensorboard_logdir")),
    *(f"checkpoint.{k}" for k in ("save_dir", "restore_file", "save_interval_updates")),
    *(f"dataset.{k}" for k in ("batch_size", "num_workers", "train_subset", "valid_subset")),
    *(f"distributed_training.distributed_{k}" for k in ("world_size", "rank", "init_method", "no_spawn", "backend")),
    "distributed_training.ddp_backend",
    *(f"optimization.{k}" for k in ("max_update", "lr", "clip_norm", "update_freq")),
    *(f"task.{k}" for k in ("data", "target_length", "norm_mean", "norm_std")),
    *(f"model.{k}" for k in ("embed_dim", "depth", "num_heads")),
]
"""Keys that must stand in every recipe, because Hydra refuses one that does not."""

PUBLISHED = {
    "pretraining_AS2M": {
        "distributed_training.distributed_world_size": 4,
        "dataset.batch_size": 12,
        "model.clone_batch": 16,
        "optimization.max_update": 400000,
        "optimization.lr": [5e-4],
        "optimization.clip_norm": 4,
        "lr_scheduler.warmup_updates": 53333,
        "lr_scheduler.min_lr": 0,
        "optimizer.betas": [0.9, 0.95],
        "optimizer.weight_decay": 0.05,
        "model.mask_prob": 0.8,
        "model.mask_prob_adjust": 0.07,
        "model.mask_length": 5,
        "model.ema_decay": 0.9998,
        "model.ema_end_decay": 0.99999,
        "model.ema_anneal_updates": 100000,
        "model.decoder_layers": 6,
        "model.decoder_kernel": 3,
        "model.decoder_width": 768,
        "criterion.utterance_weight": 192,
        "criterion.min_target_var": 0,
        "criterion.min_pred_var": 0,
        "task.norm_mean": -4.268,
        "task.norm_std": 4.569,
    },
    "pretraining_AS2M_large": {
        "optimization.lr": [4e-4],
        "model.embed_dim": 1024,
        "model.depth": 24,
        "model.num_heads": 16,
        "model.mask_prob": 0.75,
        "model.mask_prob_adjust": 0.1,
        "model.ema_anneal_updates": 150000,
        "model.decoder_layers": 3,
        "model.decoder_kernel": 5,
        "model.decoder_width": 1024,
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_keys_that_users_override(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    missing = [key for key in OVERRIDDEN if key not in _keys(OmegaConf.to_container(config))]
    own = ["model.clone_batch"] if name.startswith("pretraining") else ["model.model_path", "model.num_classes"]
    assert not missing and set(own) <= _keys(OmegaConf.to_container(config)), missing
    assert config.hydra.job.chdir is False
    assert config.checkpoint.save_dir == f"checkpoints/{name}"


def _keys(container: dict, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in container.items():
        keys.add(f"{prefix}{key}")
        if isinstance(value, dict):
            keys |= _keys(value, f"{prefix}{key}.")
    return keys


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    for key, value in PUBLISHED[name].items():
        assert OmegaConf.select(config, key) == value, key


@pytest.mark.parametrize(("name", "millions"), [("pretraining_AS2M", 88), ("pretraining_AS2M_large", 309)])
def test_published_sizes(name: str, millions: int) -> None:
    settings = OmegaConf.to_container(OmegaConf.load(ROOT / "config" / f"{name}.yaml").model)
    assert settings.pop("_name") == "eat_pretraining"
    with torch.device("meta"):
        model = Pretraining(PretrainingSettings(**settings))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


@pytest.mark.parametrize(("name", "devices", "clips"), [("node_4gpus", 4, 12), ("node_8gpus", 8, 6)])
def test_run_configurations_keep_the_published_batch(name: str, devices: int, clips: int) -> None:
    command = arguments("pretraining_AS2M", f"+run_config={name}", "task.data=anywhere", "--cfg", "job")
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    config = OmegaConf.create(done.stdout)
    assert config.distributed_training.distributed_world_size == devices
    assert config.dataset.batch_size == clips and devices * clips == 48


@pytest.mark.parametrize(("name", "nodes"), [("slurm_1node", 1), ("slurm_4nodes", 4)])
def test_slurm_run_configurations(name: str, nodes: int) -> None:
    config = OmegaConf.load(ROOT / "config" / "run_config" / f"{name}.yaml")
    launcher = config.hydra.launcher
    assert launcher.nodes == nodes
    assert config.distributed_training.distributed_world_size == nodes * launcher.tasks_per_node
    assert launcher.tasks_per_node == launcher.gpus_per_node
