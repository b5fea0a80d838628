"""The four fine-tuning recipes, each from a download laid out as the official one is, through preparation, the real
training command and evaluation; and the demo's recipe on real clips.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from EAT.checkpoint import read_checkpoint

from .conftest import CLIPS, CONFORMANCE, ROOT
from .data.prepare.test_speech_commands import WORDS
from .fairseq_runs import COMMAND, Run, environment, train
from .labelled_clips import families
from .tiny import ON_A_CPU

CPU = (
    *ON_A_CPU,
    "dataset.batch_size=8",
    "optimization.max_update=3",
    "lr_scheduler.warmup_updates=1",
)

SPASS = {
    "optimization.max_update": 3906,
    "lr_scheduler.warmup_updates": 390,
    "optimization.lr": [5e-5],
    "dataset.batch_size": 48,
    "task.target_length": 1024,
    "task.mixup_alpha": 0.8,
    "task.time_mask": 0.2,
    "criterion.loss": "bce_per_positive",
    "task.norm_mean": -5.275,
    "task.norm_std": 3.268,
    "model.num_classes": None,
    "checkpoint.best_checkpoint_metric": "mAP",
}

PUBLISHED = {
    "finetuning_SPASS": {**SPASS, "model.freeze_encoder": False},
    "finetuning_SPASS_linear": {
        **SPASS,
        "lr_scheduler.warmup_updates": 0,
        "optimization.lr": [1e-3],
        "model.freeze_encoder": True,
        "model.frozen_drop_path": True,
    },
    "finetuning_AS2M_SSLAM": {
        "optimization.max_update": 400000,
        "lr_scheduler.warmup_updates": 40000,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 96,
        "task.weights": "weights",
        "task.samples_per_epoch": 200000,
    },
    "finetuning_AS2M": {
        "optimization.max_update": 300000,
        "lr_scheduler.warmup_updates": 30000,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 96,
        "task.target_length": 1024,
        "task.mixup_alpha": 0.8,
        "task.time_mask": 0.2,
        "criterion.label_smoothing": 0,
        "criterion.loss": "bce_per_positive",
        "task.noise": 0,
        "task.shift": 0,
        "task.weights": "weights",
        "task.samples_per_epoch": 200000,
        "task.norm_mean": -4.268,
        "task.norm_std": 4.569,
        "model.num_classes": 527,
        "checkpoint.best_checkpoint_metric": "mAP",
    },
    "finetuning_AS20K": {
        "optimization.max_update": 40000,
        "lr_scheduler.warmup_updates": 4000,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 48,
        "task.target_length": 1024,
        "task.mixup_alpha": 0.8,
        "task.time_mask": 0.2,
        "criterion.label_smoothing": 0,
        "criterion.loss": "bce_per_positive",
        "task.noise": 0,
        "task.shift": 0,
        "task.weights": None,
        "task.norm_mean": -4.268,
        "task.norm_std": 4.569,
        "model.num_classes": 527,
        "checkpoint.best_checkpoint_metric": "mAP",
    },
    "finetuning_ESC50": {
        "optimization.max_update": 4000,
        "lr_scheduler.warmup_updates": 400,
        "optimization.lr": [5e-5],
        "dataset.batch_size": 48,
        "task.target_length": 512,
        "task.mixup_alpha": 0,
        "task.time_mask": 0.4,
        "criterion.label_smoothing": 0.1,
        "criterion.loss": "cross_entropy",
        "task.noise": 0,
        "task.shift": 0,
        "task.weights": None,
        "task.norm_mean": -6.627,
        "task.norm_std": 5.359,
        "model.num_classes": 50,
        "checkpoint.best_checkpoint_metric": "accuracy",
    },
    "finetuning_SPCv2": {
        "optimization.max_update": 40000,
        "lr_scheduler.warmup_updates": 4000,
        "optimization.lr": [2e-4],
        "dataset.batch_size": 256,
        "task.target_length": 128,
        "task.mixup_alpha": 0.8,
        "task.time_mask": 0.2,
        "criterion.label_smoothing": 0.1,
        "criterion.loss": "bce_sum",
        "task.noise": 0.1,
        "task.shift": 10,
        "task.weights": None,
        "task.norm_mean": -6.846,
        "task.norm_std": 5.565,
        "model.num_classes": 35,
        "checkpoint.best_checkpoint_metric": "accuracy",
    },
}
BAT = {
    "finetuning_BAT_AS2M": {
        "optimization.max_update": 200000,
        "lr_scheduler.warmup_updates": 20000,
        "dataset.batch_size": 96,
        "task.target_length": 1024,
        "task.fit_waveform": True,
        "task.crop": "random",
        "task.roll": True,
        "task.augmentations.clip_mixup": 0.8,
        "criterion.loss": "asymmetric",
    },
    "finetuning_BAT_AS20K": {
        "optimization.max_update": 40000,
        "lr_scheduler.warmup_updates": 4000,
        "dataset.batch_size": 48,
        "task.target_length": 1024,
        "task.fit_waveform": True,
        "task.crop": "random",
        "task.roll": True,
        "task.time_mask": 64 / 1024,
        "task.augmentations": {"clip_mixup": 0.8, "further_masks": 1},
        "criterion.loss": "asymmetric",
        "model.head_dropout": 0.2,
    },
    "finetuning_BAT_ESC50": {
        "optimization.max_update": 4000,
        "lr_scheduler.warmup_updates": 400,
        "dataset.batch_size": 48,
        "task.target_length": 512,
        "task.roll": False,
        "task.time_mask": 32 / 512,
        "task.augmentations": {"coloured_noise": 0.3, "roll_filterbank": 1},
        "criterion.loss": "cross_entropy",
        "model.head_dropout": 0.2,
    },
    "finetuning_BAT_SPC12": {
        "optimization.max_update": 10000,
        "lr_scheduler.warmup_updates": 1000,
        "dataset.batch_size": 256,
        "task.target_length": 112,
        "task.roll": False,
        "task.time_mask": 32 / 112,
        "task.augmentations": {"coloured_noise": 0.3, "roll_filterbank": 1},
        "criterion.loss": "cross_entropy",
        "model.num_classes": 12,
        "model.head_dropout": 0,
    },
}
COMMON_BAT = {
    "optimization.lr": [5e-5],
    "optimization.clip_norm": 0,
    "optimizer.betas": [0.9, 0.95],
    "optimizer.weight_decay": 0.05,
    "optimizer.decayed": "weights",
    "lr_scheduler.shape": "floored_cosine",
    "lr_scheduler.min_lr": 1e-6,
    "task.spectrogram": "decibels",
    "task.norm_mean": None,
    "task.gain": 0,
    "task.noise": 0,
    "task.shift": 0,
    "task.mixup_alpha": 0,
    "task.mixup_prob": 0.9,
    "task.frequency_mask": 16 / 128,
    "criterion.label_smoothing": 0,
    "model.layer_decay": 0.75,
    "model.layer_decay_input": True,
    "model.drop_path": 0.1,
}
COMMON = {
    "task.mixup_prob": 0.9,
    "task.roll": True,
    "task.gain": 10,
    "lr_scheduler.min_lr": 1e-6,
    "optimizer.weight_decay": 0.05,
    "model.layer_decay": 0.65,
    "model.drop_path": 0.1,
    "checkpoint.maximize_best_checkpoint_metric": True,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    for key, value in {**COMMON, **PUBLISHED[name]}.items():
        assert OmegaConf.select(config, key, throw_on_missing=True) == value, key
    assert config.task.frequency_mask == config.task.time_mask


PROBES = {
    "probing_AS20K": (20000, 48, 500, 0.05, 1024, "asymmetric", 527),
    "probing_ESC50": (4000, 48, 400, 0.2, 512, "cross_entropy", 50),
    "probing_SPC12": (10000, 256, 1000, 0.05, 112, "cross_entropy", 12),
    "probing_SPCv2": (10000, 256, 1000, 0.05, 112, "cross_entropy", 35),
}
"""Updates, batch, warm-up, weight decay, frames, loss and classes."""


@pytest.mark.parametrize("name", PROBES)
def test_the_published_protocol_of_probes(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    found = (
        config.optimization.max_update, config.dataset.batch_size, config.lr_scheduler.warmup_updates,
        config.optimizer.weight_decay, config.task.target_length, config.criterion.loss, config.model.num_classes,
    )  # fmt: skip
    assert found == PROBES[name]
    assert (config.optimization.lr, config.lr_scheduler.min_lr, config.optimization.clip_norm) == ([1e-3], 1e-6, 0)
    assert (config.optimizer.betas, config.optimizer.decayed) == ([0.9, 0.999], "weights")
    assert (config.model.head, config.model.head_prototypes, config.model.head_dropout) == ("cgp", 10000, 0.2)
    assert config.model.freeze_encoder and config.task.roll == (name == "probing_AS20K")


@pytest.mark.parametrize("name", BAT)
def test_bats_published_numbers(name: str) -> None:
    config = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    for key, value in {**COMMON_BAT, **BAT[name]}.items():
        found = OmegaConf.select(config, key, throw_on_missing=True)
        assert (OmegaConf.to_container(found) if OmegaConf.is_dict(found) else found) == value, key


def prepare(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "EAT.prepare", *map(str, arguments), "--num-workers", "1"]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, capture_output=True)


def put_clips(paths: list[Path]) -> None:
    """The real clips, one after the other, at these places."""
    sources = sorted(CLIPS.glob("*.flac"))
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples, rate = soundfile.read(sources[number % len(sources)])
        soundfile.write(path, samples, rate)


def fine_tune(config: str, data: Path, tmp_path: Path, *overrides: str) -> Run:
    """The recipe as it is but for batch, length of the run and device, from a small published checkpoint."""
    return train(
        config,
        *CPU,
        f"task.data={data}",
        f"model.model_path={CONFORMANCE / 'official_pretrain.pt'}",
        f"checkpoint.save_dir={tmp_path}/run",
        *overrides,
    )


def evaluate(data: Path, tmp_path: Path, **variables: str) -> str:
    """What scripts/eval.sh prints about the run's last checkpoint."""
    settings = {"DATA": str(data), "CHECKPOINT": f"{tmp_path}/run/checkpoint_last.pt", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "eval.sh"), "--device", "cpu"],
        cwd=ROOT,
        env=environment(**settings, **variables),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report").is_dir()
    return done.stdout


