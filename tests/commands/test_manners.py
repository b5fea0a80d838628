"""Every command's manners: help with examples that are true, one meaning for a flag, errors in a sentence."""

from __future__ import annotations

import argparse
import importlib
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from EAT.__main__ import COMMANDS, OWN
from EAT.commands.extract import main as extract
from EAT.system import slow_on_cpu

from ..conftest import CLIPS, CONFORMANCE, ROOT

MODULES = {
    "EAT": "EAT.__main__",
    "feature_extract/feature_extract.py": "EAT.commands.extract",
    **{name: name for name in COMMANDS},
    **{f"eat {name}": module for name, (module, _) in OWN.items()},
}
SAME = {
    "--device": (None, "cpu or cuda; by default cuda where there is one"),
    "--batch-size": (int, None),
    "--num-workers": (int, None),
    "--seed": (int, None),
    "--output": (None, None),
    "--checkpoint": (
        None,
        "one of ours, a published fairseq one, a Hugging Face folder or file, or a name of EAT.weights",
    ),
    "--target-length": (int, None),
    "--norm-mean": (float, None),
}
"""Flags that more than one command has: their type, and their help where it can be the same word for word."""


def parsers(name: str) -> list[argparse.ArgumentParser]:
    """A command's parser and those of its sub-commands."""
    top = importlib.import_module(MODULES[name]).parser()
    found = [top]
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += action.choices.values()
    return found


@pytest.mark.parametrize("name", MODULES)
def test_help_has_examples_that_the_command_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = importlib.import_module(MODULES[name])
    with pytest.raises(SystemExit) as end:
        command.main(["--help"])
    assert end.value.code == 0
    for parser in parsers(name):
        text = parser.format_help()
        assert "examples:\n" in text and parser.description, parser.prog
        lines = text.split("examples:\n")[1].replace("\\\n", " ").splitlines()
        own = [line.split(f"{name} ", 1)[1] for line in lines if f" {name} " in line]
        assert own, parser.prog
        for example in own:
            if example != "--version":
                command.parser().parse_args(shlex.split(example))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", MODULES)
def test_unusable_arguments(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        importlib.import_module(MODULES[name]).main(["--no-such-flag"])
    assert end.value.code == 2
    captured = capsys.readouterr()
    assert not captured.out and "error:" in captured.err


def test_a_flag_means_the_same_everywhere() -> None:
    seen: dict[str, int] = dict.fromkeys(SAME, 0)
    for name in MODULES:
        for parser in parsers(name):
            for action in parser._actions:
                assert "--workers" not in action.option_strings, parser.prog
                assert action.help, f"{parser.prog} {action.dest} has no help"
                for flag in set(action.option_strings) & set(SAME):
                    kind, text = SAME[flag]
                    seen[flag] += 1
                    assert action.type in ((kind,) if kind else (None, str, Path)), f"{parser.prog} {flag}"
                    assert text in (None, action.help), f"{parser.prog} {flag}"
    assert all(count > 1 for count in seen.values()), seen


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("EAT.evaluate", "--data {t} --checkpoint {t}/none.pt"),
        ("EAT.evaluate", "--data {t} --checkpoint {c} --device tpu9"),
        ("EAT.probe", "--data {t} --checkpoint {c}"),
        ("EAT.predict", "--source {clip} --checkpoint {c} --labels {t}/none.csv"),
        ("EAT.convert", "{t}/none.pt {t}/out.pt"),
        ("EAT.weights", "push {t}/none.pt me/model --folder {t}/model --no-upload"),
        ("EAT.weights", "fetch {t}/none.pt"),
        ("EAT.export", "{t}/none.pt {t}/out.onnx"),
        ("EAT.plot", "run {t}"),
        ("EAT.plot", "features {clip} --checkpoint {t}/none.pt --output {t}/x.png"),
        ("EAT.prepare", "folder {t}/none {t}/data"),
        ("EAT.serve", "--checkpoint {t}/none.pt --port 0"),
        ("EAT.doctor", "--device tpu9"),
        ("EAT.doctor", "--device mps"),
        ("EAT.predict", "--source {clip} --checkpoint {c} --device mps"),
        ("EAT.plot", "features {clip} --checkpoint {c} --output {t}/x.png --device mps"),
        ("feature_extract/feature_extract.py", "--source {clip} --output {t}/o --checkpoint {t}/none.pt"),
        ("feature_extract/feature_extract.py", "--source {clip} --output {t}/o --checkpoint {c} --batch-size 0"),
    ],
)
def test_errors_are_one_sentence_on_stderr(name, arguments, tmp_path, capsys) -> None:
    filled = arguments.format(t=tmp_path, c=CONFORMANCE / "official_pretrain.pt", clip=CLIPS / "elec_bell.flac")
    assert importlib.import_module(MODULES[name]).main(shlex.split(filled)) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_a_full_device_for_what_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "EAT.convert", str(CONFORMANCE / "official_pretrain.pt"), f"{tmp_path}/x.pt"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == "error: what this command says cannot be written (No space left on device).\n"


def test_sources_given_twice_are_all_taken() -> None:
    """A second ``--source`` used to take the first one's place without a word."""
    from EAT.commands.doctor import parser as doctor
    from EAT.commands.extract import parser as extract

    given = ["--source", "a", "b", "--source", "c", "--checkpoint", "x"]
    assert extract().parse_args([*given, "--output", "y"]).source == ["a", "b", "c"]
    assert doctor().parse_args(given).source == ["a", "b", "c"]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_precision_that_this_processor_is_slow_in_is_noted(precision, tmp_path, capsys) -> None:
    asked = (
        f"--source {CLIPS / 'elec_bell.flac'} --checkpoint {CONFORMANCE / 'official_pretrain.pt'} --output {tmp_path}"
    )
    assert extract([*asked.split(), "--device", "cpu", "--precision", precision]) == 0
    slow = slow_on_cpu(precision)
    note = f"note: {slow}, without --precision {precision}." if slow else ""
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")] == [note] * bool(note)
