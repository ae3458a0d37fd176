"""Runs llama.cpp on a GGUF pair, in an interpreter that has llama-cpp-python; run as a script by the test.

Arguments: the text file, the picture part, a .npz with `ids` (int), `pixels` (H, W, 3) uint8 and
`before`, `after` (int ids around the picture), and the .npz to write: `logits` of the text, `embeddings`
of the picture with its breaks, and `reply`, what llama.cpp's greedy choice says to the picture.
"""

from __future__ import annotations

import ctypes
import sys

import llama_cpp
import numpy as np
from llama_cpp import Llama, mtmd_cpp

NUM_REPLY_TOKENS = 12


def main(text: str, pictures: str, given: str, wanted: str) -> None:
    model = Llama(text, n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=1, logits_all=True, verbose=False)
    inputs = np.load(given)
    model.eval(inputs["ids"].tolist())
    logits = np.array(model.scores[: len(inputs["ids"])])

    settings = mtmd_cpp.mtmd_context_params_default()
    settings.use_gpu, settings.n_threads, settings.warmup = False, 1, False
    context = mtmd_cpp.mtmd_init_from_file(pictures.encode(), model.model, settings)
    assert context, "libmtmd does not read the picture part"
    pixels = np.ascontiguousarray(inputs["pixels"])
    height, width, _ = pixels.shape
    data = (ctypes.c_uint8 * pixels.size).from_buffer(pixels)
    bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, data)
    marker = mtmd_cpp.mtmd_default_marker()
    prompt = mtmd_cpp.mtmd_input_text(marker, len(marker), False, True)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(prompt), bitmaps, 1) == 0
    listed = [mtmd_cpp.mtmd_input_chunks_get(chunks, i) for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks))]
    picture = next(chunk for chunk in listed if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == 1)
    assert mtmd_cpp.mtmd_encode_chunk(context, picture) == 0
    count = mtmd_cpp.mtmd_input_chunk_get_n_tokens(picture)
    found = mtmd_cpp.mtmd_get_output_embd(context)
    embeddings = np.ctypeslib.as_array(found, (count, model.n_embd())).copy()

    model.reset()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(model.ctx), True)
    model.eval(inputs["before"].tolist())
    past, after = ctypes.c_int32(len(inputs["before"])), ctypes.c_int32(0)
    assert mtmd_cpp.mtmd_helper_eval_chunks(context, model.ctx, chunks, past, 0, 1024, True, ctypes.byref(after)) == 0
    model.n_tokens = after.value
    # The chunks hold [IMG_END] after the picture; what follows is the question.
    reply: list[int] = []
    step = inputs["after"].tolist()
    for _ in range(NUM_REPLY_TOKENS):
        model.eval(step)
        step = [int(np.argmax(model.scores[model.n_tokens - 1]))]
        reply += step
    np.savez(wanted, logits=logits, embeddings=embeddings, reply=np.array(reply))


main(*sys.argv[1:])
