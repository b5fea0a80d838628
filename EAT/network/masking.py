"""Which patches of a clip the student sees (method section 3), for a whole batch at once.

A choice of :data:`MASKINGS` is a function ``(settings, grid, keys, filterbank) -> Masks``. Its random numbers come from
the keys, one for each clone (:mod:`EAT.network.random`); the filterbank is for maskings that look at the signal. Those
that do not give that argument a default, and are drawn where batches are made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .patches import Grid
from .random import below, clone_keys, words
from .settings import MaskSettings, PretrainingSettings, choose


class Masks(NamedTuple):
    """Indices of every clone's patches; both in increasing order along the last axis, int64."""

    visible: Tensor
    """(B, M, K)"""
    masked: Tensor
    """(B, M, N - K)"""


def inverse_block(settings: MaskSettings, grid: Grid, keys: Tensor, filterbank: Tensor | None = None) -> Masks:
    """Inverse block masking: keep a fraction of 1 - mask_prob in square blocks, mask the rest.

    1. floor(N ((1 - mask_prob) + adjust) / length^2) block centres, uniform, with replacement: none on a short clip,
       which makes this random masking;
    2. each keeps its length x length neighbourhood, cut off at the grid's edges;
    3. exactly floor(N (1 - mask_prob)) patches are kept: surplus ones dropped at random, missing ones added at random.

    Args:
        settings: fractions and block length.
        grid: T x F patches.
        keys: (B, M) int32.
        filterbank: not looked at.

    Returns:
        Masks on the device of ``keys``.

    Raises:
        ConfigError: where the fraction leaves no patch visible, or none masked.
    """
    patches = grid.patches
    blocks = settings.blocks(patches)
    drawn = words(keys, patches + blocks)  # (B, M, N + n)
    in_block = _block_map(below(drawn[..., patches:], patches), grid, settings.mask_length).flatten(2)
    return keep(settings.kept(patches), drawn[..., :patches], in_block)


def random_patches(settings: MaskSettings, grid: Grid, keys: Tensor, filterbank: Tensor | None = None) -> Masks:
    """Random masking: every patch is as likely to be kept as any other, floor(N (1 - mask_prob)) of them."""
    return keep(settings.kept(grid.patches), words(keys, grid.patches))


MASKINGS: dict[str, Callable[[MaskSettings, Grid, Tensor, Tensor | None], Masks]] = {
    "inverse_block": inverse_block,
    "random": random_patches,
}
"""The choices of ``model.masking``."""


class Drawing(NamedTuple):
    """Draws masks from clips' numbers alone, wherever batches are made; all clips have one length."""

    settings: PretrainingSettings
    grid: Grid

    def __call__(self, clips: Tensor, *, seed: int, epoch: int) -> tuple[Tensor, Masks]:
        """Keys (B, M) int32 and masks of clips with the numbers ``clips``, (B,) int64, on their device."""
        keys = clone_keys(seed, epoch, clips, self.settings.clone_batch)
        return keys, choose(MASKINGS, self.settings.masking, "model.masking")(self.settings, self.grid, keys, None)


def looks_at_signal(masking: Callable[..., Masks]) -> bool:
    """Whether a choice needs the filterbank: one that does not gives that argument a default."""
    return list(inspect.signature(masking).parameters.values())[-1].default is inspect.Parameter.empty


def keep(count: int, order: Tensor, first: Tensor | None = None) -> Masks:
    """Masks that keep ``count`` patches in random order, those of ``first`` before all others.

    Args:
        count: patches that stay visible.
        order: (B, M, N) random int32 words.
        first: (B, M, N) True at patches that are kept as long as there is room; None knows none.
    """
    patches = order.shape[-1]
    # The index in the low bits makes ranks unique, so that the count is exact and every device breaks ties alike.
    index_bits = (patches - 1).bit_length()
    rank = (order >> 2) & (0x3FFFFFFF >> index_bits << index_bits)
    rank = rank | torch.arange(patches, dtype=torch.int32, device=order.device)
    if first is not None:
        rank = rank | ((~first).to(torch.int32) << 30)
    ranked = _sort(rank) & ((1 << index_bits) - 1)
    return Masks(_sort(ranked[..., :count]).long(), _sort(ranked[..., count:]).long())


def _block_map(centres: Tensor, grid: Grid, length: int) -> Tensor:
    """True within ``length // 2`` patches of a centre in both directions: (B, M, n) to (B, M, T, F)."""

    def near(index: Tensor, size: int) -> Tensor:  # (B, M, n, size)
        return (torch.arange(size, device=index.device) - index.unsqueeze(-1)).abs() <= length // 2

    rows = near(centres // grid.frequency, grid.time).float()
    columns = near(centres % grid.frequency, grid.frequency).float()
    return torch.matmul(rows.transpose(-1, -2), columns) > 0


def _sort(x: Tensor) -> Tensor:
    """Sort the last axis. On the CPU through NumPy, whose vectorised sort of short int32 rows is 30 times faster."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.sort(x.numpy(), axis=-1))
    return x.sort(dim=-1).values


def mask_map(masks: Masks) -> Tensor:
    """The masks as (B, M, N) bool, True at masked patches."""
    shape = (*masks.masked.shape[:-1], masks.visible.shape[-1] + masks.masked.shape[-1])
    return torch.zeros(shape, dtype=torch.bool, device=masks.masked.device).scatter_(-1, masks.masked, True)


def masks_from_map(is_masked: Tensor) -> Masks:
    """The inverse of :func:`mask_map`: (B, M, N) bool, the same number of masked patches in every row."""
    masked = int(is_masked[0, 0].sum())
    order = is_masked.to(torch.uint8).argsort(dim=-1, stable=True)
    kept = is_masked.shape[-1] - masked
    return Masks(order[..., :kept], order[..., kept:])
