"""Logs of runs, as fairseq writes them."""

from __future__ import annotations

import json
from pathlib import Path

LINES = [
    {"num_updates": str(u), "loss": 10.0 / u, "frame_loss": 5.0 / u, "lr": "0.001", "note": "text"} for u in (1, 2, 3)
]


def write_log(folder: Path, lines: list[str], start: int = 1) -> Path:
    log = folder / "hydra" / f"start_{start}" / "hydra_train.log"
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(["[2026-01-01 00:00:00,000][EAT][INFO] - train: 3 clips listed", *lines]))
    return log


def as_json(line: dict) -> str:
    return f"[2026-01-01 00:00:00,000][train_inner][INFO] - {json.dumps(line)}"


def as_pairs(line: dict) -> str:
    pairs = ", ".join(f"{key}={value}" for key, value in line.items())
    return f"[2026-01-01 00:00:00,000][train_inner][INFO] - epoch 001:      1 / 3 {pairs}"
