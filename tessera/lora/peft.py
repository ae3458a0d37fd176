"""peft's folders: adapter_config.json and adapter_model.safetensors, names and rows in Hugging Face's layout.

All spellings of the names are read, and those of transformers 5 written. peft itself drops vision modules under the
older names with a warning; here a tensor that matches nothing is an error. Source: peft 0.21's LoraConfig.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from tessera.errors import CheckpointError, UsageError, shown
from tessera.lora.adapter import LoraAdapter, LowRank, check_shapes
from tessera.lora.names import (
    COPIED,
    MATRIX,
    PREFIX,
    classic_path,
    from_hf,
    hf_linears,
    live_path,
    refuse_unmatched,
    to_hf,
)
from tessera.matching import matches
from tessera.model.config import ModelConfig
from tessera.weights.detect import PICKLES, read_json
from tessera.weights.fill import linear_shapes
from tessera.weights.safetensors import StoredTensor, stored_tensors
from tessera.weights.write import Writer, piece_of_panels, write_files, write_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings under which W + scale * B @ A is not what was trained, and what to do.
REFUSED = {
    "use_dora": "train without DoRA",
    "use_qalora": "train without QALoRA",
    "lora_bias": "train without biases",
    "fan_in_fan_out": "this model has no such layers",
    "modules_to_save": "name these modules in target_modules instead",
    "layer_replication": "train the model's own layers",
    "trainable_token_indices": "train without new token embeddings",
    "alora_invocation_tokens": "train an adapter that is always on",
    "arrow_config": "save one adapter",
}
# Starting points that also change the base's weights, unless peft converted them when saving.
CHANGED_BASE = ("pissa", "olora", "loftq", "corda")
MAX_PATTERNS, MAX_PATTERN_CHARACTERS = 1000, 200
NumberT = TypeVar("NumberT", int, float)
PLAIN = re.compile(r"(?:[\w-]|\\?\.)+")  # names; a point that is not escaped stands for one character


def read_peft(folder: Path, config: ModelConfig) -> LoraAdapter:
    """Read and check the adapter in a folder; raises CheckpointError that names the fault."""
    file = folder / WEIGHTS
    if not file.is_file():
        pickles = sorted(found.name for pattern in PICKLES for found in folder.glob(pattern))
        why = f"{pickles[0]} is a pickle, which can run code and is never read" if pickles else f"{WEIGHTS} is missing"
        raise CheckpointError(f"{folder}: {why}; save the adapter as safetensors.")
    scaling = _Scaling.read(folder / CONFIG)
    linears, stored = hf_linears(config), stored_tensors([file])
    copied, stored = _without_copies(stored, config)
    pairs: dict[str, dict[str, StoredTensor]] = {}
    unmatched: list[str] = []
    for key, tensor in stored.items():
        match = MATRIX.fullmatch(key)
        name = linears.get(classic_path(match[1])) if match else None
        if match is None or name is None:
            unmatched.append(key)
        elif pairs.setdefault(name, {}).setdefault(match[2], tensor) is not tensor:
            raise CheckpointError(f"{file} has the adapter of {name} under two names, one is {key!r}; keep one.")
    refuse_unmatched(file, unmatched, len(stored))
    modules, shapes = {}, linear_shapes(config)
    paths = {name: _path_in_file(next(iter(pair.values()))) for name, pair in pairs.items()}
    scaling = scaling.resolved(list(paths.values()))
    for name, pair in pairs.items():
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{file} has only lora_{next(iter(pair))} of {name}; save the adapter again.")
        a_RK, b_NR = read_pair(pair, shapes[name], f"{file}: {name}")
        modules[name] = LowRank(a_RK, from_hf(name, b_NR, config), scaling.of(paths[name], a_RK.shape[0]))
    return LoraAdapter.of(modules, config, str(folder), base=scaling.base, notes=copied)


def _path_in_file(matrix: StoredTensor) -> str:
    """Return the path of a matrix's module, as the file and its config spell it."""
    return MATRIX.sub(r"\1", matrix.name).removeprefix(PREFIX)


