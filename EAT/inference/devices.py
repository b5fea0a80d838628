"""On which devices models compute."""

from __future__ import annotations

import os

import torch

from ..errors import ConfigError

DEVICES = ("cpu", "cuda")
"""Kinds of them that results were compared on; others, such as mps, are refused rather than trusted."""


def usable_device(device: str | torch.device, asked: str = "device") -> torch.device:
    """A device that can be used, by its name.

    Args:
        device: ``cuda`` alone is that of ``LOCAL_RANK`` where several processes were started.
        asked: what it was asked for with, for messages.

    Raises:
        ConfigError: where there is no such device, or nothing was ever compared on its kind.
    """
    try:
        found = torch.device(device)
        if found.type not in DEVICES:
            raise ConfigError(f"{asked} {device} was never tried with EAT; take one of {', '.join(DEVICES)}.")
        if found.type == "cuda" and found.index is None and "LOCAL_RANK" in os.environ:
            found = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"{asked} {device} cannot be used ({reason}); try {asked} cpu.") from None
    return found
