"""The command ``python -m EAT.plot``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..config import MaskConfig
from ..errors import EATError
from .logs import read_run
from .pictures import draw_masks, draw_runs, save

EXAMPLES = """examples:
  python -m EAT.plot run checkpoints/pretraining_AS2M --output run.png
  python -m EAT.plot run checkpoints/first checkpoints/second --output both.svg
  python -m EAT.plot masks clip.flac --target-length 1024 --output masks.png
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m EAT.plot",
        description="Pictures of training runs and masks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="losses, deviations, learning rate and speed of one or several runs")
    run.add_argument("runs", nargs="+", metavar="DIR", help="a run's checkpoint.save_dir, or its log file")

    masks = commands.add_parser("masks", help="what a masking leaves of a clip")
    masks.add_argument("clip", help="a recording")
    masks.add_argument("--target-length", type=int, default=1024, help="frames of 10 ms (default 1024)")
    masks.add_argument("--mask-prob", type=float, default=0.8, help="share of patches that is masked (default 0.8)")
    masks.add_argument("--mask-prob-adjust", type=float, default=0.07, help="as in the recipe (default 0.07)")
    masks.add_argument("--mask-length", type=int, default=5, help="side of a block in patches (default 5)")
    masks.add_argument("--clones", type=int, default=3, help="masked copies shown (default 3)")
    masks.add_argument("--seed", type=int, default=1, help="of the masks (default 1)")
    for command, name in ((run, "run.png"), (masks, "masks.png")):
        command.add_argument("--output", default=name, help=f"picture to write, .png or .svg (default {name})")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; returns 0, or 2 for unusable arguments."""
    args = parser().parse_args(arguments)
    try:
        if args.command == "run":
            figure = draw_runs({Path(run).name or run: read_run(run) for run in args.runs})
        else:
            mask = MaskConfig(args.mask_prob, args.mask_prob_adjust, args.mask_length)
            figure = draw_masks(args.clip, args.target_length, mask, args.clones, args.seed)
        save(figure, args.output)
    except EATError as error:
        print(f"EAT.plot: {error}", file=sys.stderr)
        return 2
    print(args.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
