"""Training objectives, registered with fairseq."""

from . import utterance_frame  # noqa: F401
