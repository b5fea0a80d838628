"""Every recipe in bfloat16, at a small size on real clips: resumed it repeats itself, two processes equal one.

Minutes; ``bash scripts/long_checks.sh`` runs it. What the recipes have in common, the suite's other tests hold.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from ..conftest import CONFORMANCE, ROOT
from ..fairseq_runs import train, train_distributed
from ..labelled_clips import write_single_label
from ..scenes import write_scenes
from ..tiny import NETWORK, model

pytestmark = pytest.mark.skipif(
    "EAT_EVERY_RECIPE" not in os.environ, reason="takes long; scripts/long_checks.sh runs it"
)

UPDATES = 6
COMMON = (
    "common.cpu=true", "common.bf16=true", "common.fp16=false", "common.log_interval=1", "common.log_format=json",
    "distributed_training.distributed_world_size=1", "dataset.num_workers=1", "dataset.batch_size=2",
    "dataset.disable_validation=true", "optimization.update_freq=[2]", f"lr_scheduler.lr_period_updates={UPDATES}",
    "lr_scheduler.warmup_updates=1",
)  # fmt: skip
RECIPES = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Prepared folders: clips with a label each, and scenes with events."""
    from EAT.commands.prepare import main as prepare

    folder = tmp_path_factory.mktemp("recipes")
    write_single_label(folder / "clips")
    write_scenes(folder / "scenes", 18, seconds=3.0)
    command = ["folder", str(folder / "scenes"), str(folder / "events"), "--events", str(folder / "events.tsv")]
    assert prepare([*command, "--eval", "0.34", "--num-workers", "0"]) == 0
    return {"clips": folder / "clips", "events": folder / "events"}


def settings(name: str, data: dict[str, Path], manifest: Path) -> list[str]:
    """What makes a recipe small: its network, or for a classifier the checkpoint that it starts from."""
    recipe = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    if name.startswith("pretraining"):
        sizes = dict(NETWORK)
        if recipe.model.decoder == "transformer":
            sizes |= {"decoder_heads": 4, "time_patches": 8}
        level = ["task.norm_mean=-7", "task.norm_std=5"] if recipe.task.spectrogram == "log_mel" else []
        own = [f"task.data={manifest}", "task.target_length=128", "model.model_path=null"]
        return [*COMMON, *model(sizes), *own, *level]
    start = "bat_pretrain.pt" if recipe.task.spectrogram == "decibels" else "official_pretrain.pt"
    folder = data["events" if recipe.task.labels == "events" else "clips"]
    classes = len((folder / "label_descriptors.csv").read_text().splitlines())
    own = [f"task.data={folder}", "task.target_length=128", "task.weights=null", "dataset.valid_subset=eval"]
    own += [f"model.{size}=null" for size in ("embed_dim", "depth", "num_heads")]  # the checkpoint's
    return [*COMMON, *own, f"model.num_classes={classes}", f"model.model_path={CONFORMANCE / start}"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


@pytest.mark.parametrize("name", RECIPES)
def test_it_resumes_to_the_bit_and_processes_add_up(
    name: str, data: dict[str, Path], clip_manifest: Path, tmp_path: Path
) -> None:
    given = settings(name, data, clip_manifest)
    if not name.startswith("pretraining"):
        given += ["model.drop_path=0", "++model.head_dropout=0"]  # drawn in each process

    def run(folder: str, updates: int, processes: int = 1) -> list[float]:
        own = [*given, f"checkpoint.save_dir={tmp_path / folder}", f"optimization.max_update={updates}"]
        if processes == 1:
            return train(name, *own).values("loss")
        return train_distributed(name, processes, *own, "optimization.update_freq=[1]")[0].values("loss")

    whole = run("whole", UPDATES)
    assert len(whole) == UPDATES
    assert run("parts", UPDATES // 2) + run("parts", UPDATES) == whole
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())

    assert run("two", UPDATES, 2) == pytest.approx(whole, rel=2e-3)
    for key, value in weights(tmp_path / "two").items():
        torch.testing.assert_close(value.float(), one[key].float(), rtol=2e-2, atol=2e-3, msg=f"{name}: {key}")
