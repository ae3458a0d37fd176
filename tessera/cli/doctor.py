"""`tessera doctor`: this machine, and what of the Pixtral family it can run in bfloat16, with reasons.

Decoding one sequence reads every weight once a token, so bandwidth over bytes bounds its speed.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tessera.machine import available_bytes

SHOWN_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
CONTEXT_TOKENS = 4096
BFLOAT16_BYTES = 2


@dataclass(frozen=True)
class FamilyMember:
    """Parameters, and what one token of context takes: layers, key/value heads, head width."""

    name: str
    parameters: int
    layers: int
    kv_heads: int = 8
    head_dim: int = 128

    @property
    def weight_bytes(self) -> int:
        return self.parameters * BFLOAT16_BYTES

    @property
    def cache_bytes(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * BFLOAT16_BYTES * CONTEXT_TOKENS


FAMILY = (
    FamilyMember("Pixtral 12B", 12_682_739_712, 40),
    FamilyMember("Mistral Small 3.1 24B", 24_011_361_280, 40),
    FamilyMember("Pixtral Large 124B", 124_134_845_824, 88),
)


def run_doctor() -> None:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = available_bytes(torch.device("cpu"))
    bandwidth = read_bandwidth()
    for name, value in (
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("processor", f"{os.cpu_count()} cores; {', '.join(_cpu_flags()) or 'none of ' + ', '.join(SHOWN_FLAGS)}"),
        ("memory", f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free, read at {bandwidth / 1e9:.1f} GB/s"),
        ("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
    ):
        print(f"{name:<11}{value}")
    devices = [("cpu", free, bandwidth)]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        free = torch.cuda.mem_get_info(index)[0]
        speed = read_bandwidth(f"cuda:{index}")
        print(f"{f'cuda:{index}':<11}{gpu.name}, {free / 1e9:.1f} GB free, read at {speed / 1e9:.0f} GB/s")
        devices.append((f"cuda:{index}", free, speed))
    if len(devices) == 1:
        print(f"{'gpu':<11}none that torch sees")
    print(f"\nIn bfloat16, with {CONTEXT_TOKENS} tokens of context:")
    for device, free, speed in devices:
        print(f"  {f'nano on {device}':<34}runs; it is bundled")
        for member in FAMILY:
            print(f"  {f'{member.name} on {device}':<34}{verdict(member, free, speed)}")


def verdict(member: FamilyMember, free_bytes: float, bytes_per_s: float) -> str:
    """Whether a model fits, and the bound on its speed or the number of bytes that are missing."""
    needed = member.weight_bytes + member.cache_bytes
    if needed > free_bytes:
        return f"does not fit: needs {needed / 1e9:.1f} GB, {(needed - free_bytes) / 1e9:.1f} GB more than is free"
    return f"fits in {needed / 1e9:.1f} GB; at most {bytes_per_s / needed:.1f} tokens/s (bandwidth over bytes)"


def read_bandwidth(device: str = "cpu") -> float:
    """Bytes a second that a sum over 256 MiB reads: the median of five."""
    numbers = torch.ones(2**26, dtype=torch.float32, device=device)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        numbers.sum().item()
        seconds.append(time.perf_counter() - start)
    return numbers.nbytes / sorted(seconds[1:])[2]


def _cpu_flags() -> list[str]:
    cpuinfo = Path("/proc/cpuinfo")
    present = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [flag for flag in SHOWN_FLAGS if flag in present]
