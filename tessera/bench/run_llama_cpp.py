"""The program that measures llama.cpp, in a separate environment, through llama-cpp-python's bindings.

It imports nothing from Tessera and takes the requests of `run_python`, documented in its `Measured`. The measured
time is spent in llama.cpp's C interface itself.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

CONTEXT_TOKENS, MAX_SEQUENCES = 8192, 8  # as in run_python
BATCH_TOKENS = 512
# Per image. By default llama.cpp shrinks Pixtral's images to 1024 tokens, a quarter of the model's own limit.
IMAGE_TOKENS = 4096

Row = tuple[int, int, int, bool]  # token id, position, sequence, True to get its logits


class LlamaCpp:
    """A text model and its vision part, with one context for all measurements."""

    def __init__(self, text: str, mmproj: str, threads: int) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(text.encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = CONTEXT_TOKENS
        settings.n_batch = settings.n_ubatch = BATCH_TOKENS
        settings.n_seq_max = MAX_SEQUENCES
        settings.kv_unified = True
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        vision = mtmd_cpp.mtmd_context_params_default()
        vision.use_gpu = False
        vision.n_threads = threads
        vision.warmup = False
        vision.image_max_tokens = IMAGE_TOKENS
        self._vision = mtmd_cpp.mtmd_init_from_file(mmproj.encode(), self._model, vision)
        if not self._context or not self._vision:
            raise SystemExit("llama.cpp could not open the files")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._num_ids = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def encode(self, side: int) -> dict[str, Any]:
        image = mtmd_cpp.mtmd_bitmap_init(side, side, (ctypes.c_uint8 * (side * side * 3))())
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        marker = mtmd_cpp.mtmd_default_marker()
        text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, True)
        if mtmd_cpp.mtmd_tokenize(
            self._vision, chunks, ctypes.byref(text), (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(image), 1
        ):
            raise SystemExit("mtmd_tokenize failed")
        parts = [
            mtmd_cpp.mtmd_input_chunks_get(chunks, place) for place in range(mtmd_cpp.mtmd_input_chunks_size(chunks))
        ]
        (part,) = [
            part for part in parts
            if mtmd_cpp.mtmd_input_chunk_get_type(part) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE
        ]  # fmt: skip
        breaks = side // 16 - 1
        tokens = mtmd_cpp.mtmd_input_chunk_get_n_tokens(part) - breaks
        start = time.perf_counter()
        if mtmd_cpp.mtmd_encode_chunk(self._vision, part):
            raise SystemExit("mtmd_encode_chunk failed")
        seconds = time.perf_counter() - start
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        mtmd_cpp.mtmd_bitmap_free(image)
        return {"seconds": seconds, "tokens": tokens}

    def generate(self, prompts: list[list[int]], new_tokens: int, lookup: bool) -> dict[str, Any]:
        llama_cpp.llama_memory_clear(self._memory, True)
        start = time.perf_counter()
        replies = [[self._prefill(sequence, prompt)] for sequence, prompt in enumerate(prompts)]
        prefill_s = time.perf_counter() - start
        if lookup:
            self._continue_by_lookup(prompts[0], replies[0], new_tokens)
        else:
            self._continue(prompts, replies, new_tokens)
        return {"prefill_s": prefill_s, "decode_s": time.perf_counter() - start - prefill_s, "replies": replies}

    def _prefill(self, sequence: int, ids: list[int]) -> int:
        for first in range(0, len(ids), BATCH_TOKENS):
            part = ids[first : first + BATCH_TOKENS]
            self._decode([(id_, first + at, sequence, first + at == len(ids) - 1) for at, id_ in enumerate(part)])
        return self._best(len(part) - 1)

    def _continue(self, prompts: list[list[int]], replies: list[list[int]], new_tokens: int) -> None:
        for step in range(new_tokens - 1):
            self._decode(
                [(reply[-1], len(prompts[number]) + step, number, True) for number, reply in enumerate(replies)]
            )
            for number, reply in enumerate(replies):
                reply.append(self._best(number))

    def _continue_by_lookup(self, prompt: list[int], reply: list[int], new_tokens: int) -> None:
        """Decode with the bindings' own prompt look-up and its settings; wrong guesses are rolled back."""
        guess = LlamaPromptLookupDecoding()
        while len(reply) < new_tokens:
            guesses = guess(np.array([*prompt, *reply], dtype=np.intc)).tolist()[: new_tokens - len(reply) - 1]
            position = len(prompt) + len(reply) - 1
            self._decode([(id_, position + at, 0, True) for at, id_ in enumerate([reply[-1], *guesses])])
            for row, guessed in enumerate([*guesses, None]):
                reply.append(self._best(row))
                if reply[-1] != guessed:
                    break
            llama_cpp.llama_memory_seq_rm(self._memory, 0, len(prompt) + len(reply) - 1, -1)

    def _decode(self, rows: list[Row]) -> None:
        self._batch.n_tokens = len(rows)
        for number, (token, position, sequence, wanted) in enumerate(rows):
            self._batch.token[number] = token
            self._batch.pos[number] = position
            self._batch.n_seq_id[number] = 1
            self._batch.seq_id[number][0] = sequence
            self._batch.logits[number] = wanted
        if llama_cpp.llama_decode(self._context, self._batch):
            raise SystemExit("llama_decode failed")

    def _best(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(np.ctypeslib.as_array(logits, (self._num_ids,)).argmax())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", help="the text model")
    parser.add_argument("mmproj", help="its vision part")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    side = LlamaCpp(options.text, options.mmproj, options.threads)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(side, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
    main()
