"""Early stopping: how many validations in a row brought nothing better, also over a run's interruptions."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from fairseq import checkpoint_utils

logger = logging.getLogger("EAT")


class Patience:
    """What fairseq's ``checkpoint.patience`` goes by; fairseq's own count is lost when a run is resumed."""

    def __init__(self) -> None:
        self.best: float | None = None
        """The best score, or loss, of all validations."""
        self.failed = 0
        """Validations in a row since then that were no better."""

    def validated(self, score: float, maximize: bool) -> None:
        """Take note of a validation's score; one that is not a number is no better than any."""
        if better(score, self.best, maximize):
            self.best, self.failed = score, 0
        else:
            self.failed += 1

    def over(self, patience: int) -> bool:
        """Whether as many validations as ``patience`` brought nothing better; never where it is not positive."""
        return 0 < patience <= self.failed

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes."""
        return {"best": self.best, "failed": self.failed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state_dict` gave; earlier releases kept nothing, which {} stands for."""
        self.best, self.failed = state.get("best"), state.get("failed", 0)


def better(score: float, best: float | None, maximize: bool) -> bool:
    """Whether ``score`` is better than the best so far; any number is where there was none."""
    return score == score and (best is None or (score > best if maximize else score < best))


patience = Patience()
"""The one of this process."""


def remembers(original: Callable[..., Any]) -> Callable[..., Any]:
    """Without it, a resumed run would begin to be patient anew, and its end would not say why it came."""

    @functools.wraps(original)
    def should_stop_early(cfg: Any, valid_loss: float | None) -> bool:
        if valid_loss is None:
            return False
        saving = cfg.checkpoint
        patience.validated(float(valid_loss), saving.maximize_best_checkpoint_metric)
        if patience.over(saving.patience):
            logger.info(f"the run ends early: {explain(cfg)}.")
        return patience.over(saving.patience)

    return should_stop_early


def explain(cfg: Any) -> str:
    """Why a run whose patience is over has ended, without a full stop."""
    best = "a number" if patience.best is None else f"{patience.best:.4f}"
    return (
        f"{patience.failed} validations in a row brought no {cfg.checkpoint.best_checkpoint_metric} better than {best} "
        f"(checkpoint.patience={cfg.checkpoint.patience})"
    )


def save_if_best(cfg: Any, trainer: Any, epoch_itr: Any, score: float | None) -> None:
    """Save what was validated without being saved, where it is the best: fairseq would let it go."""
    saving = cfg.checkpoint
    if score is None or saving.no_save or saving.keep_best_checkpoints > 0:
        return
    saved: float | None = getattr(checkpoint_utils.save_checkpoint, "best", None)
    if better(float(score), saved, saving.maximize_best_checkpoint_metric):
        checkpoint_utils.save_checkpoint(saving, trainer, epoch_itr, score)
