"""The model ``eat_pretraining``, where fairseq looks for it."""

from ..training.pretraining_model import EATPretrainingModel

__all__ = ["EATPretrainingModel"]
