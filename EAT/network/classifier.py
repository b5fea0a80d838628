"""The classifier: encoder, pooling, LayerNorm, Linear (method section 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .acceleration import accelerate
from .encoder import Encoder
from .settings import ClassifierSettings


class Classifier(nn.Module):
    """An encoder with a head. Logits for a sigmoid (multi-label) or a softmax (single-label), as the loss has it."""

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        assert settings.num_classes is not None
        self.settings = settings
        self.encoder = Encoder(settings)
        self.norm = nn.LayerNorm(settings.embed_dim, eps=settings.head_norm_eps)
        self.head = nn.Linear(settings.embed_dim, settings.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        accelerate(self)

    def forward(self, filterbank: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Classify normalised filterbanks.

        Args:
            filterbank: (B, 1, frames, mel bins), frames a multiple of the patch size.
            key_mask: (B, 1 + N), True at CLS and at patches that hold audio; None means all.

        Returns:
            (B, classes) logits.
        """
        filterbank = filterbank.to(self.encoder.cls_token.dtype)
        tokens = self.encoder(filterbank, key_mask=key_mask, cls_only=self.settings.pooling == "cls").tokens
        return self.classify(tokens, key_mask)

    def classify(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The head alone: the encoder's output (B, 1 + N, D), for ``cls`` (B, 1, D) too, to (B, classes) logits.

        Pooling is ``cls``: the CLS token; ``mean``: the patches' mean; or ``linear_softmax``: every patch is
        classified, and a class's probability is sum(p^2) / sum(p) over the patches (arXiv 1810.09050).
        """
        if self.settings.pooling == "cls":
            return self.head(self.norm(tokens[:, 0]))
        patches = tokens[:, 1:]
        real = torch.ones_like(patches[..., :1]) if key_mask is None else key_mask[:, 1:, None].to(patches.dtype)
        if self.settings.pooling == "mean":
            return self.head(self.norm((patches * real).sum(dim=1) / real.sum(dim=1)))
        probabilities = self.head(self.norm(patches)).float().sigmoid() * real  # (B, N, classes)
        pooled = probabilities.square().sum(dim=1) / probabilities.sum(dim=1).clamp(min=1e-7)
        return torch.logit(pooled, eps=1e-6)
