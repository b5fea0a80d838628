"""The table of what installing takes: its reading of pip, its place on the page, and that no extra is missing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from install_sizes import BEGIN, END, PAGE, Environment, downloaded, extras_of, written


def test_megabytes_that_pip_says_it_downloaded(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    wheel.write_bytes(b"0" * 300)
    said = f"""Collecting soxr
  Downloading soxr-1.0.0-cp311.whl (242 kB)
Requirement already satisfied: numpy (2.4.6)
  Downloading torch-2.13.0.whl (1.5 GB)
Processing {wheel} (from b)
Processing {ROOT}
"""
    assert downloaded(said) == pytest.approx(242e3 + 1.5e9 + 300)


def test_an_environment_counts_what_it_installs_and_sees_what_is_beside_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "setup.py").write_text("import setuptools; setuptools.setup(name='a', version='1', py_modules=['a'])")
    (project / "a.py").write_text(f"text = {'x' * 100_000!r}\n")
    wheel = f"-m pip wheel --no-build-isolation --no-deps --wheel-dir {tmp_path} {project}".split()
    subprocess.run([sys.executable, *wheel], check=True, capture_output=True)
    base = Environment(tmp_path / "base")
    found = base.install("a", str(next(tmp_path.glob("*.whl"))))
    assert (found.what, found.packages) == ("a", 1) and found.seconds > 0
    assert 100_000 < found.disk < 300_000 and 0 < found.download < found.disk
    beside = Environment(tmp_path / "beside", base)
    again = beside.install("a", "a")
    assert (again.packages, again.disk, again.download) == (0, 0, 0)


def test_every_extra_has_its_row_on_the_page() -> None:
    setup = (ROOT / "setup.py").read_text()
    node = next(n for n in ast.parse(setup).body if isinstance(n, ast.Assign) and n.targets[0].id == "EXTRAS")
    assert extras_of(setup) == [*ast.literal_eval(node.value), "all"]
    page = PAGE.read_text()
    rows = re.findall(r"^\| `\[(\w+)\]` \| \d+ \| [\d.]+ \| [\d.]+ \| \d+ \|$", page, re.MULTILINE)
    assert rows == extras_of(setup)
    assert written(page, "anew\n").partition(BEGIN)[2].partition(END)[0] == "anew\n"
    with pytest.raises(SystemExit, match="no place for the table"):
        written("a page", "")
