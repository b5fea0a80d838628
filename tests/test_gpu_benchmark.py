"""The benchmark for GPUs, tried whole on a CPU at a tiny size; its rows, its limits, its candidates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import ROOT
from .fairseq_runs import environment

sys.path.insert(0, str(ROOT / "benchmarks"))
import convolutions
import gpu
import training
import updates

TINY = (
    "--device",
    "cpu",
    "--size",
    "tiny",
    "--clones",
    "2",
    "--frames",
    "128",
    "--clips",
    "2",
    "--backend",
    "aot_eager",
)


def run(out: Path, *arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *arguments, *TINY, "--out", str(out)]
    done = subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_every_part_gives_its_rows(tmp_path: Path) -> None:
    parts = [part for part in gpu.PARTS if part != "training"]
    rows = run(tmp_path / "gpu.jsonl", *parts, "--budget", "6")
    assert not [row for row in rows if "error" in row]
    for part in parts:
        assert [row["row"] for row in rows if row["part"] == part][-1] == "all of it"
    (masks,) = [row for row in rows if row["row"] == "masks and noise"]
    assert masks["keys_equal"] and masks["masks_equal"] and masks["noise_difference"] <= 1e-6
    exact, half = (
        next(row for row in rows if row["row"] == f"losses and gradients, {name}") for name in ("float32", "bfloat16")
    )
    assert exact["worst_gradient_difference"] < 1e-4 and exact["gradients_repeat"] and half["gradients_repeat"]
    assert 0 < half["loss_difference"] < 0.02 and half["median_gradient_difference"] < 0.2
    assert all(row["difference"] < 0.01 for row in rows if row["part"] == "convolution" and "ms" in row)
    (eager,) = [row for row in rows if row["row"] == "eager, 2 x 2"]
    assert {"teacher_ms", "backward_ms", "update_ms", "peak_memory_gib", "clips_per_s"} <= set(eager)
    assert (tmp_path / "trace.json").stat().st_size > 1000


@pytest.mark.slow
def test_the_real_command_is_run_stopped_resumed_and_disturbed(tmp_path: Path) -> None:
    rows = {row["row"]: row for row in run(tmp_path / "gpu.jsonl", "training", "--budget", "30")}
    assert not [row for row in rows.values() if "error" in row]
    assert rows["30 updates"]["updates"] == 30 and rows["stopped and resumed"]["stopped_with"] == 75
    assert rows["stopped and resumed"]["bit_equal"]
    assert rows["with a NaN"]["skipped"] == 1
    assert rows["two processes on one device, over gloo"]["updates"] == 8


def bench(out: Any = None) -> gpu.Bench:
    return gpu.Bench(torch.device("cpu"), "tiny", 2, 128, [2], 0.2, out, Path(), "aot_eager")


def test_a_row_that_takes_too_long_or_fails_costs_no_other(tmp_path: Path) -> None:
    with open(tmp_path / "rows", "w") as out:
        made = bench(out)

        def forever() -> dict[str, Any]:
            while True:
                pass

        made.row("part", "forever", forever)
        made.row("part", "broken", lambda: {"value": 1 / 0})
        made.row("part", "good", lambda: {"value": 1})
        rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]  # there before it is closed
    assert rows[0]["error"] == "took longer than 0.2 s" and "ZeroDivisionError" in rows[1]["error"]
    assert rows[2]["value"] == 1


def test_no_row_is_called_compiled_that_fell_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no kernel for this")

    made = bench()
    made.backend, made.budget = refuse, 30  # type: ignore[assignment]
    gpu.steps(made, "compiled", {"compiled": {"compile": {}}})
    assert "torch.compile gave up" in made.rows[-1]["error"] and "clips_per_s" not in made.rows[-1]


def test_the_update_in_one_pass_is_the_update() -> None:
    """Also where gradients are clipped; one whose gradients are not finite changes nothing."""
    ends = []
    for fused in (False, True):
        made = training.Training(gpu.model_settings("tiny", 2), torch.device("cpu"), torch.bfloat16, lr=0.01)
        x, clips = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(1)), [0, 1]
        made.step(x, clips)
        update = updates.OnePass(made, "aot_eager") if fused else made.update
        for scale in (1.0, 100.0):
            made.forward_backward(x, clips)
            for parameter in made.parameters:
                parameter.grad.mul_(scale)
            update()
        average = made.model.teacher.average
        ends.append([value.clone() for value in (*made.masters, *average.values(), *made.parameters)])
        if fused:
            made.parameters[0].grad[:] = float("inf")
            update()
            for before, after in zip(ends[1], (*made.masters, *average.values(), *made.parameters), strict=True):
                assert torch.equal(before, after)
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(other, one, rtol=0.01 if one.dtype == torch.bfloat16 else 1e-4, atol=1e-5)


@pytest.mark.parametrize("name", convolutions.CANDIDATES)
@pytest.mark.parametrize(("kernel", "groups"), [(3, 4), (5, 2)])
def test_candidates_are_the_convolution_and_its_gradients(name: str, kernel: int, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 4, dtype=torch.double, requires_grad=True)
    weight = torch.randn(12, 8 // groups, kernel, kernel, dtype=torch.double, requires_grad=True)
    bias = torch.randn(12, dtype=torch.double, requires_grad=True)
    results = []
    for candidate in (torch.nn.functional.conv2d, convolutions.CANDIDATES[name]):
        if candidate is torch.nn.functional.conv2d:
            y = candidate(x, weight, bias, padding=kernel // 2, groups=groups)
        else:
            y = candidate(x, weight, bias, groups)
        results.append((y, *torch.autograd.grad((y * y).sum(), (x, weight, bias))))
    for wanted, own in zip(*results, strict=True):
        torch.testing.assert_close(own, wanted)


def test_the_convolution_in_triton_is_the_convolution_and_its_gradients() -> None:
    """In Triton's interpreter; its kernels compiled for sm_90 are in benchmarks/triton_convolution.log."""
    pytest.importorskip("triton", reason="Triton, which comes with PyTorch for GPUs, is not installed")
    command = [sys.executable, str(ROOT / "benchmarks" / "triton_convolution.py"), "check"]
    done = subprocess.run(command, env=environment(TRITON_INTERPRET="1"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()][1:]
    assert len(rows) == 8 and all(row["to_weight"] < 1e-3 for row in rows)
