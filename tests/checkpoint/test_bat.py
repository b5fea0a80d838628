"""BAT's checkpoints in their four layouts: read, written where they are, never opened without their gates."""

from __future__ import annotations

import argparse
import json
import pathlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import EAT
from EAT.checkpoint.formats import read_contents
from EAT.commands.convert import convert, main
from EAT.errors import CheckpointError
from EAT.inference.learning import judge_checkpoint, open_pretraining

from ..conftest import CLIPS, CONFORMANCE

PRETRAINED = CONFORMANCE / "bat_pretrain.pt"


@pytest.fixture(scope="module")
def state() -> dict:
    return torch.load(PRETRAINED, weights_only=True)


@pytest.fixture(scope="module")
def io() -> dict[str, Tensor]:
    with np.load(CONFORMANCE / "bat_pretrain_io.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


@pytest.fixture(scope="module")
def probe() -> dict[str, Tensor]:
    with np.load(CONFORMANCE / "bat_probe.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def released(state: dict, path: Path, wrapped: bool) -> Path:
    """A file as the released one is described: the student's encoder beside other things."""
    tensors = {f"module.student.encoder.{name}": value for name, value in state["encoder"].items()}
    tensors |= {f"module.teacher.encoder.{name}": value + 1 for name, value in state["ema_encoder"].items()}
    tensors |= {f"module.student.decoder.{name}": value for name, value in state["decoder"].items()}
    torch.save({"state_dict": tensors} if wrapped else tensors, path)
    return path


CONFIG = {
    "model_type": "bat",
    "input_shape": [1024, 128],
    "patch_size": [16, 16],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 4,
    "layer_norm_eps": 1e-6,
    "pre_norm": True,
    "layer_norm_first": False,
    "init_scale_values": None,
    "use_gate": True,
    "pos_trainable": False,
    "chunk_time_patches": 64,
    "sample_rate": 16000,
    "n_fft": 1024,
    "hop_length": 160,
    "n_mels": 128,
    "f_min": 0,
    "top_db": 80,
    "feature_normalization": "per_sample_minmax_after_db",
}


def hugging_face(state: dict, folder: Path, **changes: object) -> Path:
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in state["encoder"].items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    return folder


def fine_tuned(state: dict, probe: dict[str, Tensor], kind: str, path: Path) -> Path:
    """A fine-tuned or probed model: a tuple of one dict, and a path among the arguments."""
    head = {name.removeprefix(f"{kind}."): value for name, value in probe.items() if name.startswith(f"{kind}.")}
    head = {f"head.{n}": v for n, v in head.items() if not n.startswith(("grad", "after", "logits"))}
    args = {**state["args"], "save_model": pathlib.PosixPath("/runs/model.pt")}
    torch.save({"state": ({**state["encoder"], **head},), "args": args}, path)
    return path


@pytest.mark.parametrize("layout", ["pretraining", "released", "wrapped", "folder", "safetensors"])
def test_every_layout_gives_the_published_features(state: dict, io: dict, layout: str, tmp_path: Path) -> None:
    path = PRETRAINED
    if layout in ("released", "wrapped"):
        path = released(state, tmp_path / "b.pt", layout == "wrapped")
    elif layout != "pretraining":
        path = hugging_face(state, tmp_path / "hf")
        path = path / "model.safetensors" if layout == "safetensors" else path
    if layout in ("released", "wrapped"):  # nothing in it says how many heads a model of this width has
        with pytest.raises(CheckpointError, match="how many attention heads"):
            EAT.load(path)
        return
    model = EAT.load(path)
    with torch.inference_mode():
        torch.testing.assert_close(model(io["mel"], layers=(1, 2, 3)), io["blocks"].transpose(0, 1), rtol=0, atol=1e-5)
        clip = torch.cat([io["mel"][:1], io["mel"][1:, :, :272]], dim=2)
        torch.testing.assert_close(model(clip)[0, 1:], io["long_patches_last"], rtol=0, atol=1e-5)
    assert (model.front_end.name, model.front_end.target_length) == ("decibels", 1024)
    assert torch.equal(model.encoder.positions.table, state["encoder"]["pos_embed"])


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_released_base_model_has_twelve_heads(wrapped: bool, tmp_path: Path) -> None:
    from EAT.network.encoder import Encoder
    from EAT.network.settings import EncoderSettings

    sizes = {"embed_dim": 768, "depth": 1, "attention": "gated", "positions": "bat", "time_patches": 64}
    encoder = Encoder(EncoderSettings(**sizes)).eval()
    own = {"patches.projection": "patch_embed.proj", "positions.table": "pos_embed"}
    published = {}
    for name, value in encoder.state_dict().items():
        for ours, theirs in own.items():
            name = name.replace(ours, theirs)
        published["pre_" + name if name.startswith("norm.") else name] = value
    path = released({"encoder": published, "ema_encoder": published, "decoder": {}}, tmp_path / "BAT_base.pt", wrapped)
    model = EAT.load(path)
    mel = torch.rand(1, 1, 64, 128)
    with torch.inference_mode():
        assert torch.equal(model(mel), encoder(mel).tokens)
    assert model.encoder.settings.num_heads == 12


@pytest.mark.parametrize(("kind", "head"), [("linear", "linear"), ("cgp_cls", "cgp"), ("lcgp", "lcgp")])
def test_fine_tuned_and_probed_models(state: dict, probe: dict, io: dict, kind: str, head: str, tmp_path: Path) -> None:
    path = fine_tuned(state, probe, kind, tmp_path / "m.pt")
    model = EAT.load(path)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(io["mel"]), probe[f"{kind}.logits"], rtol=0, atol=1e-5)
    assert model.network.settings.head == head and model.num_classes == 5
    convert(str(path), str(tmp_path / "ours.pt"), "eat")
    again = EAT.load(tmp_path / "ours.pt")
    with torch.inference_mode():
        assert torch.equal(again.network(io["mel"]), model.network(io["mel"]))
    assert again.front_end == model.front_end
    for layout in ("bat", "bat_huggingface", "published", "huggingface"):
        with pytest.raises(CheckpointError, match=r"keep this (model|classifier) as 'eat'"):
            convert(str(path), str(tmp_path / "x"), layout)
    assert not (tmp_path / "x").exists()


def test_a_head_of_another_kind_is_named(state: dict, tmp_path: Path) -> None:
    torch.save(
        {"state": ({**state["encoder"], "head.queries": torch.ones(3)},), "args": state["args"]}, tmp_path / "v.pt"
    )
    with pytest.raises(CheckpointError, match=r"v\.pt has a head of queries; known are linear, lcgp, cgp"):
        EAT.load(tmp_path / "v.pt")


def test_the_whole_pretraining_is_read(state: dict, io: dict) -> None:
    model, front_end, made_up = open_pretraining(str(PRETRAINED))
    settings = model.settings
    assert made_up == () and front_end.name == "decibels"
    assert (settings.decoder, settings.decoder_layers, settings.decoder_heads) == ("transformer", 2, 8)
    assert (settings.targets, settings.ema_schedule, settings.clone_batch) == ("block_outputs", "linear_from_first", 4)
    assert torch.equal(model.decoder.positions, state["decoder"]["pos_embed"])
    with torch.no_grad():
        targets = model.targets(model.teacher.encoder, io["mel"])["frame"]
    torch.testing.assert_close(targets, io["teacher_targets"], rtol=0, atol=1e-4)
    teacher = EAT.load(PRETRAINED, weights="teacher")
    assert torch.equal(teacher.encoder.cls_token, state["ema_encoder"]["cls_token"])
    assert torch.equal(teacher.encoder.positions.table, state["encoder"]["pos_embed"])


def flat(state: dict) -> dict[str, Tensor]:
    parts = ("encoder", "decoder", "ema_encoder")
    return {f"{part}.{name}": value for part in parts for name, value in state[part].items()}


@pytest.mark.parametrize(
    "way", [("eat", "bat"), ("bat_huggingface", "bat"), ("eat", "bat_huggingface", "eat", "bat")], ids="-".join
)
def test_round_trips_leave_every_tensor_identical(state: dict, way: tuple[str, ...], tmp_path: Path) -> None:
    previous = PRETRAINED
    for number, layout in enumerate(way):
        convert(str(previous), str(tmp_path / f"{number}"), layout)
        previous = tmp_path / f"{number}"
        assert read_contents(previous).format == layout
    written = torch.load(previous, weights_only=True)
    found, wanted = flat(written), flat(state)
    assert found.keys() == wanted.keys()
    drift = "ema_encoder.pos_embed"  # an average of equals: the student's is written in its place
    assert torch.equal(found.pop(drift), wanted["encoder.pos_embed"])
    torch.testing.assert_close(wanted.pop(drift), wanted["encoder.pos_embed"], rtol=0, atol=1e-5)
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name
    assert written["args"] == state["args"]
    assert set(written) == {*state, "eat"}


def test_hugging_face_is_written_as_published(state: dict, tmp_path: Path) -> None:
    convert(str(PRETRAINED), str(tmp_path / "hf"))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert {name: config[name] for name in CONFIG} == CONFIG
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    assert tensors.keys() == state["encoder"].keys()
    assert all(torch.equal(tensors[name], value) for name, value in state["encoder"].items())


def test_an_encoder_alone_gets_a_new_decoder_that_is_left_out_again(
    state: dict, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = hugging_face(state, tmp_path / "hf")
    assert main([str(folder), str(tmp_path / "e.pt")]) == 0
    assert "no decoder" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="no teacher"):
        EAT.load(tmp_path / "e.pt", weights="teacher")
    assert main([str(tmp_path / "e.pt"), str(tmp_path / "back")]) == 0
    assert not (tmp_path / "back" / "pretraining.safetensors").exists()
    assert read_contents(tmp_path / "back").format == "bat_huggingface"


def test_wrong_combinations_are_refused_in_a_sentence(tmp_path: Path) -> None:
    for layout in ("published", "huggingface"):
        with pytest.raises(CheckpointError, match=f"format {layout} cannot hold attention=gated, positions=bat"):
            convert(str(PRETRAINED), str(tmp_path / "x"), layout)
    for layout in ("bat", "bat_huggingface"):
        with pytest.raises(CheckpointError, match=f"format {layout} cannot hold .*positions=sine_cosine"):
            convert(str(CONFORMANCE / "official_pretrain.pt"), str(tmp_path / "x"), layout)
    convert(str(PRETRAINED), str(tmp_path / "e.pt"), "eat")
    state = torch.load(tmp_path / "e.pt", weights_only=True)
    state["cfg"]["task"]["fit_waveform"] = True
    torch.save(state, tmp_path / "e.pt")
    with pytest.raises(CheckpointError, match="format bat cannot hold fit_waveform=True"):
        convert(str(tmp_path / "e.pt"), str(tmp_path / "x"), "bat")
    assert not (tmp_path / "x").exists()


# Gates


def test_a_file_without_gates_never_opens_as_bat(state: dict, tmp_path: Path) -> None:
    bare = {name: value for name, value in state["encoder"].items() if ".gate." not in name}
    torch.save({**state, "encoder": bare}, tmp_path / "p.pt")
    torch.save({f"student.encoder.{name}": value for name, value in bare.items()}, tmp_path / "r.pt")
    torch.save({"state": (bare,), "args": state["args"]}, tmp_path / "f.pt")
    hugging_face({"encoder": bare}, tmp_path / "hf")
    for name in ("p.pt", "r.pt", "f.pt", "hf"):
        with pytest.raises(CheckpointError, match=f"{name.replace('.', '[.]')} lacks the gates"):
            EAT.load(tmp_path / name)
    some = {name: value for name, value in state["encoder"].items() if ".1.attn.gate." not in name}
    torch.save({**state, "encoder": some}, tmp_path / "s.pt")
    with pytest.raises(CheckpointError, match=r"lacks encoder\.blocks\.1\.attn\.gate\.weight"):
        EAT.load(tmp_path / "s.pt")


def test_a_file_with_gates_never_opens_without_them(state: dict, io: dict, tmp_path: Path) -> None:
    folder = hugging_face(state, tmp_path / "hf", use_gate=False)
    with pytest.raises(CheckpointError, match=r"hf has the gates .* but should have none"):
        EAT.load(folder)
    convert(str(PRETRAINED), str(tmp_path / "e.pt"), "eat")
    ours = torch.load(tmp_path / "e.pt", weights_only=True)
    ours["cfg"]["model"]["attention"] = "softmax"
    torch.save(ours, tmp_path / "e.pt")
    with pytest.raises(CheckpointError, match=r"holds encoder\.blocks\.0\.attn\.gate\.weight, which .*softmax"):
        EAT.load(tmp_path / "e.pt")
    published = torch.load(CONFORMANCE / "official_pretrain.pt", weights_only=True)
    published["model"] |= {name: value for name, value in state["encoder"].items() if ".gate." in name}
    torch.save(published, tmp_path / "p.pt")
    with pytest.raises(CheckpointError, match=r"p\.pt holds encoder\.blocks\.0\.attn\.gate"):
        EAT.load(tmp_path / "p.pt")


def test_a_hugging_face_encoder_that_says_it_has_no_gates(state: dict, tmp_path: Path) -> None:
    bare = {name: value for name, value in state["encoder"].items() if ".gate." not in name}
    folder = hugging_face({"encoder": bare}, tmp_path / "hf", use_gate=False)
    model = EAT.load(folder)
    assert model.encoder.settings.attention == "softmax"
    convert(str(folder), str(tmp_path / "back"), "bat_huggingface")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["use_gate"] is False


# What cannot be used


def test_what_is_stated_otherwise_than_it_is(state: dict, tmp_path: Path) -> None:
    for number, (changes, what) in enumerate([
        ({"init_scale_values": 1e-5}, "states init_scale_values 1e-05"),
        ({"layer_norm_first": True}, "states layer_norm_first True"),
        ({"num_hidden_layers": 4}, "states depth 4"),
        ({"chunk_time_patches": 32}, "chunks of 32 time patches"),
        ({"sample_rate": 22050}, "rate, window and hop"),
    ]):  # fmt: skip
        folder = hugging_face(state, tmp_path / str(number), **changes)
        with pytest.raises(CheckpointError, match=what):
            EAT.load(folder)
    torch.save({**state, "decoder": {**state["decoder"], "out_proj.weight": torch.ones(3)}}, tmp_path / "d.pt")
    with pytest.raises(CheckpointError, match=r"d\.pt holds decoder\.projection\.weight with shape \(3,\)"):
        EAT.load(tmp_path / "d.pt")


def test_a_file_with_other_objects_points_to_the_release_without(state: dict, tmp_path: Path) -> None:
    torch.save({"state_dict": state["encoder"], "args": argparse.Namespace(dim=64)}, tmp_path / "BAT_base.pt")
    with pytest.raises(CheckpointError, match=r"BAT_base\.pt holds objects .* Hugging Face release"):
        EAT.load(tmp_path / "BAT_base.pt")


def test_an_older_table_at_32_khz(state: dict, tmp_path: Path) -> None:
    folder = hugging_face(state, tmp_path / "hf", sample_rate=32000, n_fft=2048, hop_length=320)
    assert EAT.load(folder).front_end.name == "decibels_32k"


def test_a_pretraining_is_judged(state: dict) -> None:
    judged = judge_checkpoint(
        str(PRETRAINED), [str(clip) for clip in sorted(CLIPS.glob("*.flac"))[:4]], torch.device("cpu")
    )
    assert judged["clips"] == 4 and judged["without"] == []
    assert all(np.isfinite(value) for value in judged["figures"].values())


def test_what_becomes_ours_says_how_it_was_made(tmp_path: Path) -> None:
    assert convert(str(PRETRAINED), str(tmp_path / "e.pt")).initialised == ()
    cfg = torch.load(tmp_path / "e.pt", weights_only=True)["cfg"]
    task = {"_name": "eat_pretraining", "data": "", "spectrogram": "decibels", "target_length": 1024}
    assert cfg["task"] == {**task, "fit_waveform": False}
    assert (cfg["model"]["attention"], cfg["model"]["time_patches"]) == ("gated", 64)
