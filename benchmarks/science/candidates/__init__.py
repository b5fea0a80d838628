"""Choices that were tried against EAT's recipe and are not part of it; what they brought stands in docs/science.md.

The folder is a ``common.user_dir``, as docs/extending.md has it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from fairseq.optim import register_optimizer
from torch import nn

import EAT.models
import EAT.tasks  # noqa: F401
from EAT.data.augmentation import AUGMENTATIONS, Further
from EAT.network.block import BLOCKS, Block
from EAT.network.masking import MASKINGS, keep
from EAT.network.objective import TARGETS, TERMS, AveragedFeedForward
from EAT.network.positions import POSITIONS, sine_cosine
from EAT.network.random import words
from EAT.training.adamw import EATAdamW, EATAdamWConfig

POSITIONS["faint"] = lambda width, grid: 0.2 * sine_cosine(width, grid)
POSITIONS["none"] = lambda width, grid: 0.0 * sine_cosine(width, grid)


class Standardised(nn.Module):
    """Feed-forward outputs averaged over blocks, standardised for each (position, channel) across clips.

    With running moments, so that nothing of a target is a function of its position; an utterance target is the mean
    over patches of the same, which now differs from clip to clip.
    """

    momentum = 0.02

    def __init__(self, settings):
        super().__init__()
        self.register_buffer("moments", torch.zeros(0), persistent=False)

    def forward(self, encoder, filterbank):
        made = encoder(filterbank, collect=True)
        outputs = [F.layer_norm(y[:, 1:].float(), y.shape[-1:]) for y in made.feed_forward]
        x = torch.stack(outputs).mean(dim=0)  # (B, N, D)
        now = torch.stack([x.mean(dim=0), x.square().mean(dim=0)])
        if self.moments.shape != now.shape:
            self.moments = now
        elif self.training:
            self.moments = torch.lerp(self.moments, now, self.momentum)
        mean, square = self.moments
        frame = F.layer_norm((x - mean) * torch.rsqrt(square - mean.square() + 1e-3), x.shape[-1:])
        features = made.tokens[:, 1:].float().mean(dim=1)
        return {"frame": frame, "utterance": frame.mean(dim=1), "features": features}


TARGETS["standardised"] = Standardised


class LastBlock(AveragedFeedForward):
    """The last block's feed-forward output instead of the average over all."""

    def outputs(self, encoded):
        return encoded.feed_forward[-1:]


TARGETS["last_block"] = LastBlock


class Utterances(AveragedFeedForward):
    """EAT's frame targets, and an utterance target that differs from clip to clip.

    The mean over patches of the last block's output, before any instance norm, standardised over the batch's clips.
    """

    def forward(self, encoder, filterbank):
        made = super().forward(encoder, filterbank)
        means = made["features"]  # (B, D)
        standard = (means - means.mean(dim=0)) * torch.rsqrt(means.var(dim=0, correction=0) + 1e-4)
        return {**made, "utterance": standard}


TARGETS["utterances"] = Utterances


class Spectrogram(nn.Module):
    """Plain reconstruction: fixed random projections of each patch of the filterbank, standardised over channels."""

    def __init__(self, settings):
        super().__init__()
        size = settings.patch_size
        generator = torch.Generator().manual_seed(1)
        matrix = torch.randn(size * size, settings.embed_dim, generator=generator) / size
        self.register_buffer("matrix", matrix, persistent=False)
        self.size = size

    def forward(self, encoder, filterbank):
        patches = F.unfold(filterbank.float(), self.size, stride=self.size).transpose(1, 2)
        projected = F.layer_norm(patches @ self.matrix.float(), self.matrix.shape[1:])
        return {"frame": projected, "utterance": projected.mean(dim=1)}


TARGETS["spectrogram"] = Spectrogram


class Anchored(AveragedFeedForward):
    """The spectrogram's projections at first, EAT's targets from update 300 on, in between a mean that moves over."""

    updates = 300

    def __init__(self, settings):
        super().__init__(settings)
        self.spectrogram = Spectrogram(settings)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long), persistent=False)

    def forward(self, encoder, filterbank):
        self.seen += self.training
        share = (self.seen / self.updates).clamp(max=1.0)
        made = super().forward(encoder, filterbank)
        frame = torch.lerp(self.spectrogram(encoder, filterbank)["frame"], made["frame"], share)
        return {**made, "frame": frame, "utterance": frame.mean(dim=1)}


TARGETS["anchored"] = Anchored


class WithSpectrogram(AveragedFeedForward):
    """EAT's targets plus the spectrogram's projections in equal parts: half of such a target cannot collapse."""

    def __init__(self, settings):
        super().__init__(settings)
        self.spectrogram = Spectrogram(settings)

    def forward(self, encoder, filterbank):
        made = super().forward(encoder, filterbank)
        frame = (made["frame"] + self.spectrogram(encoder, filterbank)["frame"]) / 2**0.5
        return {**made, "frame": frame, "utterance": frame.mean(dim=1)}


TARGETS["with_spectrogram"] = WithSpectrogram


def as_another_voice(filterbank, bins=6, tilt=0.3):
    """Each clip as if another throat and another microphone had made it; what is padding (0) stays.

    Its mel bins are moved by up to ``bins`` either way, what is beyond the edge repeated, and it is filtered: up to
    ``tilt`` standard deviations of each of three half waves over frequency, and of all of it.
    """
    clips, _, _, size = filterbank.shape
    device = filterbank.device
    shift = torch.randint(-bins, bins + 1, (clips, 1), device=device)
    source = (torch.arange(size, device=device) + shift).clamp(0, size - 1)[:, None, None]
    waves = torch.cos(torch.pi * torch.arange(4, device=device)[:, None] * torch.linspace(0, 1, size, device=device))
    gain = (torch.rand(clips, 4, device=device) * 2 - 1) * tilt @ waves  # (B, mel bins)
    heard = (filterbank != 0).any(dim=3, keepdim=True)
    moved = filterbank.gather(3, source.expand_as(filterbank)) + gain[:, None, None].to(filterbank.dtype)
    return torch.where(heard, moved, filterbank)


