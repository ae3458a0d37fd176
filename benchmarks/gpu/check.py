"""`python -m benchmarks.gpu.check`: the GPU path's correctness and speed in one script and one table.

First everything it computes is compared with the CPU in float32, by distance in norm; then the
tests that only a GPU can run; then the measurements of `table` and `training`. Failures are reported, the rest
continues, and the exit code is 1. It needs torch, Triton, numpy, Pillow, transformers for its
columns, and pytest with hypothesis for the tests. With `--device cpu --tiny` every line of it runs on
a CPU in a minute, which shows that it works and nothing else.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.drive import generate, image_prompt, make_engine, text_prompt
from benchmarks.gpu.kernels import kernel_lines
from benchmarks.gpu.rates import measure_rates
from benchmarks.gpu.sizes import FULL, TINY, Sizes
from benchmarks.gpu.table import Table
from benchmarks.gpu.training import qlora_line
from benchmarks.gpu.weights import quantize_layers
from tessera.bench.peer import WIDTHS, random_model, random_packed
from tessera.kernels import cuda
from tessera.kernels.cache_layer import CacheLayer, quantize_rows
from tessera.kernels.flash_attention import Segments
from tessera.kernels.fp8_linear import Fp8Weight, quantize_fp8
from tessera.kernels.paged_attention import decode_attention, decode_attention_twin
from tessera.kernels.quantized_weight import QuantizedWeight, quantized_linear, values_of
from tessera.model.attention import DensePlan, attend_segments
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral

SECONDS = 520  # for everything; rows not begun by then are skipped, and count as failed
TESTS_S = 300  # for the tests, of these
CPU = torch.device("cpu")
GPU_TESTS = ("tests/kernels/test_triton.py", "tests/kernels/test_flash_attention.py", "tests/engine/test_gpu.py")
# Distances in norm: sums in another order; rounding of each value to 8 or 11 bits of mantissa on the way
# through all layers; 8-bit floating point keeps 4 bits, of weights (compared with themselves) and of inputs.
BOUNDS = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
FP8_BOUND = 0.15
INT8_CACHE_BOUND = 5e-2

Check = tuple[str, Callable[[], float], float]


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the relative distance in norm; NaN if either holds one, which fails every bound."""
    difference = found.double().cpu() - expected.double().cpu()
    return float(difference.norm() / expected.double().cpu().norm())


@torch.inference_mode()
def logits_of(model: Pixtral) -> Tensor:
    """Compute the logits of a prompt with two images, on the CPU in float32."""
    vision = model.config.vision_encoder
    size = vision.token_size
    generator = torch.Generator().manual_seed(1)
    grids = ((4, 3), (2, 2))
    pixels = [torch.randn(3, rows * size, columns * size, generator=generator) for rows, columns in grids]
    ids = [1, 3]
    for rows, columns in grids:
        image = ([vision.image_token_id] * columns + [vision.image_break_token_id]) * rows
        ids += [*image[:-1], vision.image_end_token_id]
    ids_T = torch.tensor([*ids, 1500, 1600, 4], device=model.device)
    hidden_TD = model.embed(ids_T, model.encode_images([each.to(model.device) for each in pixels]))
    return model.logits(model(hidden_TD, DensePlan([len(ids_T)], model.device))).cpu()


def quantized(model: Pixtral, scheme: str) -> Pixtral:
    """Copy a model with its layers' linears replaced by random packed ones, or its own in 8-bit floating point."""
    model = copy.deepcopy(model)
    torch.manual_seed(5)
    quantize_layers(model, scheme)
    return model


def checks(config: ModelConfig, device: torch.device, sizes: Sizes) -> Iterator[Check]:
    """Yield each check's name, the device's distance, and its bound."""
    reference = random_model(config).float()
    expected = logits_of(reference)
    for dtype, bound in BOUNDS.items():
        yield f"logits, {_name(dtype)}", partial(_logits_distance, reference, expected, dtype, device), bound
    for scheme in ("int4", "int8", "fp8"):
        bound = FP8_BOUND if scheme == "fp8" else BOUNDS[torch.bfloat16]
        yield f"logits, {scheme}", partial(_quantized_distance, reference, scheme, device), bound
    yield from product_checks(config, device)
    yield from attention_checks(config, device)
    yield from engine_checks(reference, device, sizes)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _logits_distance(model: Pixtral, expected: Tensor, dtype: torch.dtype, device: torch.device) -> float:
    return distance(logits_of(copy.deepcopy(model).to(device, dtype)), expected)


