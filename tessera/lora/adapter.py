"""A LoRA adapter in memory: two low-rank matrices and one scale for each linear, by official name.

Whatever a format says of alpha, rank-stabilized scales and patterns is one number per linear here. Files of other
programs know fewer numbers: `uniform` folds the differences into the matrices.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tessera.errors import CheckpointError
from tessera.model.config import ModelConfig
from tessera.weights.fill import linear_shapes
from tessera.weights.safetensors import DTYPE_NAMES

MAX_RANK = 1024  # twice vLLM's largest
PARTS = ("decoder", "vision", "adapter", "head")


@dataclass(frozen=True)
class LowRank:
    """The change of one linear's weight: `scale` * B @ A."""

    a_RK: Tensor
    b_NR: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a_RK)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.b_NR), self.a_RK.shape[1]

    def change(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return some rows of the change of the weight, in float32."""
        return self.scale * (self.b_NR[start:stop].float() @ self.a_RK.float())

    def widened(self, rank: int, scale: float, dtype: torch.dtype) -> LowRank:
        """Return the same change with this rank, scale and dtype: zeros are appended, B takes the scale's rest."""
        more = rank - self.rank
        a_RK = torch.cat([self.a_RK, self.a_RK.new_zeros(more, self.shape[1])]) if more else self.a_RK
        b_NR = torch.cat([self.b_NR, self.b_NR.new_zeros(self.shape[0], more)], 1) if more else self.b_NR
        if self.scale != scale:
            b_NR = b_NR.float() * (self.scale / scale)
        return LowRank(a_RK.to(dtype), b_NR.to(dtype), scale)


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter that fits a model: `of` has checked it. `notes` are what its user should know of how it was read."""

    modules: Mapping[str, LowRank]  # by the official name of a linear: "layers.0.attention.wq"
    base: str | None = None  # the name of the model it was trained for
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        modules: Mapping[str, LowRank],
        config: ModelConfig,
        where: str,
        *,
        base: str | None = None,
        notes: tuple[str, ...] = (),
    ) -> LoraAdapter:
        """Check that every module is one of the model's linears; raises CheckpointError that names the fault."""
        shapes = linear_shapes(config)
        if not modules:
            raise CheckpointError(f"{where} changes no linear of this model; use an adapter that was trained for it.")
        for name, module in modules.items():
            if name not in shapes:
                raise CheckpointError(f"{where}: {name!r} is no linear of this model; use an adapter of this model.")
            _check(module, shapes[name], f"{where}: {name}")
        return cls({name: modules[name] for name in shapes if name in modules}, base, notes)

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of all names, matrices and scales, equal for equal content in whatever format."""
        seen = hashlib.sha256()
        for name, module in sorted(self.modules.items()):
            seen.update(f"{name} {module.scale!r}\n".encode())
            for matrix in (module.a_RK, module.b_NR):
                seen.update(f"{DTYPE_NAMES[matrix.dtype]} {tuple(matrix.shape)}\n".encode())
                seen.update(matrix.contiguous().view(-1).view(torch.uint8).numpy().data)
        return seen.hexdigest()

    @property
    def num_bytes(self) -> int:
        return sum(module.a_RK.nbytes + module.b_NR.nbytes for module in self.modules.values())

    @property
    def changes_images(self) -> bool:
        """Return True if an image's embeddings depend on this adapter."""
        return any(part_of(name) in ("vision", "adapter") for name in self.modules)

    def counts(self, config: ModelConfig) -> str:
        """Return how many linears of each part are changed. Example: "decoder 280/280, vision 0/168, adapter 2/2"."""
        total = Counter(part_of(name) for name in linear_shapes(config))
        changed = Counter(part_of(name) for name in self.modules)
        # A head is seldom trained, and 0/1 would look like a fault.
        return ", ".join(f"{part} {changed[part]}/{total[part]}" for part in PARTS if part != "head" or changed[part])

    def only(self, parts: tuple[str, ...]) -> LoraAdapter:
        """Return the adapter without the modules of all other parts."""
        return replace(self, modules={name: each for name, each in self.modules.items() if part_of(name) in parts})

    def uniform(self, scale: float | None = None, dtype: torch.dtype | None = None) -> LoraAdapter:
        """Return the same changes with one rank, one scale (by default the commonest) and one dtype.

        Without a dtype, the matrices keep theirs if nothing had to be folded into them, and are float32 otherwise.
        """
        scales = Counter(module.scale for module in self.modules.values())
        dtypes = {matrix.dtype for module in self.modules.values() for matrix in (module.a_RK, module.b_NR)}
        chosen = scales.most_common(1)[0][0] if scale is None else scale
        same = len(dtypes) == 1 and scales.keys() == {chosen}
        kept = dtype or (dtypes.pop() if same else torch.float32)
        rank = max(module.rank for module in self.modules.values())
        return replace(
            self, modules={name: module.widened(rank, chosen, kept) for name, module in self.modules.items()}
        )


def part_of(name: str) -> str:
    """Return the part of the model, one of PARTS, that a linear belongs to."""
    if name.startswith("vision_encoder."):
        return "vision"
    if name.startswith("layers."):
        return "decoder"
    return "head" if name == "output" else "adapter"


def check_shapes(a: tuple[int, ...], b: tuple[int, ...], linear: tuple[int, int], where: str) -> None:
    """Raise CheckpointError if matrices of the shapes `a` and `b` do not fit a linear, or their rank is not read."""
    rank = a[0] if len(a) == 2 else 0
    if a != (rank, linear[1]) or b != (linear[0], rank):
        raise CheckpointError(
            f"{where} has A of the shape {a} and B of {b}, and the model's linear is "
            f"{linear}, so they must be (rank, {linear[1]}) and ({linear[0]}, rank); use an adapter of this model."
        )
    if not 1 <= rank <= MAX_RANK:
        raise CheckpointError(f"{where} has rank {rank}, and ranks of 1 to {MAX_RANK} are read; train a smaller one.")


def _check(module: LowRank, shape: tuple[int, int], where: str) -> None:
    a_RK, b_NR, scale = module.a_RK, module.b_NR, module.scale
    check_shapes(tuple(a_RK.shape), tuple(b_NR.shape), shape, where)
    if not math.isfinite(scale) or scale == 0:
        raise CheckpointError(f"{where} has the scale {scale}, which must be finite and not 0; correct its config.")
    if not (a_RK.isfinite().all() and b_NR.isfinite().all()):
        raise CheckpointError(f"{where} holds numbers that are infinite or NaN; train again, or download it again.")
