"""The panel kernel against PyTorch's fused attention in float32."""

import pytest
import torch
import torch.nn.functional as F

from tessera.kernels.panel_attention import PANEL_ROWS, panel_attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("tokens", "context"), [(7, 7), (PANEL_ROWS + 3, PANEL_ROWS + 3), (600, 1100)])
def test_panels_equal_the_fused_kernel(tokens: int, context: int, causal: bool) -> None:
    generator = torch.Generator().manual_seed(tokens + context)
    queries = torch.randn(tokens, 4, 16, generator=generator)
    keys, values = torch.randn(2, context, 2, 16, generator=generator)
    positions = torch.arange(context - tokens, context)
    mask = torch.arange(context)[None] <= positions[:, None] if causal else None
    expected = F.scaled_dot_product_attention(
        queries.transpose(0, 1),
        keys.transpose(0, 1).repeat_interleave(2, 0),
        values.transpose(0, 1).repeat_interleave(2, 0),
        attn_mask=mask,
    ).transpose(0, 1)
    torch.testing.assert_close(panel_attention(queries, keys, values, causal=causal), expected, atol=2e-6, rtol=1e-5)
    # bfloat16 has 8 bits of mantissa: rounding inputs, scores and weights stays within 1 % in norm.
    low = panel_attention(queries.bfloat16(), keys.bfloat16(), values.bfloat16(), causal=causal).float()
    assert (low - expected).norm() / expected.norm() < 0.01
