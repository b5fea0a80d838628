"""Small runs of every part that needs nothing but the base installation; each raises where something is wrong."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from ...audio.recordings import read_audio
from ...checkpoint import read_checkpoint
from ...checkpoint.contents import Contents
from ...checkpoint.formats import write_checkpoint
from ...inference.model import load
from ...network.front_end import FrontEnd, filterbank, mel
from ...network.masking import inverse_block, mask_map
from ...network.patches import Grid
from ...network.pretraining import Pretraining
from ...network.random import clone_keys
from ...network.settings import PretrainingSettings
from .machine import readable_formats

FRAMES = 128
TONE_HZ = 1000.0
RATE = FrontEnd.sample_rate
TINY = PretrainingSettings(embed_dim=64, depth=2, num_heads=4, decoder_layers=2, decoder_width=64, clone_batch=4)


class CheckError(Exception):
    """A part of EAT does not do here what it should."""


def require(condition: bool, sentence: str) -> None:
    """Raise CheckError with this sentence unless the condition holds."""
    if not condition:
        raise CheckError(sentence)


def tone(rate: int, seconds: float = 1.0) -> np.ndarray:
    """A sine of 1 kHz at half scale, (samples,) float32."""
    return (0.5 * np.sin(2 * np.pi * TONE_HZ * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def check_front_end(device: torch.device) -> str:
    """A tone's energy lies in the mel bin that the scale says, and silence at the floor."""
    low, high = mel(FrontEnd.low_hz), mel(FrontEnd.high_hz)
    expected = (mel(TONE_HZ) - low) / (high - low) * (FrontEnd.bins + 1) - 1
    bins = filterbank(torch.from_numpy(tone(RATE)).to(device))
    loudest = int(bins.mean(dim=0).argmax())
    require(abs(loudest - expected) <= 1, f"a tone of 1 kHz is loudest in mel bin {loudest}, not {expected:.1f}")
    silence = filterbank(torch.zeros(RATE, device=device))
    floor = math.log(torch.finfo(torch.float32).eps)
    require(bool(torch.allclose(silence, torch.full_like(silence, floor))), "silence is not at the filterbank's floor")
    return f"a 1 kHz tone is loudest in mel bin {loudest}, as it should"


def check_masks(device: torch.device) -> str:
    """Exactly a fifth stays visible, visible and masked make up the whole, and a second draw is the same."""
    settings, grid = PretrainingSettings(), Grid(64, 8)
    keys = clone_keys(1, 1, torch.arange(3, device=device), 16)
    masked = mask_map(inverse_block(settings, grid, keys))
    kept, wanted = grid.patches - masked.sum(dim=-1), settings.kept(grid.patches)
    require(bool((kept == wanted).all()), f"masks keep {kept.unique().tolist()} of {grid.patches} patches")
    again = mask_map(inverse_block(settings, grid, clone_keys(1, 1, torch.arange(3, device=device), 16)))
    require(bool((masked == again).all()), "the same clip, epoch and seed gave two different masks")
    return f"each of 48 keeps {wanted} of {grid.patches} patches"


def check_network(device: torch.device) -> str:
    """One step of a tiny pre-training: finite losses, a gradient for every parameter, and the loss falls."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = Pretraining(TINY).to(device)
    waveforms = torch.from_numpy(np.stack([tone(RATE, 1.5), tone(RATE, 1.5)[::-1] ** 3])).to(device)
    features = FrontEnd(FRAMES)(waveforms)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    losses = []
    for update in range(1, 9):
        terms = network(network.draw(features, [0, 1], seed=1, epoch=1)).terms
        loss = terms["frame"] + terms["utterance"]
        optimizer.zero_grad()
        loss.backward()
        without = [name for name, weight in network.named_parameters() if weight.grad is None]
        require(not without, f"{', '.join(without[:3])} got no gradient")
        optimizer.step()
        network.update_teacher(update)
        losses.append(float(loss.detach()))
    require(all(map(math.isfinite, losses)), f"the losses are {losses}")
    require(losses[-1] < losses[0], f"the loss went from {losses[0]:.3f} to {losses[-1]:.3f} in eight updates")
    return f"eight updates of a tiny EAT, loss {losses[0]:.2f} -> {losses[-1]:.2f}"


def check_audio(device: torch.device) -> str:
    """A tone, written at 44.1 kHz in stereo, comes back as a tone at 16 kHz from every format that can be read."""
    reference = torch.from_numpy(tone(RATE))
    formats = [name for name, readable in readable_formats().items() if readable]
    with tempfile.TemporaryDirectory() as folder:
        for name in formats:
            rate = 48_000 if name == "opus" else 44_100
            path = Path(folder) / f"tone.{name}"
            kind = {"opus": {"format": "OGG", "subtype": "OPUS"}}.get(name, {})
            soundfile.write(path, np.stack([tone(rate)] * 2, axis=1), rate, **kind)
            read = read_audio(str(path))[: len(reference)]
            require(len(read) > 0.99 * len(reference), f"a second of {name} came back as {len(read)} samples")
            # edges ring, and mp3 starts a little later
            middle = slice(2000, 14_000)
            level = float(read[middle].square().mean().sqrt() / reference[middle].square().mean().sqrt())
            require(0.9 < level < 1.1, f"a tone of {name} came back {level:.2f} times as loud")
    return f"{', '.join(formats)} written, read and resampled"


def check_checkpoint(device: torch.device) -> str:
    """A checkpoint that is written and read again gives the same features."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = Pretraining(TINY)
    contents = Contents("eat", network.state_dict(), TINY, FrontEnd(FRAMES))
    features = FrontEnd(FRAMES)(torch.from_numpy(tone(RATE))[None])
    with tempfile.TemporaryDirectory() as folder:
        for name in ("eat", "published"):
            path = str(Path(folder) / f"{name}.pt")
            write_checkpoint(contents, path, name)
            require(read_checkpoint(path).format == name, f"a checkpoint in the format {name} is not known as such")
            model = load(path).to(device)
            with torch.inference_mode():
                expected = network.to(device).encoder(features.to(device)).tokens
                difference = float((model(features.to(device)) - expected).abs().max())
            require(difference == 0.0, f"features differ by {difference:g} after writing and reading ({name})")
    return "written and read in our and the published format, same features"


def check_training(device: torch.device) -> str:
    """Where fairseq is installed: it takes EAT's task, model, criterion and optimiser."""
    if importlib.util.find_spec("fairseq") is None:
        return "skipped: fairseq is not installed, and only training needs it"
    logging.disable(logging.INFO)  # fairseq talks of what its other tasks would like to have
    try:
        for module in ("tasks.pretraining", "models.pretraining"):
            importlib.import_module(f"EAT.{module}")
        from fairseq.tasks import TASK_REGISTRY
    finally:
        logging.disable(logging.NOTSET)

    require("eat_pretraining" in TASK_REGISTRY, "fairseq does not know the task eat_pretraining")
    return "fairseq knows EAT's tasks"


CHECKS: dict[str, Callable[[torch.device], str]] = {
    "audio": check_audio,
    "front end": check_front_end,
    "masks": check_masks,
    "network": check_network,
    "checkpoint": check_checkpoint,
    "training": check_training,
}
"""Name and function of each check; a function returns what it saw."""
