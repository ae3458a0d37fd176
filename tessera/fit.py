"""Estimates of memory and speed: which models fit a machine and how fast they could run, before any download.

A model's bytes are counted tensor by tensor, as `tessera quantize` would store it. Decoding one sequence
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
from tessera.bench.work import decoder_flops, encode_flops, prefill_flops
from tessera.engine.config import CUDA_BYTES
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import max_image_tokens, workspace_bytes
from tessera.images import token_count
from tessera.kernels.quantized_weight import STORAGE, quantized_linear
from tessera.model.config import ModelConfig
from tessera.quantize.plan import Options, linear_of, schemes_of, units_of
from tessera.quantize.rounding import ErrorSum, round_to
from tessera.shelf import SCHEMES
from tessera.weights.fill import empty_model, linear_shapes
from tessera.weights.source import HEAD

PRECISIONS = {
    "bfloat16": None,
    "fp8": "fp8",
    "8 bits": "8",
    "4 bits": "4",
    "3 bits": "3",
}  # as `tessera quantize --bits` has them
CONTEXTS = {"4k": 4096, "32k": 32_768, "128k": 131_072}  # tokens of one chat
CACHES = {"bf16": torch.bfloat16, "int8": torch.int8}  # as `--kv-cache-dtype` has them
STEP_TOKENS = {"cpu": 512, "cuda": 8192}  # computed at once by the engine by default
IMAGE_SIDES = (512, 640, 768, 1024)  # of the reported images; `--max-image-side` chooses one
IMAGE_SIDE = IMAGE_SIDES[-1]  # the largest that is not resized
PRODUCT = (512, 1024, 4096)  # tokens, rows and columns of the product that is timed
SAMPLE = (256, 5120)  # rows and columns rounded to estimate a model's time
BESIDE_ROUNDING = 1.1  # reading and writing; two layers of the 12B's and its head took 68 s of a core for 63 s
QUANTIZING_BYTES = 670_000_000  # beyond a file's packed weights; 1.38 GB were measured with them


@dataclass(frozen=True)
class Device:
    """A device to run a model on: its free bytes, and the bytes it reads per second."""

    name: str
    kind: str
    free_bytes: int
    bytes_per_s: float
    flops: float | None = None  # of products in bfloat16
    packed_flops: float | None = None  # of products with packed weights, where they differ


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights: all, and those of decoder and head, which each token reads."""

    total_bytes: int
    step_bytes: int


@dataclass(frozen=True)
class Chat:
    """The bytes one chat needs, how many are lacking, and the highest possible speed of its reply on a device."""

    total_bytes: int
    lacking_bytes: int  # at most 0 if it fits
    tokens_per_s: float


@dataclass(frozen=True)
class Best:
    """The most exact form of a model that fits a device, and the longest chat that then fits."""

    device: Device
    precision: str
    tokens: str
    cache: str
    weights: Weights


@dataclass(frozen=True)
class Quantizing:
    """The estimated cost of `tessera quantize`, without calibration or a slow disk."""

    seconds: float
    memory_bytes: int


def best(config: ModelConfig, devices: Sequence[Device]) -> Best | None:
    """Best form on the last device that holds the model, so a GPU if any: most bits first, then the longest chat."""
    for device in reversed(devices):
        for precision, bits in precisions(device).items():
            weights = weights_of(config, bits)
            for tokens, context in reversed(CONTEXTS.items()):
                for cache_name, dtype in CACHES.items():
                    if chat(config, weights, context, dtype, device).lacking_bytes <= 0:
                        return Best(device, precision, tokens, cache_name, weights)
    return None


def least_bytes(config: ModelConfig, devices: Sequence[Device]) -> int:
    """The least bytes that any device needs: its fewest bits, 4k tokens, keys and values in 8 bits."""
    least = [(device, weights_of(config, list(precisions(device).values())[-1])) for device in devices]
    return min(chat(config, weights, CONTEXTS["4k"], torch.int8, device).total_bytes for device, weights in least)


def chat(config: ModelConfig, weights: Weights, context: int, cache: torch.dtype, device: Device) -> Chat:
    """Estimate one chat of `context` tokens, with keys and values stored as `cache`."""
    cache_bytes = context * kv_bytes_per_token(config, cache)
    total = weights.total_bytes + cache_bytes + beside_bytes(config, context, device.kind)
    return Chat(total, total - device.free_bytes, device.bytes_per_s / (weights.step_bytes + cache_bytes))


