"""Every setting is a number with a reason; wrong names and contradictions are refused by name."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tessera.engine import config as config_module
from tessera.engine.config import DRAFTED_ON_CPU, OPTIONS, EngineConfig, resolve_config
from tessera.engine.kv_cache import KVCache, kv_bytes_per_token
from tessera.engine.memory import StepSize, max_image_tokens, workspace_bytes
from tessera.errors import UsageError
from tessera.kernels.paged_attention import MOST_FEW_TOKENS, DecodeRows, PagedChunk
from tessera.model.family import PIXTRAL_12B
from tests.engine.tiny import BLOCK_BYTES, CONFIG

CPU = torch.device("cpu")
GIB = 2**30


def settle(monkeypatch: pytest.MonkeyPatch, free: int, **options: object) -> EngineConfig:
    monkeypatch.setattr(config_module, "available_bytes", lambda device: free)
    return resolve_config(options, PIXTRAL_12B, dtype=torch.bfloat16, device=CPU)


def test_the_published_sizes_of_pixtral_12b() -> None:
    assert kv_bytes_per_token(PIXTRAL_12B, torch.bfloat16) == 160 * 1024
    assert kv_bytes_per_token(PIXTRAL_12B, torch.int8) == 82.5 * 1024
    assert max_image_tokens(PIXTRAL_12B.vision_encoder) == 4160
    # The vision encoder is in the account: 8192 patches of 12 x 1024 + 3 x 4096 numbers.
    assert workspace_bytes(PIXTRAL_12B, 16, 16, 1, torch.bfloat16) > 8192 * 12 * 1024 * 2


def test_what_drafts_need_is_in_the_account() -> None:
    """Eight more drafted tokens for each of 16 requests at the longest context: attention's parts, and logits twice."""

    def partial_bytes(rows: int) -> int:
        chunk = PagedChunk(0, rows, 131_072, torch.zeros(8192, dtype=torch.int32))
        few = DecodeRows(16 * chunk.cut(MOST_FEW_TOKENS, 16), 16)
        return few._num_partial * 32 * (128 + 16) * 4  # each part's weighted values, and its state

    fewer, more = (workspace_bytes(PIXTRAL_12B, 4096, 131_072, 16, torch.bfloat16, drafted=n) for n in (7, 15))
    assert more - fewer >= partial_bytes(16) - partial_bytes(8) + 16 * 8 * 2 * 131_072 * 4


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_the_cache_holds_exactly_the_bytes_it_is_given(dtype: str) -> None:
    # 16 tokens, 2 layers, keys and values, 2 heads of 8: float32, or a byte each and a float32 scale for each head.
    block_bytes = 16 * 2 * 2 * 2 * (8 + 4 if dtype == "int8" else 8 * 4)
    options = {"kv_cache_bytes": 5 * block_bytes + 100, "kv_cache_dtype": dtype}
    config = resolve_config(options, CONFIG, dtype=torch.float32, device=CPU)
    assert (config.num_blocks, config.max_model_len) == (5, 80)
    cache = KVCache(CONFIG, config.num_blocks, config.block_tokens, config.cache_dtype, CPU)
    tensors = [tensor for layer in cache.layers for tensor in vars(layer).values() if tensor is not None]
    assert sum(tensor[0].nbytes for tensor in tensors) == block_bytes
    assert cache.padding_slot not in cache.slots(range(config.num_blocks), 0, 80)
    assert cache.slots([3, 1], 14, 18) == [62, 63, 16, 17]
    assert cache.table([3, 1], 16).tolist() == [3]


