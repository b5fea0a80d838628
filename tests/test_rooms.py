"""The house: no room imports upward or in a circle, tests mirror it, and the old doors still open."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from EAT.moved import MOVED

from .conftest import ROOT

FLOORS = {
    **dict.fromkeys(("errors", "files", "progress", "system", "moved", "recipes"), 0),
    "audio": 1,
    "network": 2,
    **dict.fromkeys(("checkpoint", "data"), 3),
    "inference": 4,
    **dict.fromkeys(("training", "pictures", "interfaces", "comparison"), 5),
    "commands": 6,
    "tasks": 7,
    "models": 7,
}
DOORS = {
    "__init__",
    "__main__",
    "bench",
    "convert",
    "doctor",
    "evaluate",
    "export",
    "extract",
    "plot",
    "predict",
    "prepare",
    "probe",
    "serve",
    "train",
    "weights",
}
FILES = sorted((ROOT / "EAT").rglob("*.py"))


def room(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imported(path) -> set[str]:
    """Rooms that a file imports from, relative or absolute."""
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = (*base, *(node.module or "").split("."))
            names = [(*stem, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        for name in names:
            parts = [part for part in name if part]
            if parts[:1] == ["EAT"] and len(parts) > 1 and (parts[1] in FLOORS or parts[1] in DOORS):
                found.add(parts[1])
    return found


def arrows() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for path in FILES:
        own = room(path.relative_to(ROOT / "EAT").parts)
        rooms.setdefault(own, set()).update(imported(path) - {own})
    return rooms


def test_everything_is_in_a_room() -> None:
    assert set(arrows()) == set(FLOORS) | DOORS


def test_no_room_imports_upward() -> None:
    for own, others in arrows().items():
        for other in others:
            if own in FLOORS:
                assert other in FLOORS and FLOORS[other] <= FLOORS[own], f"{own} imports {other}"


def test_no_rooms_import_each_other_in_a_circle() -> None:
    graph = {own: others & set(FLOORS) for own, others in arrows().items() if own in FLOORS}

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for other in graph[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        return seen

    for own in graph:
        assert own not in reach(own), f"{own} reaches itself"


def test_only_the_training_rooms_import_fairseq() -> None:
    for path in FILES:
        own = room(path.relative_to(ROOT / "EAT").parts)
        tree = ast.parse(path.read_text())
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
        names += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
        foreign = {name.split(".")[0] for name in names} & {"fairseq", "hydra", "omegaconf", "fairseq_cli"}
        may = own in ("training", "tasks", "models", "commands", "comparison")
        assert may or not foreign, f"{path} imports {foreign}"


def test_tests_mirror_the_package() -> None:
    rooms = {path.parent.name for path in (ROOT / "EAT").glob("*/__init__.py")}
    tests = {path.name for path in (ROOT / "tests").iterdir() if (path / "__init__.py").exists()}
    assert tests == rooms - {"tasks", "models"}  # doors, tested where they lead


CHILD = """
import logging, sys
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("EAT").addHandler(handler)
import importlib
import EAT
for old, new in [line.split() for line in sys.argv[1].splitlines()]:
    assert importlib.import_module(old) is importlib.import_module(new), old
    importlib.import_module(old)
from EAT.windows import extract_recording, AudioStream, plan_windows
from EAT.front_end import FrontEnd
from EAT.masking import mask_map
from EAT.data.manifest import Manifest
from EAT.audio import read_audio, open_recording, AUDIO_SUFFIXES
from EAT.model import EATModel
assert EATModel is EAT.EATModel
print(len(said), len(set(said)))
print(said[0])
"""


def test_old_import_paths_work_and_say_so_once() -> None:
    table = "\n".join(f"{old} {new}" for old, new in MOVED.items())
    done = subprocess.run([sys.executable, "-c", CHILD, table], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, sentence = done.stdout.splitlines()[-2:]
    assert count == f"{len(MOVED)} {len(MOVED)}"
    assert sentence == "EAT.augment is now EAT.data.augmentation; the old name goes with release 2.0"


@pytest.mark.parametrize("module", sorted(MOVED.values()))
def test_what_moved_is_there(module: str) -> None:
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
