"""A checkpoint of any format, from its headers and side files: config, tensor sources and tokenizer.

Each format's module has `open(path) -> Checkpoint`, and `detect.FORMATS` names it, so that code that loads,
converts, quantizes or describes a model need not know its format.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch

from tessera.errors import CheckpointError, UsageError
from tessera.model.config import ModelConfig
from tessera.prompt import Tokenizer
from tessera.weights.detect import FORMATS, Layout, detect, find_tokenizer, no_tokenizer
from tessera.weights.fill import empty_model
from tessera.weights.safetensors import StoredTensor
from tessera.weights.source import Source, StoredLinear


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The content of a folder or a pair of GGUF files: plain tensors, quantized linears, config and tokenizer."""

    files: tuple[Path, ...]  # the path it is opened by: a folder, or a GGUF model's file and its image part
    layout: Layout
    folder: Path  # holds its side files
    config: ModelConfig
    sources: Mapping[str, Source]
    linears: Mapping[str, StoredLinear] = field(default_factory=dict)
    dtype: torch.dtype  # the one that most plain parameters are stored in
    own_tokenizer: Path | None  # or the packaged one if it belongs to this model; None if neither exists
    check_tokenizer: Callable[[Tokenizer], None] = lambda _: None  # raises CheckpointError for another model's
    # Notes for the user on how it is loaded. A function, since it samples tensors.
    notes: Callable[[], tuple[str, ...]] = tuple

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def tokenizer_file(self) -> Path:
        """Return the model's own tokenizer file, or the packaged one; raises CheckpointError."""
        if self.own_tokenizer is None:
            raise no_tokenizer(self.folder)
        return self.own_tokenizer

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of all tensors in the files; one with two names counts once."""
        plain = sum(stored.num_bytes for stored in self._plain)
        return plain + sum(linear.stored_bytes for linear in self.linears.values())

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of all tensors in memory, plain ones in this dtype."""
        plain = sum(stored.num_parameters for stored in self._plain) * dtype.itemsize
        return plain + sum(linear.nbytes for linear in self.linears.values())

    @property
    def is_quantized(self) -> bool:
        """Return True if any tensor is stored in codes: linears, or just the embeddings of a GGUF file."""
        return bool(self.linears) or any(stored.is_coded for stored in self._plain)

    @property
    def is_coded(self) -> bool:
        """Return True if any tensor is stored in integer codes, or was made of 16 bits by `tessera quantize`."""
        rounded = any(linear.plain is None for linear in self.linears.values())
        return rounded or any(stored.is_coded for stored in self._plain)

    def plain_sources(self) -> dict[str, Source]:
        """Return all parameters' sources in the model's order, 8-bit floats as bfloat16; not if `is_coded`."""
        floats = {f"{name}.weight": linear.plain for name, linear in self.linears.items() if linear.plain is not None}
        found = {**self.sources, **floats}
        return {name: found[name] for name, _ in empty_model(self.config).named_parameters()}

    def load_tokenizer(self) -> Tokenizer:
        """Load the tokenizer and check that it is this model's; raises CheckpointError."""
        tokenizer = Tokenizer.from_file(self.tokenizer_file, self.config.vision_encoder)
        if tokenizer.vocab_size > self.config.vocab_size:
            raise CheckpointError(
                f"{self.path}: the tokenizer has {tokenizer.vocab_size} ids and the model {self.config.vocab_size}; "
                "they belong to different models: use the tokenizer of this model."
            )
        self.check_tokenizer(tokenizer)
        return tokenizer

    @property
    def _plain(self) -> list[StoredTensor]:
        return _distinct(self.sources.values())


def open_checkpoint(path: Path, mmproj: Path | None = None) -> Checkpoint:
    """Read and check headers and side files; raises CheckpointError.

    `mmproj` is the image part of a GGUF model; by default it is searched for next to the text model's file.
    """
    layout = detect(path)
    opener = import_module(FORMATS[layout].module)
    if layout == "gguf":
        opened: Checkpoint = opener.open(path, mmproj)
        return opened
    if mmproj is not None:
        raise UsageError(f"{path} is not a GGUF file and contains its vision part; leave out --mmproj {mmproj}.")
    opened = opener.open(path)
    return opened


def checkpoint_of_folder(
    folder: Path,
    layout: Layout,
    config: ModelConfig,
    sources: Mapping[str, Source],
    linears: Mapping[str, StoredLinear] | None = None,
) -> Checkpoint:
    """Make the checkpoint of a folder that holds weights and tokenizer."""
    return Checkpoint(
        files=(folder,),
        layout=layout,
        folder=folder,
        config=config,
        sources=sources,
        linears=linears or {},
        dtype=most_stored_dtype(sources.values()),
        own_tokenizer=find_tokenizer(folder, layout, config),
    )


def most_stored_dtype(sources: Iterable[Source]) -> torch.dtype:
    """Return the dtype that most plain parameters are stored in."""
    counts: Counter[torch.dtype] = Counter()
    for stored in _distinct(sources):
        counts[stored.dtype] += stored.num_parameters
    return counts.most_common(1)[0][0]


def _distinct(sources: Iterable[Source]) -> list[StoredTensor]:
    return list(dict.fromkeys(source.stored for source in sources))
