"""Making up what a format demands and a checkpoint does not have: a decoder to train anew, a teacher to start from."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..network.decoder import DECODERS
from ..network.settings import PretrainingSettings
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .names import with_prefix


def complete(contents: Contents) -> Contents:
    """The contents with a decoder and a teacher, as training files must have.

    A missing decoder gets the values that training starts from, a missing teacher those of the student, which is
    where training starts it. Both are listed in ``initialised``, so that no reader takes them for trained ones and
    converting back leaves them out.
    """
    settings = contents.settings
    if not isinstance(settings, PretrainingSettings):
        return contents
    tensors, initialised = dict(contents.tensors), list(contents.initialised)
    if not contents.part(DECODER):
        width, heads = settings.embed_dim, settings.num_heads
        settings = replace(settings, decoder_width=width, decoder_groups=math.gcd(width, 16), decoder_heads=heads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            decoder = DECODERS[settings.decoder](settings)
        tensors |= with_prefix(DECODER, decoder.state_dict())
        initialised.append("decoder")
    if not contents.part(TEACHER):
        student = {name: value for name, value in contents.part(ENCODER).items() if name != POSITIONS}
        tensors |= with_prefix(TEACHER, {name: value.float().clone() for name, value in student.items()})
        initialised.append("teacher")
    return replace(contents, tensors=tensors, settings=settings, initialised=tuple(initialised))


def without_initialised(contents: Contents) -> Contents:
    """The contents without parts that an earlier conversion made up."""
    made_up = tuple(f"{part}." for part in contents.initialised)
    tensors = {name: value for name, value in contents.tensors.items() if not made_up or not name.startswith(made_up)}
    return replace(contents, tensors=tensors, initialised=())
