"""Folders that we write, opened by transformers itself: the same numbers, from files alone and without a network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.commands.convert import convert
from EAT.network.patches import Grid
from EAT.network.positions import sine_cosine

from ..conftest import CLIPS, CONFORMANCE, import_torchaudio

import_torchaudio()  # transformers imports it where it is installed

import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    pipeline,
)

pytestmark = pytest.mark.usefixtures("modules_of_its_own")
SOURCES = ("official_pretrain.pt", "official_finetune.pt", "hf_pretrain", "hf_finetune")


@pytest.fixture
def clip() -> np.ndarray:
    return soundfile.read(CLIPS / "loop_garzul.flac", dtype="float32")[0]


def folder_of(tmp_path, name) -> str:
    convert(str(CONFORMANCE / name), str(tmp_path / "folder"), "huggingface")
    return str(tmp_path / "folder")


def open_with(kind, folder):
    return kind.from_pretrained(folder, trust_remote_code=True).eval()


@pytest.mark.parametrize("name", SOURCES)
@torch.inference_mode()
def test_features_of_every_layer(tmp_path, name, clip):
    folder, ours = folder_of(tmp_path, name), EAT.load(CONFORMANCE / name)
    theirs = open_with(AutoModel, folder)
    for frames in (16, 512, 1024):
        filterbank = ours.front_end(torch.from_numpy(clip)[None])[:, 0, :frames]
        found = theirs(filterbank, output_hidden_states=True)
        expected = ours(filterbank[:, None], layers=(0, 1, 2, 3))[0]
        assert len(found.hidden_states) == 4
        for layer, state in enumerate(found.hidden_states):
            torch.testing.assert_close(state[0], expected[layer], atol=1e-5, rtol=0)
        assert torch.equal(found.pooler_output, found.last_hidden_state[:, 0])
    with pytest.raises(ValueError, match="1000 frames are no multiple of 16"):
        theirs(torch.zeros(1, 1000, 128))


@pytest.mark.parametrize("name", ["hf_pretrain", "hf_finetune"])
@torch.inference_mode()
def test_the_published_numbers(tmp_path, name):
    mel = torch.from_numpy(np.load(CONFORMANCE / "official_pretrain_io.npz")["mel"])
    stored = np.load(CONFORMANCE / "hf_expected.npz")
    folder, kind = folder_of(tmp_path, name), name.removeprefix("hf_")
    found = open_with(AutoModel, folder)(mel).last_hidden_state
    np.testing.assert_allclose(found, stored[f"{kind}_features"], atol=1e-4)
    if kind == "finetune":
        logits = open_with(AutoModelForAudioClassification, folder)(mel).logits
        np.testing.assert_allclose(logits, stored["finetune_logits"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["official_pretrain.pt", "official_finetune.pt"])
@torch.inference_mode()
def test_the_feature_extractor_is_our_front_end(tmp_path, name, clip):
    folder, ours = folder_of(tmp_path, name), EAT.load(CONFORMANCE / name)
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    clips = [clip, clip[:9_000]]
    inputs = extractor(clips, sampling_rate=16_000, return_tensors="pt")["input_values"]
    found = open_with(AutoModel, folder)(inputs).last_hidden_state
    expected = torch.stack(ours.extract(clips, target_length=1024))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean", "linear_softmax"])
@torch.inference_mode()
def test_logits_by_every_pooling(tmp_path, pooling, clip):
    state = torch.load(CONFORMANCE / "official_finetune.pt", weights_only=True)
    kinds = {"cls": "CLS_TOKEN", "mean": "MEAN_POOLING", "linear_softmax": "LIN_SOFTMAX"}
    state["cfg"]["model"]["prediction_mode"] = kinds[pooling]
    torch.save(state, tmp_path / "source.pt")
    convert(str(tmp_path / "source.pt"), str(tmp_path / "folder"), "huggingface")
    ours = EAT.load(tmp_path / "source.pt")
    assert ours.network.settings.pooling == pooling
    theirs = open_with(AutoModelForAudioClassification, str(tmp_path / "folder"))
    filterbank = ours.front_end(torch.from_numpy(clip)[None])[:, 0]
    torch.testing.assert_close(theirs(filterbank).logits[0], ours.logits(clip, grad=False), atol=1e-5, rtol=1e-5)


def test_a_pipeline_names_classes(tmp_path, clip):
    folder = folder_of(tmp_path, "official_finetune.pt")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    config["id2label"] = {index: f"sound {index}" for index in range(6)}
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    classify = pipeline("audio-classification", model=folder, trust_remote_code=True)
    found = classify(clip, top_k=6, function_to_apply="sigmoid")
    scores = EAT.load(CONFORMANCE / "official_finetune.pt").scores(clip)
    assert [entry["label"] for entry in found] == [f"sound {i}" for i in scores.argsort(descending=True)]
    np.testing.assert_allclose([e["score"] for e in found], scores.sort(descending=True).values, atol=1e-4)


def test_it_trains_is_saved_and_opens_in_both(tmp_path, clip):
    theirs = open_with(AutoModelForAudioClassification, folder_of(tmp_path, "official_finetune.pt"))
    filterbank = EAT.load(CONFORMANCE / "official_finetune.pt").front_end(torch.from_numpy(clip)[None])[:, 0]
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = theirs(filterbank, labels=torch.eye(6)[:1]).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    theirs.save_pretrained(tmp_path / "trained")
    with torch.inference_mode():
        expected = theirs(filterbank).logits[0]
        again = open_with(AutoModelForAudioClassification, str(tmp_path / "trained"))
        torch.testing.assert_close(again(filterbank).logits[0], expected, atol=1e-6, rtol=0)
        ours = EAT.load(tmp_path / "trained")
        torch.testing.assert_close(ours.logits(clip, grad=False), expected, atol=1e-5, rtol=1e-5)


def test_a_new_model_has_the_positions_of_ours(tmp_path):
    config = transformers.AutoConfig.from_pretrained(folder_of(tmp_path, "hf_pretrain"), trust_remote_code=True)
    new = AutoModel.from_config(config, trust_remote_code=True)
    table = new.model.fixed_positional_encoder.positions
    torch.testing.assert_close(table, sine_cosine(64, Grid(768, 8)), atol=1e-4, rtol=0)
    assert 0.5 < float(new.model.extra_tokens.detach().std()) < 2
