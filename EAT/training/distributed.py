"""What the processes of a run tell each other beside gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def gather_rows(rows: Tensor) -> Tensor:
    """Every process's rows, in the order of the processes; each process may have another number of them.

    Args:
        rows: (n, ...) on a device that the process group works with.

    Returns:
        (sum of n, ...); ``rows`` itself where there is but one process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    longest = max(int(count) for count in counts)
    padded = F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, longest - len(rows)))
    gathered = [torch.zeros_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])
