"""A recording read forwards, block by block, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from soundfile import LibsndfileError
from torch import Tensor

from ..errors import DataError
from .recordings import MIN_SECONDS, check_samples, open_recording
from .resampling import SAMPLE_RATE, SINC, Resampler, check_rate
from .timeout import READ_SECONDS, within

BLOCK_SECONDS = 20.0


class AudioStream:
    """A recording as mono audio at one rate that is read forwards, block by block.

    Resampling by blocks gives what resampling the whole gives: each block brings along as much of its neighbours as
    the filter reaches.

    Args:
        source: path or container address, as for :func:`EAT.audio.recordings.read_audio`.
        block_seconds: how much is decoded at once.
        rate: in Hz.
        resampler: what resamples to it.
        read_timeout: seconds after which opening it, or a block that is still being read, is given up; 0: never.

    Raises:
        DataError: for a recording that cannot be opened or is shorter than 10 ms.
    """

    def __init__(
        self,
        source: str,
        block_seconds: float = BLOCK_SECONDS,
        rate: int = SAMPLE_RATE,
        resampler: Resampler = SINC,
        read_timeout: float = READ_SECONDS,
    ) -> None:
        check_rate(rate, "rate")
        self.source, self.rate, self.resampler, self.read_timeout = source, rate, resampler, read_timeout
        self._hangs = False
        self._recording = within(read_timeout, source, lambda: open_recording(source))
        self.samples = -(-self._recording.frames * rate // self._recording.rate)
        """Length at that rate, as the header has it."""
        if self.samples < rate * MIN_SECONDS:
            self.close()
            raise DataError(f"{source} holds {1000 * self.samples / rate:g} ms; a clip must last 10 ms at least.")
        self._blocks = self._resampled(max(1, int(block_seconds * self._recording.rate)))
        self._held, self._offset = torch.zeros(0), 0  # audio from sample ``offset`` on

    def close(self) -> None:
        """Close the file."""
        if not self._hangs:  # whoever still reads it would find nothing under its hands
            self._recording.close()

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def read(self, start: int, count: int) -> Tensor:
        """Samples ``start`` to ``start + count``, fewer at the end: (samples,) float32.

        Args:
            start: not before the start of an earlier call; what lies before it is forgotten.
            count: how many.

        Raises:
            DataError: where the recording breaks off before the end that its header states, or holds NaN.
        """
        assert start >= self._offset, "a stream is read forwards"
        pieces, end = [self._held], self._offset + len(self._held)
        while end < min(start + count, self.samples):
            block = next(self._blocks)
            pieces.append(block)
            end += len(block)
        held = torch.cat(pieces) if len(pieces) > 1 else self._held
        self._held, self._offset = held[start - self._offset :].clone(), start
        return self._held[:count]

    def _decode(self, position: int, count: int) -> Tensor:
        """The next ``count`` samples at the file's own rate, mono."""
        try:
            samples = within(self.read_timeout, self.source, lambda: self._recording.read(position, count))
        except DataError:
            self._hangs = True
            raise
        except (LibsndfileError, RuntimeError, OSError) as error:
            raise DataError(f"{self.source} breaks off while being decoded ({error}).") from None
        if not len(samples):
            seconds, rate = self._recording.frames / self._recording.rate, self._recording.rate
            raise DataError(
                f"{self.source} breaks off after {position / rate:.1f} of the {seconds:.1f} s that its header states."
            )
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
        check_samples(self.source, mono)
        return torch.from_numpy(mono)

    def _resampled(self, block: int) -> Iterator[Tensor]:
        rate, frames = self._recording.rate, self._recording.frames
        old, new, margin = self.resampler.ratio(rate, self.rate)
        block = max(block, 2 * margin + old)
        held, base, position, done = torch.zeros(0), 0, 0, 0  # input from sample ``base``; ``done`` outputs are out
        while position < frames:
            samples = self._decode(position, min(block, frames - position))
            position += len(samples)
            held = torch.cat([held, samples])
            upto = self.samples if position == frames else max(0, position - margin) // old * new
            if upto > done:
                first = base // old * new
                yield self.resampler.resample(held, rate, self.rate)[done - first : upto - first]
                done = upto
                keep = max(base, done // new * old - margin)
                held, base = held[keep - base :].clone(), keep
