"""What can be said of a run before fairseq begins it: mistakes, each in a sentence, and how long it takes on a CPU."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
import torch
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.utils import import_user_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..checkpoint.formats import read_contents
from ..data.labels import DESCRIPTORS, read_descriptors
from ..data.manifest import Manifest
from ..errors import ConfigError
from ..network.classifier import Classifier
from ..network.pretraining import Pretraining
from ..network.settings import SIZES, ClassifierSettings, FineTuningSettings, PretrainingSettings
from ..progress import duration
from ..recipes import PACKAGE
from .device import require_gpu

KEY = re.compile(r"(?P<sign>\+\+|\+|~)?(?P<key>[\w./@:-]+)(=|$)")
REGISTERING = (
    "adamw", "schedules", "pretraining_task", "pretraining_model", "pretraining_criterion", "classification_task",
    "classification_model", "classification_criterion",
)  # fmt: skip
"""Modules that make themselves known to fairseq."""
LONG = 3600.0
"""Seconds from which a run on a CPU is worth a sentence."""


def compose(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    """A recipe with its overrides, as fairseq-hydra-train reads them.

    Raises:
        ConfigError: for a recipe, a key or a value that does not exist, with what comes closest.
    """
    if not folder.is_dir():
        raise ConfigError(f"--config-dir {folder} is no folder.")
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in names:
        raise ConfigError(f"{folder} has no recipe {name}{_close(name, names)}; it has {', '.join(names) or 'none'}.")
    hydra_init(name)
    try:
        with hydra.initialize_config_dir(str(folder.resolve()), version_base=None):
            known = set(_keys(hydra.compose(name, return_hydra_config=True)))
            for override in overrides:
                found = KEY.match(override)
                if found is None or ("=" not in override and found["sign"] != "~"):
                    raise ConfigError(f"{override!r} is no setting; settings are key=value.")
                if found["sign"] in (None, "~") and found["key"] not in known and "/" not in found["key"]:
                    raise ConfigError(
                        f"{name} has no setting {found['key']}{_close(found['key'], sorted(known))}; "
                        f"+{found['key']}=VALUE sets what a task or model knows and the recipe does not name."
                    )
            return hydra.compose(name, list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{name} cannot be read with these settings: {_said(error)}.") from None


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """All keys, those of sections too."""
    for key in map(str, config):
        yield f"{prefix}{key}"
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _keys(node, f"{prefix}{key}.")


def _close(word: str, words: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {found[0]}?)" if found else ""


def _said(error: Exception) -> str:
    """The first line of what Hydra or OmegaConf says, which names no key by itself."""
    key = getattr(error, "full_key", None)
    return str(error).strip().splitlines()[0].rstrip(".") + (f" ({key})" if key else "")


def check(cfg: DictConfig) -> Manifest:
    """Find what would end a run before its first update.

    Returns:
        The training clips.

    Raises:
        ConfigError: for what is not set, processes that find no device, or settings that a task or model does not know.
        DataError: where the manifest or the label descriptors cannot be read.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if "task.data" in missing:
        raise ConfigError("task.data is not set; give the folder that holds the manifests, task.data=FOLDER.")
    if missing:
        raise ConfigError(f"{missing[0]} is not set; give it a value, {missing[0]}=VALUE.")
    if Path(cfg.common.user_dir) == PACKAGE:
        for module in REGISTERING:  # fairseq does not look into a package that is imported already
            importlib.import_module(f"{__package__}.{module}")
    else:
        try:
            import_user_module(cfg.common)
        except (ImportError, OSError) as error:
            raise ConfigError(f"common.user_dir={cfg.common.user_dir} cannot be imported: {error}.") from None
    try:
        add_defaults(cfg)
    except OmegaConfBaseException as error:
        raise ConfigError(f"these settings cannot be used: {_said(error)}.") from None
    _check_devices(cfg)
    data = Path(cfg.task.data)
    if cfg.task._name == "eat_classification":
        read_descriptors(data / DESCRIPTORS)
    splits = [] if cfg.dataset.disable_validation else cfg.dataset.valid_subset.split(",")
    for split in splits:
        Manifest(data / f"{split}.tsv", True)
    return Manifest(data / f"{cfg.dataset.train_subset}.tsv", True)


