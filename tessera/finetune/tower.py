"""Embeddings of a pack's images: pixels are decoded when a pack needs them, a frozen encoder runs once an image.

A frozen encoder keeps no graph, and what it gives is kept in memory up to a limit. Each image is then encoded
alone, so that its numbers do not depend on what was beside it: a resumed run equals one that never stopped.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tessera.finetune.samples import Picture
from tessera.model.pixtral import Pixtral
from tessera.model.vision import pixels_to_patches
from tessera.sources import ImageLimits

KEPT_BYTES = 2 << 30  # of features on the CPU


class Tower:
    """The images' way into the decoder; `trained` if the encoder itself learns."""

    def __init__(self, model: Pixtral, limits: ImageLimits, *, trained: bool, kept_bytes: int = KEPT_BYTES) -> None:
        self.model, self.limits, self.trained, self.kept_bytes = model, limits, trained, kept_bytes
        self._kept: OrderedDict[tuple[str | Path, int], Tensor] = OrderedDict()
        self._bytes = 0

    def embed(self, pictures: Sequence[Picture]) -> list[Tensor]:
        """Return each image's embeddings, with gradients of what is trained."""
        if not pictures:
            return []
        if self.trained:
            return self.model.encode_images([self._pixels(picture) for picture in pictures])
        return [self._adapted(picture) for picture in pictures]

    def _pixels(self, picture: Picture) -> Tensor:
        return picture.pixels(self.model.config.vision_encoder, self.limits)

    def _adapted(self, picture: Picture) -> Tensor:
        vision = self.model.config.vision_encoder
        merge = vision.spatial_merge_size
        plan = self.model.vision_encoder.plan([(picture.grid[0] * merge, picture.grid[1] * merge)])
        key = picture.source, picture.side
        features = self._kept.get(key)
        if features is None:
            patches = pixels_to_patches(
                self._pixels(picture).to(self.model.device, self.model.dtype), vision.patch_size
            )
            with torch.no_grad():
                features = self.model.vision_encoder(patches, plan)
            self._keep(key, features.cpu())
        else:
            self._kept.move_to_end(key)
        return self.model.adapt(features.to(self.model.device), plan)

    def _keep(self, key: tuple[str | Path, int], features: Tensor) -> None:
        self._kept[key] = features
        self._bytes += features.nbytes
        while self._bytes > self.kept_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
