"""Logs of runs are read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from EAT.errors import DataError
from EAT.pictures.run_logs import TRAINING, read_log, read_run

from .logs import LINES, VALIDATIONS, as_json, as_pairs, write_log


@pytest.mark.parametrize("form", [as_json, as_pairs])
def test_logs_are_read_in_both_forms(tmp_path: Path, form) -> None:
    write_log(tmp_path, [form(line) for line in LINES])
    run = read_run(tmp_path)
    assert run["num_updates"] == [1, 2, 3] and run["loss"] == [10.0, 5.0, 10 / 3] and "note" not in run


def test_a_resumed_run_is_joined(tmp_path: Path) -> None:
    write_log(tmp_path, [as_json(line) for line in LINES], start=1)
    write_log(
        tmp_path, [as_json({"num_updates": "3", "loss": 7.0}), as_json({"num_updates": "4", "loss": 6.0})], start=2
    )
    run = read_run(tmp_path)
    assert run["num_updates"] == [1, 2, 3, 4] and run["loss"] == [10.0, 5.0, 7.0, 6.0]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no log of a run"):
        read_run(tmp_path)
    write_log(tmp_path, [])
    with pytest.raises(DataError, match="holds no statistics yet"):
        read_run(tmp_path)


def test_logs_of_the_first_release_are_read(tmp_path: Path) -> None:
    write_log(
        tmp_path,
        [as_pairs({"num_updates": 1, "prediction_deviation": 0.25, "target_deviation": 0.75, "masked_share": 0.8})],
    )
    run = read_run(tmp_path)
    assert run["prediction_std"] == [0.25] and run["target_std"] == [0.75] and run["masked_fraction"] == [0.8]


@pytest.mark.parametrize(("kind", "form"), [("json", as_json), ("simple", as_pairs)])
def test_validations_are_read_by_split(tmp_path: Path, kind: str, form) -> None:
    epoch = "[2026-11-25 22:13:02,133][train][INFO] - " + ('{"epoch": 1, "train_loss": "9", "train_num_updates": "3"}'
            if kind == "json" else "epoch 001 | loss 9 | num_updates 3")  # fmt: skip
    write_log(tmp_path, [*(form(line) for line in LINES), VALIDATIONS[kind][0], epoch, VALIDATIONS[kind][1]])
    logged = read_log(tmp_path)
    assert set(logged) == {TRAINING, "eval"} and logged[TRAINING]["loss"] == [10.0, 5.0, 10 / 3]
    assert logged["eval"]["num_updates"] == [2, 30] and logged["eval"]["accuracy"] == [0.4483, 0.5172]
    assert logged["eval"]["loss"] == [1.87, 1.6] and logged["eval"]["mAP"] == [0.3, 0.4]
