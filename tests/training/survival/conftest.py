"""Figures of the fault tests, printed with pytest's summary."""

from __future__ import annotations

from typing import Any

FIGURES: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if FIGURES:
        terminalreporter.section("figures of the fault tests")
        for line in FIGURES:
            terminalreporter.write_line(line)
