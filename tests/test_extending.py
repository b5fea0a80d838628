"""Every example of docs/extending.md, as it stands, trains through the real command and computes what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .conftest import ROOT
from .fairseq_runs import COMMAND, TINY, Run, environment

GUIDE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = {
    section.splitlines()[0]: (re.search(r"```python\n(.*?)```", section, re.S), section)
    for section in GUIDE.split("\n## ")[1:]
}
EXAMPLES = {name: (code[1], text) for name, (code, text) in SECTIONS.items() if code}
SIZES = [key for key in TINY if "decoder_layers" not in key and "bf16" not in key]

CHECKS = {
    "Another mask": """
from EAT.network.masking import MASKINGS
from EAT.network.patches import Grid
from EAT.network.random import clone_keys
from EAT.network.settings import MaskSettings
mel = torch.zeros(1, 1, 64, 128)
mel[:, :, :32] = 1.0  # the louder half: patches 0 to 15
masks = MASKINGS["loud"](MaskSettings(), Grid(4, 8), clone_keys(1, 1, torch.tensor([3]), 5), mel)
assert masks.visible.shape == (1, 5, 6) and masks.visible.max() < 16
""",
    "Another decoder": "assert 'decoder.mask_token' in model and not any('conv' in name for name in model)",
    "A second loss term": "assert 'variance_loss' in log",
    "Another attention": """
import EAT
loaded = EAT.load(path)
assert loaded.encoder.settings.attention == "normalised" and "encoder.blocks.1.attn.norms.1.weight" in model
assert loaded.extract(torch.randn(16000)).isfinite().all()
try:
    __import__("EAT.convert").convert.convert(path, path + ".hf", "huggingface")
except EAT.errors.CheckpointError as error:
    assert "attention=normalised" in str(error)
else:
    raise AssertionError("norms were dropped")
""",
    "Another block": """
import EAT
from EAT.network.block import Block
loaded = EAT.load(path)
first = loaded.encoder.blocks[0]
assert type(first) is mine.PreNorm and loaded.encoder.settings.block == "pre_norm"
x = torch.randn(1, 3, 32)
with torch.no_grad():
    y, f = first(x)
    assert torch.allclose(y - f, x + first.attn(first.norm1(x)), atol=1e-6)
    assert not torch.allclose(y, Block.forward(first, x)[0], atol=0.1)
try:
    __import__("EAT.convert").convert.convert(path, path + ".pub", "published")
except EAT.errors.CheckpointError as error:
    assert "block=pre_norm" in str(error)
else:
    raise AssertionError("the kind of block was dropped")
""",
    "Another front end": """
import EAT
loaded = EAT.load(path)
assert type(loaded.front_end).__name__ == "Coarse" and loaded.encoder.settings.mel_bins == 64
assert loaded.extract(torch.randn(16000), granularity="frame").shape == (7 * 4, 32)
assert model["encoder.positions.table"].shape[1] == 768 * 4
""",
    "Other targets": """
from EAT.network.objective import TARGETS
from EAT.network.encoder import Encoder
from EAT.network.settings import PretrainingSettings
settings = PretrainingSettings(embed_dim=32, depth=2, num_heads=4)
encoder = Encoder(settings)
frame = TARGETS["last_block"](settings)(encoder, torch.randn(2, 1, 64, 128))["frame"]
assert frame.shape == (2, 32, 32) and abs(frame.mean().item()) < 1e-5
""",
    "Another augmentation": """
import numpy as np
from EAT.data.augmentation import Augmentations, AugmentationSettings
assert torch.load(path)["cfg"]["task"]["augmentations"] == {"tilt": 0.5}
tilt = Augmentations(AugmentationSettings(augmentations={"tilt": 0.5}))
clips = [tilt.draw(np.random.default_rng(clip), 64, 128) for clip in range(2)]
drawn = tilt.collate(clips, np.random.default_rng(0))
slopes = drawn["tilt"][:, 0]
assert slopes.abs().max() < 0.5 and slopes[0] != slopes[1]
changed = tilt.apply({"filterbank": torch.zeros(2, 1, 64, 128), "drawn": drawn})["filterbank"]
assert torch.allclose(changed[:, 0, 5, -1], slopes.float()) and torch.equal(changed[..., 0], -changed[..., -1])
""",
    "Rules in a line": """
assert abs(model["encoder.positions.table"].abs().max().item() - 0.2) < 1e-6
import json, re
rates = {float(json.loads(line)["lr"]) for line in re.findall(r"train_inner\\]\\[INFO\\] - (.*)", log)}
assert rates == {0.002}
groups = torch.load(path)["last_optimizer_state"]["param_groups"]
assert sorted((len(group["params"]), group["weight_decay"] > 0) for group in groups)[0] == (2, True)
""",
}


def test_every_seam_has_an_example() -> None:
    assert set(CHECKS) == set(EXAMPLES)
    for name, (code, _) in EXAMPLES.items():
        assert len(code.splitlines()) < 40, name


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_trains(name: str, tmp_path: Path, clip_manifest: Path) -> None:
    code, text = EXAMPLES[name]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(code)
    keys = [key for span in re.findall(r"`([^`]+)`", text.split("```")[0].replace("\n", " "))
            for key in re.findall(r"\+?[a-z_]+\.[a-z_.]+=(?:\{.*?\}|\S+)", span)]  # fmt: skip
    assert keys
    sizes = SIZES if any("decoder_layers" in key for key in keys) else [*SIZES, "model.decoder_layers=2"]
    constants = [] if any("norm_mean" in key for key in keys) else ["task.norm_mean=-6", "task.norm_std=4"]
    command = [
        str(COMMAND), "--config-dir", str(ROOT / "config"), "--config-name", "pretraining_demo", "common.user_dir=mine",
        f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path / 'run'}", "optimization.max_update=3",
        "dataset.batch_size=6", *sizes, *constants, *keys,
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    losses = Run(0, done.stdout + done.stderr).values("loss")
    assert len(losses) == 3 and all(map(torch.isfinite, map(torch.tensor, losses)))
    check = (
        "import mine, torch\n"
        f"path, log = {str(tmp_path / 'run' / 'checkpoint_last.pt')!r}, open({str(tmp_path / 'log')!r}).read()\n"
        "model = torch.load(path)['model']\n" + CHECKS[name]
    )
    (tmp_path / "log").write_text(done.stdout + done.stderr)
    checked = subprocess.run(
        [sys.executable, "-c", check], cwd=tmp_path, env=environment(PYTHONPATH=f"{ROOT}:{tmp_path}"),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr[-3000:]
