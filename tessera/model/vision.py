"""The vision encoder, and the adapter that projects its patches to the decoder's width.

Any number of images of any sizes are encoded in one call: their patches lie end to end in one row,
and each image attends only to itself. There is no norm after the last layer. The optional merge
(Mistral Small 3.1) joins 2x2 patches into one token. Source: arXiv 2410.07073, section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.kernels.packed_weight import PackedWeight
from tessera.kernels.wide_linear import linear
from tessera.model.attention import Attention, DenseVisionPlan, VisionPlan
from tessera.model.block import FeedForward, RMSNorm
from tessera.model.config import VisionConfig
from tessera.model.linear import Linear
from tessera.model.rope import rotation_2d

VISION_NORM_EPS = 1e-5  # fixed in the released encoders; not in any config file


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        heads = config.num_attention_heads
        self.attention = Attention(config.hidden_size, heads, heads, config.head_dim)
        self.feed_forward = FeedForward(config.hidden_size, config.intermediate_size)
        self.attention_norm = RMSNorm(config.hidden_size, VISION_NORM_EPS)
        self.ffn_norm = RMSNorm(config.hidden_size, VISION_NORM_EPS)

    def forward(self, hidden_PE: Tensor, plan: VisionPlan) -> Tensor:
        attended = plan.attend(*self.attention.project(self.attention_norm(hidden_PE), plan.rotations))
        hidden_PE = hidden_PE + self.attention.wo(attended.flatten(-2))
        out: Tensor = hidden_PE + self.feed_forward(self.ffn_norm(hidden_PE))
        return out


class VisionTransformer(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.num_hidden_layers))

    def forward(self, hidden_PE: Tensor, plan: VisionPlan) -> Tensor:
        for layer in self.layers:
            hidden_PE = layer(hidden_PE, plan)
        return hidden_PE


class VisionEncoder(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        size = config.patch_size
        self.patch_conv = nn.Conv2d(config.num_channels, config.hidden_size, size, stride=size, bias=False)
        self.ln_pre = RMSNorm(config.hidden_size, VISION_NORM_EPS)
        self.transformer = VisionTransformer(config)

    def plan(self, grids: Sequence[tuple[int, int]]) -> DenseVisionPlan:
        """Return the plan for images of these grids, in patches (rows, columns)."""
        device = self.patch_conv.weight.device
        rotation = rotation_2d(grids, self.config.head_dim, self.config.rope_theta, device)
        in_8_bits = all(_is_in_8_bits(layer.get_submodule("attention.wq")) for layer in self.transformer.layers)
        return DenseVisionPlan(grids, rotation, in_8_bits=in_8_bits)

    def forward(self, patches_PX: Tensor, plan: VisionPlan) -> Tensor:
        """Return features (P, E) of patches (P, C * patch * patch), each image's in row-major order."""
        # A convolution whose stride is its kernel is one matrix product over whole patches.
        hidden_PE = linear(patches_PX, self.patch_conv.weight.flatten(1))
        out: Tensor = self.transformer(self.ln_pre(hidden_PE), plan)
        return out


def _is_in_8_bits(linear: nn.Module) -> bool:
    weight = getattr(linear, "quantized", None)
    return isinstance(weight, PackedWeight) and weight.bits == 8


def pixels_to_patches(pixels_CHW: Tensor, patch_size: int) -> Tensor:
    """Cut an image into patches (P, C * patch * patch) in row-major order, channel first in each."""
    channels, height, width = pixels_CHW.shape
    rows, columns = height // patch_size, width // patch_size
    tiles = pixels_CHW.reshape(channels, rows, patch_size, columns, patch_size)
    return tiles.permute(1, 3, 0, 2, 4).reshape(rows * columns, channels * patch_size * patch_size)


class VisionLanguageAdapter(nn.Module):
    """Two linears around an exact (erf) GELU, from the vision width to the decoder's."""

    def __init__(self, config: VisionConfig, dim: int) -> None:
        super().__init__()
        self.w_in = Linear(config.hidden_size, dim, bias=config.adapter_bias)
        self.w_out = Linear(dim, dim, bias=config.adapter_bias)

    def forward(self, features_PE: Tensor) -> Tensor:
        out: Tensor = self.w_out(F.gelu(self.w_in(features_PE)))
        return out


class PatchMerger(nn.Module):
    """Joins each square of merge x merge patches into one token of the same width.

    The square's features are ordered channel by channel (each channel's patches together, row-major),
    as `F.unfold` orders them. Rows and columns of every grid must be multiples of the merge size.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.merge = config.spatial_merge_size
        self.merging_layer = Linear(config.hidden_size * self.merge**2, config.hidden_size, bias=False)

    def forward(self, features_PE: Tensor, grids: Sequence[tuple[int, int]]) -> Tensor:
        merge = self.merge
        images = features_PE.split([rows * columns for rows, columns in grids])
        squares = [
            image.reshape(rows // merge, merge, columns // merge, merge, -1)
            .permute(0, 2, 4, 1, 3)
            .flatten(2)
            .flatten(0, 1)
            for image, (rows, columns) in zip(images, grids, strict=True)
        ]
        out: Tensor = self.merging_layer(torch.cat(squares))
        return out
