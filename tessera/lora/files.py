"""Files of adapters: finds out which of the three formats is at hand; reads and writes Mistral's.

Mistral's is `lora.safetensors` with official names; its scale is a plain factor, in params.json beside it or left to
whoever loads it; it knows only the decoder. llama.cpp's is in `gguf_files`. Sources: mistral-finetune's
checkpointing.py, mistral-inference's lora.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tessera.errors import CheckpointError, UsageError, shown
from tessera.lora.adapter import LoraAdapter, LowRank
from tessera.lora.names import MATRIX, refuse_unmatched
from tessera.lora.peft import CONFIG, read_pair, read_peft
from tessera.model.config import ModelConfig
from tessera.shelf import BUNDLED
from tessera.weights.detect import is_gguf, is_gguf_name, read_json
from tessera.weights.fill import linear_shapes
from tessera.weights.safetensors import StoredTensor, stored_tensors
from tessera.weights.write import Writer, piece_of_panels, write_files, write_tensors

MISTRAL_FILE, MISTRAL_PARAMS = "lora.safetensors", "params.json"
MISTRAL_SCALING = 2.0  # the default of both of Mistral's programs
MAX_SCALING = 1e9
FORMS = f"a folder with {CONFIG} or {MISTRAL_FILE}, or a GGUF file"


def find_adapter(path: Path) -> Path:
    """Return the file or folder that `read_adapter` reads; raises UsageError if there is no adapter."""
    for folder in (path, path / "consolidated"):
        if (folder / CONFIG).is_file():
            return folder
        if (folder / MISTRAL_FILE).is_file():
            return folder / MISTRAL_FILE
    if path.is_dir() and len(files := [file for file in path.iterdir() if is_gguf(file)]) == 1:
        return files[0]
    if (path.name == MISTRAL_FILE and path.is_file()) or is_gguf(path):
        return path
    raise UsageError(f"{path} is no LoRA adapter; give {FORMS}.")


def link_out_of(top: Path, path: Path) -> Path | None:
    """Return a link among the files read of an adapter at `path` that leads out of the folder `top`; None without."""
    folders = [folder for folder in (path, path / "consolidated") if folder.is_dir()]
    entries = [entry for folder in folders for entry in sorted(folder.iterdir())] or [path.parent / MISTRAL_PARAMS]
    inside = top.resolve()
    return next((each for each in entries if not Path(os.path.realpath(each)).is_relative_to(inside)), None)


def base_of(path: Path) -> str:
    """Return the name of the model that an adapter says it was trained for; raises UsageError if it says none."""
    found = find_adapter(path)
    named = read_json(found / CONFIG).get("base_model_name_or_path") if found.is_dir() else None
    if not isinstance(named, str) or not named:
        raise UsageError(
            f"{path} does not say which model it was trained for; name the model with -m, such as {BUNDLED}."
        )
    return named


def read_adapter(path: Path, config: ModelConfig) -> LoraAdapter:
    """Read an adapter of any format for a model of this config; raises CheckpointError that names the fault."""
    found = find_adapter(path)
    if found.is_dir():
        return read_peft(found, config)
    if not is_gguf_name(found):
        return _read_mistral(found, config)
    from tessera.lora.gguf_files import read_gguf  # on use: its library takes time to import

    return read_gguf(found, config)


def _read_mistral(file: Path, config: ModelConfig) -> LoraAdapter:
    params = file.parent / MISTRAL_PARAMS
    settings = read_json(params).get("lora") if params.is_file() else None
    scaling, notes = MISTRAL_SCALING, tuple[str, ...]()
    if isinstance(settings, dict) and "scaling" in settings:
        scaling = settings["scaling"]
        if isinstance(scaling, bool) or not isinstance(scaling, int | float) or not abs(scaling) < MAX_SCALING:
            raise CheckpointError(
                f"{params}: lora.scaling is {shown(scaling)} and must be a number below {MAX_SCALING:.0e}; correct it."
            )
    else:
        notes = (f"{file} has no {MISTRAL_PARAMS} with its scale beside it; taken to be {scaling}, Mistral's default",)
    stored = stored_tensors([file])
    linears = {name: name for name in linear_shapes(config)}
    found = {key: (match[1], match[2]) for key in stored if (match := MATRIX.fullmatch(key))}
    refuse_unmatched(file, [key for key in stored if key not in found or found[key][0] not in linears], len(stored))
    matrices = pairs(file, ((*found[key], tensor) for key, tensor in stored.items()), config)
    modules = {name: LowRank(a_RK, b_NR, float(scaling)) for name, (a_RK, b_NR) in matrices.items()}
    return LoraAdapter.of(modules, config, str(file), notes=notes)


def pairs(
    file: Path, named: Iterable[tuple[str, str, StoredTensor]], config: ModelConfig
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of each linear; raises CheckpointError if one is missing or does not fit."""
    found: dict[str, dict[str, StoredTensor]] = {}
    for name, matrix, tensor in named:
        found.setdefault(name, {})[matrix] = tensor
    for name, pair in found.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{file} has only the matrix {next(iter(pair))} of {name}; save the adapter again.")
    shapes = linear_shapes(config)
    return {name: read_pair(pair, shapes[name], f"{file}: {name}") for name, pair in found.items()}


def write_mistral(
    adapter: LoraAdapter, folder: Path, config: ModelConfig, dtype: torch.dtype = torch.bfloat16
) -> tuple[str, ...]:
    """Write a new folder that mistral-inference's `load_lora` loads without options; returns what it cannot load.

    Its loader adds matrices in the model's dtype, times 2 by default: all scales are folded to that.
    """
    kept, notes = kept_of(adapter, ("decoder",), "mistral-inference")
    one = kept.uniform(MISTRAL_SCALING, dtype)
    pieces = []
    for name, module in one.modules.items():
        pieces += [piece_of_panels(f"{name}.lora_A.weight", [module.a_RK])]
        pieces += [piece_of_panels(f"{name}.lora_B.weight", [module.b_NR])]
    rank = next(iter(one.modules.values())).rank
    settings = {"enable": True, "rank": rank, "dropout": 0.0, "scaling": MISTRAL_SCALING}
    text = json.dumps(config.to_params() | {"lora": settings}, indent=2) + "\n"
    writers: dict[str, Writer] = {
        MISTRAL_FILE: partial(write_tensors, pieces=pieces),
        MISTRAL_PARAMS: partial(Path.write_text, data=text, encoding="utf-8"),
    }
    write_files(folder, writers, sum(piece.num_bytes for piece in pieces) + len(text))
    return notes


def kept_of(adapter: LoraAdapter, parts: tuple[str, ...], program: str) -> tuple[LoraAdapter, tuple[str, ...]]:
    """Return what a program can load of an adapter, and a note on the rest; raises UsageError if it can nothing."""
    kept = adapter.only(parts)
    remedy = "merge the adapter into the model instead"
    if not kept.modules:
        raise UsageError(f"{program} loads adapters of the {' and '.join(parts)} only, and this has none; {remedy}.")
    if lost := len(adapter.modules) - len(kept.modules):
        return kept, (
            f"{program} loads adapters of the {' and '.join(parts)} only: {lost} of {len(adapter.modules)} modules are "
            f"left out, and answers differ; for all of them, {remedy}",
        )
    return kept, ()
