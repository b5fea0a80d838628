"""Probes that are trained: heads on frozen features of every layer (docs/bat.md, section 9).

Every layer's patches of a data set do not fit on a disk, so a batch is encoded when its turn comes, once for all heads.
A run that was stopped resumes where it saved last, and gives what it would have given.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..checkpoint.safe import read_torch_file, write_torch_file
from ..data.clips import ClipDataset, batch_filterbank
from ..data.events import Event
from ..data.labels import Label
from ..data.loading import filterbank_batches
from ..data.manifest import Manifest
from ..data.workers import explained
from ..errors import CheckpointError, ConfigError, DataError
from ..network.classification_losses import LOSSES
from ..network.front_end import FrontEnd
from ..network.heads import HEADS
from ..network.patches import real_patches
from ..network.rates import floored_cosine
from ..network.settings import ClassifierSettings, choose
from ..progress import progress_bar
from ..system import default_workers
from .event_metrics import EventMetrics, Finding, ScoredClip, measure_events, scored_clip
from .model import EATModel

LINEAR = "linear"
"""Of the last layer alone: the learned mix of one layer."""
NAMES = (*HEADS, LINEAR)
SAVE_SECONDS = 60.0
"""From one save to the next."""
LEAST_RATE = 1e-6


@dataclass(frozen=True)
class HeadTraining:
    """How heads are trained; the defaults are quick. The published numbers are those of config/probing_*.yaml.

    Raises:
        ConfigError: for a head that there is not, or numbers that make no sense.
    """

    heads: tuple[str, ...]
    updates: int = 400
    batch_size: int = 16
    rate: float = 3e-3
    prototypes: int = 1000
    dropout: float = 0.2
    pooling: str = "cls"
    weight_decay: float = 0.05
    seed: int = 1

    def __post_init__(self) -> None:
        for head in self.heads:
            choose(dict.fromkeys(NAMES), head, "a name in --heads")
        if self.updates < 2:
            raise ConfigError(f"--updates is {self.updates}; it must be at least 2.")

    def build(self, model: EATModel, classes: int) -> dict[str, nn.Module]:
        """The heads, drawn from the seed."""
        sizes = {name: getattr(model.encoder.settings, name) for name in ("embed_dim", "depth", "num_heads")}
        own = {"pooling": self.pooling, "head_prototypes": self.prototypes, "head_dropout": self.dropout}
        settings = ClassifierSettings(num_classes=classes, **sizes, **own)  # type: ignore[arg-type]
        heads = {}
        for name in self.heads:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                head = HEADS["lcgp"](replace(settings, depth=1)) if name == LINEAR else HEADS[name](settings)
            heads[name] = head.to(model.device)
        return heads

    def optimizer(self, head: nn.Module) -> torch.optim.Optimizer:
        """AdamW that decays the weights of Linear layers alone."""
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        for name, parameter in head.named_parameters():
            groups[name.endswith(".weight") and parameter.ndim > 1].append(parameter)
        decayed: list[dict[str, Any]] = [
            {"params": groups[True], "weight_decay": self.weight_decay},
            {"params": groups[False]},
        ]
        return torch.optim.AdamW(decayed, lr=self.rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


class HeadResult(NamedTuple):
    """What a head makes of a split."""

    scores: np.ndarray
    """(clips, classes)"""
    layers: np.ndarray
    """(L,) the layers' weights, which add up to 1; of the linear head the last one's."""


@torch.no_grad()
def encode(model: EATModel, filterbank: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """Every block's output, float32, and which patches hold audio: L times (B, 1 + N, D), and (B, N)."""
    blocks = model.encoder(filterbank.to(model.encoder.cls_token.dtype), collect=True).blocks[1:]
    length = filterbank.shape[2]
    frames = model.front_end.real_frames(lengths.to(filterbank.device), limit=length)
    return [block.float() for block in blocks], real_patches(frames, model.encoder.grid(length), model.patch_size)


def batches_of(clips: int, training: HeadTraining) -> list[list[int]]:
    """Which clips each update sees: every one of them in every epoch, in an order from (seed, epoch) alone."""
    batches: list[list[int]] = []
    epoch = 0
    while len(batches) < training.updates:
        order = np.random.default_rng((training.seed, epoch)).permutation(clips).tolist()
        batches += [order[start : start + training.batch_size] for start in range(0, clips, training.batch_size)]
        epoch += 1
    return batches[: training.updates]


