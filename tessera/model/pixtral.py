"""The whole model: encodes images, puts their embeddings among the tokens', computes logits.

The steps are separate methods because the engine caches between them: an image is encoded once and
its embeddings kept. Only image tokens are replaced, in reading order; break and end tokens are
ordinary text embeddings. Source: arXiv 2410.07073, section 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tessera.model.attention import AttentionPlan, VisionPlan
from tessera.model.block import RMSNorm
from tessera.model.config import ModelConfig
from tessera.model.decoder import DecoderBlock
from tessera.model.linear import Linear
from tessera.model.rope import decoder_rotations
from tessera.model.vision import (
    VISION_NORM_EPS,
    PatchMerger,
    VisionEncoder,
    VisionLanguageAdapter,
    pixels_to_patches,
)


class Pixtral(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        vision = config.vision_encoder
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(DecoderBlock(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = Linear(config.dim, config.vocab_size, bias=False)
        self.vision_encoder = VisionEncoder(vision)
        self.vision_language_adapter = VisionLanguageAdapter(vision, config.dim)
        self.pre_mm_projector_norm = (
            RMSNorm(vision.hidden_size, VISION_NORM_EPS) if vision.add_pre_mm_projector_layer_norm else None
        )
        self.patch_merger = PatchMerger(vision) if vision.spatial_merge_size > 1 else None

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of hidden states, taken from the norms since linears may be quantized."""
        return self.norm.weight.dtype

    def encode_images(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return embeddings (tokens, D) of each image's normalised pixels (C, H, W), in the same order.

        H and W are multiples of the side of one token; row-major, without break and end tokens.
        """
        size = self.config.vision_encoder.patch_size
        grids = [(image.shape[1] // size, image.shape[2] // size) for image in images]
        patches_PX = torch.cat([pixels_to_patches(image.to(self.device, self.dtype), size) for image in images])
        plan = self.vision_encoder.plan(grids)
        embeddings = self.adapt(self.vision_encoder(patches_PX, plan), plan)
        merged_patches = self.config.vision_encoder.spatial_merge_size**2
        return list(embeddings.split([rows * columns // merged_patches for rows, columns in grids]))

    def adapt(self, features_PE: Tensor, plan: VisionPlan) -> Tensor:
        """Turn vision features (P, E) into embeddings (tokens, D), with norm and merge if the model has them."""
        if self.pre_mm_projector_norm is not None:
            features_PE = self.pre_mm_projector_norm(features_PE)
        if self.patch_merger is not None:
            features_PE = self.patch_merger(features_PE, plan.grids)
        out: Tensor = self.vision_language_adapter(features_PE)
        return out

    def embed(self, ids_T: Tensor, images: Sequence[Tensor], num_image_tokens: int | None = None) -> Tensor:
        """Return token embeddings (T, D) with the image tokens replaced by `images`, in reading order.

        Pass `num_image_tokens` if known: counting them on a GPU waits for it.
        Raises ValueError when the numbers differ: a silent mismatch would shift every image.
        """
        hidden_TD: Tensor = self.tok_embeddings(ids_T)
        image_id = self.config.vision_encoder.image_token_id
        count = int((ids_T == image_id).sum()) if num_image_tokens is None else num_image_tokens
        given = sum(len(image) for image in images)
        if count != given:
            raise ValueError(f"the prompt has {count} image tokens, the images give {given} embeddings")
        if given:
            embeddings = torch.cat(list(images)).to(hidden_TD.dtype)
            hidden_TD = hidden_TD.masked_scatter((ids_T == image_id)[:, None], embeddings)
        return hidden_TD

    def forward(self, hidden_TD: Tensor, plan: AttentionPlan) -> Tensor:
        """Run the decoder over the step's tokens; returns the final, normed hidden states (T, D)."""
        rotations = decoder_rotations(plan.positions_T, self.config)
        for layer in self.layers:
            hidden_TD = layer(hidden_TD, plan, rotations)
        out: Tensor = self.norm(hidden_TD)
        return out

    def logits(self, hidden_RD: Tensor) -> Tensor:
        """Return next-token logits (R, V) in float32 for the rows to be sampled."""
        out: Tensor = self.output(hidden_RD)
        return out.float()