class AnotherVoice(AveragedFeedForward):
    """EAT's targets, of a teacher that hears each clip :func:`as_another_voice` while the student hears it as it is."""

    def forward(self, encoder, filterbank):
        return super().forward(encoder, as_another_voice(filterbank) if self.training else filterbank)


TARGETS["another_voice"] = AnotherVoice


def contrast(comparison):
    """Tell the clones of a clip from those of others by their CLS outputs (temperature 0.1)."""
    cls = F.normalize(comparison.cls[comparison.counts].float(), dim=-1)  # (B, M, D)
    clips, clones, _ = cls.shape
    flat = cls.flatten(0, 1)
    own = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    similar = (flat @ flat.T / 0.1).masked_fill(own, -torch.inf)
    same = torch.arange(clips, device=flat.device).repeat_interleave(clones)
    partners = (same[:, None] == same) & ~own
    chances = similar.log_softmax(dim=1).masked_fill(~partners, 0.0)
    return -(chances.sum(dim=1) / max(1, clones - 1)).mean()


TERMS["contrast"] = contrast


def audible(comparison):
    """The frame loss over patches that hold audio alone."""
    masked = comparison.masks.masked
    real = comparison.real.gather(1, masked.flatten(1)).flatten()
    error = F.mse_loss(comparison.predictions[real].float(), comparison.masked_targets[real])
    return error * comparison.masked_targets.shape[-1] ** 0.5


TERMS["audible"] = audible


def varied(settings, grid, keys, filterbank):
    """Masks that prefer to hide patches in which the filterbank varies; the rule is ours.

    A patch's chance of being among the visible ones falls with its standard deviation: random words times it order
    the patches, the first of them are kept.
    """
    mel = filterbank[:, 0].float().unflatten(2, (grid.frequency, -1)).unflatten(1, (grid.time, -1))
    std = mel.std(dim=(2, 4)).flatten(1)  # (B, N)
    drawn = words(keys, 2 * grid.patches)  # (B, M, 2 N)
    chance = (drawn[..., : grid.patches].double() + 2.0**31) / 2.0**32
    late = chance < (std / std.mean(dim=1, keepdim=True)).clamp(max=2.0)[:, None] / 2.0
    return keep(settings.kept(grid.patches), drawn[..., grid.patches :], ~late)


MASKINGS["varied"] = varied


class PreNorm(Block):
    """Norms before attention and feed-forward: r = x + Attention(LayerNorm1(x)), y = r + FeedForward(LayerNorm2(r))."""

    def forward(self, x, key_mask=None, rows=None):
        r = x[:, :rows] + self.drop_path(self.attn(self.norm1(x), key_mask, rows))
        f = self.mlp(self.norm2(r))
        return r + self.drop_path(f), f


BLOCKS["pre_norm"] = PreNorm


class Filled(Further):
    """Clips shorter than the filterbank are repeated until they fill it, so that nothing is padding."""

    name = "filled"

    def apply(self, batch, drawn):
        if not self.strength:
            return batch
        filterbank, frames = batch["filterbank"], batch["frames"]
        length = filterbank.shape[2]
        place = torch.arange(length, device=filterbank.device) % frames.to(filterbank.device).clamp(min=1)[:, None]
        filled = filterbank.gather(2, place[:, None, :, None].expand_as(filterbank))
        return {**batch, "filterbank": filled, "frames": torch.full_like(frames, length)}


AUGMENTATIONS["filled"] = Filled


def orthogonalised(matrices):
    """The nearest (semi-)orthogonal matrices, roughly: five Newton-Schulz steps of Muon's quintic, (..., m, n)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).float()


class MuonAndAdamW(torch.optim.AdamW):
    """Groups marked ``muon`` by Muon (momentum 0.95, Nesterov, steps as long as AdamW's), the others by AdamW."""

    @torch.no_grad()
    def step(self, closure=None):
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in (group for group in groups if group["muon"]):
            for p in (p for p in group["params"] if p.grad is not None):
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 0.05)
                ahead = p.grad.lerp(momentum, 0.95)
                pieces = ahead.view(-1, p.shape[1], p.shape[1]) if p.shape[0] == 3 * p.shape[1] else ahead[None]
                update = orthogonalised(pieces) * 0.2 * max(pieces.shape[-2:]) ** 0.5
                p.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update.view_as(p), alpha=group["lr"])
        return loss


@dataclass
class MuonConfig(EATAdamWConfig):
    """Those of AdamW, for what Muon does not train."""


@register_optimizer("muon", dataclass=MuonConfig)
class EATMuon(EATAdamW):
    """Muon for the matrices of Transformer blocks (queries, keys and values each), AdamW for everything else."""

    def __init__(self, cfg, params):
        super().__init__(cfg, params)
        groups = []
        for group in self._optimizer.param_groups:
            kinds = {False: [], True: []}
            for p in group["params"]:
                name = p.optim_overrides["parameter_name"]
                kinds["blocks." in name and name.endswith(".weight") and p.ndim == 2].append(p)
            own = {"lr_scale": group["lr_scale"], "weight_decay": group["weight_decay"]}
            groups += [{"params": some, "muon": muon, **own} for muon, some in kinds.items() if some]
        self._optimizer = MuonAndAdamW(groups, lr=self._lr, betas=tuple(cfg.betas), eps=cfg.eps)
        self.scales_in_step = False
