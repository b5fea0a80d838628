"""What is shown while something takes its time: on a terminal alone."""

from __future__ import annotations

import io
import sys
import time

import pytest

from EAT.progress import progress, waiting


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
