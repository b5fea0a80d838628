"""Decoders: from the student's visible patches to predictions at the masked ones (method section 4).

A choice of :data:`DECODERS` is built from :class:`PretrainingSettings` and called as ``(tokens, masks, keys, grid) ->
predictions``. It makes its own input, what stands at masked patches included.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from .block import BLOCKS
from .encoder import INITIALISATIONS
from .masking import Masks
from .patches import Grid
from .positions import POSITIONS
from .random import normals
from .rows import put_rows, take_rows
from .settings import EncoderSettings, PretrainingSettings, choose


class DecoderBlock(nn.Module):
    """Grouped convolution, LayerNorm over channels without affine, GELU; a residual where widths agree."""

    def __init__(self, width_in: int, width_out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.residual = width_in == width_out
        self.conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, F) to (B, C_out, T, F)."""
        y = self.conv(x).permute(0, 2, 3, 1)
        y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=1e-5)).permute(0, 3, 1, 2)
        return x + y if self.residual else y


class ConvDecoder(nn.Module):
    """Convolutions over the map of patches. Mask tokens are noise, N(0, decoder_noise^2); no positions are added."""

    def __init__(self, settings: PretrainingSettings) -> None:
        super().__init__()
        self.noise = settings.decoder_noise
        widths = [settings.embed_dim] + [settings.decoder_width] * settings.decoder_layers
        self.blocks = nn.Sequential(
            *(
                DecoderBlock(before, after, settings.decoder_kernel, settings.decoder_groups)
                for before, after in itertools.pairwise(widths)
            )
        )
        self.projection = nn.Linear(settings.decoder_width, settings.embed_dim)

    def forward(self, tokens: Tensor, masks: Masks, keys: Tensor, grid: Grid) -> Tensor:
        """Predict the masked patches of every clone.

        Args:
            tokens: (B * M, K, D) the student's output at visible patches, without CLS.
            masks: which patches those are, and which are masked.
            keys: (B, M) int32, from which the noise follows.
            grid: T x F patches.

        Returns:
            (B * M, N - K, D), in the order of ``masks.masked``. Only these rows go through the last projection.
        """
        visible, masked = masks.visible.flatten(0, 1), masks.masked.flatten(0, 1)
        x = self.mask_tokens(tokens, keys.flatten(), grid.patches)
        x = put_rows(x, visible, tokens).unflatten(1, grid).permute(0, 3, 1, 2)  # (B * M, D, T, F)
        x = self.blocks(x).permute(0, 2, 3, 1).flatten(1, 2)  # (B * M, N, C)
        return self.projection(take_rows(x, masked))

    def mask_tokens(self, tokens: Tensor, keys: Tensor, patches: int) -> Tensor:
        """Noise for every patch of every sequence, (S, N, D), like ``tokens`` (S, K, D)."""
        sequences, _, dim = tokens.shape
        if self.noise == 0.0:
            return tokens.new_zeros(sequences, patches, dim)
        return normals(keys, patches * dim).mul_(self.noise).to(tokens.dtype).view(sequences, patches, dim)


class TransformerDecoder(nn.Module):
    """BAT's: a learned mask token at masked patches, trained positions at all, and Transformer blocks over all of them.

    Full attention over B * M sequences of N patches makes a pre-training step cost 3.3 times EAT's.
    """

    def __init__(self, settings: PretrainingSettings) -> None:
        super().__init__()
        self.settings = settings
        width, dim = settings.decoder_width, settings.embed_dim
        blocks = EncoderSettings(
            embed_dim=width, depth=settings.decoder_layers, num_heads=settings.decoder_heads,
            mlp_ratio=settings.decoder_mlp_ratio, norm_eps=settings.norm_eps, attention=settings.attention,
            block=settings.block,
        )  # fmt: skip
        table = Grid(settings.time_patches, settings.mel_bins // settings.patch_size)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.positions = nn.Parameter(choose(POSITIONS, settings.positions, "model.positions")(width, table))
        self.input = nn.Identity() if width == dim else nn.Linear(dim, width, bias=False)
        block = choose(BLOCKS, settings.block, "model.block")
        self.blocks = nn.ModuleList(block(blocks) for _ in range(settings.decoder_layers))
        self.projection = nn.Linear(width, dim, bias=False)
        choose(INITIALISATIONS, settings.initialisation, "model.initialisation")(self)

    def forward(self, tokens: Tensor, masks: Masks, keys: Tensor, grid: Grid) -> Tensor:
        """As :meth:`ConvDecoder.forward`; no noise is drawn.

        Raises:
            ConfigError: for more patches than there are positions.
        """
        if grid.patches > self.positions.shape[1]:
            raise ConfigError(
                f"{grid.patches} patches are more than the decoder's {self.positions.shape[1]} positions; lower "
                "task.target_length or raise model.time_patches."
            )
        tokens = self.input(tokens)
        x = self.mask_token.to(tokens.dtype).repeat(len(tokens), grid.patches, 1)
        x = put_rows(x, masks.visible.flatten(0, 1), tokens) + self.positions[:, : grid.patches].to(tokens.dtype)
        for block in self.blocks:
            if self.settings.activation_checkpointing and self.training:
                x, _ = checkpoint(block, x, use_reentrant=False)
            else:
                x, _ = block(x)
        return self.projection(take_rows(x, masks.masked.flatten(0, 1)))


DECODERS: dict[str, type[nn.Module]] = {"convolution": ConvDecoder, "transformer": TransformerDecoder}
"""The choices of ``model.decoder``."""