def train_heads(
    model: EATModel,
    manifest: Manifest,
    targets: np.ndarray,
    multi_label: bool,
    front_end: FrontEnd,
    training: HeadTraining,
    workers: int | None,
    place: Path,
    key: str,
) -> dict[str, nn.Module]:
    """Train heads on the clips of a manifest; resumes from what an earlier run of the same left in ``place``.

    Args:
        model: whose frozen encoder to use.
        manifest: the clips.
        targets: (clips, classes) in {0, 1}, or (clips, T, classes) of every time step, of which those that begin with
            audio count.
        multi_label: whether clips may have several; the loss then is asymmetric, else cross-entropy. Of time steps it
            is binary cross-entropy, their mean over steps and classes.
        front_end: length and normalisation.
        training: how.
        workers: processes that read clips; None chooses.
        place: folder for what is kept.
        key: what stands for the weights.

    Returns:
        Heads by name, in eval mode.
    """
    heads = training.build(model, targets.shape[-1])
    optimizers = {name: training.optimizer(head) for name, head in heads.items()}
    digest = hashlib.sha256()
    for part in (key, Path(manifest.path).read_bytes().hex(), manifest.root, targets.tobytes().hex(), repr(front_end)):
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    digest.update(repr((training, multi_label)).encode())
    path = place / f"heads-{digest.hexdigest()[:24]}.pt"
    done = restore(path, heads, optimizers)
    loss = LOSSES["bce_mean" if targets.ndim == 3 else "asymmetric" if multi_label else "cross_entropy"]
    warmup = training.updates // 10
    saved = time.monotonic()
    with contextlib.closing(progress_bar(training.updates, "heads")) as bar:
        bar.update(done)
        for update, batch in enumerate(_read(manifest, front_end, training, workers, done), done):
            if batch["clips"]:
                filterbank = batch_filterbank(_moved(batch, model.device), front_end)
                blocks, real = encode(model, filterbank, batch["lengths"])
                labels = torch.from_numpy(targets[batch["clips"]]).float().to(model.device)
                rate = floored_cosine(update, training.rate, LEAST_RATE, warmup, training.updates - warmup)
                for name, head in heads.items():
                    _step(head, optimizers[name], blocks, real, labels, loss, rate, training.seed * 1_000_003 + update)
            bar.update(1)
            last = update + 1 == training.updates
            if last or time.monotonic() - saved > SAVE_SECONDS:
                save(path, update + 1, heads, optimizers)
                saved = time.monotonic()
    return {name: head.eval() for name, head in heads.items()}


def _step(
    head: nn.Module, optimizer: torch.optim.Optimizer, blocks: list[Tensor], real: Tensor, labels: Tensor, loss: Any,
    rate: float, seed: int,
) -> None:  # fmt: skip
    for group in optimizer.param_groups:
        group["lr"] = rate
    head.train()
    optimizer.zero_grad()
    with torch.random.fork_rng():  # so that dropout is the same in a run that was stopped in between
        torch.manual_seed(seed)
        if labels.ndim == 3:
            logits, heard = step_logits(head, blocks, real, labels.shape[1])
            total, count = loss(logits[heard], labels[heard], 0.0)
        else:
            total, count = loss(_logits(head, blocks, real), labels, 0.0)
        (total / count).backward()
    optimizer.step()


def _logits(head: nn.Module, blocks: list[Tensor], real: Tensor) -> Tensor:
    return head(blocks[-layers_of(head).numel() :], real)


