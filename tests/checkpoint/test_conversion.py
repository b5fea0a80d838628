"""Conversions between all formats leave every tensor identical; fairseq opens what becomes ours."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import EAT
from EAT.commands.convert import convert, main

from ..conftest import CONFORMANCE, ROOT

FORMATS = ("eat", "published", "huggingface")
POSITIONS = "modality_encoders.IMAGE.fixed_positional_encoder.positions"


def tensors_of(path):
    """Every tensor of a checkpoint as its own format stores it."""
    if path.is_dir():
        return load_file(path / "model.safetensors")
    model = dict(torch.load(path, weights_only=True)["model"])
    teacher = model.pop("_ema", {})
    return {**model, **{f"_ema.{name}": value for name, value in teacher.items()}}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        assert torch.equal(first[name], second[name]), name


def variant(tmp_path, name):
    """A source checkpoint; older and half-precision ones are made from the newer float32 one."""
    if name not in ("old.pt", "half.pt"):
        return CONFORMANCE / name
    state = torch.load(CONFORMANCE / "official_pretrain.pt", weights_only=True)
    if name == "old.pt":
        for model in (state["model"], state["model"]["_ema"]):
            model[POSITIONS] = model[POSITIONS][:, :512].clone()
    else:
        state["model"] = {n: v if n == "_ema" else v.half() for n, v in state["model"].items()}
        ema = state["model"]["_ema"]
        ema[POSITIONS] = state["model"][POSITIONS].float()
    torch.save(state, tmp_path / name)
    return tmp_path / name


SOURCES = ["official_pretrain.pt", "official_finetune.pt", "hf_pretrain", "hf_finetune", "old.pt", "half.pt"]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("way", list(itertools.permutations(FORMATS, 2)), ids="-".join)
def test_round_trips_leave_every_tensor_identical(tmp_path, name, way):
    source = variant(tmp_path, name)
    home = "huggingface" if source.is_dir() else "published"
    previous = source
    for number, format in enumerate((*way, home)):
        following = tmp_path / f"{number}.{format}"
        convert(str(previous), str(following), format)
        previous = following
    found, expected = tensors_of(previous), tensors_of(source)
    assert_same(found, expected)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", SOURCES[:4])
def test_converted_models_compute_the_same(tmp_path, name, format):
    convert(str(CONFORMANCE / name), str(tmp_path / "out"), format)
    before, after = EAT.load(CONFORMANCE / name), EAT.load(tmp_path / "out")
    mel = torch.from_numpy(np.load(CONFORMANCE / "official_pretrain_io.npz")["mel"])
    with torch.inference_mode():
        assert torch.equal(before(mel), after(mel))
        if before.num_classes is not None:
            assert torch.equal(before.network(mel), after.network(mel))
    assert before.front_end == after.front_end
    assert before.activation == after.activation


def test_what_is_written_holds_the_published_keys(tmp_path):
    for source, original in (("hf_pretrain", "official_pretrain.pt"), ("hf_finetune", "official_finetune.pt")):
        convert(str(CONFORMANCE / source), str(tmp_path / "p.pt"), "published")
        written = torch.load(tmp_path / "p.pt", weights_only=True)
        expected = torch.load(CONFORMANCE / original, weights_only=True)
        assert written.keys() == expected.keys()
        missing = expected["model"].keys() - written["model"].keys()
        assert all(".decoder.blocks." in name for name in missing)  # that one has its own number of decoder blocks
        if "_ema" in expected["model"]:
            assert written["model"]["_ema"].keys() == expected["model"]["_ema"].keys()
        assert written["cfg"]["model"]["_name"] == expected["cfg"]["model"]["_name"]
        assert written["cfg"]["task"]["_name"] == expected["cfg"]["task"]["_name"]
        for part in ("model", "task"):
            assert differences(written["cfg"][part], expected["cfg"][part]) <= UNKNOWN_TO_HUGGING_FACE
    convert(str(CONFORMANCE / "official_finetune.pt"), str(tmp_path / "hf"), "huggingface")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    original = json.loads((CONFORMANCE / "hf_finetune" / "config.json").read_text())
    assert {name: config.get(name) for name in original} == original
    assert tensors_of(tmp_path / "hf").keys() == tensors_of(CONFORMANCE / "hf_finetune").keys()


NOWHERE = {("data", ""), ("max_update", 0), ("model_path", ""), ("criterion", "{'_name': 'model'}")}
"""Settings of a run, which no checkpoint of ours holds: their names, and what is written for them."""
UNKNOWN_TO_HUGGING_FACE = NOWHERE | {
    ("clone_batch", 16),
    ("ema_decay", 0.9998),
    ("ema_end_decay", 0.99999),
    ("ema_anneal_end_step", 100_000),
    ("mask_noise_std", 0.01),
    ("decoder_layers", 6),
    ("decoder_dim", 768),
    ("key", "source"),
}
"""What a Hugging Face folder says nothing of either, and EAT-base's values, which are written in its place."""


def differences(written, published):
    """Settings that are written otherwise than published, by name and value; each must be one that was published."""
    found = set()
    for name, value in written.items():
        assert name in published, name
        if isinstance(value, dict) and isinstance(published[name], dict):
            found |= differences(value, published[name])
        elif value != published[name]:
            found.add((name, str(value) if isinstance(value, dict) else value))
    return found


