"""Runs a current llama.cpp on a text model, in an interpreter that has cyllama; a script for test_llama_cpp_scaled.

Arguments: the model's file, an .npz with `ids` of a text and the size `vocab`, and the .npz to write: `logits` (T, V).
"""

from __future__ import annotations

import sys

import cyllama.llama.llama_cpp as llama
import numpy as np


def main(file: str, given: str, wanted: str) -> None:
    inputs = np.load(given)

    class Model(llama.LlamaModel):  # type: ignore[misc]
        n_vocab = int(inputs["vocab"])  # the package looks for this name, and its class lacks it

    settings = llama.LlamaModelParams()
    settings.n_gpu_layers = 0
    model, params = Model(file, settings), llama.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    context = llama.LlamaContext(model, params)
    rows = []
    for place, token in enumerate(inputs["ids"].tolist()):
        batch = llama.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
        batch.set_batch([token], place, True)
        context.decode(batch)
        rows.append(np.array(context.get_logits(), dtype=np.float32))
    np.savez(wanted, logits=np.array(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
