"""What installing takes: the base and each extra, in environments made for it, with the tested versions.

    python benchmarks/install_sizes.py                  prints a table
    python benchmarks/install_sizes.py --write          puts it into docs/dependencies.md

An extra is installed beside the base, so that its row has what it adds. Seconds are those that pip computes, without
waiting for the network; what it waits for is the megabytes to download. torch comes first and is the build that
``requirements.txt`` finds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "dependencies.md"
BEGIN, END = "<!-- written by benchmarks/install_sizes.py -->\n", "<!-- end -->\n"
UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


class Installed(NamedTuple):
    """What one installation took."""

    what: str
    packages: int
    download: float
    """Bytes."""
    disk: float
    """Bytes."""
    seconds: float


class Environment:
    """A new virtual environment, in which the packages of another may be seen."""

    def __init__(self, folder: Path, beside: Environment | None = None) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"
        self.site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
        if beside is not None:
            (self.site / "beside.pth").write_text(f"{beside.site}\n")

    def install(self, what: str, *requirements: str) -> Installed:
        """Install by pip without its cache, in versions that were tested. Raises CalledProcessError."""
        packages, disk, seconds = self._packages(), self._disk(), _seconds()
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--no-cache-dir"]
        command += ["--progress-bar", "off"]
        for pinned in ("requirements.txt", "requirements-test.txt"):
            command += ["--constraint", str(ROOT / pinned)]
        alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # may lead to this package
        done = subprocess.run([*command, *requirements], check=True, stdout=subprocess.PIPE, text=True, env=alone)
        new, took = self._packages() - packages, _seconds() - seconds
        return Installed(what, len(new - {"eat-audio"}), downloaded(done.stdout), self._disk() - disk, took)

    def _packages(self) -> set[str]:
        found = importlib.metadata.distributions(path=[str(self.site)])
        return {distribution.metadata["Name"].lower() for distribution in found}

    def _disk(self) -> float:
        return float(sum(path.stat().st_size for path in self.site.rglob("*") if path.is_file()))


def _seconds() -> float:
    """Processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def downloaded(said: str) -> float:
    """Bytes of the files that pip says it took, from an index or a folder."""
    sizes = re.findall(r"^ *Downloading \S+ \(([\d.]+) (kB|MB|GB)\)", said, re.MULTILINE)
    local = [Path(path) for path in re.findall(r"^Processing (/\S+\.(?:whl|tar\.gz))", said, re.MULTILINE)]
    return sum(float(number) * UNITS[unit] for number, unit in sizes) + sum(path.stat().st_size for path in local)


def measure(folder: Path, extras: Sequence[str]) -> list[Installed]:
    """The base and extras, each installed beside the base in an environment of its own."""
    base = Environment(folder / "base")
    pinned = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch=="))
    left = shutil.ignore_patterns(".*", "build", "*.egg-info", "tests")
    source = shutil.copytree(ROOT, folder / "source", ignore=left)  # building leaves files beside it
    done = [base.install("torch", pinned), base.install("base without torch", str(source))]
    for extra in extras:
        print(f"{done[-1].what}: {done[-1].disk / 1e6:.1f} MB", file=sys.stderr)
        done.append(Environment(folder / extra, base).install(f"`[{extra}]`", f"eat-audio[{extra}]"))
    return done


def table(rows: Sequence[Installed]) -> str:
    """As Markdown."""
    lines = ["| | packages | MB to download | MB on disk | s |", "|---|---|---|---|---|"]
    for row in rows:
        megabytes = (f"{size / 1e6:.0f}" if size > 1e7 else f"{size / 1e6:.1f}" for size in (row.download, row.disk))
        lines.append(f"| {row.what} | {row.packages} | {' | '.join(megabytes)} | {row.seconds:.0f} |")
    return "\n".join(lines) + "\n"


def written(page: str, content: str) -> str:
    """A page with other content between the marks."""
    before, mark, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise SystemExit(f"{PAGE} has no place for the table: {BEGIN.strip()} and {END.strip()} are missing.")
    return before + mark + content + end + after


def extras_of(setup: str) -> list[str]:
    """Names of the extras, in the order of ``setup.py``."""
    return [*re.findall(r'^    "(\w+)": \[', setup.partition("EXTRAS = {")[2].partition("\n}")[0], re.MULTILINE), "all"]


def main() -> None:
    """Measure, and print or write the table."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--write", action="store_true", help="put the table into docs/dependencies.md")
    top.add_argument("--extras", nargs="*", default=extras_of((ROOT / "setup.py").read_text()), help="by default all")
    options = top.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options.extras)
    said = f"Python {sys.version.split()[0]}; {processor()}.\n\n{table(rows)}"
    print(said)
    if options.write:
        PAGE.write_text(written(PAGE.read_text(), said))


def processor() -> str:
    """The processor's model."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "an unknown processor"


if __name__ == "__main__":
    main()
