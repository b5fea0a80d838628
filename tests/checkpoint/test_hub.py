"""Checkpoints by name, through huggingface_hub from a Hub on this machine: fetched, resumed, checked, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

import EAT
from EAT.checkpoint.hub import named
from EAT.data.labels import read_descriptors

from ..conftest import CONFORMANCE, ROOT
from ..fairseq_runs import train
from ..hub_server import Hub, serving
from ..tiny import ON_A_CPU

PRETRAINED, CLASSIFIER = "EAT-base_epoch30_pretrain", "EAT-base_epoch30_finetune_AS2M"
CHILD = """
import json, sys
from EAT.commands.weights import main
for arguments in json.loads(sys.argv[1]):
    print("status", main(arguments))
"""
LOAD = """
import sys
import torch, EAT
model = EAT.load(sys.argv[1])
with torch.inference_mode():
    torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
"""


class Done(NamedTuple):
    statuses: list[int]
    out: str
    err: str


class User:
    """Someone with a cache of their own."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.hub, self.home = hub, home
        self.env = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache")}
        self.env["HF_HUB_DISABLE_XET"] = "1"

    def python(self, code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        environment = {**os.environ, **self.env, **env}
        return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)

    def weights(self, *commands: str, **env: str) -> Done:
        """Run ``python -m EAT.weights`` with each of the commands, in one process."""
        done = self.python(CHILD, json.dumps([command.split() for command in commands]), **env)
        lines = done.stdout.splitlines()
        assert "Traceback" not in done.stderr, done.stderr
        statuses = [int(line.split()[1]) for line in lines if line.startswith("status ")]
        return Done(statuses, "\n".join(line for line in lines if not line.startswith("status ")), done.stderr)

    def features(self, name: str, folder: Path, **env: str) -> np.ndarray:
        """What ``EAT.load(name)`` makes of the conformance filterbank."""
        mel = np.load(CONFORMANCE / "official_pretrain_io.npz")["mel"]
        torch.save(torch.from_numpy(mel), folder / "mel.pt")
        done = self.python(LOAD, name, str(folder / "mel.pt"), str(folder / "out.pt"), **env)
        assert done.returncode == 0, done.stderr
        return torch.load(folder / "out.pt").numpy()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        hub.add(
            f"worstchan/{PRETRAINED}", CONFORMANCE / "hf_pretrain", **{"README.md": b"---\nlicense: mit\n---\n# X\n"}
        )
        yield hub


@pytest.fixture
def user(hub: Hub, tmp_path: Path) -> User:
    return User(hub, tmp_path)


def expected() -> np.ndarray:
    return np.load(CONFORMANCE / "hf_expected.npz")["pretrain_features"]


def ranges(hub: Hub) -> list[str]:
    """The parts of large files that were asked for."""
    return [part for method, path, part in hub.asked if path.endswith(".safetensors") and part]


def made_large(hub: Hub) -> int:
    """Give the pre-trained weights 24 MB that no model reads, since downloads go on by pieces of 10 MB; the size."""
    tensors = load_file(CONFORMANCE / "hf_pretrain" / "model.safetensors")
    content = save({**tensors, "unused": torch.rand(6_000_000)}, metadata={"format": "pt"})
    hub.repositories[f"worstchan/{PRETRAINED}"]["model.safetensors"] = content
    return len(content)


def test_what_is_a_name_and_what_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert named(PRETRAINED).repository == f"worstchan/{PRETRAINED}"
    assert named(f"{PRETRAINED}@v1").revision == "v1"
    assert (named("me/model@refs/pr/1").repository, named("me/model@refs/pr/1").revision) == ("me/model", "refs/pr/1")
    for path in ("runs/model", "runs", "no-such-name", "me/model.pt", "./me/model", "/me/model", "a/b/c", "../a/b"):
        assert named(path) is None, path
    (tmp_path / PRETRAINED).mkdir()
    assert named(PRETRAINED) is None  # what is here comes first


