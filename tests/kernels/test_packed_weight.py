"""The packed layout: what goes in comes out, and stands where the layout says."""

from __future__ import annotations

import pytest
import torch

from tessera.kernels.packed_linear import linear_int8_twin, linear_twin
from tessera.kernels.packed_weight import PackedWeight, dequantize, group_values, pack, unpack_codes


def random_weight(bits: int, rows: int, columns: int, kind: str) -> PackedWeight:
    """A random packed matrix of a kind: centred, with minimums, or with super-scales."""
    generator = torch.Generator().manual_seed(rows * columns + bits)
    codes = torch.randint(0, 1 << bits, (rows, columns), dtype=torch.uint8, generator=generator)
    groups = columns // 32
    if bits == 3 and kind == "super":
        multipliers_NG = torch.randint(0, 256, (rows, groups), dtype=torch.uint8, generator=generator)
        supers = torch.rand(rows, groups // 8, generator=generator).half() * 0.0001
        return pack(codes, multipliers_NG, bits=3, super_scales=supers)
    if kind == "super":
        multipliers = torch.randint(0, 64, (2, rows, groups), dtype=torch.uint8, generator=generator)
        supers = torch.rand(2, rows, groups // 8, generator=generator).half() * 0.001
        return pack(codes, multipliers[0], multipliers[1], bits=bits, super_scales=supers[0], super_minimums=supers[1])
    scales, minimums = (torch.randn(2, rows, groups, generator=generator) * 0.01).half()
    return pack(codes, scales, minimums if kind == "minimums" else None, bits=bits)


KINDS = [(3, "centred"), (3, "super"), (4, "centred"), (4, "minimums"), (4, "super"), (8, "centred")]


def three_bits(codes: torch.Tensor, row: int, column: int) -> int:
    """The code of a column of one tile's group (192 bytes), as the layout says."""
    chunks = [int(codes[64 * chunk + 4 * row + column % 4]) for chunk in range(3)]
    four = column // 4
    if four < 6:
        return chunks[four // 2] >> 4 * (four % 2) & 7
    return sum((chunk >> (3 if four == 6 else 7) & 1) << place for place, chunk in enumerate(chunks))


@pytest.mark.parametrize(("bits", "kind"), KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(16, 256), (1, 256), (37, 512)])
def test_a_value_stands_where_the_layout_says(bits: int, kind: str, rows: int, columns: int) -> None:
    weight = random_weight(bits, rows, columns, kind)
    matrix, codes = dequantize(weight), unpack_codes(weight)
    scales, offsets = group_values(weight)
    for row, column in ((0, 0), (rows - 1, columns - 1), (rows // 2, 5), (rows // 2, 16 + 32), (rows // 2, 32 + 25)):
        tile, group, within = row // 16, column // 32, column % 32
        level = None
        if bits == 3:
            code = three_bits(weight.codes[tile, group], row % 16, within)
            level = (0, 6, 10, 14, 17, 20, 24, 29)[code]
        elif bits == 8:
            code = weight.codes[tile, group, 64 * (within // 4) + 4 * (row % 16) + within % 4]
        else:
            byte = weight.codes[tile, group, 64 * (within % 16 // 4) + 4 * (row % 16) + within % 4]
            code = byte >> 4 if within >= 16 else byte & 15
        assert code == codes[row, column]
        level = code if level is None else level
        assert matrix[row, column] == scales[row, group] * float(level) + offsets[row, group]


@pytest.mark.parametrize(("bits", "kind"), KINDS)
def test_products_with_whole_inputs_agree(bits: int, kind: str) -> None:
    """Inputs whose groups are multiples of their largest over 127 lose nothing in 8 bits."""
    weight = random_weight(bits, 40, 512, kind)
    inputs = torch.randint(-127, 128, (3, 512), generator=torch.Generator().manual_seed(1)).float()
    inputs.view(3, 16, 32)[..., 0] = 127
    exact = inputs.double() @ dequantize(weight).double().T
    torch.testing.assert_close(linear_twin(inputs, weight).double(), exact, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(linear_int8_twin(inputs, weight).double(), exact, rtol=1e-5, atol=1e-3)
