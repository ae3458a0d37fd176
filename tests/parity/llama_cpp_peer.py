"""Runs llama.cpp on a GGUF pair, in an interpreter that has llama-cpp-python; a script for test_llama_cpp.

Arguments: the text model's file, that of the vision part, an .npz with `ids` of a text, `pixels`
(H, W, 3) uint8 and the ids `before` and `after` the image, and the .npz to write: `tokens` that
llama.cpp makes of the file's `text`, `logits` of `ids`, `embeddings` of the image with its breaks,
and `reply`, the likeliest tokens after prompt and image.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp import Llama, mtmd_cpp

NUM_REPLY_TOKENS = 8
IMAGE = 1  # MTMD_INPUT_CHUNK_TYPE_IMAGE


def main(text_model: str, vision_part: str, given: str, wanted: str) -> None:
    inputs = np.load(given)
    model = Llama(text_model, n_ctx=1024, n_batch=1024, n_ubatch=1024, n_threads=1, logits_all=True, verbose=False)
    model.eval(inputs["ids"].tolist())
    logits = np.array(model.scores[: len(inputs["ids"])])

    context = image_context(vision_part, model)
    chunks = image_chunks(context, np.ascontiguousarray(inputs["pixels"]))
    embeddings = encode(context, chunks, model.n_embd())

    model.reset()
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(model.ctx), True)
    model.eval(inputs["before"].tolist())
    end = ctypes.c_int32(0)  # the chunks hold [IMG_END] too
    assert not mtmd_cpp.mtmd_helper_eval_chunks(
        context, model.ctx, chunks, len(inputs["before"]), 0, 1024, True, ctypes.byref(end)
    )
    model.n_tokens = end.value
    reply: list[int] = []
    step = inputs["after"].tolist()
    for _ in range(NUM_REPLY_TOKENS):
        model.eval(step)
        step = [int(np.argmax(model.scores[model.n_tokens - 1]))]
        reply += step
    tokens = model.tokenize(bytes(inputs["text"]), add_bos=True, special=False)
    np.savez(wanted, tokens=tokens, logits=logits, embeddings=embeddings, reply=reply)


def image_context(file: str, model: Llama) -> Any:
    settings = mtmd_cpp.mtmd_context_params_default()
    settings.use_gpu, settings.n_threads, settings.warmup = False, 1, False
    context = mtmd_cpp.mtmd_init_from_file(file.encode(), model.model, settings)
    assert context, f"libmtmd does not read {file}"
    return context


def image_chunks(context: Any, pixels: Any) -> Any:
    height, width, _ = pixels.shape
    bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, (ctypes.c_uint8 * pixels.size).from_buffer(pixels))
    marker = mtmd_cpp.mtmd_default_marker()
    prompt = mtmd_cpp.mtmd_input_text(marker, len(marker), False, True)
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
    assert not mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(prompt), bitmaps, 1)
    return chunks


def encode(context: Any, chunks: Any, width: int) -> Any:
    listed = [mtmd_cpp.mtmd_input_chunks_get(chunks, i) for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks))]
    image = next(chunk for chunk in listed if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == IMAGE)
    assert not mtmd_cpp.mtmd_encode_chunk(context, image)
    count = mtmd_cpp.mtmd_input_chunk_get_n_tokens(image)
    return np.ctypeslib.as_array(mtmd_cpp.mtmd_get_output_embd(context), (count, width)).copy()


if __name__ == "__main__":
    main(*sys.argv[1:])
