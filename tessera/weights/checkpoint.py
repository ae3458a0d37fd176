"""A checkpoint of any format, from its headers and side files: the config, where its tensors come from, its tokenizer.

Each format's module has `open(path) -> Checkpoint`, and `detect.FORMATS` names it, so that who loads, converts,
quantizes or describes a model need not ask for its format.
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
from tessera.weights.safetensors import StoredTensor
from tessera.weights.source import Source, StoredLinear


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a folder or a pair of GGUF files holds: plain tensors, quantized linears, and what belongs to them."""

    files: tuple[Path, ...]  # what it is opened by: its folder, or a GGUF model's file and its picture part
    layout: Layout
    folder: Path  # where its side files lie
    config: ModelConfig
    sources: Mapping[str, Source]
    linears: Mapping[str, StoredLinear] = field(default_factory=dict)
    dtype: torch.dtype  # that most plain parameters are stored in
    own_tokenizer: Path | None  # or the packaged one where that is this model's; None where there is neither
    check_tokenizer: Callable[[Tokenizer], None] = lambda _: None  # raises CheckpointError for another model's
    # What the user should know of how it is loaded. To be asked for, since tensors are sampled for it.
    notes: Callable[[], tuple[str, ...]] = tuple

    @property
    def path(self) -> Path:
        return self.files[0]

    @property
    def tokenizer_file(self) -> Path:
        """The model's own tokenizer, or the packaged one; raises CheckpointError."""
        if self.own_tokenizer is None:
            raise no_tokenizer(self.folder)
        return self.own_tokenizer

    @property
    def stored_bytes(self) -> int:
        """The bytes of all tensors in the files; one that serves under two names counts once."""
        plain = sum(stored.num_bytes for stored in self._plain)
        return plain + sum(linear.stored_bytes for linear in self.linears.values())

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """The bytes of all tensors in memory, plain ones in this dtype."""
        plain = sum(stored.num_parameters for stored in self._plain) * dtype.itemsize
        return plain + sum(linear.nbytes for linear in self.linears.values())

    @property
    def is_quantized(self) -> bool:
        """Whether any tensor is stored in codes: linears, or of a GGUF file the embeddings alone."""
        return bool(self.linears) or any(stored.is_coded for stored in self._plain)

    def load_tokenizer(self) -> Tokenizer:
        """The model's tokenizer, once it is sure to be this model's; raises CheckpointError."""
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
    """Everything that headers and side files say, checked; raises CheckpointError.

    `mmproj` is the picture part of a GGUF model; left out, it is looked for beside the text model's file.
    """
    layout = detect(path)
    opener = import_module(FORMATS[layout].module)
    if layout == "gguf":
        opened: Checkpoint = opener.open(path, mmproj)
        return opened
    if mmproj is not None:
        raise UsageError(f"{path} is no GGUF file and holds its picture part itself; leave out --mmproj {mmproj}.")
    opened = opener.open(path)
    return opened


def checkpoint_of_folder(
    folder: Path,
    layout: Layout,
    config: ModelConfig,
    sources: Mapping[str, Source],
    linears: Mapping[str, StoredLinear] | None = None,
) -> Checkpoint:
    """A checkpoint that is a folder with its tokenizer beside its weights."""
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
    """The dtype that most plain parameters are stored in."""
    counts: Counter[torch.dtype] = Counter()
    for stored in _distinct(sources):
        counts[stored.dtype] += stored.num_parameters
    return counts.most_common(1)[0][0]


def _distinct(sources: Iterable[Source]) -> list[StoredTensor]:
    return list(dict.fromkeys(source.stored for source in sources))
