"""X-ARES's encoder.

Its command takes a Python file whose class, named ``...Encoder``, needs no arguments::

    import EAT.interfaces.xares

    class MyEncoder(EAT.interfaces.xares.EATEncoder):
        def __init__(self):
            super().__init__("EAT-base_epoch30_pt.pt", readout="rows")
"""

from __future__ import annotations

from torch import Tensor

from .embedding import Embedding


class EATEncoder(Embedding):
    """Waveforms to time steps of 160 ms, as X-ARES asks for them; its tasks over clips average them."""

    @property
    def sampling_rate(self) -> int:
        """Of the waveforms, in Hz."""
        return self.sample_rate

    @property
    def output_dim(self) -> int:
        """Length of a time step's vector."""
        return self.step_width

    @property
    def hop_size_in_ms(self) -> float:
        """From one time step to the next."""
        return self.step_ms

    def forward(self, audio: Tensor) -> Tensor:
        """(B, samples) in [-1, 1] at ``sampling_rate`` to (B, T, output_dim); (samples,) is a batch of one."""
        return self.steps(audio.unsqueeze(0) if audio.ndim == 1 else audio)
