"""How much memory there is, and what batch fits in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import EAT
from EAT.commands.options import fitting_batch_size
from EAT.system import available_memory

from .conftest import CONFORMANCE

MEMINFO = "MemTotal:       24000000 kB\nMemFree:          100000 kB\nMemAvailable:    2000000 kB\n"


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [
        (None, None, 2_048_000_000),
        ("max", "5", 2_048_000_000),
        ("3000000000", "1000000000", 2_000_000_000),
        ("1000", "2000", 0),
    ],
)
def test_memory_within_the_containers_limit(tmp_path: Path, limit: str | None, used: str | None, free: int) -> None:
    (tmp_path / "meminfo").write_text(MEMINFO)
    if limit is not None and used is not None:
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text(used + "\n")
    assert available_memory(tmp_path / "meminfo", tmp_path) == free


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert available_memory(tmp_path / "none") is None
    (tmp_path / "meminfo").write_text("nothing")
    assert available_memory(tmp_path / "meminfo") is None


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="only Linux says")
def test_this_machine() -> None:
    free = available_memory()
    assert free is not None and 0 < free <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_batch_fits_in_half_of_the_memory() -> None:
    model = EAT.load(str(CONFORMANCE / "official_pretrain.pt"))  # 64 wide, three blocks
    clip = 513 * 64 * (8 + 2 * 4 + 3) * 4  # bytes
    assert fitting_batch_size(model, None) == fitting_batch_size(model, 1 << 40) == 16
    assert fitting_batch_size(model, 2 * 5 * clip) == 5
    assert fitting_batch_size(model, 2 * 5 * clip - 1) == 4
    assert fitting_batch_size(model.bfloat16(), 2 * 5 * clip) == 10
    assert fitting_batch_size(model, 0) == 1
