"""The speed of a GPU at Pixtral 12B's true shapes, beside its own limits and transformers, in one run.

Weights are random and made on the device. A decoding step is held against the copy bandwidth (bytes
of the weights and of the keys and values that it must read), prefill and pictures against the rate of
a large matrix product (operations counted from the shapes), both measured first. A row that fails
says so in its place and the others go on.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tessera.bench.peer import WIDTHS, peer_of, random_model
from tessera.chat import SamplingParams
from tessera.engine.config import resolve
from tessera.engine.engine import Engine
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import StepSize, measure_workspace
from tessera.images import PreparedImage
from tessera.kernels.cache_layer import CacheLayer
from tessera.kernels.fp8_linear import Fp8Weight, fp8_linear, quantize_fp8
from tessera.kernels.packed_linear import packed_linear
from tessera.kernels.packed_weight import GROUP_COLUMNS, TILE_ROWS, PackedWeight, packs
from tessera.kernels.paged_attention import decode_attention
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.prompt import ImageSpan, Prompt
from tessera.quant.linear import PackedLinear, place

FIRST_TEXT_ID = 1000  # below are special tokens


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    config: ModelConfig
    kv_cache_bytes: int
    copy_bytes: int
    matrix: int
    prompt: int
    decoded: int
    sequences: int
    prefills: tuple[int, ...]
    picture: int  # pixels along a side
    pictures: int  # in one call
    chat_picture: int
    chats: int
    peer_chats: int  # of these transformers computes so many at once, which together need one mask
    kernel_rows: tuple[int, ...]
    rounds: int

    @property
    def max_model_len(self) -> int:
        return max(*self.prefills, self.prompt + self.decoded) + 64


TRUE_CONFIG = dataclasses.replace(
    WIDTHS, n_layers=40, vision_encoder=dataclasses.replace(WIDTHS.vision_encoder, num_hidden_layers=24)
)
FULL = Sizes(
    config=TRUE_CONFIG,
    kv_cache_bytes=16 * 2**30,
    copy_bytes=4 * 2**30,
    matrix=8192,
    prompt=128,
    decoded=64,
    sequences=64,
    prefills=(4096, 32_768),
    picture=1024,
    pictures=8,
    chat_picture=512,
    chats=64,
    peer_chats=8,
    kernel_rows=(1, 4, 16, 64),
    rounds=3,
)
TINY = Sizes(
    config=dataclasses.replace(
        WIDTHS,
        dim=64,
        n_layers=2,
        head_dim=16,
        hidden_dim=96,
        n_heads=4,
        n_kv_heads=2,
        vocab_size=2048,
        vision_encoder=dataclasses.replace(
            WIDTHS.vision_encoder,
            hidden_size=32,
            image_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
        ),
    ),
    kv_cache_bytes=2**21,
    copy_bytes=2**20,
    matrix=64,
    prompt=8,
    decoded=4,
    sequences=4,
    prefills=(32, 80),
    picture=64,
    pictures=2,
    chat_picture=32,
    chats=4,
    peer_chats=2,
    kernel_rows=(1,),
    rounds=1,
)


@dataclass(frozen=True)
class Rates:
    """What the device can do, measured in this run."""

    copy_bytes_per_s: float  # read and written together
    matmul_flops: float  # bfloat16, random numbers


@dataclass(frozen=True)
class Row:
    """One measurement: seconds of ours and of the peer, and which part of a limit ours reaches."""

    name: str
    ours_s: float | None = None
    share: float | None = None
    limit: str = ""
    theirs_s: float | None = None
    notes: tuple[str, ...] = field(default=())
    failed: bool = False

    def __str__(self) -> str:
        share = "" if self.share is None else f"{self.share:.0%} of {self.limit}"
        ratio = "" if not (self.ours_s and self.theirs_s) else f"{self.theirs_s / self.ours_s:.2f}x"
        cells = (self.name, _ms(self.ours_s), share, _ms(self.theirs_s), ratio, "; ".join(self.notes))
        return f"| {' | '.join(cells)} |"


HEADER = "| what | Tessera | of the limit | transformers | ratio | notes |\n| --- | --- | --- | --- | --- | --- |"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.2f} ms"


class IdTokenizer:
    """Ids without texts: what the engine asks of a tokenizer when only speed is measured."""

    bos_id, eos_id, opens_with_space = 1, 2, False

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.special_ids = frozenset(range(FIRST_TEXT_ID))
        self.prompt_only_ids = self.special_ids - {self.eos_id}

    def token_bytes(self, token_id: int) -> bytes:
        return b""

    def token_text(self, token_id: int) -> str:
        return ""

    def detokenizer(self) -> IdTokenizer:
        return self

    def add(self, token_id: int) -> str:
        return ""

    def finish(self) -> str:
        return ""


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], object], device: torch.device, rounds: int, repeats: int = 1) -> float:
    """The median over rounds of the time of one call, after a warm-up; calls are queued together, then waited for."""
    work()
    synchronize(device)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            work()
        synchronize(device)
        found.append((time.perf_counter() - start) / repeats)
    return statistics.median(found)


def measure_rates(device: torch.device, sizes: Sizes) -> Rates:
    source = torch.randint(0, 255, (sizes.copy_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_s = seconds_of(lambda: target.copy_(source), device, 5, 4)
    left, right = (torch.randn(sizes.matrix, sizes.matrix, device=device).bfloat16() for _ in range(2))
    matmul_s = seconds_of(lambda: left @ right, device, 5, 4)
    return Rates(2 * sizes.copy_bytes / copy_s, 2 * sizes.matrix**3 / matmul_s)


def make_engine(model: Pixtral, sizes: Sizes, **options: object) -> Engine:
    chosen = {
        "max_model_len": sizes.max_model_len,
        "max_num_seqs": max(sizes.sequences, sizes.chats),
        "kv_cache_bytes": sizes.kv_cache_bytes,
        "enable_prefix_caching": False,
        "num_speculative_tokens": 0,
        "image_cache_bytes": 2**28,
    }
    config = resolve(chosen | options, model.config, dtype=model.dtype, device=model.device)
    return Engine(model, IdTokenizer(model.config.vocab_size), config)


def text_prompt(length: int, seed: int, config: ModelConfig) -> Prompt:
    generator = torch.Generator().manual_seed(seed)
    return Prompt(tuple(torch.randint(FIRST_TEXT_ID, config.vocab_size, (length,), generator=generator).tolist()))


def picture_prompt(side: int, seed: int, config: ModelConfig) -> Prompt:
    """A picture and a few words."""
    vision = config.vision_encoder
    count = side // vision.token_size
    pixels_CHW = torch.randn(3, side, side, generator=torch.Generator().manual_seed(seed))
    image = PreparedImage(
        pixels_CHW=pixels_CHW, grid=(count, count), digest=seed.to_bytes(8, "big"), width=side, height=side
    )
    span = ([vision.image_token_id] * count + [vision.image_break_token_id]) * count
    ids = (1, *span[:-1], vision.image_end_token_id, *text_prompt(16, seed, config).ids)
    return Prompt(ids, (ImageSpan(1, len(span), image),))


def _with_new_digests(prompts: list[Prompt], run: int) -> list[Prompt]:
    """The same prompts as if their pictures had never been seen, so that each run encodes them."""
    fresh = []
    for number, prompt in enumerate(prompts):
        (span,) = prompt.images
        image = dataclasses.replace(span.image, digest=f"{run} {number}".encode())
        fresh.append(dataclasses.replace(prompt, images=(dataclasses.replace(span, image=image),)))
    return fresh


def generate(engine: Engine, prompts: list[Prompt], count: int) -> list[tuple[int, ...]]:
    """Greedy replies of exactly `count` tokens to all prompts at once."""
    params = SamplingParams(max_tokens=count, ignore_eos=True, temperature=0)
    requests = [engine.add(prompt, params) for prompt in prompts]
    while engine.has_work:
        engine.step()
    if any(request.finish_reason != "length" for request in requests):
        raise RuntimeError(f"a reply ended early: {[request.finish_reason for request in requests]}")
    return [tuple(request.output_ids) for request in requests]


def peer_generate(peer: Any, prompts: list[Prompt], count: int) -> None:
    """The same by transformers; prompts are of one length."""
    ids = torch.tensor([prompt.ids for prompt in prompts], device=peer.device)
    pictures = [span.image for prompt in prompts for span in prompt.images]
    extra: dict[str, Tensor] = {}
    if pictures:
        extra["pixel_values"] = torch.stack([image.pixels_CHW for image in pictures]).to(peer.device, peer.dtype)
        extra["image_sizes"] = torch.tensor([[image.height, image.width] for image in pictures], device=peer.device)
    peer.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=count,
        min_new_tokens=count,
        pad_token_id=11,
        eos_token_id=None,
        **extra,
    )


def step_bytes(model: Pixtral, contexts: int) -> int:
    """Bytes that one decoding step must read: the layers, the head, and `contexts` tokens of keys and values."""
    weights = 0
    for module in (*model.layers.modules(), model.output):
        if isinstance(module, PackedLinear):
            weights += module.packed.nbytes
        elif isinstance(fp8 := getattr(module, "fp8", None), Fp8Weight):
            weights += fp8.nbytes
        weights += sum(parameter.nbytes for parameter in module.parameters(recurse=False))
    return weights + contexts * kv_bytes_per_token(model.config, model.dtype)


def prefill_flops(config: ModelConfig, tokens: int) -> float:
    """Operations of the layers' products and of causal attention; the head computes one row."""
    heads = config.n_heads * config.head_dim
    kv_heads = config.n_kv_heads * config.head_dim
    weights = config.dim * (2 * heads + 2 * kv_heads) + 3 * config.dim * config.hidden_dim
    return float(config.n_layers * (2 * tokens * weights + 2 * tokens * tokens * heads))


