"""The grouped convolution as an implicit matrix product in Triton, with both gradients: a candidate of ``gpu.py``.

A tile of the product is so many places of the maps by a group's output channels; what im2col would write to memory is
read where it lies. The gradient of the input is the same kernel with the weights turned round. The gradient of the
weights adds up parts of the places side by side and their sums in a fixed order, so that it repeats bit by bit.

Without a GPU: ``TRITON_INTERPRET=1 python benchmarks/triton_convolution.py check`` compares it with PyTorch's own, in
Triton's interpreter, and ``python benchmarks/triton_convolution.py compile`` compiles it for H100 and H200 (sm_90) and
says what the machine code takes. What both said is in ``triton_convolution.log``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from convolutions import library
from torch import Tensor

INTERPRETED = triton.knobs.runtime.interpret
SPLITS = 8
"""Parts of the places that the gradient of the weights is added up in."""
NAMES = ("groups", "height", "width", "taps", "inner", "outer", "columns")
"""Sizes that a kernel is compiled for, in the order of :func:`_sizes`."""
_TUNED: dict[tuple[Any, ...], Any] = {}
"""Kernels with the configuration that was fastest, by their sizes."""


@triton.jit
def _products(  # type: ignore[no-untyped-def]
    x, weight, bias, y, places,
    groups: tl.constexpr, height: tl.constexpr, width: tl.constexpr, taps: tl.constexpr,
    inner: tl.constexpr, outer: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """A tile (rows places, columns channels) of a group's output; x and y with channels last, weight (G, k k, c, o)."""
    place = tl.program_id(0) * rows + tl.arange(0, rows)
    group = tl.program_id(1)
    down, right = place // width % height, place % width
    out = tl.arange(0, columns)
    chunks: tl.constexpr = (inner + depth - 1) // depth
    total = tl.zeros((rows, columns), dtype=tl.float32)
    for step in range(taps * taps * chunks):
        tap = step // chunks
        channel = step % chunks * depth + tl.arange(0, depth)
        dy, dx = tap // taps - taps // 2, tap % taps - taps // 2
        inside = (place < places) & (down + dy >= 0) & (down + dy < height) & (right + dx >= 0) & (right + dx < width)
        source = (place + dy * width + dx)[:, None] * (groups * inner) + group * inner + channel[None, :]
        left = tl.load(x + source, mask=inside[:, None] & (channel < inner)[None, :], other=0.0)
        kernel = ((group * taps * taps + tap) * inner + channel)[:, None] * outer + out[None, :]
        right_side = tl.load(weight + kernel, mask=(channel < inner)[:, None] & (out < outer)[None, :], other=0.0)
        total = tl.dot(left, right_side, total, input_precision="ieee")
    total += tl.load(bias + group * outer + out, mask=out < outer, other=0.0)[None, :]
    target = place[:, None] * (groups * outer) + group * outer + out[None, :]
    tl.store(y + target, total.to(y.dtype.element_ty), mask=(place < places)[:, None] & (out < outer)[None, :])


@triton.jit
def _weight_sums(  # type: ignore[no-untyped-def]
    x, given, sums, places, part,
    groups: tl.constexpr, height: tl.constexpr, width: tl.constexpr, taps: tl.constexpr,
    inner: tl.constexpr, outer: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr, depth: tl.constexpr,
):  # fmt: skip
    """Over one part of the places, one group's and one tap's (c, o) of the gradient; sums (parts, G, k k, c, o)."""
    group, tap = tl.program_id(0) // (taps * taps), tl.program_id(0) % (taps * taps)
    dy, dx = tap // taps - taps // 2, tap % taps - taps // 2
    channel, out = tl.arange(0, depth), tl.arange(0, columns)
    total = tl.zeros((depth, columns), dtype=tl.float32)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, places)
    for first in range(begin, end, rows):
        place = first + tl.arange(0, rows)
        down, right = place // width % height, place % width
        inside = (place < end) & (down + dy >= 0) & (down + dy < height) & (right + dx >= 0) & (right + dx < width)
        source = (place + dy * width + dx)[None, :] * (groups * inner) + group * inner + channel[:, None]
        left = tl.load(x + source, mask=inside[None, :] & (channel < inner)[:, None], other=0.0)
        target = place[:, None] * (groups * outer) + group * outer + out[None, :]
        right_side = tl.load(given + target, mask=(place < end)[:, None] & (out < outer)[None, :], other=0.0)
        total = tl.dot(left, right_side, total, input_precision="ieee")
    into = ((tl.program_id(1) * groups * taps * taps + tl.program_id(0)) * inner + channel)[:, None] * outer
    tl.store(sums + into + out[None, :], total, mask=(channel < inner)[:, None] & (out < outer)[None, :])


