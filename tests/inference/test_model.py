"""The model as one object: raw files to the published numbers, batches as single clips, and life in others' code."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import EAT
from EAT.audio.recordings import read_audio
from EAT.commands.export import export_onnx
from EAT.errors import CheckpointError, ConfigError, DataError
from EAT.inference.evaluation import evaluate
from EAT.inference.model import EATModel
from EAT.inference.windows import extract_recording, score_recording

from ..conftest import CLIPS, CONFORMANCE, ROOT


@pytest.fixture(scope="module")
def model():
    return EAT.load(CONFORMANCE / "official_pretrain.pt")


@pytest.fixture(scope="module")
def classifier():
    return EAT.load(CONFORMANCE / "official_finetune.pt")


@pytest.fixture(scope="module")
def waveforms(clips):
    return [read_audio(str(clip)) for clip in clips[::4]]


@torch.inference_mode()
def test_features_of_a_file_are_those_of_the_reference_front_end(model, clips, torchaudio):
    """From the raw file on, against torchaudio's front end and the encoder that conformance data confirms."""
    for clip in clips[::20]:
        samples, rate = soundfile.read(clip, dtype="float32")
        wave = torch.from_numpy(samples)[None]
        mel = torchaudio.compliance.kaldi.fbank(
            wave - wave.mean(), htk_compat=True, sample_frequency=rate, use_energy=False, window_type="hanning",
            num_mel_bins=128, dither=0.0, frame_shift=10,
        )  # fmt: skip
        mel = torch.nn.functional.pad(mel, (0, 0, 0, -len(mel) % 16))
        mel = (mel + 4.268) / (2 * 4.569)
        expected = model.encoder(mel[None, None]).tokens[0]
        assert torch.allclose(model.extract(samples, rate), expected, atol=1e-4)


@torch.inference_mode()
def test_conformance_logits_and_features(model, classifier):
    data = np.load(CONFORMANCE / "official_finetune_io.npz")
    np.testing.assert_allclose(classifier(torch.from_numpy(data["mel"])), data["features"], atol=1e-4)
    np.testing.assert_allclose(classifier.network(torch.from_numpy(data["mel"])), data["logits"], rtol=1e-4, atol=1e-5)
    data = np.load(CONFORMANCE / "official_pretrain_io.npz")
    short = torch.from_numpy(data["mel"][:, :, :512])
    np.testing.assert_allclose(model(short), data["features_512"], atol=1e-4)


@torch.inference_mode()
def test_a_clip_in_a_mixed_batch_is_as_alone(model, waveforms):
    together = model.extract(waveforms)
    for wave, tokens in zip(waveforms, together, strict=True):
        assert tokens.shape == (1 + model.patch_count(len(wave)), 64)
        assert torch.allclose(model.extract(wave), tokens, atol=1e-4)


@torch.inference_mode()
def test_a_padded_batch_is_its_clips(model, classifier, waveforms):
    chosen = waveforms[:5]
    lengths = [len(wave) for wave in chosen]
    padded = torch.full((5, max(lengths)), 7.0)  # what lies beyond a clip's end must not matter
    for row, wave in zip(padded, chosen, strict=True):
        row[: len(wave)] = wave
    batch = model.extract(padded, lengths=lengths)
    layers = model.extract(padded, lengths=torch.tensor(lengths), layer=[1, 3], granularity="frame")
    assert layers.shape == (5, 2, model.patch_count(max(lengths)), 64)
    for row, stack, wave in zip(batch, layers, chosen, strict=True):
        alone = model.extract(wave)
        assert torch.allclose(row[: len(alone)], alone, atol=1e-4)
        assert not row[len(alone) :].any()
        assert torch.allclose(stack[1, : len(alone) - 1], alone[1:], atol=1e-4)
    scores = classifier.scores(padded, lengths=lengths)
    for row, wave in zip(scores, chosen, strict=True):
        assert torch.allclose(row, classifier.scores(wave), atol=1e-5)


@torch.inference_mode()
def test_shapes_and_granularities(model):
    wave = torch.randn(2, 16000)
    patches = model.patch_count(16000)
    assert patches == 7 * 8
    assert model.extract(wave).shape == (2, 1 + patches, 64)
    assert model.extract(wave[0]).shape == (1 + patches, 64)
    assert model.extract(wave.numpy(), granularity="frame").shape == (2, patches, 64)
    assert model.extract(wave, granularity="utterance").shape == (2, 64)
    assert model.extract([wave[0], wave[1, :999]], granularity="utterance")[1].shape == (64,)
    assert model.extract(wave, target_length=1024).shape == (2, 513, 64)
    assert model.extract(wave, layer=(0, 1, 2, 3)).shape == (2, 4, 1 + patches, 64)
    everything = model.extract(wave)
    torch.testing.assert_close(everything[:, 0], model.extract(wave, granularity="utterance"), rtol=1e-5, atol=1e-5)
    assert torch.equal(everything[:, 1:], model.extract(wave, granularity="frame"))


