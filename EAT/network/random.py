"""Random numbers that follow from (seed, epoch, clip, clone) alone, by hashing instead of by generators.

No generator state exists, so neither the number of DataLoader workers or devices, nor the order of clips, nor a resumed
run changes a number, and CPU and GPU draw the same 32-bit words. A *key* stands for (seed, epoch, clip, clone); a word
is a hash of a key and a counter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def _as_int32(value: int) -> int:
    """The signed 32-bit number with the same bits as ``value`` modulo 2^32."""
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)


_MULTIPLIER_1 = _as_int32(0x7FEB352D)
_MULTIPLIER_2 = _as_int32(0x846CA68B)
_STRIDE = _as_int32(0x9E3779B9)
_NOISE = _as_int32(0xA511E9B3)
"""Sets the keys of noise apart from those of masks."""
_VIEW = _as_int32(0xC2B2AE35)
"""Sets the keys of a clip's second view apart from those of the clip."""


def scramble(x: Tensor) -> Tensor:
    """A bijection of 32-bit words whose every output bit depends on every input bit (Wellons' lowbias32)."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x.mul_(_MULTIPLIER_1)
    x ^= (x >> 15) & 0x1FFFF
    x *= _MULTIPLIER_2
    return x.bitwise_xor_((x >> 16) & 0xFFFF)


def clone_keys(seed: int, epoch: int, clips: Tensor, clones: int) -> Tensor:
    """One key for each clone of each clip.

    Args:
        seed: of the run.
        epoch: of the run.
        clips: (B,) int64, a number that identifies each clip, such as its line in the manifest.
        clones: M.

    Returns:
        (B, M) int32, on the device of ``clips``.
    """
    key = torch.full_like(clips, _as_int32(seed), dtype=torch.int32)
    clone = torch.arange(clones, dtype=torch.int32, device=clips.device)
    for word in (torch.full_like(key, _as_int32(epoch)), clips.to(torch.int32), (clips >> 32).to(torch.int32)):
        key = scramble(key * _STRIDE + word + 1)
    return scramble(key.unsqueeze(1) * _STRIDE + clone + 1)


def second_view(keys: Tensor) -> Tensor:
    """Keys for a second view of the same clones, such as a mixture: (...) int32 to (...) int32."""
    return scramble(keys ^ _VIEW)


def batch_key(seed: int, epoch: int, clips: Tensor) -> Tensor:
    """One key for a whole batch: it follows from (seed, epoch) and the clips in their order.

    Args:
        seed: of the run.
        epoch: of the run.
        clips: (B,) int64, the clips' numbers.

    Returns:
        () int32, on the device of ``clips``.
    """
    place = torch.arange(1, len(clips) + 1, dtype=torch.int32, device=clips.device) * _STRIDE
    return scramble(scramble(clone_keys(seed, epoch, clips, 1)[:, 0] + place).sum(dtype=torch.int32))


def below(drawn: Tensor, count: Tensor | int) -> Tensor:
    """Whole numbers below ``count``, all as likely, from words: (...) int32 to (...) int64."""
    return ((drawn.long() & 0xFFFFFFFF) * count) >> 32


def words(keys: Tensor, count: int) -> Tensor:
    """``count`` words of each key: (...) int32 to (..., count) int32."""
    counter = torch.arange(1, count + 1, dtype=torch.int32, device=keys.device)
    return scramble(keys.unsqueeze(-1) + counter * _STRIDE)


def normals(keys: Tensor, count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers by the Box-Muller transform, two from each word.

    The upper half of a word gives the radius, the lower half the angle: 2^32 pairs in all, none beyond 4.9.

    Args:
        keys: (S,) int32.
        count: numbers of each key.
        dtype: of the result; computed in float32.

    Returns:
        (S, count).
    """
    drawn = words(scramble(keys ^ _NOISE), (count + 1) // 2)
    radius = ((drawn >> 16) & 0xFFFF).float().add_(0.5).mul_(2.0**-16).log_().mul_(-2.0).sqrt_()
    angle = (drawn & 0xFFFF).float().mul_(2.0 * math.pi * 2.0**-16)
    pairs = torch.cat([radius * angle.cos(), radius.mul_(angle.sin_())], dim=-1)
    return pairs[..., :count].to(dtype)
