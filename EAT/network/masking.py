"""Inverse block masking (method section 3), for a whole batch at once.

A mask follows from (seed, epoch, clip, clone) alone: its random numbers are a hash of those four and a counter.
No generator state exists, so neither the number of workers or devices, nor the order of clips, nor a resumed run
changes a mask, and CPU and GPU draw the same ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .settings import FREQUENCY_PATCHES, MaskConfig


class Masks(NamedTuple):
    """Places of every clone's patches; both in increasing order along the last axis, int64."""

    visible: Tensor
    """(B, M, K)"""
    masked: Tensor
    """(B, M, N - K)"""


def _as_int32(value: int) -> int:
    """The signed 32-bit number with the same bits as ``value`` modulo 2^32."""
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)


_MULTIPLIER_1 = _as_int32(0x7FEB352D)
_MULTIPLIER_2 = _as_int32(0x846CA68B)
_STRIDE = _as_int32(0x9E3779B9)


def _scramble(x: Tensor) -> Tensor:
    """A bijection of 32-bit words whose every output bit depends on every input bit (Wellons' lowbias32)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * _MULTIPLIER_1
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * _MULTIPLIER_2
    return x ^ ((x >> 16) & 0xFFFF)


def _mask_keys(seed: int, epoch: int, clips: Tensor, clones: int) -> Tensor:
    """One 32-bit key per mask, (B, M)."""
    key = torch.full_like(clips, _as_int32(seed), dtype=torch.int32)
    clone = torch.arange(clones, dtype=torch.int32, device=clips.device)
    for word in (torch.full_like(key, _as_int32(epoch)), clips.to(torch.int32), (clips >> 32).to(torch.int32)):
        key = _scramble(key * _STRIDE + word + 1)
    return _scramble(key.unsqueeze(1) * _STRIDE + clone + 1)


def _block_map(centres: Tensor, time_patches: int, length: int) -> Tensor:
    """True within ``length // 2`` patches of a centre in both directions: (B, M, n) to (B, M, T, F)."""
    reach = length // 2

    def near(index: Tensor, size: int) -> Tensor:  # (B, M, n, size)
        return (torch.arange(size, device=index.device) - index.unsqueeze(-1)).abs() <= reach

    time, frequency = centres // FREQUENCY_PATCHES, centres % FREQUENCY_PATCHES
    rows, columns = near(time, time_patches).float(), near(frequency, FREQUENCY_PATCHES).float()
    return torch.matmul(rows.transpose(-1, -2), columns) > 0


def inverse_block_masks(
    config: MaskConfig, time_patches: int, clips: Tensor, clones: int, *, seed: int, epoch: int
) -> Masks:
    """Draw the masks of a batch.

    1. floor(N ((1 - mask_prob) + adjust) / length^2) block centres, uniform, with replacement;
    2. each keeps its length x length neighbourhood, cut off at the grid's edges;
    3. exactly floor(N (1 - mask_prob)) patches are kept: surplus ones dropped at random, missing ones added at random.

    Args:
        config: shares and block length.
        time_patches: T; the grid is T x 8.
        clips: (B,) int64, a number that identifies each clip, such as its line in the manifest.
        clones: masks per clip (M).
        seed: of the run.
        epoch: of the run.

    Returns:
        Masks on the device of ``clips``.

    Raises:
        ConfigError: where the share leaves no patch visible, or none masked.
    """
    patches = time_patches * FREQUENCY_PATCHES
    kept = config.kept(patches)
    blocks = config.blocks(patches)

    counter = torch.arange(1, patches + blocks + 1, dtype=torch.int32, device=clips.device)
    words = _scramble(_mask_keys(seed, epoch, clips, clones).unsqueeze(-1) + counter * _STRIDE)  # (B, M, N + n)

    # Rank patches: those in blocks first, each group in random order; the index in the low bits makes ranks unique,
    # so that the count is exact and every device breaks ties alike.
    index_bits = (patches - 1).bit_length()
    order = (words[..., :patches] >> 2) & (0x3FFFFFFF >> index_bits << index_bits)
    order = order | torch.arange(patches, dtype=torch.int32, device=clips.device)
    if blocks:
        drawn = words[..., patches:].long() & 0xFFFFFFFF
        in_block = _block_map((drawn * patches) >> 32, time_patches, config.mask_length).flatten(2)
        order = order | ((~in_block).to(torch.int32) << 30)
    ranked = _sort(order) & ((1 << index_bits) - 1)
    return Masks(_sort(ranked[..., :kept]).long(), _sort(ranked[..., kept:]).long())


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
