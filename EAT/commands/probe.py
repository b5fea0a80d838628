"""The command ``python -m EAT.probe``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

from ..checkpoint.hub import locate
from ..data.events import events_file, read_events
from ..data.labelled import ClipsWithEvents
from ..data.labels import DESCRIPTORS, Label, read_descriptors, read_lbl
from ..data.manifest import Manifest
from ..errors import ConfigError, DataError
from ..files import replacing
from ..inference.evaluation import have_several, one_hot
from ..inference.event_metrics import SCENARIOS, Finding, library
from ..inference.head_training import NAMES, HeadTraining, measure_events_of, measure_heads, train_heads
from ..inference.model import EATModel
from ..inference.probe_features import POOLINGS, cached_features, content_hash, untrained
from ..inference.probes import Features, ProbeResult, check_settings, metric, probe, probe_mix
from ..network.front_end import FrontEnd
from ..pictures.layer_weights import draw_layer_weights
from ..pictures.style import check_kind, save
from ..progress import progress
from .command_line import described, exit_status
from .options import EVENTS, FINDING, LABELLED, add_flags, multi_label, open_model, status

MIX = "mix"
EXAMPLES = """
python -m EAT.probe --data prepared --checkpoint checkpoints/pretraining_demo/checkpoint_last.pt
python -m EAT.probe --data prepared --checkpoint EAT-base.pt --layers 0,6,12 --pooling both --output layers.csv
python -m EAT.probe --data prepared --checkpoint EAT-base.pt --untrained
python -m EAT.probe --data prepared --checkpoint BAT-hf --heads cgp,lcgp,attentive,linear --picture layers.png
python -m EAT.probe --data street --checkpoint BAT-hf --heads cgp,linear --threshold 0.3
"""


class Split(NamedTuple):
    """The clips of a split that could be read."""

    features: np.ndarray
    """(clips, 1 + depth, width) float16."""
    truth: list[list[int]]
    unreadable: int


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = described(
        argparse.ArgumentParser(prog="python -m EAT.probe"),
        "Measure how good a model's frozen features are: nearest neighbours and a linear classifier on each layer, "
        "and on a learned mix of all of them; with --heads, trained heads on every layer's patches too. Where the data "
        "has events, heads are trained on every time step.",
        EXAMPLES,
    )
    add_flags(top, *LABELLED, *FINDING)
    add = top.add_argument
    add("--train-split", default="train", metavar="SPLIT", help="what the probes learn from (default train)")
    add("--eval-split", default="eval", metavar="SPLIT", help="what they are measured on (default eval)")
    add("--layers", default="all",
        help="'all', or numbers with commas between them: 0 is the input to the first block, 1 the first block's "
        "output, -1 the last one's (default all)")  # fmt: skip
    add("--pooling", choices=POOLINGS, default="mean",
        help="a clip's features: the patches' mean, the CLS token, or both side by side; rows: the mean over time of "
        "each frequency row of patches; rows_max: the maxima beside them (default mean)")  # fmt: skip
    add("--neighbours", type=int, default=10, metavar="K", help="nearest neighbours that vote (default 10)")
    add("--regularisation", type=float, default=1.0, metavar="R",
        help="weight of the linear classifier's squared norm (default 1)")  # fmt: skip
    add("--seed", type=int, default=1, help="of the mix, and of an untrained encoder (default 1)")
    add("--untrained", action="store_true", help="probe an encoder of the checkpoint's sizes that was never trained")
    add("--heads", type=lambda text: tuple(text.split(",")), default=(), metavar="NAMES",
        help=f"heads to train on frozen features too, with commas between them: {', '.join(NAMES)}; cgp is BAT's "
        "convex gated probe, whose published form has --pooling cls. Quick; config/probing_*.yaml has the published "
        "protocols")  # fmt: skip
    add("--updates", type=int, default=HeadTraining.updates, metavar="N",
        help=f"updates of each head (default {HeadTraining.updates})")  # fmt: skip
    add("--prototypes", type=int, default=HeadTraining.prototypes, metavar="K",
        help=f"prototypes of cgp (default {HeadTraining.prototypes}; published 10000)")  # fmt: skip
    add("--picture", type=Path, metavar="FILE", help="draw the heads' weights of the layers, .png or .svg")
    add("--cache", type=Path, metavar="FOLDER", help="where features are kept (default: features in the data folder)")
    add("--output", type=Path, metavar="CSV", help="also write the table there")
    return top


def choose_layers(text: str, model: EATModel) -> tuple[int, ...]:
    """The layers that are asked for, in order. Raises ConfigError for what are none."""
    if text == "all":
        return tuple(range(model.encoder.settings.depth + 1))
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--layers is {text!r}; it must be 'all' or numbers such as 0,6,12.") from None
    return tuple(sorted(set(model.layer_numbers(numbers))))


def weights_key(args: argparse.Namespace, model: EATModel) -> str:
    """What stands for the weights, in names of what is kept."""
    return (
        f"untrained {args.seed} {model.encoder.settings}" if args.untrained else content_hash(locate(args.checkpoint))
    )


def are_events(args: argparse.Namespace) -> bool:
    """Whether labels of time steps are to be learned."""
    return args.task == EVENTS or (args.task == "auto" and events_file(args.data, args.train_split).exists())


def run_events(args: argparse.Namespace, model: EATModel) -> int:
    """Train heads on the time steps of one split, and print how well they find the events of the other."""
    if not args.heads:
        raise ConfigError("labels of time steps are learned by heads alone; give --heads, such as cgp,linear.")
    finding = Finding(args.threshold, args.median)
    library()
    labels = read_descriptors(args.labels or args.data / DESCRIPTORS)
    front_end = front_end_for(args, model)
    manifests = [Manifest(args.data / f"{name}.tsv") for name in (args.train_split, args.eval_split)]
    events = [
        read_events(events_file(args.data, name), manifest, labels)
        for name, manifest in zip((args.train_split, args.eval_split), manifests, strict=True)
    ]
    clips = ClipsWithEvents(manifests[0], front_end, events=events[0], classes=len(labels), patch_size=model.patch_size)
    heads = train_all(args, model, manifests[0], clips.targets(range(len(clips))), True)
    read, found = measure_events_of(
        model, heads, manifests[1], events[1], labels, front_end, args.batch_size, args.num_workers, finding
    )
    print(
        f"{args.checkpoint}: {len(manifests[0]):,} clips to learn from, {len(read):,} to measure, {len(labels):,} "
        f"classes, time steps of {model.patch_seconds:g} s"
    )
    names = [*SCENARIOS, "segment F1", "onset F1", "mAP"]
    print(f"{'head':<10}" + "".join(f"{name:>12}" for name in names) + "   layers")
    rows = {}
    for name, (metrics, weights) in found.items():
        rows[name] = [*metrics.psds.values(), metrics.segment_f1, metrics.onset_f1, metrics.mAP]
        shown = " ".join(f"{weight:.3f}" for weight in weights) if len(weights) > 1 else "the last"
        print(f"{name:<10}" + "".join(f"{value:>12.4f}" for value in rows[name]) + f"   {shown}")
    draw_weights(args, {name: weights for name, (_, weights) in found.items()})
    if args.output:
        with replacing(args.output) as handle:
            writer = csv.writer(handle, lineterminator="\n")
            writer.writerow(["head", *names])
            writer.writerows([name, *(f"{value:.6f}" for value in row)] for name, row in rows.items())
        print(f"table -> {args.output}")
    return status(args, len(manifests[1]) - len(read), len(manifests[1]))


def read_splits(args: argparse.Namespace) -> tuple[list[Label], list[tuple[str, Manifest, list[list[int]]]]]:
    """The classes, and of both splits the name, the clips and their labels."""
    labels = read_descriptors(args.labels or args.data / DESCRIPTORS)
    listed = []
    for name in (args.train_split, args.eval_split):
        manifest = Manifest(args.data / f"{name}.tsv")
        listed.append((name, manifest, read_lbl(args.data / f"{name}.lbl", manifest, labels)))
    return labels, listed


def front_end_for(args: argparse.Namespace, model: EATModel) -> FrontEnd:
    """The model's, at the length that is asked for."""
    if args.target_length is None:
        return model.front_end
    return replace(model.front_end, target_length=args.target_length)


