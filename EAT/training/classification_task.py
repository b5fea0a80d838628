"""The task ``eat_classification``: labelled clips, augmentation, and metrics over the whole validation set."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.logging import metrics
from fairseq.tasks import register_task

from ..checkpoint import Checkpoint, read_checkpoint
from ..checkpoint.classes import check_same, to_notes
from ..checkpoint.notes import KEY
from ..data.events import events_file, read_events
from ..data.labelled import ClipsWithEvents, LabelledClips
from ..data.labels import DESCRIPTORS, Label, read_class_weights, read_descriptors, read_lbl
from ..data.manifest import Manifest
from ..data.sampling import read_weights, sample_by_class, sample_without_replacement
from ..errors import CheckpointError, ConfigError
from ..inference.metrics import measure
from ..network.classification_losses import balanced_weights
from ..network.settings import STEPS, ClassifierSettings, EncoderSettings, setting
from .classification_model import adopt_sizes, read_initial, start_from
from .clip_task import ClipTask, ClipTaskConfig
from .distributed import gather_rows
from .fairseq_clips import FairseqClips
from .fairseq_support import record, reports_user_errors, restored_path
from .survival.checkpoints import newest_good

logger = logging.getLogger("EAT")

EVENTS = "events"
BALANCED = "balanced"
"""What settings of weights say in place of a file, where the training clips' labels decide."""
LABELS = ("multi", "single", EVENTS)
MOVING = ("roll", "shift", "roll_filterbank")
"""Augmentations that move sounds in time, away from their labels."""
LOGGED = {True: ("mAP", "AUC", "d_prime"), False: ("accuracy", "balanced_accuracy")}
"""Metrics in the log, by whether a clip may have several labels."""


@dataclass
class EATClassificationConfig(ClipTaskConfig):
    """Settings of the task ``eat_classification``. The data folder also holds {split}.lbl and label descriptors."""

    labels: str = setting(
        "multi",
        "'multi': a clip may have several; 'single': it has one; 'events': each time step has those of the events in "
        "{split}.events.tsv, for model.pooling=steps",
    )
    weights: str | None = setting(
        None,
        "file of sampling weights in the data folder; 'balanced': equally many clips of each class; null: every clip, "
        "every epoch",
    )
    samples_per_epoch: int = setting(
        200_000, "clips drawn an epoch where there are weights, without replacement; at most as many as there are"
    )


class WeightedClips(FairseqClips):
    """Clips in the shape that fairseq's iterators want, drawn by weight or by class where that is wanted."""

    classes: int

    weights: np.ndarray | None = None
    by_class: list[np.ndarray] | None = None
    samples_per_epoch = 0

    def ordered_indices(self) -> np.ndarray:
        """This epoch's clips in this epoch's order, from (seed, epoch) alone: the same on every device."""
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.by_class is not None:
            return sample_by_class(self.by_class, self.samples_per_epoch, rng)
        if self.weights is None:
            return super().ordered_indices()
        return sample_without_replacement(self.weights, self.samples_per_epoch, rng)

    def targets(self, clips: Any) -> np.ndarray:
        """(clips, classes) or (clips, T, classes) uint8."""
        raise NotImplementedError


class FairseqLabelledClips(LabelledClips, WeightedClips):
    """Clips with labels of the whole clip."""


class FairseqClipsWithEvents(ClipsWithEvents, WeightedClips):
    """Clips with labels of every time step."""


