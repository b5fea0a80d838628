"""Errors that are meant for the user.

Every message is one sentence that names the file, key or value at fault and says what to do about it.
"""


class EATError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(EATError):
    """A setting, or two settings together, cannot work."""


class DataError(EATError):
    """A manifest, a label file or a recording cannot be used."""


class CheckpointError(EATError):
    """A checkpoint cannot be read or does not fit."""


class TrainingError(EATError):
    """A run cannot continue: the model collapsed, or too many clips were unusable."""
