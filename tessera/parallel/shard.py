"""Selects the part of the weights that one rank holds.

Attention is split by heads and the feed-forward by its hidden width, in the decoder and in the vision
encoder alike, since both consist of the same modules: all ranks then encode an image together.
The first linears of each pair are split by outputs (rows of the weight), the second by inputs (columns),
so a layer needs two sums over the ranks. The head is split by vocabulary if that divides evenly:
each token reads all of it. Embeddings, norms and the patch merger are whole on every rank.
Where ranks outnumber key/value heads, several hold the same one. Source: Megatron-LM, arXiv 1909.08053.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from torch import Tensor

from tessera.errors import UsageError
from tessera.kernels.packed_weight import TILE_ROWS
from tessera.kernels.quantized_weight import QuantizedWeight
from tessera.model.config import ModelConfig

ROWS = re.compile(r"(.*attention\.w[qkv]|.*feed_forward\.w[13]|vision_language_adapter\.w_in)")
COLUMNS = re.compile(r"(.*attention\.wo|.*feed_forward\.w2|vision_language_adapter\.w_out)")
KEYS_AND_VALUES = re.compile(r"layers\.\d+\.attention\.w[kv]")
HEAD = "output"


@dataclass(frozen=True)
class Shard:
    """The part of rank `rank` of `size`; raises UsageError for a model that does not divide evenly."""

    config: ModelConfig  # the whole model's
    rank: int
    size: int

    def __post_init__(self) -> None:
        config, vision = self.config, self.config.vision_encoder
        for name, number in (
            ("n_heads", config.n_heads),
            ("hidden_dim", config.hidden_dim),
            ("dim", config.dim),
            ("the vision encoder's num_attention_heads", vision.num_attention_heads),
            ("the vision encoder's intermediate_size", vision.intermediate_size),
        ):
            if number % self.size:
                raise UsageError(
                    f"tensor_parallel_size is {self.size}, and {name} of this model is {number}, which does not "
                    "divide by it; choose a divisor."
                )
        if config.n_kv_heads % self.size and self.size % config.n_kv_heads:
            raise UsageError(
                f"tensor_parallel_size is {self.size}, and the model's {config.n_kv_heads} key/value heads can be "
                "neither split nor repeated that often; choose a divisor or a multiple."
            )

    @property
    def rank_config(self) -> ModelConfig:
        """Return the decoder's config on this rank, for which its key/value cache and work space are made."""
        return replace(
            self.config,
            n_heads=self.config.n_heads // self.size,
            n_kv_heads=max(self.config.n_kv_heads // self.size, 1),
            hidden_dim=self.config.hidden_dim // self.size,
        )

    @property
    def splits_head(self) -> bool:
        """Return True if the head divides in tiles, so that a packed head is split as a plain one."""
        return self.config.vocab_size % (self.size * TILE_ROWS) == 0

    def rows(self, linear: str, total: int) -> range | None:
        """Return the outputs that this rank computes; None: all.

        Example: 8 key/value heads of 128 over 2 ranks: rank 1 has 512 to 1024; over 16 ranks, ranks 2 and 3
        both have 128 to 256.
        """
        if self.size == 1:
            return None
        if KEYS_AND_VALUES.fullmatch(linear):
            heads, width = self.config.n_kv_heads, self.config.head_dim
            first = self.rank * heads // self.size
            return range(first * width, (first + max(heads // self.size, 1)) * width)
        if ROWS.fullmatch(linear) or (linear == HEAD and self.splits_head):
            return self._even(total)
        return None

    def columns(self, linear: str, total: int) -> range | None:
        """Return the inputs that this rank has; None: all."""
        return self._even(total) if self.size > 1 and COLUMNS.fullmatch(linear) else None

    def shard(self, name: str, tensor: Tensor) -> Tensor:
        """Copy this rank's part of the parameter `name` ("layers.0.attention.wq.weight")."""
        linear, _, kind = name.rpartition(".")
        rows = self.rows(linear, len(tensor)) if kind in ("weight", "bias") else None
        if rows is not None:
            return tensor[rows.start : rows.stop].clone()
        columns = self.columns(linear, tensor.shape[-1]) if kind == "weight" else None
        return tensor if columns is None else tensor[:, columns.start : columns.stop].clone()

    def shard_quantized(self, linear: str, weight: QuantizedWeight) -> QuantizedWeight:
        """Return this rank's part of a quantized weight; raises UsageError if tiles or groups cannot be split."""
        rows, columns = self.rows(linear, weight.shape[0]), self.columns(linear, weight.shape[1])
        for part, unit, what in ((rows, weight.units[0], "rows"), (columns, weight.units[1], "columns")):
            if part is not None and (part.start % unit or part.stop % unit):
                raise UsageError(
                    f"{linear} is packed in {unit} {what} at a time, and a share of {len(part)} of its {what} for "
                    f"each of {self.size} ranks is no multiple; choose another tensor_parallel_size."
                )
        if rows is not None:
            return weight.rows(rows.start, rows.stop).clone()
        return weight if columns is None else weight.columns(columns.start, columns.stop).clone()

    def _even(self, total: int) -> range:
        part = total // self.size
        return range(self.rank * part, (self.rank + 1) * part)