def test_every_setting_is_resolved_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settle(monkeypatch, 40 * GIB, max_num_seqs=4)
    assert set(config.reasons) == set(OPTIONS)
    assert config.reasons["max_num_seqs"] == "as given"
    assert all(reason for reason in config.reasons.values())
    assert len(config.describe()) == len(OPTIONS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.max_num_seqs = 5  # type: ignore[misc]


def test_a_small_machine_shortens_the_context_and_keeps_room_for_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settle(monkeypatch, 16 * GIB)
    work = workspace_bytes(PIXTRAL_12B, 512, 131072, 16, torch.bfloat16, drafted=DRAFTED_ON_CPU)
    assert config.kv_cache_bytes + config.image_cache_bytes + work <= 8 * GIB
    assert config.max_model_len == config.num_blocks * 16 < 131072
    assert config.reasons["max_model_len"] == "what the key/value cache holds"
    roomy = settle(monkeypatch, 200 * GIB, max_num_seqs=1)
    assert (roomy.max_model_len, roomy.kv_cache_bytes) == (131072, 20 * GIB)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_model_length": 5}, "'max_model_length' is unknown; the nearest known one is 'max_model_len'"),
        ({"block_tokens": 20}, "block_tokens is 20; use 16 or 32"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype is 'fp8' and the model computes in float32; use 'auto'"),
        ({"cuda_graphs": True}, "cuda_graphs is true and the device is cpu"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0; use a whole number of at least 1"),
        ({"max_num_seqs": True}, "max_num_seqs is True"),
        ({"max_num_seqs": "4"}, "max_num_seqs is '4'"),
        ({"enable_prefix_caching": 1}, "enable_prefix_caching is 1; use true, false"),
        ({"num_speculative_tokens": -1}, "num_speculative_tokens is -1; use a whole number of at least 0"),
        ({"prompt_lookup_min": 9, "prompt_lookup_max": 3}, "prompt_lookup_min=9 exceeds prompt_lookup_max=3"),
        ({"prompt_lookup_max": 4, "num_speculative_tokens": 0}, "prompt_lookup_max is given and num_speculative_tok"),
        ({"max_num_seqs": 9, "max_num_batched_tokens": 8}, "max_num_batched_tokens=8 is less than max_num_seqs=9"),
        ({"max_model_len": 600}, "max_model_len is 600; the model was trained for 512"),
        ({"max_model_len": 512, "kv_cache_bytes": 5 * BLOCK_BYTES}, "max_model_len=512 tokens need"),
        ({"kv_cache_bytes": 1}, "kv_cache_bytes gives 0 MiB"),
    ],
)
def test_wrong_settings_are_refused_by_name(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError) as error:
        resolve_config(options, CONFIG, dtype=torch.float32, device=CPU)
    assert sentence in str(error.value)


def test_what_the_largest_steps_took_is_kept_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "available_bytes", lambda device: 4 * 2**20)
    asked: list[StepSize] = []

    def settle(took: int) -> EngineConfig:
        options = {"max_num_seqs": 4000, "max_num_batched_tokens": 5000, "kv_cache_dtype": "int8"}
        measure = lambda size: asked.append(size) or took  # noqa: E731
        return resolve_config(options, CONFIG, dtype=torch.float32, device=CPU, measure=measure)

    less, more = settle(2**20), settle(2**20 + 4096)
    assert less.kv_cache_bytes - more.kv_cache_bytes == 4096
    assert asked[0] == StepSize(5000, 512, 4000, DRAFTED_ON_CPU, 16, torch.int8)


def test_processes_that_share_a_model_share_a_computers_memory_and_have_no_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(config_module, "available_bytes", lambda device: 40 * GIB)
    monkeypatch.setattr(config_module, "total_bytes", lambda device: 80 * GIB)

    def settle(device: str, ranks: int, **options: object) -> EngineConfig:
        return resolve_config(options, PIXTRAL_12B, dtype=torch.bfloat16, device=torch.device(device), ranks=ranks)

    alone, shared = settle("cpu", 1), settle("cpu", 4)
    assert alone.kv_cache_bytes - shared.kv_cache_bytes + alone.image_cache_bytes - shared.image_cache_bytes == 15 * GIB
    alone, shared = settle("cuda", 1), settle("cuda", 4, cuda_graphs="auto")
    assert (alone.kv_cache_bytes, alone.cuda_graphs) == (shared.kv_cache_bytes, True)
    assert not shared.cuda_graphs
    assert shared.reasons["cuda_graphs"] == "several processes share the model"
    with pytest.raises(UsageError, match="cuda_graphs is true and several processes share the model; leave it out"):
        settle("cuda", 4, cuda_graphs=True)


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < config_module.available_bytes(CPU) < 2**46


def test_the_share_of_a_gpu_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of CUDA is called: what a GPU of 1 GiB would say stands in for it."""
    gib = 2**30
    monkeypatch.setattr(config_module, "CUDA_BYTES", 0)
    monkeypatch.setattr(config_module, "available_bytes", lambda device: gib)
    monkeypatch.setattr(config_module, "total_bytes", lambda device: gib)
    monkeypatch.setattr(config_module, "taken_bytes", lambda device: gib // 4)
    options: dict[str, object] = {"max_num_seqs": 4000, "max_num_batched_tokens": 4000}

    def settle(**others: object) -> EngineConfig:
        return resolve_config({**options, **others}, CONFIG, dtype=torch.float32, device=torch.device("cuda"))

    half, more = settle(gpu_memory_utilization=0.5), settle(gpu_memory_utilization=0.6)
    assert more.kv_cache_bytes - half.kv_cache_bytes == pytest.approx(0.1 * gib, abs=2)
    assert half.kv_cache_bytes < gib // 4
    assert "0.5 of the GPU's 1024 MiB" in half.reasons["kv_cache_bytes"]
    for wrong in (0, 1.5, "x", True):
        with pytest.raises(UsageError, match="gpu_memory_utilization"):
            settle(gpu_memory_utilization=wrong)
