"""The model ``eat_classification``, where fairseq looks for it."""

from ..training.classification_model import EATClassificationModel

__all__ = ["EATClassificationModel"]
