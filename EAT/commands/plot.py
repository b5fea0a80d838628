"""The command ``python -m EAT.plot``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.manifest import Manifest
from ..errors import DataError
from ..inference.model import load
from ..inference.sources import find_sources, output_names
from ..network.settings import MaskSettings
from ..pictures.embeddings_map import METHODS, Embeddings, draw_map, read_embeddings
from ..pictures.features import draw_features
from ..pictures.map_page import write_map
from ..pictures.masks import draw_masks
from ..pictures.run_logs import read_log
from ..pictures.runs import draw_runs
from ..pictures.style import check_kind, save
from .command_line import described, exit_status
from .options import add_flags, choose_device

EXAMPLES = {
    "run": """
python -m EAT.plot run checkpoints/pretraining_AS2M --output run.png
python -m EAT.plot run checkpoints/first checkpoints/second --output both.svg
""",
    "masks": """
python -m EAT.plot masks clip.flac --target-length 1024 --output masks.png
""",
    "features": """
python -m EAT.plot features clip.flac --checkpoint EAT-base.pt --output features.png
python -m EAT.plot features clip.flac --checkpoint EAT-base.pt --layer 6 --target-length 512
""",
    "map": """
python -m EAT.plot map features/ --method tsne --output map.png
python -m EAT.plot map features/ --manifest prepared/eval.tsv --output map.svg
python -m EAT.plot map features/ --recordings recordings/ --output map.html
""",
}
COMMANDS = {
    "run": "losses, deviations, validation scores, learning rate and speed of one or several runs",
    "masks": "what a masking leaves of a clip",
    "features": "a clip's patch features as colours, under its spectrogram",
    "map": "a set's features in the plane, with labels as colours",
}
EXTRA_HELP = {"map": "; .html is a page on which clips are heard"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.plot"),
        "Pictures of training runs, masks and features.",
        "".join(EXAMPLES.values()),
    )
    subparsers = top.add_subparsers(dest="command", required=True, metavar="COMMAND", help="one of")
    commands = {}
    for name, text in COMMANDS.items():
        command = described(subparsers.add_parser(name, help=text), f"Draw {text}.", EXAMPLES[name])
        command.add_argument("--output", default=f"{name}.png", metavar="FILE",
            help=f"picture to write, .png or .svg (default {name}.png)" + EXTRA_HELP.get(name, ""))  # fmt: skip
        commands[name] = command
    _add_clip_options(commands["masks"], commands["features"])

    run = commands["run"]
    run.add_argument("runs", nargs="+", metavar="DIR", help="a run's checkpoint.save_dir, or its log file")

    embeddings = commands["map"]
    embeddings.add_argument("features", metavar="FOLDER",
        help="what feature extraction wrote with --granularity utterance; sub-folders are labels")  # fmt: skip
    embeddings.add_argument("--manifest", metavar="TSV", help="of the clips; labels come from the .lbl beside it")
    embeddings.add_argument("--method", choices=METHODS, default="pca", help="tsne needs scikit-learn (default pca)")
    embeddings.add_argument("--seed", type=int, default=1, help="of t-SNE (default 1)")
    embeddings.add_argument("--recordings", nargs="+", default=[], metavar="PATH",
        help="what the features are of, to be heard on an .html page; by default the manifest's clips")  # fmt: skip
    add_flags(embeddings, "--sounds")

    return top


def _add_clip_options(masks: argparse.ArgumentParser, features: argparse.ArgumentParser) -> None:
    """The flags of what is drawn of a single clip."""
    masks.add_argument("clip", help="a recording")
    masks.add_argument(
        "--target-length", type=int, metavar="FRAMES", help="frames of 10 ms it is padded or cut to; default all of it"
    )
    masks.add_argument("--mask-prob", type=float, default=0.8, help="fraction of patches that is masked (default 0.8)")
    masks.add_argument("--mask-prob-adjust", type=float, default=0.07, help="as in the recipe (default 0.07)")
    masks.add_argument("--mask-length", type=int, default=5, help="side of a block in patches (default 5)")
    masks.add_argument("--clones", type=int, default=3, help="masked copies shown (default 3)")
    masks.add_argument("--seed", type=int, default=1, help="of the masks (default 1)")
    features.add_argument("clip", help="a recording")
    add_flags(features, "--checkpoint", "--weights", "--device")
    features.add_argument("--layer", type=int, metavar="K",
        help="0: input to the first block; 1 to depth: a block's output; by default the last block's")  # fmt: skip
    features.add_argument(
        "--target-length", type=int, metavar="FRAMES", help="frames of 10 ms that are shown; default all"
    )


def picture(args: argparse.Namespace) -> Any:
    """The figure that the arguments ask for. Raises EATError where it cannot be drawn."""
    if args.command == "run":
        names = [Path(run).name or run for run in args.runs]
        names = names if len(set(names)) == len(names) else args.runs
        return draw_runs({name: read_log(run) for name, run in zip(names, args.runs, strict=True)})
    if args.command == "masks":
        mask = MaskSettings(
            mask_prob=args.mask_prob, mask_prob_adjust=args.mask_prob_adjust, mask_length=args.mask_length
        )
        return draw_masks(args.clip, args.target_length, mask, args.clones, args.seed)
    if args.command == "features":
        model = load(args.checkpoint, weights=args.weights, device=choose_device(args.device))
        return draw_features(model, args.clip, args.layer, args.target_length)
    embeddings = read_embeddings(args.features, args.manifest)
    return draw_map(embeddings, args.method, args.seed, f"{len(embeddings.vectors):,} clips")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw; returns 0, or 2 for unusable arguments."""
    args = parser().parse_args(arguments)
    return exit_status(lambda: run(args))


def recordings(args: argparse.Namespace, embeddings: Embeddings) -> dict[int, str]:
    """Where the clips of a map can be heard, by number: those that the arguments know of. Raises EATError."""
    if args.recordings:
        found, problems = find_sources(args.recordings)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr)
        places = dict(zip(output_names(found, ""), (source.address for source in found), strict=True))
        known = {number: places.get(name) for number, name in enumerate(embeddings.names)}
        heard = {number: address for number, address in known.items() if address is not None}
        if not heard:
            raise DataError(
                f"no recording of {', '.join(args.recordings)} has the name of a file in {args.features}, such as "
                f"{embeddings.names[0]}; give the folder that the features were extracted from."
            )
        return heard
    if args.manifest:
        listed = Manifest(args.manifest)
        return {number: listed.source(number) for number in range(len(listed))}
    return {}


def run(args: argparse.Namespace) -> int:
    """Draw, save and name the picture's file; returns 0. Raises EATError."""
    if args.command == "map" and Path(args.output).suffix.lower() == ".html":
        embeddings = read_embeddings(args.features, args.manifest)
        title = f"{len(embeddings.vectors):,} clips"
        write_map(embeddings, args.output, recordings(args, embeddings), args.method, args.seed, title, args.sounds)
    else:
        check_kind(args.output)
        save(picture(args), args.output)
    print(args.output)
    return 0