def _quantized_distance(reference: Pixtral, scheme: str, device: torch.device) -> float:
    model = quantized(reference, scheme)
    return _logits_distance(model, logits_of(model), torch.bfloat16, device)


def product_checks(config: ModelConfig, device: torch.device) -> Iterator[Check]:
    """Packed and fp8 products at true shapes, for each way that a number of rows takes."""
    rows, columns = config.hidden_dim, config.dim
    generator = torch.Generator().manual_seed(2)
    fp8 = Fp8Weight(*quantize_fp8(torch.randn(rows, columns, generator=generator)))
    for weight, counts, bound in (
        (random_packed(rows, columns, 4), (1, 3, 16, 64, 200), 1e-2),
        (random_packed(rows, columns, 8), (1, 3, 16, 64, 200), 1e-2),
        (fp8, (1, 64), 5e-2),
    ):
        for tokens in counts:
            inputs = torch.randn(tokens, columns, generator=generator).bfloat16()
            yield f"{weight.scheme} product, {tokens} rows", partial(_product_distance, inputs, weight, device), bound


@torch.inference_mode()
def _product_distance(inputs: Tensor, weight: QuantizedWeight, device: torch.device) -> float:
    found = quantized_linear(inputs.to(device), weight.to(device))
    return distance(found, inputs.float() @ values_of(weight).T)


def attention_checks(config: ModelConfig, device: torch.device) -> Iterator[Check]:
    """Decoding over scattered blocks, exact and in 8 bits, and segments of prompts and images."""
    for dtype in (torch.bfloat16, torch.int8):
        yield f"paged attention, {_name(dtype)} cache", partial(_decode_distance, config, dtype, device), 1e-2
    for name, lengths, contexts, causal in (
        ("a chunk after its context", (5, 33), (70, 33), True),
        ("images", (24, 9, 100), (24, 9, 100), False),
    ):
        yield f"attention of {name}", partial(_stretch_distance, config, lengths, contexts, causal, device), 1e-2


