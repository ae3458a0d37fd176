"""Weights of 3, 4 or 8 bits in the one layout that all kernels, files and devices here use.

A matrix of N rows (outputs) and K columns (inputs) is cut into tiles of 16 rows and groups of 32
columns. A tile's group is one stretch of bytes, so that a processor loads 4 columns of all 16 rows
as one vector of 64 bytes, which is what the VNNI instructions multiply. Each row of each group has
a scale, and may have a minimum: value = scale * (code - 8 or 128), or scale * code + minimum.
A code of 3 bits is the place of a level in LEVELS, which kernels multiply instead: value = scale *
(level - 16). The levels are the best eight of 32 for normally distributed weights and a scale whose
sign is free (found with Lloyd's iteration): they err by 15.5 %, equally spaced ones by 16.3.
The groups are llama.cpp's, so Q4_0, Q4_1 and Q8_0 fit without loss; Q4_K fits too, with 6-bit
multipliers of one scale for each 8 groups. This module knows no files and no processor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor

TILE_ROWS = 16
GROUP_COLUMNS = 32
SUPER_GROUPS = 8  # groups that share a super-scale: Q4_K's blocks of 256 columns
CENTRES = {3: 16, 4: 8, 8: 128}  # by bits: the code, or level, whose value is zero if there are no minimums
LEVELS = (0, 6, 10, 14, 17, 20, 24, 29)  # of the codes of 3 bits; also in native/packed_weight.h


@dataclass(frozen=True)
class PackedWeight:
    """A matrix (N, K) in codes of `bits` bits; all tensors are contiguous and on one device.

    `codes` is uint8 (tiles, groups, 64 * bits): chunk j of 64 bytes holds row r's byte b at 4 * r + b.
    With 8 bits the byte is the code of column 4 * j + b of the group; with 4 bits its low half is
    that of column 4 * j + b and its high half that of column 16 + 4 * j + b. With 3 bits, bits 0 to 2
    of chunk j's byte are the code of column 8 * j + b, bits 4 to 6 that of column 8 * j + 4 + b, bit 3
    is bit j of the code of column 24 + b, and bit 7 that of column 28 + b.
    `scales` is float16 (tiles, groups, 16), `minimums` the same or None (codes are then centred on
    8 or 128). With `super_scales` (float16, (tiles, groups / 8, 16)), `scales` and `minimums` are
    uint8 multipliers: scale = super_scale * scale, minimum = -super_minimum * minimum. With 3 bits
    there are no minimums, and the multipliers are signed (two's complement).
    Rows beyond N have scales of zero.
    """

    bits: int
    shape: tuple[int, int]
    codes: Tensor
    scales: Tensor
    minimums: Tensor | None = None
    super_scales: Tensor | None = None
    super_minimums: Tensor | None = None

    def __post_init__(self) -> None:
        """Check all sizes, since kernels use them to read from bare addresses."""
        rows, columns = self.shape
        tiles, groups = -(-rows // TILE_ROWS), columns // GROUP_COLUMNS
        of_groups = (torch.float16 if self.super_scales is None else torch.uint8, (tiles, groups, TILE_ROWS))
        of_supers = (torch.float16, (tiles, groups // SUPER_GROUPS, TILE_ROWS))
        wanted = {
            "codes": (torch.uint8, (tiles, groups, 64 * self.bits)),
            "scales": of_groups,
            "minimums": of_groups,
            "super_scales": of_supers,
            "super_minimums": of_supers,
        }
        for name, tensor in self.tensors.items():
            if (tensor.dtype, tuple(tensor.shape)) != wanted[name]:
                found = f"{tensor.dtype} {tuple(tensor.shape)}"
                raise ValueError(f"{name} of a packed weight {self.shape} is {found}, not {wanted[name]}")
        supers_match = (self.super_minimums is None) == (self.super_scales is None or self.minimums is None)
        whole_supers = self.super_scales is None or groups % SUPER_GROUPS == 0
        can_hold = self.bits in CENTRES and not (self.bits == 3 and self.minimums is not None)
        if not (can_hold and packs(rows, columns) and supers_match and whole_supers):
            raise ValueError(f"a packed weight {self.shape} of {self.bits} bits lacks parts that the layout needs")

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weight's tensors, by field name."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    @property
    def scheme(self) -> str:
        """The format's name in files and summaries: "int8", "int4", "int4_min", "int4_super", "int3"."""
        form = "" if self.minimums is None else "_min" if self.super_scales is None else "_super"
        return f"int{self.bits}{form}"

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def device(self) -> torch.device:
        return self.codes.device

    @property
    def units(self) -> tuple[int, int]:
        """The rows and columns that stay together when the matrix is split."""
        return TILE_ROWS, GROUP_COLUMNS if self.super_scales is None else GROUP_COLUMNS * SUPER_GROUPS

    def to(self, device: torch.device) -> PackedWeight:
        return PackedWeight(self.bits, self.shape, **{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def clone(self) -> PackedWeight:
        return PackedWeight(self.bits, self.shape, **{name: tensor.clone() for name, tensor in self.tensors.items()})

    def rows(self, start: int, stop: int) -> PackedWeight:
        """Return views of rows `start` to `stop`, which are multiples of the unit."""
        return self.tiles(start // TILE_ROWS, -(-stop // TILE_ROWS))

    def columns(self, start: int, stop: int) -> PackedWeight:
        """Return views of columns `start` to `stop`, which are multiples of the unit."""
        return self.groups(start // GROUP_COLUMNS, stop // GROUP_COLUMNS)

    def tiles(self, start: int, stop: int) -> PackedWeight:
        """Return views of tiles `start` to `stop`."""
        rows = min(self.shape[0], stop * TILE_ROWS) - start * TILE_ROWS
        return PackedWeight(
            self.bits, (rows, self.shape[1]), **{name: tensor[start:stop] for name, tensor in self.tensors.items()}
        )

    def groups(self, start: int, stop: int) -> PackedWeight:
        """Return views of every tile's groups `start` to `stop`; multiples of eight if there are super-scales."""
        columns = min(self.shape[1], stop * GROUP_COLUMNS) - start * GROUP_COLUMNS
        views = {
            name: tensor[:, start // SUPER_GROUPS : stop // SUPER_GROUPS]
            if name.startswith("super_")
            else tensor[:, start:stop]
            for name, tensor in self.tensors.items()
        }
        return PackedWeight(self.bits, (self.shape[0], columns), **views)


def packs(rows: int, columns: int) -> bool:
    """Return True if a matrix of this shape can be packed: whole groups of columns; rows are padded."""
    return rows > 0 and columns > 0 and columns % GROUP_COLUMNS == 0


def packed_bytes(shape: tuple[int, int], bits: int, *, minimums: bool = False) -> int:
    """Return the bytes of a packed matrix (N, K) with float16 scales, with or without minimums."""
    tiles, groups = -(-shape[0] // TILE_ROWS), shape[1] // GROUP_COLUMNS
    return tiles * groups * (64 * bits + 2 * TILE_ROWS * (1 + minimums))


def pack(
    codes_NK: Tensor,
    scales_NG: Tensor,
    minimums_NG: Tensor | None = None,
    *,
    bits: int,
    super_scales: Tensor | None = None,
    super_minimums: Tensor | None = None,
) -> PackedWeight:
    """Lay out codes (uint8, 0 to 7, 15 or 255) and the groups' scales, whose dtypes are kept.

    `super_scales` and `super_minimums` are (N, K / 256).
    """
    rows, columns = codes_NK.shape
    padding = -rows % TILE_ROWS
    padded = torch.nn.functional.pad(codes_NK, (0, 0, 0, padding), value=1 << (bits - 1))
    # (tiles, row, groups, chunk, byte) -> (tiles, groups, chunk, row, byte)
    tiled = padded.view(-1, TILE_ROWS, columns // GROUP_COLUMNS, 8, 4).permute(0, 2, 3, 1, 4)
    if bits == 4:
        tiled = tiled[:, :, :4] | (tiled[:, :, 4:] << 4)
    elif bits == 3:
        tiled = _three_chunks(tiled)
    return PackedWeight(
        bits,
        (rows, columns),
        tiled.reshape(len(tiled), columns // GROUP_COLUMNS, 64 * bits).contiguous(),
        _tile(scales_NG, padding),
        None if minimums_NG is None else _tile(minimums_NG, padding),
        None if super_scales is None else _tile(super_scales, padding),
        None if super_minimums is None else _tile(super_minimums, padding),
    )


def _three_chunks(tiled: Tensor) -> Tensor:
    """Pack codes of 3 bits, (tiles, groups, 8, 16, 4), into three chunks: two codes and two bits a byte."""
    pairs = tiled[:, :, 0::2] | (tiled[:, :, 1::2] << 4)
    spread = torch.cat([((pairs[:, :, 3:] >> bit) & 0x11) << 3 for bit in range(3)], dim=2)
    return pairs[:, :, :3] | spread


def unpack_codes(weight: PackedWeight) -> Tensor:
    """Return the codes, uint8 (N, K); those of 3 bits are places in LEVELS."""
    tiles, groups, _ = weight.codes.shape
    if weight.bits == 4:
        low = weight.codes.view(tiles, groups, 4, TILE_ROWS, 4)
        tiled = torch.cat([low & 15, low >> 4], dim=2)
    elif weight.bits == 3:
        chunks = weight.codes.view(tiles, groups, 3, TILE_ROWS, 4)
        bits = (chunks >> 3) & 0x11
        last = bits[:, :, :1] | (bits[:, :, 1:2] << 1) | (bits[:, :, 2:] << 2)
        pairs = torch.cat([chunks, last], dim=2)
        tiled = torch.stack([pairs & 7, (pairs >> 4) & 7], dim=3).flatten(2, 3)
    else:
        tiled = weight.codes.view(tiles, groups, 8, TILE_ROWS, 4)
    rows, columns = weight.shape
    return tiled.permute(0, 3, 1, 2, 4).reshape(tiles * TILE_ROWS, columns)[:rows]


def unpack_levels(weight: PackedWeight) -> Tensor:
    """Return what scales multiply, uint8 (N, K): the codes, or the levels of codes of 3 bits."""
    codes_NK = unpack_codes(weight)
    if weight.bits != 3:
        return codes_NK
    return _levels(codes_NK.device).index_select(0, codes_NK.int().flatten()).view(codes_NK.shape)


@cache
def _levels(device: torch.device) -> Tensor:
    return torch.tensor(LEVELS, dtype=torch.uint8, device=device)


def group_values(weight: PackedWeight) -> tuple[Tensor, Tensor]:
    """Return scale and offset of each row's groups in float32, both (N, G): value = scale * level + offset."""
    scales = weight.scales.float()
    if weight.super_scales is not None:
        if weight.bits == 3:
            scales = weight.scales.view(torch.int8).float()
        scales = scales * weight.super_scales.float().repeat_interleave(SUPER_GROUPS, dim=1)
    if weight.minimums is None:
        offsets = scales * -CENTRES[weight.bits]
    elif weight.super_minimums is not None:
        offsets = -weight.minimums.float() * weight.super_minimums.float().repeat_interleave(SUPER_GROUPS, dim=1)
    else:
        offsets = weight.minimums.float()
    return _untile(scales, weight.shape[0]), _untile(offsets, weight.shape[0])


def dequantize(weight: PackedWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the dequantized matrix (N, K), computed in float32."""
    scales_NG, offsets_NG = group_values(weight)
    levels = unpack_levels(weight).view(*scales_NG.shape, GROUP_COLUMNS).float()
    return (levels * scales_NG[..., None] + offsets_NG[..., None]).view(weight.shape).to(dtype)


def _tile(values_NG: Tensor, padding: int) -> Tensor:
    padded = torch.nn.functional.pad(values_NG, (0, 0, 0, padding))
    return padded.view(-1, TILE_ROWS, padded.shape[1]).transpose(1, 2).contiguous()


def _untile(values: Tensor, rows: int) -> Tensor:
    return values.transpose(1, 2).reshape(-1, values.shape[1])[:rows]
