"""The bench: equal work, runs that are made once, tables worked out by hand, and the real thing in miniature."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
import yaml

from EAT.comparison.recipes import Plan, Summary, composed, count_gflop, import_choices, plans, read_bench
from EAT.comparison.runs import LOG_MEL, UNTRAINED, read_results
from EAT.comparison.table import OVERALL, curves, figures_markdown, markdown, rows, summary_markdown
from EAT.data.augmentation import AUGMENTATIONS
from EAT.errors import ConfigError, DataError
from EAT.network.block import BLOCKS
from EAT.network.masking import MASKINGS
from EAT.network.objective import TARGETS, TERMS
from EAT.network.positions import POSITIONS
from EAT.pictures.compute import draw_compute
from EAT.pictures.style import PALETTE

from ..conftest import ROOT
from ..fairseq_runs import environment
from ..tiny import NETWORK, ON_A_CPU, model

CONFIG = ROOT / "config"
TINY = [*ON_A_CPU, *model(NETWORK), "task.target_length=64", "dataset.batch_size=8", "lr_scheduler.warmup_updates=1"]


TABLES: tuple[dict, ...] = (AUGMENTATIONS, BLOCKS, MASKINGS, POSITIONS, TARGETS, TERMS)
ADDED: tuple[dict, ...] = tuple({} for _ in TABLES)
"""What the candidates added to the tables when they were imported, which happens once in a process."""


@pytest.fixture(autouse=True)
def candidates_stay_here():
    """Other tests find the tables as the package has them."""
    before = [dict(table) for table in TABLES]
    for table, added in zip(TABLES, ADDED, strict=True):
        table.update(added)
    yield
    for table, own, added in zip(TABLES, before, ADDED, strict=True):
        added.update({name: choice for name, choice in table.items() if name not in own})
        table.clear()
        table.update(own)


@pytest.fixture
def bench_file(tmp_path):
    path = tmp_path / "recipes.yaml"
    content = {
        "base": "pretraining_demo",
        "user_dir": "benchmarks/science/candidates",
        "reference": "eat",
        "sizes": {"tiny": {"updates": 8, "seeds": [1, 2], "overrides": TINY}},
        "recipes": {"eat": [], "large_batch": ["dataset.batch_size=16"], "contrast": ["+criterion.weights.contrast=1"]},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def test_work_is_counted_and_divided_equally(bench_file):
    made = {(plan.recipe, plan.seed): plan for plan in plans(read_bench(bench_file), "tiny", CONFIG)}
    assert made["eat", 1].updates == 8 and made["large_batch", 2].updates == 4
    assert made["large_batch", 1].gflop == pytest.approx(2 * made["eat", 1].gflop)
    assert len({plan.key for plan in made.values()}) == 6
    alone = plans(read_bench(bench_file), "tiny", CONFIG, ["contrast"])
    assert [plan.recipe for plan in alone] == ["contrast"] * 2 and alone[0] == made["contrast", 1]


def test_the_count_is_that_worked_out_by_hand():
    """One block of width D on S tokens: 24 S D^2 + 4 S^2 D multiply-adds as 2, forward; twice that backward."""
    recipe = composed(CONFIG, "pretraining_demo", [*TINY, "task.data=.", "model.depth=1"])
    deeper = composed(CONFIG, "pretraining_demo", [*TINY, "task.data=.", "model.depth=2"])
    dim, clips, clones, patches = 32, 8, 2, 4 * 8

    def block(tokens: int) -> int:
        return 24 * tokens * dim**2 + 4 * tokens**2 * dim

    student, teacher = clones * block(1 + 6), block(1 + patches)  # floor(32 * 0.2) patches are visible
    extra = clips * (3 * student + teacher) / 1e9
    counted = count_gflop(deeper) - count_gflop(recipe)
    assert counted == pytest.approx(extra, rel=0.005)  # biases' gradients are products too, 0.4 %


def test_the_count_has_mixtures_and_the_optimiser_in_it(bench_file):
    """Every clip with its mixture is more than twice the work; Muon's steps are products of matrices, here by hand."""
    project = yaml.safe_load((ROOT / "benchmarks" / "science" / "recipes.yaml").read_text())
    project["sizes"] = {"tiny": {"updates": 8, "seeds": [1], "overrides": TINY}}
    del project["summaries"]  # which name the sizes that it has no more
    bench_file.write_text(yaml.safe_dump(project))
    made = {plan.recipe: plan for plan in plans(read_bench(bench_file), "tiny", CONFIG)}
    assert set(made) == set(project["recipes"])  # all of them compose, and a step of each can be made
    for plan in made.values():
        assert plan.updates == max(1, round(8 * made["eat"].gflop / plan.gflop))
    eat, mixtures, muon = (made[name].gflop for name in ("eat", "mixtures", "muon"))
    assert 2.0 < mixtures / eat < 2.5

    def steps(m: int, n: int) -> int:
        return 5 * (2 * m * m * n + 2 * m**3 + 2 * m * m * n)

    of_a_block = 4 * steps(32, 32) + 2 * steps(32, 128)  # queries, keys, values, projection, feed-forward
    assert muon - eat == pytest.approx(2 * of_a_block / 1e9)