def open_splits(args: argparse.Namespace, model: EATModel) -> tuple[list[Split], int, bool]:
    """Features and truth of both splits, how many classes there are, and whether clips may have several labels."""
    labels, listed = read_splits(args)
    several = have_several(multi_label(args.task), [clip for *_, truth in listed for clip in truth])
    front_end = front_end_for(args, model)
    key = weights_key(args, model)
    cache = args.cache or args.data / "features"
    splits = []
    for name, manifest, truth in listed:
        features = cached_features(
            cache, f"{key} {args.precision}", model, manifest, front_end, args.batch_size, args.num_workers, name,
            args.pooling,
        )  # fmt: skip
        readable = np.flatnonzero(np.isfinite(features[:, 0, 0]))
        unread = np.setdiff1d(np.arange(len(manifest)), readable)
        for clip in unread:
            print(f"{name}: {manifest.name(int(clip))} could not be read and is left out", file=sys.stderr)
        if not len(readable):
            raise DataError(f"none of the {len(manifest):,} clips in {manifest.path} could be read.")
        kept = features if not len(unread) else features[readable]
        splits.append(Split(kept, [truth[clip] for clip in readable], len(unread)))
    return splits, len(labels), several


def print_table(results: dict[str, ProbeResult], weights: dict[str, float], unit: str) -> None:
    """One line a layer, the best of each column marked."""
    best = ProbeResult(*(max(column) for column in zip(*results.values(), strict=True)))
    print(f"{'layer':>6}  {'neighbours':>11}  {'linear':>11}   in the mix    ({unit}; * best)")
    for layer, result in results.items():
        cells = (f"{value:.4f}{'*' if value == top else ' '}" for value, top in zip(result, best, strict=True))
        weight = f"{weights[layer]:.3f} {'#' * round(20 * weights[layer])}" if layer in weights else ""
        print(f"{layer:>6}  {'  '.join(f'{cell:>11}' for cell in cells)}   {weight}".rstrip())


