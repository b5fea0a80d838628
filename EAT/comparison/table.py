"""Results as one table: means over seeds with intervals, paired differences from the reference, how sure they are.

Three seeds say little of how far seeds are apart; all recipes' seeds together say more. So intervals and tests take one
standard deviation for all trained rows, of what is left when each has lost its own mean (pooled, as in an analysis of
variance), and hold for a single seed too. Many recipes are compared with one: a difference counts where its p, times
their number, is below 0.05 (Bonferroni's correction).
"""

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
    """Half the width of the 95 % interval of the mean (Student's t); NaN where no recipe has two seeds."""
    difference: float
    """From the reference, seeds paired; NaN for the reference itself and rows without common seeds."""
    difference_interval: float
    p: float
    """Of the paired t-test, of one comparison; NaN where no recipe has two pairs."""


class Row(NamedTuple):
    """A recipe."""

    recipe: str
    seeds: int
    gflop: float
    figures: Mapping[str, float]
    """Means over seeds of what the runs logged of their learning."""
    cells: Mapping[Column, Cell]


class Noise(NamedTuple):
    """What is left of values when each row has lost its own mean."""

    deviation: float
    freedom: int

    def interval(self, count: int) -> float:
        """Half the width of the 95 % interval of a mean of so many, by Student's t; NaN where nothing is known."""
        from scipy.stats import t

        if not (self.freedom and count):
            return math.nan
        return float(t.ppf(0.975, self.freedom) * self.deviation / math.sqrt(count))

    def p(self, values: Sequence[float]) -> float:
        """How often a mean so far from 0 is chance, by the two-sided t-test."""
        from scipy.stats import t

        if not (self.freedom and values) or self.deviation == 0.0:
            return math.nan
        return float(2 * t.sf(abs(np.mean(values)) * math.sqrt(len(values)) / self.deviation, self.freedom))


def pooled(samples: Iterable[Sequence[float]]) -> Noise:
    """The noise that several rows share."""
    some = [np.asarray(values) for values in samples if len(values) > 1]
    freedom = sum(len(values) - 1 for values in some)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in some)
    return Noise(math.sqrt(squares / freedom) if freedom else math.nan, freedom)


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
    base = by_recipe.get(reference, {})
    columns = dict.fromkeys(
        (task, readout)
        for runs in by_recipe.values()
        for task, of in next(iter(runs.values()))["scores"].items()
        for readout in of
    )
    cells: dict[str, dict[Column, Cell]] = {recipe: {} for recipe in by_recipe}
    for column in columns:
        values, pairs = {}, {}
        for recipe, runs in by_recipe.items():
            scored, theirs = (_scores(of, column, division) for of in (runs, base))
            values[recipe] = list(scored.values())
            pairs[recipe] = [scored[s] - theirs[s] for s in theirs if s in scored] if recipe != reference else []
        for controls in (True, False):
            alike = [recipe for recipe in by_recipe if (recipe in (LOG_MEL, UNTRAINED)) == controls and values[recipe]]
            noise, of_pairs = (pooled(of[recipe] for recipe in alike) for of in (values, pairs))
            for recipe in alike:
                own = pairs[recipe]
                cells[recipe][column] = Cell(
                    float(np.mean(values[recipe])), noise.interval(len(values[recipe])),
                    float(np.mean(own)) if own else math.nan, of_pairs.interval(len(own)), of_pairs.p(own),
                )  # fmt: skip
    found = []
    for recipe, runs in by_recipe.items():
        names = sorted({name for line in runs.values() for name in line["figures"]})
        figures = {n: float(np.mean([x["figures"][n] for x in runs.values() if n in x["figures"]])) for n in names}
        work = float(np.mean([line["gflop"] for line in runs.values()]))
        found.append(Row(recipe, len(runs), work, figures, cells[recipe]))
    order = {LOG_MEL: 0, UNTRAINED: 1, reference: 2}
    return sorted(found, key=lambda row: (order.get(row.recipe, 3), -_gain(row)))


def _scores(runs: Mapping[int, Mapping[str, Any]], column: Column, division: str) -> dict[int, float]:
    """Percentages by seed; of log-mel there are none of CLS."""
    found = {seed: line["scores"][column[0]].get(column[1]) for seed, line in runs.items()}
    return {seed: 100.0 * float(np.mean(of[division])) for seed, of in found.items() if of is not None}


def _gain(row: Row) -> float:
    differences = [cell.difference for cell in row.cells.values() if not math.isnan(cell.difference)]
    return float(np.mean(differences)) if differences else -math.inf


def markdown(table: Sequence[Row], readouts: Sequence[str]) -> str:
    """The table in Markdown: mean ± interval, and in brackets the difference, bold where it counts."""
    compared = sum(row.recipe not in (LOG_MEL, UNTRAINED) for row in table) - 1
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
            gain = f"**{gain}**" if cell.p * max(compared, 1) < 0.05 else gain
            cells.append(f"{cell.mean:.1f}{spread}" + (f" ({gain})" if gain else ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
