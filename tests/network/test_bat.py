"""BAT's parts against the outputs of its published implementation, and each as a choice of its own."""

from __future__ import annotations

import contextlib
import json
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import step_work
from EAT.errors import ConfigError
from EAT.network.acceleration import FastBlock, accelerate, plain
from EAT.network.block import Block
from EAT.network.encoder import Encoder
from EAT.network.front_end import Decibels, Decibels32k
from EAT.network.masking import Masks, masks_from_map
from EAT.network.patches import Grid
from EAT.network.positions import bat
from EAT.network.pretraining import Batch, Pretraining
from EAT.network.settings import EncoderSettings, PretrainingSettings, TeacherSettings
from EAT.network.teacher import linear_decay_from_first

from ..published import BAT_SIZES, our_bat_name, published_bat

WEIGHTS = {"frame": 64**-0.5, "utterance": 64**-0.5}
"""BAT's objective in EAT's terms."""


@pytest.fixture
def model(conformance: Path) -> Pretraining:
    return published_bat(conformance)


@pytest.fixture(scope="module")
def io(conformance: Path) -> dict[str, Tensor]:
    return arrays(conformance / "bat_pretrain_io.npz")


@pytest.fixture(scope="module")
def expected(conformance: Path) -> dict:
    return json.loads((conformance / "bat_expected.json").read_text())


@pytest.fixture(scope="module")
def waves(conformance: Path) -> dict[str, Tensor]:
    return {name: value for name, value in arrays(conformance / "frontend.npz").items() if name.startswith("wave")}


@pytest.fixture(scope="module")
def spectrograms(conformance: Path) -> dict[str, Tensor]:
    return arrays(conformance / "bat_frontend.npz")


def arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file}


def close(actual: Tensor, wanted: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual.detach(), wanted, rtol=0, atol=atol)


def batch(model: Pretraining, mel: Tensor, mask: Tensor) -> Batch:
    """Stored filterbanks with stored masks in place of drawn ones."""
    return model.draw(mel, [0, 1], seed=1, epoch=1)._replace(masks=masks_from_map(mask.bool().view(2, 4, 512)))


# Front end


@pytest.mark.parametrize(("name", "frames"), [("real", 160), ("noise", 112), ("tone", 64), ("silence", 32)])
def test_decibels_are_the_published_ones(waves: dict, spectrograms: dict, name: str, frames: int) -> None:
    wave = waves[f"wave_{name}"][None]
    close(Decibels(frames).spectrogram(wave)[0], spectrograms[f"db_{name}"], atol=2e-3)
    close(Decibels(frames)(wave)[0, 0], spectrograms[f"mel_{name}"], atol=3e-5)
    assert Decibels.frames(wave.shape[1]) == len(spectrograms[f"db_{name}"])


def test_what_is_cut_counts_in_the_range(waves: dict, spectrograms: dict) -> None:
    close(Decibels(96)(waves["wave_real"][None])[0, 0], spectrograms["mel_real_cut"], atol=3e-5)
    loud = torch.cat([waves["wave_real"], torch.rand(16000)])  # what the cut frames hold decides about the others
    assert not torch.allclose(Decibels(96)(loud[None])[0, 0, :90], spectrograms["mel_real_cut"][:90], atol=1e-3)


def test_decibels_at_32_khz(waves: dict, spectrograms: dict) -> None:
    wave = waves["wave32k"][None]
    close(Decibels32k(64).spectrogram(wave)[0], spectrograms["db_32k"], atol=2e-3)
    close(Decibels32k(64)(wave)[0, 0], spectrograms["mel_32k"], atol=3e-5)


def test_a_clip_does_not_hear_its_neighbours(waves: dict, spectrograms: dict) -> None:
    clips = [waves[f"wave_{name}"] for name in ("real", "noise", "tone", "silence")]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=3.0)  # anything may follow a clip
    together = Decibels(160)(padded, torch.tensor([len(clip) for clip in clips]))
    for row, name in zip(together, ("real", "noise", "tone", "silence"), strict=True):
        own = spectrograms[f"mel_{name}"]
        close(row[0, : len(own)], own, atol=3e-5)
        assert not row[0, len(own) :].any()
    tone = together[2, 0]
    assert (tone - spectrograms["published_mel_tone_beside_real"]).abs().max() > 0.1  # the published accident


@pytest.mark.parametrize("samples", [1, 300, 512])
def test_clips_too_short_to_be_reflected_are_padded(samples: int) -> None:
    wave = torch.rand(1, samples)
    padded = torch.nn.functional.pad(wave, (0, 1024 - samples))
    assert torch.equal(Decibels(16)(wave), Decibels(16)(padded))
    assert Decibels.frames(samples) == Decibels.frames(1024) == 7


