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
from ..network.patches import mean_of_real, real_patches
from .model import EATModel

CLS, MEAN = 0, 1
"""Places of the two features of a clip: the CLS token, and the mean of the patches that hold audio."""


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
def pooled_layers(model: EATModel, filterbank: Tensor, lengths: Tensor) -> Tensor:
    """Both features of every layer.

    Args:
        model: whose encoder to use.
        filterbank: (B, 1, frames, 128) normalised.
        lengths: (B,) 16 kHz samples of each clip; patches past them do not count.

    Returns:
        (B, 1 + depth, 2, D) float32: layer 0 is the input to the first block; CLS, then the mean of the patches.
    """
    tokens = model(filterbank, tuple(range(model.encoder.settings.depth + 1))).float()  # (B, L, 1 + N, D)
    length = filterbank.shape[2]
    frames = model.front_end.real_frames(lengths.to(tokens.device), limit=length)
    real = real_patches(frames, model.encoder.grid(length), model.patch_size)
    return torch.stack([tokens[:, :, 0], mean_of_real(tokens[:, :, 1:], real)], dim=2)


def compute_features(
    model: EATModel, manifest: Manifest, front_end: FrontEnd, batch_size: int, workers: int | None, description: str
) -> np.ndarray:
    """Features of all clips.

    Returns:
        (clips, 1 + depth, 2, D) float16, NaN for clips that cannot be read; these are named on stderr.

    Raises:
        CheckpointError: for features that are not finite.
    """
    config = model.encoder.settings
    features = np.full((len(manifest), config.depth + 1, 2, config.embed_dim), np.nan, dtype=np.float16)
    for batch in filterbank_batches(manifest, front_end, batch_size, workers, model.device, description):
        pooled = pooled_layers(model, batch.filterbank, batch.lengths).half().cpu().numpy()
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
) -> np.ndarray:
    """:func:`compute_features`, kept in a file whose name follows from everything that they depend on.

    That is the weights (``key``), the manifest with its root folder, and the front end. Recordings that are replaced
    under the same names go unnoticed.
    """
    digest = hashlib.sha256()
    for part in (key, Path(manifest.path).read_bytes().hex(), manifest.root, repr(front_end)):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    path = cache / f"{split}-{digest.hexdigest()[:24]}.npy"
    shape = (len(manifest), model.encoder.settings.depth + 1, 2, model.encoder.settings.embed_dim)
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
    features = compute_features(model, manifest, front_end, batch_size, workers, split)
    with replacing(path, "wb") as handle:
        np.save(handle, features)
    return features
