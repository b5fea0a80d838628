"""Pre-training that goes on from a checkpoint, and with mixtures, through the real command on the real clips."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from EAT.checkpoint.formats import read_contents, write_checkpoint
from EAT.errors import CheckpointError
from EAT.inference.learning import open_pretraining
from EAT.network.masking import masks_from_map
from EAT.network.pretraining import Pretraining
from EAT.network.settings import PretrainingSettings
from EAT.training.pretraining_start import start_from

from ..fairseq_runs import TINY, train, train_distributed
from ..published import SIZES, our_name
from ..tiny import model

GIVEN = (*(value for value in TINY if not value.startswith("model.")), *model({**SIZES, "clone_batch": 2}))
STILL = (
    "model.ema_decay=1", "model.ema_end_decay=1", "optimization.max_update=1", "lr_scheduler.lr_period_updates=9",
    "dataset.batch_size=4",
)  # fmt: skip
"""One update, which changes nothing: the learning rate of the first is 0, and the teacher stands."""
RECIPES = {"pretraining_AS2M": ("frame", "utterance"), "pretraining_SSLAM": ("frame", "utterance", "retention")}


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoint_last.pt")


def said(output: str) -> str:
    """The line on what the run started from."""
    found = re.findall(r"\[EAT\]\[INFO\] - (.* checkpoint .*)", output)
    assert len(found) == 1, output[-3000:]
    return found[0]


def started(clip_manifest: Path, folder: Path, path: Path, *overrides: str, config: str = "pretraining_AS2M") -> str:
    """Start a run that changes nothing; what it said it started from."""
    run = train(
        config, *GIVEN, *STILL, f"task.data={clip_manifest}", f"checkpoint.save_dir={folder}",
        f"model.model_path={path}", *overrides,
    )  # fmt: skip
    return said(run.output)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_published_model_goes_on_exactly(
    clip_manifest: Path, conformance: Path, tmp_path: Path, precision: str
) -> None:
    start = conformance / "official_pretrain.pt"
    sentence = started(clip_manifest, tmp_path, start, f"common.bf16={str(precision == 'bf16').lower()}")
    assert sentence == f"student, decoder and teacher from the published pretraining checkpoint {start}"
    state = torch.load(start)["model"]
    teacher = state.pop("_ema")
    held = read_contents(tmp_path / "checkpoint_last.pt").tensors  # in bf16 with the optimiser's float32 originals
    wanted = {our_name(name): value for name, value in state.items()}
    wanted |= {our_name(n).replace("encoder.", "teacher.", 1): v for n, v in teacher.items() if "positions" not in n}
    assert held.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(held[name], value), name

    network, _, _ = open_pretraining(str(tmp_path / "checkpoint_last.pt"))
    network.decoder.noise = 0.0
    network.settings.clone_batch = 4
    with np.load(conformance / "official_pretrain_io.npz") as io:
        mel, mask = torch.from_numpy(io["mel"]), torch.from_numpy(io["mask"]).bool().view(2, 4, 512)
    batch = network.draw(mel, [0, 1], seed=1, epoch=1)._replace(masks=masks_from_map(mask))
    losses = network(batch).terms
    expected = json.loads((conformance / "official_pretrain_expected.json").read_text())
    assert losses["frame"].item() == pytest.approx(expected["frame_loss"], rel=1e-4)
    assert 8 * losses["utterance"].item() == pytest.approx(expected["utterance_loss_sum_over_clones"], rel=1e-4)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("hf_pretrain", "student from the huggingface pretraining checkpoint {}; the decoder starts new and the "
                        "teacher starts as the student, as it holds none"),
        ("official_finetune.pt", "student from the published classification checkpoint {}; the decoder starts new and "
                                 "the teacher starts as the student, as it holds none"),
        ("sslam_pretrain.pt", "student, decoder and teacher from the published pretraining checkpoint {}"),
    ],
)  # fmt: skip
def test_what_a_checkpoint_lacks_is_new_and_said(
    clip_manifest: Path, conformance: Path, tmp_path: Path, name: str, sentence: str
) -> None:
    assert started(clip_manifest, tmp_path, conformance / name) == sentence.format(conformance / name)
    stored, held = read_contents(conformance / name), read_contents(tmp_path / "checkpoint_last.pt")
    for key, value in stored.part("encoder.").items():
        kept = held.tensors[f"encoder.{key}"]
        assert torch.equal(kept[:, : value.shape[1]] if key == "positions.table" else kept, value), key
    if not stored.part("teacher."):
        for key, value in held.part("teacher.").items():
            assert torch.equal(value, held.tensors[f"encoder.{key}"]), key


def test_a_decoder_that_a_conversion_made_up_is_no_decoder(
    clip_manifest: Path, conformance: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made.pt"
    write_checkpoint(read_contents(conformance / "hf_pretrain"), str(made), "eat")
    sentence = started(clip_manifest, tmp_path / "run", made)
    assert sentence.startswith("student from the eat pretraining checkpoint") and "decoder starts new" in sentence


def test_another_size_is_refused_with_the_settings_to_give(
    clip_manifest: Path, conformance: Path, tmp_path: Path
) -> None:
    start = conformance / "official_pretrain.pt"
    run = train(
        "pretraining_AS2M", *TINY, *STILL, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}",
        f"model.model_path={start}", expect=1,
    )  # fmt: skip
    wanted = "model.embed_dim=64 model.depth=3 model.decoder_width=64"
    assert f"{start} holds a model of other sizes; set {wanted} to start from it." in run.output
    assert "Traceback" not in run.output and not list(tmp_path.glob("*.pt"))


def test_half_a_decoder_is_refused(conformance: Path, tmp_path: Path) -> None:
    state = torch.load(conformance / "official_pretrain.pt")
    del state["model"]["modality_encoders.IMAGE.decoder.proj.bias"]
    torch.save(state, tmp_path / "half.pt")
    with pytest.raises(CheckpointError, match=r"half\.pt does not fit .*decoder\.projection\.bias"):
        start_from(Pretraining(PretrainingSettings(**SIZES)), str(tmp_path / "half.pt"))


def test_mixtures_do_not_begin_with_nothing_unless_that_is_asked_for(clip_manifest: Path, tmp_path: Path) -> None:
    given = (*TINY, *STILL, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}")
    run = train("pretraining_SSLAM", *given, expect=1)
    assert "model.model_path is not set; mixtures start from a finished EAT" in run.output
    train("pretraining_SSLAM", *given, "model.model_path=null")
    resumed = train("pretraining_SSLAM", *given, "optimization.max_update=2", "criterion.weights.retention=0")
    assert len(resumed.lines) == 1 and "retention_loss" not in resumed.lines[0]  # it needs no file to start from


@pytest.mark.parametrize(
    ("config", "precision", "workers"),
    [("pretraining_AS2M", "true", 0), ("pretraining_SSLAM", "true", 0), ("pretraining_SSLAM", "false", 2)],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    clip_manifest: Path, conformance: Path, tmp_path: Path, config: str, precision: str, workers: int
) -> None:
    start = tmp_path / "start.pt"
    shutil.copy(conformance / "official_pretrain.pt", start)
    common = (
        *GIVEN, f"common.bf16={precision}", f"task.data={clip_manifest}", "task.crop=random", "dataset.batch_size=32",
        "lr_scheduler.lr_period_updates=10", f"model.model_path={start}",
    )  # fmt: skip
    whole = train(config, *common, f"checkpoint.save_dir={tmp_path}/whole", "optimization.max_update=8")
    part = (*common, f"checkpoint.save_dir={tmp_path}/part", f"dataset.num_workers={workers}")
    train(config, *part, "optimization.max_update=3")
    start.unlink()  # is needed no more
    resumed = train(config, *part, "optimization.max_update=8")
    assert "start.pt" not in resumed.output
    assert resumed.values("num_updates") == [4, 5, 6, 7, 8]  # the fifth begins the second epoch
    for key in ("loss", "gnorm", "lr", "ema_decay", *(f"{term}_loss" for term in RECIPES[config])):
        assert resumed.values(key) == whole.values(key)[3:], key
    one, other = saved(tmp_path / "whole"), saved(tmp_path / "part")
    for name, value in one["model"].items():
        assert torch.equal(other["model"][name], value), name
    moments, others = (state["last_optimizer_state"]["state"] for state in (one, other))
    assert moments.keys() == others.keys() and float(moments[0]["step"]) == float(others[0]["step"]) == 8
    for index, entry in moments.items():
        assert torch.equal(entry["exp_avg_sq"], others[index]["exp_avg_sq"])


def test_two_processes_equal_one_that_accumulates(clip_manifest: Path, conformance: Path, tmp_path: Path) -> None:
    config = "pretraining_SSLAM"
    common = (
        *GIVEN, f"task.data={clip_manifest}", "dataset.batch_size=3", "optimization.max_update=4",
        f"model.model_path={conformance / 'official_pretrain.pt'}",
    )  # fmt: skip
    one = train(config, *common, f"checkpoint.save_dir={tmp_path}/one", "optimization.update_freq=[2]")
    two = train_distributed(config, 2, *common, f"checkpoint.save_dir={tmp_path}/two")
    for key in ("loss", "gnorm", *(f"{term}_loss" for term in RECIPES[config])):
        assert two[0].values(key) == pytest.approx(one.values(key), rel=1e-5), key
    for name, value in saved(tmp_path / "one")["model"].items():
        torch.testing.assert_close(saved(tmp_path / "two")["model"][name], value, rtol=1e-4, atol=1e-6)


def test_mixtures_learn_in_bfloat16_as_in_float32(clip_manifest: Path, conformance: Path, tmp_path: Path) -> None:
    common = (
        *GIVEN, f"task.data={clip_manifest}", "dataset.batch_size=16", "optimization.max_update=30",
        "optimization.lr=[1e-3]", f"model.model_path={conformance / 'official_pretrain.pt'}",
    )  # fmt: skip
    exact = train("pretraining_SSLAM", *common, f"checkpoint.save_dir={tmp_path}/float32")
    half = train("pretraining_SSLAM", *common, f"checkpoint.save_dir={tmp_path}/bf16", "common.bf16=true")
    assert len(exact.lines) == 30
    for key in ("loss", "frame_loss", "retention_loss"):
        assert half.values(key) == pytest.approx(exact.values(key), rel=0.02), key
    assert exact.values("retention_loss")[-1] < exact.values("retention_loss")[0]
    line = exact.lines[-1]
    wanted = line["frame_loss"] + 192 * line["utterance_loss"] + line["retention_loss"]
    assert line["loss"] == pytest.approx(wanted, rel=1e-5)