def test_waveforms_that_are_fitted_first_have_their_silence_counted(waves: dict) -> None:
    fitting, clip = Decibels(64, fit_waveform=True), waves["wave_tone"]
    assert fitting.samples == 63 * 160 and Decibels(64).samples is None
    padded = torch.nn.functional.pad(clip, (0, fitting.samples - len(clip)))
    assert torch.equal(fitting(clip[None]), Decibels(64)(padded[None]))
    assert torch.equal(fitting(torch.cat([clip, clip])[None]), Decibels(64)(torch.cat([clip, clip])[None, : 63 * 160]))
    beside = torch.nn.utils.rnn.pad_sequence([clip, waves["wave_noise"]], batch_first=True, padding_value=2.0)
    together = fitting(beside, torch.tensor([len(clip), 16000]))
    assert torch.equal(together[:1], fitting(clip[None]))
    assert fitting.real_frames(torch.tensor([8000])).item() == 51  # the rest is padding still


def test_the_library_computes_the_same(torchaudio: types.ModuleType, waves: dict) -> None:
    mel = torchaudio.transforms.MelSpectrogram(sample_rate=16000, n_fft=1024, hop_length=160, n_mels=128, f_min=0)
    wave = waves["wave_real"][None]
    wanted = torchaudio.functional.amplitude_to_DB(mel(wave), 10.0, 1e-10, 0.0, top_db=80.0)
    close(Decibels(160).spectrogram(wave), wanted.transpose(1, 2), atol=2e-3)


# Network


def test_block_outputs_of_short_and_long_clips(model: Pretraining, io: dict) -> None:
    blocks = model.encoder(io["mel"], collect=True).blocks
    close(torch.stack(blocks[1:]), io["blocks"])
    close(model.encoder(io["mel"][:, :, :512]).tokens, io["features_512"])
    clip = torch.cat([io["mel"][:1], io["mel"][1:, :, :272]], dim=2)
    output = model.encoder(clip, collect=True)
    close(torch.stack([block[0, 0] for block in output.blocks[1:]]), io["long_cls"])
    close(output.tokens[0, 1:], io["long_patches_last"])
    close(model.encoder(clip, cls_only=True).tokens[0, 0], io["long_cls"][-1])


def test_a_key_mask_follows_its_patches_into_chunks(model: Pretraining, io: dict) -> None:
    clip = torch.cat([io["mel"], io["mel"][:, :, :272]], dim=2)
    heard = torch.rand(2, 1 + 648, generator=torch.Generator().manual_seed(0)) < 0.7
    heard[:, 0] = True
    output = model.encoder(clip, key_mask=heard).tokens
    second = torch.cat([heard[:, :1], heard[:, 513:]], dim=1)
    close(output[:, 513:], model.encoder(clip[:, :, 1024:], key_mask=second).tokens[:, 1:].detach())


def test_predictions_and_what_the_decoder_is_given(model: Pretraining, io: dict) -> None:
    step = batch(model, io["mel"], io["mask"])
    tokens = model.encoder(step.filterbank, step.masks.visible).tokens
    close(tokens[:, 1:], io["student_visible"])
    close(tokens[:, 0], io["student_cls"])
    everywhere = Masks(step.masks.visible, torch.arange(512).expand(2, 4, -1))
    close(model.decoder(tokens[:, 1:], everywhere, step.keys, Grid(64, 8)), io["predictions"])


def test_teacher_targets(model: Pretraining, io: dict) -> None:
    targets = model.teach(batch(model, io["mel"], io["mask"]))
    close(targets["frame"], io["teacher_targets"], atol=1e-4)
    close(targets["utterance"], io["teacher_targets"].mean(dim=1), atol=1e-4)


@pytest.mark.parametrize(("checkpointing", "accelerated"), [(False, True), (True, True), (False, False)])
def test_losses_and_every_gradient(
    model: Pretraining, io: dict, expected: dict, conformance: Path, checkpointing: bool, accelerated: bool
) -> None:
    model.settings.activation_checkpointing = checkpointing
    step = batch(model, io["mel"], io["mask"])
    assert step.masks.masked.numel() == expected["masked_patches"]
    with contextlib.nullcontext() if accelerated else plain():
        terms = model(step).terms
        loss = sum(WEIGHTS[name] * value for name, value in terms.items())
        loss.backward()
    for name in WEIGHTS:
        assert (WEIGHTS[name] * terms[name]).item() == pytest.approx(expected[f"{name}_loss"], rel=1e-5)
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-5)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = {our_bat_name(name): norm for name, norm in expected["grad_norms"].items()}
    assert {name: value.norm().item() for name, value in gradients.items()} == pytest.approx(norms, rel=1e-4)
    stored = arrays(conformance / "bat_gradients.npz")
    assert len(stored) == 16
    for name, wanted in stored.items():
        close(gradients[our_bat_name(name)], wanted, atol=1e-4 * wanted.abs().max().item())


