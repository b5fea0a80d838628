"""docs/science.md shows what the committed results say."""

from __future__ import annotations

import re

import pytest

from EAT.commands import bench

from ..conftest import ROOT

PAGE = (ROOT / "docs" / "science.md").read_text()
RESULTS = "benchmarks/science/runs.jsonl"
TABLES = re.findall(rf"`python -m EAT\.bench (--results {re.escape(RESULTS)} --(?:table|figures|summary)[^`]*)`", PAGE)


@pytest.mark.parametrize("command", TABLES)
def test_tables_are_those_that_the_bench_prints(command: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert bench.main(command.split()) == 0
    assert capsys.readouterr().out.strip() in PAGE


def test_every_table_of_the_page_is_one_of_them() -> None:
    """Below each head of a table stands the command, or the name of a task and what follows from its table."""
    heads = re.findall(r"^(.*)\n\n\|[^\n]*\n\|---", PAGE, re.M)
    assert len(heads) > len(TABLES) > 8
    for head in heads:
        assert head in {f"`python -m EAT.bench {command}`" for command in TABLES} or head.endswith(", accuracy in %")
