"""Every layer's features of the clips of a manifest, kept on disk."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.loading import filterbank_batches
from ..data.manifest import Manifest
from ..errors import CheckpointError, DataError
from ..files import replacing
from ..network.encoder import Encoder
from ..network.front_end import FrontEnd
from ..network.patches import real_patches
from .model import EATModel
from .readouts import READOUTS, summarise, width

POOLINGS = {"cls": ("utterance",), "both": ("utterance", "mean"), **{name: (name,) for name in READOUTS[1:]}}
"""The readouts that a probe sees side by side, by the name of ``--pooling``."""


def content_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, or of all files in a folder with their names.

    Raises:
        DataError: where one cannot be read.
    """
    digest = hashlib.sha256()
    root = Path(path)
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    try:
        for file in files:
            digest.update(str(file.relative_to(root)).encode() + b"\0")
            with open(file, "rb") as handle:
                while block := handle.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    return digest.hexdigest()


def untrained(model: EATModel, seed: int) -> EATModel:
    """The model with an encoder of the same sizes that was never trained, in its place."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Encoder(model.encoder.settings)
    model.network = encoder.to(model.device, model.encoder.cls_token.dtype)
    return model.eval()


@torch.inference_mode()
def pooled_layers(model: EATModel, filterbank: Tensor, lengths: Tensor, pooling: str) -> Tensor:
    """A vector of every layer.

    Args:
        model: whose encoder to use.
        filterbank: (B, 1, frames, 128) normalised.
        lengths: (B,) 16 kHz samples of each clip; patches past them do not count.
        pooling: one of :data:`POOLINGS`.

    Returns:
        (B, 1 + depth, width) float32: layer 0 is the input to the first block.
    """
    tokens = model(filterbank, tuple(range(model.encoder.settings.depth + 1))).float()  # (B, L, 1 + N, D)
    length = filterbank.shape[2]
    frames = model.front_end.real_frames(lengths.to(tokens.device), limit=length)
    real = real_patches(frames, model.encoder.grid(length), model.patch_size)
    summary = summarise(tokens, model.frequency_patches, real)
    return torch.cat([summary.read(readout) for readout in POOLINGS[pooling]], dim=-1)


def feature_shape(model: EATModel, manifest: Manifest, pooling: str) -> tuple[int, int, int]:
    """(clips, 1 + depth, width)."""
    config, rows = model.encoder.settings, model.frequency_patches
    columns = sum(width(readout, config.embed_dim, rows) for readout in POOLINGS[pooling])
    return len(manifest), config.depth + 1, columns


def compute_features(
    model: EATModel,
    manifest: Manifest,
    front_end: FrontEnd,
    batch_size: int,
    workers: int | None,
    description: str,
    pooling: str = "mean",
) -> np.ndarray:
    """Features of all clips.

    Returns:
        (clips, 1 + depth, width) float16, NaN for clips that cannot be read; these are named on stderr.

    Raises:
        CheckpointError: for features that are not finite.
    """
    features = np.full(feature_shape(model, manifest, pooling), np.nan, dtype=np.float16)
    for batch in filterbank_batches(manifest, front_end, batch_size, workers, model.device, description):
        pooled = pooled_layers(model, batch.filterbank, batch.lengths, pooling).half().cpu().numpy()
        if not np.isfinite(pooled).all():
            raise CheckpointError(
                f"the features of {manifest.name(batch.clips[0])} or its neighbours are NaN, infinite or beyond half "
                "precision; check the checkpoint, and the normalisation given."
            )
        features[batch.clips] = pooled
    return features


def cached_features(
    cache: Path,
    key: str,
    model: EATModel,
    manifest: Manifest,
    front_end: FrontEnd,
    batch_size: int,
    workers: int | None,
    split: str,
    pooling: str,
) -> np.ndarray:
    """:func:`compute_features`, kept in a file whose name follows from everything that they depend on.

    That is the weights (``key``), the manifest with its root folder, and the front end. Recordings that are replaced
    under the same names go unnoticed.
    """
    digest = hashlib.sha256()
    for part in (key, pooling, Path(manifest.path).read_bytes().hex(), manifest.root, repr(front_end)):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    path = cache / f"{split}-{digest.hexdigest()[:24]}.npy"
    shape = feature_shape(model, manifest, pooling)
    try:
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
        if kept.shape == shape and kept.dtype == np.float16:
            print(f"{split}: features of {len(manifest):,} clips from {path}", file=sys.stderr)
            return kept
        print(f"{path} holds no such features and is made anew", file=sys.stderr)
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        print(f"{path} cannot be read ({error}) and is made anew", file=sys.stderr)
    features = compute_features(model, manifest, front_end, batch_size, workers, split, pooling)
    with replacing(path, "wb") as handle:
        np.save(handle, features)
    return features
