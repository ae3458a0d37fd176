"""CUDA graphs of decoding steps, in which every request gets one token: one launch instead of a thousand.

A graph computes a fixed number of rows and reads its inputs at the addresses it was captured with,
so there is one for each of several batch sizes, all over the same buffers. A step uses the smallest
that holds it; spare rows read and write the padding block. Everything else (prompts, images, mixed
steps) runs without a graph. How a graph is captured is a parameter: a test on a CPU passes a plain
call over the same buffers.
Source: https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tessera.engine.batch import chunk_ids
from tessera.engine.kv_cache import KVCache
from tessera.engine.plans import Decodes, DevicePlan, block_tables, paged_chunks, positions, slots
from tessera.engine.request import Chunk
from tessera.machine import taken_bytes, upload
from tessera.model.pixtral import Pixtral

logger = logging.getLogger(__name__)

SIZE_STEP = 8  # between larger batch sizes: at most a seventh of the rows are spare
WARM_UPS = 2  # runs before a capture, to compile kernels and allocate the libraries' work space
Work = Callable[[], None]
Capture = Callable[[Work], Work]


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Return the batch sizes that have a graph; for 20: 1, 2, 4, 8, 16, 20."""
    return sorted(
        {size for size in (1, 2, 4, *range(SIZE_STEP, max_num_seqs, SIZE_STEP)) if size < max_num_seqs} | {max_num_seqs}
    )


class CudaCapture:
    """Captures graphs in one memory pool, since only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        return graph.replay


class DecodeGraphs:
    def __init__(
        self,
        model: Pixtral,
        cache: KVCache,
        *,
        max_num_seqs: int,
        max_model_len: int,
        capture: Capture | None = None,
    ) -> None:
        self.model, self.cache = model, cache
        device = model.device
        blocks = -(-max_model_len // cache.block_tokens)
        # Buffers that graphs read (token ids, positions and slots; block tables and lengths), and the one they write.
        self._tokens = torch.zeros(3, max_num_seqs, dtype=torch.int64, device=device)
        self._block_tables_RB = torch.zeros(max_num_seqs, blocks, dtype=torch.int32, device=device)
        self._lengths_R = torch.ones(max_num_seqs, dtype=torch.int32, device=device)
        self._logits_RV = torch.zeros(max_num_seqs, model.config.vocab_size, device=device)
        self._fill([], max_num_seqs)
        self._graphs: dict[int, Work] = {}
        self._capture_all(graph_sizes(max_num_seqs), CudaCapture() if capture is None else capture)

    def take(self, chunks: Sequence[Chunk]) -> bool:
        """Return True if a graph can compute these chunks: each is a request's last token, with its draft."""
        decode = all(chunk.length == 1 and chunk.samples and chunk.request.num_output for chunk in chunks)
        return decode and sum(chunk.num_rows for chunk in chunks) <= max(self._graphs)

    def logits(self, chunks: Sequence[Chunk]) -> Tensor:
        """Return logits (R, V) in float32, a row for each chunk and each draft token; the next call overwrites them.

        Replays the graph of the batch size, or the next larger one.
        """
        rows = sum(chunk.num_rows for chunk in chunks)
        size = min(size for size in self._graphs if size >= rows)
        self._fill(chunks, size)
        self._graphs[size]()
        return self._logits_RV[:rows]

    def _fill(self, chunks: Sequence[Chunk], size: int) -> None:
        """Copy a step into the buffers; spare rows are a token of the padding block."""
        device = self.model.device
        rows = paged_chunks(chunks, self.cache)
        left = size - len(rows)
        ids = [token_id for chunk in chunks for token_id in chunk_ids(chunk)]
        tokens = [
            ids + [0] * left,
            positions(chunks) + [0] * left,
            slots(chunks, self.cache) + [self.cache.padding_slot] * left,
        ]
        lengths = [row.context for row in rows] + [1] * left
        self._tokens[:, :size].copy_(upload(torch.tensor(tokens), torch.int64, device))
        self._lengths_R[:size].copy_(upload(lengths, torch.int32, device))
        if rows:
            tables_RB = block_tables(rows, self.cache)
            self._block_tables_RB[: len(rows), : tables_RB.shape[1]].copy_(upload(tables_RB, torch.int32, device))
        self._block_tables_RB[len(rows) : size, 0] = self.cache.padding_block

    @torch.inference_mode()
    def _capture_all(self, sizes: Sequence[int], capture: Capture) -> None:
        device = self.model.device
        taken, start_s = taken_bytes(device), time.perf_counter()
        for size in reversed(sizes):  # the largest first: the others share its memory
            self._graphs[size] = capture(self._work(size))
        logger.info(
            "decode graphs for %s requests: %d MiB, %.1f s",
            ", ".join(map(str, sizes)),
            (taken_bytes(device) - taken) // 2**20,
            time.perf_counter() - start_s,
        )

    def _work(self, size: int) -> Work:
        ids_R, positions_R, slots_R = self._tokens[:, :size]
        decodes = Decodes(self._block_tables_RB[:size], self._lengths_R[:size])
        plan = DevicePlan(self.cache.layers, positions_R, slots_R, decodes, None)

        @torch.inference_mode()
        def work() -> None:
            hidden_RD = self.model(self.model.embed(ids_R, [], 0), plan)
            self._logits_RV[:size].copy_(self.model.logits(hidden_RD))

        return work
