"""SSLAM's second stage (arXiv 2506.12222): every clip is also seen mixed with its neighbour in the batch.

A mixture is the larger of two filterbanks, value by value, except in two regions of time that stay the clip's own. The
student predicts what the teacher makes of the mixture (the frame term) and, from the same output, the mean of what the
teacher makes of either clip alone (the term ``retention``), so that a mixture keeps its sources. Batches are twice as
long as their clips are many: the clips first, then their mixtures, with the same masks.

Further shapes: C mixed columns of F patches among the T columns of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .masking import Masks
from .objective import Comparison, Targets
from .patches import real_patches
from .pretraining import Batch, Pretraining, Student
from .random import batch_key, below, second_view, words


def region_width(time: int) -> int:
    """Columns of each of the two unmixed regions: 15 of 64, rounded down."""
    return 15 * time // 64


def draw_regions(time: int, key: Tensor) -> Tensor:
    """First columns of the two unmixed regions, which may touch but never overlap.

    The first is uniform over {0, ..., T // 2 - 1}, then the second over all places behind it but the last, so that the
    last column is always mixed.

    Args:
        time: T.
        key: () int32, of the batch.

    Returns:
        (2,) int64.
    """
    width = region_width(time)
    first, second = words(key, 2)
    start = below(first, max(1, time // 2))
    return torch.stack([start, start + width + below(second, time - 2 * width - start)])


def mixed_columns(regions: Tensor, time: int) -> Tensor:
    """The columns outside of the regions that begin at ``regions`` (2,), in increasing order: (C,) int64."""
    width = region_width(time)
    column = torch.arange(time, device=regions.device)
    unmixed = ((column >= regions[:, None]) & (column < regions[:, None] + width)).any(dim=0)
    return unmixed.to(torch.uint8).argsort(stable=True)[: time - 2 * width]


def neighbours(frames: Tensor) -> Tensor:
    """The clip before each, before the first the last one: numbers (B,), of frames that hold audio, (B,).

    Holes, clips of 0 frames that come last in a batch, are before no clip.
    """
    before = torch.arange(-1, len(frames) - 1, device=frames.device)
    return torch.where(before < 0, (frames > 0).sum() - 1, before).clamp(min=0)


class MixturePretraining(Pretraining):
    """Pre-training with clips and mixtures; ``model.mixtures=true``."""

    def draw(
        self,
        filterbank: Tensor,
        clips: Sequence[int] | Tensor,
        frames: Tensor | None = None,
        *,
        seed: int,
        epoch: int,
        drawn: tuple[Tensor, Masks] | None = None,
    ) -> Batch:
        """Draw the masks and the unmixed regions of a batch, and mix its clips.

        Masks follow from (seed, epoch, clip, clone), noise also from the view, and the regions, which all clips of a
        batch share, from (seed, epoch) and the batch's clips in their order. Arguments and errors are those of
        :meth:`Pretraining.draw`; the batch has 2 B filterbanks.
        """
        batch = super().draw(filterbank, clips, frames, seed=seed, epoch=epoch, drawn=drawn)
        time = self.encoder.grid(filterbank.shape[2]).time
        key = batch_key(seed, epoch, torch.as_tensor(clips, device=filterbank.device))
        return self.mix(batch, mixed_columns(draw_regions(time, key), time))

    def mix(self, batch: Batch, mixed: Tensor) -> Batch:
        """Add to B clips their mixtures, each with the clip before it and the first with the last.

        Args:
            batch: B clips with their masks.
            mixed: (C,) the columns in which they are mixed.

        Returns:
            2 B filterbanks and masks, clips first.
        """
        clips, before = batch.filterbank, neighbours(batch.frames)
        foreign = clips[before]
        if not self.settings.foreign_padding:
            padded = torch.arange(clips.shape[2], device=clips.device) >= batch.frames[before][:, None]
            foreign = foreign.masked_fill(padded[:, None, :, None], -torch.inf)
        mixtures, foreign = (x.unflatten(2, (-1, self.settings.patch_size)) for x in (clips, foreign))
        loudest = torch.maximum(mixtures[:, :, mixed], foreign[:, :, mixed])  # (B, 1, C, patch size, mel bins)
        mixtures = mixtures.index_copy(2, mixed, loudest).flatten(2, 3)
        return Batch(
            torch.cat([clips, mixtures]),
            batch.frames.repeat(2),
            Masks(batch.masks.visible.repeat(2, 1, 1), batch.masks.masked.repeat(2, 1, 1)),
            torch.cat([batch.keys, second_view(batch.keys)]),
            mixed,
        )

    @torch.no_grad()
    def teach(self, batch: Batch, terms: Sequence[str] = ()) -> Targets:
        """Targets of clips and mixtures; with the term ``retention`` also those of that name, (B, N, D)."""
        targets = super().teach(batch, terms)
        if "retention" in terms:
            targets["retention"] = self.retain(batch, targets["frame"])
        return targets

    def retain(self, batch: Batch, frame: Tensor) -> Tensor:
        """What the teacher makes of the two sources of each mixture.

        The neighbour is heard in mixed columns alone, so the teacher encodes it without the others, at the positions
        of the whole clip.

        Args:
            batch: 2 B clips and mixtures.
            frame: (2 B, N, D) their frame targets.

        Returns:
            (B, N, D): in mixed columns the mean of the clip's frame target and its neighbour's, elsewhere the clip's.
        """
        assert batch.mixed is not None
        clips = batch.filterbank[: len(batch.filterbank) // 2]
        before = neighbours(batch.frames[: len(clips)])
        grid = self.encoder.grid(clips.shape[2])
        heard = batch.mixed[:, None] * grid.frequency + torch.arange(grid.frequency, device=clips.device)
        heard = heard.flatten()  # (C * F,)
        foreign = self.targets(self.teacher.encoder, clips, heard.expand(len(clips), 1, -1))["frame"][before]
        own = frame[: len(clips), heard]
        both = (own + foreign) / 2
        if not self.settings.foreign_padding:
            real = real_patches(batch.frames[: len(clips)], grid, self.settings.patch_size)[before]
            both = torch.where(real[:, heard, None], both, own)
        return frame[: len(clips)].index_copy(1, heard, both)

    def compare(self, batch: Batch, student: Student, targets: Targets) -> Comparison:
        """As :meth:`Pretraining.compare`; the figures of learning are of clips alone, as a mixture is no other clip."""
        predictions, masked_targets, cls, _, masks, real, counts = super().compare(batch, student, targets)
        real = real.clone()
        real[len(real) // 2 :] = False
        return Comparison(predictions, masked_targets, cls, targets, masks, real, counts)
