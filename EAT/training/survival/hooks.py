"""Wrappers around fairseq's trainer and training loop. Each says what would happen without it.

They take effect in processes that the command line started for training, and only for tasks of this package.
"""

from __future__ import annotations

import atexit
import functools
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.distributed.utils import _TensorPlaceholder, get_data_parallel_group
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

from ...checkpoint.fairseq_file import section
from ...errors import CheckpointError, TrainingError
from ...moved import RENAMED
from ..fairseq_support import reports_user_errors
from . import checkpoints
from .patience import explain, patience, remembers, save_if_best
from .stopping import STOPPED, end_dataloader_workers, stop
from .writing import RETRY_SECONDS, FrozenRun, Writer

logger = logging.getLogger("EAT")

FINAL_ATTEMPTS, FINAL_PAUSE = 5, 10.0
"""How often the last checkpoint of a run is tried again before the run gives up, and the seconds in between."""


writer = Writer()
"""The one of this process."""


def install() -> None:
    """Put the wrappers in place, once."""
    # No pickle runs, whatever the environment says: neither from checkpoints nor from anything else fairseq loads.
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)
    # A number under a name: what stands for tensors in what fairseq's processes send each other.
    torch.serialization.add_safe_globals([_TensorPlaceholder])
    entry = sys.modules.get("fairseq_cli.train")
    if entry is None or hasattr(Trainer.load_checkpoint, "__wrapped__"):
        return
    for owner, name, wrap in (
        (checkpoint_utils, "torch_persistent_save", _written_whole),
        (checkpoint_utils, "save_checkpoint", _meanwhile),
        (checkpoint_utils, "load_checkpoint_to_cpu", _with_plain_settings),
        (Trainer, "load_checkpoint", _falls_back),
        (Trainer, "clip_grad_norm", _skips_nonfinite),
        (entry, "should_stop_early", remembers),
        (entry, "validate_and_save", _stops_when_told),
        (entry, "train", _names_the_cause),
    ):
        setattr(owner, name, wrap(getattr(owner, name)))
    PathManager.copy = staticmethod(_copied_whole(PathManager.copy))  # type: ignore[method-assign]
    stop.install()
    atexit.register(end_dataloader_workers)


