"""Optimiser and learning-rate schedule, registered with fairseq."""

from . import adamw, warmup_cosine  # noqa: F401
