"""Principal components, for features as colours and for maps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Array = NDArray[np.float32]


class Components(NamedTuple):
    """Rows of a matrix in terms of its principal components."""

    values: Array
    """(rows, count)"""
    fractions: Array
    """(count,) of the variance."""


def principal_components(rows: Array, count: int) -> Components:
    """Project rows on the directions in which they vary most.

    By a singular value decomposition; of more rows than columns by the eigenvectors of their scatter, which is the same
    in a fraction of the time.

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
    if len(rows) > rows.shape[1]:
        squares, vectors = np.linalg.eigh(centred.T @ centred)  # smallest first
        strengths, directions = np.sqrt(np.maximum(squares[::-1], 0.0)), vectors.T[::-1]
    else:
        _, strengths, directions = np.linalg.svd(centred, full_matrices=False)
    if not strengths[0] > 1e-9 * max(1.0, float(np.abs(rows).max())):
        raise DataError("the features are all the same, so that there is nothing to see in them.")
    signs = np.sign(directions[np.arange(len(directions)), np.abs(directions).argmax(axis=1)])
    values = centred @ (directions * signs[:, None])[:count].T
    fractions = (strengths**2 / (strengths**2).sum())[:count]
    missing = count - values.shape[1]
    if missing > 0:
        values, fractions = np.pad(values, ((0, 0), (0, missing))), np.pad(fractions, (0, missing))
    return Components(values.astype(np.float32), fractions.astype(np.float32))
