"""Sizes of the GPU measurements: true shapes, and tiny ones to try the script itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from tessera.bench.peer import WIDTHS
from tessera.model.config import ModelConfig
from tessera.model.family import PIXTRAL_12B


@dataclass(frozen=True)
class Sizes:
    """The sizes of all measurements."""

    config: ModelConfig
    kv_cache_bytes: int
    copy_bytes: int
    matrix: int
    prompt: int
    decoded: int
    sequences: int
    prefills: tuple[int, ...]
    image: int  # pixels along a side
    images: int  # in one call
    chat_image: int
    chats: int
    peer_chats: int  # chats that transformers computes at once, with a common mask
    kernel_rows: tuple[int, ...]
    rounds: int

    @property
    def max_model_len(self) -> int:
        return max(*self.prefills, self.prompt + self.decoded) + 64


FULL = Sizes(
    config=PIXTRAL_12B,
    kv_cache_bytes=16 * 2**30,
    copy_bytes=4 * 2**30,
    matrix=8192,
    prompt=128,
    decoded=64,
    sequences=64,
    prefills=(4096, 32_768),
    image=1024,
    images=8,
    chat_image=512,
    chats=64,
    peer_chats=8,
    kernel_rows=(1, 4, 16, 64),
    rounds=3,
)
TINY = Sizes(
    config=dataclasses.replace(
        WIDTHS,
        dim=64,
        n_layers=2,
        head_dim=16,
        hidden_dim=96,
        n_heads=4,
        n_kv_heads=2,
        vocab_size=2048,
        vision_encoder=dataclasses.replace(
            WIDTHS.vision_encoder,
            hidden_size=32,
            image_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
    ),
    kv_cache_bytes=2**21,
    copy_bytes=2**20,
    matrix=64,
    prompt=8,
    decoded=4,
    sequences=4,
    prefills=(32, 80),
    image=64,
    images=2,
    chat_image=32,
    chats=4,
    peer_chats=2,
    kernel_rows=(1,),
    rounds=1,
)
