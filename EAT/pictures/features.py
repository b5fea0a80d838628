"""Pictures of features: a clip's patches as colours, and a set's embeddings as a map."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..audio.recordings import AUDIO_SUFFIXES, read_audio
from ..data.labels import DESCRIPTORS, read_descriptors, read_lbl
from ..data.manifest import Manifest
from ..errors import ConfigError, DataError
from ..inference.model import EATModel
from ..network.front_end import FRAME_LENGTH, FRAME_SHIFT, filterbank, frame_count, sample_count
from ..network.settings import FREQUENCY_PATCHES, PATCH_SIZE
from ..progress import waiting
from .prediction import fill_empty_bands
from .runs import INK, MUTED, new_figure

Array = NDArray[np.float32]

LABEL_COLOURS = (
    "#2f6fde", "#e8743b", "#2a9d8f", "#b5179e", "#e9b200",
    "#7a5195", "#c1121f", "#4cc9f0", "#606c38", "#8d5b4c",
)  # fmt: skip
"""One for each of the most frequent labels; the rest share a grey."""
OTHERS = "#b8c0c8"
METHODS = ("pca", "tsne")


class Components(NamedTuple):
    """Rows of a matrix in terms of its principal components."""

    values: Array
    """(rows, count)"""
    shares: Array
    """(count,) of the variance."""


def principal_components(rows: Array, count: int) -> Components:
    """Project rows on the directions in which they vary most, by a singular value decomposition.

    Args:
        rows: (n, D), n at least 2.
        count: how many directions; where there are fewer, zeros take the place of the rest.

    Returns:
        Components whose signs are fixed by making each direction's largest entry positive.

    Raises:
        DataError: for rows that are all the same, or not finite.
    """
    if not np.isfinite(rows).all():
        raise DataError("the features hold values that are not finite; check the checkpoint and the normalisation.")
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    left, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    if not strengths[0] > 1e-9 * max(1.0, float(np.abs(rows).max())):
        raise DataError("the features are all the same, so that there is nothing to see in them.")
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    values = (left * strengths * signs)[:, :count]
    shares = (strengths**2 / (strengths**2).sum())[:count]
    missing = count - values.shape[1]
    if missing > 0:
        values, shares = np.pad(values, ((0, 0), (0, missing))), np.pad(shares, (0, missing))
    return Components(values.astype(np.float32), shares.astype(np.float32))


def as_colours(values: Array) -> Array:
    """(n, 3) numbers to (n, 3) in [0, 1], each by its rank in its column: outliers leave colours to the rest."""
    ranks = values.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    colours: Array = (0.08 + 0.88 * ranks / max(1, len(values) - 1)).astype(np.float32)
    return colours


@torch.inference_mode()
def draw_features(model: EATModel, source: str, layer: int | None = None, target_length: int | None = None) -> Any:
    """A clip's spectrogram, and beneath it its patch features: three principal components as red, green and blue.

    Patches of like colour have like features; which colour it is means nothing.

    Args:
        model: a loaded model.
        source: the clip, at most two minutes long unless ``target_length`` cuts it.
        layer: 0 for the input to the first block, 1 to depth for a block's output; None is the last block.
        target_length: frames that the clip is cut to; None takes all of it.

    Raises:
        DataError: where the clip cannot be read.
        ConfigError: for a layer or length that does not exist.
    """
    number = model.layer_numbers(layer)[0]
    waveform = read_audio(source, None if target_length is None else sample_count(target_length))
    frames = -(-frame_count(len(waveform)) // PATCH_SIZE) * PATCH_SIZE
    features = model.extract(waveform, layer=number, granularity="frame").float().cpu().numpy()  # (N, D)
    components = principal_components(features, 3)
    colours = as_colours(components.values).reshape(-1, FREQUENCY_PATCHES, 3).transpose(1, 0, 2)  # (8, T, 3)
    padded = torch.nn.functional.pad(waveform, (0, max(0, FRAME_LENGTH + (frames - 1) * FRAME_SHIFT - len(waveform))))
    mel = fill_empty_bands(filterbank(padded)[:frames].T.numpy().copy())  # (bins, frames)

    figure = new_figure(min(16.0, max(6.5, frames * 0.012 + 2.5)), 5.0)
    upper, lower = figure.subplots(2, 1, sharex=True)
    extent = (0, frames / 100, 0, mel.shape[0])
    levels = {"vmin": np.percentile(mel, 2), "vmax": np.percentile(mel, 99.8)}
    upper.imshow(mel, origin="lower", aspect="auto", extent=extent, cmap="magma", interpolation="nearest", **levels)
    upper.set_title(Path(source).name)
    lower.imshow(colours, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
    what = "the input to the blocks" if number == 0 else f"block {number} of {model.encoder.settings.depth}"
    lower.set_title(f"Patch features of {what}: like colours, like features")
    shares = ", ".join(
        f"{name} {share:.0%}" for name, share in zip(("red", "green", "blue"), components.shares, strict=True)
    )
    lower.set_xlabel(f"seconds\n\nthree principal components, by rank: {shares} of the variance")
    for axes in (upper, lower):
        axes.set_ylabel("mel bin")
        axes.set_yticks([0, 64, 128])
    return figure


class Embeddings(NamedTuple):
    """One vector for each clip of a set."""

    vectors: Array
    """(clips, D)"""
    labels: list[str]
    """Of each clip; empty where there are none."""
    several: int
    """Clips that have more than one label, of which the first is taken."""


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
    several = 0
    if manifest is None:
        files = sorted(root.rglob("*.npy"))
        labels = [file.parent.relative_to(root).parts[:1] for file in files]
        names = [label[0] if label else "" for label in labels]
    else:
        listed = Manifest(manifest)
        files = [_vector_file(root, listed.name(index)) for index in range(len(listed))]
        descriptors = read_descriptors(Path(manifest).parent / DESCRIPTORS)
        truth = read_lbl(Path(manifest).with_suffix(".lbl"), listed, descriptors)
        names = [descriptors[classes[0]].display for classes in truth]
        several = sum(len(classes) > 1 for classes in truth)
    if len(files) < 3:
        raise DataError(f"{folder} holds {len(files)} .npy files; a map needs at least three clips.")
    vectors = [_read_vector(file) for file in files]
    for file, vector in zip(files, vectors, strict=True):
        if vector.shape != vectors[0].shape:
            raise DataError(f"{file} has {len(vector)} values and {files[0]} has {len(vectors[0])}; extract them anew.")
    return Embeddings(np.stack(vectors), names if any(names) else [], several)


def _vector_file(root: Path, name: str) -> Path:
    """Where extraction put a clip's vector: under its name with another ending, or with one more."""
    path = PurePosixPath(name)
    plain = root / (path.with_suffix(".npy") if path.suffix.lower() in AUDIO_SUFFIXES else f"{name}.npy")
    return root / f"{name}.npy" if not plain.exists() and (root / f"{name}.npy").exists() else plain


