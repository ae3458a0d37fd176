"""Reads third-party quantized checkpoints in Hugging Face's layout: compressed-tensors, AWQ, GPTQ and Ministral's FP8.

All of them store value = scale * (code - zero) for groups of columns, so their codes go unchanged into
the packed layout, and 8-bit floats stay floats. Sources of tensor names, variants and the order of codes
in 32-bit words: compressed-tensors' pack_quantized and naive_quantized, AutoAWQ's WQLinear_GEMM,
AutoGPTQ's QuantLinear. Any other variant is refused by name. Scales and minimums (scale * zero) are
converted to float16.
Static scales of inputs and of a cache are not used: inputs are scaled token by token here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.kernels.fp8_linear import Fp8Weight
from tessera.kernels.packed_weight import GROUP_COLUMNS, pack, packed_bytes, packs
from tessera.kernels.quantized_weight import QuantizedWeight
from tessera.model.config import ModelConfig
from tessera.weights import hf_names
from tessera.weights.detect import read_json
from tessera.weights.fill import linear_shapes
from tessera.weights.floats import StoredFloats
from tessera.weights.safetensors import PLAIN_DTYPES, StoredTensor
from tessera.weights.source import Source, StoredLinear, Transform, check_scales

# The column of each place in a word of 8 codes, from the lowest bits on.
AWQ_COLUMNS = (0, 2, 4, 6, 1, 3, 5, 7)
# Stored scales of activations and of a cache: both are computed here, so these are ignored.
UNUSED = ("input_scale", "output_scale", "k_scale", "v_scale", "q_scale", "activation_scale")

Tensors = Mapping[str, StoredTensor]  # one linear's tensors, by the suffix after its name


@dataclass(frozen=True)
class Codes:
    """A matrix of integers, with outputs as rows: value = scale * (code - zero), group by group.

    `codes_NK` and `zeros_NG` are uint8; zeros are None if all are in the middle (8 or 128).
    """

    bits: int
    codes_NK: Tensor
    scales_NG: Tensor
    zeros_NG: Tensor | None


@dataclass(frozen=True)
class Opened:
    """A linear with checked headers: its scheme and bytes once loaded, and the function that reads it."""

    scheme: str
    nbytes: int
    read: Callable[[], Codes | Fp8Weight]
    plain: StoredTensor | None = None  # 8-bit floats, as 16-bit ones


@dataclass(frozen=True)
class Format:
    """One way to store a linear: the tensors that identify it, and how to read them."""

    needs: tuple[str, ...]
    may: tuple[str, ...]
    open: Callable[[Tensors, tuple[int, int], str], Opened]


def is_quantized(folder: Path) -> bool:
    """Return True if a Hugging Face folder's config says that its weights are quantized."""
    return settings_of(folder) is not None


def settings_of(folder: Path) -> Mapping[str, Any] | None:
    """Return the quantization_config from anywhere in config.json."""
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    found = config.get("quantization_config") or (text.get("quantization_config") if isinstance(text, dict) else None)
    if found is not None and not isinstance(found, Mapping):
        raise CheckpointError(
            f"{folder / 'config.json'}: quantization_config is {found!r} and must be an object; download it again."
        )
    return found


def read(folder: Path, tensors: Tensors, config: ModelConfig) -> tuple[dict[str, Source], dict[str, StoredLinear]]:
    """Find the plain tensors and the quantized linears, by official name, among a folder's, by classic name.

    Reads headers only. Raises CheckpointError for an unsupported format, and for tensors that do not fit this model.
    """
    form = _format(settings_of(folder) or {}, str(folder / "config.json"))
    stored = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in UNUSED}
    linears: dict[str, StoredLinear] = {}
    for name, shape in linear_shapes(config).items():
        module = hf_names.to_hf_name(f"{name}.weight").removesuffix("weight")
        parts = {suffix: stored[module + suffix] for suffix in form.needs + form.may if module + suffix in stored}
        if all(suffix in parts for suffix in form.needs):
            heads = hf_names.permuted_heads(f"{name}.weight", config)
            reorder = None if heads is None else partial(hf_names.from_hf_rows, heads=heads)
            linears[name] = stored_linear(name, form.open(parts, shape, name), shape, parts, reorder)
            for suffix in parts:
                del stored[module + suffix]
    return hf_names.plain_sources(stored, config, folder, {f"{name}.weight" for name in linears}), linears


def stored_linear(
    name: str, opened: Opened, shape: tuple[int, int], tensors: Tensors, reorder: Transform | None = None
) -> StoredLinear:
    """Return the linear that `opened` reads from these tensors; `reorder` puts its rows into the official order."""
    file = next(iter(tensors.values())).file
    stored_bytes = sum(tensor.num_bytes for tensor in tensors.values())

    def load() -> QuantizedWeight:
        weight = _weight(opened.read(), reorder)
        check_scales(weight, file, name)
        return weight

    plain = None if opened.plain is None else Source(opened.plain, reorder)
    return StoredLinear(opened.scheme, shape, stored_bytes, opened.nbytes, load, plain)


