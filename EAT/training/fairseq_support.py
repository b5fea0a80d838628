"""What the fairseq layer shares: errors as one sentence, a short start-up log, and quiet third parties."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig
from omegaconf.errors import ConfigKeyError

from ..errors import ConfigError, EATError

logger = logging.getLogger("EAT")

Function = TypeVar("Function", bound=Callable[..., Any])


def reports_user_errors(function: Function) -> Function:
    """Turn an EATError raised by ``function`` into one logged sentence and exit status 1, without a traceback.

    SystemExit also keeps fairseq's trainer from writing a ``crash.pt`` for what is no crash.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except EATError as error:
            logger.error(str(error))
            raise SystemExit(1) from None

    # fairseq asks a method for its arguments before it passes some, and does not look behind a wrapper.
    wrapper.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


class _StartUpFilter(logging.Filter):
    """Drops the dumps of configuration and model, and fairseq's own bookkeeping, that bury what matters at start-up."""

    DROPPED = (
        "task: ",
        "model: ",
        "criterion: ",
        "num. shared model params",
        "num. expert model params",
        "training on ",
        "max tokens per device",
        "Preparing to load checkpoint",
        "No existing checkpoint found",
        "loading train data for epoch",
        "can_reuse_epoch_itr",
        "reuse_dataloader",
        "rebuild_batches",
        "batches will be rebuilt",
        "creating new batches",
        "begin training epoch",
        "grouped total_num_itrs",
        "Start iterating over samples",
        "NOTE: your device may support",
        "Preparing to save checkpoint",
        "Saving checkpoint to",
        "Finished saving checkpoint",
        "Saved checkpoint",
        "State of ",
    )

    def filter(self, record: logging.LogRecord) -> bool:
        if not isinstance(record.msg, str):
            return False  # the whole configuration, or the whole model
        return not record.getMessage().startswith(self.DROPPED)


def quiet_start_up() -> None:
    """Keep third parties' start-up chatter and deprecation warnings out of the log. Warnings about data stay."""
    for name in (
        "fairseq_cli.train",
        "fairseq.trainer",
        "fairseq.tasks.fairseq_task",
        "fairseq.checkpoint_utils",
        "fairseq.data.iterators",
    ):
        other = logging.getLogger(name)
        if not any(isinstance(f, _StartUpFilter) for f in other.filters):
            other.addFilter(_StartUpFilter())
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    # fairseq pins memory whether or not there is a device to copy to.
    warnings.filterwarnings("ignore", message=".*'pin_memory' argument is set as true but no accelerator.*")


def explain_unknown_keys() -> None:
    """Where training was started from the command line, name a key that a task or model does not have in one sentence.

    Hydra refuses unknown keys of the YAML by itself; one that was added with ``+`` is met by fairseq, only after this
    package was imported, and would end in a traceback.
    """
    entry = sys.modules.get("fairseq_cli.train")
    if entry is None or hasattr(entry.add_defaults, "__wrapped__"):
        return
    add_defaults = entry.add_defaults

    @functools.wraps(add_defaults)
    @reports_user_errors
    def explained(cfg: Any) -> None:
        try:
            add_defaults(cfg)
        except ConfigKeyError as error:
            raise ConfigError(f"there is no such setting: {str(error).splitlines()[0]}; check its spelling.") from None

    vars(entry)["add_defaults"] = explained


def record(cfg: Any, section: str, **values: Any) -> None:
    """Set in ``cfg`` what was worked out from data or a checkpoint, and in the run's configuration too.

    ``cfg`` is fairseq's copy of a section; the configuration that checkpoints are written with is at the root.
    """
    nodes = [cfg]
    if isinstance(cfg, DictConfig):
        root = cfg._get_root()
        nodes += [root[section]] if isinstance(root, DictConfig) and section in root else []
    for node in nodes:
        for name, value in values.items():
            setattr(node, name, value)


def restored_path(cfg: Any) -> Path | None:
    """The checkpoint that a run would resume from, there or not; None where ``cfg`` is no section of a run's."""
    root: Any = cfg._get_root() if isinstance(cfg, DictConfig) else {}
    saving = root.get("checkpoint")
    if saving is None:
        return None
    own = saving.restore_file == "checkpoint_last.pt"
    return Path(saving.save_dir) / saving.restore_file if own else Path(saving.restore_file)


def unwrap(model: Any) -> Any:
    """The model inside whatever data-parallel wrappers surround it."""
    while hasattr(model, "module"):
        model = model.module
    return model