def test_muon_steps_along_orthogonal_matrices():
    """All singular values are near 1, whatever the gradient's were; the step is 0.2 sqrt(max(m, n)) of that."""
    import_choices(str(ROOT / "benchmarks" / "science" / "candidates"))
    candidates = sys.modules["candidates"]
    torch.manual_seed(1)
    for shape in ((64, 64), (256, 64), (64, 256), (3, 64, 64)):
        values = torch.linalg.svdvals(candidates.orthogonalised(torch.randn(shape)))
        assert 0.6 < values.median() < 1.3 and values.max() < 1.3
    matrix, vector = torch.nn.Parameter(torch.zeros(128, 64)), torch.nn.Parameter(torch.zeros(64))
    groups = [{"params": [p], "muon": p is matrix, "weight_decay": 0.0} for p in (matrix, vector)]
    optimizer = candidates.MuonAndAdamW(groups, lr=0.1)
    for p in (matrix, vector):
        p.grad = torch.randn(p.shape)
    optimizer.step()
    np.testing.assert_allclose(vector.detach(), -0.1 * vector.grad.sign(), rtol=1e-4)  # AdamW's first step
    assert torch.linalg.svdvals(matrix.detach()).median().item() == pytest.approx(0.1 * 0.2 * 128**0.5, rel=0.3)
    assert torch.nn.functional.cosine_similarity(matrix.detach().flatten(), matrix.grad.flatten(), dim=0) < -0.8


def test_files_and_names_that_cannot_be_are_refused_in_a_sentence(bench_file, tmp_path):
    bench = read_bench(bench_file)
    with pytest.raises(ConfigError, match=r"no size 'huge'; it must be one of tiny"):
        plans(bench, "huge", CONFIG)
    with pytest.raises(ConfigError, match="no recipe 'nothing'"):
        plans(bench, "tiny", CONFIG, ["nothing"])
    for text in ("", "[1]", "base: x", "a: [", "sizes: {a: {updates: x}}"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigError, match=r"bad.yaml is no file of recipes"):
            read_bench(tmp_path / "bad.yaml")
    good = yaml.safe_load(bench_file.read_text())
    for summary, said in (
        (
            {"heads": [], "sizes": {"huge": ""}, "recipes": {"eat": []}},
            "'said' has the size 'huge', which there is not",
        ),
        ({"heads": [], "sizes": {}, "recipes": {"nothing": []}}, "'said' has the recipe 'nothing', which there is not"),
        ({"heads": ["a", "b"], "sizes": {}, "recipes": {"eat": ["c"]}}, "has 2 heads; 'eat' needs as many cells"),
        ({"heads": []}, "is no file of recipes"),
    ):
        (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**good, "summaries": {"said": summary}}))
        with pytest.raises(ConfigError, match=f"bad.yaml.*{said}"):
            read_bench(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match=r"pretraining_demo has no setting model\.nothing"):
        composed(CONFIG, "pretraining_demo", ["model.nothing=1"])


def line(recipe: str, seed: int, accuracy: float, gflop: float = 5.0) -> dict:
    return {
        "recipe": recipe, "size": "tiny", "seed": seed, "gflop": gflop, "overrides": [],
        "updates": round(gflop),
        "figures": {"frame_skill": 0.5},
        "scores": {"task": {"mean": {"all": [accuracy - 0.1, accuracy + 0.1], "choice": [0.0]}}},
    }  # fmt: skip


