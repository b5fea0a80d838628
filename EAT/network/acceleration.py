"""Operations whose gradients PyTorch computes slowly on a CPU, with gradients written out. Elsewhere PyTorch's own run.

Forward and backward are the same sums in another order; only speed differs. Measured shares are in
``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    """``nn.Linear``; on a CPU with a gradient that suits its matrix products, in bfloat16 by oneDNN's own operation."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if _differentiated_on_cpu(x):
            return _Linear.apply(x, self.weight, self.bias)
        return _onednn(x, self.weight, self.bias) if self._is_fused(x) else super().forward(x)

    def fork(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`forward` of x, and x itself for a residual connection.

        Where the written-out gradient runs, the residual's is added to x's within the matrix product.
        """
        if _differentiated_on_cpu(x):
            return _LinearFork.apply(x, self.weight, self.bias)
        return self(x), x

    def gelu_fork(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Exact GELU of :meth:`forward`, in fewer passes over it where nothing is differentiated; and x itself."""
        if self._is_fused(x):
            return _onednn(x, self.weight, self.bias, "gelu"), x
        if self._infers(torch.float32, x):
            product = x.reshape(-1, self.in_features) @ self.weight.t()
            for rows in product.split(256):  # which stay in the cache from one operation to the other
                torch.ops.aten.gelu_(rows.add_(self.bias))
            return product.view(*x.shape[:-1], self.out_features), x
        product, x = self.fork(x)
        return F.gelu(product), x

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """``residual`` + :meth:`forward`, on a CPU added within the product where that can be."""
        if _differentiated_on_cpu(x):
            return _LinearPlus.apply(x, self.weight, self.bias, residual)
        if self._is_fused(x, residual):
            return _onednn_plus(x, self.weight, self.bias, residual)
        if self._infers(torch.float32, x, residual):
            total = (residual + self.bias).reshape(-1, self.out_features)
            return total.addmm_(x.reshape(-1, self.in_features), self.weight.t()).view(residual.shape)
        return residual + self(x)

    def _infers(self, dtype: torch.dtype, *inputs: Tensor) -> bool:
        """Whether this is plain inference on a CPU: nothing differentiated, compiled or cast."""
        tensors = (*inputs, self.weight, self.bias)
        return (
            all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in tensors)
            and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
            and not torch.compiler.is_compiling()
            and not torch.is_autocast_enabled("cpu")
        )

    def _is_fused(self, *inputs: Tensor) -> bool:
        return self._infers(torch.bfloat16, *inputs) and _has_onednn_bf16()


class SpacedLinear(Linear):
    """:class:`Linear`; in float32 on a CPU with the rows of its result 64 bytes further apart than they need be.

    Attention reads columns of the result, and rows at a multiple of a quarter of a page fall on the same lines of the
    cache: with room between them it is a tenth faster. Only where nothing is differentiated; training packs them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out), the last two axes perhaps with room between rows."""
        if not self._infers(torch.float32, x):
            return super().forward(x)
        rows = x.reshape(-1, self.in_features)
        room = x.new_empty(len(rows), self.out_features + 16)[:, : self.out_features]
        return torch.addmm(self.bias, rows, self.weight.t(), out=room).view(*x.shape[:-1], self.out_features)


@functools.cache
def _has_onednn_bf16() -> bool:
    """Whether this PyTorch has oneDNN's linear operation, and the processor what it needs for bfloat16."""
    operations = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(operations, name) for name in ("_linear_pointwise", "_is_mkldnn_bf16_supported"))
        and bool(operations._is_mkldnn_bf16_supported())
    )


def _suits_onednn(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and _has_onednn_bf16()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor, activation: str = "none") -> Tensor:
    """activation(x W^T + b) by oneDNN, a tenth faster in bfloat16 than through ``F.linear``."""
    product = torch.ops.mkldnn._linear_pointwise
    if _is_slow(x, weight):
        rows = x.reshape(-1, x.shape[-1])
        parts = rows.chunk(math.ceil(len(rows) / 640))
        whole = torch.cat([product(part, weight, bias, activation, [], "none") for part in parts])
        return whole.view(*x.shape[:-1], -1)
    return product(x, weight, bias, activation, [], "none")


