"""Early stopping on the validation score, and the best checkpoint, in real runs."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from EAT.training.survival.patience import Patience

from ...fairseq_runs import train
from ...labelled_clips import write_single_label
from ..test_classification_task import TINY, load, validations


@pytest.mark.parametrize("maximize", [True, False])
def test_what_counts_as_no_better(maximize: bool) -> None:
    sign, patience = (1 if maximize else -1), Patience()
    failed = []
    for score in (0.5, 0.4, 0.6, 0.6, math.nan, 0.7):
        patience.validated(sign * score, maximize)
        failed.append(patience.failed)
        again = Patience()
        again.load_state_dict(patience.state_dict())
        assert vars(again) == vars(patience)
    assert failed == [0, 1, 0, 1, 2, 0] and patience.best == sign * 0.7
    assert not patience.over(0) and not patience.over(1)
    patience.load_state_dict({})  # of an earlier release
    assert (patience.best, patience.failed) == (None, 0)


def test_a_run_stops_early_is_resumed_with_its_patience_and_is_then_finished(tmp_path: Path) -> None:
    """An epoch an update. Learning at a rate that ruins the network, it is soon no better than at its best."""
    write_single_label(tmp_path / "data", train=16, evaluation=19)
    common = (
        *TINY, f"task.data={tmp_path}/data", "dataset.batch_size=16", "optimization.lr=[0.3]", "checkpoint.patience=3",
        f"checkpoint.save_dir={tmp_path}/run", "checkpoint.save_interval=100", "lr_scheduler.lr_period_updates=300",
    )  # fmt: skip
    stopped_at, scores = 2, []
    for max_update in (stopped_at, 300):
        run = train("finetuning_folder", *common, f"optimization.max_update={max_update}")
        scores += [line["eval_accuracy"] for line in validations(run)]
    end = len(scores)
    assert stopped_at < end < 300
    expected, failed = 0.0, []
    for score in scores:
        failed.append(0 if score > expected else failed[-1] + 1)
        expected = max(expected, score)
    assert failed[-1] == 3 and max(failed[:-1]) < 3  # counted over both runs
    said = f"3 validations in a row brought no accuracy better than {expected:.4f} (checkpoint.patience=3)"
    assert f"the run ends early: {said}." in run.output
    best = load(tmp_path / "run" / "checkpoint_best.pt")
    assert best["extra_state"]["val_loss"] == pytest.approx(expected, abs=1e-6)  # although no save was due then
    assert best["optimizer_history"][-1]["num_updates"] in [n for n, s in enumerate(scores, 1) if s == expected]
    last = load(tmp_path / "run" / "checkpoint_last.pt")
    assert last["optimizer_history"][-1]["num_updates"] == end
    again = train("finetuning_folder", *common, "optimization.max_update=300")
    assert re.search(rf"run is finished, with {end} updates: {re.escape(said)}; a higher", again.output)
    assert not again.lines and not validations(again)
