"""Results as tables: means over seeds with intervals, differences from the reference, how sure they are.

Three seeds say little of how far seeds are apart; all recipes' seeds together say more. An analysis of variance gives
one standard deviation to all rows: for means, of what is left when each recipe has lost its own mean; for differences,
of what is left when each seed has lost its own too, which two recipes share. So a single seed has an interval as well,
and its difference is the one that recipes of several seeds leave to it: where both have all seeds, that of the means.
Many recipes are compared with one: a difference counts where its p, times their number, is below 0.05 (Bonferroni's
correction); the two controls, which ask another question, are two. What seeds do to one task and readout they do not
do to the next, so that the mean over all that every row has says more than each. Clips that other collections hold are
another matter: all rows are judged by the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, KeysView, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from .recipes import LOG_MEL, UNTRAINED, Summary

Column = tuple[str, str]
"""Task and readout."""
OVERALL: Column = ("all tasks", "mean of readouts")
"""The mean over the tasks and readouts that every run has been judged by; the spectrogram has none of CLS."""


class Cell(NamedTuple):
    """Percentages over seeds."""

    mean: float
    interval: float
    """Half the width of the 95 % interval of the mean (Student's t); NaN where no recipe has two seeds."""
    difference: float
    """From the reference, without what seeds do to all; NaN for the reference and what shares no seeds with it."""
    difference_interval: float
    p: float
    """Of the t-test of that difference alone; NaN where nothing is known of the noise."""


class Row(NamedTuple):
    """A recipe."""

    recipe: str
    seeds: int
    gflop: float
    figures: Mapping[str, float]
    """Means over seeds of what the runs logged of their learning."""
    cells: Mapping[Column, Cell]


class Noise(NamedTuple):
    """What recipe, or recipe and seed, explain of runs, and how far the runs are from that."""

    deviation: float
    freedom: int
    recipes: Sequence[str] = ()
    values: np.ndarray = np.zeros(0)
    """By run."""
    design: np.ndarray = np.zeros((0, 0))
    """By run and what explains it, recipes first."""

    def difference(self, recipe: str, reference: str) -> tuple[float, float]:
        """How far recipes are apart, and the share of a run's variance that this has; NaN where runs do not tell.

        Rounded beyond what any table shows: the last bits are the processor's, and would decide how 3.75 and 0 are
        written.
        """
        asked = np.zeros(self.design.shape[1])
        asked[[self.recipes.index(recipe), self.recipes.index(reference)]] = 1.0, -1.0
        weights = asked @ np.linalg.pinv(self.design)
        if not np.allclose(weights @ self.design, asked, atol=1e-6):
            return math.nan, math.nan
        return round(float(weights @ self.values), 9) + 0.0, float(weights @ weights)

    def interval(self, share: float) -> float:
        """Half the width of the 95 % interval of what has this share of a run's variance; NaN if nothing is known."""
        from scipy.stats import t

        return float(t.ppf(0.975, self.freedom) * self.deviation * math.sqrt(share)) if self.freedom else math.nan

    def p(self, difference: float, share: float) -> float:
        """How often a difference so far from 0 is chance, by the two-sided t-test."""
        from scipy.stats import t

        if not (self.freedom and self.deviation):
            return math.nan
        return float(2 * t.sf(abs(difference) / (self.deviation * math.sqrt(share)), self.freedom))


def noise(values: Mapping[str, Mapping[int, float]], by_seed: bool) -> Noise:
    """What recipes, and seeds too where ``by_seed``, do not explain of values by recipe and seed; least squares."""
    runs = [(recipe, seed, value) for recipe, of in values.items() for seed, value in of.items()]
    recipes = sorted(values)
    seeds = sorted({seed for _, seed, _ in runs}) if by_seed else []
    design = np.array([[r == recipe for r in recipes] + [s == seed for s in seeds] for recipe, seed, _ in runs], float)
    scored = np.array([value for *_, value in runs])
    if not runs:
        return Noise(math.nan, 0)
    fitted, _, rank, _ = np.linalg.lstsq(design, scored, rcond=None)
    freedom = len(runs) - int(rank)
    left = float(((scored - design @ fitted) ** 2).sum())
    return Noise(math.sqrt(left / freedom) if freedom else math.nan, freedom, recipes, scored, design)


def rows(lines: Iterable[Mapping[str, Any]], size: str, reference: str, division: str) -> list[Row]:
    """A row a recipe, controls first, then the reference, then by their difference in the first (overall) column.

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
    columns = columns_of([line for runs in by_recipe.values() for line in runs.values()])
    cells: dict[str, dict[Column, Cell]] = {recipe: {} for recipe in by_recipe}
    for column, parts in columns.items():
        scores = {
            recipe: {seed: score(line, parts, division) for seed, line in runs.items() if set(parts) <= judged_by(line)}
            for recipe, runs in by_recipe.items()
        }
        values = {recipe: scored for recipe, scored in scores.items() if scored}
        of_runs = {recipe: scored for recipe, scored in values.items() if recipe != LOG_MEL}
        of_means, of_differences = noise(of_runs, by_seed=False), noise(of_runs, by_seed=True)
        theirs = list(values.get(reference, {}).values())
        for recipe, scored in values.items():
            mean, plain = float(np.mean(list(scored.values()))), recipe == LOG_MEL
            apart, share, of = math.nan, math.nan, of_means if plain else of_differences
            if theirs and plain:  # it has no seeds and no noise, the reference has both
                apart, share = mean - float(np.mean(theirs)), 1 / len(theirs)
            elif theirs and recipe != reference:
                apart, share = of.difference(recipe, reference)
            spread = math.nan if plain else of_means.interval(1 / len(scored))
            cells[recipe][column] = Cell(mean, spread, apart, of.interval(share), of.p(apart, share))
    found = []
    for recipe, runs in by_recipe.items():
        names = sorted({name for line in runs.values() for name in line["figures"]})
        figures = {n: float(np.mean([x["figures"][n] for x in runs.values() if n in x["figures"]])) for n in names}
        work = float(np.mean([line["gflop"] for line in runs.values()]))
        found.append(Row(recipe, len(runs), work, figures, cells[recipe]))
    order = {LOG_MEL: 0, UNTRAINED: 1, reference: 2}
    return sorted(found, key=lambda row: (order.get(row.recipe, 3), -_gain(row)))


def columns_of(lines: Sequence[Mapping[str, Any]]) -> dict[Column, list[Column]]:
    """The columns of a table of runs, and what each is the mean of: itself, or for :data:`OVERALL` what all have."""
    columns = {column: [column] for line in lines for column in judged_by(line)}
    shared = [column for column in columns if in_all(column, lines)]
    return ({OVERALL: shared} if len(shared) > 1 else {}) | columns


def judged_by(line: Mapping[str, Any]) -> KeysView[Column]:
    """The tasks and readouts of a run, in their order."""
    return dict.fromkeys((task, readout) for task, of in line["scores"].items() for readout in of).keys()


def in_all(column: Column, lines: Iterable[Mapping[str, Any]]) -> bool:
    """Whether every run has been judged by this task and readout."""
    return all(column in judged_by(line) for line in lines)


def score(line: Mapping[str, Any], columns: Sequence[Column], division: str) -> float:
    """A run's accuracy in %, the mean over columns of those over the groups of a division."""
    return 100.0 * float(np.mean([np.mean(line["scores"][task][readout][division]) for task, readout in columns]))


def _gain(row: Row) -> float:
    differences = [cell.difference for cell in row.cells.values() if not math.isnan(cell.difference)]
    return differences[0] if differences else -math.inf


def markdown(table: Sequence[Row], readouts: Sequence[str]) -> str:
    """In Markdown, a table a task: mean ± interval, and in brackets the difference, bold where it counts."""
    shown = _columns(table, readouts)
    made = []
    for task in dict.fromkeys(task for task, _ in shown):
        columns = [column for column in shown if column[0] == task]
        heads = ["recipe", "seeds", "TFLOP", "position", "skill", *(readout for _, readout in columns)]
        made += [f"{task}, accuracy in %", "", *_heads(heads)]
        for row in table:
            figures = (row.figures.get(name) for name in ("frame_position_fraction", "frame_skill"))
            work = f"{row.gflop / 1000:,.1f}" if row.gflop else ""
            cells = [row.recipe, str(row.seeds), work, *("" if f is None else f"{f:.2f}" for f in figures)]
            many = _compared(row, table)
            cells += [_written(row.cells[column], many) if column in row.cells else "" for column in columns]
            made.append(_line(cells))
        made.append("")
    return "\n".join(made)


def summary_markdown(summary: Summary, tables: Mapping[str, Sequence[Row]]) -> str:
    """In Markdown, differences in the first (overall) column of the tables of several sizes, bold where they are there.

    Empty where a recipe was not run, and where there is no difference to tell.
    """
    made = _heads(["recipe", *summary.heads, *summary.sizes.values()])
    for recipe, said in summary.recipes.items():
        made.append(_line([f"`{recipe}`", *said, *(_difference(recipe, tables[size]) for size in summary.sizes)]))
    return "\n".join(made)


def _difference(recipe: str, table: Sequence[Row]) -> str:
    row = next((row for row in table if row.recipe == recipe), None)
    if row is None or math.isnan((cell := next(iter(row.cells.values()))).difference):
        return ""
    return _apart(cell, _compared(row, table)) + (f" ({row.seeds} seeds)" if row.seeds > 1 else "")


def curves(
    lines: Iterable[Mapping[str, Any]], reference: str, size: str, division: str, readout: str = "rows_max"
) -> dict[str, dict[str, dict[int, list[tuple[float, float]]]]]:
    """Work (TFLOP) and accuracy (%) of each run, in panels: :data:`OVERALL`, and a readout of each task that all share.

    By recipe and the reference's updates; of ``size`` and those where the reference is the same but for its updates.
    Raises DataError where all share none.
    """
    lines = list(lines)
    theirs = {line["size"]: (line["overrides"], line["updates"]) for line in lines if line["recipe"] == reference}
    alike = {name: updates for name, (same, updates) in theirs.items() if size in theirs and same == theirs[size][0]}
    lines = [line for line in lines if line["size"] in alike]
    panels: dict[str, dict[str, dict[int, list[tuple[float, float]]]]] = {}
    for column, parts in columns_of(lines).items():
        if column == OVERALL or (column[1] == readout and in_all(column, lines)):
            recipes = panels.setdefault(", ".join(column), {})
            for line in lines:
                runs = recipes.setdefault(line["recipe"], {}).setdefault(alike[line["size"]], [])
                runs.append((line["gflop"] / 1000, score(line, parts, division)))
    if not panels:
        raise DataError(f"there is nothing to draw: no task's {readout} stands in every run of these sizes.")
    return panels


def figures_markdown(table: Sequence[Row], readouts: Sequence[str]) -> str:
    """In Markdown: how a recipe's figures go along with its scores, Spearman's rank correlation over the recipes.

    Bold where its p, times the number of correlations shown, is below 0.05. A figure that fewer than five recipes
    logged has no row.
    """
    from scipy.stats import spearmanr

    trained = [row for row in table if row.figures]
    columns = _columns(table, readouts)
    found: dict[str, tuple[int, list[tuple[float, float]]]] = {}
    for name in sorted({name for row in trained for name in row.figures}):
        logged = [row for row in trained if name in row.figures]
        if len(logged) >= 5 and len({row.figures[name] for row in logged}) > 1:
            values = [row.figures[name] for row in logged]
            tests = [spearmanr(values, [row.cells[column].mean for row in logged]) for column in columns]
            found[name] = len(logged), [(float(test.statistic), float(test.pvalue)) for test in tests]
    compared = len(found) * len(columns)
    made = _heads(["figure", "recipes", *(f"{task} {readout}" for task, readout in columns)])
    for name, (recipes, tested) in found.items():
        made.append(_line([f"`{name}`", str(recipes), *(_sure(f"{rho:+.2f}", p, compared) for rho, p in tested)]))
    return "\n".join(made)


def _columns(table: Sequence[Row], readouts: Sequence[str]) -> list[Column]:
    return [
        column for column in max((row.cells for row in table), key=len) if column == OVERALL or column[1] in readouts
    ]


def _heads(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _sure(text: str, p: float, compared: int) -> str:
    """Bold where it stands out among as many comparisons (Bonferroni's correction)."""
    return f"**{text}**" if p * max(compared, 1) < 0.05 else text


def _compared(row: Row, table: Sequence[Row]) -> int:
    """Among how many comparisons of a table a row's stands."""
    controls = (LOG_MEL, UNTRAINED)
    return len(controls) if row.recipe in controls else sum(other.recipe not in controls for other in table) - 1


def _apart(cell: Cell, compared: int) -> str:
    return _sure(f"{cell.difference:+.1f}", cell.p, compared)


def _written(cell: Cell, compared: int) -> str:
    spread = "" if math.isnan(cell.interval) else f" ± {cell.interval:.1f}"
    apart = "" if math.isnan(cell.difference) else f" ({_apart(cell, compared)})"
    return f"{cell.mean:.1f}{spread}{apart}"
