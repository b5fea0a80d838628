"""Masks: exact counts, the published distribution, and independence of everything but (seed, epoch, clip, clone)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from EAT.errors import ConfigError
from EAT.network.masking import MASKINGS, Masks, mask_map, masks_from_map
from EAT.network.patches import Grid
from EAT.network.random import clone_keys
from EAT.network.settings import MaskSettings

from ..conftest import CONFORMANCE

GRIDS = json.loads((CONFORMANCE / "mask_statistics.json").read_text())


def draw(
    settings: MaskSettings, time_patches: int, clips: list[int], clones: int = 16, seed: int = 1, epoch: int = 1
) -> Masks:
    keys = clone_keys(seed, epoch, torch.tensor(clips), clones)
    return MASKINGS[settings.masking](settings, Grid(time_patches, 8), keys, None)


def standard_errors(values: np.ndarray, published: dict[str, float], published_count: int) -> float:
    """How many standard errors of the difference separate our mean from the published one."""
    error = np.sqrt(values.var() / len(values) + published["std"] ** 2 / published_count)
    return abs(values.mean() - published["mean"]) / error


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g['grid_time_freq'][0]}x8-{g['mask_prob']}")
def test_the_published_distribution(grid: dict) -> None:
    names = ("mask_prob", "mask_prob_adjust", "mask_length")
    settings = MaskSettings(**{name: grid[name] for name in names})
    time_patches = grid["grid_time_freq"][0]
    masks = draw(settings, time_patches, list(range(250)), seed=7)
    kept = ~mask_map(masks).view(4000, time_patches, 8).numpy()

    counts = kept.sum(axis=(1, 2))
    assert [counts.min(), counts.max()] == grid["kept_per_mask"]

    neighbours = ndimage.convolve(kept.astype(int), np.array([[[0, 1, 0], [1, 0, 1], [0, 1, 0]]]), mode="constant")
    components = np.array([ndimage.label(mask)[1] for mask in kept[:800]])
    measured = {
        "kept_pairs_along_time": (kept[:, 1:] & kept[:, :-1]).sum(axis=(1, 2)),
        "kept_pairs_along_freq": (kept[:, :, 1:] & kept[:, :, :-1]).sum(axis=(1, 2)),
        "isolated_kept": (kept & (neighbours == 0)).sum(axis=(1, 2)),
    }
    for name, values in measured.items():
        assert standard_errors(values, grid[name], 4000) < 3, name
    assert standard_errors(components, grid["kept_components"], 800) < 3

    # Probabilities: 3 standard errors of a Bernoulli mean would ignore that a mask's patches go together, so the
    # error is measured between masks.
    edges = np.concatenate([kept[:, :8], kept[:, -8:]], axis=1)
    if time_patches == 8:
        edges = np.concatenate([kept, kept], axis=1)
    for shares, published in (
        (kept.mean(axis=1), grid["keep_probability_by_freq"]),
        (edges.mean(axis=2), grid["keep_probability_by_time_first8_last8"]),
    ):
        error = shares.std(axis=0) * np.sqrt(2 / 4000)
        assert (np.abs(shares.mean(axis=0) - published) < 3.5 * error + 5e-5).all()


def test_a_mask_follows_from_seed_epoch_clip_and_clone_alone() -> None:
    settings = MaskSettings()
    together = draw(settings, 64, [4, 70000, 9], clones=4)
    alone = draw(settings, 64, [70000], clones=4)
    fewer = draw(settings, 64, [9, 70000], clones=2)
    assert torch.equal(together.visible[1], alone.visible[0])
    assert torch.equal(together.visible[1, :2], fewer.visible[1])
    distinct = {tuple(row.tolist()) for row in together.visible.flatten(0, 1)}
    assert len(distinct) == 12
    for changed in (draw(settings, 64, [4], clones=4, seed=2), draw(settings, 64, [4], clones=4, epoch=2)):
        assert not torch.equal(changed.visible[0], together.visible[0])


def test_clip_numbers_beyond_32_bits_differ() -> None:
    masks = draw(MaskSettings(), 64, [1, 1 + 2**32], clones=1)
    assert not torch.equal(masks.visible[0], masks.visible[1])


def test_visible_and_masked_are_a_partition_in_order() -> None:
    masks = draw(MaskSettings(), 13, [1, 2], clones=3)
    both = torch.cat([masks.visible, masks.masked], dim=-1).sort(dim=-1).values
    assert torch.equal(both, torch.arange(13 * 8).expand(2, 3, -1))
    assert (masks.visible.diff() > 0).all() and (masks.masked.diff() > 0).all()
    restored = masks_from_map(mask_map(masks))
    assert torch.equal(restored.visible, masks.visible) and torch.equal(restored.masked, masks.masked)


def test_centres_keep_their_clipped_neighbourhood() -> None:
    from EAT.network.masking import _block_map

    kept = _block_map(torch.tensor([[[0, 8 * 5 + 4]]]), Grid(10, 8), 5)[0, 0].numpy()
    by_hand = np.zeros((10, 8), dtype=bool)
    by_hand[0:3, 0:3] = True
    by_hand[3:8, 2:7] = True
    assert (kept == by_hand).all()


def test_where_no_block_fits_masks_are_random_ones() -> None:
    """floor(64 * 0.27 / 25) = 0 centres; of three patches one centre fits, and nine or fewer patches lie together."""
    blockless, of_one = MaskSettings(), MaskSettings(masking="random")
    assert torch.equal(draw(blockless, 8, [1, 2]).visible, draw(of_one, 8, [1, 2]).visible)
    assert not torch.equal(draw(blockless, 64, [1, 2]).visible, draw(of_one, 64, [1, 2]).visible)
    kept = ~mask_map(draw(MaskSettings(mask_length=3), 8, list(range(50)))).view(800, 8, 8).numpy()
    largest = [np.bincount(ndimage.label(one)[0].flatten())[1:].max() for one in kept]
    assert min(largest) >= 4  # a block in the corner


def test_shares_that_leave_nothing_are_refused(conformance: Path) -> None:
    with pytest.raises(ConfigError, match="keeps 0 of 64 patches"):
        draw(MaskSettings(mask_prob=0.99), 8, [1])
    with pytest.raises(ConfigError, match="mask_length is 4"):
        MaskSettings(mask_length=4)


def test_masks_are_those_of_the_first_release() -> None:
    masks = draw(MaskSettings(), 8, [3], clones=2, seed=5, epoch=2)
    assert masks.visible[0].tolist() == [
        [11, 15, 21, 22, 36, 38, 45, 48, 50, 51, 53, 62],
        [2, 5, 7, 17, 23, 26, 27, 34, 43, 56, 61, 63],
    ]


def test_random_masking_keeps_every_patch_as_often() -> None:
    masks = draw(MaskSettings(masking="random"), 8, list(range(500)), clones=8)
    kept = (~mask_map(masks)).flatten(0, 1).float()  # (4000, 64)
    assert (kept.sum(dim=1) == 12).all()
    expected = 12 / 64
    assert ((kept.mean(dim=0) - expected).abs() < 4.5 * (expected * (1 - expected) / 4000) ** 0.5).all()
    pairs = kept.T @ kept / 4000  # neighbours are kept together as often as any two
    assert pairs[torch.arange(63), torch.arange(1, 64)].mean().item() == pytest.approx(12 * 11 / (64 * 63), rel=0.05)
