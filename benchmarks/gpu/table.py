"""The speed of a GPU at Pixtral 12B's true shapes, compared with its limits and transformers in one run.

Weights are random and made on the device. A decoding step is compared with the copy bandwidth (bytes
of the weights and of the keys and values that it must read), prefill and images against the rate of
a large matrix product (operations counted from the shapes), both measured first. A failed row
is reported in its place, and the others continue.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from benchmarks.gpu.drive import (
    generate,
    image_prompt,
    make_engine,
    peer_generate,
    text_prompt,
    with_new_digests,
)
from benchmarks.gpu.rates import Rates, seconds_of
from benchmarks.gpu.sizes import Sizes
from benchmarks.gpu.weights import quantize_layers
from tessera.bench.peer import peer_of, random_model
from tessera.bench.work import encode_flops, prefill_flops, step_bytes
from tessera.engine.engine import Engine
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.engine.memory import StepSize, measure_workspace
from tessera.model.pixtral import Pixtral


@dataclass(frozen=True)
class Row:
    """One measurement: our seconds and the peer's, and the share of a limit that ours reach."""

    name: str
    ours_s: float | None = None
    share: float | None = None
    limit: str = ""
    theirs_s: float | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        share = "" if self.share is None else f"{self.share:.0%} of {self.limit}"
        ratio = "" if not (self.ours_s and self.theirs_s) else f"{self.theirs_s / self.ours_s:.2f}x"
        cells = (self.name, _ms(self.ours_s), share, _ms(self.theirs_s), ratio, "; ".join(self.notes))
        return f"| {' | '.join(cells)} |"


HEADER = "| what | Tessera | of the limit | transformers | ratio | notes |\n| --- | --- | --- | --- | --- | --- |"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.2f} ms"


