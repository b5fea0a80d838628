"""What the tests share: the conformance data, the real clips, and torchaudio as a reference."""

import importlib
import sys
import types
from collections import Counter
from pathlib import Path

import pytest
import soundfile

from .browser import browser, page  # noqa: F401, one browser for all tests

ROOT = Path(__file__).resolve().parents[1]
CONFORMANCE = ROOT / "tests" / "conformance"
CLIPS = ROOT / "data" / "clips"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests come first, so that none is left alone on one of the workers at the end."""
    slow = Counter(item.path for item in items if {"slow", "faults"} & {mark.name for mark in item.iter_markers()})
    items.sort(key=lambda item: -slow[item.path])


def import_torchaudio() -> types.ModuleType:
    """torchaudio, also where its native extension does not fit the installed torch.

    PyPI's wheels are built for CUDA; beside a CPU-only torch the extension cannot be loaded, although all that the
    tests compare with is plain PyTorch. Only in that case a stand-in takes the extension's place.
    """
    try:
        return importlib.import_module("torchaudio")
    except OSError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        extension = types.ModuleType("torchaudio._extension")
        extension._IS_TORCHAUDIO_EXT_AVAILABLE = False
        extension._IS_ALIGN_AVAILABLE = False
        extension.fail_if_no_align = lambda function: function
        sys.modules["torchaudio._extension"] = extension
        return importlib.import_module("torchaudio")


@pytest.fixture(scope="session")
def torchaudio() -> types.ModuleType:
    module = import_torchaudio()
    for name in ("compliance.kaldi", "functional", "transforms"):
        importlib.import_module(f"torchaudio.{name}")
    return module


@pytest.fixture(scope="session")
def conformance() -> Path:
    return CONFORMANCE


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    return sorted(CLIPS.glob("*.flac"))


@pytest.fixture(scope="session")
def clip_manifest(tmp_path_factory: pytest.TempPathFactory, clips: list[Path]) -> Path:
    """A data folder whose train.tsv lists the real clips."""
    folder = tmp_path_factory.mktemp("clips")
    lines = [str(CLIPS), *(f"{clip.name}\t{soundfile.info(clip).frames}" for clip in clips)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def modules_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers keeps the code of folders in the test's own folder, and asks no hub."""
    import_torchaudio()  # transformers imports it where it is installed
    utilities = importlib.import_module("transformers.dynamic_module_utils")
    monkeypatch.setattr(utilities, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "path", list(sys.path))
