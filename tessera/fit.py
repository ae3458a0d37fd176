"""What fits a machine, and how fast it could run: a model of memory and speed, before anything is downloaded.

What a model needs is counted tensor by tensor, as `tessera quantize` would hold it. Decoding one sequence
reads every weight of the decoder and the keys and values of its context once a token, so bandwidth over
these bytes bounds its speed. How long quantizing takes is estimated from rounding a few rows here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch

from tessera.bench.limits import best_seconds
from tessera.bench.work import encode_flops, prefill_flops
from tessera.engine.config import CUDA_BYTES
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import max_image_tokens, workspace_bytes
from tessera.model.config import ModelConfig
from tessera.quantize.plan import SCHEMES, Options, linear_of, schemes_of, units_of
from tessera.quantize.rounding import ErrorSum, round_to
from tessera.weights.fill import empty_model, linear_shapes
from tessera.weights.quantized import fields_of

PRECISIONS = {"bfloat16": None, "fp8": "fp8", "8 bits": "8", "4 bits": "4"}  # as `tessera quantize --bits` has them
CONTEXTS = {"4k": 4096, "32k": 32_768, "128k": 131_072}  # tokens of one chat
CACHES = {"bf16": torch.bfloat16, "int8": torch.int8}  # as `--kv-cache-dtype` has them
STEP_TOKENS = {"cpu": 512, "cuda": 8192}  # that the engine computes at once by default
PICTURE_SIDE, PICTURE_TOKENS = 1024, 4160  # of the picture whose reading is told of: the largest that stays as it is
SAMPLE = (256, 5120)  # rows and columns that are rounded to estimate how long a model takes
BESIDE_ROUNDING = 1.1  # reading and writing; two layers of the 12B's and its head took 68 s of a core for 63 s
QUANTIZING_BYTES = 670_000_000  # beside a file's packed weights; 1.38 GB were measured with them


@dataclass(frozen=True)
class Device:
    """Where a model would run: its free bytes, and the bytes that it reads a second."""

    name: str
    kind: str
    free_bytes: int
    bytes_per_s: float
    flops: float | None = None  # of products in bfloat16


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights: all of them, and those of the decoder and the head, which each token reads."""

    total_bytes: int
    step_bytes: int


@dataclass(frozen=True)
class Chat:
    """What one chat needs in all, what of that is missing, and how fast a device can write its reply at most."""

    total_bytes: int
    lacking_bytes: int  # at most 0 where it fits
    tokens_per_s: float


@dataclass(frozen=True)
class Best:
    """The most exact form of a model that fits a device, and the longest chat that it then has room for."""

    device: Device
    precision: str
    tokens: str
    cache: str
    weights: Weights


@dataclass(frozen=True)
class Quantizing:
    """What `tessera quantize` is estimated to take, without calibration and without waiting for a slow disk."""

    seconds: float
    memory_bytes: int


def best(config: ModelConfig, devices: Sequence[Device]) -> Best | None:
    """On the last device that holds the model, so a GPU where there is one: most bits first, then the longest chat."""
    for device in reversed(devices):
        for precision, bits in precisions(device).items():
            weights = weights_of(config, bits)
            for tokens, context in reversed(CONTEXTS.items()):
                for cache_name, dtype in CACHES.items():
                    if chat(config, weights, context, dtype, device).lacking_bytes <= 0:
                        return Best(device, precision, tokens, cache_name, weights)
    return None


def least_bytes(config: ModelConfig, devices: Sequence[Device]) -> int:
    """The least that any of the devices needs: 4 bits, 4k tokens, keys and values in 8 bits."""
    weights, context = weights_of(config, "4"), CONTEXTS["4k"]
    return min(chat(config, weights, context, torch.int8, device).total_bytes for device in devices)


def chat(config: ModelConfig, weights: Weights, context: int, cache: torch.dtype, device: Device) -> Chat:
    """One chat of `context` tokens, whose keys and values are kept as `cache`."""
    cache_bytes = context * kv_bytes_per_token(config, cache)
    total = weights.total_bytes + cache_bytes + beside_bytes(config, context, device.kind)
    return Chat(total, total - device.free_bytes, device.bytes_per_s / (weights.step_bytes + cache_bytes))


def precisions(device: Device) -> dict[str, str | None]:
    """The forms worth telling of: on a CPU fp8 has no kernel, so its speed would be false; 8 bits serve instead."""
    return {name: bits for name, bits in PRECISIONS.items() if not (device.kind == "cpu" and bits == "fp8")}


@cache
def weights_of(config: ModelConfig, bits: str | None) -> Weights:
    """The bytes that `tessera quantize --bits` makes of a model; of None, in bfloat16."""
    schemes = {} if bits is None else schemes_of(config, Options(bits=bits))
    shapes = linear_shapes(config)
    total = step = 0
    for name, parameter in empty_model(config).named_parameters():
        size = parameter.numel() * torch.bfloat16.itemsize
        if scheme := schemes.get(linear_of(name)):
            size = _packed_bytes(scheme, shapes[linear_of(name)])
        total += size
        if name.startswith(("layers.", "norm.", "output.")):
            step += size
    return Weights(total, step)


def beside_bytes(config: ModelConfig, context: int, kind: str) -> int:
    """What one chat takes beside weights and cache: a step's work, one picture's embeddings, CUDA itself."""
    work = workspace_bytes(config, STEP_TOKENS[kind], context, 1, torch.bfloat16)
    picture = max_image_tokens(config.vision_encoder) * config.dim * torch.bfloat16.itemsize
    return work + picture + (CUDA_BYTES if kind == "cuda" else 0)


def picture_seconds(config: ModelConfig, device: Device) -> float | None:
    """How long a picture takes until the first word of its answer, at the device's rate of products."""
    if device.flops is None:
        return None
    vision = config.vision_encoder
    work = encode_flops(config, PICTURE_SIDE // vision.token_size * vision.token_size)
    tokens = PICTURE_TOKENS if vision.token_size == 16 else (PICTURE_SIDE // vision.token_size) ** 2
    return (work + prefill_flops(config, tokens)) / device.flops


def rounding_rates(device: torch.device) -> dict[str, float]:
    """Weights that this device rounds a second, by scheme; measured now."""
    matrix_NK = torch.randn(SAMPLE, device=device).bfloat16()

    def rounded(scheme: str) -> None:
        ErrorSum().add(matrix_NK, round_to(scheme, matrix_NK))

    return {scheme: matrix_NK.numel() / best_seconds(partial(rounded, scheme), rounds=3) for scheme in SCHEMES.values()}


def quantizing(config: ModelConfig, bits: str, rates: Mapping[str, float]) -> Quantizing:
    """The time of all its linears at these rates, and the memory of its largest file's packed weights."""
    schemes, shapes = schemes_of(config, Options(bits=bits)), linear_shapes(config)
    seconds = BESIDE_ROUNDING * sum(math.prod(shapes[name]) / rates[scheme] for name, scheme in schemes.items())
    names = [name for name, _ in empty_model(config).named_parameters()]
    held = [
        sum(_packed_bytes(schemes[name], shapes[name]) for name in map(linear_of, unit.tensors) if name in schemes)
        for unit in units_of(names, config.n_layers)
    ]
    return Quantizing(seconds, QUANTIZING_BYTES + max(held))


def _packed_bytes(scheme: str, shape: tuple[int, int]) -> int:
    return sum(math.prod(field) * dtype.itemsize for dtype, field in fields_of(scheme, shape).values())
