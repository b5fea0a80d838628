"""The optimiser ``eat_adamw``: torch's AdamW with its fused kernel, and clipping in a few multi-tensor operations."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II
from torch import Tensor
from torch.nn import Parameter

from ..network.settings import setting
from .fairseq_support import reports_user_errors
from .gradients import clip_gradients, scale_gradients
from .parameter_groups import DECAYED, decayed_by, parameter_groups

logger = logging.getLogger("EAT")

FLOAT32_PARAMETERS = "float32_parameters"


@dataclass
class EATAdamWConfig(FairseqDataclass):
    """Settings of the optimiser ``eat_adamw``."""

    betas: list[float] = field(default_factory=lambda: [0.9, 0.95], metadata={"help": "decay of the two moments"})
    eps: float = setting(1e-8, "added to the root of the second moment")
    weight_decay: float = setting(0.05, "decoupled weight decay")
    decayed: str = setting("all", f"what weight decay acts on: one of {', '.join(DECAYED)}")
    float32_gradients: bool = setting(
        True,
        "in half precision, add gradients up and average them over devices in float32: 4 bytes a parameter and, with "
        "several devices, twice the traffic, none of it along with the backward pass",
    )
    lr: list[float] = II("optimization.lr")


@register_optimizer("eat_adamw", dataclass=EATAdamWConfig)
class EATAdamW(FairseqOptimizer):
    """AdamW (arXiv 1711.05101) over groups by weight decay and learning-rate scale."""

    @reports_user_errors
    def __init__(self, cfg: EATAdamWConfig, params: Iterable[Parameter]) -> None:
        super().__init__(cfg)
        self._parameters = parameters = list(params)
        first, second = cfg.betas
        self._lr = float(cfg.lr[0])
        self._optimizer = torch.optim.AdamW(
            parameter_groups(parameters, cfg.weight_decay, cfg.decayed),
            lr=self._lr,
            betas=(first, second),
            eps=cfg.eps,
            fused=all(p.device.type in ("cpu", "cuda") for p in parameters),
        )
        self.scales_in_step = all(p.device.type == "cuda" for p in parameters)
        """Whether gradients are divided by the torch optimiser's ``grad_scale`` in its own kernel, and not before it.

        That saves 4 bytes of traffic a parameter, and rounds otherwise; on a CPU every bit stays as it was.
        """

    @property
    def optimizer_config(self) -> dict[str, Any]:
        """What overrides a checkpoint's optimiser settings on resuming."""
        return {"lr": self._lr, "betas": tuple(self.cfg.betas), "eps": self.cfg.eps}

    def get_lr(self) -> float:
        """The learning rate before each group's scale."""
        return self._lr

    def set_lr(self, lr: float) -> None:
        """Set the learning rate; each group gets it times its scale."""
        self._lr = lr
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def multiply_grads(self, c: float | Tensor) -> None:
        """Multiply every gradient by ``c``."""
        scale_gradients([p.grad for p in self.params if p.grad is not None], c)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """Scale gradients down to a total norm of ``max_norm`` (0 scales nothing); returns the norm before."""
        return clip_gradients([p.grad for p in self.params if p.grad is not None], max_norm, aggregate_norm_fn)

    def _masters(self) -> list[Parameter]:
        """The float32 copies that fairseq makes for half-precision training; empty where there are none.

        Marks on parameters tell them apart: fairseq copies ``optim_overrides`` to its copies and nothing else.
        """
        return [p for p in self.params if hasattr(p, "optim_overrides") and not hasattr(p, "is_model_parameter")]

    def state_dict(self) -> dict[str, Any]:
        """Moments and steps; in half-precision training also the float32 parameters, which no other part saves."""
        state = self.optimizer.state_dict()
        masters = self._masters()
        if masters:
            state[FLOAT32_PARAMETERS] = [p.detach() for p in masters]
        return state

    def load_state_dict(self, state_dict: dict[str, Any], optimizer_overrides: dict[str, Any] | None = None) -> None:
        """Restore what :meth:`state_dict` saved. What the checkpoint's run decayed is decayed on."""
        saved = state_dict.pop(FLOAT32_PARAMETERS, [])
        rules = decayed_by(state_dict["param_groups"], self._parameters)
        if rules and self.cfg.decayed not in rules:
            logger.warning(
                f"the checkpoint was trained with optimizer.decayed={rules[0]}, which stays, not {self.cfg.decayed}"
            )
            groups = parameter_groups(self._parameters, self.cfg.weight_decay, rules[0])
            self.param_groups.clear()
            for group in groups:
                self._optimizer.add_param_group(group)
        super().load_state_dict(state_dict, optimizer_overrides)
        with torch.no_grad():
            for master, value in zip(self._masters() if saved else [], saved, strict=True):
                master.copy_(value)
