"""EAT for transformers: configuration and models, by the published tensor names.

This file stands beside the weights in a Hugging Face folder that EAT writes, and transformers runs it there; it needs
torch and transformers alone. ``AutoModel`` gives features, ``AutoModelForAudioClassification`` the logits of a
fine-tuned checkpoint, both with ``trust_remote_code=True``. ``AutoFeatureExtractor`` makes their input of waveforms,
mono at 16 kHz.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, SequenceClassifierOutput


class EATConfig(PretrainedConfig):
    """Sizes, by the published names. ``eat`` holds what the published format has no names for."""

    model_type = "eat"
    attribute_map = {  # noqa: RUF012
        "hidden_size": "embed_dim",
        "num_hidden_layers": "depth",
        "num_attention_heads": "num_heads",
    }

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    patch_size: int = 16
    mel_bins: int = 128
    max_length: int = 768
    norm_eps: float = 1e-6
    num_classes: int = 527
    eat: dict[str, Any] | None = None

    def __post_init__(self, **others: Any) -> None:
        others.setdefault("num_labels", self.num_classes if self.id2label is None else len(self.id2label))
        super().__post_init__(**others)


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D)."""
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A post-norm Transformer block: r = norm1(x + attn(x)), then norm2(r + mlp(r))."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(dim, eps=config.norm_eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, hidden), "fc2": nn.Linear(hidden, dim)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D)."""
        r = self.norm1(x + self.attn(x))
        return self.norm2(r + self.mlp["fc2"](F.gelu(self.mlp["fc1"](r))))


class PositionalEncoder(nn.Module):
    """Two-dimensional sine-cosine positions, time-major; half of the width for frequency, half for time."""

    positions: Tensor

    def __init__(self, config: EATConfig) -> None:
        super().__init__()
        self.frequency, self.time = config.mel_bins // config.patch_size, config.max_length
        self.register_buffer("positions", torch.zeros(1, self.time * self.frequency, config.embed_dim))

    def table(self) -> Tensor:
        """What the buffer holds where no checkpoint says otherwise."""
        quarter = self.positions.shape[-1] // 4
        rates = 10000.0 ** (-torch.arange(quarter) / quarter)
        row = torch.arange(self.time * self.frequency)[:, None]
        angles = [(row % self.frequency) * rates, (row // self.frequency) * rates]
        return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)[None]


class Network(nn.Module):
    """Everything that has weights; a head where ``classes`` is not 0."""

    def __init__(self, config: EATConfig, classes: int = 0) -> None:
        super().__init__()
        dim, size = config.embed_dim, config.patch_size
        self.extra_tokens = nn.Parameter(torch.zeros(1, 1, dim))
        self.local_encoder = nn.Sequential()
        self.local_encoder.add_module("proj", nn.Conv2d(1, dim, kernel_size=size, stride=size))
        self.fixed_positional_encoder = PositionalEncoder(config)
        self.pre_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.patch_size = size
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        if classes:
            self.fc_norm = nn.LayerNorm(dim, eps=float((config.eat or {}).get("head_norm_eps") or 1e-5))
            self.head = nn.Linear(dim, classes)

    def forward(self, filterbank: Tensor) -> list[Tensor]:
        """(B, frames, bins) normalised to the blocks' input and every block's output, (B, 1 + N, D), CLS first."""
        if filterbank.ndim == 4:
            filterbank = filterbank[:, 0]
        size, positions = self.patch_size, self.fixed_positional_encoder.positions
        if filterbank.shape[1] % size or filterbank.shape[1] // size > self.fixed_positional_encoder.time:
            raise ValueError(
                f"{filterbank.shape[1]} frames are no multiple of {size}, or more than the "
                f"{self.fixed_positional_encoder.time * size} that positions reach."
            )
        patches = self.local_encoder(filterbank[:, None]).flatten(2).transpose(1, 2)
        patches = patches + positions[:, : patches.shape[1]].to(patches.dtype)
        tokens = torch.cat([self.extra_tokens.expand(len(patches), -1, -1), patches], dim=1)
        states = [self.pre_norm(tokens)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def classify(self, tokens: Tensor, pooling: str) -> Tensor:
        """(B, 1 + N, D) to (B, classes) logits."""
        if pooling == "linear_softmax":
            probabilities = self.head(self.fc_norm(tokens[:, 1:])).float().sigmoid()
            pooled = probabilities.square().sum(dim=1) / probabilities.sum(dim=1).clamp(min=1e-7)
            return torch.logit(pooled, eps=1e-6)
        return self.head(self.fc_norm(tokens[:, 1:].mean(dim=1) if pooling == "mean" else tokens[:, 0]))


class EATPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config_class = EATConfig
    base_model_prefix = "model"
    main_input_name = "input_values"
    _no_split_modules = ["Block"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PositionalEncoder):
            module.positions.copy_(module.table())
        elif isinstance(module, Network):
            nn.init.normal_(module.extra_tokens)


class EATModel(EATPreTrainedModel):
    """Features: ``last_hidden_state`` (B, 1 + N, D) is CLS, then patches, 8 every 160 ms; ``pooler_output`` is CLS."""

    _keys_to_ignore_on_load_unexpected = [r"model\.fc_norm\.", r"model\.head\."]  # noqa: RUF012

    def __init__(self, config: EATConfig) -> None:
        super().__init__(config)
        self.model = Network(config)
        self.post_init()

    def forward(
        self, input_values: Tensor, output_hidden_states: bool = False, return_dict: bool = True, **others: Any
    ) -> BaseModelOutputWithPooling | tuple[Any, ...]:
        """Encode normalised filterbanks (B, frames, 128), frames in multiples of 16."""
        states = self.model(input_values)
        hidden = tuple(states) if output_hidden_states else None
        found = BaseModelOutputWithPooling(
            last_hidden_state=states[-1], pooler_output=states[-1][:, 0], hidden_states=hidden
        )
        return found if return_dict else found.to_tuple()


class EATForAudioClassification(EATPreTrainedModel):
    """Logits (B, classes) of a fine-tuned checkpoint; a sigmoid or a softmax makes scores, as ``problem_type`` says."""

    def __init__(self, config: EATConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = Network(config, config.num_labels or 0)
        self.post_init()

    def forward(
        self,
        input_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        **others: Any,
    ) -> SequenceClassifierOutput | tuple[Any, ...]:
        """Classify normalised filterbanks (B, frames, 128); with labels also a loss."""
        states = self.model(input_values)
        logits = self.model.classify(states[-1], (self.config.eat or {}).get("pooling", "cls"))
        loss = None
        if labels is not None and self.config.problem_type == "single_label_classification":
            loss = F.cross_entropy(logits, labels)
        elif labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        hidden = tuple(states) if output_hidden_states else None
        found = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden)
        return found if return_dict else found.to_tuple()
