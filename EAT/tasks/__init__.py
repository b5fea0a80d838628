"""The door through which fairseq finds this package's tasks; they live in :mod:`EAT.training`.

Importing it also registers criteria, optimiser and schedule, and puts the wrappers round fairseq's trainer in place.
"""

from ..training import (  # noqa: F401
    adamw,
    classification_criterion,
    half_precision,
    pretraining_criterion,
    schedules,
    trainer,
)
from ..training.fairseq_support import explain_unknown_keys, quiet_start_up
from ..training.survival import hooks
from . import classification, pretraining  # noqa: F401

quiet_start_up()
explain_unknown_keys()
hooks.install()
half_precision.install()
trainer.install()
