"""What the decoder starts from at masked patches: Gaussian noise that follows from (seed, epoch, clip) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

_PIECE = 1 << 16
"""Numbers drawn at once on a CPU: as many float32 ones as stay in the cache, a third faster than bfloat16 ones."""


@torch.inference_mode(False)  # threads do not inherit that mode, and would not be allowed to fill its tensors
def clip_noise(
    clips: Sequence[int], rows: int, dim: int, std: float, dtype: torch.dtype, device: torch.device, *, seed: int,
    epoch: int,
) -> Tensor:  # fmt: skip
    """Noise for every clip from a generator of its own.

    Like the masks, a clip's noise is the same in a resumed run, and however clips are put in batches or spread over
    devices of a kind. On a CPU, where one generator keeps one thread busy, clips are drawn by all of torch's threads.

    Args:
        clips: B numbers that identify the clips.
        rows: of one clip.
        dim: numbers in a row.
        std: its standard deviation; 0 gives zeros.
        dtype: of the result.
        device: of the result.
        seed: of the run.
        epoch: of the run.

    Returns:
        (B * rows, dim), clip after clip; not a view, so that autograd lets it be written to without copies.
    """
    if std == 0.0:
        return torch.zeros(len(clips) * rows, dim, dtype=dtype, device=device)
    noise = torch.empty(len(clips) * rows, dim, dtype=dtype, device=device)

    def draw(part: Tensor, clip: int) -> None:
        digest = hashlib.blake2b(repr((seed, epoch, clip)).encode(), digest_size=8).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
        if device.type != "cpu":
            part.normal_(std=std, generator=generator)
            return
        for piece in part.flatten().split(_PIECE):
            piece.copy_(torch.empty(len(piece), dtype=torch.float32).normal_(std=std, generator=generator))

    threads = min(torch.get_num_threads(), len(clips)) if device.type == "cpu" else 1
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(draw, noise.split(rows), clips))
    else:
        for part, clip in zip(noise.split(rows), clips, strict=True):
            draw(part, clip)
    return noise