def test_the_table_is_that_worked_out_by_hand():
    """Differences 0.01, 0.02, 0.03: mean 2 points, t = 2 / (1 / sqrt 3) = 3.46, p = 0.0742; interval 4.303 / sqrt 3."""
    lines = [line("eat", seed, 0.5) for seed in (1, 2, 3)]
    lines += [line("better", seed, 0.5 + seed / 100) for seed in (1, 2, 3)]
    lines += [line("log-mel", 1, 0.7, gflop=0.0)]
    table = rows(lines, "tiny", "eat", "all")
    assert [row.recipe for row in table] == ["log-mel", "eat", "better"]
    cell = table[2].cells["task", "mean"]
    assert cell.mean == pytest.approx(52.0) and cell.difference == pytest.approx(2.0)
    assert cell.difference_interval == pytest.approx(4.3027 / math.sqrt(3), rel=1e-4)
    assert cell.p == pytest.approx(0.0742, abs=1e-4)
    assert math.isnan(table[1].cells["task", "mean"].difference)
    assert table[0].cells["task", "mean"].difference == pytest.approx(20.0)
    # Of the six, three are each other's equals: 2 / 4 is left, and half a mean's interval is 2.776 * sqrt(0.5 / 3).
    assert "| better | 3 | 0.0 |  | 0.50 | 52.0 ± 1.1 (+2.0) |" in markdown(table, ["mean"])
    assert rows(lines, "other", "eat", "all") == []


def test_noise_is_that_of_all_recipes_and_many_comparisons_count():
    """50, 50 and 51, 53 and 55, 57 and 59 alone: without the recipes' and seeds' own means 4 / 3 is left, by hand."""
    lines = [line("eat", seed, 0.5) for seed in (1, 2)]
    for recipe, gains in (("a", (1, 3)), ("b", (5, 7)), ("c", (9,))):
        lines += [line(recipe, seed, 0.5 + gain / 100) for seed, gain in zip((1, 2), gains, strict=False)]
    table = {row.recipe: row.cells["task", "mean"] for row in rows(lines, "tiny", "eat", "all")}
    # The others gain 0, 2 and 2 from seed 1 to 2, so that c would have 59 + 4 / 3; its share of the noise is 1 for its
    # run, 4 / 9 + 1 / 9 for the reference's and 4 / 36 for those of a and b. There are 2 degrees of freedom.
    assert [table[recipe].difference for recipe in "abc"] == pytest.approx([2, 6, 9 + 2 / 3])
    errors = [math.sqrt(4 / 3 / 2 * share) for share in (1, 1, 5 / 3)]
    assert [table[recipe].difference_interval / 4.3027 for recipe in "abc"] == pytest.approx(errors, rel=1e-4)
    # Student's t of two degrees of freedom has p = 1 - t / sqrt(2 + t^2).
    ts = [gain / error for gain, error in zip((2.0, 6.0, 29 / 3), errors, strict=True)]
    by_hand = [1 - t / math.sqrt(2 + t * t) for t in ts]
    assert [table[recipe].p for recipe in "abc"] == pytest.approx(by_hand, rel=1e-6)
    assert by_hand[1] < 0.05 < 3 * by_hand[1]  # one comparison would have been enough
    alone = [*lines, line("d", 7, 0.9)]  # a seed that no other has: nothing is known of the difference
    lonely = next(row for row in rows(alone, "tiny", "eat", "all") if row.recipe == "d").cells["task", "mean"]
    assert lonely.mean == 90.0 and math.isnan(lonely.difference) and math.isnan(lonely.p)
    assert "(+6.0)" in markdown(rows(lines, "tiny", "eat", "all"), ["mean"])
    sure = [one for one in lines if one["recipe"] in ("eat", "b")]
    sure += [line("eat", 3, 0.5), line("b", 3, 0.56), line("log-mel", 1, 0.46, gflop=0.0)]
    shown = markdown(rows(sure, "tiny", "eat", "all"), ["mean"])
    assert "(**+6.0**)" in shown and "46.0 (**-4.0**)" in shown


