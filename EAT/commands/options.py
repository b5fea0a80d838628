"""Flags that several commands have, each declared once, and what they open."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from ..audio.stored import is_remote
from ..checkpoint.formats import WEIGHTS
from ..errors import ConfigError
from ..inference.devices import usable_device
from ..inference.event_metrics import Finding
from ..inference.model import EATModel, load
from ..pictures.listening import SOUNDS
from ..system import available_memory, default_workers, keep_freed_memory, slow_on_cpu

PRECISIONS = ("float32", "bfloat16", "float16")
ONE_LABEL, SEVERAL_LABELS, EVENTS = "single-label", "multi-label", "events"


def fraction(text: str) -> float:
    """A number from 0 to below 1, for argparse."""
    value = float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not a fraction from 0 to below 1, such as 0.01")
    return value


FLAGS: dict[str, dict[str, Any]] = {
    "--source": {
        "nargs": "+", "action": "extend", "required": True, "metavar": "PATH",
        "help": "wav, flac, ogg, opus, mp3 or aiff files of any rate and channel count, folders (searched), manifests "
        "(.tsv), tars of recordings, patterns such as '{000..123}.tar', or remote addresses such as s3://bucket/sounds/",
    },
    "--data": {
        "type": Path, "required": True, "metavar": "FOLDER", "help": "holds {split}.tsv and {split}.lbl",
    },
    "--checkpoint": {
        "required": True, "metavar": "CKPT",
        "help": "one of ours, a published fairseq one, a Hugging Face folder or file, or a name of EAT.weights",
    },
    "--weights": {
        "choices": WEIGHTS, "default": "student",
        "help": "whose encoder, of a pre-trained checkpoint (default student)",
    },
    "--device": {"help": "cpu or cuda; by default cuda where there is one"},
    "--precision": {
        "choices": PRECISIONS, "default": "float32", "help": "what the model computes in (default float32)",
    },
    "--batch-size": {
        "type": int, "metavar": "B",
        "help": "clips of 10 s at once; of shorter ones more (by default 16, on a GPU 64, or what half of the free "
        "memory holds)",
    },
    "--num-workers": {
        "type": int, "metavar": "W",
        "help": "processes that decode ahead; by default one a core, and none for a few files",
    },
    "--norm-mean": {"type": float, "metavar": "M", "help": "mean of the filterbank; by default the checkpoint's"},
    "--norm-std": {"type": float, "metavar": "S", "help": "its standard deviation; by default the checkpoint's"},
    "--target-length": {
        "type": int, "metavar": "FRAMES",
        "help": "frames of 10 ms that clips are padded or cut to; by default the checkpoint's",
    },
    "--window": {
        "type": int, "metavar": "FRAMES",
        "help": "recordings longer than this many frames of 10 ms go window by window",
    },
    "--hop": {
        "type": int, "metavar": "FRAMES", "help": "frames from one window to the next; by default half a window",
    },
    "--allow-unreadable": {
        "type": fraction, "default": 0.0, "metavar": "FRACTION",
        "help": "end with status 0 where no more than this fraction of the recordings could not be used (default 0); "
        "each is named all the same",
    },
    "--labels": {
        "type": Path, "metavar": "CSV", "help": "by default label_descriptors.csv in the data folder",
    },
    "--sounds": {
        "type": int, "default": SOUNDS, "metavar": "N",
        "help": f"clips whose sound a page holds, some 50 kB each for 10 s (default {SOUNDS})",
    },
    "--task": {
        "choices": ("auto", SEVERAL_LABELS, ONE_LABEL, EVENTS), "default": "auto",
        "help": "by default events where the classifier is one of time steps (or, of a probe, where there is "
        "{split}.events.tsv), multi-label where any clip has several labels, else single-label",
    },
    "--threshold": {
        "type": float, "default": Finding.threshold, "metavar": "P",
        "help": f"score above which an event is found (default {Finding.threshold:g})",
    },
    "--median": {
        "type": int, "default": Finding.median, "metavar": "STEPS",
        "help": f"time steps of the median filter over scores before events are found (default {Finding.median})",
    },
}  # fmt: skip
RUNNING = ("--device", "--precision", "--batch-size", "--num-workers", "--norm-mean", "--norm-std")
"""How a model runs."""
RECORDINGS = ("--source", "--checkpoint", *RUNNING, "--window", "--hop", "--allow-unreadable")
"""Commands over recordings."""
FINDING = ("--threshold", "--median")
"""How events are found in scores."""
LABELLED = ("--data", "--checkpoint", "--labels", "--task", "--target-length", *RUNNING, "--allow-unreadable")
"""Commands that measure a model on the labelled clips of a manifest."""


def add_flags(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Give a parser flags of :data:`FLAGS`."""
    for flag in flags:
        parser.add_argument(flag, **FLAGS[flag])


