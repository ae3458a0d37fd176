"""Matrices in 8-bit floating point, float8_e4m3fn with a float32 scale for each row, and products with them.

For many tokens, a GPU that supports such products gets both sides in 8 bits, the inputs with a
scale for each token; for few, its kernel reads the weight and keeps the inputs as they are. Everything
else converts the weight to the inputs' dtype, a panel of rows at a time. The format is that of
arXiv 2209.05433; third-party checkpoints with a single scale repeat it for every row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tessera.kernels import cuda
from tessera.kernels.gradients import records
from tessera.kernels.wide_linear import linear

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max  # 448
PANEL_ROWS = 1024  # rows dequantized at a time
MATRIX_UNIT = 16  # the GPU's products need widths that are multiples of this
FIRST_CAPABILITY = (8, 9)  # the first CUDA devices that multiply such numbers
MAX_KERNEL_ROWS = 64  # up to here reading the weight dominates: inputs stay as they are


@dataclass(frozen=True)
class Fp8Weight:
    """A matrix of float8_e4m3fn (N, K) and the float32 scales of its rows (N): value = scale * stored."""

    values: Tensor
    scales: Tensor

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weight's tensors, by field name."""
        return {"values": self.values, "scales": self.scales}

    @property
    def scheme(self) -> str:
        return "fp8"

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    @property
    def nbytes(self) -> int:
        return self.values.nbytes + self.scales.nbytes

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def units(self) -> tuple[int, int]:
        """The rows and columns that stay together when the matrix is split."""
        return 1, 1

    def to(self, device: torch.device) -> Fp8Weight:
        return Fp8Weight(self.values.to(device), self.scales.to(device))

    def clone(self) -> Fp8Weight:
        return Fp8Weight(self.values.clone(), self.scales.clone())

    def rows(self, start: int, stop: int) -> Fp8Weight:
        """Return views of rows `start` to `stop`."""
        return Fp8Weight(self.values[start:stop], self.scales[start:stop])

    def columns(self, start: int, stop: int) -> Fp8Weight:
        """Return views of columns `start` to `stop`."""
        return Fp8Weight(self.values[:, start:stop], self.scales)


def quantize_fp8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Convert each row (last dimension) to float8_e4m3fn, with the float32 scale that maps its maximum to 448."""
    scales = matrix.float().abs().amax(-1) / LARGEST
    scales = torch.where(scales > 0, scales, 1)
    return (matrix / scales[..., None]).clamp(-LARGEST, LARGEST).to(FP8), scales


def dequantize_fp8(weight: Fp8Weight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the dequantized matrix (N, K), computed in float32."""
    return (weight.values.float() * weight.scales[:, None]).to(dtype)


def fp8_linear(inputs_TK: Tensor, weight: Fp8Weight) -> Tensor:
    """Multiply inputs (T, K) by the weight's transpose: (T, N) in the inputs' dtype."""
    if inputs_TK.shape[1] != weight.shape[1]:
        raise ValueError(f"inputs of {inputs_TK.shape[1]} columns do not fit a weight of {weight.shape[1]} columns")
    if _multiplies_fp8(weight) and not records(inputs_TK):
        if len(inputs_TK) <= MAX_KERNEL_ROWS and cuda.serves(inputs_TK):
            from tessera.kernels import triton_fp8_linear

            return triton_fp8_linear.fp8_linear(inputs_TK, weight.values, weight.scales)
        return fp8_products(inputs_TK, weight)
    return fp8_linear_twin(inputs_TK, weight)


def fp8_linear_twin(inputs_TK: Tensor, weight: Fp8Weight) -> Tensor:
    """Multiply by the dequantized weight, a panel of rows at a time, in the inputs' dtype."""
    panels = []
    for start in range(0, weight.shape[0], PANEL_ROWS):
        rows = slice(start, start + PANEL_ROWS)
        panel = Fp8Weight(weight.values[rows], weight.scales[rows])
        panels.append(linear(inputs_TK, dequantize_fp8(panel, inputs_TK.dtype)))
    return torch.cat(panels, dim=-1)


def fp8_products(inputs_TK: Tensor, weight: Fp8Weight) -> Tensor:
    """Multiply with both sides in 8 bits, the inputs' scales computed for each token."""
    inputs, input_scales_T = quantize_fp8(inputs_TK)
    # With a scale for each row the GPU's kernels return bfloat16 only.
    product_TN = torch._scaled_mm(
        inputs,
        weight.values.T,
        scale_a=input_scales_T[:, None],
        scale_b=weight.scales[None],
        out_dtype=torch.bfloat16,
    )
    return product_TN.to(inputs_TK.dtype)


def _multiplies_fp8(weight: Fp8Weight) -> bool:
    if weight.device.type != "cuda" or torch.cuda.get_device_capability(weight.device) < FIRST_CAPABILITY:
        return False
    return all(width % MATRIX_UNIT == 0 for width in weight.shape)