@torch.inference_mode()
def _decode_distance(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> float:
    cache, twin = (_filled_cache(config.n_kv_heads, config.head_dim, dtype, where) for where in (device, CPU))
    tables = torch.randperm(40, generator=torch.Generator().manual_seed(4)).view(4, 10).int()
    lengths = torch.tensor([1, 16, 77, 160], dtype=torch.int32)
    queries = torch.randn(4, config.n_heads, config.head_dim, generator=torch.Generator().manual_seed(5)).bfloat16()
    found = decode_attention(queries.to(device), cache, tables.to(device), lengths.to(device))
    return distance(found, decode_attention_twin(queries.float(), twin, tables, lengths))


@torch.inference_mode()
def _stretch_distance(
    config: ModelConfig, lengths: tuple[int, ...], contexts: tuple[int, ...], causal: bool, device: torch.device
) -> float:
    generator = torch.Generator().manual_seed(6)
    queries = torch.randn(sum(lengths), config.n_heads, config.head_dim, generator=generator).bfloat16()
    keys, values = torch.randn(2, sum(contexts), config.n_kv_heads, config.head_dim, generator=generator).bfloat16()
    found, expected = (
        attend_segments(
            Segments.of(lengths, contexts, where),
            *(each.to(where, dtype) for each in (queries, keys, values)),
            causal=causal,
        )
        for where, dtype in ((device, torch.bfloat16), (CPU, torch.float32))
    )
    return distance(found, expected)


def _filled_cache(kv_heads: int, width: int, dtype: torch.dtype, device: torch.device) -> CacheLayer:
    """Blocks of 16 slots, all written by the device's own store."""
    layer = CacheLayer.zeros(40, 16, kv_heads, width, dtype, device)
    keys, values = torch.randn(2, 640, kv_heads, width, generator=torch.Generator().manual_seed(3)).bfloat16()
    with torch.inference_mode():
        layer.write(torch.arange(640, device=device), keys.to(device), values.to(device))
    return layer


def engine_checks(reference: Pixtral, device: torch.device, sizes: Sizes) -> Iterator[Check]:
    """Replies of the engine: graphs against no graphs, and 8-bit against exact keys and values."""
    config = reference.config
    side = config.vision_encoder.token_size * 2
    prompts = [text_prompt(length, length, config) for length in (5, 40, 17)]
    prompts += [image_prompt(side, seed, config) for seed in range(2)]
    small = dataclasses.replace(sizes, prefills=(64,), prompt=40, decoded=24, kv_cache_bytes=2**24)

    def replies(model: Pixtral, **options: object) -> list[tuple[int, ...]]:
        engine = make_engine(model, small, max_num_seqs=5, **options)
        return generate(engine, prompts, small.decoded)

    def graphs() -> float:
        model = copy.deepcopy(reference).to(device, torch.bfloat16)
        on_gpu = device.type == "cuda"
        graphed, plain = (replies(model, cuda_graphs=on_gpu and graphs) for graphs in (True, False))
        return float(sum(one != other for one, other in zip(graphed, plain, strict=True)))

    def exact() -> float:
        ours, theirs = (replies(copy.deepcopy(reference).to(where)) for where in (device, CPU))
        return float(sum(one != other for one, other in zip(ours, theirs, strict=True)))

    yield "replies with graphs that differ from those without, bf16", graphs, 0
    yield "replies that differ from a CPU's, float32", exact, 0

    def rows() -> float:
        keys = torch.randn(9, 3, config.head_dim, generator=torch.Generator().manual_seed(7))
        codes, scales = quantize_rows(keys.to(device))
        return distance(codes * scales[..., None], keys)

    yield "8-bit keys and values", rows, INT8_CACHE_BOUND


def check_all(config: ModelConfig, device: torch.device, sizes: Sizes) -> bool:
    """Run and print every check; return True if one is out of bounds or broke."""
    failed = False
    for name, measure, bound in checks(config, device, sizes):
        try:
            found = measure()
            good, said = found <= bound, f"{found:.2e}, bound {bound:.0e}"
        except Exception as error:  # continue with the other checks after any error
            good, said = False, f"{type(error).__name__}: {error}".split("\n", 1)[0]
        failed |= not good
        print(f"{'ok    ' if good else 'FAILED'} {name}: {said}", flush=True)
    return failed


def run_tests() -> bool:
    """Run the tests that need a GPU, and the kernels' own; return True if one failed or none could run."""
    root = Path(__file__).parents[3]
    missing = [name for name in ("pytest", "hypothesis") if find_spec(name) is None]
    if missing or not (root / GPU_TESTS[0]).exists():
        print(f"FAILED tests: {', '.join(missing) or 'the tests are not beside the package'}", flush=True)
        return True
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *GPU_TESTS]
    try:
        return subprocess.run(command, cwd=root, check=False, timeout=TESTS_S).returncode != 0
    except subprocess.TimeoutExpired:
        print(f"FAILED tests: not done after {TESTS_S} s", flush=True)
        return True


def describe_device(device: torch.device) -> str:
    said = f"torch {torch.__version__}, {device}"
    if device.type != "cuda":
        return said
    gpu = torch.cuda.get_device_properties(device)
    reason = cuda.why_not(device)
    kernels = "Triton kernels" if reason is None else f"no Triton kernels: {reason}"
    return f"{said}: {gpu.name}, {gpu.total_memory / 1e9:.0f} GB, compute capability {gpu.major}.{gpu.minor}, {kernels}"


def main(arguments: list[str] | None = None) -> int:
    """Run all; the exit code is 1 if a distance is out of bounds, or a test, a kernel or a table row fails."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.check", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script itself")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time for all; later rows are left out")
    parser.add_argument("--no-tests", action="store_true", help="leave pytest out")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers out")
    options = parser.parse_args(arguments)
    deadline_s = time.perf_counter() + options.seconds
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is visible to torch; nothing was checked", file=sys.stderr)
        return 1
    cuda.keep_precision()
    sizes = TINY if options.tiny else FULL
    print(describe_device(device), flush=True)
    config = sizes.config if options.tiny else dataclasses.replace(WIDTHS, vocab_size=8192)
    failed = check_all(config, device, sizes)
    if not options.no_tests:
        failed |= run_tests()
    rates = measure_rates(device, sizes)
    print(f"copy {rates.copy_bytes_per_s / 1e12:.2f} TB/s, matmul {rates.matmul_flops / 1e12:.0f} TFLOP/s", flush=True)
    for line in kernel_lines(device, sizes, rates):
        print(line, flush=True)
        failed |= "FAILED" in line
    table = Table(device, sizes, rates, deadline_s, with_peer=not options.no_peer)
    table.measure()
    trained = qlora_line(device, sizes, deadline_s)
    print(trained, flush=True)
    return int(failed or table.failed or "FAILED" in trained)


if __name__ == "__main__":
    sys.exit(main())
