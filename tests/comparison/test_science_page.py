"""docs/science.md shows what the committed results say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from EAT.commands import bench
from EAT.comparison.runs import read_results
from EAT.comparison.table import OVERALL, markdown, rows

from ..conftest import ROOT

PAGE = (ROOT / "docs" / "science.md").read_text()
RESULTS = "benchmarks/science/runs.jsonl"
TABLES = re.findall(rf"`python -m EAT\.bench (--results {re.escape(RESULTS)} --(?:table|figures)[^`]*)`", PAGE)


@pytest.mark.parametrize("command", TABLES)
def test_tables_are_those_that_the_bench_prints(command: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert bench.main(command.split()) == 0
    assert capsys.readouterr().out.strip() in PAGE


def test_there_are_some() -> None:
    assert TABLES


def test_the_tables_of_claims_and_ideas_are_the_overall_differences() -> None:
    """Rows of a recipe's differences at two rates: their numbers and seeds; what is bold there is bold in its table."""
    lines = read_results(ROOT / RESULTS)
    tables = [{row.recipe: row for row in rows(lines, size, "eat", "all")} for size in ("screening", "brisk")]
    found = re.findall(r"^\| [^|]* \| `(\w+)`[^|]* \| ([^|]*) \| ([^|]*) \|$", PAGE, re.M)
    assert len(found) > 20
    for recipe, *cells in found:
        for cell, table in zip(cells, tables, strict=True):
            if not cell:
                assert recipe not in table
                continue
            number, seeds = re.fullmatch(r"\**([+-][\d.]+)\**(?: \((\d) seeds\))?", cell).groups()  # type: ignore
            row = table[recipe]
            assert number == f"{row.cells[OVERALL].difference:+.1f}", recipe
            assert int(seeds or 1) == row.seeds
            assert cell.startswith("**") == (f"(**{number}**)" in _overall(table.values(), recipe))


def _overall(table: Any, recipe: str) -> str:
    return next(line for line in markdown(list(table), []).splitlines() if line.startswith(f"| {recipe} |"))
