"""Tessera beside Hugging Face transformers: equal weights, true widths, few layers, in turns.

The machines are noisy, so each measurement alternates the two and reports the median of the ratios
of neighbouring runs. Widths are Pixtral 12B's; layers are few so that both models fit in memory.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tessera.chat import SamplingParams
from tessera.engine.config import resolve
from tessera.engine.engine import Engine
from tessera.errors import MissingExtraError
from tessera.model.config import ModelConfig, VisionConfig
from tessera.model.pixtral import Pixtral
from tessera.prompt import Prompt, Tokenizer, packaged_tokenizer_path
from tessera.weights.hf import permuted_heads, to_hf_name, to_hf_rows, write_config
from tessera.weights.stream import empty_model

DECODER_LAYERS, VISION_LAYERS = 2, 4
VOCABULARY = 131_072
PROMPT_TOKENS, DECODED_TOKENS = 512, 49
REQUESTS, NEW_TOKENS = 8, 16
WIDTHS = ModelConfig(
    dim=5120,
    n_layers=DECODER_LAYERS,
    head_dim=128,
    hidden_dim=14336,
    n_heads=32,
    n_kv_heads=8,
    rope_theta=1e9,
    norm_eps=1e-5,
    vocab_size=VOCABULARY,
    vision_encoder=VisionConfig(
        hidden_size=1024,
        image_size=1024,
        patch_size=16,
        rope_theta=10_000.0,
        intermediate_size=4096,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=16,
    ),
)


@dataclass(frozen=True)
class Comparison:
    """Median seconds of each side, and the median of their ratios: above 1, Tessera is faster."""

    name: str
    ours_s: float
    theirs_s: float
    ratio: float
    rounds: int


def random_model(config: ModelConfig, device: str = "cpu") -> Pixtral:
    """A bfloat16 model with random weights, small enough that nothing overflows."""
    model = empty_model(config).to_empty(device=device).to(torch.bfloat16)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if "norm" in name or "ln_pre" in name:
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=0.02, generator=generator)
    return model.eval()


def peer_of(model: Pixtral) -> Any:
    """The same model in transformers; raises MissingExtraError where it is not installed."""
    try:
        from transformers import LlavaConfig, LlavaForConditionalGeneration
    except ImportError as error:
        raise MissingExtraError("the peer is transformers: pip install 'tessera[dev]'") from error
    settings = write_config(model.config, torch.bfloat16)
    with torch.device("meta"):
        peer = LlavaForConditionalGeneration(LlavaConfig.from_dict(settings))
    state = {}
    for name, parameter in model.named_parameters():
        heads = permuted_heads(name, model.config)
        state[_newer_name(to_hf_name(name))] = parameter if heads is None else to_hf_rows(parameter, heads)
    peer.load_state_dict(state, assign=True, strict=False)
    # Rotary tables are buffers, which no checkpoint holds: made again on the real device.
    fresh = LlavaForConditionalGeneration._from_config(LlavaConfig.from_dict(_one_layer(settings)))
    buffers = dict(fresh.named_buffers())
    for name, _ in list(peer.named_buffers()):
        owner_name, _, buffer_name = name.rpartition(".")
        peer.get_submodule(owner_name).register_buffer(buffer_name, buffers[name].to(model.device), persistent=False)
    return peer.eval()


def _one_layer(settings: dict[str, Any]) -> dict[str, Any]:
    small = {"num_hidden_layers": 1, "intermediate_size": 8}
    return settings | {
        "text_config": settings["text_config"] | small | {"vocab_size": 16},
        "vision_config": settings["vision_config"] | small,
    }


def _newer_name(name: str) -> str:
    if name.startswith("language_model.model."):
        return "model.language_model." + name.removeprefix("language_model.model.")
    return "lm_head.weight" if name == "language_model.lm_head.weight" else "model." + name


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    base: tuple[Callable[[], object], Callable[[], object]] | None = None,
    count: int = 1,
) -> Comparison:
    """Run the two in turns after one warm-up each; of every run `base` is taken away, and `count` divides."""
    ours(), theirs()
    pairs = []
    for _ in range(rounds):
        sides = [_seconds(work) for work in (ours, theirs)]
        if base is not None:
            sides = [whole - _seconds(part) for whole, part in zip(sides, base, strict=True)]
        pairs.append([seconds / count for seconds in sides])
    medians = [statistics.median(side) for side in zip(*pairs, strict=True)]
    return Comparison(name, medians[0], medians[1], statistics.median(b / a for a, b in pairs), rounds)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.inference_mode()
def compare_all(model: Pixtral, rounds: int = 3) -> list[Comparison]:
    """Image encode, prefill, decode, and eight requests at once."""
    peer, engine = peer_of(model), _engine(model)
    pixels = torch.randn(3, 1024, 1024, dtype=torch.bfloat16, device=model.device)
    sizes = torch.tensor([[1024, 1024]], device=model.device)
    prompt = torch.arange(1000, 1000 + PROMPT_TOKENS)
    short = [torch.arange(2000 + 500 * row, 2000 + 500 * row + 48 + 2 * row) for row in range(REQUESTS)]
    results = [
        compare(
            "image encode, 1024x1024",
            lambda: model.encode_images([pixels]),
            lambda: peer.model.get_image_features(pixel_values=pixels[None], image_sizes=sizes),
            rounds,
        ),
        compare(
            f"prefill, {PROMPT_TOKENS} tokens",
            lambda: _ours(engine, [prompt], 1),
            lambda: _theirs(peer, [prompt], 1),
            rounds,
        ),
    ]
    results.append(
        compare(
            "decode, one token of one request",
            lambda: _ours(engine, [short[0]], DECODED_TOKENS),
            lambda: _theirs(peer, [short[0]], DECODED_TOKENS),
            rounds,
            base=(lambda: _ours(engine, [short[0]], 1), lambda: _theirs(peer, [short[0]], 1)),
            count=DECODED_TOKENS - 1,
        )
    )
    results.append(
        compare(
            f"{REQUESTS} requests at once, {NEW_TOKENS} tokens each",
            lambda: _ours(engine, short, NEW_TOKENS),
            lambda: _theirs(peer, short, NEW_TOKENS),
            rounds,
        )
    )
    return results


def _engine(model: Pixtral) -> Engine:
    options = {"max_model_len": 1024, "enable_prefix_caching": False, "kv_cache_bytes": 2**28}
    tokenizer = Tokenizer.from_file(packaged_tokenizer_path(), WIDTHS.vision_encoder)
    return Engine(model, tokenizer, resolve(options, model.config, dtype=model.dtype, device=model.device))


def _ours(engine: Engine, prompts: Sequence[Tensor], new_tokens: int) -> None:
    for prompt in prompts:
        engine.add(Prompt(tuple(prompt.tolist())), SamplingParams(max_tokens=new_tokens, ignore_eos=True))
    while engine.has_work:
        engine.step()


def _theirs(peer: Any, prompts: Sequence[Tensor], new_tokens: int) -> None:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), 11, device=peer.device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    peer.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens,
        min_new_tokens=new_tokens, pad_token_id=11, eos_token_id=None,
    )  # fmt: skip


def table(results: Sequence[Comparison]) -> str:
    """The results as a Markdown table."""
    lines = ["| what | Tessera | transformers | ratio |", "| --- | --- | --- | --- |"]
    for r in results:
        lines.append(f"| {r.name} | {r.ours_s * 1000:.0f} ms | {r.theirs_s * 1000:.0f} ms | {r.ratio:.2f}x |")
    return "\n".join(lines)
