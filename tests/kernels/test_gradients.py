"""One rule for all kernels: grad mode alone costs none, and what records has a gradient or is left to its twin."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tessera.kernels import (
    cuda,
    elementwise,
    flash_attention,
    fp8_linear,
    packed_linear,
    prefill_attention,
    prefill_linear,
    skinny_linear,
)
from tessera.kernels.fp8_linear import Fp8Weight, quantize_fp8
from tessera.kernels.gradients import records
from tessera.kernels.packed_weight import pack
from tessera.kernels.quantized_weight import quantized_linear
from tessera.model import attention, block
from tessera.model.block import FeedForward

PACKED = pack(torch.zeros(32, 64, dtype=torch.uint8), torch.ones(32, 2).half(), bits=8)
FLOAT8 = Fp8Weight(*quantize_fp8(torch.ones(32, 64)))


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


# Each CPU kernel by its name, and a call that asks for it, of whose inputs the first may record.
CALLS: dict[str, tuple[Any, Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "rms_norm": (elementwise, lambda x: elementwise.rms_norm(x, numbers(64), 1e-5), (3, 64)),
    "silu_gate": (elementwise, lambda x: elementwise.silu_gate(x, numbers(3, 64)), (3, 64)),
    "rotate": (elementwise, lambda x: elementwise.rotate(x, torch.ones(3, 4), torch.zeros(3, 4)), (3, 2, 8)),
    "skinny_linear": (skinny_linear, lambda x: skinny_linear.linear(x, numbers(32, 64)), (3, 64)),
    "packed_linear": (packed_linear, lambda x: quantized_linear(x, PACKED), (3, 64)),
    "prefill_linear": (prefill_linear, lambda x: quantized_linear(x, PACKED), (40, 64)),
    "prefill_attention": (
        prefill_attention,
        lambda x: attention.attend(x, numbers(100, 2, 16), numbers(100, 2, 16), causal=True),
        (100, 2, 16),
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_model_gets_its_kernels_outside_inference_mode(
    name: str, mode: Callable[[], Any], trained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, call, shape = CALLS[name]
    asked = []
    # The kernel is asked for and found missing, so that the twin computes in its place.
    monkeypatch.setattr(module, "kernel", lambda kernel, *arguments: asked.append(kernel))
    if name == "prefill_attention":
        monkeypatch.setattr(prefill_attention, "_torch_is_faster", lambda: False)
    monkeypatch.setattr(skinny_linear, "LEAST_WEIGHTS", 1)
    with mode():
        call(numbers(*shape).requires_grad_(trained and mode is torch.enable_grad))
    # A packed weight's product has a gradient of its own (`quantized_weight`).
    wanted = name in ("packed_linear", "prefill_linear") or not (trained and mode is torch.enable_grad)
    assert any(each.startswith(name) for each in asked) == wanted


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_model_gets_the_kernels_of_a_gpu(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "why_not", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    frozen, given = (
        SimpleNamespace(
            is_cuda=True, device=torch.device("cuda:0"), dtype=torch.bfloat16, shape=(4, 2, 64), requires_grad=needs
        )
        for needs in (False, trained)
    )
    for tensors in ((given, frozen, frozen), (frozen, frozen, given)):
        assert cuda.serves(*tensors) != trained
        assert flash_attention.prefers_flash(*tensors), "which has a derivative"
        with torch.no_grad():
            assert cuda.serves(*tensors)
            assert flash_attention.prefers_flash(*tensors)
        wide = [SimpleNamespace(**vars(each) | {"shape": (4, 2, 192)}) for each in tensors]
        assert flash_attention.prefers_flash(*wide) != trained


@pytest.mark.parametrize("trained", [False, True])
def test_a_frozen_model_multiplies_in_8_bit_floats(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fp8_linear, "_multiplies_fp8", lambda weight: True)
    monkeypatch.setattr(fp8_linear, "fp8_products", lambda inputs, weight: inputs.new_full((3, 32), 7))
    out = quantized_linear(numbers(3, 64).requires_grad_(trained), FLOAT8)
    assert bool((out == 7).all()) != trained


@pytest.mark.parametrize("trained", ["nothing", "inputs", "weights"])
def test_a_frozen_feed_forward_takes_long_steps_in_parts(trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "FEED_FORWARD_TOKENS", 4)
    feed_forward = FeedForward(8, 16).requires_grad_(trained == "weights")
    panels = []
    monkeypatch.setattr(feed_forward, "_compute", lambda hidden: panels.append(len(hidden)) or hidden)
    feed_forward(torch.zeros(10, 8).requires_grad_(trained == "inputs"))
    assert panels == ([4, 4, 2] if trained == "nothing" else [10])


def test_what_records() -> None:
    frozen, learned = torch.zeros(1), torch.zeros(1, requires_grad=True)
    assert records(frozen, learned)
    assert records(2 * learned)
    assert not records(frozen)
    assert not records()
    with torch.no_grad():
        assert not records(learned)
