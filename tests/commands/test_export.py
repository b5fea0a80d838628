"""ONNX files compute what the model computes, in onnxruntime, at any batch size and length."""

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


def test_unusable_arguments(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "none.pt"), str(tmp_path / "m.onnx")]) == 2
    assert "none.pt does not exist" in capsys.readouterr().err
    assert main([str(CONFORMANCE / "official_pretrain.pt"), str(tmp_path / "file" / "m.onnx"), "--no-check"]) == 2
    assert "cannot be written" in capsys.readouterr().err