class Table:
    """Measures row after row and prints each at once; `failed` is True if any went wrong."""

    def __init__(
        self, device: torch.device, sizes: Sizes, rates: Rates, deadline_s: float, *, with_peer: bool = True
    ) -> None:
        self.device, self.sizes, self.rates, self.deadline_s = device, sizes, rates, deadline_s
        self.with_peer = with_peer
        self.failed = False

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
        """Add one row; each side runs in its own try, and its memory is released."""
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
        row = Row(name, ours_s, share, limit, theirs_s, tuple(notes))
        print(row, flush=True)
        return row

    def _try(self, work: Callable[[], float]) -> tuple[float | None, str | None]:
        if time.perf_counter() > self.deadline_s:
            return None, "no time left"
        try:
            return work(), None
        except Exception as error:  # continue with the other rows after any error
            return None, f"{type(error).__name__}: {error}".split("\n", 1)[0][:160].replace("|", "/")
        finally:
            if self.device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()

    def decode_s(self, run: Callable[[int], object]) -> float:
        """Measure the seconds of one decoding step: a run of many tokens minus a run of one."""
        decoded, rounds = self.sizes.decoded, self.sizes.rounds
        long_s = seconds_of(lambda: run(decoded + 1), self.device, rounds)
        return max(long_s - seconds_of(lambda: run(1), self.device, rounds), 1e-9) / decoded

    @torch.inference_mode()
    def measure(self) -> None:
        """Measure all rows: bfloat16 against the peer, then 8 and 4 bits in place of the same weights."""
        model = random_model(self.sizes.config, str(self.device))
        self._report_workspace(model)
        print(HEADER, flush=True)
        theirs_s = self._add_bfloat16(model)
        for scheme in ("fp8", "int4"):
            self._add_quantized(model, scheme, theirs_s)

    def _report_workspace(self, model: Pixtral) -> None:
        """Report the memory that an engine keeps free of the key/value cache, measured as at its start."""
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
        except Exception as error:  # after any error, only its column stays empty
            print(f"transformers is left out: {type(error).__name__}: {error}", flush=True)
            self.with_peer = False
            return None

    def _add_bfloat16(self, model: Pixtral) -> float | None:
        """Add the plain model's rows; returns the peer's seconds for a decoding step of one sequence."""
        sizes, config = self.sizes, self.sizes.config
        engine, peer = make_engine(model, sizes), self._peer(model)
        one = [text_prompt(sizes.prompt, 1, config)]
        many = [text_prompt(sizes.prompt, seed, config) for seed in range(sizes.sequences)]
        context = sizes.prompt + sizes.decoded // 2
        first = self.add(
            "decode, one sequence, bf16",
            lambda: self.decode_s(lambda new: generate(engine, one, new)),
            read_bytes=lambda: _read_bytes(model, context),
            theirs=lambda: self.decode_s(lambda new: peer_generate(peer, one, new)),
        )
        self.add(
            f"decode, a step of {sizes.sequences} sequences, bf16",
            lambda: self.decode_s(lambda new: generate(engine, many, new)),
            read_bytes=lambda: _read_bytes(model, context * sizes.sequences),
            theirs=lambda: self.decode_s(lambda new: peer_generate(peer, many, new)),
        )
        for length in sizes.prefills:
            self._add_prefill(engine, peer, length)
        for number in (1, sizes.images):
            self._add_images(model, peer, number)
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

    def _add_images(self, model: Pixtral, peer: Any, number: int) -> None:
        side = self.sizes.image
        pixels = torch.randn(number, 3, side, side, device=self.device).to(model.dtype)
        given = torch.tensor([[side, side]] * number, device=self.device)
        self.add(
            f"encode {number} image{'s' * (number > 1)} of {side}x{side}",
            lambda: seconds_of(lambda: model.encode_images(list(pixels)), self.device, self.sizes.rounds, 3),
            flops=encode_flops(self.sizes.config, side, number),
            theirs=lambda: self._seconds(lambda: peer.model.get_image_features(pixel_values=pixels, image_sizes=given)),
        )

    def _add_chats(self, engine: Engine, peer: Any) -> None:
        sizes = self.sizes
        prompts = [image_prompt(sizes.chat_image, seed, sizes.config) for seed in range(sizes.chats)]
        share = sizes.chats / sizes.peer_chats
        runs = count()

        def ours() -> None:
            generate(engine, with_new_digests(prompts, next(runs)), sizes.decoded)

        row = self.add(
            f"{sizes.chats} chats about images of {sizes.chat_image}x{sizes.chat_image}, {sizes.decoded} tokens each",
            lambda: self._seconds(ours),
            theirs=lambda: (
                share * self._seconds(lambda: peer_generate(peer, prompts[: sizes.peer_chats], sizes.decoded))
            ),
        )
        if row.ours_s:
            tokens = sizes.chats * sizes.decoded / row.ours_s
            print(f"that is {sizes.chats / row.ours_s:.1f} chats/s, {tokens:.0f} tokens/s; transformers ran "
                  f"{sizes.peer_chats} at once, times {share:g}", flush=True)  # fmt: skip

    def _add_quantized(self, model: Pixtral, scheme: str, theirs_s: float | None) -> None:
        sizes = self.sizes
        one = [text_prompt(sizes.prompt, 1, sizes.config)]
        prompt = [text_prompt(sizes.prefills[0], 2, sizes.config)]
        engines: list[Engine] = []

        def decode() -> float:
            quantize_layers(model, scheme)
            engines.append(make_engine(model, sizes, max_num_seqs=8))
            return self.decode_s(lambda new: generate(engines[0], one, new))

        row = self.add(
            f"decode, one sequence, {scheme}",
            decode,
            read_bytes=lambda: _read_bytes(model, sizes.prompt + sizes.decoded // 2),
            theirs_s=theirs_s,
        )
        if row.ours_s:
            self.add(
                f"prefill, {sizes.prefills[0]} tokens, {scheme}",
                lambda: self._seconds(lambda: generate(engines[0], prompt, 1)),
                flops=prefill_flops(sizes.config, sizes.prefills[0]),
            )


def _read_bytes(model: Pixtral, contexts: int) -> int:
    """Return the bytes that one decoding step reads: weights, and `contexts` tokens of keys and values."""
    return step_bytes(model) + contexts * kv_bytes_per_token(model.config, model.dtype)
