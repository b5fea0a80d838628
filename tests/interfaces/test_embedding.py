"""HEAR's functions, X-ARES's and mteb's encoders: shapes, times and values against the model's own.

The programs themselves are run by ``validators/run.sh`` beside this file; what they say is in ``hear.txt``,
``xares.txt`` and ``mteb.txt`` beside it.
"""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import soundfile
import torch
from sklearn.metrics.pairwise import cosine_similarity

import EAT
from EAT.errors import ConfigError, DataError
from EAT.inference.windows import extract_recording
from EAT.interfaces import hear
from EAT.interfaces.mteb import EATEncoder as MtebEncoder
from EAT.interfaces.xares import EATEncoder

from ..conftest import CLIPS, CONFORMANCE

CHECKPOINT = CONFORMANCE / "official_pretrain.pt"
WIDTHS = {"utterance": 64, "mean": 64, "rows": 8 * 64, "rows_max": 16 * 64}


@pytest.fixture(scope="module")
def audio() -> torch.Tensor:
    """Three real clips of one length, 2.1 s."""
    names = ("loop_garzul.flac", "perc_bell.flac", "ambi_piano.flac")
    clips = [soundfile.read(CLIPS / name, dtype="float32")[0] for name in names]
    assert min(map(len, clips)) >= 33_600
    return torch.from_numpy(np.stack([clip[:33_600] for clip in clips]))


@pytest.mark.parametrize("readout", WIDTHS)
def test_clips_and_steps_are_the_model_s(audio, readout):
    embedding = hear.load_model(CHECKPOINT, readout=readout, layer=2)
    model = EAT.load(CHECKPOINT)
    scenes = hear.get_scene_embeddings(audio, embedding)
    assert scenes.dtype == torch.float32 and scenes.shape == (3, WIDTHS[readout])
    assert embedding.scene_embedding_size == WIDTHS[readout]
    assert torch.allclose(scenes, model.extract(audio, granularity=readout, layer=2), atol=1e-5)
    steps, times = hear.get_timestamp_embeddings(audio, embedding)
    frames = model.extract(audio, granularity="frame", layer=2).view(3, 13, 8, 64)  # 208 frames, 16 a step
    by_hand = frames.reshape(3, 13, -1) if readout.startswith("rows") else frames.mean(dim=2)
    assert steps.dtype == torch.float32 and embedding.timestamp_embedding_size == by_hand.shape[2]
    assert torch.allclose(steps, by_hand, atol=1e-5)
    assert times.shape == steps.shape[:2] and torch.equal(times[0], times[2])


def test_times_are_those_of_the_sound():
    """A click is heard in the step whose centre is nearest to it."""
    embedding = hear.load_model(CHECKPOINT, layer=0)
    silence = torch.full((1, 48_000), 1e-4)
    before, times = hear.get_timestamp_embeddings(silence, embedding)
    assert times[0, :3].tolist() == [87.5, 247.5, 407.5] and (times.diff() == 160).all()
    for milliseconds in (100, 730, 1_310, 2_020):
        click = silence.clone()
        click[0, 16 * milliseconds] = 0.9
        after, _ = hear.get_timestamp_embeddings(click, embedding)
        heard = int((after - before).norm(dim=-1).argmax())
        assert abs(float(times[0, heard]) - milliseconds) <= 80 + 12.5


@pytest.mark.parametrize("readout", ["mean", "rows_max"])
def test_more_than_two_minutes(audio, readout, tmp_path):
    long = audio.flatten().repeat(25)[: 130 * 16_000]
    soundfile.write(tmp_path / "long.wav", long.numpy(), 16_000, subtype="FLOAT")
    embedding = hear.load_model(CHECKPOINT, readout=readout)
    scene = hear.get_scene_embeddings(long[None], embedding)
    expected = extract_recording(embedding.model, str(tmp_path / "long.wav"), granularity=readout)
    assert torch.allclose(scene[0], expected, atol=1e-5)
    steps, times = hear.get_timestamp_embeddings(long[None], embedding)
    assert steps.shape[:2] == times.shape == (1, 813)  # 12 998 frames