def test_a_pretraining_comes_back_with_the_settings_it_was_made_with(tmp_path):
    """Through our format, in which it has other names: swapped decays or masks would come back swapped."""
    convert(str(CONFORMANCE / "official_pretrain.pt"), str(tmp_path / "e.pt"), "eat")
    convert(str(tmp_path / "e.pt"), str(tmp_path / "p.pt"), "published")
    written, expected = (torch.load(path)["cfg"] for path in (tmp_path / "p.pt", CONFORMANCE / "official_pretrain.pt"))
    assert differences(written["model"], expected["model"]) == {("max_update", 0)}
    assert differences(written["task"], expected["task"]) == {("data", "")}
    assert (expected["model"]["ema_decay"], expected["model"]["ema_end_decay"]) == (0.99, 0.999)


def test_made_up_parts_are_marked_and_left_out_again(tmp_path, capsys):
    assert main([str(CONFORMANCE / "hf_pretrain"), str(tmp_path / "a.pt")]) == 0
    assert "no decoder" in capsys.readouterr().err
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert state["extra_state"]["eat"]["initialised"] == ["decoder", "teacher"]
    with pytest.raises(EAT.errors.CheckpointError, match="no teacher"):
        EAT.load(tmp_path / "a.pt", weights="teacher")
    assert main([str(tmp_path / "a.pt"), str(tmp_path / "back")]) == 0
    assert not (tmp_path / "back" / "pretraining.safetensors").exists()


def test_one_encoder_alone(tmp_path):
    for weights in ("student", "teacher"):
        source = str(CONFORMANCE / "official_pretrain.pt")
        assert main([source, str(tmp_path / weights), "--weights", weights]) == 0
        assert not (tmp_path / weights / "pretraining.safetensors").exists()
        chosen = EAT.load(source, weights=weights)
        assert torch.equal(EAT.load(tmp_path / weights).encoder.cls_token, chosen.encoder.cls_token)


def test_a_safetensors_file_alone_describes_itself(tmp_path):
    convert(str(CONFORMANCE / "official_finetune.pt"), str(tmp_path / "model.safetensors"))
    model = EAT.load(tmp_path / "model.safetensors")
    assert (model.encoder.settings.num_heads, model.num_classes) == (4, 6)


def test_unusable_arguments(tmp_path, capsys):
    source = tmp_path / "p.pt"
    source.write_bytes((CONFORMANCE / "official_pretrain.pt").read_bytes())
    assert main([str(source), str(source)]) == 2
    assert "the source itself" in capsys.readouterr().err
    assert main([str(tmp_path / "none.pt"), str(tmp_path / "x.pt")]) == 2
    assert "none.pt does not exist" in capsys.readouterr().err
    assert main([str(source), str(source / "below.pt")]) == 2
    assert "below.pt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["p.pt"]


FAIRSEQ = """
import argparse, sys, torch
from fairseq import checkpoint_utils, utils
utils.import_user_module(argparse.Namespace(user_dir="EAT"))
for path in sys.argv[1:]:
    models, cfg, task = checkpoint_utils.load_model_ensemble_and_task([path])
    stored = torch.load(path, weights_only=True)["model"]
    state = models[0].state_dict()
    assert state.keys() == stored.keys(), state.keys() ^ stored.keys()
    assert all(torch.equal(state[name], stored[name]) for name in stored)
    print("opened", cfg.model._name)
"""


def test_fairseq_opens_ours(tmp_path):
    names = ["official_pretrain.pt", "hf_pretrain", "official_finetune.pt", "hf_finetune"]
    for name in names:
        convert(str(CONFORMANCE / name), str(tmp_path / f"{name}.eat"), "eat")
    command = [sys.executable, "-c", FAIRSEQ, *(str(tmp_path / f"{name}.eat") for name in names)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    opened = [line for line in run.stdout.splitlines() if line.startswith("opened")]
    assert opened == ["opened eat_pretraining"] * 2 + ["opened eat_classification"] * 2, run.stderr[-2000:]


@pytest.mark.parametrize("file_format", [None, *FORMATS])
def test_places_that_cannot_be_read_or_written(tmp_path, capsys, file_format):
    """A missing source, and a destination that is a file, a folder, a link to nothing, or lies below a file."""
    source = tmp_path / "source"
    shutil.copytree(CONFORMANCE / "hf_pretrain", source)
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to("gone/away")
    to = [] if file_format is None else ["--to", file_format]
    for name in ("file", "a.pt", "a.safetensors", "folder", "nowhere", "file/x", "file/x.pt", "folder/"):
        (tmp_path / "file").write_text("mine")
        assert main([str(tmp_path / "missing.pt"), f"{tmp_path}/{name}", *to]) == 2
        assert "missing.pt does not exist" in capsys.readouterr().err
        status = main([str(source), f"{tmp_path}/{name}", *to])
        error = capsys.readouterr().err
        assert status == 0 or (
            status in (1, 2) and f"{tmp_path}/{name}".rstrip("/") in error and error.count("\n") == 1
        )
        if name in ("file/x", "file/x.pt") or (name == "file" and file_format in (None, "huggingface")):
            assert status == 2 and (tmp_path / "file").read_text() == "mine"
