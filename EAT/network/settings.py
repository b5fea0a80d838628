"""What a model is made of, as plain data.

Defaults are EAT-base of the paper. Shapes throughout the package: B clips, M clones per clip, D model width,
T time patches, F frequency patches (8), N = T * F patches.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from ..errors import ConfigError

PATCH_SIZE = 16
"""Side of a square patch: 16 frames of 10 ms by 16 mel bins."""

MEL_BINS = 128
"""Mel bins of the filterbank."""

FREQUENCY_PATCHES = MEL_BINS // PATCH_SIZE
"""Patches along the frequency axis (F)."""

MAX_TIME_PATCHES = 768
"""Length of the position table along time: 768 patches are 12 288 frames, about two minutes."""


@dataclass(frozen=True)
class EncoderConfig:
    """Width, depth and regularisation of the Transformer encoder."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    drop_path: float = 0.0
    """DropPath rate of the last block; the rate grows linearly from 0 at the first block."""
    activation_checkpointing: bool = False
    """Recompute each block in the backward pass instead of keeping its activations."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "depth", "num_heads"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.embed_dim % self.num_heads:
            raise ConfigError(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}; change one of them."
            )
        if self.embed_dim % 4:
            raise ConfigError(
                f"embed_dim {self.embed_dim} is not divisible by 4, which the sine-cosine positions need."
            )
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path is {self.drop_path}; it must lie in [0, 1).")
        if not 1.0 <= self.embed_dim * self.mlp_ratio < math.inf:
            raise ConfigError(f"mlp_ratio is {self.mlp_ratio}; it must be a positive number.")


@dataclass(frozen=True)
class DecoderConfig:
    """The convolutional decoder that predicts the targets of masked patches."""

    layers: int = 6
    width: int = 768
    kernel: int = 3
    groups: int = 16
    noise_std: float = 0.01
    """Standard deviation of the noise that stands at masked places."""

    def __post_init__(self) -> None:
        if self.layers < 1 or self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(
                f"a decoder of {self.layers} layers with kernel {self.kernel} cannot be built: "
                "it needs at least one layer and an odd kernel."
            )
        if self.width < 1 or self.groups < 1 or self.width % self.groups:
            raise ConfigError(f"decoder width {self.width} is not divisible by its {self.groups} convolution groups.")
        if not 0.0 <= self.noise_std < math.inf:
            raise ConfigError(f"decoder_noise is {self.noise_std}; it must be 0 or more.")


@dataclass(frozen=True)
class MaskConfig:
    """Inverse block masking: keep a share of 1 - mask_prob in square blocks, mask the rest."""

    mask_prob: float = 0.8
    mask_prob_adjust: float = 0.07
    """Added to the kept share when the number of blocks is worked out, to make up for overlap."""
    mask_length: int = 5
    """Side of a block, in patches; odd."""

    def __post_init__(self) -> None:
        if not 0.0 < self.mask_prob < 1.0:
            raise ConfigError(f"mask_prob is {self.mask_prob}; it must lie strictly between 0 and 1.")
        if self.mask_length < 1 or self.mask_length % 2 == 0:
            raise ConfigError(f"mask_length is {self.mask_length}; it must be odd and at least 1.")
        if not math.isfinite(self.mask_prob_adjust):
            raise ConfigError(f"mask_prob_adjust is {self.mask_prob_adjust}; it must be a number.")

    def kept(self, patches: int) -> int:
        """Visible patches of each mask: floor(N (1 - mask_prob)). Raises ConfigError for none or all."""
        # The share is worked out in the order that the published numbers were, so that floor() agrees with them.
        kept = int(patches * (1.0 - self.mask_prob))
        if kept < 1 or kept >= patches:
            raise ConfigError(
                f"mask_prob {self.mask_prob} keeps {kept} of {patches} patches; "
                "at least one must stay visible and one masked, so lower mask_prob or raise target_length."
            )
        return kept

    def blocks(self, patches: int) -> int:
        """Block centres drawn per mask: floor(N ((1 - mask_prob) + adjust) / mask_length^2)."""
        return max(0, int(patches * ((1.0 - self.mask_prob) + self.mask_prob_adjust) / self.mask_length**2))


@dataclass(frozen=True)
class TeacherConfig:
    """Decay of the moving average: from decay_start to decay_end over anneal_updates, then constant."""

    decay_start: float = 0.9998
    decay_end: float = 0.99999
    anneal_updates: int = 100_000

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay_start <= self.decay_end <= 1.0:
            raise ConfigError(
                f"the teacher's decay runs from {self.decay_start} to {self.decay_end}; "
                "0 <= start <= end <= 1 must hold."
            )

    def decay(self, update: int) -> float:
        """Decay used after optimiser update number ``update`` (the first update is number 1)."""
        if update >= self.anneal_updates:
            return self.decay_end
        remaining = 1.0 - update / self.anneal_updates
        return self.decay_end - (self.decay_end - self.decay_start) * remaining


@dataclass(frozen=True)
class PretrainingConfig:
    """Everything that the pre-training network is made of."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    clones: int = 16
    """Masked copies of each clip that one teacher pass serves (M)."""

    def __post_init__(self) -> None:
        if self.clones < 1:
            raise ConfigError(f"clone_batch is {self.clones}; at least one clone per clip is needed.")

    def to_dict(self) -> dict:
        """The configuration as nested plain dicts, fit for a checkpoint."""
        return asdict(self)


