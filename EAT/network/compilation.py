"""``torch.compile`` that cannot fail silently."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from ..errors import ConfigError

logger = logging.getLogger("EAT")


class Compiled:
    """A function compiled into one graph, or, where that is impossible, itself from then on, which is logged.

    ``torch.compile`` left alone runs what it cannot compile, or has compiled too often, without a word.

    Args:
        function: over tensors.
        or_stop: raise instead of continuing uncompiled.
        options: for ``torch.compile``.
    """

    def __init__(self, function: Callable[..., Any], or_stop: bool = False, **options: Any) -> None:
        from torch._dynamo.exc import TorchDynamoException  # a second that only those wait for who compile

        # Within DDP, several graphs would overlap the gradients' averaging with the backward pass; one is worth more.
        torch._dynamo.config.optimize_ddp = False
        self.function = function
        self.or_stop = or_stop
        self.fell_back = False
        self._giving_up = TorchDynamoException
        self._compiled = torch.compile(function, dynamic=False, fullgraph=True, **options)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function. Raises ConfigError where it cannot be compiled and must be."""
        if self.fell_back:
            return self.function(*arguments)
        try:
            return self._compiled(*arguments)
        except self._giving_up as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            if self.or_stop:
                raise ConfigError(
                    f"torch.compile gave up: {reason}; set model.compile_or_stop=false to train on without it, or "
                    "model.compile=false."
                ) from None
            logger.warning(f"torch.compile gave up, so training continues uncompiled and slower: {reason}")
            self.fell_back = True
        return self.function(*arguments)
