"""What the benchmarks train: the pre-training network with its optimiser."""

from __future__ import annotations

import torch

from EAT.network.mixtures import MixturePretraining
from EAT.network.pretraining import Pretraining
from EAT.network.settings import PretrainingSettings
from EAT.training.gradients import clip_gradients
from EAT.training.parameter_groups import mark_parameters, parameter_groups

UTTERANCE_WEIGHT, CLIP_NORM = 192.0, 4.0


def gradients(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """The gradients of parameters that have them."""
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


class Training:
    """The network and one optimiser update.

    In bfloat16 parameters, gradients and activations are bfloat16; the optimiser works on float32 copies, which the
    teacher averages.
    """

    def __init__(
        self,
        settings: PretrainingSettings,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool = False,
        lr: float = 5e-4,
    ) -> None:
        torch.manual_seed(1)
        self.model = (MixturePretraining if settings.mixtures else Pretraining)(settings).to(device).train()
        mark_parameters(self.model)
        masters = [torch.nn.Parameter(p.detach().clone()) for p in self.model.parameters()]
        for master, parameter in zip(masters, self.model.parameters(), strict=True):
            vars(master)["optim_overrides"] = vars(parameter)["optim_overrides"]
        self.model.to(dtype)
        self.half = dtype != torch.float32
        self.parameters = list(self.model.parameters())
        self.masters = masters if self.half else self.parameters
        self.names = [name for name, _ in self.model.named_parameters()]
        self.optimizer = torch.optim.AdamW(parameter_groups(self.masters, 0.05), lr=lr, betas=(0.9, 0.95), fused=True)
        self.device, self.updates = device, 0
        if compiled:
            self.model.compile()

    def forward_backward(self, filterbank: torch.Tensor, clips: list[int] | torch.Tensor) -> torch.Tensor:
        """The objective and its gradients; returns the loss, on the device."""
        for parameter in self.parameters:
            parameter.grad = None
        weights = {"frame": 1.0, "utterance": UTTERANCE_WEIGHT}
        if self.model.settings.mixtures:
            weights["retention"] = 1.0
        terms = self.model(self.model.draw(filterbank, clips, seed=1, epoch=1), tuple(weights)).terms
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def update(self) -> None:
        """Clipping, AdamW and the teacher's average, as they follow a backward pass."""
        if self.half:
            for master in self.masters:
                if master.grad is None:
                    master.grad = torch.empty_like(master)
            torch._foreach_copy_(gradients(self.masters), gradients(self.parameters))
        if self.half and self.device.type == "cuda":  # as half_precision.py has it
            norm = clip_gradients(gradients(self.masters), 0.0)
            vars(self.optimizer)["grad_scale"] = ((norm + 1e-6) / CLIP_NORM).clamp(min=1.0)
        else:
            clip_gradients(gradients(self.masters), CLIP_NORM)
        self.optimizer.step()
        if self.half:
            torch._foreach_copy_(list[torch.Tensor](self.parameters), list[torch.Tensor](self.masters))
        self.updates += 1
        self.model.update_teacher(self.updates, dict(zip(self.names, self.masters, strict=True)) if self.half else None)

    def step(self, filterbank: torch.Tensor, clips: list[int] | torch.Tensor) -> torch.Tensor:
        """One whole training step."""
        loss = self.forward_backward(filterbank, clips)
        self.update()
        return loss