def test_a_name_gives_the_published_features_and_a_cut_download_goes_on(hub: Hub, user: User, tmp_path: Path) -> None:
    size = made_large(hub)
    hub.cut["model.safetensors"] = [15 << 20, 300_000]
    features = user.features(PRETRAINED, tmp_path)
    np.testing.assert_allclose(features, expected(), atol=1e-4)
    assert ranges(hub) == ["bytes=10485760-", "bytes=10485760-"]
    hub.asked.clear()
    # the cache and the record do without the network; another spelling of the same finds them too
    hub.cut["model.safetensors"] = [0] * 20
    again = user.features(f"worstchan/{PRETRAINED}", tmp_path, HF_HUB_OFFLINE="1")
    assert not hub.asked and np.array_equal(again, features)
    listed = user.weights("list").out
    sha256 = hub.etag("model.safetensors", hub.repositories[f"worstchan/{PRETRAINED}"]["model.safetensors"])
    assert f"{size / 1e6:,.0f} MB, licence mit" in listed and sha256 in listed
    assert listed.count("not known before the first download") == 1  # of the one that was not fetched


def test_a_download_that_breaks_for_good_leaves_nothing_half(hub: Hub, user: User) -> None:
    hub.cut["model.safetensors"] = [1000] * 20
    done = user.weights(f"fetch {PRETRAINED}", f"verify {PRETRAINED}")
    assert done.statuses == [1, 1]
    last = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "try again: files that arrived whole are kept." in last[0]
    assert "is not, or not wholly, in the cache" in last[1]
    assert not list((user.home / "hf").rglob("*.incomplete")) and not list((user.home / "cache").rglob("*.json"))


def test_damaged_files_are_refused_and_removed(hub: Hub, user: User) -> None:
    hub.corrupt = {"model.safetensors", "config.json"}
    done = user.weights(f"fetch {PRETRAINED}", f"fetch {PRETRAINED}", f"verify {PRETRAINED}")
    assert done.statuses == [1, 1, 1]
    first, second, third = (line for line in done.err.splitlines() if line.startswith("error: "))
    assert f"error: config.json of {PRETRAINED} has the checksum" in first
    assert "was removed from the cache" in second and "is not, or not wholly, in the cache" in third
    hub.corrupt = set()
    done = user.weights(f"fetch {PRETRAINED}", "verify")
    assert done.statuses == [0, 0] and f"{PRETRAINED}: 3 files as they should be" in done.out
    assert f"{CLASSIFIER}: not fetched yet" in done.out
    stored = next((user.home / "hf").rglob("snapshots/*/model.safetensors")).resolve()
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    failed = user.python("import EAT; EAT.load('" + PRETRAINED + "')", HF_HUB_OFFLINE="1")
    assert "CheckpointError: model.safetensors of" in failed.stderr and not stored.exists()


def test_other_contents_under_a_known_commit_are_refused(hub: Hub, user: User, tmp_path: Path) -> None:
    name = f"worstchan/{PRETRAINED}"
    hub.commits[name] = "c" * 40
    assert user.weights(f"fetch {PRETRAINED}").statuses == [0]
    content = bytearray(hub.repositories[name]["model.safetensors"])
    content[-1] ^= 1
    hub.repositories[name]["model.safetensors"] = bytes(content)
    done = user.weights(f"fetch {PRETRAINED}", HF_HOME=str(tmp_path / "another"))
    assert done.statuses == [1] and "but commit cccccccccccc had" in done.err
    hub.commits[name] = "d" * 40  # a new commit may hold what it likes
    assert user.weights(f"fetch {PRETRAINED}", HF_HOME=str(tmp_path / "another")).statuses == [0]


