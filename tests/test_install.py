"""Wheel and source distribution, installed in empty environments and used from empty folders, without the clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import EAT
from EAT.commands.demo import MADE

from .conftest import CLIPS, CONFORMANCE, ROOT
from .environments import link_packages

BASE = ("torch", "numpy", "soundfile", "tqdm", "shtab")
EXTRAS = ("ve-fairseq", "hydra-core", "omegaconf", "tensorboard", "scikit-learn", "matplotlib", "safetensors",
          "huggingface_hub", "onnx", "onnxscript", "onnxruntime", "torchaudio")  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and source distribution, built from what is committed to them and nothing else."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "built"))
    for folder in ("EAT", "config", "data"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source / file)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), "."]
    for command in (pip, [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(target)]):
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, env=clean())
        assert done.returncode == 0, done.stderr[-3000:]
    return target


def clean(**more: str) -> dict[str, str]:
    """The environment without anything that leads Python to the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


class Installed:
    """An environment with some of this one's packages, into which a built file was installed by pip."""

    def __init__(self, home: Path, packages: tuple[str, ...], file: Path) -> None:
        self.bin, self.folder = home / "env" / "bin", home / "empty"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "env")], check=True)
        site = Path(sysconfig.get_path("purelib", vars={"base": str(home / "env"), "platbase": str(home / "env")}))
        link_packages(site, (*packages, "setuptools"))
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--no-index",
               "--no-build-isolation", str(file)]  # fmt: skip
        done = subprocess.run(pip, capture_output=True, text=True, env=clean())  # all that it requires is there
        assert done.returncode == 0, done.stdout + done.stderr
        self.site = site

    def hear(self, sound: Path, checkpoint: str) -> float:
        """Serve the page from the empty folder, get it, and send it a sound; the seconds that it heard."""
        command = [str(self.bin / "eat"), "serve", "--checkpoint", checkpoint, "--port", "0"]
        with subprocess.Popen(
            command, cwd=self.folder, env=clean(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as server:
            try:
                assert server.stdout is not None
                url = next(re.findall(r"http://\S+", line)[0] for line in server.stdout if "open http" in line)
                with urllib.request.urlopen(url, timeout=60) as page:
                    assert 'id="drop"' in page.read().decode()
                sent = urllib.request.Request(f"{url}sound", sound.read_bytes(), method="POST")
                with urllib.request.urlopen(sent, timeout=60) as answer:
                    return json.load(answer)["seconds"]
            finally:
                server.kill()

    def eat(self, line: str, expect: int = 0, **files: Path | str) -> str:
        """Run ``eat`` in the empty folder; returns what it says."""
        command = [str(self.bin / "eat"), *(word.format(**files) for word in line.split())]
        done = subprocess.run(
            command, cwd=self.folder, env=clean(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == expect, f"{line}\n{done.stdout[-4000:]}"
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def base(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("base"), BASE, next(built.glob("*.whl")))


def test_the_base_does_what_needs_no_extra(base: Installed) -> None:
    files = {"clip": CLIPS / "elec_bell.flac", "clips": CLIPS, "pretrained": CONFORMANCE / "official_pretrain.pt",
             "finetuned": CONFORMANCE / "official_finetune.pt"}  # fmt: skip
    assert base.eat("--version").strip() == f"EAT {EAT.__version__}"
    assert "eat predict " in base.eat("--help")
    said = base.eat("predict --help")
    assert said.startswith("usage: eat predict ") and "  eat predict --source clip.wav" in said
    assert "python -m" not in said
    assert "EAT works here." in base.eat("doctor --device cpu")
    base.eat("extract --source {clip} --output out/clip.npy --checkpoint {pretrained} --granularity mean", **files)
    assert np.load(base.folder / "out" / "clip.npy").shape == (64,)
    (base.folder / "labels.csv").write_text("".join(f"{i},sound{i}\n" for i in range(6)))
    assert "sound" in base.eat("predict --source {clip} --checkpoint {finetuned} --labels labels.csv", **files)
    assert "tensors, pretraining" in base.eat("convert {pretrained} ours.pt --to eat", **files)
    base.eat("prepare folder {clips} prepared --unlabelled", **files)
    assert (base.folder / "prepared" / "normalization.json").is_file()
    assert "EAT-base_epoch30_pretrain" in base.eat("weights list")
    page = base.eat("serve --checkpoint {finetuned} --labels labels.csv --port 0", 2, **files)
    assert "pip install 'eat-audio[plot]'" in page
    assert "pip install 'eat-audio[train]'" in base.eat("train --config-name pretraining_demo", 2)
    assert "invalid choice: 'no-such-command'" in base.eat("no-such-command", 2)


def test_the_recipes_are_in_the_package(base: Installed) -> None:
    names = sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))
    listed = base.eat("config list").splitlines()
    assert listed == [*names, f"in {base.site / 'EAT' / 'config'}"]
    for path in (ROOT / "config").rglob("*.yaml"):
        inside = base.site / "EAT" / "config" / path.relative_to(ROOT / "config")
        assert inside.read_bytes() == path.read_bytes()
    assert len(list((base.site / "EAT" / "demo_clips" / "clips").glob("*.flac"))) == 124
    assert (base.site / "EAT" / "demo_clips" / "clips.csv").is_file()
    assert "the demo needs fairseq, sklearn, matplotlib: pip install" in base.eat("demo", 2)
    base.eat("config copy pretraining_AS2M mine")
    assert (
        yaml.safe_load((base.folder / "mine" / "pretraining_AS2M.yaml").read_text())["defaults"][1] == "base/technical"
    )
    assert (base.folder / "mine" / "base" / "technical.yaml").is_file()
    assert "is there already" in base.eat("config copy pretraining_AS2M mine", 2)
    assert "there is no recipe 'pretraining'; it must be one of finetuning_AS20K" in base.eat(
        "config copy pretraining", 2
    )


def test_a_shell_completes(base: Installed) -> None:
    said = base.eat("completion bash")
    (base.folder / "eat.bash").write_text("".join(line for line in said.splitlines(True) if line[:5] != "note:"))
    ask = """
source eat.bash
COMP_WORDS=({words}); COMP_CWORD={place}
_shtab_eat
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

    def completed(*words: str) -> set[str]:
        text = ask.format(words=" ".join(f"'{word}'" for word in words), place=len(words) - 1)
        done = subprocess.run(["bash", "-c", text], cwd=base.folder, capture_output=True, text=True, check=True)
        return {line.strip() for line in done.stdout.split("\n") if line.strip()}

    assert {"predict", "prepare", "probe"} >= completed("eat", "pr") >= {"predict", "prepare"}
    assert "--granularity" in completed("eat", "extract", "--gran")
    assert completed("eat", "extract", "--granularity", "utt") == {"utterance"}
    assert completed("eat", "config", "co") == {"copy"}
    assert subprocess.run(["bash", "-n", str(base.folder / "eat.bash")]).returncode == 0


@pytest.mark.slow
def test_the_source_distribution_trains_and_judges(built: Path, tmp_path: Path) -> None:
    user = Installed(tmp_path, (*BASE, *EXTRAS), next(built.glob("*.tar.gz")))
    short = "optimization.max_update=3 lr_scheduler.warmup_updates=1 common.log_interval=1"
    said = user.eat(f"demo made {short}")
    made = user.folder / "made"
    assert f"Done. What there is now, in {made.name}/:" in said and "accuracy" in said
    assert all((made / name).exists() for name in MADE)
    user.eat("config copy pretraining_demo mine")
    recipe = user.folder / "mine" / "pretraining_demo.yaml"
    recipe.write_text(recipe.read_text().replace("batch_size: 16", "batch_size: 8"))
    user.eat(
        f"train --config-dir mine --config-name pretraining_demo task.data=made/data checkpoint.save_dir=own {short}"
    )
    assert torch.load(user.folder / "own" / "checkpoint_last.pt")["cfg"]["dataset"]["batch_size"] == 8
    assert "linear" in user.eat("probe --data made/families/fold1 --checkpoint own/checkpoint_last.pt --layers 0,-1")
    classifier = "made/finetuning/fold1/checkpoint_last.pt"
    user.eat(f"export {classifier} fine.onnx")
    assert user.hear(CLIPS / "elec_bell.flac", classifier) == pytest.approx(0.278, abs=0.001)
    user.eat(f"weights push {classifier} me/sounds --folder sounds --no-upload")
    assert all((user.folder / name).is_file() for name in ("fine.onnx", "sounds/README.md"))
