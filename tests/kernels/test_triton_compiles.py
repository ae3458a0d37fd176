"""The Triton kernels compile for real GPUs, without one: Ampere, Ada and Hopper, within the smallest shared memory.

In a process of its own: where the interpreter is on, nothing is compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from tessera.kernels import triton_elementwise as elementwise, triton_fp8_linear as fp8
from tessera.kernels import triton_packed_linear as packed, triton_paged_attention as attention

NUMBERS = {"tokens", "rows", "groups", "tiles", "columns", "max_blocks", "count", "heads"}
NUMBERS |= {"token_stride", "head_stride"}

def check(kernel, pointers, capability, warps=4, stages=3, **constants):
    types = {name: f"*{pointers[name]}" if name in pointers else "i32" if name in NUMBERS else "fp32"
             for name in kernel.arg_names}
    types |= dict.fromkeys(constants, "constexpr")
    aligned = {(place,): [["tt.divisibility", 16]] for place, name in enumerate(types) if types[name] != "constexpr"
               and types[name] != "fp32"}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32),
                          options={"num_warps": warps, "num_stages": stages})
    assert made.metadata.shared <= 99 * 1024, (kernel.__name__, capability, constants, made.metadata.shared)

BF16 = {"inputs": "bf16", "out": "bf16"}
for capability in (80, 89, 90):
    for bits, kind, scale in ((4, 0, "fp16"), (4, 2, "u8"), (8, 0, "fp16")):
        pointers = BF16 | {"words": "i32", "scales": scale, "minimums": scale, "super_scales": "fp16",
                           "super_minimums": "fp16"}
        for tokens in (1, 4):
            check(packed._vector_product, pointers, capability, bits=bits, kind=kind, padded_tokens=tokens,
                  step_groups=packed.VECTOR_WORDS // (bits * tokens))
        for tokens, stages in ((16, 3), (64, 2)):
            check(packed._matrix_product, pointers, capability, stages=stages, bits=bits, kind=kind,
                  padded_tokens=tokens, step_groups=packed.MATRIX_GROUPS[bits], step_tiles=packed.MATRIX_TILES,
                  precision="ieee")
        check(packed._dequantize, pointers, capability, bits=bits, kind=kind, step_groups=8)
    if capability >= 89:
        pointers = BF16 | {"values": "fp8e4nv", "scales": "fp32"}
        check(fp8._vector_product, pointers, capability, padded_tokens=1, step_rows=8, step_columns=fp8.VECTOR_COLUMNS)
        check(fp8._matrix_product, pointers, capability, padded_tokens=64, step_rows=fp8.MATRIX_OUTPUTS,
              step_columns=fp8.MATRIX_COLUMNS, precision="ieee")
    for stored in ("bf16", "i8"):
        cache = {"key_scales": "fp32", "value_scales": "fp32"}
        check(attention._attend_split, cache | {"queries": "bf16", "keys": stored, "values": stored,
              "block_tables": "i32", "lengths": "i32", "partial": "fp32", "sums": "fp32"}, capability, heads=32,
              kv_heads=8, width=128, block_tokens=16, splits=32, padded_rows=16, padded_width=128,
              tile=attention.TILE_TOKENS, scaled=stored == "i8", precision="ieee")
        check(elementwise._store, cache | {"keys": "bf16", "values": "bf16", "key_cache": stored,
              "value_cache": stored, "slots": "i64"}, capability, warps=1, width=128, padded_width=128,
              scaled=stored == "i8")
    check(attention._join_splits, {"partial": "fp32", "sums": "fp32", "out": "bf16"}, capability, warps=1, width=128,
          splits=32, padded_width=128)
    check(elementwise._silu_gate, {"gate": "bf16", "up": "bf16", "out": "bf16"}, capability, block=elementwise.BLOCK)
    check(elementwise._rotate, {"x": "bf16", "cos": "fp32", "sin": "fp32"}, capability, warps=2, width=128,
          padded_width=128, step_heads=8)
"""


@pytest.mark.slow
def test_the_kernels_compile_for_gpus() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
