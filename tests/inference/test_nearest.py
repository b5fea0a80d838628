"""The clips of a collection that are nearest to a sound."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

import EAT
from EAT.errors import DataError
from EAT.inference.nearest import Collection, collect
from EAT.inference.sources import Source, find_sources

from ..conftest import CLIPS, CONFORMANCE


def named(*names: str) -> list[Source]:
    return [Source(name, name) for name in names]


def test_cosines_from_the_collection_s_mean_worked_out_by_hand() -> None:
    # The mean is (1, 1); from there the clips lie to the right, to the left, above and below.
    vectors = np.array([[3, 1], [-1, 1], [1, 2], [1, 0]], np.float32)
    collection = Collection(named("right", "left", "above", "below"), vectors)
    ((first, second, *rest),) = collection.nearest(np.array([[4, 4]], np.float32), 4)  # up and to the right
    assert (first.number, second.number) == (0, 2)  # equals in their order
    assert first.similarity == pytest.approx(2**-0.5) and second.similarity == pytest.approx(2**-0.5)
    assert [near.number for near in rest] == [1, 3] and rest[0].similarity == pytest.approx(-(2**-0.5))
    with pytest.raises(DataError, match="needs two recordings"):
        Collection(named("one"), vectors[:1])


def test_many_sounds_at_once_equal_scikit_learn() -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
    found = Collection(named(*map(str, range(300))), vectors).nearest(vectors, 300)
    expected = cosine_similarity(vectors - vectors.mean(axis=0, dtype=np.float64))
    for row, (nearest, cosines) in enumerate(zip(found, expected, strict=True)):
        assert nearest[0].number == row and nearest[0].similarity == pytest.approx(1)
        ours = [near.similarity for near in sorted(nearest, key=lambda near: near.number)]
        np.testing.assert_allclose(ours, cosines, atol=1e-9)


def test_a_collection_is_heard_once_and_the_unreadable_is_named(tmp_path) -> None:
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    chosen = sorted(CLIPS.glob("*.flac"))[::20]
    for clip in chosen:
        shutil.copy(clip, tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    sources, _ = find_sources([str(tmp_path)])
    collection, problems = collect(model, sources, batch_size=4, workers=0)
    assert [source.name for source in collection.sources] == [clip.name for clip in chosen]
    assert len(problems) == 1 and "broken.wav" in problems[0]
    for number, clip in enumerate(chosen):
        vector = model.extract(EAT.audio.recordings.read_audio(str(clip)), granularity="mean").numpy()
        (near,) = collection.nearest(vector[None], 1)[0]
        assert near.number == number and near.similarity == pytest.approx(1, abs=1e-5)
