"""Probes: features against the model's own, scikit-learn as the reference, caching, and the command on real clips."""

import csv
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.prepare import main as prepare
from EAT.commands.probe import main
from EAT.data.manifest import Manifest
from EAT.inference.probe_features import compute_features, content_hash, untrained
from EAT.inference.probes import Features, learn_mix, linear_scores, neighbour_scores, probe, probe_mix
from EAT.network.front_end import FrontEnd


@pytest.fixture(scope="module")
def data(tmp_path_factory, request):
    """The real clips with their families, prepared."""
    folder = tmp_path_factory.mktemp("families")
    clips = request.getfixturevalue("clips")
    table = clips[0].parents[1] / "clips.csv"
    command = ["folder", str(clips[0].parent), str(folder), "--labels", str(table), "--label-column", "family"]
    assert prepare([*command, "--eval", "0.3", "--normalization-clips", "0"]) == 0
    return folder


@pytest.fixture
def command(data, conformance, tmp_path):
    """The command line on the real clips, with a cache of its own."""
    checkpoint = shutil.copy(conformance / "official_pretrain.pt", tmp_path / "model.pt")
    return [
        *("--data", str(data), "--checkpoint", str(checkpoint), "--cache", str(tmp_path / "cache")),
        *("--target-length", "128", "--num-workers", "0"),
    ]


