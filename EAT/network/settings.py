"""The model's settings: one dataclass a part, each field written once, with its help and its check.

The fields' names are the keys of the YAML files and of checkpoints. A module takes the part that it is made from, and
since the settings of a whole model inherit those of its parts, the whole serves wherever a part is asked for. Defaults
are EAT-base of the paper. Where a field names a choice (``attention``, ``decoder``, ``masking``, ...), the table of
choices stands in the module that uses it, and :func:`choose` looks the name up.

Shapes throughout the package: B clips, M clones per clip, D model width, T time patches, F frequency patches,
N = T * F patches.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from functools import lru_cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Self, TypeVar, get_args, get_type_hints

from ..errors import ConfigError

Choice = TypeVar("Choice")

TIME_PATCHES = 768
"""The longest position table along time: 768 patches of 16 frames are about two minutes."""


def setting(default: Any, description: str, **metadata: Any) -> Any:
    """A field of a settings dataclass. ``size=True``: a checkpoint decides it for those who start from it."""
    return field(default=default, metadata={"help": description, **metadata})


def choose(table: Mapping[str, Choice], name: str, key: str) -> Choice:
    """The choice called ``name``. Raises ConfigError, which lists the names there are, for one that is not there."""
    if name not in table:
        raise ConfigError(f"{key} is {name!r}; it must be one of {', '.join(table)}.")
    return table[name]


KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
}
"""What a field of these types may hold, and what that is called."""


@lru_cache
def _types(kind: Any) -> dict[str, type]:
    """The fields of a dataclass that are of one of :data:`KINDS`, or that or None."""
    found = {}
    for name, hint in get_type_hints(kind).items():
        kinds = [one for one in get_args(hint) if one is not NoneType] if isinstance(hint, UnionType) else [hint]
        if len(kinds) == 1 and kinds[0] in KINDS:
            found[name] = kinds[0]
    return found


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a value is not of the type that a dataclass' field of its name has."""
    types = _types(kind)
    for name, value in values.items():
        if name in types and value is not None:
            check_type(name, value, types[name])


def check_type(name: str, value: Any, kind: type) -> None:
    """Raise ConfigError unless ``value`` is of a type of :data:`KINDS`; a whole number is a number, a truth is none."""
    allowed, called = KINDS[kind]
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{name} is {reprlib.repr(value)}; it must be {called}.")


class Settings:
    """Base of the parts: ``check`` of every part runs when an object is made."""

    def __post_init__(self) -> None:
        for part in type(self).__mro__:
            if "check" in vars(part):
                vars(part)["check"](self)

    def check(self) -> None:
        """Raise ConfigError where settings cannot work, alone or together."""

    @classmethod
    def take(cls, given: Mapping[str, Any]) -> Self:
        """The settings among ``given``, which may hold others; what is missing or None has its default.

        Raises:
            ConfigError: for one of another type, as a damaged checkpoint may state it, or that cannot work.
        """
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        taken = {name: given[name] for name in names if given.get(name) is not None}
        check_types(cls, taken)
        return cls(**taken)


LARGEST = {"embed_dim": 8192, "depth": 512, "num_heads": 1024, "patch_size": 1024, "mel_bins": 2048}
"""What no encoder here exceeds, so that whoever states more is told before memory is asked for."""


