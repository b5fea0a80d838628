"""A set's embeddings as a map: clips with like features lie near each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from ..audio.recordings import AUDIO_SUFFIXES
from ..data.labels import DESCRIPTORS, read_descriptors, read_lbl
from ..data.manifest import Manifest
from ..errors import ConfigError, DataError
from ..progress import waiting
from .components import Array, principal_components
from .style import INK, MUTED, OTHERS, PALETTE, new_figure, styled

METHODS = ("pca", "tsne")


class Embeddings(NamedTuple):
    """One vector for each clip of a set."""

    vectors: Array
    """(clips, D)"""
    labels: list[str]
    """Of each clip; empty where there are none."""
    multi_label: int
    """Clips that have more than one label, of which the first is taken."""
    names: Sequence[str] = ()
    """Of each clip: in the manifest, or its file's below the folder without the ending."""


def read_embeddings(folder: str | Path, manifest: str | Path | None = None) -> Embeddings:
    """Vectors that feature extraction wrote with ``--granularity utterance``.

    Args:
        folder: holds an ``.npy`` file a clip; without a manifest the sub-folder a file lies in is its label.
        manifest: a ``.tsv`` that names the clips; labels come from the ``.lbl`` beside it and their display names
            from ``label_descriptors.csv``.

    Raises:
        DataError: where vectors are missing, of different lengths, or no vectors.
    """
    root = Path(folder)
    with_more = 0
    if manifest is None:
        files = sorted(root.rglob("*.npy"))
        folders = [file.parent.relative_to(root).parts[:1] for file in files]
        labels = [folder[0] if folder else "" for folder in folders]
        names = [str(file.relative_to(root).with_suffix("")) for file in files]
    else:
        listed = Manifest(manifest)
        names = [listed.name(index) for index in range(len(listed))]
        files = [_vector_file(root, name) for name in names]
        descriptors = read_descriptors(Path(manifest).parent / DESCRIPTORS)
        truth = read_lbl(Path(manifest).with_suffix(".lbl"), listed, descriptors)
        labels = [descriptors[classes[0]].display for classes in truth]
        with_more = sum(len(classes) > 1 for classes in truth)
    if len(files) < 3:
        raise DataError(f"{folder} holds {len(files)} .npy files; a map needs at least three clips.")
    vectors = [_read_vector(file) for file in files]
    for file, vector in zip(files, vectors, strict=True):
        if vector.shape != vectors[0].shape:
            raise DataError(f"{file} has {len(vector)} values and {files[0]} has {len(vectors[0])}; extract them anew.")
    return Embeddings(np.stack(vectors), labels if any(labels) else [], with_more, names)


def _vector_file(root: Path, name: str) -> Path:
    """Where extraction put a clip's vector: under its name with another ending, or with one more."""
    path = PurePosixPath(name)
    plain = root / (path.with_suffix(".npy") if path.suffix.lower() in AUDIO_SUFFIXES else f"{name}.npy")
    return root / f"{name}.npy" if not plain.exists() and (root / f"{name}.npy").exists() else plain


def _read_vector(path: Path) -> Array:
    try:
        vector = np.array(np.load(path, mmap_mode="r", allow_pickle=False))  # a map claims no memory that is not there
    except (OSError, ValueError, EOFError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if vector.ndim != 1 or not np.issubdtype(vector.dtype, np.floating):
        raise DataError(f"{path} has shape {vector.shape}; extract features with --granularity utterance.")
    if not len(vector) or not np.isfinite(vector).all():
        raise DataError(f"{path} holds {'no numbers' if not len(vector) else 'NaN or infinity'}; extract it anew.")
    as_float: Array = vector.astype(np.float32)
    return as_float


def positions(vectors: Array, method: str, seed: int) -> tuple[Array, tuple[str, str], str]:
    """Each clip's position in the plane, what the axes are called, and what the picture is called."""
    if method == "pca":
        positions = principal_components(vectors, 2)
        first, second = (f"{fraction:.0%} of the variance" for fraction in positions.fractions)
        axes = (f"first principal component ({first})", f"second ({second})")
        return positions.values, axes, "their two principal components"
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ConfigError("--method tsne needs scikit-learn: pip install 'eat-audio[evaluate]'.") from None
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with waiting("t-SNE"):
        embedded = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(vectors)
    return embedded, ("", ""), f"t-SNE with perplexity {perplexity:g}"


@styled
def draw_map(embeddings: Embeddings, method: str = "pca", seed: int = 1, title: str = "") -> Any:
    """A point for each clip, coloured by its label; clips with like features lie near each other.

    Args:
        embeddings: what :func:`read_embeddings` read.
        method: ``pca``, or ``tsne``, which needs scikit-learn.
        seed: of t-SNE.
        title: what the clips are.

    Raises:
        ConfigError: where scikit-learn is needed and not installed.
        DataError: for vectors that are all the same.
    """
    places, names, how = positions(embeddings.vectors, method, seed)
    figure = new_figure(8.2 if embeddings.labels else 6.4, 5.6)
    axes = figure.subplots()
    labels = embeddings.labels or [""] * len(places)
    frequent = [label for label, _ in Counter(labels).most_common(len(PALETTE))]
    for label, colour in zip([None, *frequent], [OTHERS, *PALETTE], strict=False):
        chosen = [index for index, own in enumerate(labels) if own == label or (label is None and own not in frequent)]
        if not chosen:
            continue
        name = f"{'others' if label is None else label or 'no label'} ({len(chosen)})"
        axes.scatter(
            *places[chosen].T, s=_size(len(places)), color=colour, edgecolor="white", linewidth=0.6, alpha=0.9,
            label=name if embeddings.labels else None,
        )  # fmt: skip
    axes.set(title=f"{title or 'Clips'} by {how}", xlabel=names[0], ylabel=names[1])
    axes.margins(0.06)
    axes.set_aspect("equal", adjustable="datalim")  # near is near in every direction
    axes.grid(method == "pca")
    if method != "pca":  # its axes mean nothing
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if embeddings.labels:
        legend = figure.legend(loc="outside right upper", frameon=False, labelcolor=INK, markerscale=1.3)
        if embeddings.multi_label:
            legend.set_title(f"first label of each\n({embeddings.multi_label} clips have more)")
            legend.get_title().set_color(MUTED)
    return figure


def _size(points: int) -> float:
    """Area of a dot: smaller where there are many."""
    return float(np.clip(9000 / max(points, 1), 6, 60))