def _configs(depths: tuple[int, ...]) -> list[Any]:
    return [
        triton.Config({"rows": rows, "depth": depth}, num_warps=warps, num_stages=stages)
        for rows, warps in ((64, 4), (128, 4), (128, 8))
        for depth in depths
        for stages in (2, 4)
    ]


def _filled(channels: int) -> int:
    """Channels in a tile, a power of 2 that a matrix unit takes."""
    return max(16, triton.next_power_of_2(channels))


def _sizes(groups: int, height: int, width: int, taps: int, inner: int, outer: int) -> dict[str, int]:
    return dict(zip(NAMES, (groups, height, width, taps, inner, outer, _filled(outer)), strict=True))


def _launch(kernel: Any, grid: Any, arguments: list[Any], sizes: dict[str, int], depths: tuple[int, ...]) -> None:
    """Run a kernel in the configuration that is fastest on this GPU; in the interpreter in the first of them."""
    if INTERPRETED:
        choice = {"rows": 64, "depth": depths[0]}
        kernel[grid(choice)](*arguments, **sizes, **choice)
    else:
        key = (kernel.__name__, *sizes.values())
        if key not in _TUNED:
            _TUNED[key] = triton.autotune(_configs(depths), key=[])(kernel)
        _TUNED[key][grid](*arguments, **sizes)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, groups: int, taps: int) -> Tensor:
    """Of maps (S, C, T, F) with channels last in memory, weight (G, k k, c, o), k being ``taps``."""
    sequences, _, height, width = x.shape
    inner, outer = weight.shape[2:]
    shape = sequences, groups * outer, height, width
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    places = sequences * height * width
    sizes = _sizes(groups, height, width, taps, inner, outer)
    depths = tuple(sorted({16, _filled(inner)}))
    _launch(
        _products, lambda meta: (triton.cdiv(places, meta["rows"]), groups), [x, weight, bias, y, places], sizes, depths
    )
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.groups = groups
        laid_out = weight.unflatten(0, (groups, -1)).flatten(3).permute(0, 3, 2, 1).contiguous()  # (G, k k, c, o)
        return _convolve(x, laid_out, bias, groups, weight.shape[-1])

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        groups, taps = ctx.groups, weight.shape[-1]
        gradient = given[0].contiguous(memory_format=torch.channels_last)
        turned = weight.unflatten(0, (groups, -1)).flatten(3).flip(3).permute(0, 3, 1, 2).contiguous()  # (G, k k, o, c)
        inner, outer = weight.shape[1], turned.shape[2]
        no_bias = torch.zeros(groups * inner, dtype=x.dtype, device=x.device)
        to_x = _convolve(gradient, turned, no_bias, groups, taps)
        sums = torch.zeros(SPLITS, groups, taps * taps, inner, outer, device=x.device)
        places = x.shape[0] * x.shape[2] * x.shape[3]
        sizes = _sizes(groups, x.shape[2], x.shape[3], taps, inner, outer)
        part = triton.cdiv(places, SPLITS)
        grid = (groups * taps * taps, SPLITS)
        _launch(_weight_sums, lambda meta: grid, [x, gradient, sums, places, part], sizes, (_filled(inner),))
        to_weight = sums.sum(0).permute(0, 3, 2, 1).unflatten(3, (taps, taps)).flatten(0, 1).to(weight.dtype)
        return to_x, to_weight, gradient.sum((0, 2, 3)), None


