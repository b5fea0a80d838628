"""Pictures have one style, and keep it to themselves."""

from __future__ import annotations

from pathlib import Path

from EAT.pictures.run_logs import read_log
from EAT.pictures.runs import draw_runs
from EAT.pictures.style import INK, MUTED, PAPER, save

from .logs import LINES, as_json, write_log


def test_drawing_leaves_others_settings_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_log(tmp_path, [as_json(line) for line in LINES])
    save(draw_runs({"one": read_log(tmp_path)}), tmp_path / "run.svg")
    assert dict(matplotlib.rcParams) == before
    assert "<text" in (tmp_path / "run.svg").read_text()  # text stays text


def contrast(one: str, other: str) -> float:
    """Of two colours, as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_text_can_be_read() -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert all(contrast(colour, PAPER) >= 4.5 for colour in (INK, MUTED))
