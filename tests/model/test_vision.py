"""The vision encoder on its kernels: equal to plain torch within rounding, each image alone, gradients as ever."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tessera.kernels.int8_attention import int8_attention_twin
from tessera.kernels.library import forced
from tessera.model import attention, block
from tessera.model.attention import DenseVisionPlan
from tessera.model.config import VisionConfig
from tessera.model.rope import rotation_2d
from tessera.model.vision import VisionEncoder

GRIDS = [(10, 13), (3, 5), (12, 12)]
CONFIG = VisionConfig(
    hidden_size=128,
    image_size=256,
    patch_size=4,
    rope_theta=10000.0,
    intermediate_size=200,
    num_hidden_layers=2,
    num_attention_heads=2,
)


@pytest.fixture
def encoder() -> VisionEncoder:
    torch.manual_seed(0)
    return VisionEncoder(CONFIG)


def patches(dtype: torch.dtype) -> Tensor:
    count = sum(rows * columns for rows, columns in GRIDS)
    return torch.randn(count, 3 * 4 * 4, generator=torch.Generator().manual_seed(1)).to(dtype)


def relative_error(ours: Tensor, wanted: Tensor) -> float:
    return float((ours.double() - wanted.double()).norm() / wanted.double().norm())


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_kernels_equal_plain_torch(encoder: VisionEncoder, dtype: torch.dtype, bound: float) -> None:
    """Both against float64; in bfloat16 the kernels, which round less often, must not be the worse ones."""
    plan = encoder.plan(GRIDS)
    exact = encoder.double()(patches(dtype).double(), plan)
    encoder.to(dtype)
    ours = relative_error(encoder(patches(dtype), plan), exact)
    with forced("torch"):
        plain = relative_error(encoder(patches(dtype), plan), exact)
    assert ours < bound
    assert ours < plain * 1.05 + 1e-7


@torch.no_grad()
def test_images_that_attention_in_8_bits_takes_are_attended_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with the plan that allows it, and each image by its own size."""
    rotation = rotation_2d(GRIDS, 64, 10000.0, torch.device("cpu"))
    images = torch.randn(3, sum(rows * columns for rows, columns in GRIDS), 2, 64).bfloat16()
    monkeypatch.setattr(attention, "prefers_int8_attention", lambda queries, *_: len(queries) > 100)
    monkeypatch.setattr(attention, "int8_attention", int8_attention_twin)
    plain = DenseVisionPlan(GRIDS, rotation).attend(*images)
    ours = DenseVisionPlan(GRIDS, rotation, in_8_bits=True).attend(*images)
    for each, low, image in zip(plain.split([130, 15, 144]), ours.split([130, 15, 144]), range(3), strict=True):
        assert torch.equal(each, low) == (image == 1)
        assert relative_error(low, each) < 0.03
    assert torch.equal(ours[:130], int8_attention_twin(*images[:, :130]))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_together_equal_each_alone(
    encoder: VisionEncoder, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the feed-forward's panels cut through an image. torch's products may sum in another order."""
    monkeypatch.setattr(block, "FEED_FORWARD_TOKENS", 100)
    encoder.to(dtype)
    together = encoder(patches(dtype), encoder.plan(GRIDS)).split([rows * columns for rows, columns in GRIDS])
    each = patches(dtype).split([rows * columns for rows, columns in GRIDS])
    for grid, image, features in zip(GRIDS, each, together, strict=True):
        bound = 0.01 if dtype == torch.bfloat16 else 1e-6
        assert relative_error(features, encoder(image, encoder.plan([grid]))) < bound


def test_gradients_reach_every_parameter(encoder: VisionEncoder) -> None:
    plan = encoder.plan(GRIDS)
    recorded = encoder(patches(torch.float32), plan)
    with torch.no_grad():
        assert relative_error(encoder(patches(torch.float32), plan), recorded) < 1e-6
    recorded.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())
