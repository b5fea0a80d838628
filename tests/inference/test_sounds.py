"""The Python surface: files, waveforms and waveforms with their rates in; arrays, times and named scores out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.audio.recordings import read_audio
from EAT.errors import CheckpointError, ConfigError, DataError
from EAT.inference.model import EATModel
from EAT.inference.windows import extract_recording, score_recording

from ..conftest import CLIPS, CONFORMANCE

LABELS = ("bell", "bass", "drum", "loop", "hum", "noise")


@pytest.fixture(scope="module")
def model() -> EATModel:
    return EAT.load(CONFORMANCE / "official_pretrain.pt")


@pytest.fixture(scope="module")
def classifier() -> EATModel:
    return EAT.load(CONFORMANCE / "official_finetune.pt", labels=LABELS)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real clips one after the other, 130 s at 16 kHz."""
    path = tmp_path_factory.mktemp("long") / "long.wav"
    samples = torch.cat([read_audio(str(clip)) for clip in sorted(CLIPS.glob("*.flac"))])
    soundfile.write(path, samples[: 130 * 16_000].numpy(), 16_000, subtype="FLOAT")
    return path


def test_what_a_model_says_of_itself(model: EATModel, classifier: EATModel) -> None:
    assert (model.sample_rate, model.embed_dim, model.depth, model.layers) == (16_000, 64, 3, (0, 1, 2, 3))
    assert model.patch_seconds == pytest.approx(0.16)
    assert model.labels is None and classifier.labels == LABELS
    assert all(len(model.extract(torch.zeros(16_000), layer=layer)) for layer in model.layers)


