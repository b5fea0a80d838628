"""What ``eat completion`` prints, asked of a bash that a user types into."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from EAT.__main__ import SUBCOMMANDS
from EAT.commands.completion import script
from EAT.recipes import recipe_names

from ..conftest import ROOT

PROMPT = "ready> "


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A bash on a terminal of its own: a line and a tab in, the line as it then stands out."""
    folder = tmp_path_factory.mktemp("bash")
    (folder / "eat.bash").write_text(script("bash", SUBCOMMANDS))
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**os.environ, "TERM": "dumb", "PS1": PROMPT})

    def read(until: Callable[[str], bool]) -> str:
        said, end = "", time.monotonic() + 30
        while not until(said):
            assert time.monotonic() < end, said
            if select.select([terminal], [], [], 0.2)[0]:
                said += os.read(terminal, 4096).decode()
        return said

    def line(text: str) -> str:
        """Control-T prints the line as it stands, Control-U clears it."""
        os.write(terminal, text.encode() + b"\t\x14\x15\n")
        return re.findall("<(.*?)>", read(lambda said: PROMPT in said.partition("<")[2]))[0].strip()

    read(lambda said: PROMPT in said)
    show = 'bind -x \'"\\C-t": printf "<%s>" "$READLINE_LINE"\''
    os.write(terminal, f"{show}; source {folder}/eat.bash; echo sour''ced\n".encode())
    read(lambda said: "sourced\r\n" in said and said.endswith(PROMPT))
    yield line
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


@pytest.mark.parametrize(
    "begun, completed",
    [
        ("eat extr", "eat extract"),
        ("eat extract --gran", "eat extract --granularity"),
        ("eat extract --granularity utt", "eat extract --granularity utterance"),
        ("eat train --config-name pretraining_AS2M_l", "eat train --config-name pretraining_AS2M_large"),
        ("eat config copy probing_E", "eat config copy probing_ESC50"),
        ("eat extract --source data/clips/elec_bel", "eat extract --source data/clips/elec_bell.flac"),
    ],
)
def test_a_tab_completes(typed: Callable[[str], str], begun: str, completed: str) -> None:
    assert typed(begun) == completed


def test_what_is_no_recipe_is_left_as_it_is(typed: Callable[[str], str]) -> None:
    assert typed("eat train --config-name no_such") == "eat train --config-name no_such"


def test_every_recipe_is_offered_and_zsh_s_script_too(tmp_path: Path) -> None:
    for shell in ("bash", "zsh"):
        text = script(shell, SUBCOMMANDS)
        assert f"({' '.join(recipe_names())})" in text
        (tmp_path / shell).write_text(text)
        if shutil.which(shell):
            assert subprocess.run([shell, "-n", str(tmp_path / shell)]).returncode == 0
    assert text.startswith("#compdef eat")
