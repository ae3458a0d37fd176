"""Operations and bytes that are counted from shapes, beside torch's own counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.sizes import TINY
from tessera.bench.peer import random_model
from tessera.bench.random_weights import widths, with_layers
from tessera.bench.work import decoder_flops, decoder_parameters, encode_flops, prefill_flops, step_bytes
from tessera.model.attention import DensePlan
from tessera.model.family import PIXTRAL_12B
from tessera.weights.fill import empty_model

NANO, _ = widths("nano")


@pytest.mark.parametrize("config", [NANO, with_layers(PIXTRAL_12B, 2, 2)], ids=["nano", "12b"])
def test_least_work_is_what_torch_counts(config: Any) -> None:
    """torch's own counter over the model on the meta device; it counts a causal product as a whole one."""
    model, vision, tokens = empty_model(config), config.vision_encoder, 512
    side = vision.image_size
    assert decoder_parameters(config) == sum(
        parameter.numel() for name, parameter in model.named_parameters()
        if name.startswith(("layers.", "output.")) and parameter.dim() == 2
    )  # fmt: skip
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        model.encode_images([torch.empty(3, side, side, device="meta")])
    assert counted.get_total_flops() == pytest.approx(encode_flops(config, side), rel=1e-3)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        hidden_TD = model(torch.empty(tokens, config.dim, device="meta"), DensePlan([tokens], torch.device("meta")))
        model.logits(hidden_TD[-1:])
    assert counted.get_total_flops() == pytest.approx(decoder_flops(config, tokens, tokens * tokens, 1), rel=1e-3)


def test_a_image_of_pixtral_takes_five_teraflop() -> None:
    assert encode_flops(PIXTRAL_12B, 1024) == pytest.approx(5.4e12, rel=0.05)


def test_a_prompt_and_a_step_take_what_torch_counts() -> None:
    config = TINY.config
    model, tokens = random_model(config).float(), 48
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        hidden_TD = model(model.embed(torch.full((tokens,), 1500), []), DensePlan([tokens]))
        model.logits(hidden_TD[-1:])
    # torch counts all of causal attention, of which half is needed.
    attention = 2 * tokens * tokens * config.n_heads * config.head_dim * config.n_layers
    assert prefill_flops(config, tokens) == counter.get_total_flops() - attention
    parameters = [*model.layers.parameters(), *model.norm.parameters(), *model.output.parameters()]
    assert step_bytes(model) == sum(parameter.nbytes for parameter in parameters)


def test_images_take_each_the_same() -> None:
    assert encode_flops(PIXTRAL_12B, 512, 8) == 8 * encode_flops(PIXTRAL_12B, 512)
    assert encode_flops(PIXTRAL_12B, 512) < encode_flops(PIXTRAL_12B, 1024) / 4