def status(options: argparse.Namespace, unusable: int, count: int) -> int:
    """The exit status, 0 or 1, of work on so many recordings of which so many could not be used.

    What ``--allow-unreadable`` makes of them is said on stderr.
    """
    allowed = options.allow_unreadable
    if unusable and allowed:
        verdict = "as" if unusable <= allowed * count else "more than"
        what = f"{unusable:,} of {count:,} recordings could not be used"
        print(f"{what}, {verdict} --allow-unreadable {allowed:g} allows", file=sys.stderr)
    return int(unusable > allowed * count)


def refuse_remote(output: str | None) -> None:
    """Raise ConfigError for an output in a store, where one process would make a folder of that name instead."""
    if output and is_remote(output):
        raise ConfigError(f"{output} is in a store, to which only --ray writes; give a place on this machine.")


def multi_label(task: str) -> bool | None:
    """What ``--task`` says: whether clips may have several labels; None leaves it to the data."""
    return None if task == "auto" else task == SEVERAL_LABELS


def choose_device(name: str | None) -> torch.device:
    """The device called ``name``; None is CUDA where there is any. Raises ConfigError for one that cannot be used."""
    return usable_device(name or ("cuda" if torch.cuda.is_available() else "cpu"), "--device")


def open_model(options: argparse.Namespace) -> EATModel:
    """The model that the options ask for; fills in a batch size that was left to us.

    Raises:
        ConfigError: for options that cannot be used.
        CheckpointError: for a checkpoint that cannot.
    """
    if options.batch_size is not None and options.batch_size < 1:
        raise ConfigError(f"--batch-size is {options.batch_size}; it must be at least 1.")
    if options.num_workers is not None and options.num_workers < 0:
        raise ConfigError(f"--num-workers is {options.num_workers}; it must be 0 or more.")
    device = choose_device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
        if (slow := slow_on_cpu(options.precision)) is not None:
            print(f"note: {slow}, without --precision {options.precision}.", file=sys.stderr)
    weights = getattr(options, "weights", "student")
    model = load(options.checkpoint, weights=weights, norm_mean=options.norm_mean, norm_std=options.norm_std)
    model = model.to(device=device, dtype=getattr(torch, options.precision))
    if getattr(options, "target_length", None) is not None:
        model.encoder.grid(options.target_length, "--target-length")
    if options.batch_size is None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
        options.batch_size = fitting_batch_size(model, free)
    return model


def workers(options: argparse.Namespace, count: int) -> int:
    """DataLoader workers for so many recordings."""
    return default_workers(count) if options.num_workers is None else options.num_workers


def fitting_batch_size(model: EATModel, free: int | None) -> int:
    """Clips of 10 s that a batch may have: 16 on a CPU, 64 elsewhere, or fewer where memory is short.

    Args:
        model: on its device, in its precision.
        free: bytes that may be had on that device; None where nobody knows.
    """
    most = 16 if model.device.type == "cpu" else 64  # more makes neither any faster
    if free is None:
        return most
    settings = model.encoder.settings
    # At once: a block's input, queries, keys, values and result, the hidden layer before and after GELU, all blocks
    # that were asked for at the worst.
    tokens = 1 + 1024 // model.patch_size * model.frequency_patches
    numbers = settings.embed_dim * (8 + 2 * settings.mlp_ratio + settings.depth) * tokens
    return max(1, min(most, int(free / 2 / (numbers * model.encoder.cls_token.element_size()))))