@register_task("eat_classification", dataclass=EATClassificationConfig)
class EATClassificationTask(ClipTask):
    """Fine-tuning, or training from scratch, of a classifier."""

    cfg: EATClassificationConfig

    @reports_user_errors
    def __init__(self, cfg: EATClassificationConfig) -> None:
        super().__init__(cfg)
        if cfg.labels not in LABELS:
            raise ConfigError(f"task.labels is {cfg.labels!r}; it must be one of {', '.join(LABELS)}.")
        self.multi_label = cfg.labels != "single"
        self.patch_size = EncoderSettings.patch_size
        moving = next((name for name in MOVING if getattr(cfg, name, 0) or cfg.augmentations.get(name)), None)
        if cfg.labels == EVENTS and moving is not None:
            raise ConfigError(
                f"the augmentation {moving} moves sounds in time, and task.labels=events says when they are heard; "
                "turn it off."
            )
        self.descriptors: list[Label] = []
        self.named: set[str] = set()
        self.forget_scores()

    def read_labels(self) -> list[Label]:
        """The classes, read once."""
        if not self.cfg.data:
            raise ConfigError("task.data is not set; give the folder that holds the manifests, task.data=FOLDER.")
        if not self.descriptors:
            self.descriptors = read_descriptors(Path(self.cfg.data) / DESCRIPTORS)
        return self.descriptors

    def build_dataset(self, split: str, manifest: Manifest) -> FairseqClips:
        """The data set of one split; only the training split is cropped at random, augmented and sampled by weight."""
        data, training = Path(self.cfg.data), split == self.cfg.train_subset
        labels = self.read_labels()
        reading = (
            manifest,
            self.front_end,
            self.cfg.crop if training else "start",
            self.cfg.front_end,
            self.cfg.seed,
            self.cfg.read_timeout,
            self.augmentations if training else None,
            self.slots(split),
        )
        dataset: FairseqLabelledClips | FairseqClipsWithEvents
        if self.cfg.labels == EVENTS:
            events = read_events(events_file(data, split), manifest, labels)
            dataset = FairseqClipsWithEvents(*reading, events=events, classes=len(labels), patch_size=self.patch_size)
        else:
            truth = read_lbl(data / f"{split}.lbl", manifest, labels)
            dataset = FairseqLabelledClips(*reading, labels=truth, classes=len(labels), multi_label=self.multi_label)
        if training and self.cfg.weights == BALANCED:
            dataset.by_class = self.clips_of_classes(dataset)
            dataset.samples_per_epoch = self.checked_samples(len(dataset))
            logger.info(f"each epoch draws {dataset.samples_per_epoch:,} clips, equally many of each class")
        elif training and self.cfg.weights is not None:
            dataset.weights = read_weights(data / self.cfg.weights, manifest)
            dataset.samples_per_epoch = self.cfg.samples_per_epoch
            self.say_how_sampled(int(np.count_nonzero(dataset.weights)))
        return dataset

    def checked_samples(self, drawable: int) -> int:
        """How many of ``drawable`` clips an epoch draws. Raises ConfigError where it would be empty."""
        wanted = self.cfg.samples_per_epoch
        if wanted < 1:
            raise ConfigError(f"task.samples_per_epoch is {wanted}; it must be at least 1.")
        return min(wanted, drawable)

    def clips_of_classes(self, dataset: Any) -> list[np.ndarray]:
        """Each class's clips. Raises ConfigError where time steps have labels, and clips have none."""
        if not isinstance(dataset, FairseqLabelledClips):
            raise ConfigError("weights by class, 'balanced', need clips with labels; task.labels=events takes a file.")
        return dataset.clips_of_classes()

    def class_weights(self, source: str | None) -> torch.Tensor | None:
        """What ``criterion.class_weights`` says, (classes,) float32.

        Raises:
            DataError: where its file, or for 'balanced' the training labels, cannot be used.
        """
        if source is None:
            return None
        if source != BALANCED:
            return torch.tensor(read_class_weights(Path(self.cfg.data) / source, self.read_labels()))
        self.load_dataset(self.cfg.train_subset)
        clips = self.clips_of_classes(self.datasets[self.cfg.train_subset])
        return balanced_weights(torch.tensor([len(members) for members in clips]))

    def say_how_sampled(self, drawable: int) -> None:
        """Log the size of an epoch of ``drawable`` clips. Raises ConfigError where it would be empty."""
        self.checked_samples(drawable)
        wanted = self.cfg.samples_per_epoch
        if wanted >= drawable:
            logger.warning(
                f"task.samples_per_epoch={wanted} is no less than the {drawable:,} clips that "
                "have a weight, so each epoch takes all of them and their weights change nothing"
            )
        else:
            logger.info(f"each epoch draws {wanted:,} of {drawable:,} clips by weight")

    @reports_user_errors
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the classifier, from ``model.model_path`` where there is one.

        That file is not opened where a checkpoint of this task is about to be loaded in its place.
        """
        initial = None
        if (cfg.pooling == STEPS) != (self.cfg.labels == EVENTS):
            raise ConfigError(
                f"task.labels={self.cfg.labels} does not go with model.pooling={cfg.pooling}: labels of time steps, "
                "task.labels=events, are for a classifier of time steps, model.pooling=steps, and for no other."
            )
        if not from_checkpoint:
            self.check_classes(cfg)
            if not self.take_sizes_from_restored(cfg):
                initial = read_initial(cfg)
                self.check_front_end(initial)
        model = super().build_model(cfg, from_checkpoint)
        settings: Any = model.settings
        self.patch_size = settings.patch_size
        if initial is not None:
            start_from(model, initial)
            self.name_differences(initial.path, initial.front_end)
        return model

    def check_front_end(self, initial: Checkpoint | None) -> None:
        """Raise CheckpointError where the model to start from has heard other spectrograms than this run's."""
        theirs = None if initial is None else initial.front_end
        if initial is not None and theirs is not None and theirs.name != self.front_end.name:
            constants = "null" if "norm_mean" not in theirs.settings() else "..., its normalisation"
            raise CheckpointError(
                f"{initial.path} was trained on task.spectrogram={theirs.name}, but this run has "
                f"{self.front_end.name}; set task.spectrogram={theirs.name} (and task.norm_mean, task.norm_std: "
                f"{constants})."
            )

    def check_classes(self, cfg: Any) -> None:
        """Take the number of classes from the label descriptors. Raises ConfigError where another is set."""
        classes = len(self.read_labels())
        if cfg.num_classes is not None and cfg.num_classes != classes:
            raise ConfigError(
                f"model.num_classes is {cfg.num_classes}, but {self.cfg.data}/{DESCRIPTORS} has {classes} labels; "
                f"set model.num_classes={classes} or give the right data folder."
            )
        record(cfg, "model", num_classes=classes)

    def take_sizes_from_restored(self, cfg: Any) -> bool:
        """Where the run resumes from a checkpoint, take the model's sizes from it; whether it does.

        Raises:
            CheckpointError: where that is no classifier with as many classes.
        """
        path = restored_path(cfg)
        if path is None:
            return False
        try:
            restored = read_checkpoint(path)
        except CheckpointError:  # damaged or missing: what the trainer will resume from in its place, if anything
            path = Path(newest_good(str(path)))
            if not path.is_file():
                return False
            restored = read_checkpoint(path)
        if not isinstance(restored.settings, ClassifierSettings) or restored.format != "eat":
            raise CheckpointError(
                f"{path} cannot be resumed by fine-tuning, it is a {restored.format} {restored.kind} checkpoint; "
                "give another folder as checkpoint.save_dir, and the file as model.model_path to start from it."
            )
        if restored.settings.num_classes != cfg.num_classes:
            raise CheckpointError(
                f"{path}, which this run would resume from, has {restored.settings.num_classes} classes, but "
                f"the data has {cfg.num_classes}; give another folder as checkpoint.save_dir."
            )
        source = f"{self.cfg.data}/{DESCRIPTORS}"
        check_same(restored.classes, self.read_labels(), cfg.num_classes, f"{path}, which is resumed,", source)
        adopt_sizes(cfg, restored)
        return True

    def get_checkpoint_dict(self) -> dict[str, dict[str, Any]]:
        """As :meth:`ClipTask.get_checkpoint_dict`, with what the classes are called."""
        return {**super().get_checkpoint_dict(), KEY: to_notes(self.read_labels())}

    def prepare_batch(self, sample: dict[str, Any]) -> dict[str, Any]:
        """As :meth:`ClipTask.prepare_batch`; mixing needs targets that are no integers."""
        return super().prepare_batch({**sample, "targets": sample["targets"].float()})

    def forget_scores(self) -> None:
        """Be ready for the validation of another split."""
        self.scored_clips: list[int] = []
        self.scores: list[torch.Tensor] = []
        self.heard: list[torch.Tensor] = []
        self.listed = 0
        self.validated = ""

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Fairseq begins to validate."""
        self.forget_scores()

    @reports_user_errors
    def valid_step(
        self, sample: dict[str, Any], model: Any, criterion: Any
    ) -> tuple[torch.Tensor, Any, dict[str, Any]]:
        """Forward for one batch, whose logits are kept until the whole split has been seen."""
        self.validated = sample["split"]
        loss, sample_size, logged = super().valid_step(sample, model, criterion)
        if sample["clips"]:
            self.scored_clips += sample["clips"]
            self.scores.append(criterion.logits.float().cpu())
            if self.cfg.labels == EVENTS:
                self.heard.append(criterion.heard.cpu())
        return loss, sample_size, {**logged, "listed": len(sample["clips"]) + len(sample["skipped"])}

    @reports_user_errors
    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the loss and, with the last batch of a split that is validated, the metrics over all of it.

        The number of clips seen so far is summed over all processes, so all of them come here with the same batch.
        """
        super().reduce_metrics(logging_outputs, criterion)
        if not self.validated:
            return
        self.listed += int(sum(log["listed"] for log in logging_outputs))
        if self.listed >= len(self.datasets[self.validated]):
            self.log_metrics(self.validated)
            self.forget_scores()

    def log_metrics(self, split: str) -> None:
        """Gather every process's logits and log the metrics of the split."""
        dataset = self.datasets[split]
        rows = (0, dataset.steps, dataset.classes) if self.cfg.labels == EVENTS else (0, dataset.classes)
        logits = torch.cat(self.scores) if self.scores else torch.zeros(rows)
        clips = gather_rows(torch.tensor(self.scored_clips, dtype=torch.int64, device=self.device)).cpu().numpy()
        scores = gather_rows(logits.to(self.device)).cpu().numpy()
        clips, first = np.unique(clips, return_index=True)
        scores, targets = scores[first], dataset.targets(clips)
        if self.cfg.labels == EVENTS:
            heard = torch.cat(self.heard) if self.heard else torch.zeros(rows[:2], dtype=torch.bool)
            kept = gather_rows(heard.byte().to(self.device)).cpu().numpy()[first].astype(bool)
            scores, targets = scores[kept], targets[kept]
        result = measure(scores, targets, multi_label=self.multi_label)
        for name in LOGGED[self.multi_label]:
            metrics.log_scalar(name, getattr(result, name), priority=5, round=None)
        if result.without_positives and split not in self.named:
            self.named.add(split)
            names = ", ".join(self.descriptors[index].display for index in result.without_positives)
            logger.info(
                f"{split}: {len(result.without_positives)} of {dataset.classes} classes have no clip and are left out "
                f"of the means: {names}"
            )

    @reports_user_errors
    def post_validate(self, model: Any, stats: dict[str, Any], agg: Any) -> None:
        """Stop where validation ended before the whole split was seen. Raises ConfigError."""
        if self.validated:
            raise ConfigError(
                f"validation saw {self.listed} of the {len(self.datasets[self.validated])} clips of {self.validated}, "
                "so its metrics are unknown; leave dataset.max_valid_steps null."
            )