def _onednn_plus(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """The product x W^T + b plus a residual by oneDNN."""
    if _is_slow(x, weight):
        return residual + _onednn(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")


def _is_slow(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN would put one thread alone to most of a product: so many rows, and the base model's width."""
    return weight.shape[0] == 768 and 700 <= x.numel() // x.shape[-1] < 1500


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias) if _suits_onednn(x) else F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias; that of the output comes first, a residual's second."""
        x, weight = ctx.saved_tensors
        rows = gradients[0].reshape(-1, weight.shape[0])
        inputs = x.reshape(-1, weight.shape[1])
        # oneDNN's bf16 product runs at half its rate where the left side is transposed and one side is long; laying
        # the narrower matrix out anew, and the result where that was the input, costs less than that. A row of ones
        # in it has the product give the bias' gradient too. In float32 a transposed side costs nothing.
        longer = weight.shape[0] - weight.shape[1] if rows.dtype == torch.bfloat16 else 0
        if longer > 0:
            products = _transposed(inputs, ones=True) @ rows
            grad_weight, grad_bias = _transposed(products[:-1]), products[-1].clone()
        else:
            grad_bias = (rows.new_ones(1, len(rows)) @ rows)[0]  # three times as fast as a sum
            grad_weight = (_transposed(rows) if longer < 0 else rows.t()) @ inputs
        grad_x = torch.addmm(gradients[1].reshape_as(inputs), rows, weight) if gradients[1:] else rows @ weight
        return grad_x.view(x.shape), grad_weight, grad_bias


class _LinearFork(_Linear):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _Linear.forward(ctx, x, weight, bias), x


class _LinearPlus(_Linear):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        return _onednn_plus(x, weight, bias, residual) if _suits_onednn(x) else residual + F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        return *_Linear.backward(ctx, *gradients), gradients[0]


def _transposed(matrix: Tensor, ones: bool = False, block: int = 96) -> Tensor:
    """The transpose, contiguous, with a last row of ones if wanted.

    A few rows at a time, which keeps what is read in the cache until it is used up.
    """
    rows, columns = matrix.shape
    result = matrix.new_empty(columns + ones, rows)
    if ones:
        result[-1] = 1.0
    for start in range(0, rows, block):
        result[:columns, start : start + block].copy_(matrix[start : start + block].t())
    return result


class _GroupedConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        ctx.set_materialize_grads(False)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups), x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        gradient, residual = gradients
        if gradient is None:
            return residual, None, None, None
        x, weight = ctx.saved_tensors
        padding = weight.shape[-1] // 2
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], ctx.groups,
            (True, True, False),
        )  # fmt: skip
        # oneDNN adds the bias' gradient up six times as slowly as a sum over rows does.
        grad_bias = gradient.permute(0, 2, 3, 1).flatten(0, 2).sum(dim=0)
        return grad_x if residual is None else grad_x + residual, grad_weight, grad_bias, None


def grouped_convolution(x: Tensor, convolution: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Apply a convolution over (T, F) that keeps the map's size: (B, C_in, F, T) to (B, C_out, F, T), channels-last.

    Also gives x itself for a residual connection. Where the written-out gradient runs, the residual's is added to
    x's out of place, in half the time of autograd's addition in place.
    """
    weight, bias, groups = convolution.weight.transpose(2, 3), convolution.bias, convolution.groups
    if _differentiated_on_cpu(x):
        assert bias is not None
        return _GroupedConvolution.apply(x, weight, bias, groups)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=groups), x


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


def cls_attention(
    query: Tensor,
    x: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    key_mask: Tensor | None = None,
) -> Tensor:
    """Attention of the CLS token alone, without making the other tokens' keys and values.

    One query meets every key, so the query goes through the keys' weights instead: q (W x) = (W^T q) x. The keys' bias
    adds the same to all logits of a head and drops out of the softmax. Values are averaged before their weights.

    Args:
        query: (B, heads, W) of CLS.
        x: (B, S, D) all tokens.
        key_weight: (D, D).
        value_weight: (D, D).
        value_bias: (D,).
        key_mask: (B, S), True at tokens that may be attended to; None means all.

    Returns:
        (B, 1, D).
    """
    heads, width = query.shape[1:]
    exact = torch.promote_types(x.dtype, torch.float32)  # logits are that up to the softmax, as in the fused kernel
    by_head = (heads, width, x.shape[-1])
    towards = torch.einsum("bhw,hwd->bhd", query.to(exact), key_weight.to(exact).view(by_head))
    logits = towards @ x.to(exact).transpose(1, 2) * width**-0.5  # (B, heads, S)
    if key_mask is not None:
        logits = logits.masked_fill(~key_mask[:, None], -torch.inf)
    mean = logits.softmax(dim=-1).to(x.dtype) @ x  # (B, heads, D)
    return torch.einsum("bhd,hwd->bhw", mean, value_weight.view(by_head)).flatten(1)[:, None] + value_bias


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
        logits = torch.baddbmm(  # with beta 0, its first argument counts for nothing
            packed.new_empty(1, dtype=exact), query.to(exact), key.to(exact).transpose(1, 2), beta=0, alpha=width**-0.5
        )
        weights = logits.softmax(dim=-1).to(qkv.dtype)  # (B * heads, S, S)
        ctx.save_for_backward(packed, weights)
        mixed = torch.bmm(weights, value).view(batch, heads, tokens, width)
        return mixed.transpose(1, 2).reshape(batch, tokens, heads * width)

    @staticmethod
    @once_differentiable  # what is saved are results, through which no second derivative could be found
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
        grad_logits = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        torch.mul(torch.bmm(grad_logits, key).view(shape), width**-0.5, out=grad_query)
        torch.mul(torch.bmm(grad_logits.transpose(1, 2), query).view(shape), width**-0.5, out=grad_key)
        return grad_qkv
