"""Attention within token segments of any lengths in one call: torch's FlashAttention.

Nothing is padded and no mask is built: the kernel reads where each segment begins. Source: arXiv
2307.08691. torch's paged form (`block_table`, from 2.13 on) needs blocks of a multiple of 256
tokens: a reply would waste 128 and prefixes match in steps of 256, so contexts are gathered from
the cache first, which at 32,768 tokens costs a hundredth of their attention. torch's function has a
derivative that keeps inputs, output and one number for each row, so training takes the same way. The
twin is `torch.nn.functional.scaled_dot_product_attention`, segment by segment.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate

import torch
from torch import Tensor

from tessera.kernels.gradients import records
from tessera.machine import upload

MAX_WIDTH = 256  # widest head; a width must also be a multiple of 8
MAX_TRAINED_WIDTH = 128  # wider ones have no derivative on some GPUs
FIRST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Segments:
    """Segments of queries laid end to end, and of the contexts they see, likewise end to end.

    With causal attention a segment's queries are the last of its context. The bounds are int32, one
    more than there are segments: where each begins and the last one ends.
    """

    lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    bounds: Tensor
    context_bounds: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], contexts: Sequence[int], device: torch.device) -> Segments:
        bounds, context_bounds = (upload([0, *accumulate(each)], torch.int32, device) for each in (lengths, contexts))
        return cls(tuple(lengths), tuple(contexts), bounds, context_bounds)


def prefers_flash(queries_TNK: Tensor, keys_CMK: Tensor, values_CMK: Tensor) -> bool:
    """Return True if `flash_attention` accepts these: 16 bits, on a supported GPU, heads of a width that it has."""
    width = queries_TNK.shape[-1]
    widest = MAX_TRAINED_WIDTH if records(queries_TNK, keys_CMK, values_CMK) else MAX_WIDTH
    return (
        queries_TNK.is_cuda
        and queries_TNK.dtype in (torch.bfloat16, torch.float16)
        and width % 8 == 0
        and width <= widest
        and torch.cuda.get_device_capability(queries_TNK.device) >= FIRST_CAPABILITY
    )


def flash_attention(
    queries_TNK: Tensor, keys_CMK: Tensor, values_CMK: Tensor, segments: Segments, *, causal: bool
) -> Tensor:
    """Compute attention (T, N, K) of each query segment over its context; N/M query heads share a key/value head."""
    out: Tensor = _varlen_attention()(
        queries_TNK.contiguous(),
        keys_CMK.contiguous(),
        values_CMK.contiguous(),
        segments.bounds,
        segments.context_bounds,
        max(segments.lengths),
        max(segments.contexts),
        window_size=(-1, 0) if causal else (-1, -1),
    )
    return out


@cache
def _varlen_attention() -> Callable[..., Tensor]:
    """Return torch's function with grouped heads allowed: an argument from 2.13 on, implicit in 2.11."""
    from torch.nn.attention import varlen

    function: Callable[..., Tensor] = vars(varlen)["varlen_attn"]
    grouped = "enable_gqa" in inspect.signature(function).parameters
    return partial(function, enable_gqa=True) if grouped else function
