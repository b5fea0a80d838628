"""Updates that are not finite: what counts as too many."""

from __future__ import annotations

import pytest

from EAT.errors import ConfigError, TrainingError
from EAT.training.survival.numbers import NonfiniteUpdates


def test_only_updates_in_a_row_stop_the_run() -> None:
    watch = NonfiniteUpdates(3)
    for update in range(0, 30, 3):
        watch.failed(update, None)
        watch.failed(update + 1, None)
        assert watch.skip
        watch.passed()
        assert not watch.skip
    watch.failed(31, None)
    watch.failed(32, None)
    with pytest.raises(TrainingError, match=r"the gradients of 3 updates in a row, up to update 33, .* lower"):
        watch.failed(33, None)
    assert watch.total == 23


def test_a_loss_scale_that_can_still_fall_stops_nothing() -> None:
    watch = NonfiniteUpdates(2)
    for update in range(10):
        watch.failed(update, 2.0 ** (9 - update))
    watch.failed(10, 0.5)
    with pytest.raises(TrainingError):
        watch.failed(11, 0.25)


def test_the_count_outlives_a_restart() -> None:
    watch, other = NonfiniteUpdates(2), NonfiniteUpdates(2)
    watch.failed(1, None)
    other.load_state_dict(watch.state_dict())
    with pytest.raises(TrainingError):
        other.failed(2, None)


def test_none_in_a_row_is_no_setting() -> None:
    with pytest.raises(ConfigError, match=r"task\.max_nonfinite is 0"):
        NonfiniteUpdates(0)