def score(tmp_path: Path) -> float:
    return torch.load(tmp_path / "run" / "checkpoint_last.pt", weights_only=True)["extra_state"]["val_loss"]


@pytest.fixture
def audioset(tmp_path: Path) -> Path:
    """Three classes of AudioSet, 16 training and 6 evaluation clips."""
    download = tmp_path / "audioset"
    classes = ["/m/09x0r", "/m/04rlf", "/m/03fwl"]
    download.mkdir()
    (download / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/04rlf,"Music"\n2,/m/03fwl,"Goat, bleating"\n'
    )
    for name, count in (("balanced_train_segments", 16), ("eval_segments", 6)):
        lines = [
            "# Segments csv created Sun Mar  5 10:54:31 2017",
            f"# num_ytids={count}",
            "# YTID, start_seconds, ...",
        ]
        ids = [f"{name[:4]}_{number:06d}" for number in range(count)]
        for number, youtube in enumerate(ids):
            labels = ",".join(classes[: 1 + number % 3][-2:])
            lines.append(f'{youtube}, 30.000, 40.000, "{labels}"')
        (download / f"{name}.csv").write_text("\n".join(lines) + "\n")
        put_clips([download / "audio" / f"Y{youtube}.wav" for youtube in ids])
    return download


def prepare_audioset(download: Path, data: Path) -> None:
    prepare(
        "audioset", download / "audio", data, "--train-segments", download / "balanced_train_segments.csv",
        "--eval-segments", download / "eval_segments.csv",
    )  # fmt: skip


