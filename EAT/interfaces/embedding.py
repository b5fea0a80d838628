"""A model as benchmarks ask for it: one vector for a clip, and one for each time step, of batches of waveforms."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import DataError
from ..inference.model import BATCH_SIZE, EATModel, load
from ..inference.readouts import READOUTS, width
from ..inference.windows import extract_recording
from ..network.settings import choose


class Embedding(nn.Module):
    """Vectors of clips by one of :data:`EAT.inference.readouts.READOUTS`, in float32.

    A time step is a column of patches, 160 ms. Its vector is the mean of its patches (D) where the readout is ``mean``
    or ``utterance``, and all of them side by side from low to high (F D) where it is ``rows`` or ``rows_max``. Clips of
    more than two minutes go window by window.

    Args:
        checkpoint: of any format that :func:`EAT.load` opens.
        readout: what a clip's vector is.
        layer: 0 for the input to the first block, 1 to depth for a block's output, negative from the end; None is the
            last.
        batch_size: clips of 10 s that are computed at once.
        options: ``weights``, ``norm_mean``, ``norm_std`` and ``device`` of :func:`EAT.load`.

    Raises:
        CheckpointError: where the checkpoint cannot be read.
        ConfigError: for a readout or a layer that does not exist.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        readout: str = "mean",
        layer: int | None = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> None:
        super().__init__()
        choose(dict.fromkeys(READOUTS), readout, "readout")
        self.model = load(checkpoint, **options)
        (self.layer,) = self.model.layer_numbers(layer)
        self.readout, self.batch_size = readout, batch_size

    @property
    def sample_rate(self) -> int:
        """Of the waveforms, in Hz."""
        return self.model.front_end.sample_rate

    @property
    def width(self) -> int:
        """Length of a clip's vector."""
        return width(self.readout, self.model.encoder.settings.embed_dim, self.model.frequency_patches)

    @property
    def step_width(self) -> int:
        """Length of a time step's vector."""
        return self.model.encoder.settings.embed_dim * (self.model.frequency_patches if self._in_rows else 1)

    @property
    def step_ms(self) -> float:
        """From one time step to the next, in milliseconds."""
        return 1000 * self.model.seconds(self.model.patch_size)

    @property
    def _in_rows(self) -> bool:
        return self.readout.startswith("rows")

    def clips(self, audio: Tensor) -> Tensor:
        """One vector a clip: (B, samples) in [-1, 1] at :attr:`sample_rate` to (B, width). Raises DataError."""
        return self._extract(audio, self.readout)

    def steps(self, audio: Tensor) -> Tensor:
        """One vector a time step: (B, samples) to (B, T, step_width), T the clip's length over 160 ms, rounded up."""
        patches = self._extract(audio, "frame").unflatten(1, (-1, self.model.frequency_patches))  # (B, T, F, D)
        return patches.flatten(2) if self._in_rows else patches.mean(dim=2)

    def centres(self, steps: int) -> Tensor:
        """The middle of what each of so many time steps hears, in milliseconds from the clip's start: (steps,)."""
        front_end, size = self.model.front_end, self.model.patch_size
        middle = ((size - 1) * front_end.hop + front_end.samples_for(1)) / 2 / front_end.sample_rate * 1000
        return torch.arange(steps) * self.step_ms + middle

    @torch.no_grad()
    def _extract(self, audio: Tensor, granularity: str) -> Tensor:
        if audio.ndim != 2:
            raise DataError(f"audio has shape {tuple(audio.shape)}; it must be (clips, samples).")
        options: dict[str, Any] = {"layer": self.layer, "granularity": granularity, "batch_size": self.batch_size}
        found = of_any_length(self.model, list(audio), self.sample_rate, **options)
        return torch.stack(found).to(self.model.device, torch.float32)


def of_any_length(model: EATModel, waveforms: Sequence[Tensor], sample_rate: int, **options: Any) -> list[Tensor]:
    """:meth:`EAT.inference.model.EATModel.extract` of a list of waveforms, of which those of more than two minutes go
    window by window, as recordings of that length do.
    """
    clips = [model._mono(waveform, sample_rate) for waveform in waveforms]
    short = [n for n, clip in enumerate(clips) if model.padded_frames(len(clip)) <= model.encoder.max_frames]
    found = model.extract([clips[n] for n in short], model.front_end.sample_rate, **options) if short else []
    features = dict(zip(short, found, strict=True))
    return [features[n] if n in features else extract_recording(model, clip, **options) for n, clip in enumerate(clips)]