def test_a_module_of_one_s_own_has_its_own_readout(audio):
    load_model = functools.partial(hear.load_model, readout="rows_max", layer=-2)
    assert hear.get_scene_embeddings(audio, load_model(str(CHECKPOINT))).shape == (3, 1024)


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="checkpoint"):
        hear.load_model()
    with pytest.raises(ConfigError, match="readout is 'median'; it must be one of utterance, mean"):
        hear.load_model(CHECKPOINT, readout="median")
    with pytest.raises(ConfigError, match="layer 9"):
        hear.load_model(CHECKPOINT, layer=9)
    with pytest.raises(DataError, match="clips, samples"):
        hear.get_scene_embeddings(torch.zeros(16_000), hear.load_model(CHECKPOINT))


def test_xares_encoder(audio):
    class MyEncoder(EATEncoder):
        def __init__(self) -> None:
            super().__init__(CHECKPOINT, readout="rows")

    encoder = MyEncoder()
    assert isinstance(encoder, torch.nn.Module) and encoder.sampling_rate == 16_000
    assert (encoder.output_dim, encoder.hop_size_in_ms) == (512, 160.0)
    found = encoder(audio)
    assert found.shape == (3, 13, 512) and not found.requires_grad
    assert torch.equal(encoder(audio[0]), found[:1]) or torch.allclose(encoder(audio[0]), found[:1], atol=1e-5)
    half = encoder.bfloat16()(audio)
    assert half.dtype == torch.float32 and (half - found).norm() < 0.05 * found.norm()


def test_mteb_encoder():
    """Batches as mteb's loader gives them: clips of any length and rate, whole."""
    names = ("loop_garzul.flac", "perc_bell.flac", "ambi_choir.flac", "elec_bell.flac")
    sounds = [soundfile.read(CLIPS / name, dtype="float32") for name in names]
    items = [{"array": samples, "sampling_rate": rate} for samples, rate in sounds]
    items[3]["array"] = np.stack([items[3]["array"], items[3]["array"]])  # two channels
    batches = [{"audio": items[:3], "label": torch.tensor([0, 1, 2])}, {"audio": items[3:], "label": torch.tensor([3])}]
    encoder = MtebEncoder(CHECKPOINT, readout="rows", layer=2)
    found = encoder.encode(batches, task_metadata=None, hf_split="test", hf_subset="default", batch_size=3)
    assert found.dtype == np.float32 and found.shape == (4, 512)
    files = [str(CLIPS / name) for name in names]
    expected = np.stack(EAT.load(CHECKPOINT).extract(files, granularity="rows", layer=2, numpy=True))
    assert np.allclose(found, expected, atol=1e-4)
    pairs = cosine_similarity(found, found[:2])
    assert np.allclose(encoder.similarity(found, torch.from_numpy(found[:2])), pairs, atol=1e-5)
    assert np.allclose(encoder.similarity(found[1], found), pairs[:, 1][None], atol=1e-5)
    assert np.allclose(encoder.similarity_pairwise(found[:2], found[2:]), pairs[[2, 3], [0, 1]], atol=1e-5)


def test_mteb_s_tasks_that_are_not_of_sounds_and_its_absence(monkeypatch: pytest.MonkeyPatch):
    encoder = MtebEncoder(CHECKPOINT)
    with pytest.raises(DataError, match="EAT hears sounds alone, and this task gives text, label"):
        encoder.encode([{"text": ["a"], "label": torch.tensor([0])}])
    with pytest.raises(DataError, match="this task gives audio, text"):
        encoder.encode([{"audio": [{"array": np.zeros(16_000), "sampling_rate": 16_000}], "text": ["a"]}])
    monkeypatch.setitem(sys.modules, "mteb.models", None)
    with pytest.raises(ConfigError, match="pip install mteb"):
        _ = encoder.mteb_model_meta