def made_clips(seed=0, clips=120, layers=3, dim=8, classes=4, informative=2):
    """Features of which one layer tells the classes apart."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, clips)
    x = rng.normal(size=(clips, layers, dim)).astype(np.float32)
    x[np.arange(clips), informative, truth] += 3.0
    return x, np.eye(classes, dtype=np.uint8)[truth]


def test_features_are_those_of_the_model_over_patches_that_hold_audio(data, conformance):
    model = EAT.load(conformance / "official_pretrain.pt")
    manifest, front_end = Manifest(data / "eval.tsv"), FrontEnd(256)
    features = compute_features(model, manifest, front_end, 8, 0, "test", "both")
    assert features.shape == (len(manifest), 4, 128)
    for clip in range(0, len(manifest), 6):
        waveform = read_audio(manifest.source(clip), front_end.samples)
        with torch.inference_mode():
            tokens = model.extract(waveform, layer=[0, 1, 2, 3], target_length=256).numpy()
        patches = 8 * -(-min(256, FrontEnd.frames(len(waveform))) // 16)
        assert np.allclose(features[clip, :, :64], tokens[:, 0], atol=5e-3)
        assert np.allclose(features[clip, :, 64:], tokens[:, 1 : 1 + patches].mean(axis=1), atol=5e-3)


def test_neighbours_agree_with_scikit_learn_s_classifier():
    (train, targets), (evaluation, truth) = made_clips(0), made_clips(1)
    ours = neighbour_scores(train[:, 2], targets, evaluation[:, 2], 5)
    theirs = KNeighborsClassifier(5, metric="cosine").fit(train[:, 2], targets.argmax(1))
    assert np.allclose(ours, theirs.predict_proba(evaluation[:, 2]), atol=2e-3)
    assert (ours.argmax(1) == truth.argmax(1)).mean() > 0.8


def test_more_neighbours_than_clips_are_all_of_them():
    train, targets = made_clips(clips=6)
    assert np.allclose(neighbour_scores(train[:, 0], targets, train[:, 0], 10), targets.mean(axis=0), atol=1e-3)


def test_linear_probe_is_scikit_learn_s_logistic_regression_of_standardised_features():
    (train, targets), (evaluation, truth) = made_clips(0), made_clips(1)
    result = probe(Features(train[:, 2], targets, evaluation[:, 2], truth), False, 10, 2.0)
    scaler = StandardScaler().fit(train[:, 2])
    reference = LogisticRegression(C=0.5).fit(scaler.transform(train[:, 2]), targets.argmax(1))
    assert result.linear == pytest.approx(reference.score(scaler.transform(evaluation[:, 2]), truth.argmax(1)))


def test_several_labels_and_classes_that_nothing_teaches():
    train, targets = made_clips(0)
    targets = np.concatenate([targets, np.zeros((120, 1), np.uint8), np.ones((120, 1), np.uint8)], axis=1)
    scores = linear_scores(train[:, 2], targets, train[:, 2], True, 1.0)
    reference = LogisticRegression().fit(train[:, 2], targets[:, 0]).decision_function(train[:, 2])
    assert np.allclose(scores[:, 0], reference)
    assert (scores[:, 4] == -1e9).all() and (scores[:, 5] == 1e9).all()
    few = targets.copy()
    few[:, :4] = [1, 0, 0, 0]
    assert (linear_scores(train[:, 2], few, train[:, 2], False, 1.0).argmax(1) == 0).all()


@pytest.mark.parametrize("several", [False, True])
def test_the_mix_finds_the_layer_that_tells_classes_apart(several):
    (train, targets), (evaluation, truth) = made_clips(0), made_clips(1)
    weights = learn_mix(train, targets, several, 1.0, seed=1)
    assert weights.sum() == pytest.approx(1.0, abs=1e-6) and (weights > 0).all() and weights[2] > 0.8
    result, _ = probe_mix(Features(train, targets, evaluation, truth), several, 10, 1.0, 1)
    alone = probe(Features(train[:, 0], targets, evaluation[:, 0], truth), several, 10, 1.0)
    assert result.linear > alone.linear + 0.3 and result.neighbours > alone.neighbours + 0.3


def test_an_untrained_encoder_follows_from_the_seed(conformance):
    path = conformance / "official_pretrain.pt"
    states = [untrained(EAT.load(path), seed).encoder.state_dict() for seed in (1, 1, 2)]
    trained = EAT.load(path).encoder.state_dict()
    name = "patches.projection.weight"
    assert torch.equal(states[0][name], states[1][name]) and not torch.equal(states[0][name], states[2][name])
    assert not torch.equal(states[0][name], trained[name])
    assert {k: v.shape for k, v in states[0].items()} == {k: v.shape for k, v in trained.items()}


def test_table_of_real_clips_and_its_cache(command, tmp_path, capsys):
    assert main([*command, "--output", str(tmp_path / "table.csv")]) == 0
    first = capsys.readouterr()
    lines = first.out.splitlines()
    assert "accuracy; * best" in lines[1] and [line.split()[0] for line in lines[2:7]] == ["0", "1", "2", "3", "mix"]
    with open(tmp_path / "table.csv", newline="") as handle:
        rows = list(csv.reader(handle))[1:]
    for column in (1, 2):
        values = [float(row[column]) for row in rows]
        marked = [re.findall(r"\d\.\d{4}\*?", line)[column - 1].endswith("*") for line in lines[2:7]]
        assert marked == [value == max(values) for value in values] and max(values) > 0.3  # of ten families
    assert sum(float(row[3]) for row in rows[:4]) == pytest.approx(1.0, abs=1e-5)

    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    assert main(command) == 0
    again = capsys.readouterr()
    assert again.out.splitlines()[1:7] == lines[1:7] and again.err.count("features of") == 2
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()} == kept

    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    assert main(command) == 0
    broken = capsys.readouterr()
    assert broken.err.count("is made anew") == 2 and broken.out.splitlines()[1:7] == lines[1:7]


def test_the_cache_knows_another_checkpoint_length_and_encoder(command, tmp_path):
    runs = [[], ["--target-length", "64"], ["--norm-mean", "-5"], ["--untrained"], ["--untrained", "--seed", "2"]]
    for count, more in enumerate(runs, 1):
        assert main([*command, *more, "--layers", "3"]) == 0
        assert len(os.listdir(tmp_path / "cache")) == 2 * count
    changed = torch.load(tmp_path / "model.pt", weights_only=True)
    changed["model"]["blocks.0.norm1.bias"] += 0.1
    torch.save(changed, tmp_path / "model.pt")
    assert main([*command, "--layers", "-1", "--pooling", "both"]) == 0
    assert len(os.listdir(tmp_path / "cache")) == 2 * len(runs) + 2


def test_a_folder_s_content_is_its_files_names_and_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    before = content_hash(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert content_hash(tmp_path / "b") == before
    (tmp_path / "b" / "config.json").write_text("{ }")
    assert content_hash(tmp_path / "b") != before


def test_unreadable_clips_are_named_and_the_rest_is_done(data, conformance, tmp_path):
    for name in ("train.tsv", "train.lbl", "eval.tsv", "eval.lbl", "label_descriptors.csv"):
        shutil.copy(data / name, tmp_path / name)
    lines = (tmp_path / "eval.tsv").read_text().splitlines()
    lines[2] = "gone.flac\t16000"
    (tmp_path / "eval.tsv").write_text("\n".join(lines))
    command = [sys.executable, "-m", "EAT.probe", "--data", str(tmp_path), "--target-length", "64", "--layers", "1"]
    command += ["--checkpoint", str(conformance / "hf_finetune")]
    for _ in range(2):  # the second time from the cache
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "eval: gone.flac could not be read and is left out" in done.stderr
        assert f"{len(lines) - 2} to measure" in done.stdout
    assert sorted(os.listdir(tmp_path / "features"))[0].startswith("eval-")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--layers", "0,x"], "--layers is '0,x'"),
        (["--layers", "4"], "layer 4 does not exist"),
        (["--neighbours", "0"], "--neighbours is 0"),
        (["--regularisation", "0"], "--regularisation is 0"),
        (["--eval-split", "none"], "none.tsv cannot be read"),
        (["--target-length", "7"], "--target-length is 7"),
        (["--checkpoint", "nothing.pt"], "nothing.pt"),
    ],
)
def test_unusable_arguments(command, capsys, change, words):
    assert main([*command, *change]) == 2
    assert re.search(words, capsys.readouterr().err)
