"""What only a GPU shows: the same replies as on a CPU, graphs as real graphs, memory as measured, and no waiting."""

from __future__ import annotations

import pytest
import torch

from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.engine.memory import StepSize, measure_workspace
from tessera.sampling import SamplingParams
from tests.engine.tiny import ByteTokenizer, max_logprob_error, prompt, random_image, run, tiny_engine, tiny_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPTS = [prompt("ab" * length, random_image(length, 2, 3)) for length in (3, 4, 20, 24, 40)]
WANTED = [
    SamplingParams(max_tokens=24, logprobs=5, temperature=0.5 * (n % 2), seed=n, top_p=0.9, ignore_eos=True)
    for n in range(5)
]


def submit(engine: Engine) -> list[object]:
    return [engine.add(each, how) for each, how in zip(PROMPTS, WANTED, strict=True)]


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("cache", ["auto", "int8"])
def test_a_gpu_writes_what_a_cpu_writes(cache: str, graphs: bool) -> None:
    replies = []
    for device in ("cpu", "cuda"):
        options = {"cuda_graphs": graphs} if device == "cuda" else {}
        engine = tiny_engine(tiny_model().to(device), max_num_batched_tokens=40, kv_cache_dtype=cache, **options)
        replies.append(run(engine, *submit(engine)))
    for one, other in zip(*replies, strict=True):
        # A value on the edge between two 8-bit codes may fall to either side.
        assert max_logprob_error(one, other) < (1e-3 if cache == "auto" else 5e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_graphs_write_what_plain_steps_write(dtype: torch.dtype) -> None:
    model = tiny_model().to("cuda", dtype)
    replies = []
    for graphs in (True, False):
        options = {"kv_cache_bytes": 2**20, "max_num_seqs": 5, "cuda_graphs": graphs}
        engine = Engine(model, ByteTokenizer(), resolve_config(options, model.config, dtype=dtype, device=model.device))
        replies.append([each.token_ids for each in run(engine, *submit(engine))])
    assert replies[0] == replies[1]


def test_a_decoding_step_waits_for_nothing_but_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch itself raises on any other wait while the mode is on; it is off only where ids are read."""
    engine = tiny_engine(tiny_model().to("cuda"))
    submit(engine)
    engine.step()
    read = torch.Tensor.tolist

    def reading(tensor: torch.Tensor) -> object:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return read(tensor)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(torch.Tensor, "tolist", reading)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            engine.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert engine.has_work


def test_the_workspace_that_is_measured_holds_the_largest_steps() -> None:
    model = tiny_model().to("cuda")
    size = StepSize(step_tokens=256, context=512, num_seqs=8, drafted=0, block_tokens=16, cache_dtype=torch.float32)
    assert measure_workspace(model, size) > 8192 // 64 * 64 * 4 * model.config.vision_encoder.hidden_size