def test_audioset_by_weight(audioset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare_audioset(audioset, data)
    run = fine_tune("finetuning_AS2M", data, tmp_path, "model.num_classes=3", "task.samples_per_epoch=8")
    assert "each epoch draws 8 of 16 clips by weight" in run.output and len(run.lines) == 3
    printed = evaluate(data, tmp_path)
    assert float(re.search(r"mAP\D+([\d.]+)", printed)[1]) == pytest.approx(score(tmp_path), abs=1e-4)


@pytest.mark.parametrize("name", ["finetuning_AS2M_SSLAM", "finetuning_SPASS", "finetuning_SPASS_linear"])
def test_sslam_downstream(audioset: Path, tmp_path: Path, name: str) -> None:
    data = tmp_path / "data"
    prepare_audioset(audioset, data)
    own = ("model.num_classes=3", "task.samples_per_epoch=8") if "AS2M" in name else ()
    start = CONFORMANCE / "sslam_pretrain.pt"
    run = fine_tune(name, data, tmp_path, f"model.model_path={start}", *own)
    assert f"encoder from the published pretraining checkpoint {start}" in run.output and len(run.lines) == 3
    printed = evaluate(data, tmp_path)
    assert float(re.search(r"mAP\D+([\d.]+)", printed)[1]) == pytest.approx(score(tmp_path), abs=1e-4)
    trained = torch.load(tmp_path / "run" / "checkpoint_last.pt")["model"]
    frozen = torch.equal(trained["encoder.cls_token"], read_checkpoint(start).encoder["cls_token"])
    assert frozen == ("linear" in name) and trained["head.weight"].shape == (3, 64)


def test_a_small_model_at_its_own_size(audioset: Path, tmp_path: Path) -> None:
    data, short = tmp_path / "data", ("task.target_length=128", "dataset.batch_size=2", "common.bf16=true")
    prepare_audioset(audioset, data)
    run = train(
        "pretraining_AS2M_small", *CPU, *short, "common.log_format=json", f"task.data={data}", "model.clone_batch=2",
        "distributed_training.distributed_world_size=1", f"checkpoint.save_dir={tmp_path}/small",
    )  # fmt: skip
    assert "22.0 M trained parameters" in run.output and len(run.lines) == 3
    start = f"model.model_path={tmp_path}/small/checkpoint_last.pt"
    for name in ("finetuning_AS20K_small", "finetuning_AS2M_small"):
        tuned = fine_tune(
            name, data, tmp_path / name, *short, start, "model.num_classes=3", "task.samples_per_epoch=8",
            "dataset.disable_validation=true",
        )  # fmt: skip
        assert "21.4 M trained parameters" in tuned.output and len(tuned.lines) == 3


def test_audioset_balanced(audioset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare_audioset(audioset, data)
    run = fine_tune("finetuning_AS20K", data, tmp_path, "model.num_classes=3")
    assert len(run.lines) == 3
    printed = evaluate(data, tmp_path)
    assert float(re.search(r"mAP\D+([\d.]+)", printed)[1]) == pytest.approx(score(tmp_path), abs=1e-4)


def test_esc50_over_folds(tmp_path: Path) -> None:
    """Through the script: two of the folds, their mean and deviation."""
    repository = tmp_path / "ESC-50-master"
    rows, paths = ["filename,fold,target,category,esc10,src_file,take"], []
    for fold in range(1, 6):
        for target, category in enumerate(("dog", "rooster", "pig")):
            name = f"{fold}-{100 + target}-A-{target}.wav"
            rows.append(f"{name},{fold},{target},{category},False,{100 + target},A")
            paths.append(repository / "audio" / name)
    put_clips(paths)
    (repository / "meta").mkdir()
    (repository / "meta" / "esc50.csv").write_text("\n".join(rows) + "\n")
    prepare("esc50", repository, tmp_path / "data")
    done = subprocess.run(
        ["bash", str(ROOT / "scripts" / "finetuning_ESC50.sh"), *CPU, "model.num_classes=3"],
        cwd=tmp_path,  # relative paths are the user's
        env=environment(
            PATH=f"{COMMAND.parent}{os.pathsep}{os.environ['PATH']}",
            DATA="data",
            SAVE="runs",
            FOLDS="1 4",
            CHECKPOINT=str(CONFORMANCE / "hf_pretrain"),
            PYTHON=sys.executable,
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, four = (
        torch.load(tmp_path / "runs" / fold / "checkpoint_last.pt", weights_only=True) for fold in ("fold1", "fold4")
    )
    accuracies = [state["extra_state"]["val_loss"] for state in (one, four)]
    mean, deviation = sum(accuracies) / 2, abs(accuracies[0] - accuracies[1]) / 2**0.5
    assert done.stdout.splitlines()[-3:] == [
        f"fold1: accuracy {accuracies[0]:.4f}",
        f"fold4: accuracy {accuracies[1]:.4f}",
        f"2 folds: mean accuracy {mean:.4f}, standard deviation {deviation:.4f}",
    ]


def test_speech_commands(tmp_path: Path) -> None:
    archive = tmp_path / "speech_commands_v0.02"
    paths = [f"{word}/{speaker}_nohash_0.wav" for speaker in ("0a7c2a8d", "1b4c9b89", "2aca1e72") for word in WORDS]
    put_clips([archive / path for path in paths] + [archive / "_background_noise_" / "pink_noise.wav"])
    (archive / "validation_list.txt").write_text("\n".join(paths[35:70]) + "\n")
    (archive / "testing_list.txt").write_text("\n".join(paths[70:]) + "\n")
    data = tmp_path / "data"
    prepare("speech_commands", archive, data)
    run = fine_tune("finetuning_SPCv2", data, tmp_path)
    assert len(run.lines) == 3 and "valid_accuracy" in run.output
    assert "accuracy" in evaluate(data, tmp_path, SPLIT="valid")


@pytest.mark.slow
def test_the_demos_recipe_beats_chance_by_far_on_clips_it_has_not_seen(tmp_path: Path) -> None:
    data = tmp_path / "data"
    prepare(
        "folder", CLIPS, data, "--labels", ROOT / "data" / "clips.csv", "--label-column", "family", "--eval", "0.25"
    )
    names = families()
    held_out = [line.split("\t")[0] for line in (data / "eval.tsv").read_text().splitlines()[1:]]
    counts = [sum(names[name] == family for name in held_out) for family in set(names.values())]
    run = train(
        "finetuning_demo", "common.log_format=json", f"task.data={data}", f"checkpoint.save_dir={tmp_path}/run",
        "model.embed_dim=192", "model.depth=6", "model.num_heads=6",
    )  # fmt: skip
    accuracy = score(tmp_path)
    assert accuracy > 2 * max(counts) / len(held_out), run.output[-2000:]  # twice that of always the commonest family
