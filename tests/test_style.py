"""What ruff and mypy do not look at: modules and functions that can be taken in at a glance."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from .conftest import ROOT

FOLDERS = ("EAT", "benchmarks", "feature_extract", "scripts", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULE_LINES, FUNCTION_LINES = 400, 60


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_needs_scrolling(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = len((ast.get_docstring(node) or "").splitlines())
            assert node.end_lineno - node.lineno - documented <= FUNCTION_LINES, f"{node.name} is too long"
