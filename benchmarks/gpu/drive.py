"""Meaningless prompts, and replies to them by our engine and by transformers."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.sizes import Sizes
from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.images import PreparedImage
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.prompt import ImageSpan, Prompt
from tessera.sampling import SamplingParams

FIRST_TEXT_ID = 1000  # below are special tokens


class IdTokenizer:
    """A tokenizer of ids without texts, with what the engine needs when only speed is measured."""

    bos_id, eos_id, opens_with_space = 1, 2, False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.special_ids = frozenset(range(FIRST_TEXT_ID))
        self.prompt_only_ids = self.special_ids - {self.eos_id}

    def token_bytes(self, token_id: int) -> bytes:
        return b""

    def token_text(self, token_id: int) -> str:
        return ""

    def detokenizer(self) -> IdTokenizer:
        return self

    def add(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def make_engine(model: Pixtral, sizes: Sizes, **options: object) -> Engine:
    chosen = {
        "max_model_len": sizes.max_model_len,
        "max_num_seqs": max(sizes.sequences, sizes.chats),
        "kv_cache_bytes": sizes.kv_cache_bytes,
        "enable_prefix_caching": False,
        "num_speculative_tokens": 0,
        "image_cache_bytes": 2**28,
    }
    config = resolve_config(chosen | options, model.config, dtype=model.dtype, device=model.device)
    return Engine(model, IdTokenizer(model.config.vocab_size), config)


def text_prompt(length: int, seed: int, config: ModelConfig) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    return Prompt(tuple(torch.randint(FIRST_TEXT_ID, config.vocab_size, (length,), generator=generator).tolist()))


def image_prompt(side: int, seed: int, config: ModelConfig) -> Prompt:
    """An image and a few words."""
    vision = config.vision_encoder
    count = side // vision.token_size
    pixels_CHW = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))
    image = PreparedImage(
        pixels_CHW=pixels_CHW, grid=(count, count), digest=seed.to_bytes(8, "big"), width=side, height=side
    )
    span = ([vision.image_token_id] * count + [vision.image_break_token_id]) * count
    ids = (1, *span[:-1], vision.image_end_token_id, *text_prompt(16, seed, config).ids)
    return Prompt(ids, (ImageSpan(1, len(span), image),))


def with_new_digests(prompts: list[Prompt], run: int) -> list[Prompt]:
    """Return the same prompts with new image digests, so that each run encodes them."""
    fresh = []
    for number, prompt in enumerate(prompts):
        (span,) = prompt.images
        image = dataclasses.replace(span.image, digest=f"{run} {number}".encode())
        fresh.append(dataclasses.replace(prompt, images=(dataclasses.replace(span, image=image),)))
    return fresh


def generate(engine: Engine, prompts: list[Prompt], count: int) -> list[tuple[int, ...]]:
    """Generate greedy replies of exactly `count` tokens to all prompts at once."""
    params = SamplingParams(max_tokens=count, ignore_eos=True, temperature=0)
    requests = [engine.add(prompt, params) for prompt in prompts]
    while engine.has_work:
        engine.step()
    if any(request.finish_reason != "length" for request in requests):
        raise RuntimeError(f"a reply ended early: {[request.finish_reason for request in requests]}")
    return [tuple(request.output_ids) for request in requests]


def peer_generate(peer: Any, prompts: list[Prompt], count: int) -> None:
    """Generate the same with transformers; prompts must have equal length."""
    ids = torch.tensor([prompt.ids for prompt in prompts], device=peer.device)
    images = [span.image for prompt in prompts for span in prompt.images]
    extra: dict[str, Tensor] = {}
    if images:
        extra["pixel_values"] = torch.stack([image.pixels_CHW for image in images]).to(peer.device, peer.dtype)
        extra["image_sizes"] = torch.tensor([[image.height, image.width] for image in images], device=peer.device)
    peer.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        pad_token_id=11,
        eos_token_id=None,
        **extra,
    )
