"""Normalisation constants from a file that may hold anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from EAT.data.normalization import read_normalization
from EAT.errors import DataError


@pytest.mark.parametrize(
    "content",
    [
        '{"mean": %s, "std": 1}' % ("9" * 400),
        '{"mean": 1, "std": %s}' % ("9" * 5000),
        "[" * 100_000,
        '{"mean": ' * 50_000,
        '{"mean": NaN, "std": 1}',
        '{"mean": 1, "std": 0}',
        '{"mean": [1], "std": 1}',
        "[1, 2]",
        "null",
        "\xff",
        "",
    ],
)
def test_contents_that_are_no_constants(tmp_path: Path, content: str) -> None:
    (tmp_path / "normalization.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"normalization\.json (must hold|holds mean)"):
        read_normalization(tmp_path)


def test_constants(tmp_path: Path) -> None:
    (tmp_path / "normalization.json").write_text('{"mean": -7.5, "std": 5, "clips": 3}')
    assert read_normalization(tmp_path) == (-7.5, 5.0)