def encode_flops(config: ModelConfig, side: int, pictures: int) -> float:
    """Operations of the encoder and the adapter; each picture attends to itself."""
    vision = config.vision_encoder
    patches, width = (side // vision.patch_size) ** 2, vision.hidden_size
    layer = 2 * patches * (4 * width * width + 3 * width * vision.intermediate_size) + 4 * patches * patches * width
    adapter = 2 * patches * (width * config.dim + config.dim * config.dim)
    return float(pictures * (vision.num_hidden_layers * layer + adapter))


class Table:
    """Measures row after row and prints each as it comes; `failed` says whether any went wrong."""

    def __init__(
        self, device: torch.device, sizes: Sizes, rates: Rates, deadline_s: float, *, with_peer: bool = True
    ) -> None:
        self.device, self.sizes, self.rates, self.deadline_s = device, sizes, rates, deadline_s
        self.with_peer = with_peer
        self.failed = False
        self.rows: list[Row] = []

    def add(
        self,
        name: str,
        ours: Callable[[], float],
        *,
        read_bytes: Callable[[], float] | None = None,
        flops: float | None = None,
        theirs: Callable[[], float] | None = None,
        theirs_s: float | None = None,
    ) -> Row:
        """One row; each side in its own try, and its memory given back."""
        ours_s, problem = self._try(ours)
        notes = [] if problem is None else [f"ours FAILED: {problem}"]
        self.failed |= problem is not None
        share, limit = None, ""
        if ours_s is not None and read_bytes is not None:
            share, limit = read_bytes() / ours_s / self.rates.copy_bytes_per_s, "bandwidth"
        elif ours_s is not None and flops is not None:
            share, limit = flops / ours_s / self.rates.matmul_flops, "matmul"
        if theirs is not None and self.with_peer:
            theirs_s, peer_problem = self._try(theirs)
            notes += [] if peer_problem is None else [f"transformers failed: {peer_problem}"]
        row = Row(name, ours_s, share, limit, theirs_s, tuple(notes), problem is not None)
        self.rows.append(row)
        print(row, flush=True)
        return row

    def _try(self, work: Callable[[], float]) -> tuple[float | None, str | None]:
        if time.perf_counter() > self.deadline_s:
            return None, "no time left"
        try:
            return work(), None
        except Exception as error:  # whatever it is, the other rows are wanted
            return None, f"{type(error).__name__}: {error}".split("\n", 1)[0][:160].replace("|", "/")
        finally:
            if self.device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()

    def decode_s(self, run: Callable[[int], object]) -> float:
        """Seconds of one decoding step: a run of many tokens less a run of one."""
        decoded, rounds = self.sizes.decoded, self.sizes.rounds
        long_s = seconds_of(lambda: run(decoded + 1), self.device, rounds)
        return max(long_s - seconds_of(lambda: run(1), self.device, rounds), 1e-9) / decoded

    @torch.inference_mode()
    def measure(self) -> None:
        """All rows: bfloat16 beside the peer, then 8 and 4 bits in place of the same weights."""
        model = random_model(self.sizes.config, str(self.device))
        self._report_workspace(model)
        print(HEADER, flush=True)
        theirs_s = self._add_bfloat16(model)
        for name, change in (("fp8", _to_fp8), ("int4", _to_int4)):
            self._add_quantized(model, name, change, theirs_s)

    def _report_workspace(self, model: Pixtral) -> None:
        """What an engine would keep free of the key/value cache, measured as it does at its start."""
        if self.device.type != "cuda":
            return
        size = StepSize(8192, self.sizes.max_model_len, self.sizes.sequences, 0, 16, model.dtype)
        workspace_s = time.perf_counter()
        taken, problem = self._try(lambda: measure_workspace(model, size))
        self.failed |= problem is not None
        said = f"FAILED: {problem}" if taken is None else f"{taken / 2**20:.0f} MiB"
        print(f"workspace of the largest steps: {said}, {time.perf_counter() - workspace_s:.1f} s", flush=True)

    def _peer(self, model: Pixtral) -> Any:
        try:
            return peer_of(model) if self.with_peer else None
        except Exception as error:  # whatever it is, only its column stays empty
            print(f"transformers is left out: {type(error).__name__}: {error}", flush=True)
            self.with_peer = False
            return None

    def _add_bfloat16(self, model: Pixtral) -> float | None:
        """The rows of the plain model; returns the peer's seconds for a decoding step of one sequence."""
        sizes, config = self.sizes, self.sizes.config
        engine, peer = make_engine(model, sizes), self._peer(model)
        one = [text_prompt(sizes.prompt, 1, config)]
        many = [text_prompt(sizes.prompt, seed, config) for seed in range(sizes.sequences)]
        context = sizes.prompt + sizes.decoded // 2
        first = self.add(
            "decode, one sequence, bf16",
            lambda: self.decode_s(lambda new: generate(engine, one, new)),
            read_bytes=lambda: step_bytes(model, context),
            theirs=lambda: self.decode_s(lambda new: peer_generate(peer, one, new)),
        )
        self.add(
            f"decode, a step of {sizes.sequences} sequences, bf16",
            lambda: self.decode_s(lambda new: generate(engine, many, new)),
            read_bytes=lambda: step_bytes(model, context * sizes.sequences),
            theirs=lambda: self.decode_s(lambda new: peer_generate(peer, many, new)),
        )
        for length in sizes.prefills:
            self._add_prefill(engine, peer, length)
        for number in (1, sizes.pictures):
            self._add_pictures(model, peer, number)
        self._add_chats(engine, peer)
        return first.theirs_s

    def _add_prefill(self, engine: Engine, peer: Any, length: int) -> None:
        prompt = [text_prompt(length, length, self.sizes.config)]
        self.add(
            f"prefill, {length} tokens, bf16",
            lambda: self._seconds(lambda: generate(engine, prompt, 1)),
            flops=prefill_flops(self.sizes.config, length),
            theirs=lambda: self._seconds(lambda: peer_generate(peer, prompt, 1)),
        )

    def _seconds(self, work: Callable[[], object]) -> float:
        return seconds_of(work, self.device, self.sizes.rounds)

    def _add_pictures(self, model: Pixtral, peer: Any, number: int) -> None:
        side = self.sizes.picture
        pixels = torch.randn(number, 3, side, side, device=self.device).to(model.dtype)
        given = torch.tensor([[side, side]] * number, device=self.device)
        self.add(
            f"encode {number} picture{'s' * (number > 1)} of {side}x{side}",
            lambda: seconds_of(lambda: model.encode_images(list(pixels)), self.device, self.sizes.rounds, 3),
            flops=encode_flops(self.sizes.config, side, number),
            theirs=lambda: self._seconds(lambda: peer.model.get_image_features(pixel_values=pixels, image_sizes=given)),
        )

    def _add_chats(self, engine: Engine, peer: Any) -> None:
        sizes = self.sizes
        prompts = [picture_prompt(sizes.chat_picture, seed, sizes.config) for seed in range(sizes.chats)]
        share = sizes.chats / sizes.peer_chats
        runs = count()

        def ours() -> None:
            generate(engine, _with_new_digests(prompts, next(runs)), sizes.decoded)

        row = self.add(
            f"{sizes.chats} chats about pictures of {sizes.chat_picture}x{sizes.chat_picture}, "
            f"{sizes.decoded} tokens each",
            lambda: self._seconds(ours),
            theirs=lambda: (
                share * self._seconds(lambda: peer_generate(peer, prompts[: sizes.peer_chats], sizes.decoded))
            ),
        )
        if row.ours_s:
            tokens = sizes.chats * sizes.decoded / row.ours_s
            print(f"that is {sizes.chats / row.ours_s:.1f} chats/s, {tokens:.0f} tokens/s; transformers ran "
                  f"{sizes.peer_chats} at once, times {share:g}", flush=True)  # fmt: skip

    def _add_quantized(
        self, model: Pixtral, name: str, change: Callable[[Pixtral], None], theirs_s: float | None
    ) -> None:
        sizes = self.sizes
        one = [text_prompt(sizes.prompt, 1, sizes.config)]
        prompt = [text_prompt(sizes.prefills[0], 2, sizes.config)]
        engines: list[Engine] = []

        def decode() -> float:
            change(model)
            engines.append(make_engine(model, sizes, max_num_seqs=8))
            return self.decode_s(lambda new: generate(engines[0], one, new))

        row = self.add(
            f"decode, one sequence, {name}",
            decode,
            read_bytes=lambda: step_bytes(model, sizes.prompt + sizes.decoded // 2),
            theirs_s=theirs_s,
        )
        if row.ours_s:
            self.add(
                f"prefill, {sizes.prefills[0]} tokens, {name}",
                lambda: self._seconds(lambda: generate(engines[0], prompt, 1)),
                flops=prefill_flops(sizes.config, sizes.prefills[0]),
            )


def decoder_linears(model: Pixtral) -> Iterator[tuple[str, nn.Module]]:
    """The layers' linears, by name; embeddings, head and pictures stay as they are."""
    for name, module in list(model.named_modules()):
        if name.startswith("layers.") and name.endswith(("wq", "wk", "wv", "wo", "w1", "w2", "w3")):
            yield name, module


def random_packed(rows: int, columns: int, bits: int, device: torch.device) -> PackedWeight:
    """Random codes whose values are as large as a matrix of this width needs."""
    assert packs(rows, columns)
    tiles, groups = -(-rows // TILE_ROWS), columns // GROUP_COLUMNS
    codes = torch.randint(0, 256, (tiles, groups, 64 * bits), dtype=torch.uint8, device=device)
    scale = columns**-0.5 * 3.5 / (1 << bits)  # uniform codes spread over 0.29 of their range
    scales = torch.full((tiles, groups, TILE_ROWS), scale, dtype=torch.float16, device=device)
    return PackedWeight(bits, (rows, columns), codes, scales)


def random_fp8(rows: int, columns: int, device: torch.device) -> Fp8Weight:
    return Fp8Weight(*quantize_fp8(torch.randn(rows, columns, device=device)))


def _to_fp8(model: Pixtral) -> None:
    for name, module in decoder_linears(model):
        place(model, name, Fp8Weight(*quantize_fp8(module.get_parameter("weight"))))


def _to_int4(model: Pixtral) -> None:
    config = model.config
    heads, kv_heads = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes = {
        "wq": (heads, config.dim), "wk": (kv_heads, config.dim), "wv": (kv_heads, config.dim),
        "wo": (config.dim, heads), "w1": (config.hidden_dim, config.dim), "w2": (config.dim, config.hidden_dim),
        "w3": (config.hidden_dim, config.dim),
    }  # fmt: skip
    for name, _ in decoder_linears(model):
        place(model, name, random_packed(*shapes[name.rpartition(".")[2]], 4, model.device))


@torch.inference_mode()
def kernel_lines(device: torch.device, sizes: Sizes, rates: Rates) -> Iterator[str]:
    """The decoding kernels alone: microseconds and part of the bandwidth; weights in turns, so that none is cached."""
    config = sizes.config
    shapes = (
        (config.hidden_dim, config.dim),
        (config.dim, config.hidden_dim),
        (config.n_kv_heads * config.head_dim, config.dim),
    )
    for rows, columns in shapes:
        for tokens in sizes.kernel_rows:
            inputs = torch.randn(tokens, columns, device=device).bfloat16()
            for name, make, product in (
                ("bf16", lambda n=rows, k=columns: torch.randn(n, k, device=device).bfloat16(), F.linear),
                ("fp8", lambda n=rows, k=columns: random_fp8(n, k, device), fp8_linear),
                ("int8", lambda n=rows, k=columns: random_packed(n, k, 8, device), packed_linear),
                ("int4", lambda n=rows, k=columns: random_packed(n, k, 4, device), packed_linear),
            ):  # fmt: skip
                yield _kernel_line(
                    f"{name} {rows}x{columns}, {tokens} rows", make, product, inputs, device, sizes, rates
                )
    for requests, context in ((1, sizes.prefills[-1]), (sizes.sequences, sizes.prefills[0])):
        for dtype in (torch.bfloat16, torch.int8):
            try:
                yield _attention_line(requests, context, dtype, device, sizes, rates)
            except Exception as error:
                yield f"attention of {requests} x {context}: FAILED {type(error).__name__}: {error}"


def _kernel_line(
    name: str, make: Any, product: Any, inputs: Tensor, device: torch.device, sizes: Sizes, rates: Rates
) -> str:
    try:
        first = make()
        number = max(2, min(32, sizes.copy_bytes // 8 // first.nbytes))
        weights = [first, *[make() for _ in range(number - 1)]]
        run = _graphed(lambda: [product(inputs, weight) for weight in weights], device)
        each_s = seconds_of(run, device, 5) / number
    except Exception as error:  # the other kernels are wanted
        return f"{name}: FAILED {type(error).__name__}: {error}".split("\n", 1)[0]
    return f"{name}: {each_s * 1e6:.1f} us, {first.nbytes / each_s / rates.copy_bytes_per_s:.0%} of bandwidth"


def _attention_line(
    requests: int, context: int, dtype: torch.dtype, device: torch.device, sizes: Sizes, rates: Rates
) -> str:
    config = sizes.config
    blocks = -(-context // 16)
    cache = CacheLayer.zeros(requests * blocks, 16, config.n_kv_heads, config.head_dim, dtype, device)
    tables = torch.randperm(requests * blocks, device=device).view(requests, blocks).int()
    lengths = torch.full((requests,), context, dtype=torch.int32, device=device)
    queries = torch.randn(requests, config.n_heads, config.head_dim, device=device).bfloat16()
    run = _graphed(lambda: decode_attention(queries, cache, tables, lengths), device)
    each_s = seconds_of(run, device, 5)
    read = requests * context * kv_bytes_per_token(config, dtype) / config.n_layers
    name = f"attention of {requests} x {context}, {str(dtype).removeprefix('torch.')}"
    return f"{name}: {each_s * 1e6:.1f} us, {read / each_s / rates.copy_bytes_per_s:.0%} of bandwidth"


def _graphed(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The work as a CUDA graph, so that launches are not what is timed; on a CPU as it is."""
    if device.type != "cuda":
        return work
    from tessera.engine.decode_graphs import CudaCapture

    return CudaCapture()(lambda: (work(), None)[1])
