"""FlashAttention of packed segments with gradients: ours beside plain attention, and torch's own derivative."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tessera.kernels import flash_attention
from tessera.kernels.flash_attention import Segments
from tessera.model import attention
from tessera.model.attention import attend_segments

LENGTHS = (5, 1, 33, 8)


def numbers(device: str, dtype: torch.dtype, width: int = 16) -> list[Tensor]:
    """Queries of four heads, keys and values of two, and the gradient of the output."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(sum(LENGTHS), heads, width, generator=generator).to(device, dtype) for heads in (4, 2, 2, 4)
    ]  # fmt: skip


def with_gradients(tensors: list[Tensor], *, causal: bool) -> list[Tensor]:
    """The output, and the gradients of queries, keys and values."""
    *given, arrived = tensors
    given = [each.detach().clone().requires_grad_() for each in given]
    segments = Segments.of(LENGTHS, LENGTHS, arrived.device)
    out = attend_segments(segments, given[0], given[1], given[2], causal=causal)
    out.backward(arrived)
    return [out.detach(), *(each.grad for each in given if each.grad is not None)]


def stand_in(
    queries: Tensor, keys: Tensor, values: Tensor, bounds: Tensor, context_bounds: Tensor,
    longest: int, longest_context: int, *, window_size: tuple[int, int],
) -> Tensor:  # fmt: skip
    """What torch's function is documented to compute, by one mask over all tokens."""
    assert bounds.dtype == context_bounds.dtype == torch.int32
    assert (longest, longest_context) == (max(LENGTHS), max(LENGTHS))
    owner = torch.bucketize(torch.arange(len(queries)), bounds, right=True)
    other = torch.bucketize(torch.arange(len(keys)), context_bounds, right=True)
    seen = owner[:, None] == other[None]
    assert window_size in ((-1, 0), (-1, -1))
    if window_size == (-1, 0):
        seen = seen.tril()
    heads = (each.transpose(0, 1)[None] for each in (queries, keys, values))
    return F.scaled_dot_product_attention(*heads, attn_mask=seen, enable_gqa=True)[0].transpose(0, 1)


@pytest.mark.parametrize("causal", [True, False])
def test_segments_and_their_gradients_are_plain_attention(causal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    given = numbers("cpu", torch.float64)
    expected = with_gradients(given, causal=causal)
    monkeypatch.setattr(attention, "prefers_flash", lambda *_: True)
    monkeypatch.setattr(flash_attention, "_varlen_attention", lambda: stand_in)
    for found, wanted in zip(with_gradients(given, causal=causal), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_the_installed_torch_has_a_derivative() -> None:
    """Shapes only: the kernels themselves need a GPU."""
    queries, keys, values, arrived = (each.to("meta") for each in numbers("cpu", torch.bfloat16, 64))
    for each in (queries, keys, values):
        each.requires_grad_()
    bounds = torch.zeros(len(LENGTHS) + 1, dtype=torch.int32, device="meta")
    out = flash_attention.flash_attention(
        queries, keys, values, Segments(LENGTHS, LENGTHS, bounds, bounds), causal=True
    )  # fmt: skip
    out.backward(arrived)
    for each in (queries, keys, values):
        assert each.grad is not None
        assert each.grad.shape == each.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("width", [64, 128])
def test_a_gpu_gives_the_gradients_of_a_cpu(width: int, causal: bool) -> None:
    on_gpu, on_cpu = numbers("cuda", torch.bfloat16, width), numbers("cpu", torch.bfloat16, width)
    assert flash_attention.prefers_flash(*(each.requires_grad_() for each in on_gpu[:3]))
    expected = with_gradients([each.float() for each in on_cpu], causal=causal)
    for found, wanted in zip(with_gradients(on_gpu, causal=causal), expected, strict=True):
        assert float((found.cpu().float() - wanted).norm() / wanted.norm()) < 2e-2
