"""From a name to a model that is ready: the one place that knows the order of the steps.

Find the folder, tell its layout, read the config, make the model without memory, stream the weights
into it, open the tokenizer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from tessera.errors import CheckpointError, ModelNotFoundError, UsageError
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.prompt import Tokenizer, packaged_tokenizer_path
from tessera.weights import hf, mistral
from tessera.weights.detect import Layout, detect, weight_files
from tessera.weights.stream import Progress, fill_model, stored_tensors

BUNDLED = "nano"
BUNDLED_FOLDER = Path(__file__).parent / "nano" / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A model this small loses nothing in float32, and is exact: its cost is not the memory.
SMALL_BYTES = 1_000_000_000
TOKENIZER_FILES = ("tekken.json", "tokenizer.model.v7m1", "tokenizer.model.v7", "tokenizer.model.v3")


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with everything needed to use it."""

    model: Pixtral
    tokenizer: Tokenizer
    config: ModelConfig
    name: str
    folder: Path


def resolve(name: str, revision: str | None = None) -> Path:
    """The folder of a model: "nano", a path, or a hub id whose files were downloaded before."""
    if name == BUNDLED:
        return BUNDLED_FOLDER
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelNotFoundError(f"{name} is a file; give the folder that holds the model's files.")
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelNotFoundError(
            f"{name!r} is neither {BUNDLED!r}, nor a folder, nor a hub id like mistralai/Pixtral-12B-2409; "
            "check the spelling."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelNotFoundError(f"{name} is not on this machine; get it with: tessera download {name}") from error


def load_model(
    folder: Path, *, dtype: str = "auto", device: str = "auto", progress: Progress | None = None
) -> LoadedModel:
    """Read a checkpoint of either layout; raises CheckpointError for anything incomplete or damaged."""
    layout = detect(folder)
    config = read_config(folder, layout)
    tokenizer = Tokenizer.from_file(tokenizer_file(folder, layout), config.vision_encoder)
    if tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids and the model {config.vocab_size}; "
            "they belong to different models."
        )
    stored = stored_tensors(weight_files(folder, layout))
    stored_bytes = sum(tensor.num_bytes for tensor in stored.values())
    target = _device(device)
    chosen = _dtype(dtype, {tensor.dtype for tensor in stored.values()}, stored_bytes, target)
    parameters = sum(tensor.num_bytes // tensor.dtype.itemsize for tensor in stored.values())
    _check_memory(folder, parameters * chosen.itemsize, target)
    with torch.device("meta"):
        model = Pixtral(config)
    tensors = (mistral if layout == "mistral" else hf).official_tensors(folder, config)
    fill_model(model, tensors, dtype=chosen, device=target, progress=progress, total_bytes=stored_bytes)
    name = BUNDLED if folder == BUNDLED_FOLDER else folder.name
    return LoadedModel(model.eval(), tokenizer, config, name, folder)


def read_config(folder: Path, layout: Layout) -> ModelConfig:
    """The config of a folder whose layout is known."""
    return (mistral if layout == "mistral" else hf).read_config(folder)


def tokenizer_file(folder: Path, layout: Layout) -> Path:
    """The folder's own tokenizer; in Hugging Face's layout without one, Pixtral's packaged file."""
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return folder / name
    if layout == "hf":
        # A converted tokenizer.json can split text wrongly; the original file ships with mistral-common.
        return packaged_tokenizer_path()
    raise CheckpointError(f"{folder} has no tokenizer file (tekken.json); download it again.")


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:0.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:0.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"device {device!r} is not there: this machine has {torch.cuda.device_count()} CUDA devices.")
    return chosen


def _dtype(dtype: str, stored: set[torch.dtype], stored_bytes: int, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UsageError(f"dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if device.type == "cpu" and stored_bytes < SMALL_BYTES:
        return torch.float32
    return stored.pop() if len(stored) == 1 else torch.bfloat16


def _check_memory(folder: Path, needed: int, device: torch.device) -> None:
    if device.type == "cuda":
        available = torch.cuda.mem_get_info(device)[0]
    else:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _page_cache_bytes()
    if needed > available:
        raise CheckpointError(
            f"{folder.name} needs {needed / 1e9:.1f} GB for its weights and {available / 1e9:.1f} GB of "
            f"{device.type} memory is free; close other programs, or use a machine with more memory."
        )


def _page_cache_bytes() -> int:
    """Memory that the kernel gives back when asked; 0 where it does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            entries = dict(line.split(":", 1) for line in file)
        return int(entries["Cached"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
