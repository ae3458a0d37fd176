"""The engine's settings: every option resolved once to a value, with the reason.

Options come as names and values; one omitted or set to "auto" is resolved here from the model
and the free memory. Model shapes and request parameters belong to other dataclasses.
"""

from __future__ import annotations

import difflib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch

from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import StepSize, max_image_tokens, workspace_bytes
from tessera.errors import UsageError
from tessera.lora.adapter import MAX_RANK
from tessera.lora.slots import slot_bytes
from tessera.machine import available_bytes, taken_bytes, total_bytes
from tessera.model.config import ModelConfig

MIB = 2**20
AUTO = "auto"
# GPU memory that CUDA takes in addition to tensors: its context and its libraries' kernels and work space.
CUDA_BYTES = 1024 * MIB
DRAFTED_ON_CPU = 15  # 16 rows with the last token, the most that the few-token kernels take at once


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Resolved settings; `reasons` explains the value of each."""

    max_model_len: int  # tokens of prompt and reply together
    block_tokens: int
    kv_cache_bytes: int
    kv_cache_dtype: str  # the model's own, or int8
    max_num_seqs: int  # requests that run at the same time
    max_num_batched_tokens: int  # tokens computed in one step; longer prompts are split into chunks
    image_cache_bytes: int
    max_images_per_prompt: int
    max_queued_requests: int
    max_pixel_bytes: int  # decoded images of all unfinished requests, kept in system memory
    enable_prefix_caching: bool
    cuda_graphs: bool  # for steps in which all requests decode
    num_speculative_tokens: int  # most guessed tokens that a request may compute in a step; 0: none
    prompt_lookup_min: int  # shortest match with earlier tokens from which to guess
    prompt_lookup_max: int  # longest match compared when choosing among earlier places
    max_loras: int  # adapters that compute in one batch; 0: requests name none
    max_lora_rank: int  # largest rank of such an adapter
    max_cpu_loras: int  # adapters that may be loaded
    seed: int  # draws the seeds of requests without one
    num_blocks: int
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def cache_dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.kv_cache_dtype)
        return found

    def describe(self) -> list[str]:
        """Return one line for each setting: its name, value and reason."""
        return [f"{name}={getattr(self, name)} ({reason})" for name, reason in self.reasons.items()]


OPTIONS = tuple(entry.name for entry in fields(EngineConfig) if entry.name not in ("num_blocks", "reasons"))
_LOWEST = dict.fromkeys(OPTIONS, 1) | dict.fromkeys(
    ("image_cache_bytes", "max_images_per_prompt", "num_speculative_tokens", "seed", "max_loras"), 0
)
# Determines the memory to be divided; kv_cache_bytes shows the result.
UTILIZATION = "gpu_memory_utilization"
CACHE_DTYPE = "kv_cache_dtype"
INT8 = "int8"
SWITCHES = ("enable_prefix_caching", "cuda_graphs")


def resolve_config(
    options: Mapping[str, object],
    model: ModelConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    ranks: int = 1,
    measure: Callable[[StepSize], int] | None = None,
) -> EngineConfig:
    """Resolve every setting; raises UsageError for an unknown name or contradictory settings.

    `ranks` is the number of processes that share the model, each on its own GPU or all in system memory.
    `measure` returns the bytes that the largest steps take; without it they are estimated from the layers' shapes.
    """
    utilization, cache_dtype = options.get(UTILIZATION, AUTO), options.get(CACHE_DTYPE, AUTO)
    chosen = _Choices({name: value for name, value in options.items() if name not in (UTILIZATION, CACHE_DTYPE)})
    chosen.reasons[CACHE_DTYPE] = "the model's own" if cache_dtype == AUTO else "as given"
    stored = _cache_dtype(cache_dtype, dtype)
    on_cpu = device.type == "cpu"
    _settle_limits(chosen, device.type)
    chosen.settle("enable_prefix_caching", True, "requests that begin alike share their blocks")
    _settle_graphs(chosen, device.type, ranks)
    _settle_drafts(chosen, on_cpu)
    chosen.settle("seed", secrets.randbits(63), "drawn at startup; set it to repeat the same replies")
    free = available_bytes(device) // (ranks if on_cpu else 1)
    image = max_image_tokens(model.vision_encoder) * model.dim * dtype.itemsize
    chosen.settle(
        "image_cache_bytes",
        min(24 * image, max(image, free // 20)),
        f"24 of the largest images, or a twentieth of the free {free // MIB} MiB",
    )
    _settle_adapters(chosen)
    adapters = chosen["max_loras"] and chosen["max_loras"] * slot_bytes(model, chosen["max_lora_rank"], dtype.itemsize)
    share, meaning = _share(utilization, device, free)
    if adapters:
        share, meaning = max(share - adapters, 0), f"{meaning}, less {adapters // MIB} for adapters"
    token = kv_bytes_per_token(model, stored)

    def estimate(size: StepSize) -> int:
        return workspace_bytes(model, size.step_tokens, size.context, size.num_seqs, dtype, drafted=size.drafted)

    _settle_context(chosen, model, stored, measure or estimate, share, meaning)
    return EngineConfig(
        **{name: chosen[name] for name in OPTIONS if name not in (*SWITCHES, CACHE_DTYPE)},
        enable_prefix_caching=bool(chosen["enable_prefix_caching"]),
        cuda_graphs=bool(chosen["cuda_graphs"]),
        kv_cache_dtype=str(stored).removeprefix("torch."),
        num_blocks=chosen["kv_cache_bytes"] // (chosen["block_tokens"] * token),
        reasons=chosen.reasons,
    )


def check_options(
    options: Mapping[str, object], model: ModelConfig, dtype: torch.dtype, device: torch.device, *, ranks: int = 1
) -> None:
    """Raise UsageError for options that no amount of free memory can satisfy, before any weights are loaded."""
    resolve_config(options, model, dtype=dtype, device=device, ranks=ranks, measure=lambda size: 0)


def _cache_dtype(wanted: object, model_dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of stored keys and values; raises UsageError unless it is the model's dtype or int8."""
    own = str(model_dtype).removeprefix("torch.")
    if wanted not in (AUTO, own, INT8):
        raise UsageError(
            f"{CACHE_DTYPE} is {wanted!r} and the model computes in {own}; use 'auto', {own!r} or {INT8!r}."
        )
    return torch.int8 if wanted == INT8 else model_dtype


