"""Recordings of which it is known what is heard when: real clips laid at known times over a quiet real drone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from EAT.audio.recordings import read_audio

from .conftest import CLIPS

RATE = 16000
SOUNDS = {"cowbell": "drum_cowbell", "roll": "drum_roll", "piano": "ambi_piano"}
"""A clip of each class."""


def sounds() -> dict[str, np.ndarray]:
    """Each class's sound, of half a second to a second."""
    found = {}
    for label, name in SOUNDS.items():
        wave = read_audio(str(CLIPS / f"{name}.flac")).numpy()[:RATE]
        found[label] = 0.5 * np.pad(wave, (0, max(0, RATE // 2 - len(wave)))) / np.abs(wave).max()
    return found


def write_scenes(folder: Path, scenes: int, seconds: float = 4.0, seed: int = 0) -> list[tuple[str, float, float, str]]:
    """Write ``scene0.wav`` and so on, and ``events.tsv`` beside the folder; returns the events.

    Every third scene has none of the sounds.
    """
    rng, made = np.random.default_rng(seed), sounds()
    folder.mkdir(parents=True)
    drone = read_audio(str(CLIPS / "ambi_drone.flac")).numpy()
    events = []
    for number in range(scenes):
        samples = round(seconds * RATE)
        scene = 0.01 * np.resize(drone / np.abs(drone).max(), samples)
        for label in rng.permutation(sorted(made))[: 2 if number % 3 else 0]:
            wave = made[str(label)]
            start = int(rng.integers(0, samples - len(wave)) // 160 * 160)
            scene[start : start + len(wave)] += wave
            events.append((f"scene{number}", start / RATE, (start + len(wave)) / RATE, str(label)))
        soundfile.write(folder / f"scene{number}.wav", scene, RATE, subtype="FLOAT")
    lines = ["filename\tonset\toffset\tevent_label", *("\t".join(map(str, event)) for event in events)]
    (folder.parent / "events.tsv").write_text("\n".join(lines) + "\n")
    return events
