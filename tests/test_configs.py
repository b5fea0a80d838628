"""The configurations: keys that users override, the published numbers, and run configurations that compose."""

from __future__ import annotations

import json
import subprocess

import hydra
import pytest
import torch
from fairseq.dataclass.initialize import hydra_init
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

SSLAM = {
    "distributed_training.distributed_world_size": 4,
    "dataset.batch_size": 12,
    "model.clone_batch": 8,
    "optimization.max_update": 200000,
    "optimization.lr": [5e-5],
    "lr_scheduler.warmup_updates": 25000,
    "criterion.weights.retention": 1,
    "model.model_path": "???",
    "model.mixtures": True,
    "model.foreign_padding": True,
    "model.utterance_blocks": 1,
}
"""What SSLAM's second stage has other than EAT's pre-training."""
SMALL = {"model.embed_dim": 384, "model.depth": 12, "model.num_heads": 6}

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
    "pretraining_BAT": {
        "optimization.max_update": 400000,
        "optimization.lr": [5e-4],
        "optimization.clip_norm": 0,
        "lr_scheduler.shape": "floored_cosine",
        "lr_scheduler.warmup_updates": 53000,
        "lr_scheduler.min_lr": 1e-6,
        "optimizer.betas": [0.9, 0.95],
        "optimizer.weight_decay": 0.05,
        "optimizer.decayed": "all",
        "task.spectrogram": "decibels",
        "task.norm_mean": None,
        "task.roll": True,
        "model.attention": "gated",
        "model.positions": "bat",
        "model.time_patches": 64,
        "model.initialisation": "bat",
        "model.clone_batch": 16,
        "model.mask_prob": 0.8,
        "model.mask_prob_adjust": 0.07,
        "model.mask_length": 5,
        "model.decoder": "transformer",
        "model.decoder_layers": 6,
        "model.decoder_width": 768,
        "model.decoder_heads": 12,
        "model.decoder_mlp_ratio": 4,
        "model.targets": "block_outputs",
        "model.ema_schedule": "linear_from_first",
        "model.ema_decay": 0.9998,
        "model.ema_end_decay": 0.99999,
        "model.ema_anneal_updates": 100000,
        "criterion.utterance_weight": 768**-0.5,
        "criterion.weights.frame": 768**-0.5,
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
    "pretraining_AS2M_small": {**SMALL, "model.decoder_width": 384},
    "pretraining_plus": {"optimization.lr": [1e-3], "criterion.utterance_weight": 1},
    "finetuning_AS2M_small": SMALL,
    "finetuning_AS20K_small": SMALL,
}
PUBLISHED["pretraining_SSLAM"] = PUBLISHED["pretraining_AS2M"] | SSLAM
DERIVED = {
    "pretraining_SSLAM": ("pretraining_AS2M", {*SSLAM, "criterion.weights"}),
    "pretraining_AS2M_small": ("pretraining_AS2M", {*SMALL, "model.decoder_width"}),
    "pretraining_plus": ("pretraining_AS2M", {"optimization.lr", "criterion.utterance_weight"}),
    "finetuning_AS2M_small": ("finetuning_AS2M", set(SMALL)),
    "finetuning_AS20K_small": ("finetuning_AS20K", set(SMALL)),
    "finetuning_AS2M_SSLAM": ("finetuning_AS2M", {"optimization.max_update", "lr_scheduler.warmup_updates"}),
    "finetuning_SPASS": (
        "finetuning_AS20K",
        {"optimization.max_update", "lr_scheduler.warmup_updates", "task.norm_mean", "task.norm_std",
         "model.num_classes"},
    ),
    "finetuning_SPASS_linear": (
        "finetuning_SPASS",
        {"optimization.lr", "lr_scheduler.warmup_updates", "model.freeze_encoder", "model.frozen_drop_path"},
    ),
    "finetuning_folder": (
        "finetuning_ESC50",
        {"common.log_format", "common.log_interval", "task.target_length", "task.norm_mean", "task.norm_std",
         "task.crop", "task.max_skipped", "task.time_mask", "task.frequency_mask", "dataset.batch_size",
         "dataset.num_workers", "lr_scheduler.warmup_updates", "optimization.max_update", "model.num_classes"},
    ),
    "finetuning_events": (
        "finetuning_folder",
        {"task.labels", "task.roll", "criterion.loss", "criterion.label_smoothing", "model.pooling",
         "checkpoint.best_checkpoint_metric"},
    ),
}  # fmt: skip
"""Recipes that are another one but for some keys, and which."""


CHOICES = {
    "task.save_minutes": 30,
    "task.tf32": False,
    "task.repeatable": True,
    "optimizer.float32_gradients": True,
    "task.spectrogram": "log_mel",
    "lr_scheduler.shape": "cosine",
    "optimizer.decayed": "all",
    "model.initialisation": "eat",
}
ADDED = {
    "pretraining": {
        **CHOICES,
        "criterion.weights": {},
        "criterion.max_position_fraction": 0,
        "criterion.min_skill": 0,
        "criterion.guarded_from": 5000,
        "model.attention": "softmax",
        "model.block": "post_norm",
        "model.compile_or_stop": False,
        "model.decoder": "convolution",
        "model.ema_schedule": "linear",
        "model.foreign_padding": True,
        "model.masking": "inverse_block",
        "model.mixtures": False,
        "model.model_path": None,
        "model.positions": "sine_cosine",
        "model.targets": "averaged_feed_forward",
        "model.utterance_blocks": 0,
    },
    "finetuning": {
        **CHOICES,
        "criterion.class_weights": None,
        "model.attention": None,
        "model.block": None,
        "model.positions": None,
    },
}
"""Keys that release 1.0 had not, by kind of recipe: choices, each at what the code did before, except that it saved by
no clock and decayed matrices alone, where the published runs decay every trained tensor."""


