"""The teacher: an exponential moving average of the student's encoder (method section 5)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .encoder import Encoder
from .settings import TeacherSettings, choose


def linear_decay(settings: TeacherSettings, update: int) -> float:
    """From ema_decay to ema_end_decay over ema_anneal_updates, then constant; the first update is number 1."""
    if update >= settings.ema_anneal_updates:
        return settings.ema_end_decay
    remaining = 1.0 - update / settings.ema_anneal_updates
    return settings.ema_end_decay - (settings.ema_end_decay - settings.ema_decay) * remaining


def linear_decay_from_first(settings: TeacherSettings, update: int) -> float:
    """As :func:`linear_decay`, but the first update has ema_decay itself: BAT's."""
    steps = settings.ema_anneal_updates - 1
    progress = min(1.0, (update - 1) / steps) if steps > 0 else float(update > 1)
    return settings.ema_decay + (settings.ema_end_decay - settings.ema_decay) * progress


DECAYS: dict[str, Callable[[TeacherSettings, int], float]] = {
    "linear": linear_decay,
    "linear_from_first": linear_decay_from_first,
}
"""The choices of ``model.ema_schedule``: decay after optimiser update number ``update``."""


class Teacher:
    """Moving average of an encoder, kept in float32, run in the student's precision without gradients.

    Deliberately no ``nn.Module``: whoever owns it would otherwise halve it with ``.half()``, count it among the
    trained parameters, and hand it to the optimiser and to data-parallel wrappers.
    """

    def __init__(self, student: Encoder, settings: TeacherSettings) -> None:
        self.settings = settings
        self._decay = choose(DECAYS, settings.ema_schedule, "model.ema_schedule")
        self.encoder = copy.deepcopy(student).requires_grad_(False).eval()
        self.average = {name: p.detach().float() for name, p in self.encoder.named_parameters()}
        self._tie()

    def decay(self, update: int) -> float:
        """Decay used after optimiser update number ``update`` (the first is number 1)."""
        return self._decay(self.settings, update)

    def _tie(self) -> None:
        """Where the encoder runs in float32 its parameters are the average itself; otherwise they are copies of it."""
        for name, parameter in self.encoder.named_parameters():
            if parameter.dtype == torch.float32:
                parameter.data = self.average[name]
            else:
                parameter.data.copy_(self.average[name])

    def follow(self, student: Encoder) -> None:
        """Move to the student's device and run in its precision; the average stays float32."""
        reference = student.cls_token
        self.average = {name: value.to(reference.device) for name, value in self.average.items()}
        self.encoder.to(device=reference.device, dtype=reference.dtype)
        self._tie()

    @torch.no_grad()
    def update(self, student: Mapping[str, Tensor], update: int, bad: Tensor | None = None) -> float:
        """Move the average towards the student after optimiser update number ``update`` (from 1).

        average <- d * average + (1 - d) * student, in float32, one multi-tensor operation.

        Args:
            student: the student's encoder parameters by name; half-precision ones are widened, so pass the
                optimiser's float32 masters where it keeps them.
            update: number of the update just made.
            bad: a number on the device; where it is 1 and not 0 the average stays as it is. None: it moves.

        Returns:
            The decay d that was used.
        """
        decay = self.decay(update)
        averages = list(self.average.values())
        sources = [student[name].detach().float() for name in self.average]
        if bad is None:
            torch._foreach_lerp_(averages, sources, 1.0 - decay)
        else:
            # SGD with a weight decay of -1 and a rate of -(1 - d): the same average, in a kernel that looks at ``bad``.
            torch._fused_sgd_(
                averages, sources, [], weight_decay=-1.0, momentum=0.0, lr=decay - 1.0, dampening=0.0, nesterov=False,
                maximize=False, is_first_step=False, grad_scale=None, found_inf=bad,
            )  # fmt: skip
        if self.encoder.cls_token.dtype != torch.float32:
            torch._foreach_copy_([p.data for p in self.encoder.parameters()], averages)
        return decay

    def state_dict(self) -> dict[str, Tensor]:
        """The float32 average by parameter name."""
        return {name: value.detach() for name, value in self.average.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the average. The caller has checked names and shapes."""
        for name, value in self.average.items():
            value.copy_(state[name])
        self._tie()