def test_four_updates(conformance: Path, io: dict, expected: dict) -> None:
    run = expected["trajectory"]
    model = published_bat(
        conformance,
        ema_decay=run["ema_start"],
        ema_end_decay=run["ema_end"],
        ema_anneal_updates=run["ema_updates"],
    )
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=tuple(run["betas"]), eps=run["eps"], weight_decay=run["weight_decay"]
    )
    stored = arrays(conformance / "bat_trajectory.npz")
    for update, mask in zip(run["updates"], stored.pop("masks"), strict=True):
        optimizer.param_groups[0]["lr"] = update["learning_rate"]
        optimizer.zero_grad()
        terms = model(batch(model, io["mel"], mask)).terms
        sum(WEIGHTS[name] * value for name, value in terms.items()).backward()
        optimizer.step()
        assert model.update_teacher(update["update"]) == pytest.approx(update["ema_decay_used"], abs=3e-8)
        for name in WEIGHTS:
            assert (WEIGHTS[name] * terms[name]).item() == pytest.approx(update[f"{name}_loss"], rel=1e-5)
        for norm, tensors in (("student_norm", model.parameters()), ("teacher_norm", model.teacher.average.values())):
            assert torch.cat([t.flatten().double() for t in tensors]).norm().item() == pytest.approx(
                update[norm], rel=1e-6
            )
    state = model.state_dict()
    assert len(stored) == 26
    for name, wanted in stored.items():
        own = our_bat_name(name.partition(".")[2])
        close(state[own.replace("encoder.", "teacher.", 1) if name.startswith("teacher") else own], wanted, atol=3e-6)


def test_the_published_decays(expected: dict) -> None:
    settings = TeacherSettings(ema_schedule="linear_from_first")
    for update, _, decay in expected["published_schedule"]["rows"]:
        assert linear_decay_from_first(settings, int(update)) == pytest.approx(decay, abs=3e-8)


def test_the_position_table_is_the_published_one_and_its_first_rows(conformance: Path) -> None:
    state = torch.load(conformance / "bat_pretrain.pt")
    assert torch.equal(bat(64, Grid(64, 8)), state["encoder"]["pos_embed"])
    table = bat(64, Grid(64, 8))[0]
    rates = 10000.0 ** (-torch.arange(16) / 16)
    for row, first, second in ((3, 3, 0), (70, 6, 1), (511, 63, 7)):
        wanted = torch.cat([f(index * rates) for index in (first, second) for f in (torch.sin, torch.cos)])
        close(table[row], wanted)


def test_initialisation(expected: dict) -> None:
    torch.manual_seed(0)
    model = Pretraining(PretrainingSettings(**BAT_SIZES))
    tensors = dict(model.named_parameters())
    for name, (deviation, largest) in expected["initialisation"].items():
        value = tensors[our_bat_name(name)].detach()
        assert value.std().item() == pytest.approx(deviation, rel=0.5 if value.numel() < 100 else 0.05), name
        bounded = "cls_token" not in name and "mask_token" not in name
        assert not bounded or value.abs().max().item() == pytest.approx(largest, rel=0.02), name
    biases = [value for name, value in tensors.items() if name.endswith("bias")]
    assert sum(bool(bias.any()) for bias in biases) == 1  # the patches' alone
    assert torch.equal(tensors["decoder.positions"], bat(64, Grid(64, 8)))


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        base = {"embed_dim": 768, "depth": 12, "num_heads": 12, "decoder_layers": 6, "decoder_width": 768}
        model = Pretraining(PretrainingSettings(**{**BAT_SIZES, **base, "decoder_heads": 12}))
        ungated = Encoder(EncoderSettings(time_patches=64))
    millions = [
        sum(t.numel() for t in part.state_dict().values()) / 1e6 for part in (model.encoder, model.decoder, ungated)
    ]
    assert [round(value, 1) for value in millions] == [92.7, 47.1, 85.6]