def _without_copies(
    stored: dict[str, StoredTensor], config: ModelConfig
) -> tuple[tuple[str, ...], dict[str, StoredTensor]]:
    """Leave out whole weights of the head and the embeddings, and say so.

    peft saves them of itself if one is adapted (`save_embedding_layers`), though they are frozen: trained ones are in
    `modules_to_save`, which is refused. Of another shape they belong to another vocabulary, and are refused later.
    """
    shape = config.vocab_size, config.dim
    copies = [key for key, each in stored.items() if COPIED.fullmatch(key) and tuple(each.shape) == shape]
    kept = {key: each for key, each in stored.items() if key not in copies}
    if not copies or not any(".lora_" in key for key in kept):
        return (), stored
    note = f"{', '.join(copies)}: peft's copies of the base's own weights; the model's are used"
    return (note,), kept


def read_pair(pair: Mapping[str, StoredTensor], shape: tuple[int, int], where: str) -> tuple[Tensor, Tensor]:
    """Read A and B of a linear of this shape; raises CheckpointError for other forms, before memory is taken."""
    for stored in (pair["A"], pair["B"]):
        if len(stored.shape) != 2 or not stored.dtype.is_floating_point or stored.dtype.itemsize < 2:
            raise CheckpointError(
                f"{stored.file}: {stored.name!r} is {stored.dtype} of the shape {stored.shape}, and an adapter has "
                "matrices in float32, bfloat16 or float16; save it in one of these."
            )
    check_shapes(tuple(pair["A"].shape), tuple(pair["B"].shape), shape, where)
    return pair["A"].read(), pair["B"].read()


@dataclass(frozen=True)
class _Scaling:
    """What adapter_config.json says of ranks and scales: of modules by pattern, and by path once `resolved`."""

    file: Path
    rank: int
    alpha: float
    root: bool  # rank-stabilized: alpha / sqrt(rank)
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    base: str | None

    @classmethod
    def read(cls, file: Path) -> _Scaling:
        settings = read_json(file)
        if settings.get("peft_type") != "LORA":
            raise CheckpointError(
                f"{file}: peft_type is {shown(settings.get('peft_type'))}, and 'LORA' is read; train such an adapter."
            )
        _refuse(file, settings)
        rank = _whole_rank(file, "r", _number(file, "r", settings.get("r", 8)))
        alpha = _number(file, "lora_alpha", settings.get("lora_alpha", 8))
        base = settings.get("base_model_name_or_path")
        return cls(
            file,
            rank,
            alpha,
            bool(settings.get("use_rslora")),
            {key: _whole_rank(file, key, value) for key, value in _patterns(file, "rank_pattern", settings).items()},
            _patterns(file, "alpha_pattern", settings),
            base if isinstance(base, str) and base else None,
        )

    def resolved(self, paths: Sequence[str]) -> _Scaling:
        """Return the scaling with the ranks and alphas of these modules by their paths; raises CheckpointError."""
        return replace(self, ranks=self._by_path("rank_pattern", self.ranks, paths),
                       alphas=self._by_path("alpha_pattern", self.alphas, paths))  # fmt: skip

    def _by_path(self, key: str, patterns: Mapping[str, NumberT], paths: Sequence[str]) -> dict[str, NumberT]:
        try:
            found = _first_matching(list(patterns), paths)
        except UsageError as error:
            raise CheckpointError(f"{self.file}: {key}: {error}") from None
        values = list(patterns.values())
        return {path: values[number] for path, number in zip(paths, found, strict=True) if number is not None}

    def of(self, path: str, rank: int) -> float:
        """Return the scale of a module by its path in the file; raises CheckpointError for another rank."""
        told = self.ranks.get(path, self.rank)
        if rank != told:
            raise CheckpointError(
                f"{self.file} gives {path} the rank {told}, and its matrices have {rank}; use the config of this file."
            )
        alpha = self.alphas.get(path, self.alpha)
        return alpha / (math.sqrt(rank) if self.root else rank)


def _refuse(file: Path, settings: Mapping[str, Any]) -> None:
    for key, remedy in REFUSED.items():
        if settings.get(key):
            raise CheckpointError(f"{file}: {key} is {shown(settings[key])}, which is not supported; {remedy}.")
    if settings.get("bias", "none") != "none":
        raise CheckpointError(f"{file}: bias is {shown(settings['bias'])}, and 'none' is read; train without biases.")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        raise CheckpointError(
            f"{file}: init_lora_weights is {shown(start)}, which also changed the base's weights; save the adapter "
            "with peft's path_initial_model_for_weight_conversion."
        )


