"""Networks without numbers in them: made for their shapes, or to be filled from a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

DRAWING = {Tensor.normal_, Tensor.uniform_, init.normal_, init.uniform_, init.trunc_normal_, init.xavier_uniform_,
           init.kaiming_uniform_}  # fmt: skip
"""What fills a tensor at random, its first argument, and returns it."""


class _Undrawn(TorchFunctionMode):
    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextlib.contextmanager
def unfilled() -> Iterator[None]:
    """Modules that are made within it have shapes alone, on the meta device.

    Nothing is drawn at random there either, for which PyTorch imports its compiler: over a second at every start.
    """
    with torch.device("meta"), _Undrawn():
        yield
