"""Our model against Hugging Face's, float32, equal random weights, read from what they saved.

The bound of 1e-4 is on absolute differences of values of order one; measured maxima are below 1e-5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.images import PreparedImage
from tessera.model.attention import DensePlan
from tessera.prompt import ImageSpan, Prompt
from tessera.sampling import SamplingParams
from tests.engine.tiny import ByteTokenizer
from tests.parity.oracle import Pair, make_pair

BOUND = 1e-4
CONVERSATIONS = {
    "text only": [],
    "one image": [(3, 5)],
    "several of different sizes": [(2, 4), (5, 1), (3, 3)],
}
YARN = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 48.0, "original_max_position_embeddings": 12, "beta_fast": 32.0,
    "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
}  # fmt: skip
# Widths as published where memory allows; the true ratios of heads everywhere.
FAMILY: dict[str, dict[str, Any]] = {
    "pixtral 12b": {},
    "small 3.1": {"merge": True, "VISION_patch_size": 14, "VISION_image_size": 448},
    "pixtral large": {
        "TEXT_num_attention_heads": 24, "TEXT_num_key_value_heads": 2, "TEXT_head_dim": 16,
        "VISION_hidden_size": 176, "VISION_num_attention_heads": 2, "VISION_num_hidden_layers": 2,
    },
    # Positions are counted over images too: the prompt of three reaches 77, six times the original context.
    "ministral 3 3b": {
        "merge": True, "VISION_patch_size": 14, "VISION_image_size": 448, "TEXT_tie_word_embeddings": True,
        "TEXT_max_position_embeddings": 512, "TEXT_rope_parameters": YARN,
    },
    # A ramp over most channel pairs, the head on its own, and YaRN's temperature, which Ministral's files turn off.
    "ministral 3, untied": {
        "merge": True, "TEXT_max_position_embeddings": 512,
        "TEXT_rope_parameters": YARN | {
            "factor": 64.0, "original_max_position_embeddings": 16, "beta_fast": 2.0, "beta_slow": 0.25,
            "rope_theta": 100.0, "mscale_all_dim": 0.0,
        },
    },
}  # fmt: skip


class AnyToken(ByteTokenizer):
    """Lets every id of the oracle's vocabulary be drawn but the image's, which can stand in prompts only."""

    vocab_size = 276
    prompt_only_ids = frozenset({10})


@pytest.fixture(scope="module", params=list(FAMILY))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(tmp_path_factory.mktemp("hf"), **FAMILY[request.param])


def our_logits(pair: Pair, ids: Tensor, pixels: list[Tensor]) -> Tensor:
    images = pair.ours.encode_images(pixels) if pixels else []
    return pair.ours.logits(pair.ours(pair.ours.embed(ids, images), DensePlan([len(ids)])))


@torch.no_grad()
@pytest.mark.parametrize("kind", CONVERSATIONS)
def test_logits(pair: Pair, kind: str) -> None:
    grids = CONVERSATIONS[kind]
    ids, pixels = pair.prompt(grids, [50, 51, 52, 4]), pair.pixels(grids, seed=1)
    theirs = pair.theirs(input_ids=ids[None], **pair.their_pixels(pixels)).logits[0]
    assert (our_logits(pair, ids, pixels) - theirs).abs().max() < BOUND


@torch.no_grad()
def test_vision_features_and_adapter_output(pair: Pair) -> None:
    grids = CONVERSATIONS["several of different sizes"]
    pixels = pair.pixels(grids, seed=2)
    given = pair.their_pixels(pixels)
    tower = pair.theirs.model.vision_tower
    features = tower(given["pixel_values"], image_sizes=given["image_sizes"]).last_hidden_state[0]
    seen: list[Tensor] = []
    hook = pair.ours.vision_encoder.register_forward_hook(lambda module, arguments, output: seen.append(output))
    ours = torch.cat(pair.ours.encode_images(pixels))
    hook.remove()
    assert (seen[0] - features).abs().max() < BOUND
    theirs = pair.theirs.model.get_image_features(**given)
    theirs = theirs if isinstance(theirs, (list, tuple)) else theirs.pooler_output
    assert (ours - torch.cat(list(theirs))).abs().max() < BOUND


@torch.no_grad()
def test_a_batch_of_unequal_conversations(pair: Pair) -> None:
    prompts = [
        (pair.prompt(grids, [60 + row, 4]), pair.pixels(grids, row)) for row, grids in enumerate(CONVERSATIONS.values())
    ]
    images = [image for _, pixels in prompts for image in (pair.ours.encode_images(pixels) if pixels else [])]
    lengths = [len(ids) for ids, _ in prompts]
    hidden = pair.ours.embed(torch.cat([ids for ids, _ in prompts]), images)
    ours = pair.ours.logits(pair.ours(hidden, DensePlan(lengths))).split(lengths)
    for (ids, pixels), logits in zip(prompts, ours, strict=True):
        theirs = pair.theirs(input_ids=ids[None], **pair.their_pixels(pixels)).logits[0]
        assert (logits - theirs).abs().max() < BOUND


def test_greedy_generation_of_64_tokens(pair: Pair) -> None:
    """Through the whole engine: chunked prefill, paged cache, batched decode."""
    options = {"max_num_batched_tokens": 16, "kv_cache_bytes": 2**24, "max_model_len": 512}
    config = resolve_config(options, pair.ours.config, dtype=torch.float32, device=torch.device("cpu"))
    engine = Engine(pair.ours, AnyToken(), config)
    wanted, requests = [], []
    for row, grids in enumerate(CONVERSATIONS.values()):
        ids, pixels = pair.prompt(grids, [70 + row, 4]), pair.pixels(grids, seed=row)
        out = pair.theirs.generate(
            input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], **pair.their_pixels(pixels),
            do_sample=False, max_new_tokens=64, min_new_tokens=64, pad_token_id=11, eos_token_id=None,
            suppress_tokens=[10],
        )  # fmt: skip
        wanted.append(out[0, len(ids) :].tolist())
        params = SamplingParams(max_tokens=64, ignore_eos=True)
        requests.append(engine.add(_prompt(pair, ids, grids, pixels), params))
    while engine.has_work:
        engine.step()
    assert [list(request.output_ids) for request in requests] == wanted


def _prompt(pair: Pair, ids: Tensor, grids: list[tuple[int, int]], pixels: list[Tensor]) -> Prompt:
    spans, start = [], 2
    for grid, image in zip(grids, pixels, strict=True):
        length = grid[0] * (grid[1] + 1)
        prepared = PreparedImage(image, grid, image.numpy().tobytes()[:32], image.shape[2], image.shape[1])
        spans.append(ImageSpan(start, length, prepared))
        start += length
    return Prompt(tuple(ids.tolist()), tuple(spans))


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_random_small_configs(seed: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(seed)

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (1,), generator=generator))]

    shared, group = pick(1, 2, 4), pick(1, 2, 3)
    heads = pick(1, 2, 4)
    pair = make_pair(
        tmp_path, merge=bool(pick(0, 1)), seed=seed, TEXT_hidden_size=pick(32, 48, 72), TEXT_head_dim=pick(8, 16, 20),
        TEXT_num_key_value_heads=shared, TEXT_num_attention_heads=shared * group, TEXT_intermediate_size=pick(40, 64),
        TEXT_num_hidden_layers=pick(1, 2), VISION_num_attention_heads=heads, VISION_hidden_size=heads * pick(8, 16, 20),
        VISION_patch_size=pick(4, 14, 16), VISION_num_hidden_layers=pick(1, 3), VISION_image_size=448,
    )  # fmt: skip
    grids = [(pick(1, 2, 3), pick(1, 4)), (pick(1, 5), pick(2, 3))]
    ids, pixels = pair.prompt(grids, [50, 4]), pair.pixels(grids, seed)
    theirs = pair.theirs(input_ids=ids[None], **pair.their_pixels(pixels)).logits[0]
    assert (our_logits(pair, ids, pixels) - theirs).abs().max() < BOUND


@torch.no_grad()
def test_true_width_and_few_layers(tmp_path: Path) -> None:
    """Pixtral 12B's own widths, heads, rotary bases and norms, one decoder and two vision layers."""
    pair = make_pair(
        tmp_path, std=0.02, TEXT_hidden_size=5120, TEXT_intermediate_size=14336, TEXT_num_hidden_layers=1,
        TEXT_num_attention_heads=32, TEXT_num_key_value_heads=8, TEXT_head_dim=128, TEXT_vocab_size=1000,
        VISION_hidden_size=1024, VISION_intermediate_size=4096, VISION_num_hidden_layers=2,
        VISION_num_attention_heads=16, VISION_patch_size=16, VISION_image_size=1024,
    )  # fmt: skip
    grids = [(6, 9), (4, 3)]
    ids, pixels = pair.prompt(grids, [50, 51, 4]), pair.pixels(grids, seed=3)
    theirs = pair.theirs(input_ids=ids[None], **pair.their_pixels(pixels)).logits[0]
    assert (our_logits(pair, ids, pixels) - theirs).abs().max() < BOUND
