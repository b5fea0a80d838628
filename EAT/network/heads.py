"""Heads that look at every layer: from the outputs of all blocks to class logits (docs/bat.md, section 9).

A choice of :data:`HEADS` is a module built from :class:`ClassifierSettings` and called as ``(blocks, heard) ->
logits``: L block outputs (B, 1 + N, D), CLS first, and (B, N) which patches count, None for all. Its parameter
``layers``, (L,), holds the logits of the layers' weights. The plain head on the last block alone, ``linear``, is in
:mod:`EAT.network.classifier`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .settings import ClassifierSettings


def time_steps(patches: Tensor, steps: int) -> Tensor:
    """Patches by time and frequency: (B, N, D) to (B, T, F, D)."""
    return patches.unflatten(1, (steps, -1))


class ConvexGated(nn.Module):
    """CGP, the convex gated probe: how near a clip comes to each of K prototypes, and how far from it it goes.

    Patches and CLS of every layer, each of length 1, are mixed by the layers' softmax. A prototype's features are the
    least cosine over the patches' mixes, the cosine of CLS's (with pooling ``mean``, the mean one), and the greatest.
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        if settings.pooling == "linear_softmax":
            raise ConfigError("model.head=cgp pools by 'cls', 'mean' or 'steps'; set model.pooling to one of them.")
        self.pooling, self.dropout = settings.pooling, settings.head_dropout
        self.prototypes = nn.Parameter(torch.empty(settings.head_prototypes, settings.embed_dim).normal_(std=0.02))
        self.layers = nn.Parameter(torch.ones(settings.depth))
        self.fc = nn.Linear(3 * settings.head_prototypes, settings.num_classes or 0)

    def forward(self, blocks: Sequence[Tensor], heard: Tensor | None = None) -> Tensor:
        """L times (B, 1 + N, D), and (B, N), to (B, classes)."""
        tokens = self.mixed(blocks)
        near = tokens[:, 1:] @ self.directions().t()  # (B, N, K)
        least, middle, most = near, near, near
        if heard is not None:
            hidden = ~heard[..., None]
            least, most = near.masked_fill(hidden, torch.inf), near.masked_fill(hidden, -torch.inf)
            middle = near.masked_fill(hidden, 0.0)
        if self.pooling == "cls":
            centre = tokens[:, 0] @ self.directions().t()
        else:
            centre = middle.sum(dim=1) / (near.shape[1] if heard is None else heard.sum(dim=1, keepdim=True))
        return self.classify(least.amin(dim=1), centre, most.amax(dim=1))

    def frames(self, blocks: Sequence[Tensor], steps: int) -> Tensor:
        """Logits of every time step, from least, mean and greatest cosine over its patches: (B, T, classes)."""
        near = time_steps(self.mixed(blocks)[:, 1:] @ self.directions().t(), steps)  # (B, T, F, K)
        return self.classify(near.amin(dim=2), near.mean(dim=2), near.amax(dim=2))

    def mixed(self, blocks: Sequence[Tensor]) -> Tensor:
        """The layers' convex mix of tokens of length 1, (B, 1 + N, D); not of length 1 itself."""
        weights = self.layers.softmax(dim=0)
        return sum(  # type: ignore[return-value]
            weight * F.normalize(tokens, dim=-1, eps=1e-12).to(weights.dtype)
            for weight, tokens in zip(weights, blocks, strict=True)
        )

    def directions(self) -> Tensor:
        """Prototypes of length 1, (K, D)."""
        return F.normalize(self.prototypes, dim=-1, eps=1e-12)

    def classify(self, *features: Tensor) -> Tensor:
        """Three features of each prototype, (..., K) each, to (..., classes)."""
        joined = torch.stack(features, dim=-1).flatten(-2)  # prototype by prototype
        return self.fc(F.dropout(joined, self.dropout, self.training))


