"""The command ``python -m EAT.doctor``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import ConfigError
from ...files import replacing
from ..command_line import exit_status

if TYPE_CHECKING:
    import torch

BASE = ("torch", "numpy", "soundfile")
"""What nothing works without."""

EXAMPLES = """examples:
  python -m EAT.doctor
  python -m EAT.doctor --device cuda
  python -m EAT.doctor --checkpoint checkpoints/mine/checkpoint_last.pt --source clips/ --json figures.json

exit status: 0 where every check went well, 1 where one failed, 2 for unusable arguments
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m EAT.doctor",
        description="What is installed, what the devices can do, and a ten-second check that EAT works here. "
        "Needs no extra and no network. With --checkpoint instead: what that pre-trained model has learnt.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--device", help="cpu or cuda; by default cuda where there is one")
    top.add_argument(
        "--checkpoint",
        metavar="CKPT",
        help="one of ours, a published fairseq one, a Hugging Face folder or file, or a name of EAT.weights",
    )
    top.add_argument(
        "--source",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="recordings to judge it on: files, folders, manifests",
    )
    top.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    return top


def section(title: str, lines: Sequence[tuple[str, str]]) -> None:
    """Print a heading and lines of name and text below it."""
    print(f"\n{title}")
    for name, text in lines:
        print(f"  {name:<12} {text}")


def unusable() -> list[str]:
    """A sentence for each package of the base installation that cannot be imported."""
    sentences = []
    for name in BASE:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            sentences.append(f"{name} is not installed: pip install {name}")
        except (ImportError, OSError) as error:
            sentences.append(f"{name} is installed but cannot be imported ({error}); install it anew.")
    return sentences


def self_check(device: torch.device) -> list[str]:
    """Run every check and print what each saw; returns the names of those that failed."""
    from .checks import CHECKS

    print("\nself-check")
    failed = []
    for name, check in CHECKS.items():
        began = time.perf_counter()
        try:
            outcome, text = "ok", check(device)
        except Exception as error:  # whatever it is, the others are still worth knowing
            outcome, text = "FAILED", f"{type(error).__name__}: {error}"
            failed.append(name)
        print(f"  {name:<12} {outcome:<7}{text} ({time.perf_counter() - began:.1f} s)", flush=True)
    return failed


def report(device: torch.device) -> None:
    """Print versions, devices, precisions, decoders and extras."""
    from . import machine

    section("versions", machine.versions())
    section("devices", [*machine.processor(), *machine.gpus()])
    section(f"precision on {device}", machine.precisions(device))
    section("decoders", machine.decoders())
    section("extras", machine.extras())


def main(arguments: Sequence[str] | None = None) -> int:
    """Report and check; returns 0, 1 where something does not work, or 2 for unusable arguments."""
    args = parser().parse_args(arguments)
    # The other parts are imported only when it is known that they can be.
    broken = unusable()
    for sentence in broken:
        print(f"error: {sentence}", file=sys.stderr)
    if broken:
        return 1
    return exit_status(lambda: run(args))


def judge(args: argparse.Namespace, device: torch.device) -> int:
    """Print what a checkpoint has learnt to predict; returns 0, or 1 where recordings could not be found."""
    from ...inference.learning import judge_checkpoint
    from ...inference.sources import find_sources

    if not args.checkpoint or not args.source:
        raise ConfigError("--checkpoint and --source go together: a checkpoint, and recordings to judge it on.")
    sources, problems = find_sources(args.source)
    for problem in problems:
        print(problem, file=sys.stderr)
    judged = judge_checkpoint(args.checkpoint, [source.address for source in sources], device)
    print(f"{args.checkpoint}: {judged['clips']} clips")
    for name, value in judged["figures"].items():
        print(f"  {name:<26}{value:8.3f}")
    if judged["without"]:
        print(f"  without a {' and a '.join(judged['without'])} of its own")
    print(judged["verdict"])
    if args.json:
        with replacing(args.json) as handle:
            json.dump({"checkpoint": args.checkpoint, **judged}, handle, indent=1)
            handle.write("\n")
    return 1 if problems else 0


def run(args: argparse.Namespace) -> int:
    """Report and check a machine that has what the base needs; returns 0 or 1. Raises ConfigError for its device."""
    from ..options import choose_device

    device = choose_device(args.device)
    if args.checkpoint or args.source or args.json:
        return judge(args, device)
    report(device)
    failed = self_check(device)
    print(f"\nEAT does not work here as it should: {', '.join(failed)}" if failed else "\nEAT works here.")
    return 1 if failed else 0
