"""What tasks over clips of audio share: manifests, batches with filterbanks, skipped clips, a few log lines."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.dynamic_loss_scaler import DynamicLossScaler
from fairseq.tasks import FairseqTask
from omegaconf import II

from ..data.augmentation import Augmentations, AugmentationSettings
from ..data.clips import batch_filterbank
from ..data.coverage import coverage
from ..data.manifest import Manifest
from ..data.normalization import read_normalization
from ..data.skipping import SkipLog
from ..errors import ConfigError
from ..network.front_end import FRONT_ENDS, FrontEnd
from ..network.settings import choose, setting
from ..progress import Pace
from ..system import slow_on_cpu
from . import console
from .clip_batches import ClipBatches
from .device import DeviceSettings, prepare_device
from .fairseq_clips import FairseqClips
from .fairseq_support import record, reports_user_errors
from .half_precision import FP16Optimizer
from .prefetching import sender
from .survival.numbers import NonfiniteUpdates
from .survival.patience import patience
from .survival.stopping import stop

logger = logging.getLogger("EAT")

SCALER_PLACE = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")
"""Where float16's loss scaler is in the run: when it scales up next depends on these."""


@dataclass
class ClipTaskConfig(AugmentationSettings, DeviceSettings, FairseqDataclass):
    """What every task over clips of audio is told."""

    data: str = setting("", "folder of the manifests {split}.tsv")
    target_length: int = setting(1024, "filterbank frames of 10 ms that clips are padded or cut to; a multiple of 16")
    norm_mean: float | None = field(
        default=None,
        metadata={
            "help": "mean of the training set's filterbank; null: what normalization.json in the data folder says"
        },
    )
    norm_std: float | None = setting(None, "its standard deviation")
    spectrogram: str = setting("log_mel", "which front end turns waveforms into what the encoder eats")
    fit_waveform: bool = setting(
        False, "of a front end in decibels: pad and cut waveforms before it, not what it gives; silence then counts"
    )
    crop: str = setting("start", "what is kept of longer clips: 'start' or 'random'")
    front_end: str = field(
        default="device",
        metadata={"help": "where filterbanks are computed: batched on the training 'device', or by the 'workers'"},
    )
    max_skipped: float = setting(0.01, "stop when more than this fraction of the clips could not be read")
    read_timeout: float = setting(60.0, "seconds after which a clip that is still being read is given up; 0: never")
    allow_outside_root: bool = setting(False, "whether clips may lie outside the manifest's root folder, as by links")
    process_timeout: float = setting(
        1800.0, "seconds that a process waits for the others, or for a batch, before the run ends; 0: ever"
    )
    max_nonfinite: int = setting(10, "stop when so many updates in a row had gradients that are not finite")
    save_minutes: float = setting(
        30.0, "save when so many minutes have passed since the last checkpoint; 0: by updates and epochs alone"
    )
    rebuild_batches: bool = setting(True, "put clips into new batches every epoch")
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    batch_size: int | None = II("dataset.batch_size")
    max_update: int = II("optimization.max_update")
    update_freq: list[int] = II("optimization.update_freq")
    log_format: str | None = II("common.log_format")
    cpu: bool = II("common.cpu")
    bf16: bool = II("common.bf16")
    fp16: bool = II("common.fp16")


def build_front_end(cfg: ClipTaskConfig) -> FrontEnd:
    """The front end that a task's settings describe; constants that are null are the data folder's, and are recorded.

    Raises:
        ConfigError: for constants of which one is missing, or which the front end does not have.
    """
    kind = choose(FRONT_ENDS, cfg.spectrogram, "task.spectrogram")
    mean, std = cfg.norm_mean, cfg.norm_std
    if "norm_mean" not in kind.settings():
        if mean is not None or std is not None:
            raise ConfigError(
                f"task.spectrogram={cfg.spectrogram} normalises each clip by itself; set task.norm_mean=null "
                "task.norm_std=null."
            )
        return kind(cfg.target_length, **({"fit_waveform": True} if cfg.fit_waveform else {}))
    if cfg.fit_waveform:
        raise ConfigError(
            f"task.fit_waveform is for front ends in decibels, not for {cfg.spectrogram}; set it to false."
        )
    if mean is None and std is None:
        mean, std = read_normalization(cfg.data)
        record(cfg, "task", norm_mean=mean, norm_std=std)
    if mean is None or std is None:
        raise ConfigError("only one of task.norm_mean and task.norm_std is set; set both, or neither.")
    return kind(cfg.target_length, mean, std)


