"""A set's embeddings as a map on which clips are heard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..files import replacing
from ..inference.nearest import Collection
from ..inference.sources import Source
from .embeddings_map import Embeddings, positions
from .listening import SOUNDS, group_mark, listen_section, silence
from .pages import page
from .sounds import clip_sounds
from .style import OTHERS, check_library

NEIGHBOURS = 5
"""Clips that are named as nearest to each."""
MOST_GROUPS = 24
"""Labels that have a colour and shape of their own, the most frequent ones."""


def write_map(
    embeddings: Embeddings,
    path: str | Path,
    sources: Mapping[int, str],
    method: str = "pca",
    seed: int = 1,
    title: str = "",
    sounds: int = SOUNDS,
) -> None:
    """Write the page: a point a clip, which is heard when it is chosen, and the clips nearest to it.

    Args:
        embeddings: what :func:`EAT.pictures.embeddings_map.read_embeddings` read.
        path: the HTML file.
        sources: recordings, by the clip's number.
        method: ``pca`` or ``tsne``.
        seed: of t-SNE.
        title: what the clips are.
        sounds: how many of the recordings the page holds, evenly spread over the set.

    Raises:
        ConfigError: where scikit-learn is needed and not installed.
        DataError: for vectors that are all the same, or where the file cannot be written.
    """
    check_library()
    places, axes, how = positions(embeddings.vectors, method, seed)
    heading = f"{title or 'Clips'} by {how}"
    numbers = sorted(sources)
    spread = np.unique(np.linspace(0, len(numbers) - 1, min(sounds, len(numbers))).round().astype(int))
    held = clip_sounds({numbers[i]: sources[numbers[i]] for i in spread} if sounds else {})
    data = _data(embeddings, places, method, axes)
    told = silence(len(held), len(places))
    data["silent"] = told if sources else "Sounds come with --recordings, or from the clips of a --manifest."
    text = "Each point is a clip; those with like features lie near each other."
    if embeddings.multi_label:
        text += f" {embeddings.multi_label:,} clips have several labels, of which the first is shown."
    body = f"<h1>A map of sounds</h1>{listen_section(heading, text, heading)}"
    with replacing(path) as handle:
        handle.write(page(heading, body, ("page.css", "listen.css"), "listen.js", data, held))


def _data(embeddings: Embeddings, places: np.ndarray, method: str, axes: tuple[str, str]) -> dict[str, Any]:
    names = embeddings.names or [f"clip {number + 1}" for number in range(len(places))]
    labels = embeddings.labels or [""] * len(places)
    counts = Counter(labels).most_common()
    order = [label for label, _ in counts]
    shown = order if len(order) <= MOST_GROUPS else order[: MOST_GROUPS - 1]
    group = {label: min(number, len(shown)) for number, label in enumerate(order)}
    groups: list[list[Any]] = [[f"{label or 'no label'} ({count})", *group_mark(number)]
                               for number, (label, count) in enumerate(counts[: len(shown)])]  # fmt: skip
    if len(shown) < len(order):
        groups.append([f"others ({sum(count for _, count in counts[len(shown) :])})", OTHERS, 0])
    index = {label: number for number, label in enumerate(order)}
    collection = Collection([Source(name, name) for name in names], embeddings.vectors)
    nearest = collection.nearest(embeddings.vectors, NEIGHBOURS + 1)
    clips = [
        {
            "at": [float(x), float(y)],
            "group": group[label],
            "labels": [index[label]],
            "cells": [name, label],
            "near": [[near.number, round(near.similarity, 3)] for near in found if near.number != number][:NEIGHBOURS],
        }
        for number, ((x, y), label, name, found) in enumerate(zip(places, labels, names, nearest, strict=True))
    ]
    low, high = places.min(axis=0), places.max(axis=0)
    margin = 0.04 * (high - low).max()
    sides = [[axes[side], float(low[side] - margin), float(high[side] + margin)] for side in (0, 1)]
    return {
        "classes": [label or "no label" for label in order],
        "axes": {"x": sides[0], "y": sides[1], "diagonal": False, "numbered": method == "pca", "equal": True},
        "groups": groups, "columns": ["clip", "label"], "sorted": 0, "clips": clips,
    }  # fmt: skip
