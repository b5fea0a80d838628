"""What is shown while something takes its time: on a terminal alone."""

from __future__ import annotations

import io
import sys
import time

import pytest

from EAT.progress import Pace, duration, progress, waiting


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_waiting_counts_seconds_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(ValueError), waiting("exporting", interval=0.02):
        time.sleep(0.2)
        raise ValueError
    *lines, blank, end = sys.stderr.getvalue().split("\r")[1:]
    assert len(lines) >= 2 and set(lines) == {"exporting: 0 s"}
    assert blank.strip() == "" and len(blank) > len(lines[0]) and end == ""


def test_nothing_is_shown_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("exporting", interval=0.01):
        time.sleep(0.05)
    assert list(progress(range(3), description="clips")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress(range(3), description="clips")) == [0, 1, 2]
    assert "clips: 100%" in sys.stderr.getvalue() and "3/3" in sys.stderr.getvalue()


def test_the_pace_is_that_of_the_second_and_third_update() -> None:
    clock = iter([100.0, 127.0, 153.0]).__next__
    pace = Pace(clock)
    assert [pace.after_update(done, 400_000) for done in (7, 8)] == [None, None]
    assert pace.after_update(9, 400_000) == (  # 26.5 s * 399 991 = 122.7 days
        "pace: 26.5 s an update; the 399,991 that are left take about 122.7 days"
    )
    assert pace.after_update(10, 400_000) is None
    assert Pace(iter([0.0, 1.0, 2.0]).__next__).after_update(1, 0) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(99, "99 s"), (120, "2 min"), (7200, "2.0 hours"), (3 * 86400, "3.0 days")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