def test_a_difference_between_two_digits_is_written_alike_on_every_processor():
    """Least squares leave 3.75 with last bits of the processor's, which would write it as 3.7 or 3.8."""
    for eat_seeds in range(2, 7):
        for seeds in range(1, eat_seeds + 1):
            lines = [line("eat", seed, 0.5 + 0.03 * seed) for seed in range(eat_seeds)]
            lines += [line("b", seed, 0.5 + 0.03 * seed + 0.0375) for seed in range(seeds)]
            lines += [line("c", seed, 0.4 + 0.03 * seed) for seed in range(eat_seeds)]
            found = {row.recipe: row.cells["task", "mean"].difference for row in rows(lines, "tiny", "eat", "all")}
            assert found["b"] == 3.75


def test_the_overall_column_is_the_mean_of_what_every_row_has():
    """Of two tasks and the readouts but CLS, which log-mel has not; seeds that go up in one task and down in the other
    are no noise there."""

    def of(recipe, seed, first, second, **scores):
        tasks = {"a": {"mean": {"all": [first]}, **scores}, "b": {"mean": {"all": [second, second]}}}
        return {**line(recipe, seed, 0.0), "scores": tasks}

    cls = {"utterance": {"all": [0.1]}}
    lines = [of("log-mel", 1, 0.3, 0.5), of("eat", 1, 0.5, 0.6, **cls), of("eat", 2, 0.6, 0.5, **cls)]
    lines += [of("other", 1, 0.4, 0.8, **cls), of("other", 2, 0.7, 0.5, **cls)]
    table = {row.recipe: row.cells for row in rows(lines, "tiny", "eat", "all")}
    assert [table[recipe][OVERALL].mean for recipe in ("log-mel", "eat", "other")] == pytest.approx([40, 55, 60])
    assert table["other"][OVERALL].difference == pytest.approx(5)
    assert table["other"][OVERALL].p == pytest.approx(0.0, abs=1e-6) and table["other"]["a", "mean"].p > 0.2
    assert "utterance" not in OVERALL and table["eat"]["a", "utterance"].mean == pytest.approx(10)
    shown = markdown(rows(lines, "tiny", "eat", "all"), ["mean"]).split("\n\n")
    assert shown[0] == "all tasks, accuracy in %" and "| other | 2 |" in shown[1]
    later = [*lines, {**of("other", 3, 0.5, 0.5), "scores": {"c": {"mean": {"all": [0.9]}}}}]
    assert OVERALL not in rows(later, "tiny", "eat", "all")[0].cells  # there is nothing that all were judged by


def test_figures_go_along_with_scores_as_ranks_do():
    """Ranks 1 to 5 against 1 2 3 5 4: rho = 1 - 6 * 2 / (5 * 24) = 0.9; against their squares 1, whose p is 0."""
    lines = [line("log-mel", 1, 0.9, gflop=0.0) | {"figures": {}}]
    for recipe, skill, accuracy in zip(["eat", *"abcd"], (1, 2, 3, 4, 5), (0.1, 0.2, 0.3, 0.5, 0.4), strict=True):
        one = line(recipe, 1, accuracy)
        lines.append(one | {"figures": {"frame_skill": skill / 10, "same": 0.5, "square": accuracy**2}})
    lines[1]["figures"]["rare"] = 0.5
    assert figures_markdown(rows(lines, "tiny", "eat", "all"), ["mean"]).splitlines() == [
        "| figure | recipes | task mean |", "|---|---|---|", "| `frame_skill` | 5 | +0.90 |",
        "| `square` | 5 | **+1.00** |",
    ]  # fmt: skip


def test_a_summary_has_the_differences_of_several_sizes():
    """3 points of seeds that differ, 6 of seeds alike, which is sure; none of the reference and of what was not run."""
    small = [line(recipe, seed, 0.5 + gain) for recipe, gain in (("eat", 0), ("a", 0.02)) for seed in (1, 2)]
    small[-1]["scores"]["task"]["mean"]["all"] = [0.54]
    large = [line("eat", 1, 0.5), line("eat", 2, 0.501), line("a", 1, 0.56), line("a", 2, 0.561), line("b", 1, 0.5)]
    tables = {name: rows(lines, "tiny", "eat", "all") for name, lines in (("small", small), ("large", large))}
    said = Summary(
        ("what", "why"), {"small": "at 1", "large": "at 4"}, {"b": ("B", ""), "a": ("A", "+"), "eat": ("", "")}
    )
    assert summary_markdown(said, tables).splitlines() == [
        "| recipe | what | why | at 1 | at 4 |", "|---|---|---|---|---|", "| `b` | B |  |  | +0.0 |",
        "| `a` | A | + | +3.0 (2 seeds) | **+6.0** (2 seeds) |", "| `eat` |  |  |  |  |",
    ]  # fmt: skip


