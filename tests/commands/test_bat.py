"""A BAT checkpoint as it was published, through every command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch

import EAT
from EAT.audio.recordings import read_audio
from EAT.audio.resampling import SOXR
from EAT.commands.convert import main as convert
from EAT.commands.doctor import main as doctor
from EAT.commands.evaluate import main as evaluate
from EAT.commands.export import main as export
from EAT.commands.extract import main as extract
from EAT.commands.plot import main as plot
from EAT.commands.predict import main as predict
from EAT.commands.probe import main as probe
from EAT.network.front_end import Decibels

from ..checkpoint.test_bat import fine_tuned
from ..conftest import CLIPS, CONFORMANCE
from ..labelled_clips import write_single_label
from ..recordings import at_rate
from .test_serve import Served

CHECKPOINT = str(CONFORMANCE / "bat_pretrain.pt")
CLIP = CLIPS / "loop_garzul.flac"
QUICK = ("--num-workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A probed model of five classes."""
    state = torch.load(CHECKPOINT, weights_only=True)
    with np.load(CONFORMANCE / "bat_probe.npz") as file:
        stored = {name: torch.from_numpy(file[name]) for name in file}
    return str(fine_tuned(state, stored, "cgp_cls", tmp_path_factory.mktemp("bat") / "probed.pt"))


