"""Products of few rows with 8-bit floating-point weights in Triton: bound by reading the weight once.

The GPU's own product needs the inputs in 8 bits too, and converting a single token takes longer
than reading the weight. Here the inputs stay as they are, and the weight is converted to their dtype in
registers, so only the result is rounded. The twin is the product with
`fp8_linear.dequantize_fp8`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_VECTOR_ROWS = 4
VECTOR_COLUMNS = 512
VECTOR_OUTPUTS = 8  # for one token; fewer for more, whose sums would not fit into the registers
MATRIX_COLUMNS, MATRIX_OUTPUTS = 128, 32


@triton.jit
def _vector_product(
    inputs,
    values,
    scales,
    out,
    tokens,
    rows,
    columns,
    padded_tokens: tl.constexpr,
    step_rows: tl.constexpr,
    step_columns: tl.constexpr,
):
    """Compute some outputs for all tokens, summed in float32."""
    row = tl.program_id(0) * step_rows + tl.arange(0, step_rows)
    token = tl.arange(0, padded_tokens)
    sums = tl.zeros([padded_tokens, step_rows, step_columns], tl.float32)
    for start in range(0, columns, step_columns):
        column = start + tl.arange(0, step_columns)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        weight = tl.load(values + row[:, None].to(tl.int64) * columns + column[None, :], mask=mask, other=0.0)
        given_mask = (token < tokens)[:, None] & (column < columns)[None, :]
        given = tl.load(inputs + token[:, None] * columns + column[None, :], mask=given_mask, other=0.0)
        sums += given.to(tl.float32)[:, None, :] * weight.to(tl.float32)[None, :, :]
    result = tl.sum(sums, 2) * tl.load(scales + row, mask=row < rows, other=0.0)[None, :]
    out_mask = (token < tokens)[:, None] & (row < rows)[None, :]
    tl.store(out + token[:, None] * rows + row[None, :], result.to(out.dtype.element_ty), mask=out_mask)


@triton.jit
def _matrix_product(
    inputs,
    values,
    scales,
    out,
    tokens,
    rows,
    columns,
    padded_tokens: tl.constexpr,
    step_rows: tl.constexpr,
    step_columns: tl.constexpr,
    precision: tl.constexpr,
):
    row = tl.program_id(0) * step_rows + tl.arange(0, step_rows)
    token = tl.arange(0, padded_tokens)
    sums = tl.zeros([padded_tokens, step_rows], tl.float32)
    for start in range(0, columns, step_columns):
        column = start + tl.arange(0, step_columns)
        mask = (row < rows)[:, None] & (column < columns)[None, :]
        weight = tl.load(values + row[:, None].to(tl.int64) * columns + column[None, :], mask=mask, other=0.0)
        given_mask = (token < tokens)[:, None] & (column < columns)[None, :]
        given = tl.load(inputs + token[:, None] * columns + column[None, :], mask=given_mask, other=0.0)
        sums = tl.dot(given, tl.trans(weight.to(given.dtype)), sums, input_precision=precision)
    result = sums * tl.load(scales + row, mask=row < rows, other=0.0)[None, :]
    out_mask = (token < tokens)[:, None] & (row < rows)[None, :]
    tl.store(out + token[:, None] * rows + row[None, :], result.to(out.dtype.element_ty), mask=out_mask)


def fp8_linear(inputs_TK: Tensor, values_NK: Tensor, scales_N: Tensor) -> Tensor:
    """Multiply at most 64 inputs (T, K) by the transpose of values times scales: (T, N) in the inputs' dtype."""
    inputs_TK = inputs_TK.contiguous()
    tokens, (rows, columns) = len(inputs_TK), values_NK.shape
    out_TN = torch.empty(tokens, rows, dtype=inputs_TK.dtype, device=inputs_TK.device)
    if not tokens:  # the output head in a step that completes no prompt
        return out_TN
    operands = inputs_TK, values_NK, scales_N, out_TN, tokens, rows, columns
    padded = triton.next_power_of_2(tokens)
    if tokens <= MAX_VECTOR_ROWS:
        step = VECTOR_OUTPUTS // padded
        _vector_product[(triton.cdiv(rows, step),)](
            *operands, padded_tokens=padded, step_rows=step, step_columns=VECTOR_COLUMNS, num_warps=4
        )
    else:
        _matrix_product[(triton.cdiv(rows, MATRIX_OUTPUTS),)](
            *operands,
            padded_tokens=max(16, padded),
            step_rows=MATRIX_OUTPUTS,
            step_columns=MATRIX_COLUMNS,
            precision="ieee",
            num_warps=4,
            num_stages=3,
        )
    return out_TN
