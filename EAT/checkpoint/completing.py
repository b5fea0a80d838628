"""Making up what a layout demands and a checkpoint does not have: a decoder to train anew, a teacher to start from."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ..network.decoder import ConvDecoder
from ..network.settings import PretrainingSettings
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .eat import with_encoder
from .names import with_prefix


def complete(contents: Contents) -> Contents:
    """The contents with a decoder and a teacher, as training files must have.

    A missing decoder gets the values that training starts from, a missing teacher those of the student, which is
    where training starts it. Both are listed in ``initialised``, so that no reader takes them for trained ones and
    converting back leaves them out.
    """
    tensors, initialised = dict(contents.tensors), list(contents.initialised)
    settings = with_encoder(contents.settings or PretrainingSettings(), contents.encoder_config)
    if contents.kind == "pretraining" and not contents.part(DECODER):
        dim = contents.encoder_config.embed_dim
        groups = math.gcd(dim, 16)
        settings = replace(settings, decoder_width=dim, decoder_groups=groups)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            decoder = ConvDecoder(dim, settings.config().decoder)
        tensors |= with_prefix(DECODER, decoder.state_dict())
        initialised.append("decoder")
    if contents.kind == "pretraining" and not contents.part(TEACHER):
        student = {name: value for name, value in contents.part(ENCODER).items() if name != POSITIONS}
        tensors |= with_prefix(TEACHER, {name: value.float().clone() for name, value in student.items()})
        initialised.append("teacher")
    return replace(contents, tensors=tensors, settings=settings, initialised=tuple(initialised))


def without_initialised(contents: Contents) -> Contents:
    """The contents without parts that an earlier conversion made up."""
    made_up = tuple(f"{part}." for part in contents.initialised)
    tensors = {name: value for name, value in contents.tensors.items() if not made_up or not name.startswith(made_up)}
    return replace(contents, tensors=tensors, initialised=())
