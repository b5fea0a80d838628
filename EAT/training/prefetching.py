"""Batches on their way to a GPU: each is copied while the one before it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Send = Callable[[Any], Callable[[], Any]]
"""Begins to copy a batch; what it returns hands the copy out, to be used from then on."""


class Prefetched:
    """Batches in their order, one of them sent ahead.

    Args:
        batches: what to send.
        send: called with a batch before the one in front of it is handed out.
    """

    def __init__(self, batches: Iterator[Any], send: Send) -> None:
        self._batches, self._send = batches, send
        self._sent: list[Callable[[], Any]] = []

    def __iter__(self) -> Prefetched:
        return self

    def __next__(self) -> Any:
        while len(self._sent) < 2:
            try:
                batch = next(self._batches)
            except StopIteration:
                self._batches = iter(())  # fairseq's buffer would be waited for if it were asked again
                break
            self._sent.append(self._send(batch))
        if not self._sent:
            raise StopIteration
        return self._sent.pop(0)()


class SideStream:
    """Copies batches from pinned memory to the current GPU, on a stream beside the one that computes."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def __call__(self, batch: Any) -> Callable[[], Any]:
        """Begin to copy the tensors of a batch, in whatever dictionaries and lists they lie."""
        with torch.cuda.stream(self._stream):
            sent = tree_map_only(Tensor, lambda tensor: tensor.to(self._stream.device, non_blocking=True), batch)
            copied = self._stream.record_event()

        def hand_out() -> Any:
            computing = torch.cuda.current_stream()
            computing.wait_event(copied)
            # Its memory is the side stream's, which must not reuse it before what computes is done with it.
            tree_map_only(Tensor, lambda tensor: tensor.record_stream(computing), sent)
            return sent

        return hand_out


def sender(cpu: bool) -> Send | None:
    """What sends batches ahead to the device of training; None where that is the CPU, and nothing is copied."""
    return None if cpu or not torch.cuda.is_available() else SideStream()
