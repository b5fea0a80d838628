"""The scikit-learn transformer: scikit-learn's own checks, pipelines, searches and pickles."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import EAT
from EAT.errors import CheckpointError, ConfigError, DataError
from EAT.inference.windows import extract_recording
from EAT.interfaces.scikit_learn import EATFeatures

from ..conftest import CLIPS, CONFORMANCE
from ..labelled_clips import families

CHECKPOINT = str(CONFORMANCE / "official_pretrain.pt")
ANY_LENGTH = "clips may be of another length in transform than in fit, so that no number of features is fixed"


def not_applicable(estimator: EATFeatures) -> dict[str, str]:
    names = ("check_n_features_in", "check_n_features_in_after_fitting", "check_transformer_general")
    return dict.fromkeys(names, ANY_LENGTH)


@parametrize_with_checks([EATFeatures(CHECKPOINT)], expected_failed_checks=not_applicable)
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def labelled() -> tuple[list[str], list[str]]:
    """Paths of real clips of three families, and their families."""
    chosen = {name: family for name, family in families().items() if family in ("drum_kit", "electronic", "tabla")}
    return [str(CLIPS / name) for name in chosen], list(chosen.values())


@pytest.mark.parametrize("readout, width", [("utterance", 64), ("mean", 64), ("rows", 512), ("rows_max", 1024)])
def test_vectors_are_the_model_s_in_the_given_order(labelled, readout, width):
    paths = labelled[0][:12]
    features = EATFeatures(CHECKPOINT, readout, layer=2).fit(paths)
    found = features.transform(paths)
    assert found.shape == (12, width) and found.dtype == np.float32
    assert len(features.get_feature_names_out()) == width
    model = EAT.load(CHECKPOINT)
    waves = [soundfile.read(path, dtype="float32") for path in paths]
    for vector, (wave, rate) in zip(found, waves, strict=True):
        np.testing.assert_allclose(vector, model.extract(wave, rate, granularity=readout, layer=2), atol=1e-5)
    rate = waves[0][1]
    assert {rate} == {other for _, other in waves}
    arrays = EATFeatures(CHECKPOINT, readout, 2, sample_rate=rate).fit_transform([wave for wave, _ in waves])
    np.testing.assert_allclose(arrays, found, atol=1e-5)


def test_paths_come_in_lists_arrays_and_columns(labelled):
    paths = labelled[0][:4]
    expected = EATFeatures(CHECKPOINT).fit_transform(paths)
    for form in (np.array(paths), np.array(paths, object), np.array(paths, object)[:, None], tuple(paths)):
        np.testing.assert_allclose(EATFeatures(CHECKPOINT).fit_transform(form), expected, atol=1e-6)


def test_waveforms_of_all_shapes():
    rng = np.random.default_rng(0)
    mono = (rng.normal(size=9_000) * 0.1).astype(np.float32)
    features = EATFeatures(CHECKPOINT).fit([mono])
    expected = features.transform([mono])
    stereo = np.stack([mono * 1.5, mono * 0.5])
    np.testing.assert_allclose(features.transform([stereo]), expected, atol=1e-5)
    np.testing.assert_allclose(features.transform([torch.from_numpy(mono)]), expected, atol=1e-6)
    np.testing.assert_allclose(features.transform(mono[None]), expected, atol=1e-6)
    whole = (mono * 32768).round().astype(np.int16)
    np.testing.assert_allclose(features.transform([whole]), expected, atol=2e-2)
    long = np.tile(mono, 15)[None].repeat(16, axis=1)  # 135 s
    model = EAT.load(CHECKPOINT)
    np.testing.assert_allclose(
        features.transform(long)[0], extract_recording(model, torch.from_numpy(long[0]), granularity="mean"), atol=1e-5
    )


def test_a_search_over_readouts_and_layers(labelled):
    paths, labels = labelled[0][::2], labelled[1][::2]
    pipeline = make_pipeline(EATFeatures(CHECKPOINT), StandardScaler(), LogisticRegression(max_iter=200))
    grid = {"eatfeatures__readout": ["mean", "rows"], "eatfeatures__layer": [-1]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(paths, labels)
    assert search.best_score_ > max(labels.count(label) for label in set(labels)) / len(labels)
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    assert list(again.predict(paths)) == list(search.predict(paths))


def test_pickles_hold_no_weights(labelled):
    features = EATFeatures(CHECKPOINT).fit(labelled[0][:2])
    features.transform(labelled[0][:2])
    pickled = pickle.dumps(features)
    assert len(pickled) < 1_000
    np.testing.assert_array_equal(pickle.loads(pickled).transform(labelled[0][:2]), features.transform(labelled[0][:2]))


def test_what_cannot_be(tmp_path, labelled):
    paths = labelled[0][:2]
    with pytest.raises(ConfigError, match="no checkpoint"):
        EATFeatures().fit(paths)
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        EATFeatures(tmp_path / "none.pt").fit(paths)
    with pytest.raises(ConfigError, match="readout is 'median'"):
        EATFeatures(CHECKPOINT, "median").fit(paths)
    with pytest.raises(ConfigError, match="layer 7"):
        EATFeatures(CHECKPOINT, layer=7).fit(paths)
    (tmp_path / "bad.wav").write_text("no audio")
    with pytest.raises(DataError, match=r"bad\.wav"):
        EATFeatures(CHECKPOINT).fit_transform([*paths, str(tmp_path / "bad.wav")])
    with pytest.raises(ValueError, match="NaN"):
        EATFeatures(CHECKPOINT).fit([np.full(9_000, np.nan)])
