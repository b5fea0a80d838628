"""The encoder that student, teacher and classifier share (method section 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ConfigError
from .block import BLOCKS
from .patches import Grid, PatchEmbedding
from .positions import POSITIONS, TIME_PATCHES, Positions
from .settings import EncoderSettings, choose


def initialise_eat(encoder: nn.Module) -> None:
    """Weights of every Linear from N(0, 0.02), biases 0; all else as PyTorch or the modules themselves have it."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def initialise_bat(encoder: nn.Module) -> None:
    """Every Linear Xavier-uniform with biases 0, so that gates start half open; CLS N(0, 0.02), patches as PyTorch."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, PatchEmbedding):
            module.projection.reset_parameters()
        elif isinstance(module, Encoder):
            nn.init.normal_(module.cls_token, std=0.02)


INITIALISATIONS: dict[str, Callable[[nn.Module], None]] = {"eat": initialise_eat, "bat": initialise_bat}
"""The choices of ``model.initialisation``: functions that draw an encoder's weights, or a Transformer decoder's."""


def check_frames(
    frames: int, what: str, patch_size: int = 16, mel_bins: int = 128, longest: int = 16 * TIME_PATCHES
) -> Grid:
    """The patches of so many frames. Raises ConfigError unless they are a multiple of the patch size, within reach."""
    if frames < patch_size or frames % patch_size:
        near = dict.fromkeys(max(1, nearest(frames / patch_size)) * patch_size for nearest in (math.floor, math.ceil))
        raise ConfigError(
            f"{what} is {frames}; it must be a multiple of {patch_size} frames, such as {' or '.join(map(str, near))}."
        )
    if frames > longest:
        raise ConfigError(
            f"{what} is {frames} frames, but positions reach {longest} frames ({longest / 6000:.2g} minutes at 10 ms); "
            "use shorter clips or windows."
        )
    return Grid(frames // patch_size, mel_bins // patch_size)


class EncoderOutput(NamedTuple):
    """What the encoder computed. ``blocks`` and ``feed_forward`` are empty unless they were asked for."""

    tokens: Tensor
    """(B', 1 + patches, D): the last block's output, CLS first. B' is B, or B * M where patches were masked."""
    blocks: list[Tensor]
    """Each block's output, as ``tokens``; the first is the input to the first block."""
    feed_forward: list[Tensor]
    """Each block's feed-forward output before residual and norm, as ``tokens``."""


class Encoder(nn.Module):
    """Patches, positions, CLS, one LayerNorm, then ``depth`` post-norm Transformer blocks."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        dim, size = settings.embed_dim, settings.patch_size
        self.patches = PatchEmbedding(settings)
        table = Grid(settings.time_patches, settings.mel_bins // size)
        self.positions = Positions(choose(POSITIONS, settings.positions, "model.positions")(dim, table))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_())
        self.norm = nn.LayerNorm(dim, eps=settings.norm_eps)
        rates = torch.linspace(0, settings.drop_path, settings.depth, device="cpu").tolist()
        block = choose(BLOCKS, settings.block, "model.block")
        self.blocks = nn.ModuleList(block(settings, rate) for rate in rates)
        choose(INITIALISATIONS, settings.initialisation, "model.initialisation")(self)

    @property
    def max_frames(self) -> int:
        """The longest clip, in frames: what positions reach, or as many chunks as make two minutes."""
        return TIME_PATCHES * self.settings.patch_size

    @property
    def chunk_frames(self) -> int:
        """Frames that positions reach, so that they are encoded at once."""
        return self.settings.time_patches * self.settings.patch_size

    def grid(self, frames: int, what: str = "the filterbank's length") -> Grid:
        """The patches of a filterbank of so many frames.

        Raises:
            ConfigError: unless they are a positive multiple of the patch size that positions reach.
        """
        return check_frames(frames, what, self.settings.patch_size, self.settings.mel_bins, self.max_frames)

    def forward(
        self,
        filterbank: Tensor,
        visible: Tensor | None = None,
        key_mask: Tensor | None = None,
        *,
        collect: bool = False,
        depth: int | None = None,
        cls_only: bool = False,
    ) -> EncoderOutput:
        """Encode a batch of normalised filterbanks.

        Args:
            filterbank: (B, 1, frames, mel bins), frames a multiple of the patch size.
            visible: (B, M, K) indices of the patches that stay visible in each of a clip's M clones; None keeps all.
            key_mask: (B, 1 + N), True at CLS and at patches that hold audio; None attends everywhere.
            collect: keep every block's output and feed-forward output.
            depth: blocks that run; None runs all.
            cls_only: compute nothing of the last block but its CLS token, which spares most of that block's work.

        Returns:
            EncoderOutput with B * M sequences of 1 + K tokens (clones of a clip adjacent), or B of 1 + N; with
            ``cls_only`` the last block's have one token. A clip longer than positions reach is encoded chunk by
            chunk, each with the table's first rows and a CLS of its own; CLS is their plain mean.

        Raises:
            ConfigError: for masks on a clip longer than positions reach.
        """
        if filterbank.shape[2] > self.chunk_frames:
            if visible is not None:
                raise ConfigError(
                    f"{filterbank.shape[2]} frames are more than the {self.chunk_frames} that positions reach, and a "
                    "masked clip is encoded in one piece; lower task.target_length or raise model.time_patches."
                )
            return self._in_chunks(filterbank, key_mask, {"collect": collect, "depth": depth, "cls_only": cls_only})
        patches = self.positions(self.patches(filterbank, visible), visible)  # (B, N, D) or (B, M * K, D)
        if visible is not None:
            patches = patches.view(-1, visible.shape[-1], patches.shape[-1])
        cls = self.cls_token.expand(patches.shape[0], -1, -1)
        x = self.norm(torch.cat([cls, patches], dim=1))
        outputs, feed_forward = [x], []
        blocks = list(self.blocks)[:depth]
        for number, block in enumerate(blocks, 1):
            rows = 1 if cls_only and number == len(blocks) else None
            if self.settings.activation_checkpointing and self.training:
                x, f = checkpoint(block, x, key_mask, rows, use_reentrant=False)
            else:
                x, f = block(x, key_mask, rows)
            if collect:
                outputs.append(x)
                feed_forward.append(f)
        return EncoderOutput(x, outputs if collect else [], feed_forward)

    def _in_chunks(self, filterbank: Tensor, key_mask: Tensor | None, options: dict[str, Any]) -> EncoderOutput:
        """As :meth:`forward`, of a clip longer than positions reach."""
        size, steps = self.settings.patch_size, self.settings.mel_bins // self.settings.patch_size
        outputs, first = [], 1
        for chunk in filterbank.split(self.chunk_frames, dim=2):
            last = first + chunk.shape[2] // size * steps
            mask = None if key_mask is None else torch.cat([key_mask[:, :1], key_mask[:, first:last]], dim=1)
            outputs.append(self(chunk, key_mask=mask, **options))
            first = last
        tokens, blocks, feed_forward = zip(*outputs, strict=True)
        return EncoderOutput(
            _join(tokens), *([_join(layer) for layer in zip(*part, strict=True)] for part in (blocks, feed_forward))
        )


def _join(chunks: Sequence[Tensor]) -> Tensor:
    """Chunks of tokens, CLS first, as one sequence: the mean of their CLS, then all patches."""
    cls = torch.stack([chunk[:, :1] for chunk in chunks]).mean(dim=0)
    return torch.cat([cls, *(chunk[:, 1:] for chunk in chunks)], dim=1)