def _weight(matrix: Codes | Fp8Weight, reorder: Transform | None) -> QuantizedWeight:
    """Return the matrix in the form used for computing, its rows in the official order."""
    rows = reorder or (lambda tensor: tensor)
    if isinstance(matrix, Fp8Weight):
        # As bytes, which support every operation on rows.
        values = rows(matrix.values.view(torch.uint8)).contiguous().view(matrix.values.dtype)
        return Fp8Weight(values, rows(matrix.scales).contiguous())
    repeats = matrix.codes_NK.shape[1] // GROUP_COLUMNS // matrix.scales_NG.shape[1]
    scales_NG = rows(matrix.scales_NG).half()
    minimums_NG = None
    if matrix.zeros_NG is not None:
        minimums_NG = (rows(matrix.zeros_NG).float() * -scales_NG.float()).half().repeat_interleave(repeats, 1)
    return pack(rows(matrix.codes_NK), scales_NG.repeat_interleave(repeats, 1), minimums_NG, bits=matrix.bits)


# Which format --------------------------------------------------------------------------------


def _format(settings: Mapping[str, Any], where: str) -> Format:
    method = settings.get("quant_method")
    if method == "compressed-tensors":
        return _compressed_format(settings, where)
    if method == "awq":
        _accept(where, settings, "version", ("gemm", "GEMM"), "gemm")
        _accept(where, settings, "bits", (4,), 4)
        _accept(where, settings, "zero_point", (True,), True)
        return Format(("qweight", "qzeros", "scales"), (), _open_awq)
    if method == "gptq":
        _accept(where, settings, "bits", (4, 8), None)
        _accept(where, settings, "checkpoint_format", ("gptq", "gptq_v2"), "gptq")
        _accept(where, settings, "sym", (True, False) if settings["bits"] == 4 else (True,), True)
        # AutoGPTQ's first format stores each zero minus one; its second does not.
        less = 1 if settings.get("checkpoint_format", "gptq") == "gptq" else 0
        centred = settings.get("sym", True)
        return Format(
            ("qweight", "qzeros", "scales"),
            ("g_idx",),
            partial(_open_gptq, bits=int(settings["bits"]), zeros_less=less, centred=centred),
        )
    if method == "fp8":
        _accept(where, settings, "activation_scheme", ("static", "dynamic"), "dynamic")
        _accept(where, settings, "weight_block_size", (None,), (128, 128))
        return Format(("weight", "weight_scale_inv"), (), partial(open_float, scale="weight_scale_inv"))
    raise CheckpointError(
        f"{where}: weights quantized by {method!r} are not read; use compressed-tensors, awq, gptq or fp8, or the "
        "unquantized checkpoint, which `tessera quantize` shrinks."
    )


def _compressed_format(settings: Mapping[str, Any], where: str) -> Format:
    form, groups = settings.get("format"), _section(settings, "config_groups", where)
    for key in ("sparsity_config", "transform_config"):
        if (extra := _section(settings, key, where)) and extra.get("format", "other") != "dense":
            raise CheckpointError(
                f"{where}: quantization_config.{key} is {extra!r}, and such weights are not read; use a checkpoint "
                "without it, or the unquantized one."
            )
    weights = [_section(_section(groups, name, where), "weights", where) for name in groups]
    kinds = sorted({f"{one.get('type')}{one.get('num_bits')}" for one in weights})
    known = {
        "pack-quantized": ("int4", "int8"),
        "int-quantized": ("int8",),
        "float-quantized": ("float8",),
        "naive-quantized": ("float8", "int8"),
    }
    if len(kinds) != 1 or kinds[0] not in known.get(str(form), ()):
        raise CheckpointError(
            f"{where}: compressed-tensors of the format {form!r} with weights of {kinds} in its config_groups are not "
            "read; use pack-quantized with 4 or 8 bits, int-quantized, float-quantized, or the unquantized checkpoint."
        )
    if form == "pack-quantized":
        promised = () if any(one.get("symmetric", True) for one in weights) else ("weight_zero_point",)
        needs, may = ("weight_packed", "weight_scale"), ("weight_shape", "weight_zero_point", "weight_g_idx")
        return Format(needs + promised, may, partial(_open_packed, bits=4 if kinds[0] == "int4" else 8))
    opener = open_float if kinds[0] == "float8" else _open_int
    return Format(("weight", "weight_scale"), ("weight_zero_point",), opener)


