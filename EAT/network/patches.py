"""Filterbank to patch embeddings (method section 2.1)."""

from __future__ import annotations

from torch import Tensor, nn

from .settings import PATCH_SIZE


class PatchEmbedding(nn.Module):
    """Cuts a filterbank into 16 x 16 patches and projects each to the model width.

    A convolution whose stride equals its kernel is one matrix product over the unfolded patches, and runs as such.
    The weight keeps the convolution's shape (D, 1, 16, 16).
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(1, embed_dim, kernel_size=PATCH_SIZE, stride=PATCH_SIZE)
        nn.init.xavier_uniform_(self.projection.weight.view(embed_dim, -1))

    def forward(self, filterbank: Tensor) -> Tensor:
        """(B, 1, frames, mel bins) to (B, N, D), time-major: the 8 frequency patches of the first time step first."""
        batch, _, frames, bins = filterbank.shape
        patches = filterbank.view(batch, frames // PATCH_SIZE, PATCH_SIZE, bins // PATCH_SIZE, PATCH_SIZE)
        patches = patches.transpose(2, 3).reshape(batch, -1, PATCH_SIZE * PATCH_SIZE)  # (B, N, 256)
        return nn.functional.linear(patches, self.projection.weight.flatten(1), self.projection.bias)