def _written_whole(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, fairseq renames a file that may not be on the disk yet and never looks whether it can be read."""

    @functools.wraps(original)
    def save(obj: Any, filename: str, async_write: bool = False) -> None:
        if async_write or PathManager.path_requires_pathmanager(filename):
            original(obj, filename, async_write=async_write)
        elif os.path.basename(filename) == "crash.pt":
            # Written while another error is on its way to the user, which must not be hidden by this one.
            try:
                checkpoints.save(obj, filename)
            except CheckpointError as error:
                logger.error(str(error))
        else:
            checkpoints.save(obj, filename)

    return save


def _copied_whole(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, a run that is killed while fairseq copies leaves half a ``checkpoint_last.pt``."""

    @functools.wraps(original)
    def copy(src_path: str, dst_path: str, overwrite: bool = False) -> Any:
        if not dst_path.endswith(".pt") or PathManager.path_requires_pathmanager(dst_path):
            return original(src_path, dst_path, overwrite=overwrite)
        checkpoints.copy(src_path, dst_path)
        return True

    return copy


def _meanwhile(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, training stands still while a checkpoint is written, and a full disk ends it in the middle of an
    epoch, with all since the last checkpoint lost.
    """

    @functools.wraps(original)
    def save(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> Any:
        task = trainer.task
        if hasattr(task, "forget_save"):
            task.forget_save()
        others_do = cfg.no_save or cfg.write_checkpoints_asynchronously or not hasattr(task, "get_checkpoint_dict")
        if others_do or not trainer.should_save_checkpoint_on_current_rank:
            return original(cfg, trainer, epoch_itr, val_loss)
        trainer.consolidate_optimizer()
        writer.begin(
            lambda: FrozenRun(trainer, epoch_itr),
            lambda frozen: original(cfg, frozen, frozen, val_loss),
        )
        return None

    return save


def _falls_back(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, a checkpoint that was damaged ends in a traceback, or in weights with a flipped bit.

    fairseq reads the file in the first process alone and sends it to the others, so only that one may choose.
    """

    @functools.wraps(original)
    @reports_user_errors
    def load(self: Trainer, filename: str, *args: Any, **kwargs: Any) -> Any:
        _limit_waiting(getattr(self.task.cfg, "process_timeout", 0.0))
        if PathManager.path_requires_pathmanager(filename):  # no file system of this machine
            return original(self, filename, *args, **kwargs)
        if self.cfg.checkpoint.restore_file != "checkpoint_last.pt" and not os.path.isfile(filename):
            raise CheckpointError(f"checkpoint.restore_file={filename} is not there; give the file to resume from.")
        if self.data_parallel_rank == 0:
            if not self.cfg.checkpoint.no_save:
                checkpoints.lock(self.cfg.checkpoint.save_dir)
            reset_optimizer = args[0] if args else kwargs.get("reset_optimizer", False)
            filename = checkpoints.newest_good(filename, with_optimizer=not reset_optimizer)
        elif not os.path.isfile(filename):  # the others only have to know that there is a checkpoint
            filename = str(next(Path(filename).parent.glob("checkpoint*.pt"), filename))
        try:
            return original(self, filename, *args, **kwargs)
        except Exception as error:
            _explain_lost_process(error, "while it read the checkpoint")
            if type(error) not in (AssertionError, Exception):  # what fairseq raises for what does not fit
                raise
            cause = " ".join(str(error.__context__ or error).split())[:300]
            raise CheckpointError(
                f"training cannot resume from {filename}: it does not fit these settings ({cause}). Use the settings "
                "it was written with, or give another folder as checkpoint.save_dir."
            ) from None

    return load


def _limit_waiting(seconds: float) -> None:
    """Let no process wait longer for the others, in fairseq's own group either, which it makes beside the default."""
    if seconds > 0 and dist.is_initialized():
        for group in (None, get_data_parallel_group()):
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def _with_plain_settings(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, no run of several processes could be resumed, and one of release 1.0 would log empty meters and take
    its place in an epoch for that of as many devices and clips a batch as there are now.

    The first process sends what it read to the others, who refuse to unpickle the settings' class.
    """

    @functools.wraps(original)
    def load(path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = original(path, *args, **kwargs)
        if OmegaConf.is_config(state.get("cfg")):
            state["cfg"] = OmegaConf.to_container(state["cfg"])
        place = state.get("extra_state", {}).get("train_iterator", {})
        if "clips" not in place:  # before 1.1, a number of batches of a device
            dataset, devices = (section(path, state, name) for name in ("dataset", "distributed_training"))
            place["batch_size"] = dataset.get("batch_size")
            place["devices"] = devices.get("distributed_world_size")
        meters = state.get("extra_state", {}).get("metrics", {})
        for name, kept in meters.items():
            meters[name] = [(priority, RENAMED.get(key, key), *rest) for priority, key, *rest in kept]
        return state

    return load


def _skips_nonfinite(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, fairseq raises FloatingPointError, saves the broken state and ends, or, after an overflow in
    float16, asks for a GPU that may not be there.

    Told that the norm is 0, the trainer counts the update; the task then makes none.
    """

    @functools.wraps(original)
    @reports_user_errors
    def clip(self: Trainer, clip_norm: float) -> Any:
        watch = getattr(self.task, "nonfinite", None)
        if watch is None:
            return original(self, clip_norm)
        scaler = getattr(self.optimizer, "scaler", None)
        try:
            norm = original(self, clip_norm)
        except OverflowError:
            norm = None
        except FloatingPointError as error:
            raise TrainingError(str(error)) from None
        if norm is not None and bool(torch.isfinite(norm).all()):
            watch.passed()
            return norm
        scale = getattr(scaler, "loss_scale", None) if scaler is not None else None
        if scaler is not None and scale is None:
            scale = scaler.get_scale()
        if hasattr(self.optimizer, "_multiply_factor"):
            self.optimizer._multiply_factor = 1.0  # else reset by a step alone, so that later gradients were NaN or 0
        watch.failed(self.get_num_updates() + 1, scale)
        return torch.zeros((), device=self.device)

    return clip


def _stops_when_told(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, SIGTERM loses all since the last checkpoint, none is saved by the clock, and one that failed is not
    tried again in between.

    That a process was told travels to the others with the statistics of the update, so all stop after the same one.
    """

    @functools.wraps(original)
    def validate_and_save(
        cfg: Any, trainer: Any, task: Any, epoch_itr: Any, valid_subsets: Any, end_of_epoch: bool
    ) -> Any:
        finished = trainer.get_num_updates() >= (cfg.optimization.max_update or float("inf"))
        if getattr(task, "told_to_stop", False) and not finished:
            _save_and_leave(cfg, trainer, epoch_itr)
        result = original(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch)
        save_if_best(cfg, trainer, epoch_itr, result[0][0])
        last = result[1] or (end_of_epoch and epoch_itr.epoch >= (cfg.optimization.max_epoch or float("inf")))
        if last:
            writer.wait()
            if writer.failed_at is not None:
                _save_at_last(cfg, trainer, epoch_itr, result[0][0])
        elif getattr(task, "save_due", False) or _to_try_again():
            checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, None)
        return result

    return validate_and_save


def _to_try_again() -> bool:
    return writer.failed_at is not None and time.monotonic() - writer.failed_at > RETRY_SECONDS


def _save_and_wait(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: float | None = None) -> None:
    checkpoint_utils.save_checkpoint(cfg.checkpoint, trainer, epoch_itr, val_loss)
    writer.wait()


def _save_and_leave(cfg: Any, trainer: Any, epoch_itr: Any) -> None:
    """Save, wait for the process that writes, and end with status 75."""
    _save_and_wait(cfg, trainer, epoch_itr)
    saved = "its last checkpoint stays" if writer.failed_at is not None or cfg.checkpoint.no_save else "it is saved"
    if dist.is_initialized():
        dist.barrier()
    logger.warning(
        f"the run was told to stop; {saved}, {cfg.checkpoint.save_dir}, after {trainer.get_num_updates()} updates. "
        f"The same command resumes from there. Exit status {STOPPED}."
    )
    raise SystemExit(STOPPED)


@reports_user_errors
def _save_at_last(cfg: Any, trainer: Any, epoch_itr: Any, val_loss: Any) -> None:
    """Try again and again to save the end of the run."""
    for _ in range(FINAL_ATTEMPTS):
        time.sleep(FINAL_PAUSE)
        _save_and_wait(cfg, trainer, epoch_itr, val_loss)
        if writer.failed_at is None:
            return
    raise CheckpointError(
        f"the run's end could not be saved in {cfg.checkpoint.save_dir}; make room there and run the same command "
        "again, which resumes from the last checkpoint."
    )


def _names_the_cause(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, the death of a DataLoader worker or of another rank is a traceback without a file or a rank, and a
    finished run makes one more update each time that it is started.
    """

    @functools.wraps(original)
    @reports_user_errors
    def train(cfg: Any, trainer: Any, task: Any, epoch_itr: Any) -> Any:
        done, wanted = trainer.get_num_updates(), cfg.optimization.max_update
        if wanted and done >= wanted:
            logger.info(
                f"the run in {cfg.checkpoint.save_dir} is finished, with {done} updates; a higher "
                "optimization.max_update would continue it."
            )
            return [None], True
        if patience.over(cfg.checkpoint.patience):
            logger.info(
                f"the run in {cfg.checkpoint.save_dir} is finished, with {done} updates: {explain(cfg)}; a higher "
                "checkpoint.patience, or 0 for none, resumes it."
            )
            return [None], True
        try:
            return original(cfg, trainer, task, epoch_itr)
        except (RuntimeError, ConnectionError, EOFError, TimeoutError) as error:
            # ConnectionError and EOFError: the process died while it was handing over a batch.
            if "DataLoader worker" in str(error) or not isinstance(error, RuntimeError):
                if isinstance(error, TimeoutError):
                    cause = (
                        f"{error} in {epoch_itr.longest_wait:g} s (task.process_timeout): one of them hangs, not in "
                        "reading a clip, which task.read_timeout would have ended."
                    )
                else:
                    cause = task.datasets[task.cfg.train_subset].explain_crash(str(error))
                end_dataloader_workers()
                epoch_itr.back_to_update()
                # Alone only: others may be in the midst of an update.
                if trainer.get_num_updates() > 0 and not dist.is_initialized():
                    _save_and_wait(cfg, trainer, epoch_itr)
                raise TrainingError(f"{cause} {_way_back(cfg)}") from None
            _explain_lost_process(error, f"after {trainer.get_num_updates()} updates")
            raise
        except KeyboardInterrupt:
            if multiprocessing.parent_process() is not None:
                raise  # the process that started this one deals with it
            writer.wait()
            logger.info(
                f"stopped by Ctrl-C after {trainer.get_num_updates()} updates. {_way_back(cfg)} (SIGTERM instead saves "
                "before it stops.)"
            )
            end_dataloader_workers()
            raise SystemExit(130) from None

    return train


def _way_back(cfg: Any) -> str:
    """A sentence on what starting the run again will do."""
    folder = Path(cfg.checkpoint.save_dir)
    if any(folder.glob("checkpoint*.pt")):
        return f"The same command resumes from the last checkpoint in {folder}."
    return f"Nothing was saved in {folder} yet, so the same command starts anew."


def _explain_lost_process(error: Exception, when: str) -> None:
    """Raise TrainingError where an error says that another process is gone."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "gloo", "NCCL")
    if not dist.is_initialized() or not isinstance(error, RuntimeError):
        return
    if isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs):
        raise TrainingError(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost touch with another one {when} "
            f"({str(error).splitlines()[0][:200]}); what ended that one is in its own log. The same command resumes "
            "from the last checkpoint, if one was saved."
        ) from None
