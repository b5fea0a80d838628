"""Labels of time steps through the real commands: prepare, fine-tune, evaluate and probe on scenes of real clips."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.convert import main as convert
from EAT.commands.evaluate import main as evaluate
from EAT.commands.prepare import main as prepare
from EAT.commands.probe import main as probe
from EAT.data.events import read_events, step_targets
from EAT.data.labels import read_descriptors
from EAT.data.manifest import Manifest

from ..conftest import CONFORMANCE
from ..fairseq_runs import train, train_distributed
from ..scenes import write_scenes
from ..tiny import ENCODER, ON_A_CPU, model

SMALL = (
    *ON_A_CPU,
    "common.log_format=json",
    "dataset.batch_size=4",
    "dataset.validate_interval=100",
    "optimization.lr=[1e-3]",
    "lr_scheduler.warmup_updates=1",
    "task.target_length=288",
    "model.drop_path=0",
    *model(ENCODER),
)
QUICK = ("--num-workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 3 s, prepared: 12 to learn from, 6 to measure."""
    folder = tmp_path_factory.mktemp("events")
    write_scenes(folder / "scenes", 18, seconds=3.0)
    command = ["folder", str(folder / "scenes"), str(folder / "data"), "--events", str(folder / "events.tsv")]
    assert prepare([*command, "--eval", "0.34", "--num-workers", "0"]) == 0
    return folder / "data"


def truth_of(data: Path) -> np.ndarray:
    """(steps of all clips, 3): what is heard when."""
    manifest = Manifest(data / "eval.tsv")
    events = read_events(data / "eval.events.tsv", manifest, read_descriptors(data / "label_descriptors.csv"))
    return np.concatenate([step_targets(clip, 3, 18, 0.16) for clip in events])


def scores_of(data: Path, checkpoint: Path) -> np.ndarray:
    """Of the same steps, clip by clip, by the model's own network."""
    model, manifest, scores = EAT.load(checkpoint), Manifest(data / "eval.tsv"), []
    for number in range(len(manifest)):
        wave = read_audio(manifest.source(number))
        with torch.inference_mode():
            scores.append(model.network.frames(model.front_end(wave[None]))[0].numpy())
    return np.concatenate(scores)


def test_a_classifier_of_time_steps(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = train("finetuning_events", *SMALL, f"task.data={data}", f"checkpoint.save_dir={tmp_path}/run",
                "optimization.max_update=4")  # fmt: skip
    checkpoint = tmp_path / "run" / "checkpoint_last.pt"
    wanted = average_precision_score(truth_of(data), scores_of(data, checkpoint))
    logged = float(json.loads(re.findall(r"\[eval\]\[INFO\] - (\{.*\})", run.output)[-1])["eval_mAP"])
    assert logged == pytest.approx(wanted, abs=1e-5)
    assert convert([str(checkpoint), str(tmp_path / "hf")]) == 2
    assert "cannot hold pooling=steps" in capsys.readouterr().err

    pytest.importorskip("sed_scores_eval")
    command = ["--data", str(data), "--checkpoint", str(checkpoint), *QUICK]
    assert evaluate([*command, "--threshold", "0.3", "--report", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "eval: 6 of 6 clips, 3 classes, events, by" in printed and f"mAP               {wanted:.4f}" in printed
    values = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert values["mAP"] == pytest.approx(wanted, abs=1e-6)
    assert {"PSDS1", "PSDS2", "segment F1", "onset F1"} <= values.keys()
    rows = list(csv.DictReader((tmp_path / "report" / "classes.csv").read_text().splitlines()))
    assert sum(int(row["events"]) for row in rows) == len(
        [line for line in (data / "eval.events.tsv").read_text().splitlines()[1:] if line.split("\t")[1]]
    )
    found = read_events(tmp_path / "report" / "events.tsv", Manifest(data / "eval.tsv"),
                        read_descriptors(data / "label_descriptors.csv"))  # fmt: skip
    assert len(found) == 6
    assert evaluate([*command, "--median", "2"]) == 2
    assert "it must be odd" in capsys.readouterr().err


@pytest.mark.slow
def test_resumed_and_shared_out_it_is_the_same(data: Path, tmp_path: Path) -> None:
    common = (*SMALL, f"task.data={data}", "task.mixup_alpha=0.8", "dataset.batch_size=2")

    def weights(name: str) -> dict[str, torch.Tensor]:
        return torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"]

    whole = (*common, "optimization.max_update=4", "optimization.update_freq=[2]")
    train("finetuning_events", *whole, f"checkpoint.save_dir={tmp_path}/whole")
    train("finetuning_events", *whole, f"checkpoint.save_dir={tmp_path}/parts", "optimization.max_update=2",
          "lr_scheduler.lr_period_updates=4")  # fmt: skip
    train("finetuning_events", *whole, f"checkpoint.save_dir={tmp_path}/parts")
    assert all(torch.equal(value, weights("parts")[name]) for name, value in weights("whole").items())
    train_distributed("finetuning_events", 2, *common, "optimization.max_update=4",
                      f"checkpoint.save_dir={tmp_path}/two")  # fmt: skip
    for name, value in weights("whole").items():
        torch.testing.assert_close(value, weights("two")[name], rtol=0, atol=2e-5, msg=name)


def test_heads_learn_time_steps_of_a_frozen_encoder(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("sed_scores_eval")
    checkpoint = str(CONFORMANCE / "bat_pretrain.pt")
    command = ["--data", str(data), "--checkpoint", checkpoint, "--target-length", "288", *QUICK]
    assert probe(command) == 2
    assert "give --heads" in capsys.readouterr().err
    heads = ["--heads", "cgp,linear,lcgp,attentive", "--updates", "40", "--prototypes", "32"]
    written = ["--output", str(tmp_path / "t.csv"), "--picture", str(tmp_path / "l.svg"), "--cache", str(tmp_path)]
    assert probe([*command, *heads, *written]) == 0
    printed = capsys.readouterr().out
    assert "12 clips to learn from, 6 to measure, 3 classes, time steps of 0.16 s" in printed
    rows = {row["head"]: row for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())}
    assert list(rows) == ["cgp", "linear", "lcgp", "attentive"]
    assert f"{float(rows['cgp']['PSDS2']):.4f}" in printed
    assert "weights of the layers" in (tmp_path / "l.svg").read_text()
    assert float(rows["attentive"]["mAP"]) > 2 * truth_of(data).mean()  # chance
    once = (tmp_path / "t.csv").read_bytes()
    assert probe([*command, *heads, *written]) == 0  # from what was kept
    assert (tmp_path / "t.csv").read_bytes() == once
