"""What runs faster on a CPU against what PyTorch derives, and against the plain network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from EAT.network import acceleration
from EAT.network.acceleration import LONGEST_MAPPED, accelerate, plain
from EAT.network.block import Block, fused_attention
from EAT.network.decoder import ConvDecoder
from EAT.network.encoder import Encoder
from EAT.network.mixtures import MixturePretraining
from EAT.network.pretraining import Pretraining
from EAT.network.settings import EncoderSettings, PretrainingSettings

DOUBLE = torch.float64
TINY = PretrainingSettings(
    embed_dim=64, depth=2, num_heads=4, decoder_layers=2, decoder_width=64, clone_batch=2, decoder_noise=0.0
)
needs_bf16 = pytest.mark.skipif(
    not acceleration._has_onednn_bf16(), reason="this processor or PyTorch has no bfloat16 products by oneDNN"
)


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
    assert torch.autograd.gradcheck(acceleration._Attention.apply, qkv)
    output = acceleration._Attention.apply(qkv)
    (gradient,) = torch.autograd.grad(output, qkv, torch.ones_like(output).requires_grad_(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):  # rather than a wrong second derivative
        gradient.sum().backward()


@pytest.mark.parametrize(("dtype", "most", "rounding"), [(torch.float32, 2e-6, 4e-7), (torch.bfloat16, 1e-2, 1e-7)])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_attention_is_as_exact_as_the_fused_kernel(
    dtype: torch.dtype, most: float, rounding: float, scale: float
) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(3, 37, 3, 4, 48)
    qkv[:, :, :2] *= scale  # sharper attention
    qkv = qkv.bfloat16()
    exact = results(fused_attention, qkv.to(DOUBLE))
    fused = [error(a, b) for a, b in zip(results(fused_attention, qkv.to(dtype)), exact, strict=True)]
    ours = [error(a, b) for a, b in zip(results(acceleration._Attention.apply, qkv.to(dtype)), exact, strict=True)]
    assert max(ours) < most
    assert all(own < 1.5 * other + rounding for own, other in zip(ours, fused, strict=True))


@pytest.mark.parametrize("tokens", [LONGEST_MAPPED, LONGEST_MAPPED + 1])
def test_long_sequences_keep_no_attention_map(tokens: int) -> None:
    torch.manual_seed(0)
    block = Block(EncoderSettings(embed_dim=16, num_heads=2))
    accelerate(block)
    kept: list[int] = []
    x = torch.randn(1, tokens, 16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        output, _ = block(x)
    assert (max(kept) >= 2 * tokens**2) == (tokens <= LONGEST_MAPPED)
    with plain():
        torch.testing.assert_close(output, block(x)[0], rtol=1e-4, atol=1e-5)


def test_linear_by_finite_differences() -> None:
    torch.manual_seed(0)
    weight, bias = (torch.randn(*shape, dtype=DOUBLE, requires_grad=True) for shape in ((7, 5), (7,)))
    x = torch.randn(3, 4, 5, dtype=DOUBLE, requires_grad=True)
    for operation in (acceleration._Linear, acceleration._LinearFork):
        assert torch.autograd.gradcheck(operation.apply, (x, weight, bias))
        assert torch.autograd.gradgradcheck(operation.apply, (x, weight, bias))


@needs_bf16
@pytest.mark.parametrize("shape", [(24, 70), (70, 24), (32, 32), (24, 768)])
@pytest.mark.parametrize("rows", [66, 1200])
def test_linear_in_bfloat16(shape: tuple[int, int], rows: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(*shape).bfloat16()
    exact = nn.Linear(*shape).double()
    exact.load_state_dict(linear.state_dict())
    x = torch.randn(3, rows // 3, shape[0]).bfloat16()

    def forked(x: Tensor) -> Tensor:
        product, residual = acceleration._LinearFork.apply(x, linear.weight, linear.bias)
        return torch.cat([product, 2.0 * residual], dim=-1)

    wanted = results(lambda x: torch.cat([exact(x), 2.0 * x], dim=-1), x.double(), exact)
    derived = results(lambda x: torch.cat([linear(x), 2.0 * x], dim=-1), x, linear)
    for own, other, true in zip(results(forked, x, linear), derived, wanted, strict=True):
        assert own.shape == true.shape and own.is_contiguous()
        assert error(own, true) < max(1.2 * error(other, true), 4e-3)
    with torch.no_grad():
        true = F.gelu(exact(x.double()))
        assert error(acceleration._infer_linear(x, linear.weight, linear.bias, gelu=True), true) < 6e-3


def test_gelu_by_rows_in_float32() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(24, 72)
    x = torch.randn(3, 100, 24)  # more rows than are taken at a time
    with torch.no_grad():
        for part in (x, x[:, :1], x[:0]):
            ours = acceleration._infer_linear(part, linear.weight, linear.bias, gelu=True)
            torch.testing.assert_close(ours, F.gelu(linear(part)))


def block_pair(dtype: torch.dtype) -> Block:
    torch.manual_seed(0)
    block = Block(EncoderSettings(embed_dim=64, num_heads=4)).to(dtype)
    accelerate(block)
    return block


@pytest.mark.parametrize("dtype", [DOUBLE, torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("masked", [False, True])
def test_a_block_computes_the_same_both_ways(dtype: torch.dtype, rows: int | None, masked: bool) -> None:
    block, exact = block_pair(dtype), block_pair(DOUBLE)
    exact.load_state_dict(block.state_dict())
    x = torch.randn(3, 9, 64).to(dtype)
    key_mask = torch.arange(9) < torch.tensor([[9], [4], [1]]) if masked else None

    def both(block: Block) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat(block(x, key_mask, rows), dim=-1)

    fast = results(both(block), x, block)
    with plain():
        slow, true = results(both(block), x, block), results(both(exact), x.double(), exact)
    floor = {DOUBLE: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}[dtype]
    for own, other, wanted in zip(fast, slow, true, strict=True):
        if wanted.norm() > 1e-9:  # the keys' bias has no gradient
            assert error(own, wanted) < max(1.5 * error(other, wanted), floor)
    with torch.no_grad():
        assert error(both(block)(x), true[0]) < max(1.5 * error(slow[0], true[0]), floor)


@pytest.mark.parametrize("rows", [None, 1])
def test_rows_are_the_first_of_all(rows: int | None) -> None:
    block = block_pair(DOUBLE)
    x = torch.randn(3, 9, 64, dtype=DOUBLE)
    whole = results(lambda x: block(x)[0][:, :rows], x, block)
    for own, other in zip(results(lambda x: block(x, rows=rows)[0], x, block), whole, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whatever_alone_is_trained_gets_its_gradient(dtype: torch.dtype) -> None:
    block = block_pair(dtype)
    x = torch.randn(2, 5, 64).to(dtype)
    for name, parameter in block.named_parameters():
        block.requires_grad_(False)
        parameter.requires_grad_()
        (own,) = torch.autograd.grad(block(x)[0].float().square().sum(), parameter)
        with plain():
            (other,) = torch.autograd.grad(block(x)[0].float().square().sum(), parameter)
        torch.testing.assert_close(own, other, rtol=3e-2, atol=3e-2, msg=name)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("width", [32, 64])  # 64: a first block without a residual
def test_the_decoders_blocks_compute_the_same_both_ways(kernel: int, width: int) -> None:
    torch.manual_seed(0)
    settings = PretrainingSettings(
        embed_dim=32, num_heads=4, decoder_layers=2, decoder_width=width, decoder_kernel=kernel
    )
    decoder = ConvDecoder(settings)
    accelerate(decoder)
    x = torch.randn(2, 32, 6, 8)
    fast = results(decoder.blocks, x, decoder.blocks)
    with plain():
        slow = results(decoder.blocks, x, decoder.blocks)
    for own, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(decoder.blocks(x), slow[0], rtol=1e-4, atol=1e-4)


def test_only_blocks_that_are_known_are_replaced() -> None:
    class Gated(Block):
        pass

    block = Gated(EncoderSettings(embed_dim=16, num_heads=2))
    accelerate(block)
    assert type(block) is Gated
    encoder = Encoder(EncoderSettings(embed_dim=16, depth=1, num_heads=2))
    names = list(encoder.state_dict())
    accelerate(encoder)
    accelerate(encoder)
    assert type(encoder.blocks[0]) is acceleration.FastBlock and isinstance(encoder.blocks[0], Block)
    assert list(encoder.state_dict()) == names


def losses_and_gradients(change: Callable[[Pretraining], object] = lambda model: None) -> list[Tensor]:
    torch.manual_seed(0)
    model = Pretraining(TINY).train()
    names = list(model.state_dict())
    change(model)
    assert list(model.state_dict()) == names
    terms = model(model.draw(torch.randn(2, 1, 128, 128), [3, 9], seed=1, epoch=1)).terms
    (terms["frame"] + terms["utterance"]).backward()
    return [term.detach() for term in terms.values()] + [p.grad for p in model.parameters() if p.grad is not None]


def test_the_plain_network_trains_the_same() -> None:
    fast = losses_and_gradients()
    with plain():
        slow = losses_and_gradients()
    for own, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def test_autocast_trains() -> None:
    torch.manual_seed(0)
    model = Pretraining(TINY)
    batch = model.draw(torch.randn(2, 1, 128, 128), [3, 9], seed=1, epoch=1)
    exact = model(batch).terms
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch).terms
    assert mixed["frame"].item() == pytest.approx(exact["frame"].item(), rel=0.02)
    (mixed["frame"] + mixed["utterance"]).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.slow
def test_compiled_it_computes_the_same() -> None:
    for own, other in zip(losses_and_gradients(Pretraining.compile), losses_and_gradients(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("terms", [("frame", "utterance"), ("frame", "utterance", "retention")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_whole_objective_is_one_graph(dtype: torch.dtype, terms: tuple[str, ...]) -> None:
    """From a batch of tensors to loss terms and watched sums without a graph break, student and teacher together."""
    torch.manual_seed(0)
    model = (MixturePretraining if "retention" in terms else Pretraining)(TINY).to(dtype)
    batch = model.draw(torch.randn(2, 1, 128, 128), [3, 9], seed=1, epoch=1)
    with plain():
        expected = model(batch, terms)
    compiled = torch.compile(lambda given: model(given, terms), fullgraph=True, backend="aot_eager")(batch)
    tolerance = {"rtol": 1e-5, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1.0}
    for part in ("terms", "watched"):
        for name, value in getattr(expected, part).items():
            torch.testing.assert_close(getattr(compiled, part)[name], value, **tolerance)
