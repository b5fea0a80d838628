"""Pre-training that starts from a checkpoint of any format: weights alone, so that optimiser and schedule are new."""

from __future__ import annotations

import logging
import math
from dataclasses import fields

from ..checkpoint.completing import without_initialised
from ..checkpoint.contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from ..checkpoint.formats import read_contents
from ..checkpoint.shapes import check_finite, extend_positions
from ..errors import CheckpointError
from ..network.front_end import FrontEnd
from ..network.pretraining import Pretraining
from ..network.settings import SIZES, DecoderSettings, PretrainingSettings

logger = logging.getLogger("EAT")

DECODER_SIZES = tuple(f.name for f in fields(DecoderSettings) if f.name != "decoder_noise")


def start_from(model: Pretraining, path: str) -> FrontEnd | None:
    """Give the network the checkpoint's student, decoder and teacher.

    A decoder that it does not hold keeps its initial values, a teacher begins as the student; the log says so.

    Args:
        model: of the checkpoint's sizes.
        path: a file or folder of any format that this package reads, a classifier's included.

    Returns:
        The front end that it was trained with, where it says so.

    Raises:
        CheckpointError: where it cannot be read, or is of other sizes.
    """
    contents = without_initialised(read_contents(path))
    parts = {prefix: contents.part(prefix) for prefix in (ENCODER, DECODER, TEACHER)}
    _check_sizes(path, contents, model.settings, SIZES + (DECODER_SIZES if parts[DECODER] else ()))
    given = {prefix + name: value.float() for prefix, part in parts.items() for name, value in part.items()}
    check_finite(path, given)
    given[ENCODER + POSITIONS] = extend_positions(given[ENCODER + POSITIONS], model.settings)
    if not parts[TEACHER]:
        given |= {TEACHER + name: given[ENCODER + name] for name in parts[ENCODER] if name != POSITIONS}
    if not parts[DECODER]:
        given |= {name: value for name, value in model.state_dict().items() if name.startswith(DECODER)}
    try:
        model.load_state_dict(given)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} does not fit the model of these settings ({reason[:300]}).") from None
    logger.info(_said(path, contents, bool(parts[DECODER]), bool(parts[TEACHER])))
    return contents.front_end


def _check_sizes(path: str, contents: Contents, wanted: PretrainingSettings, names: tuple[str, ...]) -> None:
    other = []
    for name in names:
        stored, given = getattr(contents.settings, name), getattr(wanted, name)
        same = math.isclose(stored, given) if isinstance(stored, int | float) else stored == given
        if not same:
            other.append(f"model.{name}={stored}")
    if other:
        raise CheckpointError(f"{path} holds a model of other sizes; set {' '.join(other)} to start from it.")


def _said(path: str, contents: Contents, decoder: bool, teacher: bool) -> str:
    held = ["student", *["decoder"] * decoder, *["teacher"] * teacher]
    names = " and ".join([", ".join(held[:-1]), held[-1]] if len(held) > 1 else held)
    new = ["the decoder starts new"] * (not decoder) + ["the teacher starts as the student"] * (not teacher)
    lacking = f"; {' and '.join(new)}, as it holds none" if new else ""
    return f"{names} from the {contents.format} {contents.kind} checkpoint {path}{lacking}"