CHANGED = {
    "pretraining_demo": {
        "model.ema_decay": 0.99,
        "model.ema_end_decay": 0.999,
        "optimization.lr": [2e-3],
        "model.masking": "random",  # which it was under another name: no block of five patches fits
        "optimization.max_update": 900,
    },
    "finetuning_demo": {"model.pooling": "mean", "task.crop": "random"},
}
"""What the demo does otherwise than in release 1.0."""


@pytest.fixture(scope="module")
def composed() -> dict[str, dict]:
    """Every recipe as fairseq-hydra-train composes it, flat, with the Hydra settings that recipes decide on."""
    recipes = {}
    with hydra.initialize_config_dir(str(ROOT / "config"), version_base=None):
        for name in NAMES:
            hydra_init(name)  # as fairseq_cli.hydra_train does: its schema under the recipe's name
            config = hydra.compose(name, return_hydra_config=True)
            settings = OmegaConf.to_container(config.hydra)
            kept = {key: settings[key] for key in ("run", "sweep", "output_subdir")}
            kept["job"] = {"chdir": settings["job"]["chdir"]}
            recipes[name] = json.loads(json.dumps(flat({**OmegaConf.to_container(config), "hydra": kept}), default=str))
    return recipes


def flat(container: dict, prefix: str = "") -> dict:
    """Nested dicts as one, keys joined by dots."""
    result = {}
    for key, value in container.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        result |= nested
    return result


FIRST = json.loads((ROOT / "tests" / "config" / "composed_1.0.json").read_text())
"""The recipes of release 1.0."""


@pytest.mark.parametrize("name", sorted(FIRST.keys() - {"common"}))
def test_recipes_are_those_of_the_first_release(composed: dict[str, dict], name: str) -> None:
    assert composed[name] == {
        **FIRST["common"], **FIRST[name], **ADDED[name.partition("_")[0]], **CHANGED.get(name, {})
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_a_variant_differs_in_what_it_is_about_alone(composed: dict[str, dict], name: str) -> None:
    original, keys = DERIVED[name]
    one, other = composed[name], composed[original]
    different = {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}
    assert different - keys == {"checkpoint.save_dir"}
    assert keys - different <= {
        "dataset.batch_size",
        "distributed_training.distributed_world_size",
        "model.depth",
        "model.foreign_padding",
    }


def test_every_recipe_is_an_old_one_or_a_variant() -> None:
    ours = {name for name in NAMES if "BAT" not in name and not name.startswith("probing")}
    assert ours == (FIRST.keys() - {"common"}) | DERIVED.keys()


@pytest.mark.parametrize("name", NAMES)
def test_keys_that_users_override(name: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(ROOT / "config" / f"{name}.yaml"))
    assert config.pop("defaults") == ["_self_", "base/technical"]
    own = ["model.clone_batch"] if name.startswith("pretraining") else ["model.model_path", "model.num_classes"]
    assert not set(OVERRIDDEN + own) - set(flat(config))
    assert config["checkpoint"]["save_dir"] == f"checkpoints/{name}"


def test_no_recipe_sets_what_the_base_would_override() -> None:
    base = set(flat(OmegaConf.to_container(OmegaConf.load(ROOT / "config" / "base" / "technical.yaml"))))
    assert "hydra.job.chdir" in base
    for name in NAMES:
        recipe = set(flat(OmegaConf.to_container(OmegaConf.load(ROOT / "config" / f"{name}.yaml"))))
        assert not recipe & base, name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(composed: dict[str, dict], name: str) -> None:
    assert {key: composed[name][key] for key in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("pretraining_AS2M", 88),
        ("pretraining_SSLAM", 88),
        ("pretraining_AS2M_large", 309),
        ("pretraining_AS2M_small", 22),
        ("pretraining_BAT", 139),
    ],
)
def test_published_sizes(composed: dict[str, dict], name: str, millions: int) -> None:
    settings = {k.removeprefix("model."): v for k, v in composed[name].items() if k.startswith("model.")}
    assert settings["_name"] == "eat_pretraining"
    with torch.device("meta"):
        model = Pretraining(PretrainingSettings.take(settings))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions
    if millions == 309:  # tensor by tensor, as formats.md has them
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert (
            shapes["decoder.blocks.2.conv.weight"] == (1024, 64, 5, 5) and "decoder.blocks.3.conv.weight" not in shapes
        )
        assert (
            shapes["encoder.blocks.23.mlp.fc1.weight"] == (4096, 1024) and "encoder.blocks.24.norm1.bias" not in shapes
        )
        assert shapes["encoder.blocks.0.attn.qkv.weight"] == (3072, 1024)
        assert shapes["encoder.patches.projection.weight"] == (1024, 1, 16, 16)
        assert shapes["encoder.positions.table"] == (1, 6144, 1024)


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "data_set").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_data_set_is_a_short_file(path) -> None:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 20 and path.read_text().startswith("# @package _global_")


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