def test_without_a_network_and_without_a_cache(hub: Hub, user: User) -> None:
    done = user.weights(f"fetch {PRETRAINED}", HF_HUB_OFFLINE="1")
    assert done.statuses == [1] and not hub.asked
    assert f"error: {PRETRAINED} is not, or not wholly, in the cache {user.home}" in done.err
    assert "HF_HUB_OFFLINE is set; run python -m EAT.weights fetch" in done.err
    done = user.weights(f"fetch {PRETRAINED}", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.statuses == [1] and "http://127.0.0.1:9 cannot be reached (" in done.err


def test_what_cannot_be_fetched_is_said_in_a_sentence(hub: Hub, user: User) -> None:
    hub.add("me/gated", CONFORMANCE / "hf_pretrain")
    hub.gated = {"me/gated"}
    torch_file = (CONFORMANCE / "official_pretrain.pt").read_bytes()
    hub.add("me/torch", **{"epoch30.pt": torch_file, "code.py": b"raise SystemExit"})
    hub.add("me/several", **{"a.pt": b"1", "b.pt": b"2"})
    hub.add("me/none", **{"README.md": b"# nothing"})
    asked = {
        "me/missing": "me/missing is neither a file or folder here nor a repository on",
        "me/gated": "is open only to those who accept its terms",
        f"{PRETRAINED}@v9": "has no revision v9",
        "me/several": "but holds several (a.pt, b.pt); download one and give its path.",
        "me/none": "or a single file that ends in .pt or .pth or .bin, but holds none.",
    }
    done = user.weights(*(f"fetch {name}" for name in asked), "fetch me/torch")
    assert done.statuses == [1] * len(asked) + [0]
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    for error, wanted in zip(errors, asked.values(), strict=True):
        assert wanted in error
    assert done.out.endswith("/epoch30.pt") and not list((user.home / "hf").rglob("*.py"))


def test_fine_tuning_starts_from_a_name(
    hub: Hub, user: User, tmp_path: Path, clip_manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in user.env.items():
        monkeypatch.setenv(key, value)
    lines = (clip_manifest / "train.tsv").read_text().splitlines()[:9]
    for split in ("train", "eval"):
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
        (tmp_path / f"{split}.lbl").write_text("".join(f"{i}\t{'ab'[i % 2]}\n" for i in range(8)))
    (tmp_path / "label_descriptors.csv").write_text("0,a\n1,b\n")
    run = train(
        "finetuning_demo", *ON_A_CPU, f"task.data={tmp_path}", f"model.model_path={PRETRAINED}",
        "task.target_length=64", "optimization.max_update=1", "lr_scheduler.warmup_updates=0",
        f"checkpoint.save_dir={tmp_path}/run", "distributed_training.distributed_world_size=1",
        "dataset.batch_size=8", "task.norm_mean=-4", "task.norm_std=4",
    )  # fmt: skip
    assert run.status == 0
    assert any(path.endswith("model.safetensors") for _, path, _ in hub.asked)


def test_a_pushed_folder_opens_by_its_name(hub: Hub, user: User, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("".join(f"{i},/m/{i},Sound {i}\n" for i in range(6)))
    source = CONFORMANCE / "official_finetune.pt"
    done = user.weights(
        f"push {source} me/sounds --labels {tmp_path}/labels.csv --licence cc-by-4.0 --folder {tmp_path}/sounds"
    )
    assert done.statuses == [0], done.err
    assert done.out.splitlines()[0] == f"folder -> {tmp_path}/sounds"
    stored = hub.repositories["me/sounds"]
    assert set(stored) == {"model.safetensors", "config.json", "README.md"}
    names = [label.display for label in read_descriptors(tmp_path / "labels.csv")]
    assert json.loads(stored["config.json"])["id2label"] == {str(i): name for i, name in enumerate(names)}
    card = stored["README.md"].decode()
    assert card.startswith("---\n") and "license: cc-by-4.0" in card and 'EAT.load("me/sounds")' in card
    mel = np.load(CONFORMANCE / "official_finetune_io.npz")
    code = LOAD.replace("model(torch.load(sys.argv[2]))", "model.network(torch.load(sys.argv[2]))")
    torch.save(torch.from_numpy(mel["mel"]), tmp_path / "mel.pt")
    loaded = user.python(code, "me/sounds", str(tmp_path / "mel.pt"), str(tmp_path / "out.pt"))
    assert loaded.returncode == 0, loaded.stderr
    np.testing.assert_allclose(torch.load(tmp_path / "out.pt").numpy(), mel["logits"], atol=1e-4)
    assert EAT.load(tmp_path / "sounds").labels == tuple(names)


def test_a_folder_is_written_without_a_network(user: User, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "README.md").write_text("my own words")
    source = CONFORMANCE / "official_pretrain.pt"
    dead = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    (tmp_path / "labels.csv").write_text("0,a\n")
    done = user.weights(
        f"push {source} me/encoder --weights teacher --folder {folder} --no-upload",
        f"push {source} me/encoder --labels {tmp_path}/labels.csv --folder {folder} --no-upload",
        f"push {source} me/encoder --no-upload",
        f"push {source} me/encoder",
        **dead,
    )
    assert done.statuses == [0, 2, 2, 2]
    errors = done.err.splitlines()
    assert errors[0] == "note: the model card states no licence; --licence ID states one."
    assert f"{source} has 0 classes, but {tmp_path}/labels.csv has 1 classes" in errors[1]
    assert errors[-1].startswith("error: me/encoder could not be uploaded to http://127.0.0.1:9 (")
    assert (folder / "README.md").read_text() == "my own words"
    assert not (folder / "pretraining.safetensors").exists()
