"""Candidates for the decoder's grouped convolution, side by side: (S, C, T, F) maps, square kernel, same size out.

Each is a function ``(x, weight, bias, groups) -> y`` of a map (S, C_in, T, F) and differentiable. What a GPU runs best
is not known yet, so the network has the first. ``gpu.py`` times them and compares them with it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Convolution = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def library(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """cuDNN's, or oneDNN's, in the memory format of its input."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)


def channels_last(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """The same with channels last in memory."""
    order = torch.channels_last
    return library(x.contiguous(memory_format=order), weight.contiguous(memory_format=order), bias, groups)


def shifted_products(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """One batched matrix product of the groups for each of the kernel's places, added up: no im2col in memory."""
    sequences, _, time, frequency = x.shape
    reach = weight.shape[-1] // 2
    padded = F.pad(x, (reach, reach, reach, reach)).unflatten(1, (groups, -1))  # (S, G, c, T + 2r, F + 2r)
    kernels = weight.unflatten(0, (groups, -1))  # (G, out, c, k, k)
    total: Tensor | None = None
    for down in range(weight.shape[2]):
        for right in range(weight.shape[3]):
            rows = padded[:, :, :, down : down + time, right : right + frequency].permute(1, 0, 3, 4, 2).flatten(1, 3)
            part = torch.bmm(rows, kernels[..., down, right].transpose(1, 2))  # (G, S * T * F, out)
            total = part if total is None else total + part
    assert total is not None
    made = total.unflatten(1, (sequences, time, frequency)).permute(1, 0, 4, 2, 3).flatten(1, 2)
    return made + bias.view(1, -1, 1, 1)


def unfolded(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """im2col, then one batched matrix product of the groups."""
    sequences, _, time, frequency = x.shape
    columns = F.unfold(x, weight.shape[-1], padding=weight.shape[-1] // 2)  # (S, C k k, T F)
    columns = columns.unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(2)  # (G, c k k, S T F)
    made = torch.bmm(weight.flatten(1).unflatten(0, (groups, -1)), columns)
    return made.unflatten(2, (sequences, time, frequency)).permute(2, 0, 1, 3, 4).flatten(1, 2) + bias.view(1, -1, 1, 1)


@functools.lru_cache(maxsize=8)
def _bands(kernel: int, length: int, device: torch.device) -> Tensor:
    """(kernel, length, length): 1 where a place of the input is that far from a place of the output."""
    reach = kernel // 2
    ones = [torch.ones(length - abs(k - reach), device=device) for k in range(kernel)]
    return torch.stack([torch.diag(one, reach - k) for k, one in enumerate(ones)])


def banded(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """Over frequency a dense product with a Toeplitz matrix, over time the kernel's rows: K = c F a product.

    It multiplies F / kernel times as many numbers, most of them 0, in products wide enough for a matrix unit.
    """
    time, frequency = x.shape[2:]
    kernel = weight.shape[-1]
    band = _bands(kernel, frequency, x.device).to(weight.dtype)
    per_group = weight.unflatten(0, (groups, -1))  # (G, out, c, k, k)
    matrices = torch.einsum("gockl,lij->kgcioj", per_group, band).flatten(4, 5).flatten(2, 3)  # (k, G, c F, out F)
    padded = F.pad(x, (0, 0, kernel // 2, kernel // 2)).unflatten(1, (groups, -1))  # (S, G, c, T + 2r, F)
    total: Tensor | None = None
    for down in range(kernel):
        rows = padded[:, :, :, down : down + time].permute(1, 0, 3, 2, 4).flatten(3).flatten(1, 2)  # (G, S T, c F)
        part = torch.bmm(rows, matrices[down])
        total = part if total is None else total + part
    assert total is not None
    made = total.unflatten(1, (len(x), time)).unflatten(3, (-1, frequency))  # (G, S, T, out, F)
    return made.permute(1, 0, 3, 2, 4).flatten(1, 2) + bias.view(1, -1, 1, 1)


def implicit(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """An implicit matrix product in Triton: im2col's rows are read where they lie."""
    from triton_convolution import convolution

    return convolution(x, weight, bias, groups)


CANDIDATES: dict[str, Convolution] = {
    "library": library,
    "channels_last": channels_last,
    "shifted_products": shifted_products,
    "unfolded": unfolded,
    "banded": banded,
}
ON_A_GPU: dict[str, Convolution] = {"triton": implicit}
"""Those that run on a GPU alone."""
