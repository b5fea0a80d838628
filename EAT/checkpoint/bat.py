"""BAT's files of ``torch.save``: what its pre-training writes, the released file, fine-tuned and probed models.

The first is written too. All of them hold gates; one without is refused, since it would give features that are
plausible and wrong. Position tables are used as they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..network.decoder import TransformerDecoder
from ..network.front_end import FRONT_ENDS, FrontEnd
from ..network.settings import ClassifierSettings, EncoderSettings, PretrainingSettings, check_type
from ..network.unfilled import unfilled
from .completing import complete
from .contents import DECODER, ENCODER, POSITIONS, TEACHER, Contents
from .names import (
    BAT_DECODER,
    BAT_ENCODER,
    BAT_HEADS,
    BLOCKS,
    from_published_encoder,
    to_published_encoder,
    with_prefix,
)
from .notes import KEY, make_notes, notes_of
from .safe import Opened, write_torch_file
from .shapes import check_encoder, check_head, check_tensor, encoder_settings
from .validation import sized

HOLDS: dict[str, tuple[Any, ...]] = {
    "attention": ("gated",),
    "block": ("post_norm",),
    "positions": ("bat",),
    "decoder": ("transformer",),
    "targets": ("block_outputs",),
    "spectrogram": ("decibels", "decibels_32k"),
    "fit_waveform": (False,),
}
"""What a model must be made of to be written in this format."""
GATE = "attn.gate.weight"
PATCHES = "patch_embed.proj.weight"
"""A tensor that BAT's files have, and EAT's under other names."""
RELEASED = "student.encoder."
HEADS = {384: 6}
"""Attention heads of BAT's small model, where a file does not say."""
RECIPE = {
    "decoder": "transformer",
    "targets": "block_outputs",
    "initialisation": "bat",
    "ema_schedule": "linear_from_first",
}
"""What every pre-trained BAT is, under our names."""
SPECTROGRAMS = {
    (kind.sample_rate, kind.window, kind.hop): name for name, kind in FRONT_ENDS.items() if name.startswith("decibels")
}


def recognises(opened: Opened) -> bool:
    """Whether a loaded file is one of BAT's: by the names of its tensors."""
    state = opened.state
    return _is_encoder(state.get("encoder")) or _is_encoder(_fine_tuned(state)) or bool(_released(state))


def read(opened: Opened) -> Contents:
    """Take one of BAT's files apart. Raises CheckpointError where something is missing, misshapen or has no gates."""
    path, state = opened.path, opened.state
    args = state.get("args")
    args = args if isinstance(args, dict) else {}
    if _is_encoder(state.get("encoder")):
        return _read_pretraining(path, state, args)
    tensors = _fine_tuned(state)
    if _is_encoder(tensors):
        return _read_classification(path, state, tensors, args)
    encoder, settings = read_encoder(path, _released(state), args)
    return Contents("bat", encoder, pretraining(settings, args), front_end(path, args, settings), raw=state)


def _is_encoder(tensors: Any) -> bool:
    return isinstance(tensors, dict) and PATCHES in tensors