def _section(settings: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """Return an object within an object, empty if it is missing."""
    value = settings.get(key) or {}
    if not isinstance(value, Mapping):
        raise CheckpointError(
            f"{where}: {key} of quantization_config is {value!r} and must be an object; download the file again."
        )
    return value


def _accept(where: str, settings: Mapping[str, Any], key: str, values: tuple[Any, ...], default: Any) -> None:
    value = settings.get(key, default)
    if value not in values:
        raise CheckpointError(
            f"{where}: quantization_config.{key} is {value!r}; only {' or '.join(map(repr, values))} is supported: use "
            "such a checkpoint, or the unquantized one."
        )


# How each is read ----------------------------------------------------------------------------


def _open_packed(tensors: Tensors, shape: tuple[int, int], name: str, *, bits: int) -> Opened:
    """compressed-tensors: codes along the columns, the lowest bits first; zeros along the rows."""
    rows, columns = shape
    per_word = 32 // bits
    groups = _groups(tensors["weight_scale"], rows, 1, name)
    zeros = tensors.get("weight_zero_point")
    _expect(tensors["weight_packed"], (rows, -(-columns // per_word)), torch.int32, name)
    if zeros is not None:
        _refuse_zeros_of_8_bits(bits, name, zeros)
        _expect(zeros, (-(-rows // per_word), groups), torch.int32, name)
    _check_groups(shape, groups, name, tensors["weight_scale"])

    def read_codes() -> Codes:
        _check_order(tensors.get("weight_g_idx"), columns, groups, name)
        codes_NK = _unpack(tensors["weight_packed"].read(), bits)[:, :columns]
        zeros_NG = None if zeros is None else _unpack(zeros.read().T.contiguous(), bits).T[:rows]
        return Codes(bits, codes_NK, tensors["weight_scale"].read(), zeros_NG)

    return _packed(shape, bits, zeros is not None, read_codes)


def _open_int(tensors: Tensors, shape: tuple[int, int], name: str) -> Opened:
    """compressed-tensors: signed bytes, with a scale for each row or for the whole."""
    _expect(tensors["weight"], shape, torch.int8, name)
    if zeros := tensors.get("weight_zero_point"):
        _refuse_zeros_of_8_bits(8, name, zeros)
    _check_groups(shape, 1, name, tensors["weight"])
    _check_row_scales(tensors["weight_scale"], shape[0], name)

    def read_codes() -> Codes:
        codes_NK = tensors["weight"].read().view(torch.uint8) ^ 128  # -128 to 127 become 0 to 255
        return Codes(8, codes_NK, tensors["weight_scale"].read().flatten().expand(shape[0])[:, None], None)

    return _packed(shape, 8, False, read_codes)


def open_float(tensors: Tensors, shape: tuple[int, int], name: str, *, scale: str = "weight_scale") -> Opened:
    """compressed-tensors and Ministral: float8_e4m3fn, with a scale for each row or for the whole."""
    _expect(tensors["weight"], shape, torch.float8_e4m3fn, name)
    if zeros := tensors.get("weight_zero_point"):
        raise _refused(zeros, name, "8-bit floats with zero points")
    _check_row_scales(tensors[scale], shape[0], name)
    plain = StoredFloats.of(name, tensors["weight"], tensors[scale])

    def read_values() -> Fp8Weight:
        return Fp8Weight(tensors["weight"].read(), plain.row_scales())

    return Opened("fp8", shape[0] * shape[1] + 4 * shape[0], read_values, plain)


def _open_awq(tensors: Tensors, shape: tuple[int, int], name: str) -> Opened:
    """AutoAWQ: inputs as rows; eight outputs in each word, in an order of their own."""
    rows, columns = shape
    groups = _groups(tensors["scales"], rows, 0, name)
    _check_words(tensors["qweight"], rows, 8, name)
    _expect(tensors["qweight"], (columns, rows // 8), torch.int32, name)
    _expect(tensors["qzeros"], (groups, rows // 8), torch.int32, name)
    _check_groups(shape, groups, name, tensors["scales"])
    order = torch.tensor(AWQ_COLUMNS).argsort()

    def unpacked(tensor: StoredTensor) -> Tensor:
        words: Tensor = _unpack(tensor.read(), 4).unflatten(1, (-1, 8))
        return words[..., order].flatten(1).T

    def read_codes() -> Codes:
        return Codes(4, unpacked(tensors["qweight"]), tensors["scales"].read().T, unpacked(tensors["qzeros"]))

    return _packed(shape, 4, True, read_codes)


def _open_gptq(
    tensors: Tensors, shape: tuple[int, int], name: str, *, bits: int, zeros_less: int, centred: bool
) -> Opened:
    """AutoGPTQ: inputs as rows; the inputs of one output in a word, zeros along the outputs."""
    rows, columns = shape
    per_word = 32 // bits
    groups = _groups(tensors["scales"], rows, 0, name)
    _check_words(tensors["qzeros"], rows, per_word, name)
    _expect(tensors["qweight"], (columns // per_word, rows), torch.int32, name)
    _expect(tensors["qzeros"], (groups, rows // per_word), torch.int32, name)
    _check_groups(shape, groups, name, tensors["scales"])

    def read_codes() -> Codes:
        _check_order(tensors.get("g_idx"), columns, groups, name)
        codes_NK = _unpack(tensors["qweight"].read().T.contiguous(), bits)
        # Zeros minus one wrap around within their bits.
        zeros_NG = (_unpack(tensors["qzeros"].read(), bits) + zeros_less).T & ((1 << bits) - 1)
        if centred and bool((zeros_NG != 1 << (bits - 1)).any()):
            raise CheckpointError(
                f"{tensors['qzeros'].file}: the zeros of {name} are not all in the middle, and quantization_config "
                "says sym; the files belong to different models: use those of one."
            )
        return Codes(bits, codes_NK, tensors["scales"].read().T, None if centred else zeros_NG)

    return _packed(shape, bits, not centred, read_codes)


def _unpack(words: Tensor, bits: int) -> Tensor:
    """Unpack 32-bit words (..., n) to codes, uint8 (..., n * 32 / bits), each from its lowest bits on.

    Example: the word 0x21 of 4 bits gives 1, 2, 0, 0, 0, 0, 0, 0.
    """
    data = words.contiguous().view(torch.uint8)  # the lowest byte first
    return data if bits == 8 else torch.stack([data & 15, data >> 4], dim=-1).flatten(-2)


# Checks --------------------------------------------------------------------------------------


def _packed(shape: tuple[int, int], bits: int, minimums: bool, read: Callable[[], Codes]) -> Opened:
    return Opened(f"int{bits}_min" if minimums else f"int{bits}", packed_bytes(shape, bits, minimums=minimums), read)


def _groups(scales: StoredTensor, rows: int, axis: int, name: str) -> int:
    """Return the number of groups, the scales' length along `axis`; the other axis is the outputs."""
    if len(scales.shape) != 2 or scales.shape[1 - axis] != rows or scales.dtype not in PLAIN_DTYPES:
        raise _misfit(scales, name, f"scales for {rows} outputs")
    return scales.shape[axis]


def _check_groups(shape: tuple[int, int], groups: int, name: str, tensor: StoredTensor) -> None:
    columns = shape[1]
    if not packs(*shape) or not groups or columns % groups or columns // groups % GROUP_COLUMNS:
        raise _refused(tensor, name, f"{groups} groups of {columns} columns")


def _check_order(indices: StoredTensor | None, columns: int, groups: int, name: str) -> None:
    """Check that groups are neighbouring columns; a file may list each column's group."""
    if indices is None:
        return
    if indices.shape != (columns,):
        raise _misfit(indices, name, f"the groups of {columns} columns")
    if not torch.equal(indices.read().to(torch.int64), torch.arange(columns) // (columns // groups)):
        raise _refused(indices, name, "columns grouped by activation order (desc_act, actorder)")


def _check_row_scales(scales: StoredTensor, rows: int, name: str) -> None:
    """Refuse anything but one scale for each row (N), or one for the whole."""
    if scales.shape not in ((rows,), (rows, 1), (1,), (1, 1), ()) or scales.dtype not in PLAIN_DTYPES:
        raise _refused(scales, name, f"{scales.dtype} scales of the shape {scales.shape}")


def _check_words(tensor: StoredTensor, rows: int, per_word: int, name: str) -> None:
    if rows % per_word:
        raise _refused(tensor, name, f"{rows} outputs in words of {per_word}")


def _refuse_zeros_of_8_bits(bits: int, name: str, zeros: StoredTensor) -> None:
    if bits == 8:
        raise _refused(zeros, name, "8-bit codes with zero points")


def _expect(tensor: StoredTensor, shape: tuple[int, ...], dtype: torch.dtype, name: str) -> None:
    if (tensor.shape, tensor.dtype) != (shape, dtype):
        raise _misfit(tensor, name, f"{dtype} of the shape {shape}")


def _misfit(tensor: StoredTensor, name: str, wanted: str) -> CheckpointError:
    return CheckpointError(
        f"{tensor.file}: {tensor.name!r} is {tensor.dtype} of the shape {tensor.shape}, and {name} needs {wanted}; "
        "config and weights belong to different models: use the files of one."
    )


def _refused(tensor: StoredTensor, name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{tensor.file}: {name} has {what}, which this version does not read (groups are multiples of {GROUP_COLUMNS} "
        "neighbouring columns); use another quantization, or the unquantized checkpoint and `tessera quantize`."
    )
