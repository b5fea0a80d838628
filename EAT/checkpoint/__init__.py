"""Checkpoints: ours, published fairseq ones and Hugging Face ones, read and written without fairseq or transformers."""

from .contents import Checkpoint
from .formats import read_checkpoint

__all__ = ["Checkpoint", "read_checkpoint"]
