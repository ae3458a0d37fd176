"""Embeddings of a pack's images: pixels are decoded when a pack needs them, a frozen encoder runs once an image.

A frozen encoder keeps no graph, and what it gives is kept (`features`). Each image is then encoded alone, so that its
numbers do not depend on what was beside it: a resumed run equals one that never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tessera.finetune.features import Features
from tessera.finetune.samples import Picture
from tessera.model.pixtral import Pixtral
from tessera.model.vision import pixels_to_patches
from tessera.sources import ImageLimits


class Tower:
    """The images' way into the decoder; `trained` if the encoder itself learns."""

    def __init__(self, model: Pixtral, limits: ImageLimits, *, trained: bool, features: Features | None = None) -> None:
        self.model, self.limits, self.trained = model, limits, trained
        self.features = Features() if features is None else features

    def embed(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Return each image's embeddings, with gradients of what is trained."""
        if not pictures:
            return []
        if self.trained:
            return self.model.encode_images([self._pixels(picture) for picture in pictures])
        return [self._adapted(picture) for picture in pictures]

    def unseen(self) -> Tensor:
        """Return 0, computed from an empty image by all that is trained: what a rank without images adds."""
        vision = self.model.config.vision_encoder
        merge = vision.spatial_merge_size
        if self.trained:
            size = vision.token_size
            (embeddings,) = self.model.encode_images([torch.zeros(vision.num_channels, size, size)])
        else:
            features = torch.zeros(merge * merge, vision.hidden_size, device=self.model.device, dtype=self.model.dtype)
            embeddings = self.model.adapt(features, self.model.vision_encoder.plan([(merge, merge)]))
        return 0 * embeddings.float().sum()

    def _pixels(self, picture: Picture) -> Tensor:
        return picture.pixels(self.model.config.vision_encoder, self.limits)

    def _adapted(self, picture: Picture) -> Tensor:
        vision = self.model.config.vision_encoder
        merge = vision.spatial_merge_size
        plan = self.model.vision_encoder.plan([(picture.grid[0] * merge, picture.grid[1] * merge)])
        features = self.features.get(picture)
        if features is None:
            patches = pixels_to_patches(
                self._pixels(picture).to(self.model.device, self.model.dtype), vision.patch_size
            )
            with torch.no_grad():
                features = self.model.vision_encoder(patches, plan)
            self.features.keep(picture, features.cpu())
        return self.model.adapt(features.to(self.model.device), plan)
