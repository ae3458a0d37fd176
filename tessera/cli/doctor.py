"""`tessera doctor`: this machine, and the Pixtral models it can run, before anything is downloaded.

`tessera.fit` computes the numbers; here they become tables, the way to the best model, and a report for programs.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import torch

from tessera.bench.limits import measure_limits
from tessera.errors import counted
from tessera.fit import (
    CACHES,
    CONTEXTS,
    IMAGE_SIDE,
    IMAGE_SIDES,
    PRECISIONS,
    Device,
    Weights,
    best,
    chat,
    image_seconds,
    least_bytes,
    packed_flops,
    precisions,
    quantizing,
    rounding_rates,
    weights_of,
)
from tessera.kernels import cuda
from tessera.kernels.library import OPENMP, PATHS, VARIABLE, choice, openmp_runtime
from tessera.load import target_device
from tessera.machine import available_bytes, processor_name
from tessera.model.config import ModelConfig
from tessera.model.family import FAMILY
from tessera.shelf import SCHEMES, quantized_name

SHOWN_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
LABEL, CELL = 31, 16  # characters in a table's first column and in each other one: 79 in all
TESTED_TORCH = (2, 13)  # as pinned in constraints.txt
LEGEND = (
    "For one chat of each length on {}: total memory and the highest possible speed (memory bandwidth / bytes read per "
    "token), or how much memory is missing. KV is the key/value cache. Nano, which is bundled, runs anywhere."
)
RECOMMENDED, SHORT = "Pixtral 12B", "pixtral"


def run_doctor(*, as_json: bool = False) -> None:
    limits = measure_limits()
    free = available_bytes(torch.device("cpu"))
    gpus, taken = _cuda_devices(), choice()
    cpu = Device("the CPU", "cpu", free, limits.read_bytes_per_s, limits.bfloat16_flops, packed_flops())
    devices = [cpu, *gpus]
    rates = rounding_rates(target_device("auto"))
    if as_json:
        print(json.dumps(report(devices, rates)))
        return
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    others = ", ".join(path for path in PATHS if path != taken.path)
    for name, value in (
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("processor", f"{processor_name()}, {counted(_cores(), 'core')} for this process"),
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
            for line in image_lines(config, device):
                print(fill(line, 79, initial_indent="  ", subsequent_indent="  "))
    print("\n" + "\n".join(conclusion(devices, rates)))


def conclusion(devices: Sequence[Device], rates: Mapping[str, float]) -> list[str]:
    """The last lines: what runs best here, and the commands to get it."""
    config = FAMILY[RECOMMENDED]
    found = best(config, devices)
    if found is None:
        needed = least_bytes(config, devices)
        most = max(each.free_bytes for each in devices)
        return [
            f"Best here: nano, the small demo model. {RECOMMENDED} needs at least {needed / 1e9:.1f} GB of",
            f"memory (3 bits, 4k tokens) and {most / 1e9:.1f} GB is free; close other programs, or use a",
            "larger machine.",
        ]
    bits = PRECISIONS[found.precision]
    in_words = "as published, in bfloat16" if bits is None else f"in {found.precision}"
    option = " --kv-cache-dtype int8" if found.cache == "int8" else ""
    lines = [f"Best here: {RECOMMENDED} {in_words}, on {found.device.name}"]
    room = f"chats up to {found.tokens} tokens"
    packed = found.precision.endswith("bits")
    if (seconds := image_seconds(config, found.device, packed=packed)) is not None:
        room += f"; a {IMAGE_SIDE}x{IMAGE_SIDE} image is read in about {_duration(seconds)}"
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


def report(devices: Sequence[Device], rates: Mapping[str, float]) -> dict[str, Any]:
    """Build the tables and the conclusion for programs."""
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
    for precision, bits in precisions(device).items():
        weights = weights_of(config, bits)
        for kept, dtype in CACHES.items():
            for tokens in CONTEXTS.values():
                found = chat(config, weights, tokens, dtype, device)
                rows.append(
                    {
                        "precision": precision,
                        "kv_cache": kept,
                        "tokens": tokens,
                        "bytes": found.total_bytes,
                        "fits": found.lacking_bytes <= 0,
                        "tokens_per_s_at_most": found.tokens_per_s,
                    }
                )
    return {
        "image_s": image_seconds(config, device),
        "image_s_by_side": {str(side): image_seconds(config, device, side) for side in IMAGE_SIDES},
        "packed_image_s_by_side": {str(side): image_seconds(config, device, side, packed=True) for side in IMAGE_SIDES},
        "rows": rows,
    }


def image_lines(config: ModelConfig, device: Device) -> list[str]:
    """How long an image takes at each side, as published and packed; none where the device's rate is not known."""
    lines = []
    for packed, words in ((False, "an image is read in about"), (True, "in 8, 4 or 3 bits")):
        times = {side: image_seconds(config, device, side, packed=packed) for side in IMAGE_SIDES}
        told = [f"{side}x{side} {_duration(seconds)}" for side, seconds in times.items() if seconds is not None]
        if told and (device.packed_flops or not packed):
            lines.append(f"{words}: {', '.join(told)}{'' if packed else ' (--max-image-side)'}")
    return lines


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def table(name: str, config: ModelConfig, device: Device) -> list[str]:
    """The table of one model: a row for each precision of weights and cache, a column for each context."""
    lines = [f"{name:<{LABEL}}" + "".join(f"{label + ' tokens':>{CELL}}" for label in CONTEXTS)]
    for precision, bits in precisions(device).items():
        weights = weights_of(config, bits)
        for kept, dtype in CACHES.items():
            label = f"  {precision:<9}{weights.total_bytes / 1e9:6.1f} GB, {kept} KV"
            cells = [cell(config, weights, tokens, dtype, device) for tokens in CONTEXTS.values()]
            lines.append(f"{label:<{LABEL}}" + "".join(f"{text:>{CELL}}" for text in cells))
    return lines


def cell(config: ModelConfig, weights: Weights, context: int, cache: torch.dtype, device: Device) -> str:
    """Example: "9.8 GB  3.2/s" where it fits, "lacks 3.1 GB" where it does not."""
    found = chat(config, weights, context, cache, device)
    if found.lacking_bytes > 0:
        return f"lacks {found.lacking_bytes / 1e9:.1f} GB"
    return f"{found.total_bytes / 1e9:.1f} GB {found.tokens_per_s:.1f}/s"


def slowdowns(path: str, torch_version: str, without_kernels: Mapping[str, str]) -> list[str]:
    """Reasons why this machine is slower than it could be, one per line; `without_kernels` maps GPUs to reasons."""
    found = []
    if path == "torch":
        found.append("4- and 8-bit weights run many times slower: without C++ kernels each product dequantizes them")
    elif PATHS.index(path) < PATHS.index("avx512_bf16"):
        found.append(f"images and long prompts in bfloat16 are slower: {path} has no attention kernel of its own")
    if tuple(map(int, torch_version.split(".")[:2])) < TESTED_TORCH:
        tested = ".".join(map(str, TESTED_TORCH))
        found.append(f"products may be slower: torch is older than {tested}, the version that was measured")
    found += [f"{name} computes without kernels: {reason}" for name, reason in without_kernels.items()]
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
    # Not every system reports which cores a process may use.
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
