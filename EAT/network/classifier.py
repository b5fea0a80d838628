"""The classifier: encoder, pooling, LayerNorm, Linear (method section 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .acceleration import accelerate
from .encoder import Encoder, EncoderOutput
from .heads import HEADS
from .settings import STEPS, ClassifierSettings, choose

LINEAR = "linear"
"""The head on the last block's output alone."""


class Classifier(nn.Module):
    """An encoder with a head: LayerNorm and Linear, or one of :data:`EAT.network.heads.HEADS`.

    Logits are for a sigmoid (multi-label) or a softmax (single-label), as the loss has it.
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        assert settings.num_classes is not None
        self.settings = settings
        self.encoder = Encoder(settings)
        self.head: nn.Module
        if settings.head == LINEAR:
            self.norm = nn.LayerNorm(settings.embed_dim, eps=settings.head_norm_eps)
            self.head = nn.Linear(settings.embed_dim, settings.num_classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        else:
            kinds: dict[str, type[nn.Module]] = {LINEAR: nn.Linear, **HEADS}
            self.head = choose(kinds, settings.head, "model.head")(settings)
        accelerate(self)

    def forward(self, filterbank: Tensor, key_mask: Tensor | None = None, steps: bool = False) -> Tensor:
        """Classify normalised filterbanks.

        Args:
            filterbank: (B, 1, frames, mel bins), frames a multiple of the patch size.
            key_mask: (B, 1 + N), True at CLS and at patches that hold audio; None means all.
            steps: classify every time step, as :meth:`frames`.

        Returns:
            (B, classes) logits, or (B, T, classes).
        """
        if steps:
            return self.frames(filterbank)
        filterbank = filterbank.to(self.encoder.cls_token.dtype)
        if self.settings.head == LINEAR and self.settings.pooling == "cls":
            return self.classify(self.encoder(filterbank, key_mask=key_mask, cls_only=True).tokens)
        return self.tokens_and_logits(filterbank, key_mask)[1]

    def tokens_and_logits(self, filterbank: Tensor, key_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The encoder's output (B, 1 + N, D), and logits; arguments as for :meth:`forward`."""
        linear = self.settings.head == LINEAR
        output = self.encoder(filterbank, key_mask=key_mask, collect=not linear)
        if self.settings.pooling == STEPS:
            return output.tokens, self.loudest(self.classify_steps(output, filterbank.shape[2]), key_mask)
        if linear:
            return output.tokens, self.classify(output.tokens, key_mask)
        return output.tokens, self.head(output.blocks[1:], None if key_mask is None else key_mask[:, 1:])

    def classify(self, tokens: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """The linear head alone: the encoder's output (B, 1 + N, D), for ``cls`` (B, 1, D) too, to (B, classes) logits.

        Pooling (``steps`` aside) is ``cls``: the CLS token; ``mean``: the patches' mean; or ``linear_softmax``: every
        patch is classified, and a class's probability is sum(p^2) / sum(p) over the patches (arXiv 1810.09050).
        """
        if self.settings.pooling == "cls":
            return self.head(self.dropped(tokens[:, 0]))
        patches = tokens[:, 1:]
        real = torch.ones_like(patches[..., :1]) if key_mask is None else key_mask[:, 1:, None].to(patches.dtype)
        if self.settings.pooling == "mean":
            return self.head(self.dropped((patches * real).sum(dim=1) / real.sum(dim=1)))
        probabilities = self.head(self.dropped(patches)).float().sigmoid() * real  # (B, N, classes)
        pooled = probabilities.square().sum(dim=1) / probabilities.sum(dim=1).clamp(min=1e-7)
        return torch.logit(pooled, eps=1e-6)

    def dropped(self, features: Tensor) -> Tensor:
        """What enters the linear head's Linear: (..., D) after LayerNorm and dropout."""
        return F.dropout(self.norm(features), self.settings.head_dropout, self.training)

    def frames(self, filterbank: Tensor) -> Tensor:
        """Logits of every time step of 16 frames, (B, 1, frames, mel bins) to (B, T, classes).

        With the linear head, from the mean of the patches of a time step.
        """
        filterbank = filterbank.to(self.encoder.cls_token.dtype)
        output = self.encoder(filterbank, collect=self.settings.head != LINEAR)
        return self.classify_steps(output, filterbank.shape[2])

    def classify_steps(self, output: EncoderOutput, frames: int) -> Tensor:
        """The head alone, from the encoder's output for so many frames to (B, T, classes)."""
        steps = frames // self.settings.patch_size
        if self.settings.head == LINEAR:
            return self.head(self.dropped(output.tokens[:, 1:].unflatten(1, (steps, -1)).mean(dim=2)))
        return self.head.frames(output.blocks[1:], steps)  # type: ignore[operator]

    @staticmethod
    def loudest(logits: Tensor, key_mask: Tensor | None) -> Tensor:
        """Each class's greatest logit over the time steps that hold audio: (B, T, classes) to (B, classes)."""
        if key_mask is not None:
            real = key_mask[:, 1:].unflatten(1, (logits.shape[1], -1)).any(dim=2, keepdim=True)
            logits = logits.masked_fill(~real, -torch.inf)
        return logits.amax(dim=1)
