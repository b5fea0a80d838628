"""What the student predicts, how far off it is, and what one watches (method sections 5 and 6), by name.

Three tables. :data:`TARGETS`: modules ``(teacher's encoder, batch) -> named targets``. :data:`TERMS`: functions
``Comparison -> scalar``, whose weights the criterion has. :data:`WATCHED`: pairs of functions, ``Comparison -> sums``
and ``sums over all devices -> values by name``, because a standard deviation over devices is no mean of standard
deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from . import learning
from .encoder import Encoder, EncoderOutput
from .masking import Masks
from .rows import take_rows
from .settings import TeacherSettings

Targets = dict[str, Tensor]


def averaged_targets(outputs: Sequence[Tensor], eps: float = 1e-5) -> Tensor:
    """Average the blocks' outputs into regression targets, in float32.

    Each output is instance-normalised over the patch axis per channel, the results are averaged over the blocks, and
    the average is layer-normalised over channels; neither norm has an affine part.

    Args:
        outputs: per block (B, 1 + N, D), CLS first.
        eps: of both norms.

    Returns:
        (B, N, D) float32.
    """
    total: Tensor | None = None
    for output in outputs:
        patches = output[:, 1:].float()
        # Two means, because torch.var_mean over an outer axis is five times as slow on a CPU.
        centred = patches - patches.mean(dim=1, keepdim=True)
        scale = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + eps)  # (B, 1, D)
        total = centred.mul_(scale) if total is None else total.addcmul_(centred, scale)
    assert total is not None, "averaged_targets needs at least one block"
    return F.layer_norm(total / len(outputs), total.shape[-1:], eps=eps)


class AveragedFeedForward(nn.Module):
    """EAT's: ``frame``, all blocks' feed-forward outputs averaged; ``utterance``, the mean of that over patches.

    The utterance target can be that of the last ``utterance_blocks`` blocks alone.
    """

    eps = 1e-5
    """Of both norms."""

    def __init__(self, settings: TeacherSettings) -> None:
        super().__init__()
        self.utterance_blocks = settings.utterance_blocks

    def forward(self, encoder: Encoder, filterbank: Tensor, visible: Tensor | None = None) -> Targets:
        """What the teacher makes of clips.

        Args:
            encoder: the teacher's.
            filterbank: (B, 1, frames, mel bins).
            visible: (B, 1, K) the patches that the teacher is given; None gives it all N.

        Returns:
            ``frame`` (B, K or N, D), ``utterance`` (B, D), and for the watch ``features`` (B, D), the means of the
            encoder's patches; float32.
        """
        encoded = encoder(filterbank, visible, collect=True)
        outputs = self.outputs(encoded)
        frame = averaged_targets(outputs, self.eps)
        last = averaged_targets(outputs[-self.utterance_blocks :], self.eps) if self.utterance_blocks else frame
        features = encoded.tokens[:, 1:].float().mean(dim=1)
        return {"frame": frame, "utterance": last.mean(dim=1), "features": features}

    def outputs(self, encoded: EncoderOutput) -> list[Tensor]:
        """Which outputs of the blocks are averaged, one a block."""
        return encoded.feed_forward


class BlockOutputs(AveragedFeedForward):
    """BAT's: the blocks' outputs after their last LayerNorm in place of the feed-forward ones, both norms' eps 1e-6.

    Of use with gated attention: without gates these targets lost 0.3 mAP in the published probe.
    """

    eps = 1e-6

    def outputs(self, encoded: EncoderOutput) -> list[Tensor]:
        """The blocks' outputs."""
        return encoded.blocks[1:]


TARGETS: dict[str, type[nn.Module]] = {"averaged_feed_forward": AveragedFeedForward, "block_outputs": BlockOutputs}
"""The choices of ``model.targets``."""


class Comparison(NamedTuple):
    """What loss terms and watched quantities see of a batch."""

    predictions: Tensor
    """(P, D) the decoder's output at every masked patch of every clone."""
    masked_targets: Tensor
    """(P, D) float32, the frame targets at those patches."""
    cls: Tensor
    """(B, M, D) the student's CLS output."""
    targets: Targets
    """All targets, without gradients."""
    masks: Masks
    """Which patches the rows above are, of M clones of each clip, N - K patches a clone."""
    real: Tensor
    """(B, N) which patches hold audio; the others are padding."""
    counts: Tensor
    """(B,) which clips count; the others fill holes in the batch."""


def mean_distance(a: Tensor, b: Tensor, counts: Tensor) -> Tensor:
    """Mean over rows of e(a, b) = sum over channels of (a - b)^2, divided by sqrt(D), in the clips that count.

    Args:
        a: (B * rows, D) or (B, rows, D), as many rows for each clip.
        b: the same, float32.
        counts: (B,) which clips count.

    Returns:
        A scalar; 0 where none counts.
    """
    error = F.mse_loss(a.to(b.dtype), b, reduction="none").view(len(counts), -1).mean(dim=1)  # (B,)
    return torch.where(counts, error, 0.0).sum() / counts.sum().clamp(min=1) * b.shape[-1] ** 0.5


