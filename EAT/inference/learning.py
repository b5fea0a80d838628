"""What a pre-trained checkpoint has learnt to predict, on anybody's clips: the figures that a run logs, a verdict."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..audio.recordings import read_audio
from ..checkpoint.completing import complete
from ..checkpoint.contents import ENCODER, POSITIONS
from ..checkpoint.formats import read_contents
from ..checkpoint.shapes import extend_positions
from ..errors import CheckpointError, DataError
from ..network.front_end import FrontEnd
from ..network.learning import effective_rank, pairs, totals
from ..network.objective import WATCHED, positions, watch
from ..network.pretraining import Pretraining
from ..network.settings import PretrainingSettings
from ..progress import progress_bar
from .readouts import summarise

NEEDS = {"prediction_std": "decoder", "frame_skill": "decoder", "utterance_skill": "teacher"}
"""Figures that say nothing without a part of the checkpoint that was trained."""


def open_pretraining(path: str) -> tuple[Pretraining, FrontEnd, tuple[str, ...]]:
    """The whole pre-training network of a checkpoint, in float32; its front end; the parts that it does not hold.

    Raises:
        CheckpointError: where it cannot be read, or is a classifier's.
    """
    contents = read_contents(path)
    if not isinstance(contents.settings, PretrainingSettings):
        raise CheckpointError(f"{path} is a fine-tuned model; give a pre-trained checkpoint.")
    contents = complete(contents)
    assert isinstance(contents.settings, PretrainingSettings)
    model = Pretraining(contents.settings)
    tensors = {name: value.float() for name, value in contents.tensors.items()}
    tensors[ENCODER + POSITIONS] = extend_positions(tensors[ENCODER + POSITIONS], contents.settings)
    model.load_state_dict(tensors)
    return model, contents.front_end or FrontEnd(1024), contents.initialised


def judge_checkpoint(path: str, sources: Sequence[str], device: torch.device, batch_size: int = 16) -> dict[str, Any]:
    """Figures of a pre-trained checkpoint on recordings, each cut or padded to the length it was trained with.

    Args:
        path: the checkpoint.
        sources: addresses of recordings; one that cannot be read is named on stderr.
        device: where to compute.
        batch_size: clips at once.

    Returns:
        ``figures`` by the names of the log, with ``teacher_rank``, the effective rank of the teacher's features
        averaged over each clip; ``clips``; ``without``: parts that the checkpoint does not hold; ``verdict``.

    Raises:
        CheckpointError: where it cannot be read, or is a classifier's.
        DataError: for fewer than two recordings that can be read.
    """
    model, front_end, without = open_pretraining(path)
    model.to(device)
    sums: dict[str, Tensor] = {}
    known: dict[str, list[Tensor]] = {}
    pooled, clips = [], 0
    with contextlib.closing(progress_bar(len(sources), "learning")) as bar, torch.no_grad():
        for start in range(0, len(sources), batch_size):
            waveforms = _read(sources[start : start + batch_size], front_end)
            bar.update(min(batch_size, len(sources) - start))
            if not waveforms:
                continue
            lengths = torch.tensor([len(wave) for wave in waveforms], device=device)
            padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True).to(device)
            frames = front_end.real_frames(lengths)
            batch = model.draw(
                front_end(padded, lengths), range(clips, clips + len(waveforms)), frames, seed=1, epoch=1
            )
            compared = model.compare(batch, model.study(batch), model.teach(batch))
            for name, value in watch(compared).items():
                sums[name] = sums.get(name, 0.0) + value.double().cpu()
            for name in ("frame", "utterance"):
                new = [value.double().cpu() for value in totals(*positions(compared, name))]
                known[name] = [a + b for a, b in zip(known[name], new, strict=True)] if name in known else new
            tokens = model.teacher.encoder(batch.filterbank).tokens.float()
            pooled.append(summarise(tokens, model.encoder.grid(16).patches, compared.real).read("mean").cpu())
            clips += len(waveforms)
    if clips < 2:
        raise DataError(f"{clips} of {len(sources)} recordings could be read; give two at least, better a hundred.")
    figures: dict[str, float] = {}
    for name, parts in known.items():
        sums[name][:8] = pairs(parts)  # of all clips with each other, not only within batches
    for name, total in sums.items():
        values = WATCHED[name].values(total)
        figures |= {key: float(value) for key, value in values.items() if NEEDS.get(key) not in without}
    figures["teacher_rank"] = effective_rank(torch.cat(pooled))
    return {"figures": figures, "clips": clips, "without": list(without), "verdict": verdict(figures)}


def _read(sources: Sequence[str], front_end: FrontEnd) -> list[Tensor]:
    waveforms = []
    for source in sources:
        try:
            waveforms.append(read_audio(source, front_end.samples, **front_end.reading()))
        except DataError as error:
            print(error, file=sys.stderr)
    return waveforms


def verdict(figures: dict[str, float]) -> str:
    """Sentences on what the figures say; none of them replaces a probe."""
    said = []
    position, skill = figures["frame_position_fraction"], figures.get("frame_skill")
    if position > 0.8:
        said.append(
            f"{position:.0%} of the targets' variance is the position alone: little is left to learn from sound."
        )
    if skill is None:
        said.append("The checkpoint holds no decoder, so that nothing is known of its predictions.")
    elif skill < 0.05:
        said.append("Predictions know next to nothing of a patch but its position: this is not learning, or not yet.")
    else:
        said.append(f"Predictions explain {skill:.0%} of what the position leaves of the targets.")
    if figures["utterance_clip_fraction"] < 0.01:
        said.append("The utterance target is nearly one constant, so that CLS has little to learn.")
    said.append("Whether the features are of use, a probe on labelled clips tells: python -m EAT.probe.")
    return " ".join(said)
