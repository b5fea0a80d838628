"""Checkpoints of every format give the published numbers; bad files are refused, and nothing in them runs."""

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from EAT.checkpoint import read_checkpoint
from EAT.errors import CheckpointError, ConfigError
from EAT.network.classifier import Classifier
from EAT.network.encoder import Encoder
from EAT.network.objective import averaged_targets

from ..conftest import CONFORMANCE
from ..hostile import Opens
from ..published import our_name

PUBLISHED_POSITIONS = "modality_encoders.IMAGE.fixed_positional_encoder.positions"


@torch.inference_mode()
def features(checkpoint, mel):
    encoder = Encoder(checkpoint.settings).eval()
    encoder.load_state_dict(checkpoint.encoder)
    return encoder(torch.from_numpy(mel)).tokens.numpy()


@torch.inference_mode()
def logits(checkpoint, mel):
    classifier = Classifier(checkpoint.settings).eval()
    encoder = {f"encoder.{name}": value for name, value in checkpoint.encoder.items()}
    classifier.load_state_dict({**encoder, **checkpoint.head})
    return classifier(torch.from_numpy(mel)).numpy()


CASES = {
    "official_pretrain.pt": ("published", "pretraining", "official_pretrain_io", "features", None),
    "official_finetune.pt": ("published", "classification", "official_finetune_io", "features", "logits"),
    "hf_pretrain": ("huggingface", "pretraining", "hf_expected", "pretrain_features", None),
    "hf_finetune": ("huggingface", "classification", "hf_expected", "finetune_features", "finetune_logits"),
    "hf_finetune/model.safetensors": (
        "huggingface",
        "classification",
        "hf_expected",
        "finetune_features",
        "finetune_logits",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_published_checkpoints_give_the_published_numbers(name):
    format, kind, data, wanted_features, wanted_logits = CASES[name]
    data = np.load(CONFORMANCE / f"{data}.npz")
    mel = (data if "mel" in data else np.load(CONFORMANCE / "official_pretrain_io.npz"))["mel"]
    checkpoint = read_checkpoint(CONFORMANCE / name)
    assert (checkpoint.format, checkpoint.kind) == (format, kind)
    np.testing.assert_allclose(features(checkpoint, mel), data[wanted_features], atol=1e-4)
    assert (checkpoint.head is None) == (wanted_logits is None)
    if wanted_logits is not None:
        np.testing.assert_allclose(logits(checkpoint, mel), data[wanted_logits], rtol=1e-4, atol=1e-5)


def test_a_published_checkpoint_of_sslam_gives_its_numbers():
    data = np.load(CONFORMANCE / "sslam_pretrain_io.npz")
    mel = data["mel"].astype(np.float32)
    student, teacher = (read_checkpoint(CONFORMANCE / "sslam_pretrain.pt", weights=w) for w in ("student", "teacher"))
    assert (student.format, student.kind) == ("published", "pretraining")
    tokens = features(student, mel)
    np.testing.assert_allclose(tokens[:, 0], data["checkpoint_student_cls"], atol=1e-4)
    np.testing.assert_allclose(tokens[:, 1:].mean(axis=1), data["checkpoint_student_mean"], atol=1e-4)
    np.testing.assert_allclose(features(teacher, mel)[:, 0], data["checkpoint_teacher_cls"], atol=1e-4)


def test_the_teacher_is_read_by_choice():
    data = np.load(CONFORMANCE / "official_pretrain_io.npz")
    teacher = read_checkpoint(CONFORMANCE / "official_pretrain.pt", weights="teacher")
    encoder = Encoder(teacher.settings).eval()
    encoder.load_state_dict(teacher.encoder)
    with torch.inference_mode():
        targets = averaged_targets(encoder(torch.from_numpy(data["mel"]), collect=True).feed_forward)
    np.testing.assert_allclose(targets.numpy(), data["teacher_targets"], atol=1e-4)
    for name, what in (("hf_pretrain", "no teacher"), ("official_finetune.pt", "no teacher")):
        with pytest.raises(CheckpointError, match=what):
            read_checkpoint(CONFORMANCE / name, weights="teacher")
    with pytest.raises(ConfigError, match="weights"):
        read_checkpoint(CONFORMANCE / "official_pretrain.pt", weights="ema")


def test_position_tables_of_512_rows_work_at_any_length(tmp_path):
    state = torch.load(CONFORMANCE / "official_pretrain.pt", weights_only=True)
    whole = state["model"][PUBLISHED_POSITIONS].clone()
    for tensors in (state["model"], state["model"]["_ema"]):
        tensors[PUBLISHED_POSITIONS] = whole[:, :512].clone()
    torch.save(state, tmp_path / "old.pt")
    checkpoint = read_checkpoint(tmp_path / "old.pt")
    assert torch.equal(checkpoint.encoder["positions.table"], whole)
    mel = np.load(CONFORMANCE / "official_pretrain_io.npz")["mel"]
    twice = np.concatenate([mel, mel], axis=2)  # 1 024 patches, twice as many as the file's table has rows
    np.testing.assert_array_equal(
        features(checkpoint, twice), features(read_checkpoint(CONFORMANCE / "official_pretrain.pt"), twice)
    )


def test_half_precision_published_weights_are_widened(tmp_path):
    state = torch.load(CONFORMANCE / "official_pretrain.pt", weights_only=True)
    state["model"] = {n: v.half() if n != "_ema" else v for n, v in state["model"].items()}
    torch.save(state, tmp_path / "half.pt")
    student, teacher = (read_checkpoint(tmp_path / "half.pt", weights=w) for w in ("student", "teacher"))
    for checkpoint in (student, teacher):
        assert {value.dtype for value in checkpoint.encoder.values()} == {torch.float32}
    exact = read_checkpoint(CONFORMANCE / "official_pretrain.pt")
    assert torch.equal(student.encoder["cls_token"], exact.encoder["cls_token"].half().float())


def our_checkpoint(tmp_path, half=torch.bfloat16, **changes):
    """A training checkpoint of ours as half-precision training leaves it: fairseq widens what it saves."""
    published = torch.load(CONFORMANCE / "official_pretrain.pt", weights_only=True)["model"]
    masters = {our_name(name): value for name, value in published.items() if name != "_ema"}
    table = masters.pop("encoder.positions.table")
    model = {name: value.to(half).float() for name, value in masters.items()} | {"encoder.positions.table": table}
    model |= {f"teacher.{our_name(n)[8:]}": v for n, v in published["_ema"].items() if "positional" not in n}
    state = {
        "cfg": {
            "model": {"_name": "eat_pretraining", "embed_dim": 64, "depth": 3, "num_heads": 4},
            "task": {"_name": "eat_pretraining", "target_length": 512, "norm_mean": -6.627, "norm_std": 5.359},
        },
        "model": model,
        "last_optimizer_state": {"float32_parameters": list(masters.values())},
    }
    state.update(changes)
    torch.save(state, tmp_path / "ours.pt")
    return tmp_path / "ours.pt", masters


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_float32_originals_of_a_half_precision_run_are_preferred(tmp_path, half):
    path, masters = our_checkpoint(tmp_path, half)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.format, checkpoint.kind) == ("eat", "pretraining")
    assert (checkpoint.front_end.target_length, checkpoint.front_end.norm_mean) == (512, -6.627)
    for name, value in checkpoint.encoder.items():
        if name != "positions.table":
            assert torch.equal(value, masters[f"encoder.{name}"]), name


def test_originals_that_are_not_the_weights_are_not_taken(tmp_path):
    path, masters = our_checkpoint(tmp_path)
    strangers = [value + 1 for value in masters.values()]
    path, _ = our_checkpoint(tmp_path, last_optimizer_state={"float32_parameters": strangers})
    checkpoint = read_checkpoint(path)
    assert torch.equal(checkpoint.encoder["cls_token"], masters["encoder.cls_token"].bfloat16().float())


def test_a_lone_safetensors_file_needs_its_heads_known(tmp_path):
    shutil.copy(CONFORMANCE / "hf_pretrain" / "model.safetensors", tmp_path / "lone.bin")
    with pytest.raises(CheckpointError, match="num_heads"):
        read_checkpoint(tmp_path / "lone.bin")
    shutil.copy(CONFORMANCE / "hf_pretrain" / "config.json", tmp_path / "config.json")
    assert read_checkpoint(tmp_path / "lone.bin").format == "huggingface"


@pytest.mark.parametrize("wrapped", [False, True])
def test_code_in_a_pickle_never_runs(tmp_path, wrapped):
    bomb = Opens(tmp_path / "ran")
    target = tmp_path / "evil.pt"
    if wrapped:
        torch.save({"model": {"encoder.cls_token": torch.zeros(1, 1, 8)}, "cfg": bomb}, target)
    else:
        target.write_bytes(pickle.dumps({"model": bomb}))
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        read_checkpoint(target)
    assert not (tmp_path / "ran").exists()


def test_unusable_files_are_named(tmp_path):
    whole = (CONFORMANCE / "official_pretrain.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("no checkpoint")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"model": {"weight": torch.zeros(3)}}, tmp_path / "other.pt")
    (tmp_path / "folder").mkdir()
    weights = (CONFORMANCE / "hf_pretrain" / "model.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(weights[:-100])
    names = ["half.pt", "empty.pt", "text.pt", "list.pt", "other.pt", "folder", "cut.safetensors", "missing.pt"]
    for name in names:
        with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
            read_checkpoint(tmp_path / name)


def test_a_missing_or_misshapen_tensor_is_named(tmp_path):
    state = torch.load(CONFORMANCE / "official_pretrain.pt", weights_only=True)
    removed = state["model"].pop("blocks.1.mlp.fc2.bias")
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.mlp\.fc2\.bias"):
        read_checkpoint(tmp_path / "a.pt")
    state["model"]["blocks.1.mlp.fc2.bias"] = removed[:-1]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"\(63,\)"):
        read_checkpoint(tmp_path / "a.pt")
    shutil.copytree(CONFORMANCE / "hf_finetune", tmp_path / "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    del tensors["model.fc_norm.bias"]
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"norm\.bias"):
        read_checkpoint(tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_checkpoint(tmp_path / "hf")


@pytest.mark.parametrize(
    "flag, mean, activation",
    [(None, -4.268, "sigmoid"), ("esc50_eval", -6.627, "softmax"), ("spcv2_eval", -6.846, "sigmoid")],
)
def test_the_recipe_of_a_published_classifier_is_recognised(tmp_path, flag, mean, activation):
    state = torch.load(CONFORMANCE / "official_finetune.pt", weights_only=True)
    if flag:
        state["cfg"]["model"][flag] = True
    torch.save(state, tmp_path / "f.pt")
    checkpoint = read_checkpoint(tmp_path / "f.pt")
    assert (checkpoint.front_end.norm_mean, checkpoint.activation) == (mean, activation)


def test_config_json_is_read(tmp_path):
    shutil.copytree(CONFORMANCE / "hf_finetune", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config.update(num_heads=8, norm_eps=1e-4, img_size=[512, 128])
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    checkpoint = read_checkpoint(tmp_path / "hf")
    assert (checkpoint.settings.num_heads, checkpoint.settings.norm_eps) == (8, 1e-4)
    assert checkpoint.front_end.target_length == 512
    assert checkpoint.settings.head_norm_eps == 1e-5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["official_pretrain.pt", "official_finetune.pt"])
def test_weights_that_are_not_finite_are_refused(tmp_path, name, value):
    state = torch.load(CONFORMANCE / name)
    key = next(key for key in state["model"] if key.endswith("blocks.1.mlp.fc1.weight"))
    state["model"][key].view(-1)[7] = value
    torch.save(state, tmp_path / "diverged.pt")
    with pytest.raises(CheckpointError, match=r"diverged\.pt holds NaN or infinity in blocks\.1\.mlp\.fc1\.weight"):
        read_checkpoint(tmp_path / "diverged.pt")