def drawn(lines: list[dict]):
    """The axes of a picture of a single task and readout."""
    (axes,) = draw_compute(curves(lines, "eat", "tiny", "all", "mean"), "eat", (UNTRAINED, LOG_MEL)).axes
    return axes


def test_the_picture_has_a_point_a_recipe_and_size_and_numbers_on_its_axis():
    """Runs of one size that differ by a little work, as deeper decoders round it, are one point."""
    lines = [line("eat", seed, 0.5, gflop=93_000.0 + seed) for seed in (1, 2)]
    lines += [{**line("eat", 3, 0.7, gflop=372_000.0), "size": "large"}, line("other", 1, 0.6, gflop=93_000.0)]
    lines += [{**line("eat", 1, 0.8, gflop=93_000.0), "size": "another", "overrides": ["optimization.lr=[1]"]}]
    lines += [line("untrained", 1, 0.4, gflop=0.0)]
    lines += [{**line("eat", 4, 0.5, gflop=93_002.0), "size": "other seeds"}]  # and these are one as well
    axes = drawn(lines)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["93", "372"]
    curves = {curve.get_label(): curve for curve in axes.lines}
    np.testing.assert_allclose(curves["eat"].get_ydata(), [50.0, 70.0])
    np.testing.assert_allclose(curves["other"].get_ydata(), [60.0])
    assert [text.get_text() for text in axes.texts] == ["untrained"]


def test_recipes_beyond_the_colours_are_grey_and_what_failed_is_at_the_edge():
    lines = [line("eat", 1, 0.5), line("untrained", 1, 0.45, gflop=0.0), line("fails", 1, 0.1)]
    lines += [line(f"recipe{number}", 1, 0.5) for number in range(len(PALETTE))]
    lines += [{**line(recipe, 1, 0.6, gflop=20.0), "size": "large"} for recipe in ("eat", "recipe1")]
    axes = drawn(lines)
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["eat", "recipe1", f"{len(PALETTE)} other recipes"]
    assert axes.get_ylim()[0] == pytest.approx(40.0)  # five points below the untrained network
    below = [curve for curve in axes.lines if curve.get_marker() == "v" and len(curve.get_xdata())]
    assert len(below) == 1 and 40.0 < below[0].get_ydata()[0] < 41.0
    with pytest.raises(DataError, match="no task's rows_max stands in every run"):
        curves(lines, "eat", "tiny", "all")


def test_plans_of_other_work_or_seed_are_other_runs():
    plan = Plan("a", "tiny", 1, "base", "EAT", ("x=1",), 10, 1.0)
    others = [("b", 1, ("x=1",), 10), ("a", 2, ("x=1",), 10), ("a", 1, ("x=2",), 10), ("a", 1, ("x=1",), 11)]
    keys = [Plan(name, "other", seed, "base", "EAT", over, updates, 2.0).key for name, seed, over, updates in others]
    assert keys[0] == plan.key  # only the name differs
    assert len({plan.key, *keys[1:]}) == 4


def test_of_two_overrides_of_a_setting_the_last_counts():
    """A size's rate that a recipe sets again is no other run; order says nothing otherwise of what a run is."""

    def key(*overrides: str, recipe: str = "a", seed: int = 1, updates: int = 10) -> str:
        return Plan(recipe, "tiny", seed, "base", "EAT", overrides, updates, 1.0).key

    assert key("rate=1", "x=1", "rate=2") == key("rate=2", "x=1") != key("rate=1", "x=1")
    assert key("x=1", "+x=2") == key("+x=2")
    assert key(recipe=LOG_MEL, seed=1, updates=0) == key(recipe=LOG_MEL, seed=2, updates=0)
    assert key(recipe=UNTRAINED, seed=1, updates=0) != key(recipe=UNTRAINED, seed=2, updates=0)
    assert key(recipe=UNTRAINED, updates=0) != key(recipe=LOG_MEL, updates=0)


