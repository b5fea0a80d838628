"""A candidate for what follows a backward pass in bfloat16: clipping, AdamW, copies and average, compiled in one pass.

PyTorch's multi-tensor operations read and write what the one before them wrote; one kernel for each parameter reads its
gradient twice and everything else once. ``gpu.py update`` times it beside what training does, and
``python benchmarks/updates.py`` has torch.compile count what its kernels read and write.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch._inductor.config as inductor_config
from torch import Tensor
from torch._inductor import metrics
from training import CLIP_NORM, Training

PLAIN_BYTES = 6 + 4 + 4 + 28 + 6, 12 + 6
"""A trained parameter's: gradient to float32, norm, scaled gradient, AdamW, to bfloat16; an averaged one's: average, to
bfloat16."""
ONE_PASS_BYTES = 2 + 2 + 24 + 2, 8 + 2
"""Norm and gradient in bfloat16, AdamW, to bfloat16; average, to bfloat16."""


class Tensors(NamedTuple):
    """All that an update reads and writes, those parameters first that the teacher averages."""

    gradients: list[Tensor]
    """bfloat16"""
    masters: list[Tensor]
    """float32 parameters"""
    first: list[Tensor]
    second: list[Tensor]
    """Moments."""
    halves: list[Tensor]
    """The model's own parameters, bfloat16."""
    averages: list[Tensor]
    """float32"""
    teachers: list[Tensor]
    """The teacher's own, bfloat16."""


def one_pass(tensors: Tensors, numbers: Tensor, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    """One update, in place; none where the gradients' norm is not finite.

    Args:
        tensors: in the order of the parameters.
        numbers: learning rate, the moments' two bias corrections, the average's decay.
        betas: of the moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled.
    """
    gradients, masters, first, second, halves, averages, teachers = tensors
    rate, correction, correction_2, decay = numbers.unbind()
    norm = torch.stack([gradient.float().square().sum() for gradient in gradients]).sum().sqrt()
    good, scale = torch.isfinite(norm), (CLIP_NORM / (norm + 1e-6)).clamp(max=1.0)
    for place, (gradient, master, mean, square, half) in enumerate(
        zip(gradients, masters, first, second, halves, strict=True)
    ):
        scaled = gradient.float() * scale
        new_mean = torch.where(good, mean + (1 - betas[0]) * (scaled - mean), mean)
        new_square = torch.where(good, square + (1 - betas[1]) * (scaled * scaled - square), square)
        step = rate / correction * new_mean / ((new_square / correction_2).sqrt() + eps)
        new = torch.where(good, master * (1 - rate * weight_decay) - step, master)
        mean.copy_(new_mean)
        square.copy_(new_square)
        master.copy_(new)
        half.copy_(new)
        if place < len(averages):
            moved = torch.where(good, averages[place] + (1 - decay) * (new - averages[place]), averages[place])
            averages[place].copy_(moved)
            teachers[place].copy_(moved)


class OnePass:
    """The update of a training in bfloat16 that made one already, compiled; called in its place."""

    def __init__(self, training: Training, backend: Any = "inductor") -> None:
        self.training = training
        teacher = training.model.teacher
        averages = {f"encoder.{name}": value for name, value in teacher.average.items()}
        teachers = {f"encoder.{name}": value.data for name, value in teacher.encoder.named_parameters()}
        (self.group,) = training.optimizer.param_groups
        self.order = sorted(range(len(training.names)), key=lambda place: training.names[place] not in averages)
        masters = [training.masters[place] for place in self.order]
        states = [training.optimizer.state[master] for master in masters]
        names = [training.names[place] for place in self.order][: len(averages)]
        self.tensors = Tensors(
            [], [master.data for master in masters], [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [training.parameters[place].data for place in self.order],
            [averages[name] for name in names], [teachers[name] for name in names],
        )  # fmt: skip
        self.compiled = torch.compile(one_pass, backend=backend, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def __call__(self) -> None:
        training, group = self.training, self.group
        training.updates += 1
        corrections = [1 - beta**training.updates for beta in group["betas"]]
        facts = (group["lr"], *corrections, training.model.teacher.decay(training.updates))
        numbers = torch.stack([torch.full((), fact, device=training.device) for fact in facts])
        gradients = [gradient for place in self.order if (gradient := training.parameters[place].grad) is not None]
        tensors = self.tensors._replace(gradients=gradients)
        self.compiled(tensors, numbers, group["betas"], group["eps"], group["weight_decay"])


def main() -> None:
    torch._logging.set_logs(inductor_metrics=True)
    inductor_config.fx_graph_cache = False
    shape, count = (256, 1024), 2

    def tensors(dtype: torch.dtype) -> list[Tensor]:
        return [torch.rand(shape, dtype=dtype) for _ in range(count)]

    half, full = torch.bfloat16, torch.float32
    given = Tensors(*(tensors(dtype) for dtype in (half, full, full, full, half, full, half)))
    with torch.no_grad():
        torch.compile(one_pass, fullgraph=True)(given, torch.rand(4), (0.9, 0.95), 1e-8, 0.05)
    counted = metrics.num_bytes_accessed / (count * math.prod(shape))
    # It counts the bfloat16 copies as read, too, before they are written; the code that it makes does not read them.
    print(f"{counted - 2 * 2:.2f} bytes a parameter that is averaged, {sum(ONE_PASS_BYTES)} expected")


if __name__ == "__main__":
    main()