@pytest.fixture
def five_families(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    labels = write_single_label(data)
    for split in ("train", "eval"):
        kept = [line for line in (data / f"{split}.lbl").read_text().splitlines() if line.split("\t")[1] in labels[:5]]
        (data / f"{split}.lbl").write_text("\n".join(kept) + "\n")
        names = {line.split("\t")[0] for line in kept}
        root, *lines = (data / f"{split}.tsv").read_text().splitlines()
        (data / f"{split}.tsv").write_text("\n".join([root, *(x for x in lines if x.split("\t")[0] in names)]) + "\n")
    (data / "label_descriptors.csv").write_text("".join(f"{i},{x},{x}\n" for i, x in enumerate(labels[:5])))
    return data


def features_of(samples: torch.Tensor) -> torch.Tensor:
    """By hand: the front end over the whole clip, then the encoder."""
    model = EAT.load(CHECKPOINT)
    frames = -(-(1 + len(samples) // 160) // 16) * 16
    with torch.inference_mode():
        return model(Decibels(frames)(samples[None]))[0]


@pytest.mark.parametrize("rate", [16000, 44100])
def test_extract(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "c.wav", at_rate(CLIP, rate, 1), rate, subtype="FLOAT")
    output = tmp_path / "c.npy"
    assert (
        extract(["--source", str(tmp_path / "c.wav"), "--output", str(output), "--checkpoint", CHECKPOINT, *QUICK]) == 0
    )
    found = torch.from_numpy(np.load(output))
    wanted = features_of(read_audio(str(tmp_path / "c.wav"), resampler=SOXR))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    cut = tmp_path / "cut.npy"
    command = ["--source", str(tmp_path / "c.wav"), "--output", str(cut), "--checkpoint", CHECKPOINT]
    assert extract([*command, "--target-length", "64", *QUICK]) == 0
    with torch.inference_mode():  # what is cut counts in the range
        mel = Decibels(64)(read_audio(str(tmp_path / "c.wav"), resampler=SOXR)[None])
        wanted = EAT.load(CHECKPOINT)(mel)[0]
    torch.testing.assert_close(torch.from_numpy(np.load(cut)), wanted, rtol=0, atol=1e-5)


def test_a_minute_is_encoded_in_chunks_and_an_hour_in_windows(tmp_path: Path) -> None:
    minute = np.tile(at_rate(CLIP, 16000, 1), (40, 1))[: 16000 * 25]
    soundfile.write(tmp_path / "m.wav", minute, 16000, subtype="FLOAT")
    command = ["--source", str(tmp_path / "m.wav"), "--checkpoint", CHECKPOINT, *QUICK]
    assert extract([*command, "--output", str(tmp_path / "m.npy")]) == 0
    found = torch.from_numpy(np.load(tmp_path / "m.npy"))
    assert found.shape == (1 + 157 * 8, 64)
    mel = Decibels(2512)(torch.from_numpy(minute[:, 0])[None])
    model = EAT.load(CHECKPOINT)
    with torch.inference_mode():
        chunks = [model(mel[:, :, start : start + 1024])[0] for start in (0, 1024, 2048)]
    torch.testing.assert_close(found[1:], torch.cat([chunk[1:] for chunk in chunks]), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0], torch.stack([chunk[0] for chunk in chunks]).mean(dim=0), rtol=0, atol=1e-5)
    assert extract([*command, "--output", str(tmp_path / "w.npy"), "--window", "512"]) == 0
    assert np.load(tmp_path / "w.npy").shape == found.shape


def test_predict_and_evaluate(
    classifier: str, five_families: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    labels = str(five_families / "label_descriptors.csv")
    command = ["--source", str(CLIP), "--checkpoint", classifier, "--labels", labels, "--format", "json", *QUICK]
    assert predict(command) == 0
    scores = {row["label"]: row["score"] for row in json.loads(capsys.readouterr().out)[0]["top"]}
    model = EAT.load(classifier)
    wanted = model.scores(read_audio(str(CLIP)), target_length=1024)
    assert sorted(scores.values()) == pytest.approx(sorted(wanted.tolist()), abs=1e-4)
    report = tmp_path / "report"
    assert evaluate(["--data", str(five_families), "--checkpoint", classifier, "--report", str(report), *QUICK]) == 0
    assert "accuracy" in capsys.readouterr().out


def test_probe(five_families: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "t.csv"
    command = ["--data", str(five_families), "--checkpoint", CHECKPOINT, "--target-length", "128", *QUICK]
    assert probe([*command, "--output", str(table)]) == 0
    assert [row["layer"] for row in csv.DictReader(table.read_text().splitlines())] == ["0", "1", "2", "3", "mix"]
    heads = ["--heads", "cgp,attentive", "--updates", "4", "--prototypes", "16", "--picture", str(tmp_path / "l.svg")]
    assert probe([*command, "--output", str(table), *heads]) == 0
    printed = capsys.readouterr().out
    rows = {row["layer"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert list(rows)[-2:] == ["cgp", "attentive"] and 0 <= float(rows["cgp"]["head accuracy"]) <= 1
    assert f"head cgp: {float(rows['cgp']['head accuracy']):.4f} accuracy, layers 0." in printed
    assert "weights of the layers" in (tmp_path / "l.svg").read_text()
    assert probe([*command, "--picture", str(tmp_path / "l.svg")]) == 2


def test_plot(tmp_path: Path) -> None:
    for length in ([], ["--target-length", "64"]):
        output = tmp_path / "features.svg"
        assert plot(["features", str(CLIP), "--checkpoint", CHECKPOINT, "--output", str(output), *length]) == 0
        assert "block 3 of 3" in output.read_text()


def test_export(classifier: str, tmp_path: Path) -> None:
    assert export([classifier, str(tmp_path / "bat.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "bat.onnx", providers=["CPUExecutionProvider"])
    described = session.get_modelmeta().custom_metadata_map
    assert (described["spectrogram"], described["norm_mean"], described["norm_std"]) == ("decibels", "0.0", "0.5")
    with np.load(CONFORMANCE / "bat_pretrain_io.npz") as file:
        features, _ = session.run(None, {"filterbank": file["mel"]})
        np.testing.assert_allclose(features, file["blocks"][-1], atol=1e-4)


def test_convert_and_doctor(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert convert([CHECKPOINT, str(tmp_path / "hf")]) == 0
    assert convert([CHECKPOINT, str(tmp_path / "no.pt"), "--to", "published"]) == 2
    assert "cannot hold attention=gated" in capsys.readouterr().err
    assert doctor(["--checkpoint", CHECKPOINT, "--source", *map(str, sorted(CLIPS.glob("*.flac"))[:3])]) == 0
    assert "frame_skill" in capsys.readouterr().out


def test_serve(classifier: str, five_families: Path, tmp_path: Path) -> None:
    labels = str(five_families / "label_descriptors.csv")
    served = Served(tmp_path, "--checkpoint", classifier, "--labels", labels, "--window", "128")
    status, heard, _ = served.ask("POST", "/sound?name=a.flac", CLIP.read_bytes())
    assert status == 200 and served.stop()[0] == 0
    model = EAT.load(classifier)
    first = read_audio(str(CLIP), resampler=SOXR)[: model.front_end.samples_for(128)]
    wanted = model.scores(first, target_length=128).tolist()
    by_name = {found["name"].lower(): found["scores"][0] for found in heard["classes"]}
    names = [line.split(",")[2] for line in Path(labels).read_text().splitlines()]
    assert [by_name[name] for name in names] == pytest.approx(wanted, abs=1e-4)


def test_constants_that_it_has_not(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = [
        "--source",
        str(CLIP),
        "--output",
        str(tmp_path / "c.npy"),
        "--checkpoint",
        CHECKPOINT,
        "--norm-mean",
        "-4",
    ]
    assert extract([*command, *QUICK]) == 2
    assert "spectrogram=decibels normalises each clip by itself" in capsys.readouterr().err
