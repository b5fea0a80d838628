"""The device that training runs on, and how exactly it computes: set here, and logged."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from ..errors import ConfigError
from ..network.settings import Settings, setting

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass
class DeviceSettings(Settings):
    """How a GPU computes. On a CPU none of it matters."""

    tf32: bool = setting(False, "whether float32 products and convolutions may round their factors to 10 bits (TF32)")
    repeatable: bool = setting(
        True,
        "the same bits again from the same seed on a GPU of the same kind: neither atomic additions nor kernels chosen "
        "by timing. false may be faster",
    )


def why_no_gpu() -> str | None:
    """What keeps PyTorch from using a GPU, in words; None where it can."""
    if torch.cuda.is_available():
        return None
    if not torch.backends.cuda.is_built():
        return f"this PyTorch, {torch.__version__}, was built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return "the environment variable CUDA_VISIBLE_DEVICES hides every GPU"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return "PyTorch finds none"


def require_gpu() -> None:
    """Raise ConfigError, with the reason, where PyTorch can use no GPU."""
    problem = why_no_gpu()
    if problem is not None:
        raise ConfigError(f"no GPU can be used: {problem}; mend that, or set common.cpu=true to train on the CPU.")


def prepare_device(settings: DeviceSettings, cpu: bool) -> str:
    """Set how the training device computes.

    Args:
        settings: of a GPU.
        cpu: whether training is to run on the CPU, ``common.cpu``.

    Returns:
        The device and what was set, in words.

    Raises:
        ConfigError: where a GPU is to be used and none can be.
    """
    if cpu:
        return f"CPU, {torch.get_num_threads()} threads"
    require_gpu()
    return f"{torch.cuda.get_device_name()}, {set_precision(settings)}"


def set_precision(settings: DeviceSettings) -> str:
    """Set how CUDA computes, before it is first used; returns what was set, in words."""
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    torch.backends.cudnn.allow_tf32 = settings.tf32
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    # Flash attention in half precision; the memory-efficient kernel in float32 and where keys are masked. cuDNN's own
    # is chosen by timing and version, so results would depend on both.
    torch.backends.cuda.enable_flash_sdp(True)
    torch.backends.cuda.enable_mem_efficient_sdp(True)
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_math_sdp(True)
    # With constant shapes cuDNN may time its convolutions once, but another run may then choose another.
    torch.backends.cudnn.benchmark = not settings.repeatable
    torch.backends.cudnn.deterministic = settings.repeatable
    if settings.repeatable:
        os.environ.setdefault(WORKSPACE, ":4096:8")  # read by cuBLAS when it starts
    torch.use_deterministic_algorithms(settings.repeatable)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return (
        f"TF32 {'on' if settings.tf32 else 'off'}, sums in float32, flash attention, "
        f"{'repeatable' if settings.repeatable else 'kernels chosen by timing'}"
    )
