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

from EAT.checkpoint import read_checkpoint

from .conftest import CLIPS, CONFORMANCE, ROOT
from .data.prepare.test_speech_commands import WORDS
from .fairseq_runs import COMMAND, Run, environment, train
from .tiny import ON_A_CPU

CPU = (
    *ON_A_CPU,
    "dataset.batch_size=8",
    "optimization.max_update=3",
    "lr_scheduler.warmup_updates=1",
)


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