def _settle_limits(chosen: _Choices, device: str) -> None:
    """Settle the limits on a step's work and on waiting requests."""
    on_cpu = device == "cpu"
    chosen.settle("block_tokens", 16, "the usual size")
    if chosen["block_tokens"] not in (16, 32):
        raise UsageError(f"block_tokens is {chosen['block_tokens']}; use 16 or 32.")
    chosen.settle("max_num_seqs", 16 if on_cpu else 64, f"the usual number on {device}")
    # On a CPU 512 tokens of a 12B model take half a minute: the longest that decoding or an abort should wait.
    chosen.settle("max_num_batched_tokens", 512 if on_cpu else 8192, f"the usual number on {device}")
    if chosen["max_num_batched_tokens"] < chosen["max_num_seqs"]:
        raise UsageError(
            f"max_num_batched_tokens={chosen['max_num_batched_tokens']} is less than max_num_seqs="
            f"{chosen['max_num_seqs']}, and every running request needs one token in each step; raise it."
        )
    chosen.settle("max_queued_requests", 256, "the usual number")
    chosen.settle("max_images_per_prompt", 64, "bounds the decoded images that one request keeps in memory")
    chosen.settle("max_pixel_bytes", available_bytes(torch.device("cpu")) // 10, "a tenth of the system's free memory")


def _settle_graphs(chosen: _Choices, device: str, ranks: int) -> None:
    why_not = "the device is cpu" if device == "cpu" else "several processes share the model" if ranks > 1 else ""
    chosen.settle("cuda_graphs", not why_not, why_not or f"the device is {device}")
    if chosen["cuda_graphs"] and why_not:
        raise UsageError(f"cuda_graphs is true and {why_not}; leave it out.")


def _settle_drafts(chosen: _Choices, on_cpu: bool) -> None:
    given = [name for name in ("prompt_lookup_min", "prompt_lookup_max") if chosen.get(name, 0)]
    chosen.settle(
        "num_speculative_tokens",
        DRAFTED_ON_CPU if on_cpu else 0,
        "used only while they save time, decided per request" if on_cpu else "measured on CPUs only, so off on GPUs",
    )
    chosen.settle("prompt_lookup_max", max(8, chosen.get("prompt_lookup_min", 0)), "longer matches do not guess better")
    chosen.settle("prompt_lookup_min", min(2, chosen["prompt_lookup_max"]), "a match of one token guesses badly")
    if chosen["prompt_lookup_min"] > chosen["prompt_lookup_max"]:
        raise UsageError(
            f"prompt_lookup_min={chosen['prompt_lookup_min']} exceeds prompt_lookup_max="
            f"{chosen['prompt_lookup_max']}; lower it."
        )
    if given and not chosen["num_speculative_tokens"]:
        raise UsageError(
            f"{given[0]} is given and num_speculative_tokens is 0, so nothing is guessed; raise that, or leave "
            f"{' and '.join(given)} out."
        )


def _settle_adapters(chosen: _Choices) -> None:
    given = [name for name in ("max_lora_rank", "max_cpu_loras") if chosen.get(name, 0)]
    chosen.settle("max_loras", 0, "adapters per request are off")
    chosen.settle("max_lora_rank", 16, "the usual rank")
    chosen.settle("max_cpu_loras", max(8, chosen["max_loras"]), "the usual number, or max_loras")
    if given and not chosen["max_loras"]:
        raise UsageError(f"{given[0]} is given and max_loras is 0, so no adapter can be loaded; raise that.")
    if chosen["max_lora_rank"] > MAX_RANK:
        raise UsageError(f"max_lora_rank is {chosen['max_lora_rank']}; {MAX_RANK} is the most: lower it.")
    if chosen["max_cpu_loras"] < chosen["max_loras"]:
        raise UsageError(
            f"max_cpu_loras={chosen['max_cpu_loras']} is less than max_loras={chosen['max_loras']}; raise it."
        )


def _share(utilization: object, device: torch.device, free: int) -> tuple[int, str]:
    """Return the bytes that caches and steps may take together, and a description of that share."""
    if utilization == AUTO:
        # Half of the computer's free memory, since other programs need some; nine tenths of a GPU's.
        share = free // 2 if device.type == "cpu" else free * 9 // 10
        return share, f"the free {free // MIB} MiB, of which {share // MIB} may be used"
    if isinstance(utilization, bool) or not isinstance(utilization, int | float) or not 0 < utilization <= 1:
        raise UsageError(f"{UTILIZATION} is {utilization!r}; use a number above 0 and up to 1, or 'auto'.")
    if device.type != "cuda":
        raise UsageError(f"{UTILIZATION} is {utilization}, and the device is {device.type}; use kv_cache_bytes there.")
    total = total_bytes(device)
    share = max(min(int(utilization * total) - taken_bytes(device) - CUDA_BYTES, free), 0)
    return share, f"{utilization:g} of the GPU's {total // MIB} MiB, of which {share // MIB} are left beside the model"


def _settle_context(
    chosen: _Choices,
    model: ModelConfig,
    stored: torch.dtype,
    workspace_of: Callable[[StepSize], int],
    share: int,
    meaning: str,
) -> None:
    """Settle the cache's bytes and the context that must fit into it; `meaning` describes the share's origin."""
    size, token = chosen["block_tokens"], kv_bytes_per_token(model, stored)
    wanted = chosen.get("max_model_len", model.max_seq_len)
    if wanted > model.max_seq_len:
        raise UsageError(
            f"max_model_len is {wanted}; the model was trained for {model.max_seq_len} tokens: choose that or less."
        )
    full = chosen["max_num_seqs"] * _round_up(wanted, size) * token
    largest = StepSize(
        chosen["max_num_batched_tokens"],
        wanted,
        chosen["max_num_seqs"],
        chosen["num_speculative_tokens"],
        size,
        stored,
    )
    workspace = workspace_of(largest)
    room = max(share - workspace - chosen["image_cache_bytes"], 0)
    chosen.settle(
        "kv_cache_bytes",
        min(full, room),
        f"what max_num_seqs={chosen['max_num_seqs']} requests of {wanted} tokens need at most"
        if full <= room
        else f"{meaning}, less {workspace // MIB} for a step and {chosen['image_cache_bytes'] // MIB} for images",
    )
    holds = chosen["kv_cache_bytes"] // (size * token) * size
    chosen.settle(
        "max_model_len",
        min(model.max_seq_len, holds),
        "the model's context" if holds >= model.max_seq_len else "what the key/value cache holds",
    )
    if holds < size or chosen["max_model_len"] > holds:
        raise UsageError(
            f"max_model_len={max(chosen['max_model_len'], size)} tokens need "
            f"{_round_up(max(chosen['max_model_len'], size), size) * token // MIB + 1} MiB of key/value cache, and "
            f"kv_cache_bytes gives {chosen['kv_cache_bytes'] // MIB} MiB: lower the one or raise the other."
        )


class _Choices:
    """The given options, checked and then settled one by one."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self.reasons: dict[str, str] = {}
        self._values: dict[str, int] = {}
        for name, value in options.items():
            if name not in OPTIONS:
                near = difflib.get_close_matches(name, (*OPTIONS, UTILIZATION), n=1, cutoff=0.0)[0]
                raise UsageError(f"engine option {name!r} is unknown; the nearest known one is {near!r}.")
            if value != AUTO:
                self._values[name] = _checked(name, value)

    def settle(self, name: str, automatic: int, reason: str) -> None:
        """Settle one setting: the given value, or `automatic` with this reason."""
        self.reasons[name] = "as given" if name in self._values else reason
        self._values.setdefault(name, automatic)

    def get(self, name: str, otherwise: int) -> int:
        return self._values.get(name, otherwise)

    def __getitem__(self, name: str) -> int:
        return self._values[name]


def _checked(name: str, value: object) -> int:
    if name in SWITCHES:
        if not isinstance(value, bool):
            raise UsageError(f"{name} is {value!r}; use true, false or 'auto'.")
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < _LOWEST[name]:
        raise UsageError(f"{name} is {value!r}; use a whole number of at least {_LOWEST[name]}, or 'auto'.")
    return value


def _round_up(tokens: int, size: int) -> int:
    return -(-tokens // size) * size
