"""Extraction whose decoding process is killed says on which file."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile

from ...conftest import CONFORMANCE, ROOT
from ...fairseq_runs import environment
from ...recordings import hanging

pytestmark = pytest.mark.faults


def test_a_decoding_process_that_dies_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for name in "abc":
        soundfile.write(tmp_path / "audio" / f"{name}.wav", np.zeros(8000), 16000)
    command = [
        sys.executable,
        str(ROOT / "feature_extract" / "feature_extract.py"),
        "--source",
        str(tmp_path / "audio"),
    ]
    command += ["--output", str(tmp_path / "out"), "--checkpoint", str(CONFORMANCE / "official_pretrain.pt")]
    with hanging(tmp_path / "audio" / "hangs.wav") as waited_for:
        run = subprocess.Popen(
            [*command, "--num-workers", "1"], env=environment(), stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        try:
            while not waited_for() and run.poll() is None:
                time.sleep(0.05)
            workers = [child for child in psutil.Process(run.pid).children() if child.name() != "resource_tracker"]
            for worker in workers:
                worker.kill()
            _, errors = run.communicate(timeout=120)
        finally:
            run.kill()
    assert run.returncode == 2, errors
    assert f"while it was on {tmp_path}/audio/hangs.wav" in errors and "Traceback" not in errors, errors
