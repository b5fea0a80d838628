"""Training objectives, registered with fairseq."""

from . import classification, utterance_frame  # noqa: F401
