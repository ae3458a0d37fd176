"""Loading a model by name: the one place that knows the order of the steps.

Find the folder, detect its layout, read the config, make the model without memory, stream the weights
into it, open the tokenizer. Describing a model from its headers (`summary`) begins the same way.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tessera.chat import Head
from tessera.errors import CheckpointError, ModelNotFoundError, UsageError
from tessera.heads import heads_file, read_heads
from tessera.hub import cached_folder, is_hub_id
from tessera.kernels.cuda import keep_precision
from tessera.linears.quantized import place
from tessera.lora.attach import attach
from tessera.lora.files import read_adapter
from tessera.machine import available_bytes, use_device
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tessera.prompt import Tokenizer
from tessera.shelf import ALIASES, SHORT_NAME, how_to_make, made_models
from tessera.shelf import BUNDLED as BUNDLED
from tessera.shelf import ModelSource as ModelSource
from tessera.weights.checkpoint import Checkpoint, open_checkpoint
from tessera.weights.detect import EXAMPLE_ID, hub_id, is_gguf, is_gguf_name, sole_gguf
from tessera.weights.fill import Progress, empty_model, fill_model

Check = Callable[[ModelConfig, torch.dtype, torch.device], None]

BUNDLED_FOLDER = Path(__file__).parent / "nano" / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# A model this small is exact in float32 at no real cost in memory.
SMALL_BYTES = 1_000_000_000


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with everything needed to use it."""

    model: Pixtral
    tokenizer: Tokenizer
    shard: Shard  # the part of the model in this process (all of it with one rank)
    name: str
    notes: tuple[str, ...] = ()  # messages for its user
    heads: tuple[Head, ...] = ()  # those that look at what is read
    path: Path | None = None  # the folder or file of its weights

    @property
    def config(self) -> ModelConfig:
        """The config of the whole model."""
        return self.shard.config


def find_model(name: str, revision: str | None = None, cache: Path | None = None) -> Path:
    """Find a model's folder by "nano", a path (also to a GGUF file), or a hub id that was downloaded before.

    A hub id is looked for in the folder `cache`, or in the hub's usual one. Never touches the network.
    Raises ModelNotFoundError that says how to get the model.
    """
    path = Path(os.path.expanduser(name))  # Path.expanduser fails for "~nobody"
    if SHORT_NAME.fullmatch(name) and name != BUNDLED and not path.exists() and not is_gguf_name(path):
        return _by_short_name(name, revision, cache)
    if (revision or cache) and (name == BUNDLED or path.exists()):
        raise UsageError(f"{name!r} is a model on this machine; leave out revision and download_dir.")
    if name == BUNDLED:
        if not BUNDLED_FOLDER.is_dir():
            raise ModelNotFoundError(f"the bundled model is not in {BUNDLED_FOLDER}; install Tessera again.")
        return BUNDLED_FOLDER
    if name and path.is_dir():
        return sole_gguf(path) or path
    if name and is_gguf(path):
        return path
    if name and path.exists():
        raise ModelNotFoundError(f"{name} is a file but not a GGUF file; give the folder that holds the model's files.")
    if is_gguf_name(path):
        raise ModelNotFoundError(f"the file {name} does not exist; check the spelling and the folder.")
    if not is_hub_id(name):
        raise ModelNotFoundError(
            f"{name!r} is neither {BUNDLED!r}, nor a folder, nor a hub id like {EXAMPLE_ID}; check the spelling."
        )
    return _downloaded(name, revision, cache)


def _downloaded(repository: str, revision: str | None, cache: Path | None) -> Path:
    """Find a repository's folder or GGUF file in the hub's cache; raises ModelNotFoundError with the command."""
    if (cached := cached_folder(repository, revision, cache)) is None:
        at = "" if revision is None else f" --revision {revision}"
        where = "" if cache is None else f"HF_HUB_CACHE={cache} "
        raise ModelNotFoundError(
            f"{repository!r} is neither a folder nor a model in the hub's cache; get it with "
            f"`{where}tessera download {repository}{at}`."
        )
    return sole_gguf(cached) or cached


def _by_short_name(name: str, revision: str | None, cache: Path | None) -> Path:
    """Find a model by a name without slashes: a known repository, or one made here by `quantize`."""
    if name in ALIASES:
        return _downloaded(ALIASES[name], revision, cache)
    made = made_models() / name
    if made.is_dir():
        return made
    if command := how_to_make(name):
        raise ModelNotFoundError(f"{name!r} is not on this machine yet; make it with `{command}`.")
    raise ModelNotFoundError(
        f"{name!r} is neither {BUNDLED!r}, nor a folder, nor a hub id like {EXAMPLE_ID}, nor one of "
        f"{', '.join(sorted(ALIASES))}; check the spelling, or see `tessera list`."
    )


