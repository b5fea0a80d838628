"""Which parameters are decayed, and how fast each learns: marks on parameters that the optimiser reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.nn import Parameter


def mark_parameters(model: nn.Module, lr_scale: Callable[[str], float] = lambda name: 1.0) -> None:
    """Mark a model's parameters: no weight decay on biases and one-dimensional tensors, a learning rate for each.

    The marks sit in ``optim_overrides``, the one attribute that fairseq carries over to the float32 copies it makes
    for half-precision training.

    Args:
        model: whose parameters are marked.
        lr_scale: factor on the learning rate, by parameter name.
    """
    for name, parameter in model.named_parameters():
        decayed = parameter.ndim > 1 and not name.endswith(".bias")
        vars(parameter).update(
            is_model_parameter=True, optim_overrides={"lr_scale": lr_scale(name), "decayed": decayed}
        )


def parameter_groups(parameters: Iterable[Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for ``torch.optim``: one for each combination of marks, in the order in which they first appear.

    An unmarked parameter is decayed by the same rule and learns at the full rate.
    """
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for parameter in parameters:
        marks = getattr(parameter, "optim_overrides", {"lr_scale": 1.0, "decayed": parameter.ndim > 1})
        key = (marks["lr_scale"], marks["decayed"])
        group = groups.setdefault(
            key, {"params": [], "lr_scale": key[0], "weight_decay": weight_decay if key[1] else 0.0}
        )
        group["params"].append(parameter)
    return list(groups.values())
