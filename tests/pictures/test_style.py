"""Pictures have one style, and keep it to themselves."""

from __future__ import annotations

from pathlib import Path

from EAT.pictures.run_logs import read_run
from EAT.pictures.runs import draw_runs
from EAT.pictures.style import save

from .logs import LINES, as_json, write_log


def test_drawing_leaves_others_settings_alone(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_log(tmp_path, [as_json(line) for line in LINES])
    save(draw_runs({"one": read_run(tmp_path)}), tmp_path / "run.svg")
    assert dict(matplotlib.rcParams) == before
    assert "<text" in (tmp_path / "run.svg").read_text()  # text stays text