@torch.inference_mode()
def test_layers_are_the_blocks_outputs(model):
    mel = torch.from_numpy(np.load(CONFORMANCE / "official_pretrain_io.npz")["mel"][:, :, :256])
    output = model.encoder(mel, collect=True)
    stack = model(mel, layers=(0, 1, 2, 3))
    for number, block in enumerate(output.blocks):
        assert torch.equal(stack[:, number], block)
    patches = model.encoder.positions(model.encoder.patches(mel))
    first = model.encoder.norm(torch.cat([model.encoder.cls_token.expand(2, -1, -1), patches], dim=1))
    assert torch.equal(stack[:, 0], first)
    assert model.layer_numbers([-1, -4, 2]) == (3, 0, 2)
    for wrong in (4, -5):
        with pytest.raises(ConfigError, match=str(wrong)):
            model.layer_numbers(wrong)


@torch.inference_mode()
def test_channels_and_integers(model, clips):
    samples, rate = soundfile.read(clips[0], dtype="int16")
    floats = samples.astype(np.float32) / 32768
    expected = model.extract(floats, rate)
    assert torch.allclose(model.extract(samples, rate), expected, atol=1e-5)
    stereo = np.stack([floats, np.zeros_like(floats)])
    assert torch.allclose(model.extract([stereo], rate)[0], model.extract(floats / 2, rate), atol=1e-5)
    assert torch.allclose(model.extract(stereo[None], rate)[0], model.extract(floats / 2, rate), atol=1e-5)
    assert torch.allclose(model.extract(samples.astype(np.float64) / 32768, rate), expected, atol=1e-5)


def test_inside_a_training_loop(classifier, waveforms):
    """Somebody's own loop: gradients reach every weight and the waveform, and a step lowers the loss."""
    model = EAT.load(CONFORMANCE / "official_finetune.pt").train()
    wave = torch.stack([w[:6000] for w in waveforms if len(w) >= 6000][:4]).requires_grad_()
    targets = torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model.logits(wave, target_length=64), targets)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
    assert wave.grad is not None and wave.grad.abs().sum() > 0
    assert losses[2] < losses[0]
    assert not torch.equal(model.state_dict()["network.head.weight"], classifier.state_dict()["network.head.weight"])


@torch.inference_mode()
def test_half_precision_is_close(waveforms):
    exact = EAT.load(CONFORMANCE / "official_pretrain.pt")
    model = EAT.load(CONFORMANCE / "official_pretrain.pt").bfloat16()
    features = model.extract(waveforms[0])
    assert features.dtype == torch.bfloat16
    similarity = torch.cosine_similarity(features.float(), exact.extract(waveforms[0]), dim=-1)
    assert similarity.mean() > 0.99
    assert torch.equal(model.encoder.positions.table, exact.encoder.positions.table)


