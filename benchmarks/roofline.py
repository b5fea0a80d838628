"""What a training step asks of a GPU, counted without one: ``python benchmarks/roofline.py --clips 6 12 48 96``.

Every operation of an eager step in bfloat16 runs on tensors without data. Counted are launches (an operation that is no
view), multiply-adds as 2 FLOP, bytes that operations read and write, each of its operands once, and the most bytes that
are alive at once. The least time of a part is the longer of its work at the card's matrix rate and its bytes at its
bandwidth, both as its maker states them.
"""

from __future__ import annotations

import argparse
import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from common import SIZES, model_settings
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from updates import PLAIN_BYTES

from EAT.network import block
from EAT.network.masking import Masks
from EAT.network.objective import TERMS, watch
from EAT.network.pretraining import Batch, Pretraining, Student

CARDS = {"H100 SXM": (989e12, 3.35e12), "H200": (989e12, 4.8e12)}
"""Matrix rate in bfloat16, FLOP/s, and bandwidth, bytes/s, as stated."""


class Counter(TorchDispatchMode):
    """Counts launches and bytes, and follows what memory is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.bytes, self.alive, self.peak = 0, 0, 0, 0
        self._known: dict[int, Any] = {}

    def _forget(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.alive -= size

    def see(self, tensor: Tensor) -> None:
        """Take note of a tensor's memory, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            size = storage.nbytes()
            self._known[key] = weakref.finalize(storage, self._forget, key, size)
            self.alive += size
            self.peak = max(self.peak, self.alive)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        for tensor in made:
            self.see(tensor)
        views = [r.alias_info is not None and not r.alias_info.is_write for r in function._schema.returns]
        if not any(views) and "empty" not in function.__name__ and function.__name__ != "detach.default":
            given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self.launches += 1
            self.bytes += sum(x.numel() * x.element_size() for x in (*given, *made))
        return result


def convolution_backward(gradient: Any, x: Any, weight: Any, *rest: Any, **more: Any) -> int:
    """FLOP of a convolution's two gradients, from shapes; PyTorch's own count forgets the groups."""
    return 4 * math.prod(gradient) * math.prod(weight[1:])


def flash(query: Tensor, key: Tensor, value: Tensor, key_mask: Tensor | None) -> Tensor:
    """The kernel that a GPU runs, which tensors without data would not choose."""
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0].transpose(1, 2).flatten(2)


def count(settings: Any, clips: int, frames: int) -> tuple[dict[str, tuple[int, float, int]], int]:
    """Launches, FLOP and bytes by part of the step, and the peak of memory."""
    block.gather = flash
    model = Pretraining(settings)
    numbers = torch.arange(clips)
    drawn = model.draw(torch.zeros(clips, 1, frames, 128), numbers, seed=1, epoch=1)
    model.to("meta").to(torch.bfloat16)
    batch = Batch(
        torch.empty(clips, 1, frames, 128, device="meta", dtype=torch.bfloat16),
        drawn.frames.to("meta"), Masks(*(x.to("meta") for x in drawn.masks)), drawn.keys.to("meta"),
    )  # fmt: skip
    parts: dict[str, tuple[int, float, int]] = {}
    counter = Counter()
    for tensor in (*model.parameters(), *model.teacher.encoder.parameters(), *model.teacher.average.values()):
        counter.see(tensor)
    masters = 3 * sum(4 * p.numel() for p in model.parameters())  # and the moments; gradients come on top
    counter.alive += masters + sum(4 * p.numel() for p in model.parameters())

    def measured(name: str, call: Callable[[], Any]) -> Any:
        launches, traffic = counter.launches, counter.bytes
        mapping = {torch.ops.aten.convolution_backward: convolution_backward}
        with FlopCounterMode(display=False, custom_mapping=mapping) as flop, counter:
            result = call()
        parts[name] = counter.launches - launches, float(flop.get_total_flops()), counter.bytes - traffic
        return result

    grid = model.encoder.grid(frames)
    targets = measured("teacher", lambda: model.teach(batch))
    tokens = measured("student's encoder, forward", lambda: model.encoder(batch.filterbank, batch.masks.visible).tokens)

    leaf = tokens.detach().requires_grad_()

    def decode() -> Any:
        cls, patches = leaf.split([1, leaf.shape[1] - 1], dim=1)
        return cls.reshape(*batch.keys.shape, -1), model.decoder(patches, batch.masks, batch.keys, grid)

    cls, predictions = measured("decoder, forward", decode)

    def judge() -> Tensor:
        comparison = model.compare(batch, Student(cls, predictions), targets)
        watch(comparison)
        return TERMS["frame"](comparison) + TERMS["utterance"](comparison)

    loss = measured("losses and figures", judge)
    measured("decoder and losses, backward", loss.backward)
    measured("student's encoder, backward", lambda: tokens.backward(leaf.grad))
    trained, averaged = (sum(p.numel() for p in m.parameters()) for m in (model, model.encoder))
    parts["update"] = 19, 0.0, trained * PLAIN_BYTES[0] + averaged * PLAIN_BYTES[1]
    return parts, counter.peak


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--size", choices=SIZES, default="base")
    made.add_argument("--clips", type=int, nargs="+", default=[6, 12, 48, 96])
    made.add_argument("--clones", type=int, default=16)
    made.add_argument("--frames", type=int, default=1024)
    made.add_argument("--checkpointing", action="store_true")
    options = made.parse_args()
    settings = model_settings(options.size, options.clones, activation_checkpointing=options.checkpointing)
    for clips in options.clips:
        parts, peak = count(settings, clips, options.frames)
        cards = " | ".join(f"least ms, {name}" for name in CARDS)
        print(f"\n{clips} x {options.clones}: {peak / 2**30:.1f} GiB at most\n")
        print(f"| part | launches | TFLOP | GB | {cards} |\n|---|---|---|---|" + "---|" * len(CARDS))
        total = [0.0] * (3 + len(CARDS))
        for name, (launches, work, traffic) in parts.items():
            least = [1000 * max(work / rate, traffic / bandwidth) for rate, bandwidth in CARDS.values()]
            row = [launches, work / 1e12, traffic / 1e9, *least]
            total = [a + b for a, b in zip(total, row, strict=True)]
            print(f"| {name} | {launches} | " + " | ".join(f"{value:.2f}" for value in row[1:]) + " |")
        print(f"| all | {total[0]:.0f} | " + " | ".join(f"{value:.2f}" for value in total[1:]) + " |")


if __name__ == "__main__":
    main()