def started(recipes, data, folder, *more: str) -> subprocess.CompletedProcess[str]:
    """The bench on ``data``, with its results and work in ``folder``."""
    command = [
        sys.executable, "-m", "EAT.bench", "--recipes", str(recipes), "--size", "tiny", "--data", str(data), "--task",
        f"families={data}", "--work", str(folder / "work"), "--results", str(folder / "runs.jsonl"), "--jobs", "2",
        "--picture", str(folder / "compute.png"), *more,
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)


@pytest.mark.slow
def test_the_bench_runs_resumes_and_says_what_failed(bench_file, data_with_groups, tmp_path):
    results = tmp_path / "runs.jsonl"
    run = partial(started, bench_file, data_with_groups, tmp_path)

    first = run("--only", "eat")
    assert first.returncode == 0, first.stderr
    lines = read_results(results)
    assert sorted((one["recipe"], one["seed"]) for one in lines) == [
        ("eat", 1), ("eat", 2), ("log-mel", 1), ("untrained", 1), ("untrained", 2)
    ]  # fmt: skip
    for one in lines:
        assert all(0.0 <= value <= 1.0 for value in one["scores"]["families"]["rows"]["all"])
        assert ("frame_skill" in one["figures"]) == (one["recipe"] == "eat")
    assert first.stderr.startswith(f"5 runs to make, 2 side by side; what they log is in {tmp_path / 'work'}/runs.")
    assert "| eat | 2 |" in first.stdout and (tmp_path / "compute.png").stat().st_size > 1000
    assert not any((tmp_path / "work" / "runs").iterdir())

    again = run("--only", "eat")
    assert again.returncode == 0 and again.stdout == first.stdout and read_results(results) == lines
    assert again.stderr == ""  # nothing was run; fairseq and Hydra have nothing to say

    later = run("--only", "eat", "--task", f"more={data_with_groups}")
    assert later.returncode == 0 and later.stdout == first.stdout and read_results(results) == lines
    assert later.stderr.startswith(f"5 runs of {results} were judged without more; another file")

    # The same runs under another recipe's name, and in another size, are not made again.
    broken = yaml.safe_load(bench_file.read_text())
    broken["recipes"]["twin"] = []
    broken["sizes"]["twice"] = broken["sizes"]["tiny"]
    bench_file.write_text(yaml.safe_dump(broken))
    for size, recipes in (("tiny", ["eat", "twin"]), ("twice", ["eat"])):
        made = run("--size", size, "--only", ",".join(recipes))
        assert made.returncode == 0, made.stderr
        assert made.stderr == ""
        assert all(f"| {recipe} | 2 |" in made.stdout for recipe in recipes) and "| log-mel | 1 |" in made.stdout
    known = {(one["recipe"], one["seed"]): one for one in lines}
    for one in read_results(results)[len(lines) :]:
        original = known["eat" if one["recipe"] == "twin" else one["recipe"], one["seed"]]
        assert one == {**original, "recipe": one["recipe"], "size": one["size"]}
    lines = read_results(results)
    assert len(lines) == 5 + 2 + 5

    broken["recipes"]["breaks"] = ["dataset.train_subset=nowhere"]
    bench_file.write_text(yaml.safe_dump(broken))
    third = run("--only", "eat,breaks")
    assert third.returncode == 1 and third.stderr.count("error: breaks (seed") == 2
    assert read_results(results) == lines

    broken["recipes"]["breaks"] = ["optimizer.weight_decay=heavy"]
    bench_file.write_text(yaml.safe_dump(broken))
    refused = run("--only", "eat,breaks")
    assert refused.returncode == 2 and "error: the optimiser cannot be made with these settings" in refused.stderr
    assert "Traceback" not in refused.stderr and read_results(results) == lines

    results.write_text(results.read_text() + '{"key": \n')
    fourth = run("--table")
    assert fourth.returncode == 2 and f"line {len(lines) + 1} of {results} is not JSON" in fourth.stderr
    assert json.loads(results.read_text().splitlines()[0]) == lines[0]
