"""The lines that docs/lines.md has of HEAR's baseline, run on a clip as they want it. run.sh starts it."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import numpy as np
import soundfile

COLUMN = 3
TABLE = Path("docs/lines.md").read_text()
RATE, SECONDS = 44_100, 1


def main() -> None:
    cells = [line.strip("|").split(" | ") for line in TABLE.splitlines() if line.startswith("| ")]
    codes = {cell[0].strip(): re.findall(r"`([^`]+)`", cell[COLUMN]) for cell in cells if re.match(r"\d", cell[COLUMN])}
    assert len(codes) == 2, codes
    os.chdir(tempfile.mkdtemp())
    soundfile.write("clip.wav", np.random.default_rng(0).normal(0, 0.1, RATE * SECONDS), RATE)
    for task, code in codes.items():
        names: dict[str, object] = {}
        exec("\n".join(code), names)
        made = {name: tuple(names[name].shape) for name in ("vector", "embeddings", "milliseconds") if name in names}
        print(f"{task}: {len(code)} lines, {made}")


if __name__ == "__main__":
    main()
