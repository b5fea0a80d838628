"""docs/science.md shows what the committed results say."""

from __future__ import annotations

import re

import pytest

from EAT.commands import bench

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