def convolution(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    """As :func:`torch.nn.functional.conv2d` with a square kernel and the same size out."""
    return _Convolution.apply(x, weight, bias, groups)


def check() -> None:
    """Compare with PyTorch's own, forward and all gradients; prints a line of JSON for each case.

    In float16 as well as float32, and not in bfloat16, whose products the interpreter takes for those of integers.
    """
    for name, dtype, allowed in (("float32", torch.float32, 1e-6), ("float16", torch.float16, 1e-3)):
        for channels, outer, kernel, groups, height, width in (
            (96, 96, 3, 2, 5, 8), (24, 24, 5, 1, 3, 4), (40, 24, 3, 2, 4, 3), (16, 64, 1, 4, 2, 7),
        ):  # fmt: skip
            torch.manual_seed(0)
            x = torch.randn(2, channels, height, width)
            weight = torch.randn(outer, channels // groups, kernel, kernel) / (channels * kernel**2 / groups) ** 0.5
            given = torch.randn(2, outer, height, width)
            bias = torch.randn(outer)
            x, weight, bias, given = (value.to(dtype) for value in (x, weight, bias, given))
            results = []
            for own in (True, False):
                leaves = [value.to(dtype if own else torch.float64).requires_grad_() for value in (x, weight, bias)]
                y = (convolution if own else library)(leaves[0], leaves[1], leaves[2], groups)
                results.append([y, *torch.autograd.grad(y, leaves, given.to(y.dtype))])
            apart = {
                what: ((one.double() - two).norm() / two.norm()).item()
                for what, one, two in zip(("output", "to_input", "to_weight", "to_bias"), *results, strict=True)
            }
            case = f"{channels} to {outer} channels, {groups} groups, {kernel} x {kernel}, {height} x {width}, {name}"
            print(json.dumps({"check": case, **{what: float(f"{value:.2g}") for what, value in apart.items()}}))
            if not max(apart.values()) < allowed:
                raise SystemExit(f"{case} differs by more than {allowed}")


def compile_all() -> None:
    """Compile both kernels for sm_90 at the base model's shape; prints registers, spills and instructions of each."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    sizes = _sizes(groups=16, height=64, width=8, taps=3, inner=48, outer=48)
    pointers = {"float32": "*fp32", "bfloat16": "*bf16"}
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    for kernel, depths in ((_products, (16, 64)), (_weight_sums, (64,))):
        for config in _configs(depths):
            constants = {**sizes, **config.kwargs}
            arguments = dict.fromkeys(constants, "constexpr")
            for name in kernel.arg_names:
                if name in ("places", "part"):
                    arguments[name] = "i32"
                elif name not in constants:
                    arguments[name] = pointers["float32" if name == "sums" else "bfloat16"]
            # As at a launch: memory begins at multiples of 16 bytes, and so many places are a multiple of 16.
            aligned = {
                (place,): [["tt.divisibility", 16]]
                for place, name in enumerate(kernel.arg_names)
                if arguments[name] != "constexpr"
            }
            source = ASTSource(kernel, arguments, constants, aligned)
            options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(made.asm["cubin"])
                file.flush()
                used = subprocess.run(
                    [str(tool), "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
                )
            taken = {
                key: int(value)
                for key, _, value in (word.partition(":") for line in used.stdout.splitlines() for word in line.split())
                if key in ("REG", "STACK") and value.isdigit()
            }
            kinds = {kind: made.asm["ptx"].count(kind) for kind in ("wgmma.mma_async", "mma.sync")}
            row = {"kernel": kernel.__name__, **config.kwargs, **options, "registers": taken.get("REG")}
            print(json.dumps({**row, "spilled_bytes": taken.get("STACK"), "shared": made.metadata.shared, **kinds}))


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("what", choices=("check", "compile"))
    what = made.parse_args().what
    print(json.dumps({"triton": triton.__version__, "torch": torch.__version__}))
    {"check": check, "compile": compile_all}[what]()


if __name__ == "__main__":
    main()
