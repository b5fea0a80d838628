"""The API reference: built as ``scripts/docs.sh`` does, complete, and pointing at nothing that does not exist."""

from __future__ import annotations

import importlib
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

import EAT
import EAT.interfaces

from .conftest import ROOT


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """The last command of the script, for other folders."""
    words = shlex.split((ROOT / "scripts" / "docs.sh").read_text().splitlines()[-1])
    assert words[:3] == ["python", "-m", "sphinx"] and words[-2] == "docs/reference"
    command = [sys.executable, *words[1:-2], str(source), str(target)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    done = build(ROOT / "docs" / "reference", folder)
    assert done.returncode == 0, done.stderr
    return folder


def described(reference: Path) -> dict[str, str]:
    """What has an entry, by its full name, and the page and place of it."""
    with open(reference / "objects.inv", "rb") as handle:
        inventory = InventoryFile.load(handle, "", lambda base, uri: uri)
    return {name: item.uri for kind, names in inventory.items() if kind[:3] == "py:" for name, item in names.items()}


def public() -> list[str]:
    """What docs/stability.md says is to stay: EAT's names, the interfaces and the tables of choices."""
    stays = (ROOT / "docs" / "stability.md").read_text().split("## Not stable")[0]
    assert all(named in stays for named in ("EAT.__all__", "interfaces.md", "extending.md"))
    names = [f"EAT.{name}" for name in EAT.__all__]
    names += re.findall(r"^\| .*? \| `(EAT\.[\w.]+)` ", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)
    for module in pkgutil.iter_modules(EAT.interfaces.__path__):
        names.append(f"EAT.interfaces.{module.name}")
    shown = (ROOT / "docs" / "interfaces.md").read_text()
    names += [f"{module}.{name}" for module, name in re.findall(r"from (EAT\.interfaces\.\w+) import (\w+)", shown)]
    names += re.findall(r"\b(EAT\.interfaces\.\w+\.\w+)\(", shown)
    names += [f"EAT.interfaces.hear.{name}" for name in importlib.import_module("EAT.interfaces.hear").__all__]
    return names


def test_every_public_name_has_an_entry_with_words(reference: Path) -> None:
    entries, names = described(reference), public()
    assert len(set(names)) > 25
    for name in names:
        assert name in entries, name
        page, _, place = entries[name].partition("#")
        text = (reference / page).read_text()
        entry = text[text.index(f'id="{place.replace("$", name)}"') :]
        words = re.sub(r"<[^>]+>", " ", re.search(r"<dd>(.*?)</dd>|<p>(.*?)</p>", entry, re.DOTALL)[0])
        assert len(words.split()) > 1, name


def test_what_a_model_does_is_described(reference: Path) -> None:
    entries = described(reference)
    for name in ("extract", "frames", "predict", "scores", "labels", "sample_rate", "embed_dim", "patch_seconds"):
        assert f"EAT.EATModel.{name}" in entries
    text = (reference / "index.html").read_text()
    assert "Raises" in text and "DataError" in text and 'href="#EAT.errors.DataError"' in text


@pytest.mark.parametrize(
    "wrong", ["A name that does not exist, :class:`EAT.NoSuchModel`.", "Text with a `::role` and *half emphasis"]
)
def test_a_mistake_in_a_docstring_is_an_error(wrong: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "conf.py").write_bytes((ROOT / "docs" / "reference" / "conf.py").read_bytes())
    (source / "index.rst").write_text(f"Page\n====\n\n{wrong}\n")
    done = build(source, tmp_path / "built")
    assert done.returncode != 0 and "WARNING" in done.stderr