class LayerMix(nn.Module):
    """LCGP, linear on a learned mix of layers: the softmax mix of CLS (or of the patches' means), LayerNorm, Linear."""

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        if settings.pooling == "linear_softmax":
            raise ConfigError("model.head=lcgp pools by 'cls', 'mean' or 'steps'; set model.pooling to one of them.")
        self.pooling, self.dropout = settings.pooling, settings.head_dropout
        self.layers = nn.Parameter(torch.zeros(settings.depth))
        self.norm = nn.LayerNorm(settings.embed_dim, eps=settings.head_norm_eps)
        self.fc = nn.Linear(settings.embed_dim, settings.num_classes or 0)

    def forward(self, blocks: Sequence[Tensor], heard: Tensor | None = None) -> Tensor:
        """L times (B, 1 + N, D), and (B, N), to (B, classes)."""
        if self.pooling == "cls":
            return self.classify([tokens[:, 0] for tokens in blocks])
        weight = torch.ones_like(blocks[0][:, 1:, 0]) if heard is None else heard.to(blocks[0].dtype)
        fractions = (weight / weight.sum(dim=1, keepdim=True)).unsqueeze(1)  # (B, 1, N)
        return self.classify([(fractions @ tokens[:, 1:]).squeeze(1) for tokens in blocks])

    def frames(self, blocks: Sequence[Tensor], steps: int) -> Tensor:
        """Logits of every time step, from the mean over its patches: (B, T, classes)."""
        return self.classify([time_steps(tokens[:, 1:], steps).mean(dim=2) for tokens in blocks])

    def classify(self, features: Sequence[Tensor]) -> Tensor:
        """Features of each layer, (..., D) each, to (..., classes)."""
        mixed = torch.einsum(
            "l,l...d->...d", self.layers.softmax(dim=0), torch.stack(list(features)).to(self.layers.dtype)
        )
        return self.fc(F.dropout(self.norm(mixed), self.dropout, self.training))


class Attentive(nn.Module):
    """One learned query that looks at every patch of every layer with several heads; LayerNorm and Linear follow.

    Tokens are layer-normalised, so that no layer is louder, and each layer's logit in ``layers`` is added to the
    attention's. The query's own projection is part of the query.
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        dim, self.num_heads, self.dropout = settings.embed_dim, settings.num_heads, settings.head_dropout
        self.query = nn.Parameter(torch.empty(dim).normal_(std=0.02))
        self.layers = nn.Parameter(torch.zeros(settings.depth))
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=settings.head_norm_eps)
        self.fc = nn.Linear(dim, settings.num_classes or 0)

    def forward(self, blocks: Sequence[Tensor], heard: Tensor | None = None) -> Tensor:
        """L times (B, 1 + N, D), and (B, N), to (B, classes)."""
        return self.classify([tokens[:, 1:] for tokens in blocks], heard)

    def frames(self, blocks: Sequence[Tensor], steps: int) -> Tensor:
        """Logits of every time step, whose own patches alone the query looks at: (B, T, classes)."""
        logits = self.classify([time_steps(tokens[:, 1:], steps).flatten(0, 1) for tokens in blocks], None)
        return logits.unflatten(0, (-1, steps))

    def classify(self, patches: Sequence[Tensor], heard: Tensor | None) -> Tensor:
        """Patches of each layer, (B, N, D) each, to (B, classes)."""
        clips, count, dim = patches[0].shape
        tokens = torch.cat([F.layer_norm(layer, (dim,)) for layer in patches], dim=1).to(self.query.dtype)
        key, value = self.kv(tokens).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query = self.query.view(self.num_heads, 1, -1).expand(clips, -1, -1, -1)
        bias = self.layers.repeat_interleave(count).expand(clips, -1)  # (B, L N)
        if heard is not None:
            bias = bias.masked_fill(~heard.repeat(1, len(patches)), -torch.inf)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[:, None, None].to(query.dtype))
        return self.fc(F.dropout(self.norm(self.proj(found.flatten(1))), self.dropout, self.training))


HEADS: dict[str, type[nn.Module]] = {"cgp": ConvexGated, "lcgp": LayerMix, "attentive": Attentive}
"""The choices of ``model.head`` beside ``linear``."""
