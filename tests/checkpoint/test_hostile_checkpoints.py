"""Checkpoints made to break the reader: a sentence or the right numbers, in bounded time and memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import EAT
from EAT.audio.timeout import within
from EAT.errors import CheckpointError

from ..conftest import CONFORMANCE, ROOT


def test_two_hundred_mutated_checkpoints() -> None:
    """In a process of its own with 1 GB more than it has at its start; one that hangs ends it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.checkpoint.hostile_checkpoints", "--count", "200", "--seed", "1"],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
    found = re.search(r"200 checkpoints: (\d+) loaded, (\d+) refused, 0 faults", done.stdout)
    assert found is not None, done.stdout[-5000:]
    loaded, refused = map(int, found.groups())
    assert loaded > 20 and refused > 100


def changed(path: Path, name: str = "official_pretrain.pt", **entries: object) -> Path:
    """A copy of a published checkpoint with other entries, named by their path with double underscores."""
    state = torch.load(CONFORMANCE / name)
    for place, value in entries.items():
        *holders, last = place.split("__")
        holder = state
        for key in holders:
            holder = holder[key]
        holder[last] = value
    torch.save(state, path)
    return path


CLS = "modality_encoders.IMAGE.extra_tokens"


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"model__blocks.1000000000.x": torch.zeros(1)}, "depth is 1000000001; it must lie between 1 and 512"),
        ({f"model__{CLS}": torch.zeros(())}, "encoder.cls_token with shape .* should be a float tensor of 3 axes"),
        ({f"model__{CLS}": torch.zeros(1, 1, 0)}, "encoder.cls_token with shape"),
        ({f"model__{CLS}": torch.zeros(1).expand(1, 1, 1 << 34)}, "as a tensor that is sparse, .*, or repeats them"),
        ({f"model__{CLS}": torch.zeros(1, 1, 64).to_sparse()}, "as a tensor that is sparse"),
        ({f"model__{CLS}": "text"}, "should be a tensor, as a str"),
        ({"model": [1, 2]}, "a model that is a list"),
        ({"cfg__model__num_heads": "abc"}, "num_heads is 'abc'; it must be a whole number"),
        ({"cfg__model__num_heads": True}, "num_heads is True; it must be a whole number"),
        ({"cfg__model__norm_eps": "x"}, "norm_eps is 'x'; it must be a number"),
        ({"cfg__model__norm_eps": float("nan")}, "norm_eps is nan; it must lie in"),
        ({"cfg__model__num_heads": torch.ones(2)}, "holds a tensor as cfg.model.num_heads, where settings belong"),
        ({"extra_state__eat": {"position_rows": "many"}}, "position_rows is 'many'; it must be a whole number"),
        ({"extra_state__eat": {"front_end": [1024, "x", 1]}}, "the note front_end is .*; it must be a list of numbers"),
        ({"extra_state__eat": {"initialised": 3}}, "the note initialised is 3; it must be a list of parts"),
    ],
)  # fmt: skip
def test_what_a_file_states_is_looked_at_first(tmp_path: Path, entries: dict[str, object], sentence: str) -> None:
    path = changed(tmp_path / "a.pt", **entries)
    with pytest.raises(CheckpointError, match=rf"a\.pt .*{sentence}"):
        EAT.load(path)


@pytest.mark.parametrize("blocks", [600, 20_000])
def test_more_blocks_than_any_model_has(tmp_path: Path, blocks: int) -> None:
    state = torch.load(CONFORMANCE / "official_pretrain.pt")
    first = {name: value for name, value in state["model"].items() if name.startswith("blocks.0.")}
    for block in range(blocks):
        state["model"] |= {name.replace(".0.", f".{block}.", 1): value for name, value in first.items()}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt "):
        EAT.load(tmp_path / "a.pt")


FILES = ("a.pt", "folder/config.json", "folder/model.safetensors", "folder/pretraining.safetensors")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["pipe", "/dev/zero", "round"])
def test_what_is_no_file_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    shutil.copytree(CONFORMANCE / "hf_pretrain", tmp_path / "folder")
    path = tmp_path / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name if kind == "round" else kind)
    given = path if name == "a.pt" else tmp_path / "folder"
    if name.endswith("pretraining.safetensors"):  # as good as missing
        within(60, name, lambda: EAT.load(given))
        return
    with pytest.raises(CheckpointError, match=r"a\.pt|folder"):
        within(60, name, lambda: EAT.load(given))


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("[" * 100_000, "is not valid JSON"),
        ('{"a":' * 50_000, "is not valid JSON"),
        ("[]", "should hold a JSON object"),
        ('{"num_heads": "4"}', "num_heads is '4'; it must be a whole number"),
        ('{"num_heads": 4, "img_size": "1024"}', "img_size '1024'; it must be a list"),
        ('{"num_heads": 4, "img_size": [1e30]}', "target_length is 1e[+]30; it must be a whole number"),
        ('{"num_heads": 4, "img_size": [99999999]}', "target_length is 99999999; it must be a number of frames"),
        (json.dumps({"x": "x" * (1 << 22)}), "is no configuration"),
    ],
)  # fmt: skip
def test_configurations_that_are_none(tmp_path: Path, config: str, sentence: str) -> None:
    shutil.copytree(CONFORMANCE / "hf_finetune", tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=rf"hf.* {sentence}"):
        EAT.load(tmp_path / "hf")


def test_what_makes_memory_from_a_number_is_not_unpickled(tmp_path: Path) -> None:
    import zipfile

    pickled = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    (tmp_path / "plain.pt").write_bytes(pickled)
    for name, content, kind in (
        ("zip.pt", pickled, zipfile.ZIP_STORED),
        ("long.pt", b"\x80\x02" + b"N0" * (1 << 23) + b"}.", zipfile.ZIP_STORED),
        ("packed.pt", b"\x80\x02}.", zipfile.ZIP_DEFLATED),
    ):
        with zipfile.ZipFile(tmp_path / name, "w", kind) as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/version", "3\n")
    for name, words in {"plain.pt": "objects other", "zip.pt": "objects other", "long.pt": "bytes beside its tensors",
                        "packed.pt": "compressed members"}.items():  # fmt: skip
        with pytest.raises(CheckpointError, match=rf"{name} (holds|has) .*{words}|{name} has {words}"):
            EAT.load(tmp_path / name)
