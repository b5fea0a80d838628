"""What the process may use of its machine: cores, memory, and how it gets memory for tensors on a CPU."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4

UNITS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16"},
    "float16": {"avx512_fp16", "amx_fp16", "asimdhp"},
}
"""What processors call the units that compute in half precision: x86's vectors and tiles, and ARM's."""

FEW = 8
"""Recordings that are not worth starting workers for."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(count: int) -> int:
    """DataLoader workers for so many recordings: none for a few, else one a core, 8 at most."""
    return 0 if count <= FEW else min(8, usable_cores())


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory for the next tensor instead of returning it to the operating system.

    A training step on a CPU frees and asks for the same gigabytes of activations again and again. By default glibc
    maps every large tensor afresh, and the kernel zeroes each page as it is first touched: a tenth of a step. The
    process then never shrinks below its largest size. Worker processes started afterwards inherit the setting.

    Returns:
        Whether the C library took the settings: glibc does; where there is another nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, -1), mallopt(_M_TOP_PAD, 1 << 26)])


def available_memory(proc: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the process could still take, within its container's limit; None where the system does not say.

    Args:
        proc: Linux's account of memory.
        cgroup: the container's limit (``memory.max``) and what it has used of it (``memory.current``).
    """
    try:
        stated = re.search(r"^MemAvailable:\s*(\d+) kB", proc.read_text(), re.MULTILINE)
    except OSError:
        return None
    if stated is None:
        return None
    free = int(stated[1]) * 1024
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return min(free, max(0, int(limit) - int(used))) if limit.isdigit() and used.isdigit() else free


def slow_on_cpu(precision: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """A sentence where the processor has no units for a precision, which it then computes slower than float32.

    Args:
        precision: a name of PyTorch's.
        cpuinfo: Linux's account of the processor; where there is none nothing is known, and nothing said.
    """
    try:
        flags = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    units = UNITS.get(precision, set())
    if not units or not flags or units & set(flags[0].split()):
        return None
    return f"this processor has no units for {precision} ({', '.join(sorted(units))}), and is faster in float32"
