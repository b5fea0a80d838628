"""Curves hold the logged numbers."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from EAT.errors import DataError
from EAT.pictures.run_logs import TRAINING, read_log
from EAT.pictures.runs import draw_runs

from .logs import LINES, VALIDATIONS, as_json, write_log


def test_a_picture_of_runs_draws_their_numbers(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json(line) for line in LINES])
    run = read_log(tmp_path)
    panels = {axes.get_title(loc="left"): axes for axes in draw_runs({"one": run, "two": run}).axes}
    assert set(panels) == {"Loss", "Loss terms", "Learning rate"}
    lines = panels["Loss"].lines
    assert [line.get_label() for line in lines] == ["one", "two"]
    assert lines[0].get_xdata().tolist() == [1, 2, 3] and lines[0].get_ydata().tolist() == run[TRAINING]["loss"]
    assert panels["Loss"].get_xlabel() == "update" and panels["Loss"].get_yscale() == "log"


def test_what_is_logged_is_drawn_without_a_list_of_it(tmp_path: Path) -> None:
    line = {"num_updates": 1, "loss": 3.0, "frame_loss": 1.0, "contrast_loss": 2.0, "target_std": 0.9, "skill": 0.4,
            "prediction_std": 0.5, "wall": 7, "masked_fraction": 0.8}  # fmt: skip
    write_log(tmp_path, [as_json({**line, "num_updates": update}) for update in (1, 2)])
    drawn = {axes.get_title(loc="left"): axes for axes in draw_runs({"one": read_log(tmp_path)}).axes if axes.lines}
    assert list(drawn) == ["Loss", "Loss terms", "Standard deviation", "Skill"]
    assert [text.get_text() for text in drawn["Loss terms"].get_legend().get_texts()] == ["contrast", "frame"]
    assert drawn["Skill"].lines[0].get_ydata().tolist() == [0.4, 0.4]


def test_logarithmic_axes_have_room_for_their_numbers() -> None:
    run = {TRAINING: {"num_updates": [1.0, 2.0, 3.0], "loss": [120.0, 11.0, 1.7]}}
    figure = draw_runs({"one": run})
    figure.canvas.draw()
    boxes = sorted(
        (label.get_window_extent() for label in figure.axes[0].get_yticklabels(which="both") if label.get_text()),
        key=lambda box: box.y0,
    )
    low, high = figure.axes[0].get_window_extent().y0, figure.axes[0].get_window_extent().y1
    boxes = [box for box in boxes if low <= (box.y0 + box.y1) / 2 <= high]
    assert len(boxes) >= 4
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(boxes))


def test_terms_that_are_not_positive_are_drawn_too(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json({"num_updates": u, "loss": 2.0, "retention_loss": -0.5 * u}) for u in (1, 2)])
    panels = {axes.get_title(loc="left"): axes for axes in draw_runs({"one": read_log(tmp_path)}).axes}
    assert panels["Loss"].get_yscale() == "log" and panels["Loss terms"].get_yscale() == "linear"
    low, high = panels["Loss terms"].get_ylim()
    assert low < -1 < -0.5 < high


def test_a_skill_far_below_nothing_does_not_hide_the_other(tmp_path: Path) -> None:
    skills = {"frame_skill": 0.4, "utterance_skill": -1000.0}
    write_log(tmp_path, [as_json({"num_updates": update, **skills}) for update in (1, 2)])
    (axes,) = (axes for axes in draw_runs({"one": read_log(tmp_path)}).axes if axes.lines)
    low, high = axes.get_ylim()
    assert axes.get_title(loc="left") == "Skill" and low == -1.0 and 0.4 < high < 1.0


def test_a_log_of_bookkeeping_alone_is_a_sentence(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json({"num_updates": 1, "wall": 3})])
    with pytest.raises(DataError, match="the log holds nothing that could be drawn"):
        draw_runs({"one": read_log(tmp_path)})


def test_validation_is_drawn_beside_training_over_the_same_updates(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json(line) for line in LINES] + list(VALIDATIONS["json"]))
    axes = draw_runs({"one": read_log(tmp_path)}).axes
    panels = {ax.get_title(loc="left"): ax for ax in axes if ax.get_visible()}
    assert set(panels) == {"Loss", "Loss terms", "Learning rate", "Accuracy", "mAP"}
    training, validation = panels["Loss"].lines
    assert [training.get_label(), validation.get_label()] == ["training", "eval"]
    assert validation.get_xdata().tolist() == [2.0, 30.0] and validation.get_ydata().tolist() == [1.87, 1.6]
    assert training.get_color() != validation.get_color() and validation.get_marker() == "o"
    assert panels["Accuracy"].lines[0].get_ydata().tolist() == [0.4483, 0.5172]
    assert len({ax.get_xlim() for ax in panels.values()}) == 1  # the same update in the same place


def test_a_run_has_one_colour_in_every_panel(tmp_path: Path) -> None:
    write_log(tmp_path / "one", [as_json(line) for line in LINES])
    write_log(tmp_path / "two", [as_json({"num_updates": u, "gnorm": 1.0, "loss": 2.0}) for u in (1, 2)])
    panels = draw_runs({name: read_log(tmp_path / name) for name in ("one", "two")}).axes
    colours = {ax.get_title(loc="left"): [line.get_color() for line in ax.lines] for ax in panels}
    assert colours["Loss"][1] == colours["Gradient norm"][0] != colours["Learning rate"][0] == colours["Loss"][0]
