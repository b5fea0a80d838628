"""Which parameters are decayed, and how fast each learns: marks on parameters that the optimiser reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from ..network.settings import choose


def matrices(name: str, parameter: Tensor) -> bool:
    """Whether a parameter has two or more dimensions and is no bias."""
    return parameter.ndim > 1 and not name.endswith(".bias")


def weights(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is the weight of a Linear or a convolution: no bias, norm, CLS, prototype or query."""
    return parameter.ndim > 1 and name.endswith(".weight")


DECAYED: dict[str, Callable[[str, Tensor], bool]] = {
    "all": lambda name, parameter: True,
    "matrices": matrices,
    "weights": weights,
}
"""The choices of ``optimizer.decayed``: which parameters weight decay acts on, by name and value."""


def mark_parameters(model: nn.Module, lr_scale: Callable[[str], float] = lambda name: 1.0) -> None:
    """Mark a model's parameters with their names and a factor on the learning rate for each.

    The marks sit in ``optim_overrides``, the one attribute that fairseq carries over to the float32 copies it makes
    for half-precision training.

    Args:
        model: whose parameters are marked.
        lr_scale: factor on the learning rate, by parameter name.
    """
    for name, parameter in model.named_parameters():
        vars(parameter).update(
            is_model_parameter=True, optim_overrides={"lr_scale": lr_scale(name), "parameter_name": name}
        )


def parameter_groups(
    parameters: Iterable[Parameter], weight_decay: float, decayed: str = "all"
) -> list[dict[str, Any]]:
    """Groups for ``torch.optim``: one for each learning rate and weight decay, in the order in which they first appear.

    Args:
        parameters: marked by :func:`mark_parameters`; an unmarked one learns at the full rate.
        weight_decay: of parameters that are decayed.
        decayed: which those are, a choice of :data:`DECAYED`.

    Raises:
        ConfigError: for another choice.
    """
    rule = choose(DECAYED, decayed, "optimizer.decayed")
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in parameters:
        marks = getattr(parameter, "optim_overrides", {"lr_scale": 1.0, "parameter_name": ""})
        key = (marks["lr_scale"], rule(marks["parameter_name"], parameter))
        group = groups.setdefault(
            key, {"params": [], "lr_scale": key[0], "weight_decay": weight_decay if key[1] else 0.0}
        )
        group["params"].append(parameter)
    return list(groups.values())


def decayed_by(groups: Sequence[Mapping[str, Any]], parameters: Sequence[Parameter]) -> list[str]:
    """The choices of :data:`DECAYED` that divide ``parameters`` into ``groups`` of these sizes, as a checkpoint has."""

    def sizes(groups: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
        return [(len(group["params"]), group["lr_scale"]) for group in groups]

    return [name for name in DECAYED if sizes(parameter_groups(parameters, 1.0, name)) == sizes(groups)]