POOLINGS = ("cls", "mean", "linear_softmax")


@dataclass(frozen=True)
class ClassifierConfig:
    """An encoder with a classification head."""

    num_classes: int
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    pooling: str = "cls"
    head_norm_eps: float = 1e-6
    """Epsilon of the head's LayerNorm; published Hugging Face files were made with 1e-5."""

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ConfigError(f"num_classes is {self.num_classes}; it must be at least 1.")
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling is {self.pooling!r}; it must be one of {', '.join(POOLINGS)}.")


def check_target_length(target_length: int, what: str = "target_length") -> int:
    """Return the number of time patches of ``target_length`` frames.

    Raises ConfigError unless it is a positive multiple of 16 within the position table.
    """
    if target_length < PATCH_SIZE or target_length % PATCH_SIZE:
        lower = max(PATCH_SIZE, target_length // PATCH_SIZE * PATCH_SIZE)
        raise ConfigError(
            f"{what} is {target_length}; it must be a multiple of {PATCH_SIZE} frames, "
            f"such as {lower} or {math.ceil(max(target_length, 1) / PATCH_SIZE) * PATCH_SIZE}."
            if target_length > 0
            else f"{what} is {target_length}; it must be a positive multiple of {PATCH_SIZE} frames, such as 1024."
        )
    patches = target_length // PATCH_SIZE
    if patches > MAX_TIME_PATCHES:
        raise ConfigError(
            f"{what} is {target_length} frames, but positions reach {MAX_TIME_PATCHES * PATCH_SIZE} frames "
            "(about two minutes); use shorter clips or windows."
        )
    return patches


@dataclass
class PretrainingSettings:
    """The pre-training model's settings as one flat list, under the names that YAML files and checkpoints use."""

    embed_dim: int = field(default=768, metadata={"help": "width of the Transformer"})
    depth: int = field(default=12, metadata={"help": "Transformer blocks"})
    num_heads: int = field(default=12, metadata={"help": "attention heads"})
    mlp_ratio: float = field(default=4.0, metadata={"help": "hidden width of the feed-forward part over embed_dim"})
    norm_eps: float = field(default=1e-6, metadata={"help": "epsilon of the encoder's LayerNorms"})
    drop_path: float = field(default=0.0, metadata={"help": "DropPath rate of the last block"})
    activation_checkpointing: bool = field(
        default=False, metadata={"help": "recompute blocks in the backward pass to save memory"}
    )
    compile: bool = field(
        default=False, metadata={"help": "compile blocks with torch.compile; on a CPU this needs a C++ compiler"}
    )
    clone_batch: int = field(default=16, metadata={"help": "masked clones per clip"})
    mask_prob: float = field(default=0.8, metadata={"help": "share of patches that is masked"})
    mask_prob_adjust: float = field(
        default=0.07, metadata={"help": "added to the kept share when the number of blocks is worked out"}
    )
    mask_length: int = field(default=5, metadata={"help": "side of a kept block, in patches"})
    decoder_layers: int = field(default=6, metadata={"help": "convolution blocks of the decoder"})
    decoder_width: int = field(default=768, metadata={"help": "channels of the decoder"})
    decoder_kernel: int = field(default=3, metadata={"help": "kernel of the decoder's convolutions"})
    decoder_groups: int = field(default=16, metadata={"help": "groups of the decoder's convolutions"})
    decoder_noise: float = field(default=0.01, metadata={"help": "standard deviation of the noise at masked places"})
    ema_decay: float = field(default=0.9998, metadata={"help": "the teacher's decay at the first update"})
    ema_end_decay: float = field(default=0.99999, metadata={"help": "the teacher's decay after annealing"})
    ema_anneal_updates: int = field(default=100_000, metadata={"help": "updates over which the decay grows"})

    def config(self) -> PretrainingConfig:
        """The network's configuration. Raises ConfigError where settings cannot work together."""
        return PretrainingConfig(
            encoder=EncoderConfig(
                embed_dim=self.embed_dim,
                depth=self.depth,
                num_heads=self.num_heads,
                mlp_ratio=self.mlp_ratio,
                norm_eps=self.norm_eps,
                drop_path=self.drop_path,
                activation_checkpointing=self.activation_checkpointing,
            ),
            decoder=DecoderConfig(
                layers=self.decoder_layers,
                width=self.decoder_width,
                kernel=self.decoder_kernel,
                groups=self.decoder_groups,
                noise_std=self.decoder_noise,
            ),
            mask=MaskConfig(self.mask_prob, self.mask_prob_adjust, self.mask_length),
            teacher=TeacherConfig(self.ema_decay, self.ema_end_decay, self.ema_anneal_updates),
            clones=self.clone_batch,
        )


ENCODER_SIZES = ("embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps")
"""What a checkpoint to start from decides about the classifier's encoder."""


@dataclass
class ClassificationSettings:
    """The classifier's settings as one flat list, under the names that YAML files and checkpoints use."""

    num_classes: int | None = field(
        default=None, metadata={"help": "classes; null: as many as the data folder's label descriptors have"}
    )
    model_path: str | None = field(
        default=None,
        metadata={
            "help": "checkpoint to start from: one of ours, a published fairseq one, or a published Hugging Face "
            "folder; null trains from scratch"
        },
    )
    weights: str = field(default="student", metadata={"help": "which encoder of model_path: 'student' or 'teacher'"})
    pooling: str = field(default="cls", metadata={"help": f"what is classified: one of {', '.join(POOLINGS)}"})
    freeze_encoder: bool = field(default=False, metadata={"help": "train the head alone"})
    layer_decay: float = field(
        default=1.0, metadata={"help": "learning rate of block i of L is scaled by layer_decay^(L - i)"}
    )
    embed_dim: int | None = field(default=None, metadata={"help": "width; null: model_path's, or 768"})
    depth: int | None = field(default=None, metadata={"help": "Transformer blocks; null: the same, or 12"})
    num_heads: int | None = field(default=None, metadata={"help": "attention heads; null: the same, or 12"})
    mlp_ratio: float | None = field(
        default=None, metadata={"help": "hidden width of the feed-forward part over embed_dim; null: the same, or 4"}
    )
    norm_eps: float | None = field(
        default=None, metadata={"help": "epsilon of the encoder's LayerNorms; null: the same, or 1e-6"}
    )
    head_norm_eps: float = field(default=1e-6, metadata={"help": "epsilon of the head's LayerNorm"})
    drop_path: float = field(default=0.1, metadata={"help": "DropPath rate of the last block"})
    activation_checkpointing: bool = field(
        default=False, metadata={"help": "recompute blocks in the backward pass to save memory"}
    )

    def config(self) -> ClassifierConfig:
        """The network's configuration; sizes that are null are EAT-base's.

        Raises:
            ConfigError: where settings cannot work together.
        """
        if self.num_classes is None:
            raise ConfigError("model.num_classes is not set.")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError(f"model.layer_decay is {self.layer_decay}; it must lie in (0, 1], where 1 is off.")
        sizes = {name: getattr(self, name) for name in ENCODER_SIZES if getattr(self, name) is not None}
        encoder = EncoderConfig(
            **sizes, drop_path=self.drop_path, activation_checkpointing=self.activation_checkpointing
        )
        return ClassifierConfig(self.num_classes, encoder, self.pooling, self.head_norm_eps)
