"""Gradients that are written out against the ones that PyTorch derives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from EAT.network.acceleration import LONGEST_MAPPED, Linear, SpacedLinear, attention, grouped_convolution
from EAT.network.block import Block
from EAT.network.objective import deviations, frame_loss, squared_distance
from EAT.network.pretraining import Pretraining
from EAT.network.settings import DecoderConfig, EncoderConfig, PretrainingConfig

DOUBLE = torch.float64


def fused_attention(qkv: Tensor) -> Tensor:
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def results(function: Callable[[Tensor], Tensor], x: Tensor, module: nn.Module | None = None) -> list[Tensor]:
    """The output, and the gradients of its inner product with fixed numbers by the input and by all parameters."""
    x = x.clone().requires_grad_()
    output = function(x)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3), dtype=DOUBLE).to(output.dtype)
    wanted = [x, *(module.parameters() if module is not None else ())]
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), wanted)]


def error(actual: Tensor, exact: Tensor) -> float:
    return ((actual.double() - exact.double()).norm() / exact.double().norm()).item()


def test_attention_by_finite_differences() -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, 5, 3, 2, 4, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(attention, qkv)
    output = attention(qkv)
    (gradient,) = torch.autograd.grad(output, qkv, torch.ones_like(output).requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):  # rather than a wrong second derivative
        gradient.sum().backward()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_attention_is_as_exact_as_the_fused_kernel(dtype: torch.dtype, most: float, scale: float) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(3, 37, 3, 4, 48)
    qkv[:, :, :2] *= scale  # sharper attention
    qkv = qkv.bfloat16()
    exact = results(fused_attention, qkv.to(DOUBLE))
    fused = [error(a, b) for a, b in zip(results(fused_attention, qkv.to(dtype)), exact, strict=True)]
    ours = [error(a, b) for a, b in zip(results(attention, qkv.to(dtype)), exact, strict=True)]
    assert max(ours) < most
    assert all(own < 1.5 * other + 1e-7 for own, other in zip(ours, fused, strict=True))


def test_linear_by_finite_differences() -> None:
    torch.manual_seed(0)
    linear = Linear(5, 7).double()
    assert torch.autograd.gradcheck(lambda x: linear.fork(x), torch.randn(3, 4, 5, dtype=DOUBLE, requires_grad=True))
    assert torch.autograd.gradgradcheck(
        lambda x: linear.fork(x), torch.randn(3, 4, 5, dtype=DOUBLE, requires_grad=True)
    )
    pair = [torch.randn(3, 4, width, dtype=DOUBLE, requires_grad=True) for width in (5, 7)]
    assert torch.autograd.gradcheck(linear.plus, pair)
    assert torch.autograd.gradgradcheck(linear.plus, pair)
    plain = nn.Linear(5, 7).double()
    plain.load_state_dict(linear.state_dict())
    x = torch.randn(3, 4, 5, dtype=DOUBLE)
    for own, other in zip(results(linear, x, linear), results(plain, x, plain), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("shape", [(24, 70), (70, 24), (32, 32)])
def test_linear_in_bfloat16(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ours = Linear(*shape).bfloat16()
    plain = nn.Linear(*shape).bfloat16()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 67, shape[0]).bfloat16()
    exact = nn.Linear(*shape).double()
    exact.load_state_dict(ours.state_dict())
    wanted = results(exact, x.double(), exact)
    for own, other, true in zip(results(ours, x, ours), results(plain, x, plain), wanted, strict=True):
        assert own.shape == true.shape and own.is_contiguous()
        assert error(own, true) < max(1.2 * error(other, true), 4e-3)

    def residual(linear: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        product, x = linear.fork(x) if isinstance(linear, Linear) else (linear(x), x)
        return torch.cat([product, 2.0 * x], dim=-1)

    wanted = results(lambda x: residual(exact, x), x.double(), exact)
    for own, true in zip(results(lambda x: residual(ours, x), x, ours), wanted, strict=True):
        assert error(own, true) < 4e-3


@pytest.mark.parametrize("shape", [(24, 70), (70, 24), (24, 768)])  # 768 columns of 1200 rows are made in parts
@pytest.mark.parametrize("rows", [66, 1200])
def test_linear_with_what_follows_in_one_operation(shape: tuple[int, int], rows: int) -> None:
    torch.manual_seed(0)
    ours = Linear(*shape).bfloat16()
    exact = nn.Linear(*shape).double()
    exact.load_state_dict(ours.state_dict())
    x, residual = torch.randn(2, rows // 2, shape[0]).bfloat16(), torch.randn(2, rows // 2, shape[1]).bfloat16()
    wanted = exact(x.double())
    with torch.no_grad():
        assert error(ours(x), wanted) < 4e-3
        assert error(ours.gelu_fork(x)[0], F.gelu(wanted)) < 6e-3
        assert error(ours.plus(x, residual), residual.double() + wanted) < 4e-3
    assert ours.gelu_fork(x)[0].requires_grad and ours.plus(x, residual).requires_grad
    assert error(ours.gelu_fork(x)[0], F.gelu(wanted)) < 8e-3  # rounded once more, before GELU
    true = results(lambda x: exact(x) + residual.double(), x.double(), exact)
    for own, other in zip(results(lambda x: ours.plus(x, residual), x, ours), true, strict=True):
        assert error(own, other) < 4e-3


def test_linear_with_what_follows_in_float32() -> None:
    torch.manual_seed(0)
    linear = Linear(24, 72)
    x, residual = torch.randn(3, 100, 24), torch.randn(3, 100, 72)  # more rows than are taken at a time
    wanted = F.linear(x, linear.weight, linear.bias)
    with torch.no_grad():
        torch.testing.assert_close(linear.gelu_fork(x)[0], F.gelu(wanted))
        torch.testing.assert_close(linear.plus(x, residual), residual + wanted)
        torch.testing.assert_close(linear.plus(x[:, :1], residual[:, :1]), (residual + wanted)[:, :1])  # rows apart
        assert linear.plus(x[:0], residual[:0]).shape == linear.gelu_fork(x[:0])[0].shape == (0, 100, 72)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", ["weight", "bias", "residual"])
def test_one_trained_tensor_gets_its_gradient(dtype: torch.dtype, trained: str) -> None:
    torch.manual_seed(0)
    for kind in (Linear, SpacedLinear):
        linear = kind(8, 8).to(dtype).requires_grad_(False)
        x, residual = torch.randn(2, 3, 8).to(dtype), torch.randn(2, 3, 8).to(dtype)
        tensor = residual if trained == "residual" else getattr(linear, trained)
        tensor.requires_grad_()
        (gradient,) = torch.autograd.grad(linear.plus(x, residual).sum(), tensor)
        wanted = {"weight": x.sum((0, 1)).expand(8, 8), "bias": torch.full((8,), 6.0), "residual": torch.ones(2, 3, 8)}
        torch.testing.assert_close(gradient, wanted[trained].to(dtype), rtol=2e-2, atol=2e-2)
        if trained != "residual":
            assert linear(x).requires_grad and linear.gelu_fork(x)[0].requires_grad


@pytest.mark.parametrize("shape", [(3, 9), (1, 1), (0, 4)])
def test_room_between_rows_changes_no_value(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    spaced = SpacedLinear(24, 72)
    x = torch.randn(*shape, 24)
    wanted = F.linear(x, spaced.weight, spaced.bias)
    with torch.no_grad():
        output = spaced(x)
        torch.testing.assert_close(output, wanted)
        assert output.stride(1) == 72 + 16 or shape != (3, 9)
        split = output.view(*shape, 3, 4, 6)
        torch.testing.assert_close(attention(split), attention(split.contiguous()))
    assert spaced(x).is_contiguous() and spaced(x).requires_grad


@pytest.mark.parametrize("masked", [False, True])
def test_the_cls_token_alone(masked: bool) -> None:
    torch.manual_seed(0)
    block = Block(24, 4, 4.0, 1e-6, 0.0).double()
    x = torch.randn(3, 9, 24, dtype=DOUBLE)
    key_mask = torch.arange(9) < torch.tensor([[9], [4], [1]]) if masked else None
    whole = results(lambda x: block(x, key_mask)[0][:, :1], x, block)
    alone = results(lambda x: block(x, key_mask, only_cls=True, keep_ffn=False)[0], x, block)
    for own, other in zip(alone, whole, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


def test_the_cls_token_alone_is_as_exact_in_bfloat16() -> None:
    torch.manual_seed(0)
    block, exact = Block(64, 4, 4.0, 1e-6, 0.0).bfloat16(), Block(64, 4, 4.0, 1e-6, 0.0).double()
    with torch.no_grad():
        block.attn.qkv.weight.mul_(4.0)  # sharp attention
        exact.load_state_dict(block.state_dict())
        x = torch.randn(5, 40, 64).bfloat16()
        true = exact(x.double())[0][:, :1]
        alone = block(x, only_cls=True, keep_ffn=False)[0]
        assert error(alone, true) < 1.3 * error(block(x)[0][:, :1], true) + 1e-3


@pytest.mark.parametrize("kernel", [3, 5])
def test_grouped_convolution(kernel: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(32, 64, kernel, padding=kernel // 2, groups=16)
    x = torch.randn(2, 6, 8, 32).permute(0, 3, 1, 2)  # frequency before time, the other way round than the kernel

    def plain(x: Tensor) -> Tensor:
        return convolution(x.transpose(2, 3)).transpose(2, 3)

    def with_residual(x: Tensor) -> Tensor:
        return torch.cat(grouped_convolution(x, convolution), dim=1)

    for function, other in [
        (lambda x: grouped_convolution(x, convolution)[0], plain),
        (with_residual, lambda x: torch.cat([plain(x), x], dim=1)),
    ]:
        for own, wanted in zip(results(function, x, convolution), results(other, x, convolution), strict=True):
            torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "most"), [(DOUBLE, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_frame_loss_is_the_mean_distance(dtype: torch.dtype, most: float) -> None:
    torch.manual_seed(0)
    predictions = torch.randn(1100, 12).to(dtype).requires_grad_()  # more than two blocks of rows
    targets = torch.randn(64, 12, dtype=torch.promote_types(dtype, torch.float32))
    places = torch.randint(64, (1100,))
    exact = squared_distance(predictions.double(), targets[places].double()).mean()
    if dtype == DOUBLE:
        exact = (predictions - targets[places]).square().sum(dim=1).mean() / 12**0.5
    loss = frame_loss(predictions, targets, places)
    assert loss.item() == pytest.approx(exact.item(), rel=most)
    (ours,) = torch.autograd.grad(2.0**20 * loss, predictions)
    (wanted,) = torch.autograd.grad(2.0**20 * exact, predictions)
    assert ours.dtype == dtype and error(ours, wanted) < most


def test_deviations_are_those_of_the_rows_compared() -> None:
    torch.manual_seed(0)
    predictions, targets = torch.randn(1100, 12) * 3 + 1, torch.randn(64, 12)
    places = torch.randint(64, (1100,))
    for own, rows in zip(deviations(predictions, targets, places), (predictions, targets[places]), strict=True):
        assert own.item() == pytest.approx((rows.var(dim=0) + 1e-6).sqrt().mean().item(), rel=1e-5)


def test_autocast_trains() -> None:
    torch.manual_seed(0)
    config = PretrainingConfig(
        encoder=EncoderConfig(embed_dim=32, depth=2, num_heads=4), decoder=DecoderConfig(layers=2, width=32), clones=2
    )
    model = Pretraining(config)
    x = torch.randn(2, 1, 128, 128)
    exact = model(x, [3, 9], seed=1, epoch=1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(x, [3, 9], seed=1, epoch=1)
    assert mixed.frame_loss.item() == pytest.approx(exact.frame_loss.item(), rel=0.02)
    (mixed.frame_loss + mixed.utterance_loss).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("tokens", [LONGEST_MAPPED, LONGEST_MAPPED + 1])
def test_long_sequences_keep_no_attention_map(tokens: int) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(1, tokens, 3, 2, 8)
    kept: list[int] = []
    x = qkv.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        output = attention(x)
    assert (max(kept) >= 2 * tokens**2) == (tokens <= LONGEST_MAPPED)
    torch.testing.assert_close(output, fused_attention(qkv), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    config = PretrainingConfig(
        encoder=EncoderConfig(embed_dim=64, depth=2, num_heads=4), decoder=DecoderConfig(layers=2, width=64), clones=2
    )

    def losses_and_gradients(compiled: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = Pretraining(config).train()
        names = list(model.state_dict())
        if compiled:
            model.compile_blocks()
        assert list(model.state_dict()) == names
        output = model(torch.randn(2, 1, 128, 128), [3, 9], seed=1, epoch=1)
        (output.frame_loss + output.utterance_loss).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return [output.frame_loss.detach(), output.utterance_loss.detach(), *gradients]

    for own, other in zip(losses_and_gradients(True), losses_and_gradients(False), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)