def _read_vector(path: Path) -> Array:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    if vector.ndim != 1 or not np.issubdtype(vector.dtype, np.floating):
        raise DataError(f"{path} has shape {vector.shape}; extract features with --granularity utterance.")
    as_float: Array = vector.astype(np.float32)
    return as_float


def _places(vectors: Array, method: str, seed: int) -> tuple[Array, tuple[str, str], str]:
    """Each clip's place in the plane, what the axes are called, and what the picture is called."""
    if method == "pca":
        places = principal_components(vectors, 2)
        first, second = (f"{share:.0%} of the variance" for share in places.shares)
        axes = (f"first principal component ({first})", f"second ({second})")
        return places.values, axes, "their two principal components"
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise ConfigError("--method tsne needs scikit-learn: pip install 'eat-audio[evaluate]'.") from None
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    with waiting("t-SNE"):
        embedded = TSNE(perplexity=perplexity, random_state=seed, init="pca").fit_transform(vectors)
    return embedded, ("", ""), f"t-SNE with perplexity {perplexity:g}"


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
    places, names, how = _places(embeddings.vectors, method, seed)
    figure = new_figure(8.2 if embeddings.labels else 6.4, 5.6)
    axes = figure.subplots()
    labels = embeddings.labels or [""] * len(places)
    frequent = [label for label, _ in Counter(labels).most_common(len(LABEL_COLOURS))]
    for label, colour in zip([None, *frequent], [OTHERS, *LABEL_COLOURS], strict=False):
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
    axes.grid(method == "pca")
    if method != "pca":  # its axes mean nothing
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if embeddings.labels:
        legend = figure.legend(loc="outside right upper", frameon=False, labelcolor=INK, markerscale=1.3)
        if embeddings.several:
            legend.set_title(f"first label of each\n({embeddings.several} clips have more)")
            legend.get_title().set_color(MUTED)
    return figure


def _size(points: int) -> float:
    """Area of a dot: smaller where there are many."""
    return float(np.clip(9000 / max(points, 1), 6, 60))