def step_logits(head: nn.Module, blocks: list[Tensor], real: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Logits of every time step, (B, T, classes), and which of them begin with audio, (B, T)."""
    frames: Callable[[list[Tensor], int], Tensor] = head.frames  # type: ignore[assignment]
    return frames(blocks[-layers_of(head).numel() :], steps), real.unflatten(1, (steps, -1))[..., 0]


def layers_of(head: nn.Module) -> Tensor:
    """The logits of a head's weights of the layers, (L,); the linear one has but the last."""
    layers = head.layers
    assert isinstance(layers, Tensor)
    return layers


def _moved(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {**batch, "waveforms": batch["waveforms"].to(device), "lengths": batch["lengths"].to(device)}


def _read(
    manifest: Manifest, front_end: FrontEnd, training: HeadTraining, workers: int | None, done: int
) -> Iterator[dict[str, Any]]:
    """The batches after the first ``done``; clips that cannot be read are named on stderr, each once."""
    clips = ClipDataset(manifest, front_end)
    named: set[int] = set()
    rest = batches_of(len(manifest), training)[done:]
    workers = default_workers(len(manifest)) if workers is None else workers
    loader = DataLoader(clips, batch_sampler=rest, num_workers=workers, collate_fn=clips.collate)  # type: ignore[arg-type]
    with explained(clips.explain_crash):
        for batch in loader:
            for clip, reason in batch["skipped"]:
                if clip not in named:
                    named.add(clip)
                    print(reason, file=sys.stderr)
            yield batch


def save(path: Path, updates: int, heads: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Keep heads and optimisers. Raises CheckpointError where that is not possible."""
    state = {name: {"head": heads[name].state_dict(), "optimizer": optimizers[name].state_dict()} for name in heads}
    write_torch_file(str(path), {"updates": updates, "heads": state})


def restore(path: Path, heads: dict[str, nn.Module], optimizers: dict[str, torch.optim.Optimizer]) -> int:
    """Take over what :func:`save` kept; how many updates were made, 0 where there is nothing of use."""
    if not path.is_file():
        return 0
    try:
        state = read_torch_file(str(path))
        for name, head in heads.items():
            head.load_state_dict(state["heads"][name]["head"])
            optimizers[name].load_state_dict(state["heads"][name]["optimizer"])
        return int(state["updates"])
    except (CheckpointError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be resumed from ({error}); remove it to begin anew.") from None


@torch.no_grad()
def measure_heads(
    model: EATModel,
    heads: dict[str, nn.Module],
    manifest: Manifest,
    front_end: FrontEnd,
    batch_size: int,
    workers: int | None,
    description: str,
) -> tuple[Sequence[int], dict[str, HeadResult]]:
    """Scores of all clips of a manifest that can be read: their numbers, and each head's result."""
    scores: dict[str, list[np.ndarray]] = {name: [] for name in heads}
    clips: list[int] = []
    for batch in filterbank_batches(manifest, front_end, batch_size, workers, model.device, description):
        blocks, real = encode(model, batch.filterbank, batch.lengths)
        clips += batch.clips
        for name, head in heads.items():
            scores[name].append(_logits(head, blocks, real).float().cpu().numpy())
    joined = {name: np.concatenate(rows) for name, rows in scores.items()}
    return clips, {name: HeadResult(joined[name], layer_fractions(head)) for name, head in heads.items()}


def layer_fractions(head: nn.Module) -> np.ndarray:
    """(L,) a head's weights of the layers."""
    return layers_of(head).detach().softmax(dim=0).cpu().numpy()


@torch.no_grad()
def measure_events_of(
    model: EATModel,
    heads: dict[str, nn.Module],
    manifest: Manifest,
    events: Sequence[Sequence[Event]],
    labels: Sequence[Label],
    front_end: FrontEnd,
    batch_size: int,
    workers: int | None,
    finding: Finding,
) -> tuple[Sequence[int], dict[str, tuple[EventMetrics, np.ndarray]]]:
    """How well each head finds the events of the clips that can be read: their numbers, figures and layers' weights."""
    scored: dict[str, list[ScoredClip]] = {name: [] for name in heads}
    clips: list[int] = []
    steps = front_end.target_length // model.patch_size
    for batch in filterbank_batches(manifest, front_end, batch_size, workers, model.device, "measuring"):
        blocks, real = encode(model, batch.filterbank, batch.lengths)
        clips += batch.clips
        for name, head in heads.items():
            scores = step_logits(head, blocks, real, steps)[0].sigmoid().cpu().numpy()
            scored[name] += [
                scored_clip(rows, samples, front_end, model.patch_size, events[clip])
                for rows, samples, clip in zip(scores, batch.lengths.tolist(), batch.clips, strict=True)
            ]
    if not clips:
        raise DataError(f"none of the {len(manifest):,} clips in {manifest.path} could be read.")
    found = {name: measure_events(scored[name], labels, model.patch_seconds, finding) for name in heads}
    return clips, {name: (found[name], layer_fractions(head)) for name, head in heads.items()}
