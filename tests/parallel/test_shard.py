"""Two ranks, or four, give what the whole model gives, whatever form its weights have; what cannot is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tessera.errors import UsageError
from tessera.kernels.packed_weight import dequantize, pack
from tessera.load import BUNDLED_FOLDER
from tessera.model.config import ModelConfig
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tessera.weights.convert import convert
from tests.engine.tiny import CONFIG, SCALED, dense_logits, prompt, random_image
from tests.loading import load_model
from tests.parallel.ranks import DIVISIBLE, on_ranks, random_model, together
from tests.weights.checkpoints import edit_json, edit_tensors

GIVEN = prompt("What is ", random_image(1, 3, 5), " and ", random_image(2, 2, 2), "?")
# Partial sums are added in another order: float32 rounding of logits of order 10, measured 2e-5. The integer kernels
# round inputs to 8 bits, and each that then falls to the other side moves by a 127th of its group's largest; on
# nano, logits moved by up to 0.09.
BOUNDS = {None: 1e-4, "int8": 0.25, "int4": 0.25, "int3": 0.5, "fp8": 1e-3}


@pytest.mark.parametrize("scheme", BOUNDS)
def test_two_ranks_equal_one(scheme: str | None) -> None:
    check_two_ranks(random_model(DIVISIBLE, scheme), BOUNDS[scheme])


def test_two_ranks_equal_one_where_queries_are_scaled() -> None:
    model = random_model(replace(DIVISIBLE, yarn=SCALED.yarn, llama_4_scaling=SCALED.llama_4_scaling))
    check_two_ranks(model, BOUNDS[None])


def test_two_ranks_equal_one_where_the_head_is_the_embeddings(tmp_path: Path) -> None:
    """Read as loading reads it: the head keeps its share of the vocabulary, the embeddings stay whole."""
    convert(BUNDLED_FOLDER, tmp_path / "own", "hf")
    weights = tmp_path / "own" / "model.safetensors"
    edit_tensors(weights, **{"language_model.lm_head.weight": None})
    edit_json(tmp_path / "own" / "config.json", tie_word_embeddings=True)
    whole = load_model(tmp_path / "own", device="cpu", dtype="float32").model
    assert whole.output.weight is whole.tok_embeddings.weight
    given = prompt("What is the total?")
    with torch.no_grad():
        expected = dense_logits(whole, given)
    parts = [load_model(tmp_path / "own", device="cpu", rank=rank, tensor_parallel_size=2) for rank in range(2)]
    first, second = together([(part.model, part.shard) for part in parts], lambda part: dense_logits(part, given))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, atol=BOUNDS[None], rtol=0)


def check_two_ranks(model: Pixtral, bound: float) -> None:
    with torch.no_grad():
        expected = dense_logits(model, GIVEN)
    first, second = on_ranks(model, 2, lambda part: dense_logits(part, GIVEN))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected, atol=bound, rtol=0)


@pytest.mark.parametrize("options", [None, Options("4", "8", "8"), Options("8", "8")], ids=str)
def test_nano_read_in_two_shares_writes_what_it_writes_whole(options: Options | None, tmp_path: Path) -> None:
    folder = BUNDLED_FOLDER
    if options is not None:
        folder = tmp_path / "quantized"
        quantize(BUNDLED_FOLDER, folder, options)
    given, ids = prompt("What is the total?", " of this " * 4), []
    bound = BOUNDS[None if options is None else "int4"]
    with torch.no_grad():
        whole = load_model(folder, device="cpu").model
        for _ in range(12):
            logits_TV = dense_logits(whole, given, ids)
            ids.append(int(logits_TV[-1].argmax()))
    parts = [load_model(folder, device="cpu", rank=rank, tensor_parallel_size=2) for rank in range(2)]
    best, second = logits_TV.topk(2).values.unbind(-1)
    clear_T = best - second > 2 * bound
    assert clear_T.sum() > len(clear_T) / 2
    for made_TV in together([(part.model, part.shard) for part in parts], lambda p: dense_logits(p, given, ids[:-1])):
        torch.testing.assert_close(made_TV, logits_TV, atol=bound, rtol=0)
        assert torch.equal(made_TV.argmax(-1)[clear_T], logits_TV.argmax(-1)[clear_T])


@pytest.mark.parametrize("config", [CONFIG, DIVISIBLE, replace(DIVISIBLE, n_kv_heads=1)])
@pytest.mark.parametrize("size", [2, 4])
def test_heads_that_are_fewer_than_ranks_and_vocabularies_that_do_not_divide_are_repeated(
    config: ModelConfig, size: int
) -> None:
    config = replace(config, vision_encoder=replace(config.vision_encoder, num_attention_heads=4))
    model = random_model(config)
    with torch.no_grad():
        expected = dense_logits(model, GIVEN)
    for made in on_ranks(model, size, lambda part: dense_logits(part, GIVEN)):
        torch.testing.assert_close(made, expected, atol=BOUNDS[None], rtol=0)


def test_one_rank_has_the_very_weights() -> None:
    shard = Shard(DIVISIBLE, 0, 1)
    weight, name = torch.zeros(64, 64), "layers.0.attention.wo"
    packed = pack(torch.zeros(64, 64, dtype=torch.uint8), torch.ones(64, 2).half(), bits=8)
    assert shard.shard(f"{name}.weight", weight) is weight
    assert shard.shard_quantized(name, packed) is packed


def test_the_example_of_the_docstring() -> None:
    config = replace(DIVISIBLE, n_heads=32, n_kv_heads=8, head_dim=128, vision_encoder=replace(
        DIVISIBLE.vision_encoder, num_attention_heads=16))  # fmt: skip
    assert Shard(config, 1, 2).rows("layers.0.attention.wk", 1024) == range(512, 1024)
    for rank in (2, 3):
        assert Shard(config, rank, 16).rows("layers.3.attention.wv", 1024) == range(128, 256)


@pytest.mark.parametrize("supers", [False, True])
def test_parts_of_a_packed_weight_are_parts_of_its_matrix(supers: bool) -> None:
    config = replace(DIVISIBLE, hidden_dim=512)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (64, 512), generator=generator, dtype=torch.uint8)
    if supers:
        scales, minimums = (torch.randint(0, 64, (64, 16), generator=generator, dtype=torch.uint8) for _ in range(2))
        over = {name: torch.rand(64, 2, generator=generator).half() for name in ("super_scales", "super_minimums")}
    else:
        scales, minimums = (torch.rand(64, 16, generator=generator).half() for _ in range(2))
        over = {}
    whole = pack(codes, scales, minimums, bits=4, **over)
    matrix = dequantize(whole)
    for rank in range(2):
        shard = Shard(config, rank, 2)
        w2 = shard.shard_quantized("layers.0.feed_forward.w2", whole)
        assert torch.equal(dequantize(w2), matrix[:, rank * 256 : (rank + 1) * 256])
        w1 = shard.shard_quantized("layers.0.feed_forward.w1", whole)
        assert torch.equal(dequantize(w1), matrix[rank * 32 : (rank + 1) * 32])
        assert shard.shard_quantized("patch_merger.merging_layer", whole) is whole


@pytest.mark.parametrize(
    ("changes", "size", "says"),
    [
        ({}, 3, "n_heads of this model is 4"),
        ({"hidden_dim": 130}, 4, "hidden_dim of this model is 130"),
        ({"n_heads": 12, "n_kv_heads": 3}, 2, "3 key/value heads can be neither split nor repeated"),
        ({"n_heads": 8}, 8, "the vision encoder's num_attention_heads of this model is 4"),
    ],
)
def test_a_model_that_does_not_divide_is_refused(changes: dict[str, int], size: int, says: str) -> None:
    with pytest.raises(UsageError, match=f"tensor_parallel_size is {size}.*{says}"):
        Shard(replace(DIVISIBLE, **changes), 0, size)


def test_a_packed_weight_that_does_not_divide_is_refused_by_name() -> None:
    model = random_model(CONFIG)
    shard = Shard(model.config, 0, 2)
    weight = pack(torch.zeros(32, 32, dtype=torch.uint8), torch.ones(32, 1).half(), bits=8)
    with pytest.raises(UsageError, match=r"layers.0.attention.wo is packed in 32 columns .* 16 of its columns"):
        shard.shard_quantized("layers.0.attention.wo", weight)
    with pytest.raises(UsageError, match=r"layers.1.attention.wk is packed in 16 rows .* 8 of its rows"):
        shard.shard_quantized("layers.1.attention.wk", weight)
