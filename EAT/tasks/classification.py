"""The task ``eat_classification``, where fairseq looks for it."""

from ..training.classification_task import EATClassificationTask

__all__ = ["EATClassificationTask"]
