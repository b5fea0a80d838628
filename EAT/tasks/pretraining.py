"""The task ``eat_pretraining``, where fairseq looks for it."""

from ..training.pretraining_task import EATPretrainingTask

__all__ = ["EATPretrainingTask"]
