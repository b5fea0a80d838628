"""A scikit-learn transformer: recordings in, vectors out, for pipelines and searches over readouts and layers."""

from __future__ import annotations

import functools
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..audio.resampling import SAMPLE_RATE
from ..errors import ConfigError
from ..inference.model import BATCH_SIZE, EATModel, load
from ..inference.readouts import READOUTS, width
from ..inference.sounds import as_numpy
from ..network.settings import choose
from .embedding import of_any_length

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils.validation import check_array, check_is_fitted
except ImportError:
    raise ConfigError("this interface needs scikit-learn: pip install 'eat-audio[evaluate]'.") from None


class EATFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """One vector a recording, of paths or of waveforms; nothing is learned.

    An object holds its settings alone and pickles without weights: the checkpoint is opened where it is used, once a
    process.

    Args:
        checkpoint: of any format that :func:`EAT.load` opens.
        readout: what a recording's vector is, of :data:`EAT.inference.readouts.READOUTS`.
        layer: 0 for the input to the first block, 1 to depth for a block's output, negative from the end; None is the
            last.
        sample_rate: of waveforms, in Hz; files say their own.
        weights: of a pre-trained checkpoint, the ``student``'s encoder or the ``teacher``'s.
        device: where the model goes; None is the CPU.
        batch_size: clips of 10 s that are computed at once.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        readout: str = "mean",
        layer: int | None = None,
        sample_rate: int = SAMPLE_RATE,
        weights: str = "student",
        device: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.checkpoint, self.readout, self.layer, self.sample_rate = checkpoint, readout, layer, sample_rate
        self.weights, self.device, self.batch_size = weights, device, batch_size

    def fit(self, X: Any, y: Any = None) -> EATFeatures:
        """Check settings and recordings, and open the checkpoint. ``y`` is not looked at.

        Raises:
            ConfigError, CheckpointError: for settings or a checkpoint that cannot be used.
            ValueError: for numbers that are no waveforms.
        """
        choose(dict.fromkeys(READOUTS), self.readout, "readout")
        recordings(X)
        model = self._model()
        model.layer_numbers(self.layer)
        self._n_features_out = width(self.readout, model.encoder.settings.embed_dim, model.frequency_patches)
        return self

    @torch.no_grad()
    def transform(self, X: Any) -> NDArray[np.float32]:
        """Vectors of recordings.

        Args:
            X: paths or container addresses, in a list, an array or one column of a table; or waveforms, a list of
                (samples,) or (channels, samples) arrays of any lengths or a (clips, samples) array.

        Returns:
            (recordings, width).

        Raises:
            DataError: for a recording that cannot be read.
            ValueError: for numbers that are no waveforms.
        """
        check_is_fitted(self)
        items, model = recordings(X), self._model()
        options: dict[str, Any] = {"layer": self.layer, "granularity": self.readout, "batch_size": self.batch_size}
        if isinstance(items[0], str):
            vectors = model.extract(items, **options)
        else:
            vectors = of_any_length(model, [torch.tensor(item) for item in items], self.sample_rate, **options)
        return np.stack([as_numpy(vector) for vector in vectors])

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_n_features_out")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _model(self) -> EATModel:
        if self.checkpoint is None:
            raise ConfigError("EATFeatures has no checkpoint; give its path.")
        path = os.fspath(self.checkpoint)
        changed = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
        return _opened(path, changed, self.weights, self.device)


@functools.lru_cache(maxsize=2)
def _opened(path: str, changed: int, weights: str, device: str | None) -> EATModel:
    """A model that all estimators of a process share; ``changed`` is when its file was written."""
    return load(path, weights=weights, device=device)


def recordings(X: Any) -> list[Any]:
    """What a user calls X as a list, of paths or of waveforms. Raises ValueError or TypeError, as scikit-learn does."""
    if isinstance(X, list | tuple) and any(isinstance(item, np.ndarray | torch.Tensor) for item in X):
        return [check_array(item, ensure_2d=False, ensure_min_samples=0) for item in X]
    values = np.asarray(X) if not hasattr(X, "toarray") else X
    if values.dtype.kind in "UO" and values.size:
        column = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
        if column.ndim == 1 and all(isinstance(item, str | os.PathLike) for item in column):
            return [os.fspath(item) for item in column]
        if column.ndim == 1 and all(isinstance(item, np.ndarray) for item in column):
            return recordings(list(column))
    return list(check_array(X))