def model_name(folder: Path) -> str:
    """Return a model's name: "nano", its hub id, or the name of its folder or GGUF file."""
    if is_gguf(folder):
        return folder.stem
    if folder == BUNDLED_FOLDER:
        return BUNDLED
    return hub_id(folder) or folder.absolute().name


def locate(source: ModelSource) -> ModelSource:
    """Return the source by folder or GGUF file, so that it stays the same model if the hub's cache changes."""
    folder = find_model(source.name, source.revision, source.download_dir)
    return replace(source, name=str(folder), revision=None, download_dir=None)


def load_model(
    source: ModelSource,
    *,
    progress: Progress | None = None,
    check: Check | None = None,
    rank: int = 0,
) -> LoadedModel:
    """Read a checkpoint of any layout; raises CheckpointError for anything incomplete or damaged.

    With several processes the model has only this rank's shard; `linears.parallel.parallelize` makes the ranks one.

    Quantized weights stay quantized, and those of our own folders stay on disk: their files are memory-mapped.
    `check` is called before any weight is read with what the model will be, and may raise.
    """
    folder = find_model(source.name, source.revision, source.download_dir)
    checkpoint = open_checkpoint(folder, source.mmproj)
    tokenizer = checkpoint.load_tokenizer()
    adapter = None if source.adapter is None else read_adapter(source.adapter, checkpoint.config)
    config, sources = checkpoint.config, checkpoint.sources
    target = target_device(source.device)
    use_device(target)
    if target.type == "cuda":
        keep_precision()
    chosen = compute_dtype(source.dtype, checkpoint, target)
    if check is not None:
        check(config, chosen, target)
    _check_memory(folder, checkpoint.weight_bytes(chosen) // source.tensor_parallel_size, target)
    shard = Shard(config, rank, source.tensor_parallel_size)
    model = empty_model(config)
    coded = _load_linears(model, checkpoint, shard, target, progress)
    told = None if progress is None else _after(coded, progress)
    fill_model(model, sources, dtype=chosen, device=target, progress=told, cut=shard.shard)
    notes = checkpoint.notes()
    if adapter is not None:
        attach(model, adapter, shard)
        notes += (*adapter.notes, f"{source.adapter} changes these linears: {adapter.counts(config)}")
    heads = read_heads(heads_file(folder), config)
    return LoadedModel(model.eval(), tokenizer, shard, model_name(folder), notes, heads, folder)


def _load_linears(
    model: Pixtral, checkpoint: Checkpoint, shard: Shard, device: torch.device, progress: Progress | None
) -> int:
    """Place the quantized linears, which takes minutes where other programs' codes are packed; return their bytes."""
    done, coded = 0, sum(linear.stored_bytes for linear in checkpoint.linears.values())
    total = coded + sum(source.stored.num_bytes for source in checkpoint.sources.values())
    for name, linear in checkpoint.linears.items():
        place(model, name, shard.shard_quantized(name, linear.load()).to(device))
        done += linear.stored_bytes
        if progress is not None:
            progress(name, done, total)
    return coded


def _after(first: int, progress: Progress) -> Progress:
    """Return what passes progress on, with the bytes that were done before."""
    return lambda name, done, total: progress(name, first + done, first + total)


def target_device(device: str) -> torch.device:
    """Return the device of a name, a GPU with its number; "auto" is a GPU if there is one. Raises UsageError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:0.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"device {device!r} is not supported; use auto, cpu, cuda or cuda:0.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {device!r} does not exist: this machine has {torch.cuda.device_count()} CUDA devices."
        )
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())  # torch cannot make a GPU without a number current
    return chosen


def compute_dtype(dtype: str, checkpoint: Checkpoint, device: torch.device) -> torch.dtype:
    """Return the dtype of a name; "auto" is the stored one, and float32 for a small model. Raises UsageError."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UsageError(f"dtype {dtype!r} is unknown; use auto, {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    if device.type == "cpu" and checkpoint.stored_bytes < SMALL_BYTES:
        return torch.float32
    return checkpoint.dtype


def _check_memory(folder: Path, needed: int, device: torch.device) -> None:
    available = available_bytes(device)
    if needed > available:
        raise CheckpointError(
            f"{model_name(folder)} needs {needed / 1e9:.2f} GB for its weights and {available / 1e9:.2f} GB of "
            f"{device.type} memory is free; close other programs, load it in a smaller dtype, or use a larger machine."
        )