def _fine_tuned(state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a fine-tuned or probed model, which stand in a tuple of one dict."""
    tensors = state.get("state")
    tensors = tensors[0] if isinstance(tensors, tuple | list) and tensors else tensors
    return tensors if isinstance(tensors, dict) else {}


def _released(state: Mapping[str, Any]) -> dict[str, Any]:
    """The student's encoder in the released file, without what stands before its names."""
    inner = state.get("state_dict")
    state = inner if isinstance(inner, dict) else state
    return {name.partition(RELEASED)[2]: value for name, value in state.items() if RELEASED in str(name)}


def read_encoder(
    path: str, stored: Mapping[str, Tensor], known: Mapping[str, Any], gated: bool = True
) -> tuple[dict[str, Tensor], EncoderSettings]:
    """An encoder under our names with ``encoder.`` in front, and its settings.

    Args:
        path: named in errors.
        stored: its tensors as published.
        known: what the file states, by the names of BAT's configuration.
        gated: whether it must have gates, or must have none.

    Raises:
        CheckpointError: for a tensor that is missing or misshapen, or gates where there should be none, or none where
            there should be some.
    """
    for name in ("cls_token", PATCHES):
        if name not in stored:
            raise CheckpointError(f"{path} lacks the encoder's {name}; the file is incomplete.")
    has = any(name.endswith(GATE) for name in stored)
    if has != gated:
        found, wanted = ("has", "none") if has else ("lacks", "gates")
        raise CheckpointError(
            f"{path} {found} the gates of BAT's attention (blocks.*.{GATE}) but should have {wanted}; read the other "
            "way its features would be plausible and wrong, so take another copy of the checkpoint."
        )
    tensors = with_prefix(ENCODER, from_published_encoder(stored, BAT_ENCODER, BLOCKS))
    dim, table = sized(path, tensors, ENCODER + "cls_token", 3).shape[-1], tensors.get(ENCODER + POSITIONS)
    bins = known.get("n_mels") or EncoderSettings.mel_bins
    check_type("n_mels", bins, int)
    stated = {
        "embed_dim": known.get("dim"),
        "depth": known.get("depth"),
        "num_heads": known.get("num_heads") or HEADS.get(dim),
        "mlp_ratio": known.get("mlp_ratio"),
        "patch_size": known.get("patch_size"),
        "mel_bins": bins,
    }
    steps = max(1, bins // sized(path, tensors, ENCODER + "patches.projection.weight", 4).shape[-1])
    kind = {"attention": "gated" if gated else "softmax", "positions": "bat"}
    rows = {} if not isinstance(table, Tensor) or table.ndim != 3 else {"time_patches": table.shape[1] // steps}
    return tensors, encoder_settings(path, tensors, {**stated, **kind, **rows})


def pretraining(encoder: EncoderSettings, args: Mapping[str, Any], **found: Any) -> PretrainingSettings:
    """How a model was pre-trained: what the file states, under our names, and BAT's recipe."""
    stated = {"mask_prob": args.get("mask_ratio"), "clone_batch": args.get("num_views")}
    sizes = {"decoder_width": encoder.embed_dim, "decoder_heads": encoder.num_heads}
    return PretrainingSettings.take({**vars(encoder), **RECIPE, **sizes, **stated, **found})


def front_end(path: str, args: Mapping[str, Any], encoder: EncoderSettings) -> FrontEnd:
    """The front end that a file states. Raises CheckpointError for one that there is not."""
    kind = FRONT_ENDS["decibels"]
    stated = tuple(
        args.get(name) or own
        for name, own in (("sr", kind.sample_rate), ("n_fft", kind.window), ("hop_length", kind.hop))
    )
    for name, value in zip(("sr", "n_fft", "hop_length"), stated, strict=True):
        check_type(name, value, int)
    if stated not in SPECTROGRAMS:
        raise CheckpointError(
            f"{path} was trained on spectrograms of rate, window and hop {stated}; known are "
            f"{' and '.join(map(str, SPECTROGRAMS))}."
        )
    return FRONT_ENDS[SPECTROGRAMS[stated]](args.get("time_frame_size") or encoder.time_patches * encoder.patch_size)


def _read_pretraining(path: str, state: dict[str, Any], args: Mapping[str, Any]) -> Contents:
    tensors, encoder = read_encoder(path, state["encoder"], args)
    decoder, found = state.get("decoder"), {}
    if isinstance(decoder, dict):
        tensors |= with_prefix(DECODER, from_published_encoder(decoder, BAT_DECODER, BLOCKS))
        found = _decoder_sizes(path, tensors, args)
    settings = pretraining(encoder, args, **found)
    if isinstance(decoder, dict):
        with unfilled():
            expected = TransformerDecoder(settings).state_dict()
        for name, value in expected.items():
            check_tensor(path, tensors, DECODER + name, tuple(value.shape))
    teacher = state.get("ema_encoder")
    if isinstance(teacher, dict):
        # Its position table is the student's but for the rounding of an average of equals.
        found_teacher = from_published_encoder(teacher, BAT_ENCODER, BLOCKS)
        tensors |= with_prefix(TEACHER, {name: value for name, value in found_teacher.items() if name != POSITIONS})
        check_encoder(path, tensors, encoder, TEACHER)
    notes = notes_of(state)
    length = {"time_frame_size": notes["front_end"][0]} if notes.get("front_end") else {}
    return Contents(
        format="bat",
        tensors=tensors,
        settings=settings,
        front_end=front_end(path, {**args, **length}, encoder),
        initialised=tuple(notes.get("initialised", ())),
        raw=state,
    )


def _decoder_sizes(path: str, tensors: Mapping[str, Tensor], args: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's settings from its tensors; its heads from what the file states."""
    needed = (DECODER + "mask_token", DECODER + "blocks.0.mlp.fc1.weight")
    for name in needed:
        if name not in tensors:
            raise CheckpointError(f"{path} lacks {name}; the file is incomplete.")
    width = sized(path, tensors, needed[0], 3).shape[-1]
    numbers = {name.split(".")[2] for name in tensors if name.startswith(DECODER + BLOCKS)}
    return {
        "decoder_width": width,
        "decoder_layers": len(numbers),
        "decoder_heads": args.get("decoder_heads"),
        "decoder_mlp_ratio": sized(path, tensors, needed[1], 2).shape[0] / width,
    }


def _read_classification(
    path: str, state: dict[str, Any], stored: Mapping[str, Tensor], args: Mapping[str, Any]
) -> Contents:
    """A fine-tuned or probed model: its head is told by the names of its tensors."""
    tensors, encoder = read_encoder(path, stored, args)
    names = {name.removeprefix("head.") for name in stored if name.startswith("head.")}
    head = next((head for head, table in BAT_HEADS.items() if set(table.values()) == names), None)
    if head is None:
        raise CheckpointError(
            f"{path} has a head of {', '.join(sorted(names)) or 'no tensors'}; known are {', '.join(BAT_HEADS)}."
        )
    tensors |= {own: stored[f"head.{theirs}"] for own, theirs in BAT_HEADS[head].items()}
    settings = {"head": head, "num_classes": len(sized(path, stored, "head.fc.bias", 1))}
    if head == "cgp":
        tensors["head.prototypes"] = tensors["head.prototypes"].flatten(1)
        settings["head_prototypes"] = len(tensors["head.prototypes"])
    classifier = ClassifierSettings.take({**vars(encoder), **settings})
    check_head(path, tensors, classifier)
    return Contents("bat", tensors, classifier, front_end(path, args, encoder), raw=state)


def write(contents: Contents, path: str) -> Contents:
    """Write a file as BAT's pre-training does. Returns what was written. Raises CheckpointError."""
    if not isinstance(contents.settings, PretrainingSettings):
        raise CheckpointError("the format bat holds pre-trained models alone; keep this classifier as 'eat'.")
    contents = complete(contents)
    settings, end = contents.settings, contents.front_end
    assert isinstance(settings, PretrainingSettings)
    kind = type(end) if end is not None else FRONT_ENDS["decibels"]
    encoder = to_published_encoder(contents.part(ENCODER), BAT_ENCODER, BLOCKS)
    teacher = {**contents.part(TEACHER), POSITIONS: contents.tensors[ENCODER + POSITIONS].float()}
    args = {
        "time_frame_size": settings.time_patches * settings.patch_size,
        "n_mels": settings.mel_bins,
        "patch_size": settings.patch_size,
        "dim": settings.embed_dim,
        "depth": settings.depth,
        "num_heads": settings.num_heads,
        "mlp_ratio": settings.mlp_ratio,
        "decoder_depth": settings.decoder_layers,
        "decoder_heads": settings.decoder_heads,
        "decoder_mlp_ratio": settings.decoder_mlp_ratio,
        "decoder_dim": settings.decoder_width,
        "mask_ratio": settings.mask_prob,
        "num_views": settings.clone_batch,
        "sr": kind.sample_rate,
        "n_fft": kind.window,
        "hop_length": kind.hop,
    }
    content = {
        "encoder": encoder,
        "decoder": to_published_encoder(contents.part(DECODER), BAT_DECODER, BLOCKS),
        "ema_encoder": to_published_encoder(teacher, BAT_ENCODER, BLOCKS),
        "optimized_steps": _updates(contents.raw),
        "args": args,
        KEY: make_notes(contents),
    }
    write_torch_file(path, content)
    return contents


def _updates(raw: Mapping[str, Any]) -> int:
    """How many updates a file's model has had, as far as it says."""
    history = raw.get("optimizer_history")
    if isinstance(history, list) and history and isinstance(history[-1], dict):
        return int(history[-1].get("num_updates") or 0)
    return int(raw.get("optimized_steps") or 0)
