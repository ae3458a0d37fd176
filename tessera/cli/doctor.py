"""`tessera doctor`: this machine, and what of the Pixtral family it can run, before anything is downloaded.

What a model needs is counted tensor by tensor, as `tessera quantize` would hold it. Decoding one sequence
reads every weight of the decoder and the keys and values of its context once a token, so bandwidth over
these bytes bounds its speed. How long quantizing takes is estimated from rounding a few rows here.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from tessera.bench.limits import best_seconds, measure_limits
from tessera.bench.work import encode_flops, prefill_flops
from tessera.engine.config import CUDA_BYTES
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import max_image_tokens, workspace_bytes
from tessera.kernels import cuda
from tessera.kernels.library import OPENMP, PATHS, VARIABLE, choice, openmp_runtime
from tessera.load import target_device
from tessera.machine import available_bytes, processor_name
from tessera.model.config import ModelConfig
from tessera.model.family import FAMILY
from tessera.quantize.plan import SCHEMES, Options, linear_of, schemes_of, units_of
from tessera.quantize.rounding import ErrorSum, round_to
from tessera.shelf import quantized_name
from tessera.weights.fill import empty_model, linear_shapes
from tessera.weights.quantized import fields_of

SHOWN_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PRECISIONS = {"bfloat16": None, "fp8": "fp8", "8 bits": "8", "4 bits": "4"}  # as `tessera quantize --bits` has them
CONTEXTS = {"4k": 4096, "32k": 32_768, "128k": 131_072}  # tokens of one chat
CACHES = {"bf16": torch.bfloat16, "int8": torch.int8}  # as `--kv-cache-dtype` has them
STEP_TOKENS = {"cpu": 512, "cuda": 8192}  # that the engine computes at once by default
LABEL, CELL = 31, 16  # characters of a table's first column and of each other: 79 in all
TESTED_TORCH = (2, 13)  # as constraints.txt pins it
LEGEND = (
    "For one chat of each length on {}: total memory and the highest possible speed (memory bandwidth / bytes read per "
    "token), or how much memory is missing. KV is the key/value cache. Nano, which is bundled, runs anywhere."
)
PICTURE_SIDE, PICTURE_TOKENS = 1024, 4160  # of the picture whose reading is told of: the largest that stays as it is
SAMPLE = (256, 5120)  # rows and columns that are rounded to estimate how long a model takes
BESIDE_ROUNDING = 1.1  # reading and writing; two layers of the 12B's and its head took 68 s of a core for 63 s
QUANTIZING_BYTES = 670_000_000  # beside a file's packed weights; 1.38 GB were measured with them
RECOMMENDED, SHORT = "Pixtral 12B", "pixtral"


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


def run_doctor(*, as_json: bool = False) -> None:
    limits = measure_limits()
    free = available_bytes(torch.device("cpu"))
    gpus, taken = _cuda_devices(), choice()
    devices = [Device("the CPU", "cpu", free, limits.read_bytes_per_s, limits.bfloat16_flops), *gpus]
    rates = rounding_rates(target_device("auto"))
    if as_json:
        print(json.dumps(report(devices, rates)))
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    others = ", ".join(path for path in PATHS if path != taken.path)
    for name, value in (
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("processor", f"{processor_name()}, {_cores()} cores for this process"),
        ("", ", ".join(_cpu_flags()) or f"none of {', '.join(SHOWN_FLAGS)}"),
        ("memory", f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"),
        ("speed", str(limits)),
        ("kernels", f"{taken.path} ({taken.reason}); set {VARIABLE} to force another: {others}"),
        ("threads", _threads()),
        ("torch", torch.__version__),
        *[
            ("gpu", f"{each.name}, {each.free_bytes / 1e9:.1f} GB free, {each.bytes_per_s / 1e9:.0f} GB/s")
            for each in gpus
        ],
        *([] if gpus else [("gpu", "none detected by PyTorch")]),
        *[("slower", reason) for reason in slowdowns(taken.path, torch.__version__, _without_kernels())],
    ):
        print(fill(f"{name:<11}{value}", 79, subsequent_indent=" " * 11))
    for device in devices:
        print()
        print(fill(LEGEND.format(device.name), 79))
        for name, config in FAMILY.items():
            print("\n" + "\n".join(table(name, config, device)))
            if (seconds := picture_seconds(config, device)) is not None:
                print(f"  a {PICTURE_SIDE}x{PICTURE_SIDE} picture is read in about {_duration(seconds)}")
    print("\n" + "\n".join(conclusion(devices, rates)))


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


def conclusion(devices: Sequence[Device], rates: Mapping[str, float]) -> list[str]:
    """What runs best here, and the commands that lead there; the last lines."""
    config = FAMILY[RECOMMENDED]
    found = best(config, devices)
    if found is None:
        least = weights_of(config, "4")
        needed = min(
            least.total_bytes + CONTEXTS["4k"] * kv_bytes_per_token(config, torch.int8)
            + beside_bytes(config, CONTEXTS["4k"], each.kind)
            for each in devices
        )  # fmt: skip
        most = max(each.free_bytes for each in devices)
        return [
            f"Best here: nano, the small demo model. {RECOMMENDED} needs at least {needed / 1e9:.1f} GB of",
            f"memory (4 bits, 4k tokens) and {most / 1e9:.1f} GB is free; close other programs, or use a",
            "larger machine.",
        ]
    bits = PRECISIONS[found.precision]
    in_words = "as published, in bfloat16" if bits is None else f"in {found.precision}"
    option = " --kv-cache-dtype int8" if found.cache == "int8" else ""
    lines = [f"Best here: {RECOMMENDED} {in_words}, on {found.device.name}"]
    room = f"chats up to {found.tokens} tokens"
    if (seconds := picture_seconds(config, found.device)) is not None:
        room += f"; a {PICTURE_SIDE}x{PICTURE_SIDE} picture is read in about {_duration(seconds)}"
    lines.append(f"({room})")
    full = weights_of(config, None).total_bytes
    steps = [(f"tessera download {SHORT}", f"{full / 1e9:.1f} GB of disk")]
    name = SHORT
    if bits is not None:
        name = quantized_name(SHORT, bits)
        steps.append(
            (
                f"tessera quantize {SHORT} --bits {bits}",
                f"{found.weights.total_bytes / 1e9:.1f} GB more, layer by layer",
            )
        )
    numbered = [f"  {number}. {command:<38}{what}" for number, (command, what) in enumerate(steps, 1)]
    if bits is not None:
        cost = quantizing(config, bits, rates)
        numbered.append(f"     (estimated: {_duration(cost.seconds)} and {cost.memory_bytes / 1e9:.1f} GB of memory)")
    ask = f'tessera ask "What is this?" -i a.jpg -m {name}{option}'
    return [
        *lines,
        *numbered,
        f"  {len(steps) + 1}. {ask}",
    ]


def best(config: ModelConfig, devices: Sequence[Device]) -> Best | None:
    """On the last device that holds the model, so a GPU where there is one: most bits first, then the longest chat."""
    for device in reversed(devices):
        for precision, bits in _precisions(device).items():
            weights = weights_of(config, bits)
            for tokens, context in reversed(CONTEXTS.items()):
                for cache_name, dtype in CACHES.items():
                    if lacking_bytes(config, weights, context, dtype, device) <= 0:
                        return Best(device, precision, tokens, cache_name, weights)
    return None


def report(devices: Sequence[Device], rates: Mapping[str, float]) -> dict[str, Any]:
    """The tables and the conclusion, for programs."""
    costs = {bits: quantizing(FAMILY[RECOMMENDED], bits, rates) for bits in SCHEMES}
    found = best(FAMILY[RECOMMENDED], devices)
    return {
        "devices": [
            {
                "name": device.name,
                "free_bytes": device.free_bytes,
                "bytes_per_s": device.bytes_per_s,
                "models": {name: _model_report(config, device) for name, config in FAMILY.items()},
            }
            for device in devices
        ],
        "best": None
        if found is None
        else {
            "model": RECOMMENDED,
            "device": found.device.name,
            "precision": found.precision,
            "tokens": CONTEXTS[found.tokens],
            "kv_cache": found.cache,
        },
        "quantize_estimate": {
            "model": RECOMMENDED,
            "bits": {
                bits: {"seconds": cost.seconds, "memory_bytes": cost.memory_bytes} for bits, cost in costs.items()
            },
        },
        "conclusion": conclusion(devices, rates),
    }


def _model_report(config: ModelConfig, device: Device) -> dict[str, Any]:
    rows = []
    for precision, bits in _precisions(device).items():
        weights = weights_of(config, bits)
        for kept, dtype in CACHES.items():
            for tokens in CONTEXTS.values():
                lacking = lacking_bytes(config, weights, tokens, dtype, device)
                cache_bytes = tokens * kv_bytes_per_token(config, dtype)
                rows.append(
                    {
                        "precision": precision,
                        "kv_cache": kept,
                        "tokens": tokens,
                        "bytes": lacking + device.free_bytes,
                        "fits": lacking <= 0,
                        "tokens_per_s_at_most": device.bytes_per_s / (weights.step_bytes + cache_bytes),
                    }
                )
    return {"picture_s": picture_seconds(config, device), "rows": rows}


def picture_seconds(config: ModelConfig, device: Device) -> float | None:
    """How long a picture takes until the first word of its answer, at the device's rate of products."""
    if device.flops is None:
        return None
    vision = config.vision_encoder
    work = encode_flops(config, PICTURE_SIDE // vision.token_size * vision.token_size)
    tokens = PICTURE_TOKENS if vision.token_size == 16 else (PICTURE_SIDE // vision.token_size) ** 2
    return (work + prefill_flops(config, tokens)) / device.flops


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _precisions(device: Device) -> dict[str, str | None]:
    """Those worth a row: on a CPU fp8 has no kernel, and 8 bits serve instead."""
    return {name: bits for name, bits in PRECISIONS.items() if not (device.kind == "cpu" and bits == "fp8")}


def table(name: str, config: ModelConfig, device: Device) -> list[str]:
    """The lines about one model: a row for each precision of weights and cache, a column for each context."""
    lines = [f"{name:<{LABEL}}" + "".join(f"{label + ' tokens':>{CELL}}" for label in CONTEXTS)]
    for precision, bits in _precisions(device).items():
        weights = weights_of(config, bits)
        for kept, dtype in CACHES.items():
            label = f"  {precision:<9}{weights.total_bytes / 1e9:6.1f} GB, {kept} KV"
            cells = [cell(config, weights, tokens, dtype, device) for tokens in CONTEXTS.values()]
            lines.append(f"{label:<{LABEL}}" + "".join(f"{text:>{CELL}}" for text in cells))
    return lines


def cell(config: ModelConfig, weights: Weights, context: int, cache: torch.dtype, device: Device) -> str:
    """Example: "9.8 GB  3.2/s" where it fits, "lacks 3.1 GB" where it does not."""
    lacking = lacking_bytes(config, weights, context, cache, device)
    if lacking > 0:
        return f"lacks {lacking / 1e9:.1f} GB"
    needed, cache_bytes = lacking + device.free_bytes, context * kv_bytes_per_token(config, cache)
    return f"{needed / 1e9:.1f} GB {device.bytes_per_s / (weights.step_bytes + cache_bytes):.1f}/s"


def lacking_bytes(config: ModelConfig, weights: Weights, context: int, cache: torch.dtype, device: Device) -> int:
    """What is needed beyond the device's free memory for one chat; at most 0 where it fits."""
    cache_bytes = context * kv_bytes_per_token(config, cache)
    return weights.total_bytes + cache_bytes + beside_bytes(config, context, device.kind) - device.free_bytes


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


def slowdowns(path: str, torch_version: str, without_kernels: Mapping[str, str]) -> list[str]:
    """What makes this machine slower than it could be, a line each; of GPUs `without_kernels`, by name, why."""
    found = []
    if path == "torch":
        found.append("many times with weights of 4 and 8 bits: without kernels they are dequantized for every product")
    elif PATHS.index(path) < PATHS.index("avx512_bf16"):
        found.append(f"on pictures and long prompts in bfloat16: {path} has no kernel of its own for their attention")
    if tuple(map(int, torch_version.split(".")[:2])) < TESTED_TORCH:
        tested = ".".join(map(str, TESTED_TORCH))
        found.append(f"perhaps in torch's own products: torch is older than {tested}, which was tested and measured")
    found += [f"on {name}, where torch computes without kernels: {reason}" for name, reason in without_kernels.items()]
    return found


def _without_kernels() -> dict[str, str]:
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return {str(device): reason for device in devices if (reason := cuda.why_not(device))}


def _threads() -> str:
    wanted = os.environ.get("OMP_NUM_THREADS")
    origin = "one per core" if wanted is None else f"from OMP_NUM_THREADS={wanted}"
    runtime = openmp_runtime()
    name = f"none of {', '.join(OPENMP)}" if runtime is None else Path(runtime).name
    return f"{torch.get_num_threads()} ({origin}), OpenMP runtime {name}"


def _cores() -> int:
    # Not every system tells which of its cores a process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cuda_devices() -> list[Device]:
    found = []
    for index in range(torch.cuda.device_count()):
        name, device = f"cuda:{index}", torch.device("cuda", index)
        title = f"{name}, {torch.cuda.get_device_properties(index).name}"
        limits = measure_limits(name)
        free = available_bytes(device)
        found.append(Device(title, "cuda", free, limits.read_bytes_per_s, limits.bfloat16_flops))
    return found


def _cpu_flags() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    present = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [flag for flag in SHOWN_FLAGS if flag in present]
