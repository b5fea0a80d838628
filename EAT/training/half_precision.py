"""Training in half precision: float32 parameters beside the model's, and gradients that are added up in float32.

What fairseq does for each of 163 tensors in turn is one multi-tensor operation here.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.distributed as dist
from fairseq import optim
from fairseq.distributed.utils import get_data_parallel_group
from fairseq.optim import fp16_optimizer
from torch import Tensor


class FP16Optimizer(fp16_optimizer.FP16Optimizer):
    """fairseq's optimiser of half-precision models, in a few operations; checkpoints hold the class's name.

    With ``optimizer.float32_gradients`` each backward pass's gradients are widened and added up in float32 and
    averaged over devices as such, in one collective after the last of them. Otherwise both happen in the model's
    precision, and the averaging along with the backward pass.
    """

    def __init__(self, cfg: Any, params: Any, fp32_optimizer: Any, fp32_params: Any, **kwargs: Any) -> None:
        super().__init__(cfg, params, fp32_optimizer, fp32_params, **kwargs)
        self.float32_gradients = bool(getattr(cfg.optimizer, "float32_gradients", False))
        self._trained = [(half, full) for half, full in zip(params, fp32_params, strict=True) if half.requires_grad]
        sizes = [full.numel() for _, full in self._trained]
        self._flat = torch.zeros(sum(sizes), device=fp32_params[0].device)
        """Every float32 gradient in turn; parameters' own are views of it."""
        for (_, full), part in zip(self._trained, self._flat.split(sizes), strict=True):
            full.grad = part.view_as(full)
        self._gradients = [full.grad for _, full in self._trained]
        self._scratch: Tensor | None = None
        self._added, self._needs_sync = 0, False

    def local_gradients(self, model: Any) -> contextlib.AbstractContextManager[Any]:
        """A context in which a data-parallel model leaves the averaging to :meth:`all_reduce_grads`, where it may."""
        if self.float32_gradients and hasattr(model, "no_sync"):
            return model.no_sync()
        return contextlib.nullcontext()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for half in self.fp16_params:
            half.grad = None
        self._needs_sync, self._added = False, 0
        if self.scaler is not None:
            self._multiply_factor = 1.0 / float(self.scaler.loss_scale)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients to those of the losses before it."""
        if self.float32_gradients:
            self._sync_fp16_grads_to_fp32()
        super().backward(loss)

    @torch.no_grad()
    def _sync_fp16_grads_to_fp32(self) -> None:
        if not self._needs_sync:
            return
        self._needs_sync = False
        first = self._added == 0 or not self.float32_gradients
        targets = self._gradients if first else self._views_of_scratch()
        pairs = [(half.grad, into) for (half, _), into in zip(self._trained, targets, strict=True)]
        torch._foreach_copy_(
            [into for _, into in pairs], [torch.zeros_like(into) if g is None else g for g, into in pairs]
        )
        if not first:
            assert self._scratch is not None
            self._flat.add_(self._scratch)
        self._added += 1
        if self.float32_gradients:
            for half, _ in self._trained:
                half.grad = None

    def _views_of_scratch(self) -> list[Tensor]:
        if self._scratch is None:
            self._scratch = torch.zeros_like(self._flat)
        sizes = [gradient.numel() for gradient in self._gradients]
        return [part.view_as(g) for part, g in zip(self._scratch.split(sizes), self._gradients, strict=True)]

    def all_reduce_grads(self, module: Any) -> None:
        """Average over devices what the data-parallel model has not."""
        if not self.float32_gradients:
            super().all_reduce_grads(module)
        elif dist.is_initialized() and dist.get_world_size(get_data_parallel_group()) > 1:
            self._sync_fp16_grads_to_fp32()
            dist.all_reduce(self._flat, group=get_data_parallel_group())
            self._multiply_factor /= dist.get_world_size(get_data_parallel_group())

    def _unscale_grads(self) -> None:
        """Scale gradients by what is due, or have the optimiser's kernel do so while it reads them anyway."""
        if not getattr(self.fp32_optimizer, "scales_in_step", False):
            super()._unscale_grads()
            return
        self._sync_fp16_grads_to_fp32()
        factor, self._multiply_factor = self._multiply_factor, 1.0
        # A copy from the host would be waited for.
        whole = torch.ones((), device=self._flat.device)
        self.optimizer.grad_scale = whole / factor

    def _sync_fp32_params_to_fp16(self) -> None:
        halves, fulls = zip(*self._trained, strict=True)
        torch._foreach_copy_([half.data for half in halves], [full.data for full in fulls])


def install() -> None:
    """Have fairseq's trainer use it."""
    optim.FP16Optimizer = FP16Optimizer
