"""Results as one table: means over seeds with intervals, paired differences from the reference, how sure they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .runs import LOG_MEL, UNTRAINED

Column = tuple[str, str]
"""Task and readout."""


class Cell(NamedTuple):
    """Percentages over seeds."""

    mean: float
    interval: float
    """Half the width of the 95 % interval of the mean (Student's t); NaN for one seed."""
    difference: float
    """From the reference, seeds paired; NaN for the reference itself and rows without common seeds."""
    difference_interval: float
    p: float
    """Of the paired t-test."""


class Row(NamedTuple):
    """A recipe."""

    recipe: str
    seeds: int
    gflop: float
    figures: Mapping[str, float]
    """Means over seeds of what the runs logged of their learning."""
    cells: Mapping[Column, Cell]


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean, by Student's t; NaN for fewer than two values."""
    from scipy.stats import t

    if len(values) < 2:
        return math.nan
    return float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def rows(lines: Iterable[Mapping[str, Any]], size: str, reference: str, division: str) -> list[Row]:
    """A row a recipe, controls first, then the reference, then by the mean over columns of their difference.

    Args:
        lines: of a file of results.
        size: which of them.
        reference: the recipe that the others are compared with.
        division: ``all``, ``choice`` or ``held_out`` (:func:`EAT.comparison.judge.divisions`).
    """
    by_recipe: dict[str, dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        if line["size"] == size:
            by_recipe.setdefault(line["recipe"], {})[line["seed"]] = line
    found = []
    base = by_recipe.get(reference, {})
    for recipe, runs in by_recipe.items():
        columns = [(task, readout) for task, of in next(iter(runs.values()))["scores"].items() for readout in of]
        cells = {}
        for column in columns:
            values = {seed: _score(line, column, division) for seed, line in runs.items()}
            theirs = {seed: _score(line, column, division) for seed, line in base.items() if seed in values}
            pairs = [values[seed] - theirs[seed] for seed in theirs] if recipe != reference else []
            cells[column] = Cell(
                float(np.mean(list(values.values()))), interval(list(values.values())),
                float(np.mean(pairs)) if pairs else math.nan, interval(pairs), _p(pairs),
            )  # fmt: skip
        names = sorted({name for line in runs.values() for name in line["figures"]})
        figures = {n: float(np.mean([x["figures"][n] for x in runs.values() if n in x["figures"]])) for n in names}
        found.append(Row(recipe, len(runs), float(np.mean([x["gflop"] for x in runs.values()])), figures, cells))
    order = {LOG_MEL: 0, UNTRAINED: 1, reference: 2}
    return sorted(found, key=lambda row: (order.get(row.recipe, 3), -_gain(row)))


def _score(line: Mapping[str, Any], column: Column, division: str) -> float:
    return 100.0 * float(np.mean(line["scores"][column[0]][column[1]][division]))


def _p(differences: Sequence[float]) -> float:
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or np.ptp(differences) == 0.0:
        return math.nan
    return float(ttest_1samp(differences, 0.0).pvalue)


def _gain(row: Row) -> float:
    differences = [cell.difference for cell in row.cells.values() if not math.isnan(cell.difference)]
    return float(np.mean(differences)) if differences else -math.inf


def markdown(table: Sequence[Row], readouts: Sequence[str]) -> str:
    """The table in Markdown: mean ± interval, and in brackets the difference, bold where p < 0.05."""
    columns = [column for column in max((row.cells for row in table), key=len) if column[1] in readouts]
    heads = ["recipe", "seeds", "TFLOP", "position", "skill", *(f"{task}, {readout}" for task, readout in columns)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in table:
        figures = (row.figures.get(name) for name in ("frame_position_fraction", "frame_skill"))
        work = f"{row.gflop / 1000:,.1f}" if row.gflop else ""
        cells = [row.recipe, str(row.seeds), work, *("" if f is None else f"{f:.2f}" for f in figures)]
        for column in columns:
            cell = row.cells.get(column)
            if cell is None:
                cells.append("")
                continue
            spread = "" if math.isnan(cell.interval) else f" ± {cell.interval:.1f}"
            gain = "" if math.isnan(cell.difference) else f"{cell.difference:+.1f}"
            gain = f"**{gain}**" if cell.p < 0.05 else gain
            cells.append(f"{cell.mean:.1f}{spread}" + (f" ({gain})" if gain else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