def test_files_waveforms_and_pairs_give_the_same(model: EATModel, tmp_path: Path) -> None:
    paths = sorted(CLIPS.glob("elec_*.flac"))[:3]
    waveforms = [read_audio(str(path)) for path in paths]
    expected = [model.extract(waveform) for waveform in waveforms]
    assert len({len(clip) for clip in expected}) > 1  # of several lengths
    for path, wanted in zip(paths, expected, strict=True):
        assert torch.equal(model.extract(path), wanted)
    found = model.extract([str(path) for path in paths])
    for clip, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(clip, wanted, atol=1e-5, rtol=0)
    rng = np.random.default_rng(0)
    stereo = rng.uniform(-0.1, 0.1, (30_000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "stereo.wav", stereo, 44_100, subtype="FLOAT")
    mixed = model.extract([paths[0], (stereo.T, 44_100), waveforms[1]], granularity="utterance")
    torch.testing.assert_close(mixed[0], expected[0][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixed[2], expected[1][0], atol=1e-5, rtol=0)
    single = model.extract((stereo.T, 44_100), granularity="utterance")
    assert single.shape == (64,)
    torch.testing.assert_close(mixed[1], single, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        single, model.extract(tmp_path / "stereo.wav", granularity="utterance"), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_numpy_where_it_is_asked_for(precision: torch.dtype) -> None:
    model = EAT.load(CONFORMANCE / "official_finetune.pt", labels=LABELS).to(precision)
    path = CLIPS / "elec_bell.flac"
    array = model.extract(path, numpy=True)
    assert isinstance(array, np.ndarray) and array.dtype == np.float32
    assert np.array_equal(array, model.extract(path).float().numpy())
    two = model.extract([np.zeros(16_000, np.float32), np.ones(8_000, np.int16)], granularity="mean", numpy=True)
    assert [clip.shape for clip in two] == [(64,), (64,)] and two[0].dtype == np.float32
    frames = model.frames(path, numpy=True)
    assert frames.embeddings.dtype == frames.start.dtype == np.float32
    assert len(model.predict(path)) == 6


def test_a_file_of_any_length_is_one_array(model: EATModel, long: Path) -> None:
    found = model.extract([CLIPS / "elec_bell.flac", long], granularity="frame", target_length=None)
    assert torch.equal(found[1], extract_recording(model, str(long), granularity="frame", batch_size=16))
    assert found[1].shape == (813 * 8, 64)  # 130 s are 813 steps of 160 ms
    with pytest.raises(DataError, match="130 s, more than"):
        model.extract(read_audio(str(long)))


def test_frames_have_their_times(model: EATModel, long: Path) -> None:
    silence = torch.zeros(5 * 16_000)
    click = silence.clone()
    click[32_000] = 1.0  # at 2 s
    before, after = (model.frames(sound, layer=0) for sound in (silence, click))
    assert before.embeddings.shape == (32, 64) and before.hop == pytest.approx(0.16)
    changed = (before.embeddings != after.embeddings).any(dim=-1).nonzero().flatten().tolist()
    # the mean is taken off the whole clip, so rounding may touch all of it; the click itself is in one step
    loudest = int((before.embeddings - after.embeddings).norm(dim=-1).argmax())
    assert loudest in changed and after.start[loudest] <= 2.0 < after.end[loudest]
    np.testing.assert_allclose(before.start[:3].numpy(), [0.0, 0.16, 0.32], atol=1e-6)
    assert torch.equal(before.start[1:], before.end[:-1])
    patches = model.extract(click, granularity="frame").reshape(-1, 8, 64)
    torch.testing.assert_close(model.frames(click).embeddings, patches.mean(dim=1), atol=1e-6, rtol=0)
    assert torch.equal(model.frames(click, readout="rows").embeddings, patches.flatten(1))
    several = model.frames([click, CLIPS / "elec_bell.flac"], layer=[1, -1])
    assert several[0].embeddings.shape == (2, 32, 64) and several[1].embeddings.shape[1] == len(several[1].start)
    assert model.frames(torch.stack([click, silence])).embeddings.shape == (2, 32, 64)
    of_long = model.frames(long)
    assert of_long.embeddings.shape == (813, 64) and float(of_long.end[-1]) == pytest.approx(130.08)
    with pytest.raises(ConfigError, match="readout is 'cls'; it must be one of mean, rows"):
        model.frames(click, readout="cls")


def test_predictions_have_names(classifier: EATModel, long: Path) -> None:
    path = CLIPS / "elec_bell.flac"
    scores = classifier.scores(read_audio(str(path)))
    named = classifier.predict(path)
    assert dict(named) == pytest.approx(dict(zip(LABELS, scores.tolist(), strict=True)), abs=1e-6)
    assert [score for _, score in named] == sorted(scores.tolist(), reverse=True)
    top = classifier.predict([path, long], top_k=2)
    assert top[0] == named[:2] and len(top[1]) == 2
    windows = torch.stack([window.scores for window in score_recording(classifier, str(long))])
    means = dict(zip(LABELS, windows.mean(dim=0).tolist(), strict=True))
    assert dict(classifier.predict(long)) == pytest.approx(means, abs=1e-6)
    # a waveform is heard as the file is
    for waveform in (read_audio(str(path)), read_audio(str(long))):
        wanted = named if len(waveform) < 160_000 else classifier.predict(long)
        assert dict(classifier.predict(waveform)) == pytest.approx(dict(wanted), abs=1e-5)
    batch = classifier.predict(np.zeros((2, 8_000), np.float32), top_k=1)
    assert len(batch) == 2 and batch[0] == batch[1] and batch[0][0].label in LABELS


def test_labels_that_are_missing_or_too_many(model: EATModel, tmp_path: Path) -> None:
    path = CONFORMANCE / "official_finetune.pt"
    nameless = EAT.load(path)
    assert nameless.labels is None
    with pytest.raises(CheckpointError, match=r"give EAT.load\(..., labels='label_descriptors.csv'\)"):
        nameless.predict(np.zeros(8_000))
    with pytest.raises(ConfigError, match="2 labels are given, but the model has 6 classes"):
        EAT.load(path, labels=["a", "b"])
    with pytest.raises(ConfigError, match="1 labels are given, but the model has no classes"):
        EAT.load(CONFORMANCE / "official_pretrain.pt", labels=["a"])
    with pytest.raises(CheckpointError, match="knows no classes"):
        model.predict(np.zeros(8_000))
    (tmp_path / "few.csv").write_text("0,a\n")
    with pytest.raises(CheckpointError, match=r"has 6 classes, but .*few\.csv has 1 classes"):
        EAT.load(path, labels=tmp_path / "few.csv")
    (tmp_path / "labels.csv").write_text("".join(f"{i},/m/{i},{name}\n" for i, name in enumerate(LABELS)))
    assert EAT.load(path, labels=tmp_path / "labels.csv").labels == LABELS


def test_what_cannot_be_heard_is_named(model: EATModel, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    for sounds in (tmp_path / "noise.wav", [CLIPS / "elec_bell.flac", tmp_path / "noise.wav"]):
        with pytest.raises(DataError, match=r"noise\.wav"):
            model.extract(sounds)
    with pytest.raises(ConfigError, match="read the recordings first"):
        model.extract(CLIPS / "elec_bell.flac", grad=True)
