"""ONNX files compute what the model computes, in onnxruntime, at any batch size and length."""

import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.export import main
from EAT.network.front_end import FrontEnd

from ..conftest import CONFORMANCE


@pytest.mark.parametrize("name", ["official_pretrain.pt", "official_finetune.pt"])
def test_any_batch_and_length(tmp_path, name, clips, capsys):
    target = tmp_path / "deep" / "model.onnx"
    assert main([str(CONFORMANCE / name), str(target)]) == 0
    assert "features" in capsys.readouterr().out
    onnx.checker.check_model(str(target))
    model = EAT.load(CONFORMANCE / name)
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    properties = session.get_modelmeta().custom_metadata_map
    assert float(properties["norm_mean"]) == model.front_end.norm_mean
    for batch, frames in ((1, 16), (1, 1024), (5, 96), (2, 2048)):
        front_end = FrontEnd(frames, float(properties["norm_mean"]), float(properties["norm_std"]))
        mel = torch.cat([front_end(read_audio(str(clip))[None]) for clip in clips[:batch]])
        with torch.inference_mode():
            expected = [model(mel)] + ([model.network(mel)] if model.num_classes else [])
        found = session.run(None, {"filterbank": mel.numpy()})
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)


def test_conformance_features_through_onnx(tmp_path):
    assert main([str(CONFORMANCE / "hf_finetune"), str(tmp_path / "m.onnx")]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    mel = np.load(CONFORMANCE / "official_pretrain_io.npz")["mel"]
    features, logits = session.run(["features", "logits"], {"filterbank": mel})
    expected = np.load(CONFORMANCE / "hf_expected.npz")
    np.testing.assert_allclose(features, expected["finetune_features"], atol=1e-4)
    np.testing.assert_allclose(logits, expected["finetune_logits"], rtol=1e-4, atol=1e-5)


def real_batch(clips, longest):
    """Real clips as a padded batch, with noise where a clip is over, and their lengths."""
    waves = [read_audio(str(clip))[:longest] for clip in clips]
    batch = torch.randn(len(waves), max(map(len, waves)), generator=torch.Generator().manual_seed(0))
    for row, wave in zip(batch, waves, strict=True):
        row[: len(wave)] = wave
    return batch, torch.tensor([len(wave) for wave in waves])


def test_scores_from_the_waveform(tmp_path, clips):
    """Any length, from less than a frame to more than the model hears; any batch; each clip as if it were alone."""
    checkpoint, target = CONFORMANCE / "official_finetune.pt", tmp_path / "scores.onnx"
    assert main([str(checkpoint), str(target), "--from", "waveform"]) == 0
    model, session = EAT.load(checkpoint), onnxruntime.InferenceSession(str(target))
    assert [item.name for item in session.get_inputs()] == ["waveform", "lengths"]
    for chosen, longest in ((clips[:1], 150), (clips[3:8], 8_000), (clips[20:32], 80_000)):
        batch, lengths = real_batch(chosen, longest)
        (found,) = session.run(None, {"waveform": batch.numpy(), "lengths": lengths.numpy()})
        expected = model.scores([row[:length] for row, length in zip(batch, lengths, strict=True)])
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)
    long = torch.cat([read_audio(str(clip)) for clip in clips[:20]])[None]
    assert long.shape[1] > model.front_end.samples
    (found,) = session.run(None, {"waveform": long.numpy(), "lengths": np.array([long.shape[1]])})
    np.testing.assert_allclose(found, model.scores(long).numpy(), atol=1e-4)


def test_features_from_the_waveform(tmp_path, clips):
    checkpoint, target = CONFORMANCE / "official_pretrain.pt", tmp_path / "features.onnx"
    assert main([str(checkpoint), str(target), "--from", "waveform", "--no-check"]) == 0
    model, session = EAT.load(checkpoint), onnxruntime.InferenceSession(str(target))
    for samples in (150, 2_959, 2_960, 40_000):
        batch, lengths = real_batch([clip for clip in clips if len(read_audio(str(clip))) >= samples][:2], samples)
        (found,) = session.run(None, {"waveform": batch.numpy(), "lengths": lengths.numpy()})
        np.testing.assert_allclose(found, model.extract(batch).numpy(), atol=1e-4)


def test_8_bits(tmp_path, clips):
    checkpoint, target = CONFORMANCE / "official_finetune.pt", tmp_path / "small.onnx"
    assert main([str(checkpoint), str(target), "--from", "waveform", "--int8", "--no-check"]) == 0
    kinds = [node.op_type for node in onnx.load(str(target)).graph.node]
    assert kinds.count("MatMulInteger") == 4 * 3 + 1  # four products a block, and the head
    batch, lengths = real_batch(clips[:12], 80_000)
    (found,) = onnxruntime.InferenceSession(str(target)).run(
        None, {"waveform": batch.numpy(), "lengths": lengths.numpy()}
    )
    expected = EAT.load(checkpoint).scores([row[:length] for row, length in zip(batch, lengths, strict=True)]).numpy()
    assert 1e-6 < np.abs(found - expected).max() < 0.05
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9


def test_a_front_end_that_needs_all_of_a_clip_begins_at_the_filterbank(tmp_path, capsys):
    assert main([str(CONFORMANCE / "bat_pretrain.pt"), str(tmp_path / "m.onnx"), "--from", "waveform"]) == 2
    assert "'decibels' has no graph from the waveform on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_the_program_says_and_warns_of_afterwards_is_as_before(tmp_path):
    before = (logging.getLogger().level, logging.getLogger("torch.onnx").level, list(warnings.filters))
    assert main([str(CONFORMANCE / "official_pretrain.pt"), str(tmp_path / "m.onnx"), "--no-check"]) == 0
    assert (logging.getLogger().level, logging.getLogger("torch.onnx").level, list(warnings.filters)) == before


def test_unusable_arguments(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "none.pt"), str(tmp_path / "m.onnx")]) == 2
    assert "none.pt does not exist" in capsys.readouterr().err
    assert main([str(CONFORMANCE / "official_pretrain.pt"), str(tmp_path / "file" / "m.onnx"), "--no-check"]) == 2
    assert "cannot be written" in capsys.readouterr().err
