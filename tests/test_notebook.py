"""The notebook: committed as it was executed, executed anew, and saying the same where that is to be expected."""

from __future__ import annotations

import re
from collections.abc import Iterator

import nbclient
import nbformat
import pytest

from .conftest import ROOT

NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
VARIES = r"\d+%|mean .*over|\S+\.flac: .*"
"""What hangs on the last bits of a training: percentages, constants, which clips are mistaken."""


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shown(cell: nbformat.NotebookNode) -> Iterator[str]:
    for output in cell.outputs:
        yield from output.get("data", {})


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> nbformat.NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs = []
    folder = tmp_path_factory.mktemp("notebook")
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def test_it_is_committed_as_it_was_executed_and_small(committed: nbformat.NotebookNode) -> None:
    nbformat.validate(committed)
    cells = code_cells(committed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells)
    text = NOTEBOOK.read_text()
    assert len(text) < 500_000
    assert '"output_type": "error"' not in text and not re.search(r"/(?:tmp|home|root|work|usr)/", text)
    for cell in committed.cells:
        for target in re.findall(r"\]\(([\w./-]+)\)", cell.source if cell.cell_type == "markdown" else ""):
            assert (NOTEBOOK.parent / target).is_file(), target


def test_executed_anew_it_says_and_shows_the_same(committed, executed) -> None:
    pairs = list(zip(code_cells(committed), code_cells(executed), strict=True))
    assert len(pairs) >= 6
    for before, now in pairs:
        assert re.sub(VARIES, "", printed(now)) == re.sub(VARIES, "", printed(before))
        assert sorted(shown(now)) == sorted(shown(before))
    texts = [printed(now) for _, now in pairs]
    assert "(124, 1024) from 4 blocks of width 128" in texts[3] and "the loss fell" in texts[2]


def test_the_classifier_is_better_than_none_and_its_mistakes_are_heard(executed: nbformat.NotebookNode) -> None:
    *_, judged, heard = code_cells(executed)
    right, most = (int(number) for number in re.findall(r"(\d+)%", printed(judged)))
    assert most == 21 and right > most + 10
    sounds = [output.data["text/html"] for output in heard.outputs if "text/html" in output.get("data", {})]
    assert len(sounds) == 3 and all("<audio" in sound and "base64," in sound for sound in sounds)
    mistakes = re.findall(r"(\S+): (\w+), taken for (\w+)", printed(heard))
    assert len(mistakes) == 3 and all(true != said for _, true, said in mistakes)
