"""Principal components."""

from __future__ import annotations

import numpy as np
import pytest

from EAT.errors import DataError
from EAT.pictures.components import principal_components


def test_principal_components_are_scikit_learns() -> None:
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(1).normal(size=(40, 7)).astype(np.float32) * np.arange(1, 8, dtype=np.float32)
    ours, theirs = principal_components(rows, 3), PCA(3)
    expected = theirs.fit_transform(rows.astype(np.float64))
    np.testing.assert_allclose(np.abs(ours.values), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(ours.fractions, theirs.explained_variance_ratio_, atol=1e-6)
    wide = np.random.default_rng(2).normal(size=(6, 40)).astype(np.float32)  # more columns than rows
    expected = PCA(3).fit_transform(wide.astype(np.float64))
    np.testing.assert_allclose(np.abs(principal_components(wide, 3).values), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(principal_components(rows[:2], 3).values[:, 1:], 0, atol=1e-4)  # two rows: one direction
    for bad in (np.ones((5, 3), np.float32), np.full((5, 3), np.nan, np.float32)):
        with pytest.raises(DataError):
            principal_components(bad, 2)