@dataclass
class EncoderSettings(Settings):
    """The Transformer encoder that student, teacher and classifier share."""

    embed_dim: int = setting(768, "width of the Transformer", size=True)
    depth: int = setting(12, "Transformer blocks", size=True)
    num_heads: int = setting(12, "attention heads", size=True)
    mlp_ratio: float = setting(4.0, "hidden width of the feed-forward part over embed_dim", size=True)
    norm_eps: float = setting(1e-6, "epsilon of the encoder's LayerNorms", size=True)
    patch_size: int = setting(16, "side of a square patch, in frames and mel bins", size=True)
    mel_bins: int = setting(128, "mel bins of the filterbank", size=True)
    attention: str = setting("softmax", "attention of the blocks", size=True)
    block: str = setting("post_norm", "kind of the blocks: where their norms stand", size=True)
    positions: str = setting("sine_cosine", "rule of the position table", size=True)
    time_patches: int = setting(
        TIME_PATCHES,
        "time patches that the position table reaches; longer clips are encoded in chunks of so many, CLS averaged",
        size=True,
    )
    initialisation: str = setting("eat", "rule by which the encoder's weights are drawn")
    drop_path: float = setting(0.0, "DropPath rate of the last block; it grows linearly from 0 at the first")
    activation_checkpointing: bool = setting(False, "recompute blocks in the backward pass to save memory")

    def check(self) -> None:
        """Sizes that a Transformer can have."""
        for name, most in LARGEST.items():
            if not 1 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie between 1 and {most:,}.")
        if self.embed_dim % self.num_heads:
            raise ConfigError(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}; change one of them."
            )
        if self.embed_dim % 4:
            raise ConfigError(
                f"embed_dim {self.embed_dim} is not divisible by 4, which the sine-cosine positions need."
            )
        if not 1 <= self.time_patches <= TIME_PATCHES:
            raise ConfigError(f"time_patches is {self.time_patches}; it must lie between 1 and {TIME_PATCHES}.")
        if self.mel_bins % self.patch_size:
            raise ConfigError(f"mel_bins {self.mel_bins} is not divisible by patch_size {self.patch_size}.")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path is {self.drop_path}; it must lie in [0, 1).")
        if not 1.0 <= self.embed_dim * self.mlp_ratio < 2**31:
            raise ConfigError(f"mlp_ratio is {self.mlp_ratio}; it must be a positive number, such as 4.")
        if not 0.0 <= self.norm_eps < 1.0:
            raise ConfigError(f"norm_eps is {self.norm_eps}; it must lie in [0, 1).")
        if self.time_patches * (self.mel_bins // self.patch_size) * self.embed_dim > 2**27:
            raise ConfigError(
                f"mel_bins {self.mel_bins} in patches of {self.patch_size} and width {self.embed_dim} make a position "
                "table of more than 2^27 numbers."
            )


SIZES = tuple(f.name for f in fields(EncoderSettings) if f.metadata.get("size"))
"""What a checkpoint decides about an encoder that starts from it."""


@dataclass
class MaskSettings(Settings):
    """Which patches the student sees (method section 3)."""

    masking: str = setting("inverse_block", "how patches are masked")
    mask_prob: float = setting(0.8, "fraction of the patches that is masked")
    mask_prob_adjust: float = setting(
        0.07, "added to the visible fraction when the number of blocks is worked out, to make up for overlap"
    )
    mask_length: int = setting(5, "side of a kept block, in patches; odd")

    def check(self) -> None:
        """Fractions and lengths that leave something to see and something to predict."""
        if not 0.0 < self.mask_prob < 1.0:
            raise ConfigError(f"mask_prob is {self.mask_prob}; it must lie strictly between 0 and 1.")
        if self.mask_length < 1 or self.mask_length % 2 == 0:
            raise ConfigError(f"mask_length is {self.mask_length}; it must be odd and at least 1.")
        if not -1.0 <= self.mask_prob_adjust <= 1.0:
            raise ConfigError(f"mask_prob_adjust is {self.mask_prob_adjust}; it must lie between -1 and 1.")

    def blocks(self, patches: int) -> int:
        """Blocks that inverse block masking keeps: floor(N ((1 - mask_prob) + mask_prob_adjust) / mask_length^2).

        Where they are longer than what stays visible there are none, and single patches are kept at random.
        """
        visible_fraction = (1.0 - self.mask_prob) + self.mask_prob_adjust
        return max(0, int(patches * visible_fraction / self.mask_length**2))

    def kept(self, patches: int) -> int:
        """Visible patches of each mask: floor(N (1 - mask_prob)). Raises ConfigError for none or all."""
        # The fraction is worked out in the order that the published numbers were, so that floor() agrees with them.
        kept = int(patches * (1.0 - self.mask_prob))
        if kept < 1 or kept >= patches:
            raise ConfigError(
                f"mask_prob {self.mask_prob} keeps {kept} of {patches} patches; "
                "at least one must stay visible and one masked, so lower mask_prob or raise target_length."
            )
        return kept


@dataclass
class DecoderSettings(Settings):
    """What predicts the targets of masked patches (method section 4)."""

    decoder: str = setting(
        "convolution", "kind of decoder; 'transformer' gains most of what BAT gains, at 3.3 times the work of a step"
    )
    decoder_layers: int = setting(6, "blocks of the decoder")
    decoder_width: int = setting(768, "channels of the decoder")
    decoder_heads: int = setting(12, "attention heads of a Transformer decoder")
    decoder_mlp_ratio: float = setting(4.0, "hidden width of its feed-forward parts over decoder_width")
    decoder_kernel: int = setting(3, "kernel of the decoder's convolutions; odd")
    decoder_groups: int = setting(16, "groups of the decoder's convolutions")
    decoder_noise: float = setting(0.01, "standard deviation of the mask tokens' noise")

    def check(self) -> None:
        """A decoder that can be built."""
        for name, most in (("decoder_layers", 512), ("decoder_kernel", 1023), ("decoder_width", 16384)):
            if getattr(self, name) > most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at most {most:,}.")
        if self.decoder_layers < 1 or self.decoder_kernel < 1 or self.decoder_kernel % 2 == 0:
            raise ConfigError(
                f"a decoder of {self.decoder_layers} layers with kernel {self.decoder_kernel} cannot be built: "
                "it needs at least one layer and an odd kernel."
            )
        heads = self.decoder_heads
        if self.decoder == "transformer" and (heads < 1 or self.decoder_width % heads or self.decoder_width % 4):
            raise ConfigError(
                f"decoder_width {self.decoder_width} must be divisible by 4, for its positions, and by decoder_heads "
                f"{heads}; change one of them."
            )
        if not 1.0 <= self.decoder_width * self.decoder_mlp_ratio < math.inf:
            raise ConfigError(f"decoder_mlp_ratio is {self.decoder_mlp_ratio}; it must be a positive number.")
        whole = self.decoder_width > 0 and self.decoder_groups > 0 and self.decoder_width % self.decoder_groups == 0
        if self.decoder == "convolution" and not whole:
            raise ConfigError(
                f"decoder width {self.decoder_width} is not divisible by its {self.decoder_groups} convolution groups."
            )
        if not 0.0 <= self.decoder_noise < math.inf:
            raise ConfigError(f"decoder_noise is {self.decoder_noise}; it must be 0 or more.")


@dataclass
class TeacherSettings(Settings):
    """The moving average, and what is made of its outputs (method section 5)."""

    targets: str = setting("averaged_feed_forward", "what the student predicts")
    utterance_blocks: int = setting(0, "last blocks that the utterance target is made of; 0: all, SSLAM has 1")
    ema_schedule: str = setting("linear", "how the teacher's decay moves from ema_decay to ema_end_decay")
    ema_decay: float = setting(0.9998, "the teacher's decay at the first update")
    ema_end_decay: float = setting(0.99999, "the teacher's decay after annealing")
    ema_anneal_updates: int = setting(100_000, "updates over which the decay grows")

    def check(self) -> None:
        """Decays in order, a number of blocks."""
        if self.utterance_blocks < 0:
            raise ConfigError(f"utterance_blocks is {self.utterance_blocks}; it is a number of blocks, 0 for all.")
        if not 0.0 <= self.ema_decay <= self.ema_end_decay <= 1.0:
            raise ConfigError(
                f"the teacher's decay runs from {self.ema_decay} to {self.ema_end_decay}; "
                "0 <= start <= end <= 1 must hold."
            )


@dataclass
class MixtureSettings(Settings):
    """Mixtures of clips beside the clips (SSLAM's second stage)."""

    mixtures: bool = setting(False, "whether each clip is also seen mixed with the one before it in the batch")
    foreign_padding: bool = setting(
        True,
        "whether a neighbour's padding is mixed in: it is louder than most sound and then takes the place of the "
        "quieter part of a clip, in the published runs too",
    )


@dataclass
class PretrainingSettings(MixtureSettings, TeacherSettings, DecoderSettings, MaskSettings, EncoderSettings):
    """Everything that the pre-training network is made of."""

    clone_batch: int = setting(16, "masked clones of each clip, which one teacher pass serves")
    compile: bool = setting(False, "compile with torch.compile; on a CPU this needs a C++ compiler")
    compile_or_stop: bool = setting(False, "end a run that cannot be compiled, not only say so and continue")

    def check(self) -> None:
        """At least one clone, and no more blocks asked for than there are."""
        if self.clone_batch < 1:
            raise ConfigError(f"clone_batch is {self.clone_batch}; at least one clone per clip is needed.")
        if self.utterance_blocks > self.depth:
            raise ConfigError(
                f"utterance_blocks is {self.utterance_blocks}, but the model has {self.depth} blocks; 0 takes all."
            )


STEPS = "steps"
"""The pooling that classifies every time step; a clip has of each class the greatest logit."""
POOLINGS = ("cls", "mean", "linear_softmax", STEPS)
"""What of the encoder's output a classifier looks at."""


@dataclass
class HeadSettings(Settings):
    """The classification head (method section 7)."""

    num_classes: int | None = setting(None, "classes; null: as many as the data folder's label descriptors have")
    pooling: str = setting("cls", f"what is classified: one of {', '.join(POOLINGS)}")
    head_norm_eps: float = setting(1e-6, "epsilon of the head's LayerNorm; published Hugging Face files have 1e-5")
    head: str = setting("linear", "'linear' on the last block, or a head on all blocks: cgp, lcgp, attentive")
    head_prototypes: int = setting(10_000, "prototypes of the head 'cgp'")
    head_dropout: float = setting(0.0, "dropout before the head's Linear")

    def check(self) -> None:
        """A head that can be built."""
        if self.head_prototypes < 1:
            raise ConfigError(f"model.head_prototypes is {self.head_prototypes}; it must be at least 1.")
        if not 0.0 <= self.head_dropout < 1.0:
            raise ConfigError(f"model.head_dropout is {self.head_dropout}; it must lie in [0, 1).")
        if self.num_classes is not None and self.num_classes < 1:
            raise ConfigError(f"num_classes is {self.num_classes}; it must be at least 1.")
        if not 0.0 <= self.head_norm_eps < 1.0:
            raise ConfigError(f"head_norm_eps is {self.head_norm_eps}; it must lie in [0, 1).")
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling is {self.pooling!r}; it must be one of {', '.join(POOLINGS)}.")


@dataclass
class ClassifierSettings(HeadSettings, EncoderSettings):
    """An encoder with a classification head, all sizes known."""

    def check(self) -> None:
        """The number of classes must be known by now."""
        if self.num_classes is None:
            raise ConfigError("model.num_classes is not set.")


_HINTS = get_type_hints(EncoderSettings)
_Undecided: Any = make_dataclass(
    "_Undecided",
    [
        (
            f.name,
            _HINTS[f.name] | None if f.name in SIZES else _HINTS[f.name],
            setting(None, f"{f.metadata['help']}; null: model_path's, or {f.default}")
            if f.name in SIZES
            else setting(0.1 if f.name == "drop_path" else f.default, f.metadata["help"]),
        )
        for f in fields(EncoderSettings)
    ],
)
"""An encoder's settings for a run whose checkpoint may decide its sizes; DropPath is on as fine-tuning has it."""


@dataclass
class FineTuningSettings(HeadSettings, _Undecided):
    """A classifier, and what it starts from."""

    model_path: str | None = setting(
        None,
        "checkpoint to start from: one of ours, a published fairseq one, a published Hugging Face folder, or a "
        "name, see EAT.weights; null trains from scratch",
    )
    weights: str = setting("student", "which encoder of model_path: 'student' or 'teacher'")
    freeze_encoder: bool = setting(False, "train the head alone")
    frozen_drop_path: bool = setting(
        False, "whether DropPath acts in a frozen encoder too, as in SSLAM's published linear evaluation"
    )
    layer_decay: float = setting(1.0, "learning rate of block i of L is scaled by layer_decay^(L - i)")
    layer_decay_input: bool = setting(False, "that of patches and CLS by layer_decay^(L + 1), as BAT has it, not by 1")

    def check(self) -> None:
        """A decay that is one."""
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError(f"model.layer_decay is {self.layer_decay}; it must lie in (0, 1], where 1 is off.")

    def classifier(self) -> ClassifierSettings:
        """The classifier to build; sizes that are null are EAT-base's. Raises ConfigError where none can be."""
        return ClassifierSettings.take(vars(self))
