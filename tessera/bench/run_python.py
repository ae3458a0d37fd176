"""The program that measures a model in PyTorch: Tessera's engine, or transformers with the same weights.

Each line of JSON on standard input is a request, answered by one line of JSON on standard
output; `run_llama_cpp` is its counterpart.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image as PILImage

from tessera.bench.peer import peer_of
from tessera.bench.work import step_bytes
from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.engine.kv_cache import kv_bytes_per_token
from tessera.images import load, prepare
from tessera.load import LoadedModel, load_model
from tessera.machine import peak_bytes
from tessera.messages import Image, Message
from tessera.prompt import Prompt
from tessera.quantize.plan import AS_IT_IS
from tessera.quantize.vision import round_vision
from tessera.sampling import SamplingParams
from tessera.shelf import ModelSource

CONTEXT_TOKENS = 8192  # or the model's own, if less
MAX_SEQUENCES = 8
PAD_ID = 11
TRANSFORMERS_GUESSES = 10  # as in its documentation
QUESTION = "What is in the picture?"


class Measured(Protocol):
    """The requests that each side answers."""

    def encode(self, side: int) -> dict[str, Any]:
        """Encode one grey square image: seconds, and its tokens without the breaks between rows."""
        ...

    def generate(self, prompts: list[list[int]], new_tokens: int, lookup: bool) -> dict[str, Any]:
        """Greedy replies to all prompts at once: seconds until each has its first token, seconds of the rest, ids."""
        ...


class Tessera:
    """The engine as in production, stepped by hand, and another without look-up over the same model."""

    def __init__(self, loaded: LoadedModel) -> None:
        context = min(CONTEXT_TOKENS, loaded.config.max_seq_len)
        options = {
            "max_model_len": context,
            "max_num_seqs": MAX_SEQUENCES,
            "kv_cache_bytes": context * kv_bytes_per_token(loaded.config, loaded.model.dtype),
            "enable_prefix_caching": False,  # rounds repeat requests, and must not profit from the last one
        }
        self._model, self._tokenizer = loaded.model, loaded.tokenizer
        self._engines = {
            lookup: Engine(
                loaded.model,
                loaded.tokenizer,
                resolve_config(options | more, loaded.config, dtype=loaded.model.dtype, device=loaded.model.device),
            )
            for lookup, more in ((True, {}), (False, {"num_speculative_tokens": 0}))
        }

    def facts(self) -> dict[str, Any]:
        """Return the model's config, and the bytes of weights that a decoder step reads."""
        return {"config": self._model.config.to_params(), "step_bytes": step_bytes(self._model)}

    @torch.inference_mode()
    def encode(self, side: int) -> dict[str, Any]:
        pixels_CHW = grey(side, self._model.dtype)
        start = time.perf_counter()
        (embeddings,) = self._model.encode_images([pixels_CHW])
        return {"seconds": time.perf_counter() - start, "tokens": len(embeddings)}

    def generate(self, prompts: list[list[int]], new_tokens: int, lookup: bool) -> dict[str, Any]:
        return self._run([Prompt(tuple(prompt)) for prompt in prompts], new_tokens, lookup)

    def answer(self, side: int, new_tokens: int) -> dict[str, Any]:
        """Run a whole chat about one image, starting from the image; also returns the process's peak memory."""
        start = time.perf_counter()
        image = Image(PILImage.new("RGB", (side, side), "grey"))
        prepared = prepare(load(image), self._model.config.vision_encoder)
        prompt = self._tokenizer.encode_chat([Message("user", (image, QUESTION))], [prepared])
        self._run([prompt], new_tokens, lookup=True)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": len(prompt.ids), "peak_bytes": peak_bytes()}

    def _run(self, prompts: list[Prompt], new_tokens: int, lookup: bool) -> dict[str, Any]:
        engine = self._engines[lookup]
        params = SamplingParams(max_tokens=new_tokens, ignore_eos=True)
        start = time.perf_counter()
        requests = [engine.add(prompt, params) for prompt in prompts]
        replies: dict[str, list[int]] = {request.id: [] for request in requests}
        prefill_s = None
        while engine.has_work:
            for request, delta in engine.step():
                replies[request.id] += delta.token_ids
            if prefill_s is None and all(replies.values()):
                prefill_s = time.perf_counter() - start
        seconds = time.perf_counter() - start
        return {"prefill_s": prefill_s, "decode_s": seconds - (prefill_s or 0), "replies": list(replies.values())}


class Transformers:
    """The same weights in the most widely used implementation."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = peer_of(loaded.model)

    @torch.inference_mode()
    def encode(self, side: int) -> dict[str, Any]:
        pixels_CHW, sizes = grey(side, self._model.dtype), torch.tensor([[side, side]])
        start = time.perf_counter()
        features = self._model.model.get_image_features(pixel_values=pixels_CHW[None], image_sizes=sizes)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": len(getattr(features, "pooler_output", features)[0])}

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], new_tokens: int, lookup: bool) -> dict[str, Any]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[PAD_ID] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        clock = _Clock()
        out = self._model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=new_tokens, min_new_tokens=new_tokens,
            pad_token_id=PAD_ID, eos_token_id=None, stopping_criteria=[clock],
            prompt_lookup_num_tokens=TRANSFORMERS_GUESSES if lookup else None,
        )  # fmt: skip
        times_s = clock.times_s
        return {
            "prefill_s": times_s[1] - times_s[0],
            "decode_s": times_s[-1] - times_s[1],
            "replies": out[:, longest:].tolist(),
        }


class _Clock:
    """A stopping criterion for transformers that only records the time of each token."""

    def __init__(self) -> None:
        self.times_s = [time.perf_counter()]

    def __call__(self, ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        self.times_s.append(time.perf_counter())
        return torch.zeros(len(ids), dtype=torch.bool)


def grey(side: int, dtype: torch.dtype) -> torch.Tensor:
    """A square image's normalised pixels (C, H, W)."""
    return torch.zeros(3, side, side, dtype=dtype)


SIDES: dict[str, Callable[[LoadedModel], Measured]] = {"tessera": Tessera, "transformers": Transformers}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tessera.bench.run_python", description=__doc__)
    parser.add_argument("program", choices=SIDES)
    parser.add_argument("model", type=Path)
    parser.add_argument("mmproj", type=Path, nargs="?", help="the vision part of a model that is a GGUF file")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--vision-bits", default=AS_IT_IS, help="round the vision side after loading")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    source = ModelSource(name=str(options.model), mmproj=options.mmproj, device="cpu")
    loaded = load_model(source)
    if options.vision_bits != AS_IT_IS:
        round_vision(loaded.model, options.vision_bits)
    side = SIDES[options.program](loaded)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(side, request.pop("do"))(**request)), flush=True)


if __name__ == "__main__":
    main()
