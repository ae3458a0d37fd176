"""Computes a finished batch: encodes new images, lays out embeddings, runs the decoder, returns logits or ids.

It knows nothing of requests; only the caches keep state between steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from tessera.engine.batch import Batch
from tessera.engine.image_cache import ImageCache
from tessera.engine.memory import MAX_PATCHES_PER_CALL
from tessera.engine.native_step import NativeSteps
from tessera.images import PreparedImage
from tessera.linears.slots import Stretch
from tessera.lora.adapter import LoraAdapter
from tessera.lora.slots import Slots
from tessera.machine import upload
from tessera.model.pixtral import Pixtral

Keyed = tuple[bytes, PreparedImage]  # the key of an image's embeddings, and the image


class Runner:
    """`slots` hold the adapters that rows of a batch may name; None: the model has no slots."""

    def __init__(self, model: Pixtral, images: ImageCache, slots: Slots | None = None) -> None:
        self.model = model
        self.images = images
        self.slots = slots
        self._decoder = NativeSteps(model, None if slots is None else slots.routing)

    def fill(self, slot: int, adapter: LoraAdapter) -> None:
        """Put an adapter into a slot."""
        if self.slots is None:
            raise RuntimeError("the model has no slots for adapters")
        self.slots.fill(slot, adapter)

    @torch.inference_mode()
    def run(self, batch: Batch, penalties_V: Tensor | None = None) -> tuple[Tensor, list[int] | None]:
        """Return the decoder's output (T, D) for the step's tokens, and cache their keys and values.

        With penalties, which are added to the logits, the likeliest ids of all `sampled_rows_R` are returned too
        where the same call gives them.
        """
        if len(batch.sampled_rows_R) != len(batch.ids_T):
            penalties_V = None
        self._count(batch)
        self.images.pin(rows.key for rows in batch.images)
        for slot in sorted({rows.slot for rows in batch.images}, key=lambda slot: -1 if slot is None else slot):
            self._encode({rows.key: rows.image for rows in batch.images if rows.slot == slot}, slot)
        embeddings = [self.images[rows.key][rows.start : rows.end] for rows in batch.images]
        hidden_TD = self.model.embed(batch.ids_T, embeddings, batch.num_image_tokens)
        with self._routed(batch.stretches):
            return self._decoder(hidden_TD, batch.plan, penalties_V)

    @torch.inference_mode()
    def logits(self, hidden_RD: Tensor, stretches: Sequence[Stretch] = ()) -> Tensor:
        """Return logits (R, V) in float32 of the given rows."""
        with self._routed(stretches):
            return self.model.logits(hidden_RD)

    def _routed(self, stretches: Sequence[Stretch]) -> AbstractContextManager[None]:
        return nullcontext() if self.slots is None or not stretches else self.slots.routed(stretches)

    def _count(self, batch: Batch) -> None:
        begun = [rows.key for rows in batch.images if rows.begins]
        self.images.queries += len(begun)
        self.images.hits += len(begun) - len({key for key in begun if key not in self.images})

    def _encode(self, needed: dict[bytes, PreparedImage], slot: int | None) -> None:
        """Encode the needed images of one adapter that are not cached, several in one call."""
        missing = [(key, image) for key, image in needed.items() if key not in self.images]
        for group in _calls(missing, self.model.config.vision_encoder.patch_size):
            pixels = [upload(image.pixels_CHW, self.model.dtype, self.model.device) for _, image in group]
            with self._routed(() if slot is None else ((slot, 0, None),)):
                encoded = self.model.encode_images(pixels)
            for (key, _), embeddings in zip(group, encoded, strict=True):
                # A copy: a slice would keep the memory of the whole call alive.
                self.images.put(key, embeddings.clone())


def _calls(images: Iterable[Keyed], patch_size: int) -> Iterator[list[Keyed]]:
    """Split into groups of at most MAX_PATCHES_PER_CALL patches, each with at least one image."""
    group: list[Keyed] = []
    patches = 0
    for key, image in images:
        _, height, width = image.pixels_CHW.shape
        count = (height // patch_size) * (width // patch_size)
        if group and patches + count > MAX_PATCHES_PER_CALL:
            yield group
            group, patches = [], 0
        group.append((key, image))
        patches += count
    if group:
        yield group