@torch.inference_mode()
def test_compiled_is_the_same(waveforms):
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    expected = model.extract(waveforms[:2])
    model.compile(dynamic=True, backend="aot_eager")  # everything but the generation of machine code
    for ours, theirs in zip(model.extract(waveforms[:2]), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


@torch.inference_mode()
def test_scores(classifier, model, waveforms):
    logits = classifier.logits(waveforms[:3])
    assert torch.equal(classifier.scores(waveforms[:3]), logits.sigmoid())
    softmax = EAT.load(CONFORMANCE / "official_finetune.pt")
    softmax.activation = "softmax"
    assert torch.allclose(softmax.scores(waveforms[:3]).sum(dim=1), torch.ones(3))
    # Scores are of clips padded to the length of training, as fine-tuning saw them.
    assert torch.equal(logits, classifier.logits(waveforms[:3], target_length=1024))
    with pytest.raises(CheckpointError, match="knows no classes"):
        model.scores(waveforms[0])


@torch.inference_mode()
def test_unusable_waveforms(model):
    for wrong in (torch.zeros(0), [], [torch.zeros(0)], torch.zeros(1, 1, 1, 9)):
        with pytest.raises(DataError):
            model.extract(wrong)
    with pytest.raises(ConfigError, match="granularity"):
        model.extract(torch.zeros(1000), granularity="clip")
    with pytest.raises(DataError, match="extract_recording"):
        model.extract(torch.zeros(16000 * 130))
    with pytest.raises(ConfigError, match="multiple of 16"):
        model.extract(torch.zeros(1000), target_length=100)
    assert model.extract(torch.zeros(1)).shape == (9, 64)  # even one sample is a clip here: one patch step


def test_padded_frames(model):
    assert [model.padded_frames(n) for n in (1, 400, 2800, 2960, 160240)] == [16, 16, 16, 32, 1008]


def test_normalisation_by_choice():
    model = EAT.load(CONFORMANCE / "official_pretrain.pt", norm_mean=-6.627, norm_std=5.359)
    assert (model.front_end.norm_mean, model.front_end.norm_std) == (-6.627, 5.359)
    with pytest.raises(ConfigError, match="norm_std"):
        EAT.load(CONFORMANCE / "official_pretrain.pt", norm_std=0.0)


def test_importing_the_package_imports_little():
    code = "import sys, EAT; print(sorted(set(sys.modules) & {'torch', 'fairseq', 'numpy'})); EAT.load; EAT.nothing"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "[]\n"
    assert "AttributeError: module 'EAT' has no attribute 'nothing'" in run.stderr


@pytest.mark.parametrize("name", ["official_pretrain.pt", "official_finetune.pt", "bat_pretrain.pt", "hf_finetune"])
def test_a_model_is_opened_and_asked_without_importing_a_compiler(name):
    """Which PyTorch does, for instance, to draw random numbers that have no storage: over a second at every start."""
    code = f"""import sys, EAT
model = EAT.load({str(CONFORMANCE / name)!r})
print(model.extract({str(CLIPS / "elec_bell.flac")!r}).shape[-1] == model.embed_dim)
print(sorted(set(sys.modules) & {{"torch._dynamo", "sympy", "fairseq", "sklearn", "matplotlib"}}))"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("True\n[]\n", "")


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_are_as_large_as_asked_for(waveforms, batch_size):
    """64 clips of 10 s at once, not twice 32; and the features are the same whatever the batch."""
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    clips = torch.randn(64, 163_840, generator=torch.Generator().manual_seed(1)) * 0.1
    seen = []
    hook = model.encoder.patches.register_forward_hook(lambda module, given, result: seen.append(len(given[0])))
    with torch.inference_mode():
        features = model.extract(clips, granularity="utterance", batch_size=batch_size)
        hook.remove()
        alone = model.extract(clips[5], granularity="utterance")
    assert seen == [batch_size] * (64 // batch_size) + [64 % batch_size] * bool(64 % batch_size)
    torch.testing.assert_close(features[5], alone, rtol=1e-4, atol=1e-5)


def test_features_and_scores_need_no_gradient_unless_asked_for(model, classifier, waveforms):
    wave = waveforms[0][:16000]
    assert model.extract(wave).numpy().shape == model.extract(wave, grad=True).shape
    assert isinstance(model.extract([wave]), list) and not model.extract([wave])[0].requires_grad
    assert classifier.scores(wave).numpy().sum() > 0
    given = wave.clone().requires_grad_()
    model.extract(given, granularity="utterance", grad=True).sum().backward()
    assert given.grad is not None and given.grad.abs().sum() > 0 and classifier.logits(wave).requires_grad
    probe = torch.nn.Linear(64, 2)  # trained on features, which inference mode's tensors would not allow
    probe(model.extract(wave, granularity="utterance")).sum().backward()
    assert probe.weight.grad.abs().sum() > 0


def test_samples_by_channels_are_not_taken_for_thousands_of_clips(model):
    stereo = np.zeros((80_000, 2), np.float32)  # as soundfile reads
    with pytest.raises(DataError, match=r"shape \(80000, 2\).*give waveform\.T\[None\]"):
        model.extract(stereo)
    assert model.extract(stereo.T[None], granularity="utterance").shape == (1, 64)
    assert model.extract([stereo.T], granularity="utterance")[0].shape == (64,)


@pytest.mark.parametrize("rate", [0, -1, 1.5, "16000", None, float("nan")])
def test_a_rate_that_is_none_is_a_sentence(rate: object) -> None:
    with pytest.raises(ConfigError, match=r"sample_rate is .*; it must be a whole number of Hz"):
        EAT.load(CONFORMANCE / "official_pretrain.pt").extract(torch.zeros(16000), rate)


def test_what_holds_no_samples_is_a_sentence() -> None:
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    numbers = (
        torch.zeros(16000, dtype=torch.bool),
        torch.zeros(16000, dtype=torch.complex64),
        np.array(["0.1", "0.2"]),
    )
    for given in (b"RIFF", None, 3, *numbers):
        with pytest.raises(DataError, match="holds no samples; give a waveform as numbers"):
            model.extract(given)
    for given in ("clip.wav", Path("clip.wav"), ["0.1", "0.2"]):  # paths, which are read
        with pytest.raises(DataError, match="does not exist"):
            model.extract(given)


@pytest.mark.parametrize("device", ["mps", "tpu9", "cuda:77", torch.device("meta"), 0.5])
def test_a_device_that_cannot_be_used_or_was_never_tried_is_a_sentence(device: object) -> None:
    with pytest.raises(ConfigError, match=f"^device {device} (was never tried|cannot be used)[^\\n]*$"):
        EAT.load(CONFORMANCE / "official_pretrain.pt", device=device)  # type: ignore[arg-type]


def test_a_path_where_a_model_is_expected_is_a_sentence(tmp_path: Path) -> None:
    path, clip = CONFORMANCE / "official_finetune.pt", str(CLIPS / "tabla_na.flac")
    for call in (
        lambda: extract_recording(str(path), clip),
        lambda: list(score_recording(path, clip)),
        lambda: evaluate(path, tmp_path, "eval"),
        lambda: export_onnx(str(path), tmp_path / "x.onnx"),
    ):
        with pytest.raises(ConfigError, match=r"a model is expected, not '.*official_finetune\.pt'; EAT\.load\(path\)"):
            call()
    with pytest.raises(ConfigError, match=r"use EAT\.load\(path\)"):
        EATModel(path)
    with pytest.raises(ConfigError, match="a checkpoint is given by its path, not as a EATModel"):
        EAT.load(EAT.load(path))