def train_all(
    args: argparse.Namespace, model: EATModel, manifest: Manifest, targets: np.ndarray, several: bool
) -> dict[str, nn.Module]:
    """The heads that are asked for, trained."""
    training = HeadTraining(
        args.heads, args.updates, args.batch_size, prototypes=args.prototypes, seed=args.seed,
        pooling="mean" if args.pooling == "mean" else "cls",
    )  # fmt: skip
    key, cache = f"{weights_key(args, model)} {args.precision}", args.cache or args.data / "features"
    front_end = front_end_for(args, model)
    return train_heads(model, manifest, targets, several, front_end, training, args.num_workers, cache, key)


def draw_weights(args: argparse.Namespace, weights: dict[str, np.ndarray]) -> None:
    """Draw the heads' weights of the layers where that is asked for. Raises ConfigError where none has any."""
    if args.picture:
        mixes = {name: shared for name, shared in weights.items() if len(shared) > 1}
        if not mixes:
            raise ConfigError("--picture shows the weights of layers; give --heads cgp, lcgp or attentive.")
        save(draw_layer_weights(mixes), str(args.picture))
        print(f"layers' weights -> {args.picture}")


def train_and_measure(
    args: argparse.Namespace, model: EATModel, classes: int, several: bool
) -> dict[str, tuple[float, np.ndarray]]:
    """Each trained head's metric on the evaluation split, and its weights of the layers."""
    if not args.heads:
        return {}
    _, listed = read_splits(args)
    train, evaluation = (manifest for _, manifest, _ in listed)
    truth = [one_hot(labels, classes) for *_, labels in listed]
    front_end = front_end_for(args, model)
    heads = train_all(args, model, train, truth[0], several)
    clips, found = measure_heads(model, heads, evaluation, front_end, args.batch_size, args.num_workers, "measuring")
    return {name: (metric(result.scores, truth[1][list(clips)], several), result.layers)
            for name, result in found.items()}  # fmt: skip


