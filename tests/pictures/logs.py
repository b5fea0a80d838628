"""Logs of runs, as fairseq writes them."""

from __future__ import annotations

import json
from pathlib import Path

LINES = [
    {"num_updates": str(u), "loss": 10.0 / u, "frame_loss": 5.0 / u, "lr": "0.001", "note": "text"} for u in (1, 2, 3)
]

VALIDATIONS = {
    "json": (
        '[2026-11-25 22:12:55,001][eval][INFO] - {"epoch": 10, "eval_accuracy": "0.4483", "eval_mAP": "0.3", '
        '"eval_loss": "1.87", "eval_clips_per_s": "78.28", "eval_bsz": "14.5", "eval_num_updates": "2"}',
        '[2026-11-25 22:13:19,189][eval][INFO] - {"epoch": 20, "eval_accuracy": "0.5172", "eval_mAP": "0.4", '
        '"eval_loss": "1.6", "eval_clips_per_s": "86.34", "eval_bsz": "14.5", "eval_num_updates": "30", '
        '"eval_best_accuracy": "0.5172"}',
    ),
    "simple": (
        "[2026-11-25 22:12:55,001][eval][INFO] - epoch 010 | valid on 'eval' subset | accuracy 0.4483 | mAP 0.3 | "
        "loss 1.87 | clips_per_s 78.28 | bsz 14.5 | nonfinite 0 | num_updates 2",
        "[2026-11-25 22:13:19,189][eval][INFO] - epoch 020 | valid on 'eval' subset | accuracy 0.5172 | mAP 0.4 | "
        "loss 1.6 | clips_per_s 86.34 | bsz 14.5 | nonfinite 0 | num_updates 30 | best_accuracy 0.5172",
    ),
}
"""A split's validations in both forms, as ``common.log_format`` has them; with another score beside the real ones."""


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
