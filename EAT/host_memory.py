"""How the process gets memory for tensors on a CPU."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


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