def write_table(
    path: Path, results: dict[str, ProbeResult], weights: dict[str, float], unit: str, heads: dict[str, float]
) -> None:
    """The same as CSV; trained heads, where there are some, in a column of their own."""
    with replacing(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        names = ["layer", f"neighbours {unit}", f"linear {unit}", "weight in the mix", f"head {unit}"]
        writer.writerow(names if heads else names[:-1])
        for layer, result in results.items():
            row = [layer, *(f"{value:.6f}" for value in result), f"{weights.get(layer, float('nan')):.6f}"]
            writer.writerow(row + ["nan"] * bool(heads))
        for name, value in heads.items():
            writer.writerow([name, "nan", "nan", "nan", f"{value:.6f}"])


def run(args: argparse.Namespace) -> int:
    """Probe and print; 1 when some clips could not be read."""
    check_settings(args.neighbours, args.regularisation)
    HeadTraining(args.heads, args.updates)
    if args.picture:
        check_kind(str(args.picture))
    model = open_model(args)
    layers = choose_layers(args.layers, model)
    if args.untrained:
        untrained(model, args.seed)
    if are_events(args):
        return run_events(args, model)
    (train, evaluation), classes, several = open_splits(args, model)

    def chosen(split: Split, layers: Sequence[int]) -> np.ndarray:
        """(clips, layers, width) float32."""
        return split.features[:, list(layers)].astype(np.float32)

    targets = [one_hot(split.truth, classes) for split in (train, evaluation)]
    results = {}
    for layer in progress(layers, description="probing", unit="layer"):
        pair = [chosen(split, [layer])[:, 0] for split in (train, evaluation)]
        features = Features(pair[0], targets[0], pair[1], targets[1])
        results[str(layer)] = probe(features, several, args.neighbours, args.regularisation)
    weights: dict[str, float] = {}
    if len(layers) > 1:
        features = Features(chosen(train, layers), targets[0], chosen(evaluation, layers), targets[1])
        results[MIX], mix = probe_mix(features, several, args.neighbours, args.regularisation, args.seed)
        weights = dict(zip(results, mix.tolist(), strict=False))
    trained = train_and_measure(args, model, targets[0].shape[1], several)
    unit = "mAP" if several else "accuracy"
    what = "an untrained encoder of the sizes of " if args.untrained else ""
    print(
        f"{what}{args.checkpoint}: {len(train.truth):,} clips to learn from, {len(evaluation.truth):,} to measure, "
        f"{classes} classes, {args.pooling} features"
    )
    print_table(results, weights, unit)
    for name, (value, shared) in trained.items():
        weighed = " ".join(f"{weight:.3f}" for weight in shared)
        print(f"head {name}: {value:.4f} {unit}" + (f", layers {weighed}" if len(shared) > 1 else ""))
    draw_weights(args, {name: shared for name, (_, shared) in trained.items()})
    if args.output:
        write_table(args.output, results, weights, unit, {name: value for name, (value, _) in trained.items()})
        print(f"table -> {args.output}")
    unreadable = train.unreadable + evaluation.unreadable
    return status(args, unreadable, len(train.truth) + len(evaluation.truth) + unreadable)


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe a checkpoint.

    Returns:
        0, 1 when some clips could not be read, or 2 when the arguments cannot be used.
    """
    args = parser().parse_args(arguments)
    return exit_status(lambda: run(args))
