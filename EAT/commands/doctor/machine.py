"""What is installed and what the devices can do, as lines of text."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
from typing import NamedTuple

import soundfile
import torch

from ... import __version__
from ...system import usable_cores

REQUIRED = ("torch", "numpy", "soundfile", "tqdm")


class Extra(NamedTuple):
    """An optional part of the installation."""

    name: str
    """As pip knows it: ``eat-audio[name]``."""
    packages: tuple[str, ...]
    """Distributions that it consists of."""
    purpose: str


EXTRAS = (
    Extra("train", ("ve-fairseq", "hydra-core", "omegaconf", "tensorboard"), "pre-training and fine-tuning"),
    Extra("evaluate", ("scikit-learn", "matplotlib"), "EAT.evaluate and EAT.probe"),
    Extra("events", ("sed_scores_eval", "pandas", "scikit-learn", "matplotlib"), "figures of events"),
    Extra("plot", ("matplotlib",), "EAT.plot, pictures of predictions"),
    Extra("hdf5", ("h5py",), "clips in HDF5 packs, features in one .h5 file"),
    Extra("huggingface", ("safetensors",), "Hugging Face checkpoints"),
    Extra("soxr", ("soxr",), "resampling for BAT models"),
    Extra("hub", ("huggingface_hub", "safetensors"), "checkpoints by name"),
    Extra("table", ("pyarrow",), "features and predictions as Parquet"),
    Extra("onnx", ("onnx", "onnxscript", "onnxruntime"), "EAT.export"),
    Extra("ray", ("ray", "pyarrow"), "EAT.extract and EAT.predict on many machines"),
    Extra("slurm", ("hydra-submitit-launcher",), "training jobs through SLURM"),
)

FORMATS = ("wav", "flac", "ogg", "opus", "mp3", "aiff")


def installed(package: str) -> str | None:
    """A distribution's version; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> list[tuple[str, str]]:
    """Of EAT, Python, the system and what EAT cannot do without."""
    lines = [("EAT", __version__), ("Python", f"{platform.python_version()} on {platform.platform()}")]
    lines += [(package, installed(package) or "not installed as a package") for package in REQUIRED]
    return lines


def readable_formats() -> dict[str, bool]:
    """Which of the common formats libsndfile reads here."""
    known = soundfile.available_formats()
    return {
        name: ("OGG" in known and "OPUS" in soundfile.available_subtypes("OGG"))
        if name == "opus"
        else name.upper() in known
        for name in FORMATS
    }


def decoders() -> list[tuple[str, str]]:
    """The common formats that can be read, and those that cannot."""
    formats = readable_formats()
    missing = [name for name, readable in formats.items() if not readable]
    lines = [("libsndfile", soundfile.__libsndfile_version__)]
    lines.append(("readable", ", ".join(name for name in formats if name not in missing)))
    if missing:
        lines.append(("missing", f"{', '.join(missing)}: pip install -U soundfile brings a newer libsndfile"))
    return lines


def extras() -> list[tuple[str, str]]:
    """Each extra: its packages' versions, or what is missing, what for, and the command that installs it."""
    lines = []
    for extra in EXTRAS:
        found = {package: installed(package) for package in extra.packages}
        absent = [package for package, version in found.items() if version is None]
        if absent:
            text = f"missing {', '.join(absent)} ({extra.purpose}): pip install 'eat-audio[{extra.name}]'"
        else:
            text = ", ".join(f"{package} {version}" for package, version in found.items()) + f" ({extra.purpose})"
        lines.append((extra.name, text))
    return lines


def processor() -> list[tuple[str, str]]:
    """Cores, threads, and the instructions that matter for matrix products."""
    flags = [torch.backends.cpu.get_cpu_capability()]
    for flag, function in (
        ("AVX-512 BF16", "_is_avx512_bf16_supported"),
        ("AMX tiles", "_is_amx_tile_supported"),
        ("AMX FP16", "_is_amx_fp16_supported"),
    ):
        # Not part of torch's interface; a version without them merely knows less.
        supported = getattr(torch.cpu, function, None)
        if supported is not None and supported():
            flags.append(flag)
    threads = f"{usable_cores()} usable, {torch.get_num_threads()} threads in PyTorch"
    lines = [("cores", threads), ("vectors", ", ".join(flags))]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        lines.append(("memory", f"{memory / 2**30:.0f} GiB"))
    return lines


def gpus() -> list[tuple[str, str]]:
    """Each CUDA device, or why there is none."""
    if not torch.cuda.is_available():
        built = (
            f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch is built without CUDA"
        )
        return [("cuda", f"no device that can be used ({built})")]
    lines = []
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        native = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16: use fp16"
        capability = f"compute capability {device.major}.{device.minor}"
        lines.append((f"cuda:{index}", f"{device.name}, {device.total_memory / 2**30:.0f} GiB, {capability}, {native}"))
    return lines


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.25) -> float:
    """Floating-point operations per second of matrix products, a multiply-add counted as two.

    Raises:
        RuntimeError: where the device cannot compute in ``dtype``.
    """
    a = torch.ones(size, size, device=device, dtype=dtype)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    torch.mm(a, a)
    wait()
    products, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        torch.mm(a, a)
        wait()
        products += 1
    return products * 2 * size**3 / (time.perf_counter() - began)


def precisions(device: torch.device) -> list[tuple[str, str]]:
    """How fast the device multiplies matrices in each precision, and what to make of it."""
    lines, reference = [], 0.0
    for dtype, setting in (
        (torch.float32, "common.bf16=false, --precision float32"),
        (torch.bfloat16, "common.bf16=true, --precision bfloat16"),
        (torch.float16, "common.fp16=true common.bf16=false, --precision float16"),
    ):
        name = str(dtype).removeprefix("torch.")
        try:
            rate = matrix_rate(device, dtype)
        except RuntimeError as error:
            lines.append((name, f"does not work on {device} ({str(error).splitlines()[0]})"))
            continue
        reference = reference or rate
        times = f", {rate / reference:.1f} x float32" if dtype != torch.float32 else ""
        worth = "" if rate > 1.2 * reference or dtype == torch.float32 else "; not worth it here"
        lines.append((name, f"{rate / 1e12:.2f} TFLOP/s{times}{worth} ({setting})"))
    return lines
