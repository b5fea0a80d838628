"""What a model hears in one recording, in a form that a page shows: pictures, classes over time, like clips."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..audio.stream import AudioStream
from ..inference.model import EATModel
from ..inference.nearest import Collection
from ..inference.prediction import best
from ..inference.windows import extract_recording, score_recording
from .components import Array, principal_components
from .features import as_colours
from .pages import data_uri
from .spectrogram import as_png, frequency_ticks, recording_mel

CLASSES = 10
"""Classes that are shown."""
NEIGHBOURS = 8
"""Clips of the collection that are shown."""


@dataclass(frozen=True)
class Listener:
    """A model with all that is asked of it for every recording."""

    model: EATModel
    classes: Sequence[str]
    """Their display names; none for a model that was not fine-tuned."""
    window: int
    """Frames that are classified at once."""
    hop: int
    """Frames from one window to the next."""
    batch_size: int
    collection: Collection | None = None
    """Clips among which like ones are looked for."""

    def hear(self, source: str) -> dict[str, Any]:
        """Everything about one recording.

        Args:
            source: path, container address or :class:`EAT.audio.held.Held`.

        Returns:
            What JSON can hold: ``seconds``; ``spectrogram`` and ``features``, each an ``image`` of low frequencies at
            the bottom, the ``seconds`` that it covers, and of features the ``fractions`` of the variance that red,
            green and blue stand for; ``ticks``: frequencies and how far up they lie; ``edges`` of the windows' slots
            in seconds, and ``classes``, each with ``name``, ``score`` of the whole and ``scores`` by slot, most active
            first; ``neighbours``, each with ``number``, ``name`` and ``similarity``.

        Raises:
            DataError: for a recording that cannot be read, or whose features are all the same.
        """
        front_end = type(self.model.front_end)
        with AudioStream(source, rate=front_end.sample_rate) as stream:
            samples = stream.samples
        bands, covered = recording_mel(source, front_end)
        heard: dict[str, Any] = {
            "seconds": samples / front_end.sample_rate,
            "spectrogram": {
                "image": data_uri("image/png", as_png(bands, None)),
                "seconds": covered,
            },
            "ticks": frequency_ticks(front_end),
        }
        patches = extract_recording(self.model, source, granularity="frame", batch_size=self.batch_size).numpy()
        heard["features"] = self._features(patches)
        heard |= self._classes(source)
        heard["neighbours"] = []
        if self.collection is not None:
            for near in self.collection.nearest(patches.mean(axis=0)[None], NEIGHBOURS)[0]:
                name = self.collection.sources[near.number].name
                heard["neighbours"].append({"number": near.number, "name": name, "similarity": near.similarity})
        return heard

    def _features(self, patches: Array) -> dict[str, Any]:
        components = principal_components(patches, 3)
        rows = self.model.frequency_patches
        colours = as_colours(components.values).reshape(-1, rows, 3).transpose(1, 0, 2)[::-1]  # (F, T, 3), low last
        return {
            "image": data_uri("image/png", _png(colours)),
            "seconds": self.model.seconds(colours.shape[1] * self.model.patch_size),
            "fractions": components.fractions.tolist(),
        }

    def _classes(self, source: str) -> dict[str, Any]:
        if not self.classes:
            return {"edges": [], "classes": []}
        windows = list(score_recording(self.model, source, self.window, self.hop, self.batch_size))
        scores = np.stack([window.scores.numpy() for window in windows])  # (slots, classes)
        whole = scores.mean(axis=0)
        return {
            "edges": [0.0, *(window.slot[1] for window in windows)],
            "classes": [
                {"name": self.classes[index], "score": float(whole[index]), "scores": scores[:, index].tolist()}
                for index in best(scores.max(axis=0), min(CLASSES, len(self.classes)))
            ],
        }


def _png(pixels: Array) -> bytes:
    """(rows, columns, 3) in [0, 1], first row at the top, as a file."""
    from matplotlib import image

    content = io.BytesIO()
    image.imsave(content, np.ascontiguousarray(pixels), format="png")
    return content.getvalue()
