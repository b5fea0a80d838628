"""docs/science.md shows what the committed results say."""

from __future__ import annotations

import re
from pathlib import Path

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


def test_what_the_page_says_of_the_noise_without_the_recipe_that_fell_apart(tmp_path: Path, capsys) -> None:
    """'How sure a table is': the bold ones of its three recipes, with the runs of ``rate_8e-3`` and without them."""
    runs = (ROOT / RESULTS).read_text().splitlines(keepends=True)
    (tmp_path / "without.jsonl").write_text("".join(run for run in runs if '"rate_8e-3"' not in run))
    for results, half_width, bold in ((ROOT / RESULTS, "1.1", False), (tmp_path / "without.jsonl", "0.9", True)):
        assert bench.main(["--results", str(results), "--table"]) == 0
        overall = capsys.readouterr().out.split("esc10, accuracy")[0]
        for recipe in ("rate_1e-3", "one_clone", "utterance_192"):
            row = re.search(rf"^\| {recipe} \|.*", overall, re.M)
            assert row is not None
            assert f"± {half_width} (" in row[0] and ("**" in row[0]) == bold


@pytest.mark.parametrize("shown", [["--table"], ["--figures"], ["--summary", "claims"]])
def test_what_is_only_shown_refuses_to_choose_recipes(shown: list[str], capsys) -> None:
    assert bench.main(["--results", str(ROOT / RESULTS), *shown, "--only", "eat"]) == 2
    assert "--only says which recipes are made" in capsys.readouterr().err
