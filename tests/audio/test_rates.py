"""Rates: what is none is refused, and the odd ones take no more than their samples do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import EAT
from EAT.audio.resampling import resample
from EAT.errors import ConfigError

from ..conftest import CONFORMANCE, ROOT


@pytest.mark.parametrize("rate", [0, -16000, 999, 768_001, 16000.5, 44100.0, "16000", None, True, float("nan")])
def test_rates_that_are_none(rate: object) -> None:
    model = EAT.load(CONFORMANCE / "official_pretrain.pt")
    for use in (lambda: resample(torch.zeros(16000), rate, 16000), lambda: model.extract(torch.zeros(16000), rate)):
        with pytest.raises(ConfigError, match=r"sample_rate is .*; it must be a whole number of Hz from 1,000"):
            use()


def test_a_hundred_seconds_at_an_odd_rate_take_seconds_and_little_memory(tmp_path: Path) -> None:
    """At 767,999 Hz, which has hardly a divisor in common with 16,000."""
    code = f"""
import numpy as np, resource, soundfile
from EAT.audio.recordings import read_audio
import EAT, torch
torch.set_num_threads(1)
block = np.zeros(767_999, np.int16)
with soundfile.SoundFile({str(tmp_path / "a.wav")!r}, "w", 767_999, 1) as file:
    for _ in range(100):
        file.write(block)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(read_audio({str(tmp_path / "a.wav")!r})) == 1_600_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1000  # the samples themselves are 307 MB
