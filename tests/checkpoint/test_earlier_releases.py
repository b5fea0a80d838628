"""Checkpoints that release 1.0 wrote, of every kind: they open, compute the same, and training resumes from them.

``written_by_1.0.tar.xz`` holds two-block models 16 wide, pre-trained and fine-tuned for three updates in bfloat16 and
float32, conversions of them to every format, and ``expected.json``: what release 1.0 computed from each of them.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import EAT
from EAT.checkpoint import read_checkpoint

from ..fairseq_runs import train

ARCHIVE = Path(__file__).with_name("written_by_1.0.tar.xz")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_every_kind_computes_the_same(written: Path) -> None:
    expected = json.loads((written / "expected.json").read_text())
    assert len(expected) == 11
    wave = (0.3 * np.sin(np.arange(16000) * 0.2) * np.linspace(0, 1, 16000)).astype(np.float32)
    for key, numbers in expected.items():
        name, weights = key.split()
        model = EAT.load(written / name, weights=weights)
        with torch.inference_mode():
            found = {
                "utterance": model.extract(wave, granularity="utterance"),
                "layer_1": model.extract(wave, layer=1, granularity="frame").mean(dim=0),
            }
            if "logits" in numbers:
                found["logits"] = model.logits(wave)
        for what, values in found.items():
            torch.testing.assert_close(values, torch.tensor(numbers[what]), rtol=1e-5, atol=2e-6, msg=f"{key} {what}")
        assert list(model.front_end.constants().values()) == numbers["front_end"], key
        assert model.activation == numbers["activation"], key


def test_settings_are_those_that_were_trained_with(written: Path) -> None:
    for name in ("pre_bf16.pt", "pre_fp32.pt", "converted_published.pt"):
        settings = read_checkpoint(written / name).settings
        assert (settings.embed_dim, settings.depth, settings.num_heads, settings.mlp_ratio) == (16, 2, 2, 4.0), name
        assert (settings.clone_batch, settings.decoder_layers, settings.decoder_width) == (2, 2, 16), name
        assert (settings.decoder_groups, settings.mask_prob, settings.mask_length) == (4, 0.8, 5), name
    for name in ("fine_bf16.pt", "fine_fp32.pt", "converted_fine_published.pt", "converted_eat.pt", "converted_hf"):
        assert read_checkpoint(written / name).settings.num_classes == 10, name


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_training_resumes(written: Path, clip_manifest: Path, tmp_path: Path, precision: str) -> None:
    run = train(
        "pretraining_demo",
        *(f"model.{name}={value}" for name, value in
          {"embed_dim": 16, "depth": 2, "num_heads": 2, "decoder_width": 16, "decoder_layers": 2, "decoder_groups": 4,
           "clone_batch": 2}.items()),
        "common.cpu=true", f"common.bf16={str(precision == 'bf16').lower()}", "common.log_format=json",
        "common.log_interval=1", "dataset.num_workers=0", f"task.data={clip_manifest}", "task.target_length=64",
        "task.norm_mean=-6", "task.norm_std=4", "optimization.max_update=5", "lr_scheduler.warmup_updates=1",
        "dataset.batch_size=8", f"checkpoint.restore_file={written / f'pre_{precision}.pt'}",
        f"checkpoint.save_dir={tmp_path}",
    )  # fmt: skip
    assert run.values("num_updates") == [4, 5]
    logged = [line for line in run.output.splitlines() if "[train_inner]" in line]
    assert len(logged) == 2
    for line in logged:  # the meters of release 1.0 go on under their new names
        assert "null" not in line and "deviation" not in line and '"target_std": ' in line
    assert all(0 < loss < 1e4 for loss in run.values("loss"))
    assert "was trained with optimizer.decayed=matrices, which stays, not all" in run.output
    groups = torch.load(tmp_path / "checkpoint_last.pt")["last_optimizer_state"]["param_groups"]
    assert sorted(group["weight_decay"] for group in groups) == [0.0, 0.05]
    moments = torch.load(written / f"pre_{precision}.pt")["last_optimizer_state"]["state"]
    resumed = torch.load(tmp_path / "checkpoint_last.pt")["last_optimizer_state"]["state"]
    assert {len(moments), len(resumed)} == {len(moments)} and {float(s["step"]) for s in resumed.values()} == {5.0}
