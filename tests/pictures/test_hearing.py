"""What the page shows of a recording is what the commands say of it."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.audio.held import Held
from EAT.audio.recordings import read_audio
from EAT.errors import DataError
from EAT.inference.nearest import collect
from EAT.inference.prediction import score_all
from EAT.inference.sources import Source, find_sources
from EAT.pictures.components import principal_components
from EAT.pictures.features import as_colours
from EAT.pictures.hearing import Listener

from ..conftest import CLIPS, CONFORMANCE

CLIP = CLIPS / "loop_garzul.flac"


def pixels(address: str) -> np.ndarray:
    """(rows, columns, 3) in [0, 1] of an address that holds a PNG."""
    assert address.startswith("data:image/png;base64,")
    return matplotlib.image.imread(io.BytesIO(base64.b64decode(address.partition(",")[2])), format="png")[..., :3]


@pytest.fixture(scope="module")
def classifier():
    return EAT.load(CONFORMANCE / "official_finetune.pt")


@torch.inference_mode()
@pytest.mark.parametrize(("window", "hop"), [(1024, 512), (128, 64)])
def test_classes_are_those_of_predictions(classifier, window: int, hop: int) -> None:
    names = [f"class {index}" for index in range(6)]
    heard = Listener(classifier, names, window, hop, 4).hear(str(CLIP))
    (expected,) = score_all(classifier, [Source(str(CLIP), CLIP.name)], window, hop, 4, 0)
    whole = {found["name"]: found["score"] for found in heard["classes"]}
    np.testing.assert_allclose([whole[name] for name in names], expected.scores, atol=1e-5)
    assert heard["edges"][0] == 0 and heard["edges"][-1] == pytest.approx(5.0) == heard["seconds"]
    slots = [w.scores.numpy() for w in expected.timeline] or [expected.scores]
    assert len(heard["edges"]) == len(slots) + 1 == (2 if window == 1024 else 8)
    for found in heard["classes"]:
        np.testing.assert_allclose(found["scores"], [slot[names.index(found["name"])] for slot in slots], atol=1e-5)
    peaks = [max(found["scores"]) for found in heard["classes"]]
    assert peaks == sorted(peaks, reverse=True)


def test_colours_are_those_of_the_extracted_features(classifier) -> None:
    heard = Listener(classifier, [], 1024, 512, 4).hear(str(CLIP))
    assert heard["classes"] == heard["edges"] == heard["neighbours"] == []
    features = classifier.extract(read_audio(str(CLIP)), granularity="frame").numpy()
    image = pixels(heard["features"]["image"])
    assert image.shape == (8, len(features) // 8, 3)
    assert heard["features"]["seconds"] == pytest.approx(0.16 * image.shape[1])
    expected = as_colours(principal_components(features, 3).values).reshape(-1, 8, 3)  # time, frequency
    np.testing.assert_allclose(image[::-1].transpose(1, 0, 2), expected, atol=1 / 128)  # low frequencies at the bottom
    assert heard["spectrogram"]["seconds"] == pytest.approx(4.98)  # 498 frames of 10 ms
    assert pixels(heard["spectrogram"]["image"]).shape == (128, 498, 3)
    assert heard["ticks"]["8 k"] == 1.0 and 0 < heard["ticks"]["250"] < heard["ticks"]["1 k"] < 1


def test_a_tone_is_where_its_frequency_is_written(classifier, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 2000 * np.arange(32_000) / 16_000), 16_000)
    heard = Listener(classifier, [], 1024, 512, 4).hear(str(tmp_path / "tone.wav"))
    rows = pixels(heard["spectrogram"]["image"]).sum(axis=(1, 2))
    height = 1 - (rows.argmax() + 0.5) / 128  # from the bottom
    assert height == pytest.approx(heard["ticks"]["2 k"], abs=1 / 128)


def test_a_clip_of_the_collection_finds_itself_first(classifier) -> None:
    sources, _ = find_sources([str(clip) for clip in sorted(CLIPS.glob("*.flac"))[::15]])
    collection, _ = collect(classifier, sources, 4, 0)
    listener = Listener(classifier, [], 1024, 512, 4, collection)
    for number in (0, 3):
        nearest = listener.hear(sources[number].address)["neighbours"]
        assert nearest[0]["number"] == number and nearest[0]["name"] == sources[number].name
        assert nearest[0]["similarity"] == pytest.approx(1, abs=1e-4)
        assert [n["similarity"] for n in nearest] == sorted((n["similarity"] for n in nearest), reverse=True)


def test_a_recording_in_memory_is_what_it_is_on_disk(classifier) -> None:
    listener = Listener(classifier, ["a"] * 6, 128, 64, 4)
    held = Held("somewhere.zip:0:5", CLIP.read_bytes())  # a name that no file is opened by
    assert listener.hear(held) == listener.hear(str(CLIP))
    assert torch.equal(read_audio(held), read_audio(str(CLIP)))
    with pytest.raises(DataError, match=r"noise\.wav is not audio that libsndfile can read"):
        listener.hear(Held("noise.wav", b"noise"))

    def enough() -> None:
        raise DataError("enough")

    with pytest.raises(DataError, match="enough"):
        listener.hear(Held("a", CLIP.read_bytes(), enough))
