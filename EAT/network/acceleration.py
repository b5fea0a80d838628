"""What makes a CPU fast, applied from outside: other forwards over the same parameters that compute the same sums.

:func:`accelerate` gives blocks a class with a faster forward; whether it runs is decided once in every call of a block
(:func:`_decide`). ``EAT_ACCELERATE=0`` in the environment, or :func:`plain`, turns all of it off, which changes nothing
but speed. Elsewhere than on a CPU, under autocast and under ``torch.compile`` the plain network runs. What each part
gains is in ``benchmarks/RESULTS.md``.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .block import Attention, Block, FeedForward, GatedAttention, fused_attention, gather
from .decoder import ConvDecoder, DecoderBlock

LONGEST_MAPPED = 640
"""Tokens up to which attention keeps its map for the backward pass; the map's memory grows with their square."""

_enabled = os.environ.get("EAT_ACCELERATE", "1") != "0"


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within this context the plain network runs."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def accelerate(model: nn.Module) -> None:
    """Give every block that is known here its faster forward. Names, parameters and ``isinstance`` stay."""
    for module in model.modules():
        if type(module) is Block and type(module.mlp) is FeedForward:
            if type(module.attn) in (Attention, GatedAttention):
                module.__class__ = FastBlock
        elif type(module) is ConvDecoder and all(type(block) is DecoderBlock for block in module.blocks):
            module.blocks.__class__ = FastDecoderBlocks


def _decide(module: nn.Module, x: Tensor) -> str:
    """What a module's call runs on: ``train``, ``infer`` or ``plain``."""
    if not _enabled or x.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return "plain"
    if torch.is_grad_enabled():
        if x.requires_grad:
            return "train"
        if any(parameter.requires_grad for parameter in module.parameters()):
            return "plain"  # nothing before it is trained: rare, and not worth a path of its own
    return "infer"


class FastBlock(Block):
    """A Transformer block on a CPU."""

    def forward(self, x: Tensor, key_mask: Tensor | None = None, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`Block.forward`."""
        mode = _decide(self, x)
        if mode == "plain":
            return super().forward(x, key_mask, rows)
        linear: Callable[..., Tensor] = _Linear.apply if mode == "train" else _infer_linear
        attn: Any = self.attn
        mlp: Any = self.mlp
        if mode == "train":
            qkv, x = _LinearFork.apply(x, attn.qkv.weight, attn.qkv.bias)
            qkv = qkv.unflatten(-1, (3, attn.num_heads, -1))
            mapped = rows is None and key_mask is None and x.shape[1] <= LONGEST_MAPPED
            mixed = _Attention.apply(qkv) if mapped else fused_attention(qkv, key_mask, rows)
        else:
            mixed = _infer_attention(attn, x, key_mask, rows)
        if isinstance(attn, GatedAttention):
            mixed = linear(x[:, :rows], attn.gate.weight, attn.gate.bias).sigmoid() * mixed
        r = self.norm1(x[:, :rows] + self.drop_path(linear(mixed, attn.proj.weight, attn.proj.bias)))
        if mode == "train":
            hidden, r = _LinearFork.apply(r, mlp.fc1.weight, mlp.fc1.bias)
            hidden = F.gelu(hidden)
        else:
            hidden = _infer_linear(r, mlp.fc1.weight, mlp.fc1.bias, gelu=True)
        f = linear(hidden, mlp.fc2.weight, mlp.fc2.bias)
        return self.norm2(r + self.drop_path(f)), f


@functools.cache
def _has_onednn_bf16() -> bool:
    """Whether this PyTorch has oneDNN's linear operation, and the processor what it needs for bfloat16."""
    operations = torch.ops.mkldnn
    return (
        torch.backends.mkldnn.is_available()
        and all(hasattr(operations, name) for name in ("_linear_pointwise", "_is_mkldnn_bf16_supported"))
        and bool(operations._is_mkldnn_bf16_supported())
    )


def _infer_linear(x: Tensor, weight: Tensor, bias: Tensor, gelu: bool = False) -> Tensor:
    """X W^T + b, perhaps its GELU: in bfloat16 by oneDNN, in float32 with bias and GELU while rows are in the cache."""
    if x.dtype == torch.bfloat16 and _has_onednn_bf16():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
    if not gelu:
        return F.linear(x, weight, bias)
    product = x.reshape(-1, x.shape[-1]) @ weight.t()
    for rows in product.split(256):
        torch.ops.aten.gelu_(rows.add_(bias))
    return product.view(*x.shape[:-1], len(weight))


def _infer_attention(attn: Any, x: Tensor, key_mask: Tensor | None, rows: int | None) -> Tensor:
    """What the heads gather; where a few rows are wanted only their queries are computed."""
    weight, bias, heads = attn.qkv.weight, attn.qkv.bias, attn.num_heads
    if rows is None:
        return fused_attention(_infer_linear(x, weight, bias).unflatten(-1, (3, heads, -1)), key_mask)
    dim = x.shape[-1]
    query = _infer_linear(x[:, :rows], weight[:dim], bias[:dim]).unflatten(-1, (heads, -1)).transpose(1, 2)
    pairs = _infer_linear(x, weight[dim:], bias[dim:]).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    return gather(query, pairs[0], pairs[1], key_mask)


class _Linear(torch.autograd.Function):
    """x W^T + b, with a backward whose matrix products suit a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _infer_linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias; that of the output comes first, a residual's second."""
        x, weight = ctx.saved_tensors
        rows = gradients[0].reshape(-1, weight.shape[0])
        inputs = x.reshape(-1, weight.shape[1])
        # oneDNN's bf16 product runs at half its rate where the left side is transposed and one side is long; a
        # contiguous transpose of the narrower matrix, and of the result where that was the input, costs less. A row
        # of ones in it has the product give the bias' gradient too. In float32 a transposed side costs nothing.
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
    """x W^T + b, and x itself for a residual, whose gradient is added to x's within the matrix product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return _Linear.forward(ctx, x, weight, bias), x


def _transposed(matrix: Tensor, ones: bool = False, block: int = 96) -> Tensor:
    """The contiguous transpose, with a last row of ones if wanted; a few rows at a time, which stay in the cache."""
    rows, columns = matrix.shape
    result = matrix.new_empty(columns + ones, rows)
    if ones:
        result[-1] = 1.0
    for start in range(0, rows, block):
        result[:columns, start : start + block].copy_(matrix[start : start + block].t())
    return result


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


class FastDecoderBlocks(nn.Sequential):
    """The decoder's blocks on a CPU, over maps that lie in memory as (B, F, T, C).

    With channels last the LayerNorm needs no transpose and the convolution is at its fastest; with the longer side
    before them its weight gradient takes half the time that it takes the other way round, where rows of 8 patches
    leave a CPU's matrix units half empty.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, T, F) to (B, C_out, T, F)."""
        if _decide(self, x) == "plain":
            return super().forward(x)
        x = x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 1, 2)  # (B, C, F, T)
        block: Any
        for block in self:
            weight = block.conv.weight.transpose(2, 3)
            y, residual = _GroupedConvolution.apply(x, weight, block.conv.bias, block.conv.groups)
            y = y.permute(0, 2, 3, 1)
            y = F.gelu(F.layer_norm(y, y.shape[-1:], eps=1e-5)).permute(0, 3, 1, 2)
            x = residual + y if block.residual else y
        return x.transpose(2, 3)


class _GroupedConvolution(torch.autograd.Function):
    """A convolution that keeps the map's size, and x itself for a residual, whose gradient is added out of place."""

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
