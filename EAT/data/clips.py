"""Clips of a manifest as a data set of batches: read, cropped, and turned into filterbanks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..audio.recordings import as_waveform, decode
from ..audio.timeout import within
from ..errors import ConfigError, DataError
from ..network.front_end import FrontEnd
from ..network.masking import Drawing
from .augmentation import Augmentations, batch_rng, partners
from .manifest import Manifest
from .workers import WorkerWatch

CROPS = ("start", "random")
FRONT_ENDS = ("device", "workers")
CROP_STREAM, WAVEFORM_STREAM, FILTERBANK_STREAM = 0, 1, 2
"""Streams of a clip's random numbers."""


class ClipDataset(Dataset):
    """Reads clips; a clip that cannot be read becomes an entry in its batch's ``skipped``, never an exception.

    Args:
        manifest: which clips.
        front_end: length and normalisation.
        crop: what to keep of a clip longer than that: its ``start``, or a ``random`` part that follows from
            (seed, epoch, clip).
        where: where filterbanks are computed: by the ``workers``, or by whoever trains, batched on the ``device``,
            which leaves decoding and resampling alone to the workers.
        seed: of the run.
        read_timeout: seconds after which a clip that is still being read is given up as unreadable; 0: never.
        augmentations: change waveforms, and draw what changes filterbanks; None leaves clips as they are.
        slots: batches are filled up to so many clips, see :meth:`collate`; 0 leaves them as they are.
    """

    drawing: Drawing | None = None
    """Draws the masks of pre-training along with a batch; None leaves that to whoever trains."""

    def __init__(
        self,
        manifest: Manifest,
        front_end: FrontEnd,
        crop: str = "start",
        where: str = "device",
        seed: int = 1,
        read_timeout: float = 60.0,
        augmentations: Augmentations | None = None,
        slots: int = 0,
    ) -> None:
        if crop not in CROPS:
            raise ConfigError(f"task.crop is {crop!r}; it must be one of {', '.join(CROPS)}.")
        if where not in FRONT_ENDS:
            raise ConfigError(f"task.front_end is {where!r}; it must be one of {', '.join(FRONT_ENDS)}.")
        self.manifest = manifest
        self.front_end = front_end
        self.crop = crop
        self.where = where
        self.seed = seed
        self.augmentations = augmentations
        self.slots = slots
        # In shared memory, so that worker processes that live from epoch to epoch see it change.
        self._epoch = torch.ones((), dtype=torch.int64).share_memory_()
        self._watch = WorkerWatch()
        if read_timeout < 0:
            raise ConfigError(f"task.read_timeout is {read_timeout}; it is a number of seconds, 0 for no limit.")
        self.read_timeout = read_timeout

    @property
    def epoch(self) -> int:
        """The epoch whose random choices are made now."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make the random choices of ``epoch`` from now on, in worker processes too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.manifest)

    def rng(self, index: int, stream: int) -> np.random.Generator:
        """Random numbers that follow from (seed, epoch, clip, stream) alone."""
        return np.random.default_rng((self.seed, self.epoch, index, stream))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``{index, waveform (samples,), start}`` of one clip, or ``{index, error}``.

        ``start`` is where in the recording, in seconds, the waveform begins; below 0 where silence comes before it.

        Where clips are augmented, ``drawn`` holds the clip's random numbers.
        """
        index = int(index)
        with self._watch.on(index):
            item = self._read(index)
        if self.augmentations is not None and "error" not in item:
            shape = self.front_end.target_length, self.front_end.bins
            item["waveform"] = self.augmentations.waveform(item["waveform"], self.rng(index, WAVEFORM_STREAM))
            item["drawn"] = self.augmentations.draw(self.rng(index, FILTERBANK_STREAM), *shape)
        return item

    def _read(self, index: int) -> dict[str, Any]:
        position, wanted = 0.0, self.front_end.samples
        if self.crop == "random":
            position = self.rng(index, CROP_STREAM).random()
            wanted = self.front_end.samples_for(self.front_end.target_length)
        try:
            # Finding the file may hang as well as reading it.
            excerpt = within(
                self.read_timeout,
                self.manifest.name(index),
                lambda: decode(self.manifest.source(index), wanted, position, **self.front_end.reading()),
            )
            waveform, start = as_waveform(excerpt), excerpt.first
            if self.crop == "random" and getattr(self.front_end, "fit_waveform", False):
                waveform, before = place(waveform, self.front_end.samples_for(self.front_end.target_length), position)
                start -= before
        except DataError as error:
            return {"index": index, "error": str(error)}
        except MemoryError:
            return {"index": index, "error": f"{self.manifest.name(index)} needs more memory to decode than there is."}
        return {"index": index, "waveform": waveform, "start": start / self.front_end.sample_rate}

    def _silence(self) -> dict[str, Any]:
        """What fills the rows of a batch without a readable clip."""
        item: dict[str, Any] = {
            "index": 0,
            "waveform": torch.zeros(self.front_end.samples_for(self.front_end.target_length)),
        }
        if self.augmentations is not None:
            shape = self.front_end.target_length, self.front_end.bins
            item["drawn"] = self.augmentations.draw(self.rng(0, FILTERBANK_STREAM), *shape)
        return item

    def explain_crash(self, error: str) -> str:
        """What a DataLoader worker was on when it died, in one sentence; ``error`` is what the DataLoader says."""
        advice = f"if that file is damaged remove it from {self.manifest.path}"
        return self._watch.explain_crash(error, self.manifest.source, advice)

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join clips into a batch.

        With ``slots``, a clip that could not be read, or that an epoch's last batch lacks, leaves a hole instead of a
        smaller batch: the last rows repeat the batch's clips in turn, or are silent where there is none, have 0 in
        ``frames`` and are not among ``clips``. Waveforms then are as long as the front end takes them. So all batches
        have one shape.

        Returns:
            ``clips``: the numbers of those read; ``epoch``; ``skipped``: a (number, reason) for each clip that could
            not be read; and, unless no row is left, ``numbers`` (B,), each row's clip; ``lengths`` (B,) samples and
            ``frames`` (B,) with audio, 0 in holes; and either ``filterbank`` (B, 1, target_length, 128), or
            ``waveforms`` (B, samples) for :func:`batch_filterbank`. Where clips are augmented, ``drawn`` and
            ``partners`` are what :meth:`Augmentations.apply` goes by; where masks are drawn, ``keys``, ``visible`` and
            ``masked`` are those of :class:`EAT.network.masking.Masks`.
        """
        skipped = [(item["index"], item["error"]) for item in items if "error" in item]
        items = [item for item in items if "error" not in item]
        clips = [item["index"] for item in items]
        batch: dict[str, Any] = {"clips": clips, "epoch": self.epoch, "skipped": skipped}
        rows = [(items or [self._silence()])[row % max(1, len(items))] for row in range(max(len(items), self.slots))]
        if self.augmentations is not None:
            rng = batch_rng(self.seed, self.epoch, clips)
            batch["drawn"] = self.augmentations.collate([item["drawn"] for item in rows], rng)
            batch["partners"] = partners(len(items), len(rows))
        if rows:
            lengths = torch.tensor([len(item["waveform"]) for item in rows])
            longest = int(lengths.max())
            waveforms = torch.zeros(len(rows), (self.front_end.samples or longest) if self.slots else longest)
            for row, item in zip(waveforms, rows, strict=True):
                row[: len(item["waveform"])] = item["waveform"][: waveforms.shape[1]]
            batch["lengths"] = lengths
            batch["frames"] = self.front_end.real_frames(lengths)
            batch["frames"][len(items) :] = 0
            batch["numbers"] = torch.tensor([item["index"] for item in rows])
            if self.drawing is not None:
                keys, masks = self.drawing(batch["numbers"], seed=self.seed, epoch=self.epoch)
                batch |= {"keys": keys, **masks._asdict()}
            if self.where == "workers":
                batch["filterbank"] = self.front_end(waveforms, lengths)
            else:
                # As integers, because trainers convert every float tensor of a batch to half precision on its way to
                # the device, and a waveform must not be.
                batch["waveforms"] = waveforms.view(torch.int32)
        return batch


def place(waveform: Tensor, length: int, position: float) -> tuple[Tensor, int]:
    """A waveform that is shorter than ``length`` in silence of that length, and how many samples come before it.

    ``position``: 0 is the silence's start, 1 its end.
    """
    missing = max(0, length - len(waveform))
    before = int(position * (missing + 1)) if position < 1.0 else missing
    return torch.nn.functional.pad(waveform, (before, missing - before)), before


def batch_filterbank(batch: dict[str, Any], front_end: FrontEnd) -> Tensor:
    """The filterbank of a batch from :meth:`ClipDataset.collate`, on its device: (B, 1, target_length, 128)."""
    if "filterbank" in batch:
        return batch["filterbank"]
    with torch.no_grad():
        return front_end(batch["waveforms"].view(torch.float32), batch["lengths"])
