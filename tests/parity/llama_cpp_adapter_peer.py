"""Runs llama.cpp with a LoRA adapter, in an interpreter that has llama-cpp-cffi; a script for test_llama_cpp_adapter.

Arguments: the model's file, the adapter's, an .npz with `ids` of a text, and the .npz to write: `before` and `after`,
the logits (T, V) of `ids` without and with the adapter, and `reply`, the likeliest tokens after `ids` with it. Of the
package only its library is loaded: the rest needs packages that are not needed here.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

NUM_REPLY_TOKENS = 8
LIBRARY = "_llama_cpp_cpu"


def library() -> Any:
    package = find_spec("llama")
    assert package is not None
    assert package.submodule_search_locations is not None
    (file,) = Path(package.submodule_search_locations[0]).glob(f"{LIBRARY}.*.so")
    spec = spec_from_file_location(LIBRARY, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(file: str, adapter: str, given: str, wanted: str) -> None:
    loaded = library()
    lib, ffi = loaded.lib, loaded.ffi
    lib.llama_backend_init()
    ids = np.load(given)["ids"].tolist()
    model = lib.llama_model_load_from_file(file.encode(), lib.llama_model_default_params())
    assert model != ffi.NULL, f"llama.cpp does not read {file}"
    settings = lib.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 1024
    settings.n_threads = settings.n_threads_batch = 1
    context = lib.llama_init_from_model(model, settings)
    width = int(np.load(given)["vocab"])

    def logits_of(tokens: list[int]) -> np.ndarray[Any, Any]:
        lib.llama_kv_self_clear(context)
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.n_seq_id[place] = token, place, 1
            batch.seq_id[place][0], batch.logits[place] = 0, 1
        assert lib.llama_decode(context, batch) == 0
        rows = [ffi.unpack(lib.llama_get_logits_ith(context, place), width) for place in range(len(tokens))]
        lib.llama_batch_free(batch)
        return np.array(rows, dtype=np.float32)

    before = logits_of(ids)
    lora = lib.llama_adapter_lora_init(model, adapter.encode())
    assert lora != ffi.NULL, f"llama.cpp does not read {adapter}"
    assert lib.llama_set_adapter_lora(context, lora, 1.0) == 0
    after = logits_of(ids)
    reply: list[int] = []
    for _ in range(NUM_REPLY_TOKENS):
        reply.append(int(logits_of([*ids, *reply])[-1].argmax()))
    np.savez(wanted, before=before, after=after, reply=reply)


if __name__ == "__main__":
    main(*sys.argv[1:])
