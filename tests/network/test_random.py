"""Random numbers by hashing: a key's own, whatever else is in the batch; normal; the same words as ever."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from EAT.network.random import clone_keys, normals, words

from ..conftest import ROOT


def test_keys_and_words_by_hand() -> None:
    def scramble(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D & 0xFFFFFFFF
        x ^= x >> 15
        x = x * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    key, stride = 7, 0x9E3779B9
    for word in (3, 70_000, 0, 1):  # epoch, low and high half of the clip's number, clone
        key = scramble(key * stride + word + 1 & 0xFFFFFFFF)
    ours = clone_keys(7, 3, torch.tensor([70_000]), 2)[0, 1]
    assert ours.item() & 0xFFFFFFFF == key
    drawn = words(ours, 2) & torch.tensor(0xFFFFFFFF)
    assert drawn.tolist() == [scramble(key + counter * stride & 0xFFFFFFFF) for counter in (1, 2)]


def test_noise_follows_from_the_key_alone() -> None:
    keys = clone_keys(1, 2, torch.tensor([5, 9, 2]), 2).flatten()
    together = normals(keys, 33)
    assert together.shape == (6, 33)
    for row, key in zip(together, keys, strict=True):
        assert torch.equal(normals(key[None], 33)[0], row)
    assert torch.equal(normals(keys, 34)[:, :17], together[:, :17])
    assert len(together.unique(dim=0)) == 6
    others = [normals(clone_keys(seed, epoch, torch.tensor([5]), 1)[0], 33) for seed, epoch in ((2, 2), (1, 3))]
    assert not any(torch.equal(together[0], other[0]) for other in others)
    assert normals(keys, 8, torch.bfloat16).dtype == torch.bfloat16


def test_noise_is_the_same_bits_in_another_process() -> None:
    """With the clips in another order, and more threads."""
    code = (
        "import torch, sys; from EAT.network.random import clone_keys, normals; torch.set_num_threads(2);"
        "keys = clone_keys(1, 2, torch.tensor([2, 5, 9]), 2).flatten();"
        "sys.stdout.buffer.write(normals(keys, 33).numpy().tobytes())"
    )
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=120).stdout
    here = normals(clone_keys(1, 2, torch.tensor([5, 9, 2]), 2).flatten(), 33).view(3, 2, 33)
    assert there == here[[2, 0, 1]].numpy().tobytes()


def test_noise_is_normal() -> None:
    noise = normals(clone_keys(1, 1, torch.arange(40), 4).flatten(), 4096).double()
    count = noise.numel()
    assert abs(noise.mean().item()) < 4 / count**0.5
    assert abs(noise.square().mean().item() - 1) < 4 * (2 / count) ** 0.5 + 1e-5
    assert abs(noise.pow(4).mean().item() - 3) < 4 * (96 / count) ** 0.5 + 1e-3
    for level, tail in ((1.0, 0.317311), (2.0, 0.0455003), (3.0, 0.0026998)):
        assert (noise.abs() > level).double().mean().item() == pytest.approx(tail, abs=4 * (tail / count) ** 0.5)
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean().item()
    pairs = (noise[:, :2048] * noise[:, 2048:]).mean().item()  # the two numbers of one word
    assert max(abs(neighbours), abs(pairs)) < 4 / (count / 2) ** 0.5


def test_noise_can_be_drawn_in_inference_mode() -> None:
    keys = clone_keys(1, 1, torch.tensor([3, 4]), 2).flatten()
    with torch.inference_mode():
        drawn = normals(keys, 8)
    assert torch.equal(drawn, normals(keys, 8))