def frame_loss(comparison: Comparison) -> Tensor:
    """Mean of e(prediction, target) over every masked patch of every clone."""
    return mean_distance(comparison.predictions, comparison.masked_targets, comparison.counts)


def utterance_loss(comparison: Comparison) -> Tensor:
    """Mean over clones of e(student's CLS output, the clip's utterance target)."""
    target = comparison.targets["utterance"].unsqueeze(1)
    return mean_distance(comparison.cls, target.expand_as(comparison.cls), comparison.counts)


def retention_loss(comparison: Comparison) -> Tensor:
    """Mean of e(prediction, retention target) over the masked patches of mixtures, the second half of the batch.

    Raises:
        ConfigError: where there are no mixtures.
    """
    if "retention" not in comparison.targets:
        raise ConfigError(
            "the loss term 'retention' is about mixtures of clips; set model.mixtures=true, or "
            "criterion.weights.retention=0."
        )
    target = comparison.targets["retention"]  # (B, N, D)
    wanted = take_rows(target, comparison.masks.masked[len(target) :].flatten(1)).flatten(0, 1)
    return mean_distance(comparison.predictions[-len(wanted) :], wanted, comparison.counts[-len(target) :])


TERMS: dict[str, Callable[[Comparison], Tensor]] = {
    "frame": frame_loss,
    "utterance": utterance_loss,
    "retention": retention_loss,
}
"""Loss terms; logged as ``{name}_loss``."""


def moments(x: Tensor, counts: Tensor) -> Tensor:
    """Number of rows, sums and sums of squares of (P, D), as (1 + 2 D) float32 numbers that add up over devices.

    ``counts``, (B,), has which clips count, each of which has as many of the rows.
    """
    x = x.detach().float()
    weight = counts.float().repeat_interleave(len(x) // len(counts), output_size=len(x))
    return torch.cat([weight.sum()[None], weight @ x, weight @ x.square()])


def standard_deviation(sums: Tensor) -> Tensor:
    """Mean over channels of sqrt(var + 1e-6), var unbiased, from :func:`moments`: what collapse guards watch."""
    count, totals = sums[0].double().clamp(min=1), sums[1:].double().view(2, -1)
    variance = (totals[1] - totals[0].square() / count) / (count - 1).clamp(min=1)
    return (variance.clamp(min=0) + 1e-6).sqrt().mean().float()


class Watched(NamedTuple):
    """A quantity that is logged beside the losses."""

    sums: Callable[[Comparison], Tensor | None]
    """A vector of a batch; vectors add up over accumulated batches and devices. None where the targets lack it."""
    values: Callable[[Tensor], dict[str, Tensor]]
    """The numbers to log, by name, from the sum."""


def _frame_sums(comparison: Comparison) -> Tensor:
    """Of all targets, and of the predictions for each clip's first clone, which stand for those of the others."""
    masked = comparison.masks.masked
    clips, clones, rows = masked.shape
    predictions, targets = (
        x.detach().unflatten(0, (clips, clones, rows))[:, 0].flatten(0, 1)
        for x in (comparison.predictions, comparison.masked_targets)
    )
    real = comparison.real.gather(1, masked[:, 0]).flatten()
    return torch.cat([learning.products(*positions(comparison, "frame")), learning.errors(predictions, targets, real)])


def _utterance_sums(comparison: Comparison) -> Tensor:
    target, real = positions(comparison, "utterance")
    cls = comparison.cls.detach()
    expanded = target.expand(-1, cls.shape[1], -1).flatten(0, 1), real.expand(-1, cls.shape[1]).flatten()
    return torch.cat([learning.products(target, real), learning.errors(cls.flatten(0, 1), *expanded)])


def _feature_sums(comparison: Comparison) -> Tensor | None:
    """Of the teacher's features; None where the targets are made without."""
    features = comparison.targets.get("features")
    return None if features is None else learning.spreads(features, comparison.real.any(dim=1))


def positions(comparison: Comparison, name: str) -> tuple[Tensor, Tensor]:
    """Targets at each position, (B, N, D), and which of them count, (B, N); utterance targets have one position."""
    target, real = comparison.targets[name], comparison.real
    return (target, real) if target.ndim == 3 else (target.unsqueeze(1), real.any(dim=1, keepdim=True))


WATCHED: dict[str, Watched] = {
    "predictions": Watched(
        lambda c: moments(c.predictions, c.counts), lambda s: {"prediction_std": standard_deviation(s)}
    ),
    "targets": Watched(lambda c: moments(c.masked_targets, c.counts), lambda s: {"target_std": standard_deviation(s)}),
    "frame": Watched(_frame_sums, learning.frame_figures),
    "utterance": Watched(_utterance_sums, learning.utterance_figures),
    "features": Watched(_feature_sums, learning.feature_figures),
}
"""Watched quantities; :attr:`Watched.values` has the names that they are logged with."""


def watch(comparison: Comparison) -> dict[str, Tensor]:
    """The sums of every watched quantity that there is, by the names of :data:`WATCHED`."""
    found = {name: watched.sums(comparison) for name, watched in WATCHED.items()}
    return {name: sums for name, sums in found.items() if sums is not None}
