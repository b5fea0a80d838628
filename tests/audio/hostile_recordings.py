"""Recordings with changed bytes, of every format: read, or refused in a sentence, quickly and in little memory.

``python -m tests.audio.hostile_recordings --count 200 --seed 1`` prints what became of them. They are read in another
process with a limit of 1 GB over what it has at the start, and of 5 s of processor time a file.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import soundfile

from EAT.audio.recordings import open_recording, read_audio
from EAT.audio.stream import AudioStream
from EAT.errors import EATError

from .hostile_packs import mutate

SECONDS, MEMORY = 5.0, 1 << 30
KINDS = {
    "wav": ("WAV", "PCM_16"), "float.wav": ("WAV", "FLOAT"), "adpcm.wav": ("WAV", "IMA_ADPCM"), "flac": ("FLAC", None),
    "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", None), "aiff": ("AIFF", None),
    "w64": ("W64", None), "rf64": ("RF64", None), "au": ("AU", None),
}  # fmt: skip
"""Format and subtype by ending."""


def write_recording(path: Path, kind: str) -> None:
    """Three quarters of a second of noise and tone in stereo."""
    rng, time_line = np.random.default_rng(0), np.arange(12000) / 16000
    samples = 0.1 * rng.normal(size=(12000, 2)) + 0.3 * np.sin(2 * np.pi * 440 * time_line)[:, None]
    form, subtype = KINDS[kind]
    soundfile.write(path, samples, 16000, format=form, subtype=subtype)


def use(path: Path) -> str:
    """Everything that reads a recording. Raises what no reader should."""
    outcome = "read"
    for step in (
        lambda: open_recording(str(path)).close(),
        lambda: read_audio(str(path)),
        lambda: read_audio(str(path), 4000, 0.5),
        lambda: _stream(path),
    ):
        try:
            step()
        except EATError as error:
            assert path.name in str(error) and "\n" not in str(error), str(error)
            outcome = "refused"
    return outcome


def _stream(path: Path) -> None:
    with AudioStream(str(path)) as stream:
        samples = stream.read(0, min(stream.samples, 1 << 22))
        assert bool(samples.isfinite().all())


def batch(count: int, seed: int) -> int:
    """Go through mutations; returns 1 where one was not read or refused as it should be."""
    faulthandler.enable()
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        wholes = {}
        for kind in KINDS:
            write_recording(Path(name) / f"whole.{kind}", kind)
            wholes[kind] = (Path(name) / f"whole.{kind}").read_bytes()
            assert use(Path(name) / f"whole.{kind}") == "read", kind
        start = psutil.Process().memory_info()
        resource.setrlimit(resource.RLIMIT_AS, (start.vms + MEMORY, resource.RLIM_INFINITY))
        for number in range(count):
            rng = random.Random(f"{seed} {number}")
            kind = rng.choice(list(KINDS))
            path = Path(name) / f"{number}.{kind}"
            path.write_bytes(mutate(rng, wholes[kind]))
            faulthandler.dump_traceback_later(6 * SECONDS, exit=True)
            began = time.process_time()
            try:
                outcomes[use(path)] += 1
            except Exception as error:
                outcomes["faults"] += 1
                print(
                    f"{number} ({kind}): FAULT {type(error).__name__}: {' '.join(str(error).split())[:300]}", flush=True
                )
            used = time.process_time() - began
            slowest = max(slowest, used)
            if used > SECONDS:
                outcomes["faults"] += 1
                print(f"{number} ({kind}): FAULT took {used:.1f} s", flush=True)
            path.unlink()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start.rss / (1 << 20)
    said = ", ".join(f"{number} {what}" for what, number in sorted(outcomes.items()))
    print(f"{count} recordings: {said}; slowest {slowest:.2f} s, {peak:.0f} MB over the start")
    return int(outcomes["faults"] > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="Mutated recordings: read, or refused in a sentence.")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="in this process")
    args = parser.parse_args()
    if args.here:
        return batch(args.count, args.seed)
    command = [sys.executable, "-m", "tests.audio.hostile_recordings", "--here"]
    command += ["--count", str(args.count), "--seed", str(args.seed)]
    done = subprocess.run(command, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    print(done.stdout, end="")
    if done.returncode not in (0, 1):
        print(f"ended with {done.returncode}: {done.stderr[-1500:]}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
