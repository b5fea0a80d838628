"""The device of training: none is taken silently in place of another, and precision is set in one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from EAT.errors import ConfigError
from EAT.training import device
from EAT.training.device import DeviceSettings, prepare_device, set_precision

from ..fairseq_runs import TINY, train, train_distributed

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
def test_a_run_that_expects_a_gpu_ends_in_a_sentence(clip_manifest: Path, tmp_path: Path) -> None:
    given = (*TINY, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}", "common.cpu=false")
    output = train("pretraining_AS2M", *given, expect=1).output
    assert "no GPU can be used: this PyTorch" in output and "or set common.cpu=true to train on the CPU." in output
    assert "Traceback" not in output


@without_gpu
def test_every_process_that_expects_a_gpu_ends_in_the_sentence(clip_manifest: Path, tmp_path: Path) -> None:
    given = (*TINY, f"task.data={clip_manifest}", f"checkpoint.save_dir={tmp_path}", "common.cpu=false")
    for run in train_distributed("pretraining_AS2M", 2, *given, expect=1):
        assert run.output.count("no GPU can be used: this PyTorch") == 1
        assert "Traceback" not in run.output and run.lines == []


@without_gpu
def test_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare_device(DeviceSettings(), cpu=True).startswith("CPU, ")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="CUDA_VISIBLE_DEVICES hides every GPU; mend that"):
        prepare_device(DeviceSettings(), cpu=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert device.why_no_gpu() == "Torch not compiled with CUDA enabled"  # what CUDA itself says of the old driver


@pytest.fixture
def settings_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(device.WORKSPACE, "")
    matmul, cudnn, cuda = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.cuda
    before = (
        matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction, cudnn.benchmark, cudnn.deterministic, cuda.cudnn_sdp_enabled(),
        torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory,
    )  # fmt: skip
    yield
    (
        matmul.allow_tf32, cudnn.allow_tf32, matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_fp16_reduced_precision_reduction, cudnn.benchmark, cudnn.deterministic, sdp, deterministic,
        torch.utils.deterministic.fill_uninitialized_memory,
    ) = before  # fmt: skip
    cuda.enable_cudnn_sdp(sdp)
    torch.use_deterministic_algorithms(deterministic)


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("repeatable", [False, True])
def test_precision_is_what_the_settings_say(settings_restored: None, tf32: bool, repeatable: bool) -> None:
    words = set_precision(DeviceSettings(tf32=tf32, repeatable=repeatable))
    matmul, cudnn, cuda = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.cuda
    assert matmul.allow_tf32 is cudnn.allow_tf32 is tf32
    assert matmul.allow_bf16_reduced_precision_reduction is matmul.allow_fp16_reduced_precision_reduction is False
    assert cudnn.benchmark is not repeatable and cudnn.deterministic is repeatable
    assert torch.are_deterministic_algorithms_enabled() is repeatable
    assert cuda.flash_sdp_enabled() and not cuda.cudnn_sdp_enabled()
    assert words == (
        f"TF32 {'on' if tf32 else 'off'}, sums in float32, flash attention, "
        f"{'repeatable' if repeatable else 'kernels chosen by timing'}"
    )
