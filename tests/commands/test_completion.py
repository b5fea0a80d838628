"""What ``eat completion`` prints, asked of shells that a user types into."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from EAT.__main__ import SUBCOMMANDS
from EAT.commands.completion import script
from EAT.recipes import recipe_names

from ..conftest import ROOT

PROMPT = "ready> "


BASH = """
source {folder}/_eat
bind -x '"\\C-t": printf "<%s>" "$READLINE_LINE"'
"""
ZSH = """
unset zle_bracketed_paste
unsetopt prompt_sp
fpath=({folder} $fpath)
autoload -U compinit; compinit -D -u
show() {{ print -rn -- "<$BUFFER>" }}; zle -N show; bindkey '^T' show
"""
SHELLS = {"bash": ("--noprofile", "--rcfile", "{folder}/.zshrc", BASH), "zsh": ("--no-globalrcs", ZSH)}
"""What each is started with, and the file that it then reads: Control-T is to print the line as it stands."""


@pytest.fixture(scope="module", params=SHELLS)
def typed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A shell on a terminal of its own: a line and a tab in, the line as it then stands out."""
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param}")
    folder = tmp_path_factory.mktemp(request.param)
    *options, begins = (text.format(folder=folder) for text in SHELLS[request.param])
    (folder / ".zshrc").write_text(f"{begins}\nPS1='{PROMPT}'\n")
    (folder / "_eat").write_text(script(request.param, SUBCOMMANDS))
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        variables = {**os.environ, "TERM": "dumb", "ZDOTDIR": str(folder)}
        os.execvpe(request.param, [request.param, *options, "-i"], variables)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 500, 0, 0))  # wide: a long line stays one

    def read(until: Callable[[str], bool]) -> str:
        said, end = "", time.monotonic() + 30
        while not until(said):
            assert time.monotonic() < end, said
            if select.select([terminal], [], [], 0.2)[0]:
                said += os.read(terminal, 4096).decode()
        return said

    def line(text: str) -> str:
        """Control-U clears it after it was printed."""
        os.write(terminal, text.encode() + b"\t\x14\x15\n")
        return re.findall("<(.*?)>", read(lambda said: PROMPT in said.partition("<")[2]))[0].strip()

    read(lambda said: PROMPT in said)
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
