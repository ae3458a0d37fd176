"""The same random model twice: in transformers, and in Tessera read from what transformers saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.model.pixtral import Pixtral
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.fill import empty_model, fill_model

DRAWN = 1_048_583  # values of a parameter, which are then repeated; a prime, so that no two rows are equal


@dataclass
class Pair:
    """An oracle and ours, float32, with equal weights."""

    theirs: Any
    ours: Pixtral

    @property
    def token_side(self) -> int:
        return self.ours.config.vision_encoder.token_size

    def prompt(self, grids: Sequence[tuple[int, int]], text: Sequence[int]) -> Tensor:
        """Ids of a conversation with images of these grids in tokens, then text."""
        vision = self.ours.config.vision_encoder
        ids = [1, 3]
        for rows, columns in grids:
            image = ([vision.image_token_id] * columns + [vision.image_break_token_id]) * rows
            ids += [*image[:-1], vision.image_end_token_id]
        return torch.tensor([*ids, *text])

    def pixels(self, grids: Sequence[tuple[int, int]], seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        side = self.token_side
        return [torch.randn(3, rows * side, columns * side, generator=generator) for rows, columns in grids]

    def their_pixels(self, pixels: Sequence[Tensor]) -> dict[str, Tensor]:
        """transformers' form: one padded batch and the true sizes."""
        if not pixels:
            return {}
        height, width = (max(image.shape[axis] for image in pixels) for axis in (1, 2))
        batch = torch.zeros(len(pixels), 3, height, width)
        for index, image in enumerate(pixels):
            batch[index, :, : image.shape[1], : image.shape[2]] = image
        return {"pixel_values": batch, "image_sizes": torch.tensor([list(image.shape[1:]) for image in pixels])}


def make_pair(folder: Path, *, merge: bool = False, seed: int = 0, std: float = 0.08, **sizes: Any) -> Pair:
    """A random transformers model saved to `folder` and read back by our loader.

    `sizes` are VISION_ and TEXT_ settings of the two transformers configs; with TEXT_rope_parameters of YaRN it is a
    Ministral 3, and TEXT_tie_word_embeddings makes its head the embeddings.
    """
    # Here, since it takes seconds and every process that collects the tests imports this module.
    from transformers import (
        LlavaConfig,
        LlavaForConditionalGeneration,
        Ministral3Config,
        Mistral3Config,
        Mistral3ForConditionalGeneration,
        MistralConfig,
        PixtralVisionConfig,
    )
    from transformers.initialization import no_init_weights

    torch.manual_seed(seed)
    vision = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": 256, "patch_size": 8, "hidden_act": "silu",
    } | {key.removeprefix("VISION_"): value for key, value in sizes.items() if key.startswith("VISION_")}  # fmt: skip
    text = {
        "vocab_size": 276, "hidden_size": 80, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "rms_norm_eps": 1e-5, "rope_theta": 1e9,
        "sliding_window": None, "max_position_embeddings": 4096,
    } | {key.removeprefix("TEXT_"): value for key, value in sizes.items() if key.startswith("TEXT_")}  # fmt: skip
    shared = {
        "vision_config": PixtralVisionConfig(**vision),
        "text_config": (Ministral3Config if "rope_parameters" in text else MistralConfig)(**text),
        "image_token_index": 10, "projector_hidden_act": "gelu", "vision_feature_layer": -1,
        "tie_word_embeddings": text.get("tie_word_embeddings", False),
    }  # fmt: skip
    with no_init_weights():  # they are drawn below
        if merge:
            theirs = Mistral3ForConditionalGeneration(
                Mistral3Config(**shared, spatial_merge_size=2, multimodal_projector_bias=False)
            )
        else:
            theirs = LlavaForConditionalGeneration(LlavaConfig(**shared, vision_feature_select_strategy="full"))
    theirs.tie_weights()  # a part of the initialization that was left out
    for name, parameter in theirs.named_parameters():
        # Norms near one, or attention would be so even that no scale of queries shows.
        flat = parameter.data.view(-1)
        drawn = flat[:DRAWN].normal_(mean=float("norm" in name or "ln_pre" in name), std=std)
        for start in range(DRAWN, len(flat), DRAWN):
            flat[start : start + DRAWN] = drawn[: len(flat) - start]
    theirs.eval().save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    ours = empty_model(checkpoint.config)
    fill_model(ours, checkpoint.sources, dtype=torch.float32, device=torch.device("cpu"))
    return Pair(theirs, ours.eval())
