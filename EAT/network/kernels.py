"""Operations whose gradients PyTorch computes slowly on a CPU, with gradients written out. Elsewhere PyTorch's own run.

Forward and backward are the same sums in another order; only speed differs. Measured shares are in
``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LONGEST_MAPPED = 640
"""Tokens up to which attention keeps its map for the backward pass; the map's memory grows with their square."""


def _differentiated_on_cpu(x: Tensor) -> bool:
    """Whether a written-out gradient may stand in: not under autocast, where operands differ in precision."""
    return (
        x.device.type == "cpu"
        and x.requires_grad
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class Linear(nn.Linear):
    """``nn.Linear``; in half precision on a CPU the weight's gradient is a product without a transposed left side."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if x.dtype == torch.bfloat16 and _differentiated_on_cpu(x):
            return _Linear.apply(x, self.weight, self.bias)
        return super().forward(x)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        rows = gradients[0].reshape(-1, weight.shape[0])
        inputs = x.reshape(-1, weight.shape[1])
        # oneDNN's bf16 product runs at half its rate where the left side is transposed; laying the narrower matrix
        # out anew, and the result where that was the input, costs less than that.
        if weight.shape[0] > weight.shape[1]:
            grad_weight = _transposed(_transposed(inputs) @ rows)
        else:
            grad_weight = _transposed(rows) @ inputs
        return (rows @ weight).view(x.shape), grad_weight, rows.sum(dim=0)


def _transposed(matrix: Tensor, block: int = 64) -> Tensor:
    """The transpose, contiguous. A few rows at a time, which keeps what is read in the cache until it is used up."""
    result = matrix.new_empty(matrix.shape[1], matrix.shape[0])
    for start in range(0, len(matrix), block):
        result[:, start : start + block].copy_(matrix[start : start + block].t())
    return result


class _GroupedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        padding = weight.shape[-1] // 2
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            gradients[0], x, weight, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], ctx.groups,
            (True, True, False),
        )  # fmt: skip
        # oneDNN adds the bias' gradient up six times as slowly as a sum over rows does.
        return grad_x, grad_weight, gradients[0].permute(0, 2, 3, 1).flatten(0, 2).sum(dim=0), None


def grouped_convolution(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Apply a convolution that keeps the map's size: (B, C_in, T, F) to (B, C_out, T, F), both channels-last."""
    if _differentiated_on_cpu(x):
        assert convolution.bias is not None
        return _GroupedConvolution.apply(x, convolution.weight, convolution.bias, convolution.groups)
    return convolution(x)


def attention(qkv: Tensor, key_mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention of all heads: softmax(Q K^T / sqrt(W)) V.

    Args:
        qkv: (B, S, 3, heads, W) queries, keys and values side by side.
        key_mask: (B, S), True at tokens that may be attended to; None means all.

    Returns:
        (B, S, heads * W).
    """
    batch, tokens, _, heads, width = qkv.shape
    if key_mask is None and tokens <= LONGEST_MAPPED and _differentiated_on_cpu(qkv):
        return _Attention.apply(qkv)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, S, W)
    mask = None if key_mask is None else key_mask[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(batch, tokens, heads * width)


class _Attention(torch.autograd.Function):
    """Attention as batched matrix products that keep the attention map for the backward pass.

    The fused kernel's backward works through blocks too small for a CPU's matrix units: in bf16 it takes seven times
    as long as these products. The map costs heads * S^2 numbers a sequence, less than a block's other activations
    at the lengths that are trained on. Logits are float32 up to the softmax, as in the fused kernel.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> Tensor:
        batch, tokens, _, heads, width = qkv.shape
        packed = qkv.permute(2, 0, 3, 1, 4).reshape(3, batch * heads, tokens, width)
        query, key, value = packed
        exact = torch.promote_types(qkv.dtype, torch.float32)
        logits = torch.bmm(query.to(exact), key.to(exact).transpose(1, 2)).mul_(width**-0.5)
        weights = logits.softmax(dim=-1).to(qkv.dtype)  # (B * heads, S, S)
        ctx.save_for_backward(packed, weights)
        mixed = torch.bmm(weights, value).view(batch, heads, tokens, width)
        return mixed.transpose(1, 2).reshape(batch, tokens, heads * width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        packed, weights = ctx.saved_tensors
        query, key, value = packed
        batch, tokens, dim = gradients[0].shape
        width = query.shape[-1]
        shape = (batch, dim // width, tokens, width)  # of one of queries, keys and values
        gradient = gradients[0].view(batch, tokens, -1, width).transpose(1, 2).reshape_as(value)
        grad_qkv = gradient.new_empty(batch, tokens, 3, dim // width, width)
        grad_query, grad_key, grad_value = grad_qkv.permute(2, 0, 3, 1, 4)

        grad_value.copy_(torch.bmm(weights.transpose(1, 2), gradient).view(shape))
        grad_weights = torch.bmm(gradient, value.transpose(1, 2))
        grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(width**-0.5)
        grad_query.copy_(torch.bmm(grad_logits, key).view(shape))
        grad_key.copy_(torch.bmm(grad_logits.transpose(1, 2), query).view(shape))
        return grad_qkv
