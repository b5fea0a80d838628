"""The parts of ``gpu.py`` about single operations: rates, convolutions, attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from common import DTYPES, MatrixRate
from convolutions import CANDIDATES, ON_A_GPU
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from EAT.training.device import DeviceSettings, set_precision

if TYPE_CHECKING:
    from gpu import Bench


def ceilings(bench: Bench) -> None:
    """What the card can do at all: products in each precision, copies within it and to it, launches."""
    cpu = bench.device.type == "cpu"
    shapes = (
        [(512, 192, 192)] if cpu else [(8192, 8192, 8192), MatrixRate.SHAPE, (19776, 768, 2304), (19776, 3072, 768)]
    )
    for rows, inner, columns in shapes:
        for name, dtype, tf32 in (
            ("float32", torch.float32, False), ("tf32", torch.float32, True), ("bfloat16", torch.bfloat16, False),
        ):  # fmt: skip

            def product(
                dtype: torch.dtype = dtype, tf32: bool = tf32, shape: tuple[int, ...] = (rows, inner, columns)
            ) -> dict:
                torch.backends.cuda.matmul.allow_tf32 = tf32
                left = torch.randn(shape[0], shape[1], device=bench.device, dtype=dtype)
                right = torch.randn(shape[2], shape[1], device=bench.device, dtype=dtype)
                found = bench.time(lambda: torch.mm(left, right.t()))
                return {**found, "tflops": 2 * shape[0] * shape[1] * shape[2] / found["ms"] / 1e9}

            bench.row("ceilings", f"product {rows} x {inner} x {columns}, {name}", product)
    torch.backends.cuda.matmul.allow_tf32 = False
    count = 2**20 if cpu else 2**28

    def copy() -> dict[str, Any]:
        source, target = (torch.zeros(count, device=bench.device) for _ in range(2))
        found = bench.time(lambda: target.copy_(source))
        return {**found, "gb_per_s": 8 * count / found["ms"] / 1e6}

    def upload() -> dict[str, Any]:
        source = torch.zeros(count // 4)
        source = source if cpu else source.pin_memory()
        target = torch.zeros(count // 4, device=bench.device)
        found = bench.time(lambda: target.copy_(source, non_blocking=True))
        return {**found, "gb_per_s": count / found["ms"] / 1e6}

    def launches() -> dict[str, Any]:
        x = torch.zeros(1, device=bench.device)

        def thousand() -> None:
            for _ in range(1000):
                x.add_(1.0)

        found = bench.time(thousand)
        return {**found, "us_a_launch": found["ms"]}

    bench.row("ceilings", "copy within the device", copy)
    bench.row("ceilings", "copy to the device", upload)
    bench.row("ceilings", "launches of an empty kernel", launches)


def convolution(bench: Bench) -> None:
    """Candidates for the decoder's convolution, forward and with both gradients, at the training shape."""
    settings = bench.settings()
    clips = min(12, max(bench.clips))
    groups, width = settings.decoder_groups, settings.decoder_width
    shape = (clips * bench.clones, width, bench.frames // 16, 8)
    work = 2 * shape[0] * shape[2] * shape[3] * width * width // groups * settings.decoder_kernel**2
    for dtype_name, dtype in DTYPES.items() if bench.device.type == "cpu" else (("bfloat16", torch.bfloat16),):
        wanted: list[Tensor] = []
        for name, candidate in (CANDIDATES if bench.device.type == "cpu" else CANDIDATES | ON_A_GPU).items():
            for timed in (False, True) if name in ("library", "channels_last") else (False,):

                def measured(
                    candidate: Any = candidate,
                    timed: bool = timed,
                    dtype: torch.dtype = dtype,
                    wanted: list[Tensor] = wanted,
                ) -> dict[str, Any]:
                    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = timed, not timed
                    torch.manual_seed(1)
                    kernel = settings.decoder_kernel
                    x = torch.randn(shape, device=bench.device).to(dtype).requires_grad_()
                    weight = 0.02 * torch.randn(width, width // groups, kernel, kernel, device=bench.device)
                    weight, bias = (
                        weight.to(dtype).requires_grad_(),
                        torch.zeros(width, device=bench.device, dtype=dtype),
                    )
                    bias.requires_grad_()
                    given = torch.randn(shape, device=bench.device).to(dtype)

                    def both() -> tuple[Tensor, ...]:
                        y = candidate(x, weight, bias, groups)
                        return (y, *torch.autograd.grad(y, (x, weight, bias), given))

                    with torch.no_grad():
                        forward = bench.time(lambda: candidate(x, weight, bias, groups))
                    found = bench.time(both)
                    results = [value.detach().float() for value in both()]
                    if not wanted:
                        wanted.extend(results)
                    apart = [((a - b).norm() / b.norm()).item() for a, b in zip(results, wanted, strict=True)]
                    return {
                        "forward_ms": forward["ms"], **found, "tflops": 3 * work / found["ms"] / 1e9,
                        "difference": max(apart),
                    }  # fmt: skip

                bench.row("convolution", f"{name}{', timed by cuDNN' * timed}, {dtype_name}", measured)
    set_precision(DeviceSettings())


def attention(bench: Bench) -> None:
    """Kernels of attention at the shapes of student and teacher."""
    settings = bench.settings()
    patches = bench.frames // 16 * 8
    clips, heads = min(12, max(bench.clips)), settings.num_heads
    kernels = {
        "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION, "math": SDPBackend.MATH,
    }  # fmt: skip
    kernels = {"math": SDPBackend.MATH} if bench.device.type == "cpu" else kernels
    for who, sequences, tokens in (
        ("student", clips * bench.clones, 1 + settings.kept(patches)), ("teacher", clips, 1 + patches),
    ):  # fmt: skip
        for name, kernel in kernels.items():
            for repeatable in (False, True):

                def measured(
                    kernel: SDPBackend = kernel,
                    sequences: int = sequences,
                    tokens: int = tokens,
                    repeatable: bool = repeatable,
                ) -> dict[str, Any]:
                    torch.use_deterministic_algorithms(repeatable)
                    width = settings.embed_dim // heads
                    qkv = torch.randn(3, sequences, heads, tokens, width, device=bench.device).to(torch.bfloat16)
                    qkv.requires_grad_()
                    with sdpa_kernel(kernel):
                        query, key, value = qkv.detach().unbind()
                        forward = bench.time(lambda: F.scaled_dot_product_attention(query, key, value))

                        def both() -> tuple[Tensor, ...]:
                            query, key, value = qkv.unbind()
                            made = F.scaled_dot_product_attention(query, key, value)
                            return torch.autograd.grad(made.sum(), qkv)

                        found = bench.time(both)
                    return {"forward_ms": forward["ms"], **found}

                bench.row("attention", f"{who}, {name}{', repeatable' * repeatable}", measured)
    set_precision(DeviceSettings())
