"""Our own folder format for quantized weights: the content of its files, and reading them.

    tessera.json                   the manifest, written last: tool and source, each linear's scheme and error
    params.json tekken.json        as in the official layout
    layers-00.safetensors ...      one file a layer; vision.safetensors and outer.safetensors hold the rest

A quantized linear `layers.0.attention.wq` is stored as the fields of its packed weight, as
`layers.0.attention.wq.codes` and so on, in the layout that kernels read, so that files are mapped
and never unpacked; all other tensors have their official names and the source's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.kernels.packed_weight import GROUP_COLUMNS
from tessera.kernels.quantized_weight import STORAGE, QuantizedWeight
from tessera.model.config import ModelConfig
from tessera.weights.checkpoint import Checkpoint, checkpoint_of_folder
from tessera.weights.detect import MANIFEST, read_json, weight_files
from tessera.weights.fill import check_sources, linear_shapes
from tessera.weights.mistral import read_config
from tessera.weights.safetensors import StoredTensor, map_file, stored_tensors
from tessera.weights.source import Source, StoredLinear

FORMAT_VERSION = 1
ALIGNMENT = 64  # bytes: a cache line, and the widest vector that a kernel loads


@dataclass(frozen=True)
class LinearRecord:
    """One linear's scheme, and its errors relative to the original's size.

    `weight_error` is of the matrix; `output_error` of its products with the inputs that calibration saw.
    """

    scheme: str
    weight_error: float
    output_error: float | None = None


@dataclass(frozen=True)
class Manifest:
    """The content of tessera.json."""

    tool: str
    source: str
    source_digest: str
    options: Mapping[str, str]  # the options of `tessera quantize`
    files: tuple[str, ...]
    linears: Mapping[str, LinearRecord]
    format_version: int = FORMAT_VERSION
    group_size: int = GROUP_COLUMNS

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_manifest(file: Path) -> Manifest:
    """Read and check a manifest; raises CheckpointError that names the fault."""
    content = read_json(file)
    version, group_size = content.get("format_version"), content.get("group_size")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{file} has format_version {version!r} and this version of Tessera reads {FORMAT_VERSION}; quantize the "
            "original again, or use the version that wrote it."
        )
    if group_size != GROUP_COLUMNS:
        raise CheckpointError(
            f"{file} has group_size {group_size!r}; the only one is {GROUP_COLUMNS}: download it again."
        )
    try:
        files, options = tuple(content["files"]), dict(content["options"])
        linears = {name: LinearRecord(**record) for name, record in content["linears"].items()}
        texts = [content["tool"], content["source"], content["source_digest"], *files, *options.values()]
    except (KeyError, TypeError, ValueError, AttributeError):
        texts = [None]
    if not all(isinstance(text, str) for text in texts):
        raise CheckpointError(
            f"{file} is not a whole manifest of a quantized model; quantize again, or download it again."
        )
    for name, record in linears.items():
        if record.scheme not in tuple(STORAGE):  # which may be anything, also a list
            raise CheckpointError(
                f"{file}: {name!r} is held by the scheme {record.scheme!r}, and this version of Tessera reads "
                f"{', '.join(STORAGE)}; use the version that wrote it."
            )
    return Manifest(texts[0], texts[1], texts[2], options, files, linears)


def open(folder: Path) -> Checkpoint:
    """Open the model in a folder, with quantized weights as its mapped files' bytes.

    Reads headers only. Raises CheckpointError for any deviation from the manifest and the config.
    """
    config = read_config(folder)
    records = read_manifest(folder / MANIFEST).linears
    plain, weights = read_linears(weight_files(folder, "tessera"), records, config)
    sources = {name: Source(tensor) for name, tensor in plain.items()}
    checked = check_sources(sources, config, folder, {f"{name}.weight" for name in weights})
    return checkpoint_of_folder(
        folder, "tessera", config, checked, {name: _mapped(weight) for name, weight in weights.items()}
    )


def _mapped(weight: QuantizedWeight) -> StoredLinear:
    return StoredLinear(weight.scheme, weight.shape, weight.nbytes, weight.nbytes, lambda: weight)


def read_linears(
    files: Sequence[Path], linears: Mapping[str, LinearRecord], config: ModelConfig
) -> tuple[dict[str, StoredTensor], dict[str, QuantizedWeight]]:
    """Map these linears, and return them with all other tensors of the files; raises CheckpointError."""
    stored = stored_tensors(files)
    pages = {file: map_file(file) for file in files}
    shapes = linear_shapes(config)
    weights: dict[str, QuantizedWeight] = {}
    for name, record in linears.items():
        storage = STORAGE[record.scheme]
        if name not in shapes or not storage.holds(shapes[name]):
            raise CheckpointError(
                f"{files[0].parent / MANIFEST} names the linear {name!r}, which this architecture does not have, or "
                f"not in a shape that {record.scheme} can hold; manifest and params.json belong to different models: "
                "use those of one model."
            )
        fields: dict[str, Tensor] = {}
        for field, (dtype, shape) in storage.fields(shapes[name]).items():
            tensor = _checked(stored.pop(f"{name}.{field}", None), f"{name}.{field}", dtype, shape, files)
            fields[field] = tensor.within(pages[tensor.file])
        weights[name] = storage.weight(shapes[name], fields)
    return stored, weights


def _checked(
    tensor: StoredTensor | None, name: str, dtype: torch.dtype, shape: tuple[int, ...], files: Sequence[Path]
) -> StoredTensor:
    if tensor is None:
        raise CheckpointError(
            f"{files[0].parent}: the tensor {name!r} that the manifest lists is in none of its {len(files)} files; "
            "get them again."
        )
    if (tensor.dtype, tensor.shape) != (dtype, shape):
        raise CheckpointError(
            f"{tensor.file}: {name!r} is {tensor.dtype} of the shape {tensor.shape}, and manifest and params.json ask "
            f"for {dtype} of {shape}; they belong to different models: use the files of one."
        )
    return tensor
