"""`tessera doctor`: this machine, and what of the Pixtral family it can run, before anything is downloaded.

What a model needs is counted tensor by tensor, as `tessera quantize` would hold it. Decoding one sequence
reads every weight of the decoder and the keys and values of its context once a token, so bandwidth over
these bytes bounds its speed.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from textwrap import fill

import torch

from tessera.bench.limits import measure_limits
from tessera.engine.config import CUDA_BYTES
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import max_image_tokens, workspace_bytes
from tessera.kernels import cuda
from tessera.kernels.library import OPENMP, PATHS, VARIABLE, choice, openmp_runtime
from tessera.machine import available_bytes, processor_name
from tessera.model.config import ModelConfig
from tessera.model.family import FAMILY
from tessera.quantize.plan import Options, linear_of, schemes_of
from tessera.weights.quantized import fields_of, linear_shapes
from tessera.weights.stream import empty_model

SHOWN_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PRECISIONS = {"bfloat16": None, "fp8": "fp8", "8 bits": "8", "4 bits": "4"}  # as `tessera quantize --bits` has them
CONTEXTS = {"4k": 4096, "32k": 32_768, "128k": 131_072}  # tokens of one chat
CACHES = {"bf16": torch.bfloat16, "int8": torch.int8}  # as `--kv-cache-dtype` has them
STEP_TOKENS = {"cpu": 512, "cuda": 8192}  # that the engine computes at once by default
LABEL, CELL = 31, 16  # characters of a table's first column and of each other: 79 in all
TESTED_TORCH = (2, 13)  # as constraints.txt pins it
LEGEND = (
    "What fits on {}, with one chat of so many tokens: the bytes in all, and at most so many tokens a second, which "
    "is bandwidth over the bytes that a token reads; or the bytes that are lacking. KV is the key/value cache. On a "
    "CPU fp8 has no kernel: take 8 bits there. Nano, which is bundled, runs anywhere."
)


@dataclass(frozen=True)
class Device:
    """Where a model would run: its free bytes, and the bytes that it reads a second."""

    name: str
    kind: str
    free_bytes: int
    bytes_per_s: float


@dataclass(frozen=True)
class Weights:
    """Bytes of a model's weights: all of them, and those of the decoder and the head, which each token reads."""

    total_bytes: int
    step_bytes: int


def run_doctor() -> None:
    limits = measure_limits()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = available_bytes(torch.device("cpu"))
    gpus, taken = _cuda_devices(), choice()
    for name, value in (
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("processor", f"{processor_name()}, {_cores()} cores for this process"),
        ("", ", ".join(_cpu_flags()) or f"none of {', '.join(SHOWN_FLAGS)}"),
        ("memory", f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"),
        ("speed", str(limits)),
        ("kernels", f"{taken.path}: {taken.reason} (there are {', '.join(PATHS)}; {VARIABLE} chooses)"),
        ("threads", _threads()),
        ("torch", torch.__version__),
        *[
            ("gpu", f"{each.name}, {each.free_bytes / 1e9:.1f} GB free, {each.bytes_per_s / 1e9:.0f} GB/s")
            for each in gpus
        ],
        *([] if gpus else [("gpu", "none that torch sees")]),
        *[("slower", reason) for reason in slowdowns(taken.path, torch.__version__, _without_kernels())],
    ):
        print(fill(f"{name:<11}{value}", 79, subsequent_indent=" " * 11))
    devices = [Device("the CPU", "cpu", free, limits.read_bytes_per_s), *gpus]
    for device in devices:
        print()
        print(fill(LEGEND.format(device.name), 79))
        for name, config in FAMILY.items():
            print("\n" + "\n".join(table(name, config, device)))


def table(name: str, config: ModelConfig, device: Device) -> list[str]:
    """The lines about one model: a row for each precision of weights and cache, a column for each context."""
    lines = [f"{name:<{LABEL}}" + "".join(f"{label + ' tokens':>{CELL}}" for label in CONTEXTS)]
    for precision, bits in PRECISIONS.items():
        weights = weights_of(config, bits)
        for kept, dtype in CACHES.items():
            label = f"  {precision:<9}{weights.total_bytes / 1e9:6.1f} GB, {kept} KV"
            cells = [cell(config, weights, tokens, dtype, device) for tokens in CONTEXTS.values()]
            lines.append(f"{label:<{LABEL}}" + "".join(f"{text:>{CELL}}" for text in cells))
    return lines


def cell(config: ModelConfig, weights: Weights, context: int, cache: torch.dtype, device: Device) -> str:
    """Example: "9.8 GB  3.2/s" where it fits, "lacks 3.1 GB" where it does not."""
    cache_bytes = context * kv_bytes_per_token(config, cache)
    needed = weights.total_bytes + cache_bytes + beside_bytes(config, context, device.kind)
    if needed > device.free_bytes:
        return f"lacks {(needed - device.free_bytes) / 1e9:.1f} GB"
    return f"{needed / 1e9:.1f} GB {device.bytes_per_s / (weights.step_bytes + cache_bytes):.1f}/s"


@cache
def weights_of(config: ModelConfig, bits: str | None) -> Weights:
    """The bytes that `tessera quantize --bits` makes of a model; of None, in bfloat16."""
    schemes = {} if bits is None else schemes_of(config, Options(bits=bits))
    shapes = linear_shapes(config)
    total = step = 0
    for name, parameter in empty_model(config).named_parameters():
        size = parameter.numel() * torch.bfloat16.itemsize
        if scheme := schemes.get(linear_of(name)):
            fields = fields_of(scheme, shapes[linear_of(name)]).values()
            size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in fields)
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
    origin = "one a core" if wanted is None else f"as OMP_NUM_THREADS={wanted} says"
    runtime = openmp_runtime()
    name = f"none of {', '.join(OPENMP)}" if runtime is None else Path(runtime).name
    return f"{torch.get_num_threads()}, {origin}; their OpenMP runtime is {name}"


def _cores() -> int:
    # Not every system tells which of its cores a process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cuda_devices() -> list[Device]:
    found = []
    for index in range(torch.cuda.device_count()):
        name, device = f"cuda:{index}", torch.device("cuda", index)
        title = f"{name}, {torch.cuda.get_device_properties(index).name}"
        found.append(Device(title, "cuda", available_bytes(device), measure_limits(name).read_bytes_per_s))
    return found


def _cpu_flags() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    present = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [flag for flag in SHOWN_FLAGS if flag in present]