def test_the_published_work_per_clip() -> None:
    """Counted by PyTorch on the network itself, and by the benchmarks' formula: GFLOP, multiply-adds as two."""
    choices = {name: BAT_SIZES[name] for name in BAT_SIZES if isinstance(BAT_SIZES[name], str)}
    settings = PretrainingSettings(**choices, time_patches=64)
    model = Pretraining(settings).to("meta")
    for encoder in (model.encoder, model.teacher.encoder):
        encoder.positions.table = encoder.positions.table.to("meta")
    mel, tokens = torch.empty(1, 1, 1024, 128, device="meta"), torch.empty(16, 102, 768, device="meta")
    index = torch.zeros(1, 16, 512, dtype=torch.int64, device="meta")
    keys = torch.zeros(1, 16, dtype=torch.int32, device="meta")
    with plain(), torch.no_grad():
        with FlopCounterMode(display=False) as teacher:
            model.teacher.encoder(mel)
        with FlopCounterMode(display=False) as student:
            model.encoder(mel, index[..., :102])
        with FlopCounterMode(display=False) as decoder:
            model.decoder(tokens, Masks(index[..., :102], index), keys, Grid(64, 8))
    counted = [count.get_total_flops() / 1e9 for count in (teacher, student, decoder)]
    # The published count leaves out the projection of patches, of 512 and of 16 * 102 of them.
    counted[0] -= 2 * 512 * 256 * 768 / 1e9
    counted[1] -= 2 * 16 * 102 * 256 * 768 / 1e9
    assert counted == pytest.approx([104.1, 309.5, 840.7], rel=1e-3)
    assert counted[0] + 3 * (counted[1] + counted[2]) == pytest.approx(3555, rel=1e-3)
    assert step_work(settings, 1024) / 1e9 == pytest.approx(3555, rel=1e-3)
    assert step_work(PretrainingSettings(attention="gated"), 1024) / 1e9 == pytest.approx(1160, rel=1e-3)


# Choices


@pytest.mark.parametrize("autocast", [False, True])
def test_a_decoder_of_another_width(autocast: bool) -> None:
    model = Pretraining(PretrainingSettings(**{**BAT_SIZES, "decoder_width": 96}))
    step = model.draw(torch.rand(2, 1, 256, 128), [0, 1], seed=1, epoch=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = model(step).terms
    (terms["frame"] + terms["utterance"]).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.decoder.input.weight.grad.any()


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("rows", [None, 1])
def test_gated_blocks_are_the_same_accelerated(dtype: torch.dtype, atol: float, rows: int | None) -> None:
    torch.manual_seed(0)
    block = Block(EncoderSettings(embed_dim=64, num_heads=4, attention="gated"))
    torch.nn.init.normal_(block.attn.gate.weight, std=0.3)
    accelerate(block)
    assert type(block) is FastBlock
    block, x = block.to(dtype), torch.randn(3, 21, 64).to(dtype)
    heard = torch.rand(3, 21) < 0.7
    heard[:, 0] = True
    outcomes = []
    for switched_off in (contextlib.nullcontext, plain):
        with switched_off():
            with torch.inference_mode():
                seen, _ = block(x, heard, rows)
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(block(leaf, None, rows)[0].float().square().sum(), leaf)
        outcomes.append((seen.clone(), gradient))
    for fast, slow in zip(*outcomes, strict=True):
        torch.testing.assert_close(fast, slow, rtol=5e-2 if dtype == torch.bfloat16 else 1e-4, atol=atol)


def test_bfloat16_agrees_with_float32(conformance: Path, io: dict, expected: dict) -> None:
    model = published_bat(conformance).bfloat16()
    terms = model(batch(model, io["mel"], io["mask"])).terms
    assert (WEIGHTS["frame"] * terms["frame"]).item() == pytest.approx(expected["frame_loss"], rel=0.02)
    assert (WEIGHTS["utterance"] * terms["utterance"]).item() == pytest.approx(expected["utterance_loss"], rel=0.02)


def test_what_cannot_be_built_or_masked_is_refused(model: Pretraining, io: dict) -> None:
    with pytest.raises(ConfigError, match="decoder_heads 7"):
        PretrainingSettings(**{**BAT_SIZES, "decoder_heads": 7})
    with pytest.raises(ConfigError, match="time_patches is 0"):
        EncoderSettings(time_patches=0)
    long = torch.cat([io["mel"], io["mel"]], dim=2)
    with pytest.raises(ConfigError, match=r"2048 frames are more than the 1024 .* raise model\.time_patches"):
        model.study(model.draw(long, [0, 1], seed=1, epoch=1))
