"""BAT's recipes through the real command, at a small size on the real clips."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import EAT
from EAT.training.schedules import ScheduleConfig, floored

from ..conftest import CONFORMANCE, ROOT
from ..fairseq_runs import train, train_distributed
from ..labelled_clips import write_single_label
from ..tiny import ON_A_CPU, model

SIZES = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "clone_batch": 2,
    "decoder_width": 32,
    "decoder_layers": 2,
    "decoder_heads": 4,
    "time_patches": 8,
}
TINY = (
    *ON_A_CPU,
    "common.log_format=json",
    "distributed_training.distributed_world_size=1",
    *model(SIZES),
    "task.target_length=128",
    "lr_scheduler.warmup_updates=2",
    "lr_scheduler.lr_period_updates=10",
)


def saved(folder: Path) -> dict:
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_resumed_pretraining_repeats_the_uninterrupted_one_bit_for_bit(
    clip_manifest: Path, tmp_path: Path, precision: str
) -> None:
    common = (*TINY, f"task.data={clip_manifest}", "dataset.batch_size=32")
    common += ("common.bf16=true",) if precision == "bf16" else ()
    whole = train("pretraining_BAT", *common, f"checkpoint.save_dir={tmp_path}/whole", "optimization.max_update=6")
    part = (*common, f"checkpoint.save_dir={tmp_path}/part")
    train("pretraining_BAT", *part, "optimization.max_update=3")
    resumed = train("pretraining_BAT", *part, "optimization.max_update=6")
    assert resumed.values("loss") == whole.values("loss")[3:]
    one, other = saved(tmp_path / "whole"), saved(tmp_path / "part")
    for name, value in one["model"].items():
        assert torch.equal(other["model"][name], value), name
    # What the recipe says is what was trained.
    config = OmegaConf.load(ROOT / "config" / "pretraining_BAT.yaml")
    assert whole.values("lr")[:3] == pytest.approx([2.5e-4, 5e-4, 5e-4 * (1 + math.cos(math.pi / 10)) / 2], rel=1e-5)
    weight = config.criterion.utterance_weight
    for line in whole.lines:
        wanted = weight * (line["frame_loss"] + line["utterance_loss"])
        assert line["loss"] == pytest.approx(wanted, rel=1e-4)
    assert whole.values("ema_decay")[0] == pytest.approx(0.9998, abs=1e-9)
    assert one["model"]["decoder.positions"].shape == (1, 64, 32)
    loaded = EAT.load(tmp_path / "whole" / "checkpoint_last.pt")
    assert loaded.front_end.name == "decibels" and loaded.encoder.settings.attention == "gated"
    assert loaded.extract(torch.randn(16000 * 3), granularity="frame").shape == (19 * 8, 32)  # in three chunks


def test_two_processes_equal_one_that_accumulates(clip_manifest: Path, tmp_path: Path) -> None:
    common = (*TINY, f"task.data={clip_manifest}", "dataset.batch_size=2", "optimization.max_update=4")
    one = train("pretraining_BAT", *common, f"checkpoint.save_dir={tmp_path}/one", "optimization.update_freq=[2]")
    two = train_distributed("pretraining_BAT", 2, *common, f"checkpoint.save_dir={tmp_path}/two")
    for key in ("loss", "frame_loss", "utterance_loss", "gnorm"):
        assert two[0].values(key) == pytest.approx(one.values(key), rel=1e-5)
    for name, value in saved(tmp_path / "one")["model"].items():
        torch.testing.assert_close(saved(tmp_path / "two")["model"][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "choices",
    [
        ["model.attention=gated", "model.targets=block_outputs"],
        ["model.decoder=transformer", "+model.decoder_heads=4", "+model.time_patches=8"],
        ["task.spectrogram=decibels", "task.norm_mean=null", "task.norm_std=null"],
    ],
    ids=["gates", "decoder", "decibels"],
)
def test_eat_takes_each_part_alone(clip_manifest: Path, tmp_path: Path, choices: list[str]) -> None:
    sizes = {name: SIZES[name] for name in SIZES if name not in ("decoder_heads", "time_patches")}
    run = train(
        "pretraining_AS2M", *TINY[:6], *model(sizes), "task.target_length=128", f"task.data={clip_manifest}",
        "dataset.batch_size=16", "optimization.max_update=3", "lr_scheduler.warmup_updates=1",
        f"checkpoint.save_dir={tmp_path}", *choices,
    )  # fmt: skip
    assert len(run.values("loss")) == 3 and all(map(math.isfinite, run.values("loss")))


def test_the_published_learning_rates(conformance: Path) -> None:
    stored = json.loads((conformance / "bat_expected.json").read_text())
    config = ScheduleConfig(warmup_updates=53_000, min_lr=1e-6, lr=[5e-4], max_update=400_000)
    for update, rate, _ in stored["published_schedule"]["rows"]:
        assert floored(config, int(update) - 1) == pytest.approx(rate, rel=1e-9)
    run = stored["trajectory"]
    config = ScheduleConfig(warmup_updates=2, min_lr=1e-6, lr=[1e-3], max_update=6)
    for update in run["updates"]:
        assert floored(config, update["update"] - 1) == pytest.approx(update["learning_rate"], rel=1e-9)


# Fine-tuning


FINE = (*ON_A_CPU, "dataset.batch_size=8", "optimization.max_update=2", "lr_scheduler.warmup_updates=1")


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    data = tmp_path_factory.mktemp("families")
    return data, len(write_single_label(data))


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "config").glob("*BAT_*.yaml")))
def test_fine_tuning_starts_from_a_published_file(families: tuple[Path, int], tmp_path: Path, name: str) -> None:
    data, classes = families
    weighed = ["task.weights=null"] if "AS2M" in name else []
    start = ["valid_subset=eval", "target_length=128"]
    run = train(
        name, *FINE, f"task.data={data}", f"model.num_classes={classes}", f"checkpoint.save_dir={tmp_path}",
        f"model.model_path={CONFORMANCE / 'bat_pretrain.pt'}", f"dataset.{start[0]}", f"task.{start[1]}", *weighed,
    )  # fmt: skip
    assert len(run.values("loss")) == 2 and "encoder from the bat pretraining checkpoint" in run.output
    trained = EAT.load(tmp_path / "checkpoint_last.pt")
    assert trained.encoder.settings.attention == "gated" and trained.num_classes == classes
    assert trained.front_end.name == "decibels"
    assert getattr(trained.front_end, "fit_waveform", None) == ("AS2" in name)


def test_a_model_is_not_given_spectrograms_it_never_heard(families: tuple[Path, int], tmp_path: Path) -> None:
    data, classes = families
    common = (*FINE, f"task.data={data}", f"model.num_classes={classes}", f"checkpoint.save_dir={tmp_path}/run")
    run = train("finetuning_ESC50", *common, f"model.model_path={CONFORMANCE / 'bat_pretrain.pt'}", expect=1)
    assert "was trained on task.spectrogram=decibels, but this run has log_mel; set task.spectrogram=" in run.output
    run = train("finetuning_BAT_ESC50", *common, "task.norm_mean=-4", expect=1)
    assert "normalises each clip by itself" in run.output and not (tmp_path / "run" / "checkpoint_last.pt").exists()


@pytest.mark.slow
def test_fine_tuning_resumed_and_shared_out_is_the_same(families: tuple[Path, int], tmp_path: Path) -> None:
    """Gates, decibels, clips mixed with weights of their own: in bfloat16 resumed, in float32 on two processes."""
    data, classes = families
    common = (
        *FINE, f"task.data={data}", f"model.num_classes={classes}", "task.target_length=128", "model.drop_path=0",
        f"model.model_path={CONFORMANCE / 'bat_pretrain.pt'}", "dataset.batch_size=4", "optimization.lr=[1e-3]",
        "model.head_dropout=0", "lr_scheduler.lr_period_updates=4", "dataset.disable_validation=true",
    )  # fmt: skip

    def run(folder: str, updates: int, *more: str) -> dict[str, torch.Tensor]:
        whole = (*common, f"checkpoint.save_dir={tmp_path}/{folder}", f"optimization.max_update={updates}")
        train("finetuning_BAT_AS20K", *whole, *more)
        return saved(tmp_path / folder)["model"]

    half = run("half", 4, "common.bf16=true")
    run("parts", 2, "common.bf16=true")
    parts = run("parts", 4, "common.bf16=true")
    assert all(torch.equal(value, parts[name]) for name, value in half.items())
    one = run("one", 4, "optimization.update_freq=[2]")
    train_distributed("finetuning_BAT_AS20K", 2, *common, f"checkpoint.save_dir={tmp_path}/two",
                      "optimization.max_update=4")  # fmt: skip
    for name, value in saved(tmp_path / "two")["model"].items():
        torch.testing.assert_close(value, one[name], rtol=1e-4, atol=1e-5, msg=name)
    for name, value in half.items():
        torch.testing.assert_close(value.float(), one[name], rtol=0, atol=0.1, msg=name)


@pytest.mark.parametrize(
    ("recipe", "head", "start"),
    [
        ("probing_ESC50", "cgp", "bat_pretrain.pt"),
        ("probing_AS20K", "lcgp", "bat_pretrain.pt"),
        ("probing_SPC12", "linear", "bat_pretrain.pt"),
        ("probing_SPCv2", "attentive", "official_pretrain.pt"),
    ],
)
def test_a_probe_is_trained_on_a_frozen_encoder(
    families: tuple[Path, int], tmp_path: Path, recipe: str, head: str, start: str
) -> None:
    data, classes = families
    eat = ["task.spectrogram=log_mel", "task.norm_mean=-7", "task.norm_std=5"] if "official" in start else []
    train(
        recipe, *FINE, f"task.data={data}", f"model.num_classes={classes}", f"checkpoint.save_dir={tmp_path}",
        f"model.model_path={CONFORMANCE / start}", "task.target_length=128", f"model.head={head}",
        "model.head_prototypes=16", "dataset.valid_subset=eval", *eat,
    )  # fmt: skip
    before, after = EAT.load(CONFORMANCE / start), EAT.load(tmp_path / "checkpoint_last.pt")
    for name, value in before.encoder.state_dict().items():
        assert torch.equal(after.encoder.state_dict()[name], value), name
    groups = saved(tmp_path)["last_optimizer_state"]["param_groups"]
    decayed = {"attentive": 3}.get(head, 1)
    decay = 0.2 if recipe == "probing_ESC50" else 0.05
    assert sorted((group["weight_decay"], len(group["params"])) for group in groups)[-1] == (decay, decayed)
    assert after.scores(torch.randn(16000)).shape == (classes,)