def _check_devices(cfg: DictConfig) -> None:
    """Raise ConfigError where fairseq would end in an assertion of its own: several processes, and too few GPUs."""
    given, there = cfg.distributed_training, torch.cuda.device_count()
    launched = all(name in os.environ for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK"))
    wanted = int(os.environ["WORLD_SIZE"]) if launched else given.distributed_world_size
    by_others = given.distributed_no_spawn or given.distributed_init_method or given.distributed_port > 0
    if by_others or launched or "SLURM_JOB_NODELIST" in os.environ:
        if there == 0 and (launched or wanted > 1):
            _check_ranks_on_cpus(cfg)
    elif wanted > max(there, 1):
        on_the_cpu = "" if there or cfg.common.cpu else " and common.cpu=true"
        raise ConfigError(
            f"distributed_training.distributed_world_size is {wanted}, but this machine has {there or 'no'} "
            f"GPU{'' if there == 1 else 's'}; set distributed_training.distributed_world_size={max(there, 1)}, with "
            f"optimization.update_freq=[{-(-wanted // max(there, 1))}] for as many clips an update{on_the_cpu}."
        )


def trains_alone() -> bool:
    """Whether fairseq will start no process for each of several GPUs."""
    return torch.cuda.device_count() < 2


def _check_ranks_on_cpus(cfg: DictConfig) -> None:
    """Raise ConfigError unless processes that others start can be trained on CPUs."""
    if not cfg.common.cpu:
        require_gpu()
    given = cfg.distributed_training
    wrong = {
        "distributed_no_spawn=true": not given.distributed_no_spawn,
        "distributed_init_method=tcp://HOST:PORT": not given.distributed_init_method,
        "distributed_backend=gloo": given.distributed_backend == "nccl",
        "ddp_backend=legacy_ddp": given.ddp_backend in ("c10d", "pytorch_ddp"),
    }
    if any(wrong.values()):
        settings = " ".join(f"distributed_training.{setting}" for setting, missing in wrong.items() if missing)
        raise ConfigError(
            f"without GPUs fairseq neither starts processes nor takes those of torchrun; set {settings} and start one "
            "for each rank by hand (README, Many GPUs, many machines)."
        )


def seconds_a_clip(cfg: DictConfig) -> float | None:
    """How long one clip takes forward and backward on the CPU, measured; None for models of others."""
    torch.manual_seed(0)
    frames, settings = cfg.task.target_length, cfg.model
    model: Pretraining | Classifier
    if settings._name == "eat_pretraining":
        model = Pretraining(PretrainingSettings.take(settings))
    elif settings._name == "eat_classification":
        wanted = dict(vars(FineTuningSettings.take(settings)))
        if settings.model_path is not None:
            stored = read_contents(settings.model_path).settings
            wanted.update((size, getattr(stored, size)) for size in SIZES)
        model = Classifier(ClassifierSettings.take({**wanted, "num_classes": wanted["num_classes"] or 1}))
    else:
        return None
    dtype = torch.bfloat16 if cfg.common.bf16 else torch.float32
    model.to(dtype).train()
    filterbank = torch.randn(1, 1, frames, model.settings.mel_bins, dtype=dtype)
    took = 0.0
    for _ in range(2):  # the first finds no memory and no kernels
        begun = time.perf_counter()
        if isinstance(model, Pretraining):
            terms = model(model.draw(filterbank, [0], seed=1, epoch=1)).terms
            sum(terms.values(), torch.zeros(())).backward()
        else:
            model(filterbank).float().sum().backward()
        took = time.perf_counter() - begun
    return took


def forecast(cfg: DictConfig, clips: int) -> str | None:
    """How long a run takes that has no GPU, in a sentence; None where it has one, or is over within the hour.

    Args:
        cfg: the run's settings, complete.
        clips: of an epoch.
    """
    if torch.cuda.is_available() and not cfg.common.cpu:
        return None
    seconds = seconds_a_clip(cfg)
    if seconds is None:
        return None
    an_update = seconds * cfg.dataset.batch_size * cfg.optimization.update_freq[0]
    an_epoch, updates = seconds * clips / cfg.distributed_training.distributed_world_size, cfg.optimization.max_update
    if max(an_epoch, an_update * updates) < LONG:
        return None
    total = f", its {updates:,} updates {_long(an_update * updates)}" if updates else ""
    return (
        f"without a GPU: one clip takes {seconds:.2g} s here, an update of {cfg.dataset.batch_size} clips a process "
        f"{duration(an_update)}, an epoch of {clips:,} clips {_long(an_epoch)}{total}."
    )


def _long(seconds: float) -> str:
    return f"{seconds / 86400 / 365:.1f} years" if seconds > 2 * 365 * 86400 else duration(seconds)
