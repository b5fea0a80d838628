"""The decoder's noise: a clip's own, whatever else is in the batch and however many threads draw it."""

from __future__ import annotations

import pytest
import torch

from EAT.network.noise import clip_noise

DRAW = {"rows": 64, "dim": 32, "dtype": torch.float32, "device": torch.device("cpu")}


@pytest.mark.parametrize("threads", [1, 3])
def test_noise_follows_from_the_clip_alone(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = clip_noise([5, 9, 2], std=0.1, seed=1, epoch=2, **DRAW)
    finally:
        torch.set_num_threads(before)
    alone = [clip_noise([clip], std=0.1, seed=1, epoch=2, **DRAW) for clip in (5, 9, 2)]
    assert torch.equal(batch, torch.cat(alone))
    others = [clip_noise([5], std=0.1, seed=seed, epoch=epoch, **DRAW) for seed, epoch in ((2, 2), (1, 3))]
    assert not any(torch.equal(alone[0], other) for other in (*others, alone[1]))


def test_noise_is_gaussian_with_the_deviation_asked_for() -> None:
    noise = clip_noise(range(40), std=0.01, seed=1, epoch=1, **DRAW).double() / 0.01
    count = noise.numel()
    assert abs(noise.mean().item()) < 4 / count**0.5
    assert abs(noise.square().mean().item() - 1) < 4 * (2 / count) ** 0.5
    assert abs(noise.pow(4).mean().item() - 3) < 4 * (96 / count) ** 0.5
    assert not clip_noise([1], std=0.0, seed=1, epoch=1, **DRAW).any()


def test_noise_can_be_drawn_in_inference_mode() -> None:
    with torch.inference_mode():
        drawn = clip_noise([3, 4], std=0.1, seed=1, epoch=1, **DRAW)
    assert torch.equal(drawn, clip_noise([3, 4], std=0.1, seed=1, epoch=1, **DRAW))