def precisions(device: Device) -> dict[str, str | None]:
    """The precisions to report: those whose products the device has kernels for, so that the estimates hold."""
    lacking = "fp8" if device.kind == "cpu" else "3"
    return {name: bits for name, bits in PRECISIONS.items() if bits != lacking}


@cache
def _parameters(config: ModelConfig) -> Mapping[str, int]:
    """Return a model's parameters by name, in order, with how many numbers each has."""
    return {name: parameter.numel() for name, parameter in empty_model(config).named_parameters()}


@cache
def weights_of(config: ModelConfig, bits: str | None) -> Weights:
    """Bytes of a model after `tessera quantize --bits`; None means bfloat16."""
    schemes = {} if bits is None else schemes_of(config, Options(bits=bits))
    shapes = linear_shapes(config)
    total = step = 0
    for name, count in _parameters(config).items():
        size = count * torch.bfloat16.itemsize
        scheme = schemes.get(linear_of(name))
        if scheme is not None:
            size = _packed_bytes(scheme, shapes[linear_of(name)])
        is_shared = config.tied_embeddings and name == HEAD and not scheme
        total += 0 if is_shared else size
        if name.startswith(("layers.", "norm.", "output.")):
            step += size
    return Weights(total, step)


def beside_bytes(config: ModelConfig, context: int, kind: str) -> int:
    """Bytes that one chat takes beyond weights and cache: a step's work, one image's embeddings, CUDA itself."""
    work = workspace_bytes(config, STEP_TOKENS[kind], context, 1, torch.bfloat16)
    image = max_image_tokens(config.vision_encoder) * config.dim * torch.bfloat16.itemsize
    return work + image + (CUDA_BYTES if kind == "cuda" else 0)


def image_seconds(config: ModelConfig, device: Device, side: int = IMAGE_SIDE, *, packed: bool = False) -> float | None:
    """Seconds from a square image to the first word of its answer, at the device's matrix product rates.

    With `packed` the decoder's weights are packed in 3, 4 or 8 bits; vision and attention are in bfloat16.
    """
    if device.flops is None:
        return None
    vision = config.vision_encoder
    columns = side // vision.token_size
    tokens = token_count((columns, columns))
    linears = decoder_flops(config, tokens, pairs=0, logits=1)
    others = encode_flops(config, columns * vision.token_size) + prefill_flops(config, tokens) - linears
    rate = device.packed_flops if packed and device.packed_flops else device.flops
    return others / device.flops + linears / rate


def packed_flops() -> float:
    """Operations a second of a product with 4-bit weights on this CPU, measured now."""
    tokens, rows, columns = PRODUCT
    weight = round_to("int4", torch.randn(rows, columns).bfloat16())
    seconds = best_seconds(partial(quantized_linear, torch.randn(tokens, columns).bfloat16(), weight))
    return 2 * math.prod(PRODUCT) / seconds


def rounding_rates(device: torch.device) -> dict[str, float]:
    """Weights that this device rounds per second, by scheme; measured now."""
    matrix_NK = torch.randn(SAMPLE, device=device).bfloat16()

    def rounded(scheme: str) -> None:
        ErrorSum().add(matrix_NK, round_to(scheme, matrix_NK))

    return {scheme: matrix_NK.numel() / best_seconds(partial(rounded, scheme), rounds=3) for scheme in SCHEMES.values()}


def quantizing(config: ModelConfig, bits: str, rates: Mapping[str, float]) -> Quantizing:
    """Estimate the time of all linears at these rates, and the memory of the largest file's packed weights."""
    schemes, shapes = schemes_of(config, Options(bits=bits)), linear_shapes(config)
    seconds = BESIDE_ROUNDING * sum(math.prod(shapes[name]) / rates[scheme] for name, scheme in schemes.items())
    held = [
        sum(_packed_bytes(schemes[name], shapes[name]) for name in map(linear_of, unit.tensors) if name in schemes)
        for unit in units_of(_parameters(config), config.n_layers)
    ]
    return Quantizing(seconds, QUANTIZING_BYTES + max(held))


def _packed_bytes(scheme: str, shape: tuple[int, int]) -> int:
    return sum(math.prod(field) * dtype.itemsize for dtype, field in STORAGE[scheme].fields(shape).values())