def _patterns(file: Path, key: str, settings: Mapping[str, Any]) -> dict[str, float]:
    patterns = settings.get(key) or {}
    if not isinstance(patterns, Mapping) or len(patterns) > MAX_PATTERNS:
        raise CheckpointError(f"{file}: {key} must be an object of at most {MAX_PATTERNS:,} entries; correct it.")
    longest = max(patterns, key=len, default="")
    if len(longest) > MAX_PATTERN_CHARACTERS:
        raise CheckpointError(
            f"{file}: {key} has the pattern {shown(longest)} of {len(longest):,} characters, and one may have "
            f"{MAX_PATTERN_CHARACTERS}: shorten it."
        )
    return {pattern: _number(file, f"{key}, {pattern}", value) for pattern, value in patterns.items()}


def _first_matching(patterns: Sequence[str], paths: Sequence[str]) -> list[int | None]:
    """Return for each path the number of the first pattern that is its end or, after "^", the whole of it.

    Raises UsageError for an invalid pattern, or one that takes too long.
    """
    anchored = [rf"(.*\.)?({each})" for each in patterns]  # as in peft, so that "\2" means the same too
    if not all(map(PLAIN.fullmatch, patterns)):
        return [None if each is None else each[0] for each in matches(anchored, paths, whole=True)]
    compiled = [re.compile(each) for each in anchored]  # quick: nothing is repeated, and there is one way to match
    return [next((number for number, each in enumerate(compiled) if each.fullmatch(path)), None) for path in paths]


def _number(file: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise CheckpointError(f"{file}: {key} is {shown(value)} and must be a number above 0; correct it.")
    return value


def _whole_rank(file: Path, key: str, rank: float) -> int:
    if rank != int(rank):
        raise CheckpointError(f"{file}: the rank of {key} is {rank} and must be a whole number; correct it.")
    return int(rank)


def write_peft(adapter: LoraAdapter, folder: Path, config: ModelConfig) -> tuple[str, ...]:
    """Write the adapter as a new folder for peft and vLLM; returns what these cannot load of it.

    vLLM knows one rank and one scale for all, so differing ones are folded into the matrices.
    """
    one = adapter.uniform()
    pieces = []
    for name, module in one.modules.items():
        key = PREFIX + live_path(name)
        pieces.append(piece_of_panels(f"{key}.lora_A.weight", [module.a_RK]))
        pieces.append(piece_of_panels(f"{key}.lora_B.weight", [to_hf(name, module.b_NR, config)]))
    first = next(iter(one.modules.values()))
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": adapter.base,
        "inference_mode": True,
        "r": first.rank,
        "lora_alpha": _whole(first.scale * first.rank),
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": targets(one, config),
    }
    text = json.dumps(content, indent=2) + "\n"
    writers: dict[str, Writer] = {
        WEIGHTS: partial(write_tensors, pieces=pieces),
        CONFIG: partial(Path.write_text, data=text, encoding="utf-8"),
    }
    write_files(folder, writers, sum(piece.num_bytes for piece in pieces) + len(text))
    return _limits(one)


def targets(adapter: LoraAdapter, config: ModelConfig) -> list[str]:
    """Return the last names of the modules if they mean just these modules in the model, or else their paths."""
    ends = {live_path(name).rpartition(".")[2] for name in adapter.modules}
    meant = [name for name in linear_shapes(config) if live_path(name).rpartition(".")[2] in ends]
    return sorted(ends) if len(meant) == len(adapter.modules) else [live_path(name) for name in adapter.modules]


def _whole(number: float) -> float:
    return int(number) if number == int(number) else number


def _limits(adapter: LoraAdapter) -> tuple[str, ...]:
    notes = []
    if adapter.changes_images:
        notes.append("vLLM applies the modules of the vision encoder only with --enable-tower-connector-lora")
    if adapter.only(("head",)).modules:
        notes.append("some versions of vLLM do not load an adapter of the head (lm_head)")
    return tuple(notes)
