"""llama.cpp's files of adapters: a GGUF file whose tensors are in our order, of the decoder and the head.

Imported on use: every start of an engine would otherwise wait for the `gguf` package. Source: llama.cpp's
convert_lora_to_gguf.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
from gguf import GGUFType, GGUFWriter, Keys

from tessera.errors import CheckpointError, UsageError
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.files import kept_of, pairs
from tessera.lora.names import GGUF_MATRIX, gguf_linears, refuse_unmatched
from tessera.machine import disk_room, written_whole
from tessera.model.config import ModelConfig
from tessera.weights.detect import is_gguf_name
from tessera.weights.gguf.header import read_header
from tessera.weights.gguf.names import to_gguf_name
from tessera.weights.gguf.scaling import PLAIN_ARCHITECTURE
from tessera.weights.gguf.stored import stored_tensor


def read_gguf(file: Path, config: ModelConfig) -> LoraAdapter:
    """Read an adapter for a model of this config; raises CheckpointError that names the fault."""
    header = read_header(file)
    kind = header.text(Keys.General.TYPE), header.text(Keys.Adapter.TYPE)
    if kind != (GGUFType.ADAPTER, "lora"):
        raise CheckpointError(f"{file} is of the type {kind[0]!r}, not a LoRA adapter; use a file of an adapter.")
    alpha = header.values.get(Keys.Adapter.LORA_ALPHA, 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise CheckpointError(f"{file}: {Keys.Adapter.LORA_ALPHA} is no number; convert the adapter again.")
    linears = gguf_linears(config)
    found = {key: (match[1], match[2].upper()) for key in header.tensors if (match := GGUF_MATRIX.fullmatch(key))}
    unmatched = [key for key in header.tensors if key not in found or found[key][0] not in linears]
    refuse_unmatched(file, unmatched, len(header.tensors))
    named = ((linears[found[key][0]], found[key][1], stored_tensor(file, each)) for key, each in header.tensors.items())
    # Without an alpha, llama.cpp takes the product as it is.
    modules = {
        name: LowRank(a_RK, b_NR, alpha / max(len(a_RK), 1) if alpha else 1.0)
        for name, (a_RK, b_NR) in pairs(file, named, config).items()
    }
    return LoraAdapter.of(modules, config, str(file))


def write_gguf_adapter(adapter: LoraAdapter, file: Path, architecture: str = PLAIN_ARCHITECTURE) -> tuple[str, ...]:
    """Write a new GGUF file that llama.cpp loads with --lora; returns what it cannot load of the adapter.

    llama.cpp compares the architecture with its model's.
    Its scale is alpha over a tensor's rank. bfloat16 becomes float32, which holds every such number.
    """
    if file.exists() or not is_gguf_name(file):
        raise UsageError(f"{file} exists or does not end in .gguf; name a new file that does.")
    kept, notes = kept_of(adapter, ("decoder", "head"), "llama.cpp")
    one = kept.uniform()
    first = next(iter(one.modules.values()))
    with disk_room(file.parent), written_whole(file) as partial_file:
        writer = GGUFWriter(partial_file, architecture)
        writer.add_type(GGUFType.ADAPTER)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(Keys.Adapter.LORA_ALPHA, first.scale * first.rank)
        for name, module in one.modules.items():
            for suffix, matrix in (("lora_a", module.a_RK), ("lora_b", module.b_NR)):
                values = matrix if matrix.dtype == torch.float16 else matrix.float()
                writer.add_tensor(f"{to_gguf_name(f'{name}.weight')}.{suffix}", values.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return notes
