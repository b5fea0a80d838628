"""The door through which fairseq finds this package's models; they live in :mod:`EAT.training`."""

from . import classification, pretraining  # noqa: F401