class ClipTask(FairseqTask):
    """Loads manifests, and turns batches of clips into filterbanks on the device."""

    cfg: ClipTaskConfig
    bad: torch.Tensor | None = None
    """Whether the newest update must change nothing, 1 or 0, where that is known to the device alone."""

    @classmethod
    def setup_task(cls, cfg: ClipTaskConfig, **kwargs: Any) -> ClipTask:
        """Set up the task; that fairseq does so for a checkpoint (``from_checkpoint``) makes no difference."""
        return cls(cfg)

    @reports_user_errors
    def __init__(self, cfg: ClipTaskConfig) -> None:
        super().__init__(cfg)
        self.front_end = build_front_end(cfg)
        augmentation = AugmentationSettings.take(cfg)
        self.augmentations = None if augmentation == AugmentationSettings() else Augmentations(augmentation)
        self.skip_logs: dict[str, SkipLog] = {}
        self.nonfinite = NonfiniteUpdates(cfg.max_nonfinite)
        self.pace = Pace()
        console.install(cfg.max_update)
        self.told_to_stop = False
        self.forget_save()
        self.scaler: Any = None
        self.restored_scaler: dict[str, Any] = {}
        if not 0.0 <= cfg.max_skipped <= 1.0:
            raise ConfigError(f"task.max_skipped is {cfg.max_skipped}; it is a fraction and must lie in [0, 1].")

        if not 0.0 <= cfg.save_minutes < float("inf"):
            raise ConfigError(f"task.save_minutes is {cfg.save_minutes}; it is a number of minutes, 0 for never.")

    def forget_save(self) -> None:
        """Count ``task.save_minutes`` from now on."""
        self.saved_at, self.save_due = time.monotonic(), False

    @reports_user_errors
    def load_dataset(self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any) -> None:
        """Load ``{data}/{split}.tsv``. Called again on resuming; a split that is loaded already stays."""
        if split in self.datasets:
            return
        if not self.cfg.data:
            raise ConfigError("task.data is not set; give the folder that holds the manifests, task.data=FOLDER.")
        self.datasets[split] = self.build_dataset(split, self.read_manifest(split))
        self.datasets[split].split = split
        logger.info(f"{split}: {len(self.datasets[split]):,} clips listed in {self.cfg.data}/{split}.tsv")
        if split == self.cfg.train_subset:
            self.say_what_is_cut(self.datasets[split])

    def say_what_is_cut(self, dataset: FairseqClips) -> None:
        """Log how much of clips that are longer than ``target_length`` is never heard."""
        seconds = self.cfg.target_length * self.front_end.hop / self.front_end.sample_rate
        found = coverage(dataset.manifest, seconds, self.cfg.read_timeout)
        if not found.longer:
            return
        many = f"{found.longer} of {found.clips} clips looked at last longer than the {seconds:.2f} s of "
        many += f"task.target_length={self.cfg.target_length}"
        if dataset.crop == "start":
            logger.warning(
                f"{many}; with task.crop=start {found.cut:.0%} of what is recorded is never heard. task.crop=random "
                "hears another part in each epoch, a longer task.target_length more of it at once"
            )
        else:
            logger.info(
                f"{many}; each epoch hears another part of them, and of all that is recorded {1 - found.cut:.0%}"
            )

    def name_differences(self, path: str, trained: FrontEnd | None) -> None:
        """Log where this run's front end is not that of the checkpoint it starts from."""
        if trained is None:
            return
        one, other = (
            {"spectrogram": front_end.name, **front_end.constants()} for front_end in (trained, self.front_end)
        )
        different = [key for key in one if one[key] != other.get(key)]
        if different:
            told = [", ".join(f"task.{key}={side.get(key)}" for key in different) for side in (one, other)]
            logger.warning(f"{path} was trained with {told[0]}; this run has {told[1]}")

    def read_manifest(self, split: str) -> Manifest:
        """The manifest of one split."""
        return Manifest(f"{self.cfg.data}/{split}.tsv", self.cfg.allow_outside_root or None)

    def build_dataset(self, split: str, manifest: Manifest) -> FairseqClips:
        """The data set of one split; only the training split is augmented."""
        return FairseqClips(
            manifest,
            self.front_end,
            self.cfg.crop,
            self.cfg.front_end,
            self.cfg.seed,
            self.cfg.read_timeout,
            self.augmentations if split == self.cfg.train_subset else None,
            self.slots(split),
        )

    def slots(self, split: str) -> int:
        """Rows of the batches of a split: in training always the same number, else one at least."""
        return (self.cfg.batch_size or 1) if split == self.cfg.train_subset else 1

    @reports_user_errors
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the model; where it is to be trained, make its device ready and say how large it is."""
        device = "" if from_checkpoint else f"on {prepare_device(DeviceSettings.take(self.cfg), self.cfg.cpu)}, "
        model = super().build_model(cfg, from_checkpoint)
        model.encoder.grid(self.cfg.target_length, "task.target_length")
        if model.settings.mel_bins != self.front_end.bins:
            raise ConfigError(
                f"task.spectrogram={self.front_end.name} has {self.front_end.bins} bins, but model.mel_bins is "
                f"{model.settings.mel_bins}; set model.mel_bins={self.front_end.bins}."
            )
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        logger.info(f"model {cfg._name}: {trained / 1e6:.1f} M trained parameters, {device}{self.precision()}")
        if self.cfg.cpu and (slow := slow_on_cpu(self.precision().split()[0])) is not None:
            logger.warning(f"{slow}: common.bf16=false common.fp16=false")
        return model

    def precision(self) -> str:
        """What the student computes in, in words."""
        if self.cfg.bf16 or self.cfg.fp16:
            return f"{'bfloat16' if self.cfg.bf16 else 'float16'} with float32 averages and optimiser"
        return "float32"

    @reports_user_errors
    def get_batch_iterator(self, dataset: FairseqClips, *args: Any, **kwargs: Any) -> ClipBatches:
        """The iterator over batches; in training there must be one for every device."""
        devices, batch_size = kwargs.get("num_shards", 1), kwargs.get("max_sentences") or 1
        training = dataset is self.datasets.get(self.cfg.train_subset)
        if training and len(dataset) <= (devices - 1) * batch_size:
            raise ConfigError(
                f"{dataset.manifest.path} lists {len(dataset)} clips, too few for each of {devices} devices to get a "
                f"batch when dataset.batch_size is {batch_size}; lower the batch size or use fewer devices."
            )
        if kwargs.get("grouped_shuffling"):
            raise ConfigError("dataset.grouped_shuffling is for clips of many lengths; all are of one, leave it false.")
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if not isinstance(iterator, ClipBatches):
            send = sender(self.cfg.cpu)
            iterator = ClipBatches(iterator, self.cfg.update_freq, self.cfg.process_timeout, send)
            if dataset in self.dataset_to_epoch_iter:  # fairseq keeps it for the epochs that follow
                self.dataset_to_epoch_iter[dataset] = iterator
        return iterator

    def prepare_batch(self, sample: dict[str, Any]) -> dict[str, Any]:
        """A batch with its filterbank on the device, augmented where it is to be."""
        batch = {**sample, "filterbank": batch_filterbank(sample, self.front_end)}
        if self.augmentations is None or "drawn" not in batch:
            return batch
        return self.augmentations.apply({**batch, "filterbank": batch["filterbank"].float()})

    def watch_skipped(self, split: str, sample: dict[str, Any]) -> None:
        """Log clips that could not be read, each once. Raises TrainingError when they pass ``max_skipped``."""
        if sample["skipped"]:
            dataset = self.datasets[split]
            log = self.skip_logs.setdefault(split, SkipLog(len(dataset), self.cfg.max_skipped))
            log.record(sample["skipped"])

    def judge(
        self, sample: dict[str, Any], model: Any, criterion: Any, autocast: bool = False
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """The criterion's loss, sample size and log of a batch."""
        self.watch_skipped(sample["split"], sample)
        self.device = next(model.parameters()).device
        batch = self.prepare_batch(sample)
        with torch.autocast(self.device.type, enabled=autocast):
            return criterion(model, batch)

    @reports_user_errors
    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """Forward and backward for one batch."""
        self.follow_scaler(optimizer)
        model.train()
        model.set_num_updates(update_num)
        autocast = isinstance(optimizer, AMPOptimizer)
        half = isinstance(optimizer, FP16Optimizer)
        with optimizer.local_gradients(model) if half else contextlib.nullcontext():
            loss, sample_size, logging_output = self.judge(sample, model, criterion, autocast)
            if ignore_grad:
                loss = loss * 0
            # A loss that is not finite must not count even where its gradients are: 1, or NaN.
            optimizer.backward(loss * (1 + (loss - loss).detach()))
        waited = time.monotonic() - self.saved_at
        # One process's word or clock is for all of them: they save, and stop, after the same update.
        asked = {"told_to_stop": bool(stop), "save_due": 0 < self.cfg.save_minutes * 60 < waited}
        return loss, sample_size, {**logging_output, **{name: float(value) for name, value in asked.items()}}

    def optimizer_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """Update the parameters, unless the gradients are not finite."""
        if not self.nonfinite.skip:
            optimizer.step()
            self.after_step(optimizer, model, update_num)
        elif isinstance(optimizer, AMPOptimizer):
            optimizer.step()  # lowers its loss scale, and leaves the parameters as they are by itself
        sentence = self.pace.after_update(update_num + 1, self.cfg.max_update)
        if sentence:
            logger.info(sentence)

    def skip_where(self, bad: torch.Tensor, optimizer: Any) -> None:
        """Have the update that is being made change nothing where ``bad``, a number on the device, is 1 and not 0."""
        optimizer.optimizer.found_inf = bad
        self.bad = bad

    def after_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """What follows an update of the parameters."""

    def follow_scaler(self, optimizer: Any) -> None:
        """Give float16's loss scaler back its place in the run; fairseq's checkpoints have no more than its scale."""
        self.scaler = getattr(optimizer, "scaler", None)
        if self.restored_scaler and isinstance(self.scaler, DynamicLossScaler):
            vars(self.scaler).update(self.restored_scaler)
        self.restored_scaler = {}

    def get_checkpoint_dict(self) -> dict[str, dict[str, Any]]:
        """What fairseq keeps for this task in checkpoints, under its name."""
        scaler = vars(self.scaler) if isinstance(self.scaler, DynamicLossScaler) else {}
        place = {name: value for name, value in scaler.items() if name in SCALER_PLACE}
        kept = {"nonfinite": self.nonfinite.state_dict(), "scaler": place, "patience": patience.state_dict()}
        return {type(self).__name__: kept}

    def set_checkpoint_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_checkpoint_dict` gave."""
        self.nonfinite.load_state_dict(state["nonfinite"])
        self.restored_scaler = dict(state["scaler"])
        patience.load_state_dict(state.get("patience", {}))

    @reports_user_errors
    def valid_step(
        self, sample: dict[str, Any], model: Any, criterion: Any
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """Forward for one batch."""
        model.eval()
        with torch.no_grad():
            return self.judge(sample, model, criterion)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log clips per second beside what the criterion logs."""
        clips = sum(log.get("nsentences", 0) for log in logging_outputs)
        updates = sum(log.get("updates", 0) for log in logging_outputs) or 1
        metrics.log_speed("clips_per_s", clips, priority=90, round=2)
        metrics.log_scalar("bsz", clips / updates, updates, priority=190, round=1)
        metrics.log_scalar("nonfinite", self.nonfinite.total, weight=0, priority=800)
        if self.nonfinite.skip:
            self.nonfinite.skip = False
            metrics.log_scalar("loss", float("nan"), weight=0)  # shown only where nothing else was logged
            return
        # In full for machines, short for people.
        criterion.reduce_metrics(logging_outputs, decimals=None if self.cfg.log_format == "json" else 5)

    def max_positions(self) -> None:
        """Clips are cut to ``target_length``; none is too long."""
        return None
