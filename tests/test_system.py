"""What a machine has: memory and what batch fits in it, and units for half precision."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest
import torch

import EAT
from EAT.commands.options import fitting_batch_size
from EAT.system import UNITS, available_memory, slow_on_cpu

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


CPUINFO = {
    "x86, 2013": ("processor\t: 0\nflags\t\t: fpu sse4_2 avx2 fma\n", {"bfloat16", "float16"}),
    "x86 with bfloat16": ("flags\t\t: avx2 avx512f avx512_bf16\n", {"float16"}),
    "x86 with tiles": ("flags\t\t: avx512f avx512_fp16 amx_bf16 amx_tile\n", set()),
    "ARM": ("Features\t: fp asimd asimdhp\n", {"bfloat16"}),
    "ARM with bfloat16": ("Features\t: fp asimd asimdhp i8mm bf16\n", set()),
    "unknown": ("model name\t: something else\n", set()),
}


@pytest.mark.parametrize("kind", CPUINFO)
def test_precisions_that_a_processor_has_no_units_for(kind: str, tmp_path: Path) -> None:
    text, slow = CPUINFO[kind]
    (tmp_path / "cpuinfo").write_text(text)
    said = {name: slow_on_cpu(name, tmp_path / "cpuinfo") for name in ("float32", "bfloat16", "float16")}
    assert {name for name, sentence in said.items() if sentence} == slow
    for name in slow:
        assert f"no units for {name} ({', '.join(sorted(UNITS[name]))}), and is faster in float32" in said[name]
    assert slow_on_cpu("bfloat16", tmp_path / "none") is None


@pytest.mark.skipif(platform.machine() != "x86_64" or sys.platform != "linux", reason="PyTorch says it of x86 alone")
def test_this_processor_has_the_units_that_pytorch_finds() -> None:
    found = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert (slow_on_cpu("bfloat16") is None) == found
