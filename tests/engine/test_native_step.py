"""The library's step: bit for bit the modules' results, on every path, and the modules' where it does not serve."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tessera.engine import native_step
from tessera.engine.config import resolve_config
from tessera.engine.engine import Engine
from tessera.engine.kv_cache import KVCache
from tessera.engine.native_step import NativeSteps, reason_for_modules, reason_for_plan
from tessera.engine.plans import PagedPlan
from tessera.kernels import skinny_linear
from tessera.kernels.decoder_step import DecoderStep
from tessera.kernels.library import PATHS, choice, forced
from tessera.kernels.low_rank import laid_out
from tessera.kernels.paged_attention import PagedChunk
from tessera.linears.quantized import QuantizedLinear, place
from tessera.linears.replace import Wrapper
from tessera.linears.replace import replace as replace_linear
from tessera.linears.slots import Routing, SlotLinear
from tessera.lora.peft import write_peft
from tessera.model.config import ModelConfig
from tessera.model.linear import Linear
from tessera.model.pixtral import Pixtral
from tessera.quantize.rounding import round_to
from tests.engine.tiny import CONFIG, SCALED, ByteTokenizer, prompt, reply, tiny_model
from tests.lora.adapters import random_adapter

KERNEL_PATHS = [path for path in PATHS[1:] if PATHS.index(path) <= PATHS.index(choice().path)]
HEADS = {"few": (4, 2, 32), "one-each": (3, 3, 64), "odd": (4, 2, 40)}  # query heads, key/value heads, width
LENGTHS = (1, 2, 9, 40)  # contexts before the new tokens, repeated for more sequences

pytestmark = pytest.mark.skipif(not KERNEL_PATHS, reason=f"no kernels: {choice().reason}")


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinny_linear, "LEAST_WEIGHTS", 1)


def model_of(heads: str, bits: int, config: ModelConfig = CONFIG, dim: int = 96) -> Pixtral:
    n_heads, n_kv_heads, head_dim = HEADS[heads]
    config = replace(config, dim=dim, hidden_dim=160, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim)
    model = tiny_model(config).bfloat16().requires_grad_(requires_grad=False)
    for name, module in list(model.layers.named_modules(prefix="layers")):
        if isinstance(module, nn.Linear) and bits < 16 and not name.endswith("w3"):  # both kinds in one layer
            place(model, name, round_to(f"int{bits}", module.weight.float()))
    return model


def cache_of(model: Pixtral, block_tokens: int = 16, dtype: torch.dtype = torch.bfloat16) -> KVCache:
    torch.manual_seed(1)
    cache = KVCache(model.config, 64, block_tokens, dtype, torch.device("cpu"))
    for layer in cache.layers:
        if dtype != torch.int8:
            layer.keys_BSMK.normal_(), layer.values_BSMK.normal_()
    return cache


def plan_of(cache: KVCache, lengths: Sequence[int], first: int = 0) -> PagedPlan:
    """One sequence for each length: that many new tokens after some others; blocks are scattered."""
    chunks, slots, positions, row = [], [], [], 0
    for number, length in enumerate(lengths):
        before = first + LENGTHS[number % len(LENGTHS)]
        context = before + length
        blocks = [(number + 17 * index) % 64 for index in range(-(-context // cache.block_tokens))]
        chunks.append(PagedChunk(row, length, context, cache.table(blocks, context)))
        slots += cache.slots(blocks, before, context)
        positions += range(before, context)
        row += length
    return PagedPlan(cache.layers, torch.tensor(positions), torch.tensor(slots), chunks)


def assert_equal_to_modules(model: Pixtral, lengths: Sequence[int], block_tokens: int = 16, first: int = 0) -> None:
    ours, theirs = cache_of(model, block_tokens), cache_of(model, block_tokens)
    plan = plan_of(ours, lengths, first)
    hidden_TD = torch.randn(sum(lengths), model.config.dim).bfloat16()
    before_TD = hidden_TD.clone()
    with torch.inference_mode():
        steps = NativeSteps(model)
        assert reason_for_plan(plan, hidden_TD) is None
        assert steps.reason_for(plan, hidden_TD) is None
        found_TD, expected_TD = steps(hidden_TD, plan)[0], model(hidden_TD, plan_of(theirs, lengths, first))
    assert torch.equal(found_TD, expected_TD)
    assert found_TD.isfinite().all()
    assert torch.equal(hidden_TD, before_TD)
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        assert torch.equal(mine.keys_BSMK, other.keys_BSMK)
        assert torch.equal(mine.values_BSMK, other.values_BSMK)


@pytest.mark.parametrize("bits", [3, 4, 8, 16])
@pytest.mark.parametrize("heads", HEADS)
def test_all_numbers_of_rows_have_the_modules_bits(heads: str, bits: int) -> None:
    model = model_of(heads, bits)
    for rows in (1, 2, 3, 5, 8, 16):
        assert_equal_to_modules(model, [1] * rows)


@pytest.mark.parametrize(("bits", "dim", "rows"), [(4, 96, 3), (16, 96, 3), (4, 2112, 16)])
def test_a_team_of_threads_has_the_same_bits(bits: int, dim: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With many wide rows the threads share the rounding of the inputs as well."""
    monkeypatch.setattr(native_step, "MOST_THREADS", 3)
    before = torch.get_num_threads()
    model = model_of("few", bits, dim=dim)
    torch.set_num_threads(3)  # more than some loops use
    try:
        assert_equal_to_modules(model, [1] * rows)
    finally:
        torch.set_num_threads(before)


def test_more_threads_than_were_measured_compute_by_the_modules() -> None:
    model = model_of("few", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(native_step.MOST_THREADS + 1)
    try:
        reason = reason_for_plan(plan_of(cache_of(model), [1]), torch.zeros(1, model.config.dim).bfloat16())
    finally:
        torch.set_num_threads(before)
    assert "threads" in str(reason)


@pytest.mark.parametrize("path", KERNEL_PATHS)
@pytest.mark.parametrize("bits", [4, 16])
def test_every_path_has_the_modules_bits(path: str, bits: int) -> None:
    model = model_of("few", bits)
    with forced(path):
        for rows in (1, 7):
            assert_equal_to_modules(model, [1] * rows)


@pytest.mark.parametrize("block_tokens", [16, 32])
@pytest.mark.parametrize("first", [0, 600], ids=["early", "late"])
def test_pages_positions_and_guessed_tokens(block_tokens: int, first: int) -> None:
    for config in (CONFIG, SCALED):
        model = model_of("few", 4, config)
        assert_equal_to_modules(model, [1, 4, 8, 2], block_tokens, first)


def test_a_sequence_may_change_between_both_ways() -> None:
    model = model_of("few", 4)
    ours, theirs = cache_of(model), cache_of(model)
    steps = NativeSteps(model)
    with torch.inference_mode():
        for step in range(4):
            hidden_TD = torch.randn(2, model.config.dim).bfloat16()
            plan = plan_of(ours, [1, 1], step)
            found_TD = steps(hidden_TD, plan)[0] if step % 2 else model(hidden_TD, plan)
            assert torch.equal(found_TD, model(hidden_TD, plan_of(theirs, [1, 1], step)))


def test_a_value_that_is_no_number_stays_in_its_row() -> None:
    model = model_of("few", 4)
    cache = cache_of(model)
    hidden_TD = torch.randn(3, model.config.dim).bfloat16()
    hidden_TD[1, 5] = float("nan")
    with torch.inference_mode():
        out_TD, _ = NativeSteps(model)(hidden_TD, plan_of(cache, [1, 1, 1]))
    assert out_TD[1].isnan().all()
    assert out_TD[[0, 2]].isfinite().all()


def test_the_modules_compute_what_the_step_does_not_serve() -> None:
    model = model_of("few", 4)
    plan = plan_of(cache_of(model), [1])
    hidden_TD = torch.randn(1, model.config.dim).bfloat16()
    with torch.inference_mode():
        assert reason_for_plan(plan, hidden_TD) is None
        assert "bfloat16" in str(reason_for_plan(plan, hidden_TD.float()))
        many = plan_of(cache_of(model), [1] * 17)
        assert "16 rows" in str(reason_for_plan(many, hidden_TD.expand(17, -1)))
        prompt = plan_of(cache_of(model), [1, 9])
        assert "many new tokens" in str(reason_for_plan(prompt, hidden_TD.expand(10, -1)))
    assert "gradients" in str(reason_for_plan(plan, hidden_TD))
    assert "cache" in str(reason_for_modules(model, plan_of(cache_of(model, dtype=torch.int8), [1])))
    with forced("torch"):
        assert "cache" in str(reason_for_modules(model, plan))
    wrapped = copy.deepcopy(model)
    routing = Routing()
    wrapped.layers[1].attention.wv = SlotLinear(model.layers[1].attention.wv, routing)  # type: ignore[union-attr]
    assert "wv is a SlotLinear" in str(reason_for_modules(wrapped, plan))  # whose rows have adapters is not known
    assert reason_for_modules(wrapped, plan, routing) is None
    wrapped.layers[1].attention.wv = Wrapper(model.layers[1].attention.wv)  # type: ignore[union-attr]
    assert "wv is a Wrapper" in str(reason_for_modules(wrapped, plan, routing))
    assert "norm" in str(reason_for_modules(copy.deepcopy(model).float(), plan))


@pytest.mark.parametrize("bits", [4, 16])
def test_adapters_in_slots_have_the_modules_bits(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two adapters and the base; then a slot gets other weights, and then no adapter is asked for."""
    model, routing, ran = model_of("few", bits), Routing(), []
    linears = {n: m for n, m in model.layers.named_modules(prefix="layers") if isinstance(m, Linear | QuantizedLinear)}
    for number, (name, module) in enumerate(linears.items()):
        wrapped = SlotLinear(module, routing)
        for slot, rank in ((0, 3), (2, 8)):
            a_RK, b_NR = (
                torch.randn(*size).bfloat16() for size in ((rank, module.in_features), (module.out_features, rank))
            )
            if number % 3:  # some linears are not changed
                wrapped.slots[slot] = a_RK, laid_out(b_NR), 0.5
        replace_linear(model, name, wrapped)
    steps, run_step = NativeSteps(model, routing), DecoderStep.run
    monkeypatch.setattr(DecoderStep, "run", lambda *given, **more: ran.append(1) or run_step(*given, **more))
    hidden_TD, seen = torch.randn(6, model.config.dim).bfloat16(), []
    for stretches in (((2, 0, 2), (0, 3, 5)), ((0, 0, 6),), ((9, 0, 1), (2, 1, 2), (0, 2, 3), (2, 3, 6)), ()):
        routing.stretches = stretches
        ours, theirs = cache_of(model), cache_of(model)
        with torch.inference_mode():
            found_TD, _ = steps(hidden_TD, plan_of(ours, [1, 2, 3]))
            assert torch.equal(found_TD, model(hidden_TD, plan_of(theirs, [1, 2, 3])))
        assert torch.equal(ours.layers[1].values_BSMK, theirs.layers[1].values_BSMK)
        seen.append(found_TD)
        if len(seen) == 2:
            for name in linears:
                model.get_submodule(name).slots.pop(0, None)
            routing.changes += 1
    assert len(ran) == 4
    assert not torch.equal(seen[0], seen[3])


def test_small_plain_weights_are_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skinny_linear, "LEAST_WEIGHTS", 2**19)
    model = model_of("few", 16)
    plan = plan_of(cache_of(model), [1])
    assert "wq is a Linear" in str(reason_for_modules(model, plan))
    hidden_TD = torch.randn(1, model.config.dim).bfloat16()
    with torch.inference_mode():
        assert torch.equal(NativeSteps(model)(hidden_TD, plan)[0], model(hidden_TD, plan))


def with_repeats(model: Pixtral, bits: int, rows: int = 5000, repeats: int = 53) -> Tensor:
    """Give the model a head in which each row comes again every `repeats`: all logits tie. Returns penalties."""
    head = Linear(model.config.dim, rows, bias=False).bfloat16().requires_grad_(requires_grad=False)
    head.weight.copy_(torch.randn(repeats, model.config.dim).repeat(-(-rows // repeats), 1)[:rows])
    model.output = head
    if bits < 16:
        place(model, "output", round_to(f"int{bits}", head.weight.float()))
    penalties_V = torch.zeros(rows).bfloat16()
    penalties_V[: 2 * repeats : 2] = penalties_V[rows - 9 :] = -torch.inf
    return penalties_V


@pytest.mark.parametrize("path", KERNEL_PATHS)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_likeliest_id_is_torch_s_also_of_equal_ones(path: str, bits: int) -> None:
    model = model_of("few", 4)
    cache = cache_of(model)
    with forced(path), torch.inference_mode():
        penalties_V = with_repeats(model, bits)
        for rows in (1, 3, 16):
            hidden_TD = torch.randn(rows, model.config.dim).bfloat16()
            out_TD, ids = NativeSteps(model)(hidden_TD, plan_of(cache, [1] * rows), penalties_V)
            assert ids == (model.logits(out_TD) + penalties_V).argmax(-1).tolist()
            assert max(ids) < 2 * 53


def test_a_team_finds_the_likeliest_id_of_all_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of three threads has the only likeliest id once, and the lowest of equal ones is in the first part."""
    monkeypatch.setattr(native_step, "MOST_THREADS", 3)
    model = model_of("few", 16)
    cache, rows = cache_of(model), 9
    penalties_V = with_repeats(model, 16, rows=20_011, repeats=1)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.inference_mode():
            hidden_TD = torch.randn(rows, model.config.dim).bfloat16()
            for allowed in ([7], [9000], [20_001], [9001, 20_001], [3, 9000]):
                penalties_V.fill_(-torch.inf)[allowed] = 0
                ids = NativeSteps(model)(hidden_TD, plan_of(cache, [1] * rows), penalties_V)[1]
                assert ids == [allowed[0]] * rows
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("place_of", [3, 4999], ids=["in-a-vector", "at-the-end"])
def test_no_id_is_chosen_where_a_logit_is_not_finite(bad: float, place_of: int) -> None:
    model = model_of("few", 4)
    penalties_V = with_repeats(model, 16)
    weight = model.output.get_parameter("weight")
    with torch.inference_mode():
        hidden_TD, plan = torch.randn(2, model.config.dim).bfloat16(), plan_of(cache_of(model), [1, 1])
        assert NativeSteps(model)(hidden_TD, plan, penalties_V)[1] is not None
        penalties_V[place_of] = -torch.inf  # it counts even where it is never chosen
        weight[place_of] = 0
        weight[place_of, 0] = bad
        assert NativeSteps(model)(hidden_TD, plan, penalties_V)[1] is None
        weight[place_of] = 0
        assert NativeSteps(model)(hidden_TD, plan, penalties_V.fill_(-torch.inf))[1] is None


@pytest.mark.parametrize(
    ("wanted", "chooses"),
    [({}, True), ({"logprobs": 1}, False), ({"min_tokens": 4}, True), ({"logit_bias": {50: 9.0}}, False)],
    ids=["greedy", "logprobs", "min_tokens", "bias"],
)
def test_the_step_chooses_only_for_greedy_requests(
    wanted: dict[str, Any], chooses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("few", 4)
    chosen: list[int] = []
    run_step = DecoderStep.run

    def counted(step: DecoderStep, *arguments: Any, **more: Any) -> tuple[Tensor, list[int]]:
        out = run_step(step, *arguments, **more)
        chosen.extend(out[1])
        return out

    def replies() -> tuple[int, ...]:
        config = resolve_config({"kv_cache_bytes": 2**20}, model.config, dtype=torch.bfloat16, device=model.device)
        engine = Engine(model, ByteTokenizer(), config)
        return reply(engine, prompt("a page"), max_tokens=12, ignore_eos=True, **wanted).token_ids

    monkeypatch.setattr(DecoderStep, "run", counted)
    by_step = replies()
    assert len(chosen) >= (11 - wanted.get("min_tokens", 0) if chooses else 0)
    assert bool(chosen) == chooses
    monkeypatch.setattr(native_step, "MOST_THREADS", 0)
    assert replies() == by_step


def test_steps_of_an_engine_with_slots_are_the_library_s_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    run_step = DecoderStep.run

    def counted(step: DecoderStep, hidden_TD: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, list[int]]:
        ran.append(len(hidden_TD))
        return run_step(step, hidden_TD, *rest, **more)

    def engine_of(**options: object) -> Engine:
        model = model_of("few", 4)
        config = resolve_config(
            {"kv_cache_bytes": 2**20, **options}, model.config, dtype=torch.bfloat16, device=model.device
        )
        return Engine(model, ByteTokenizer(), config)

    wanted = {"max_tokens": 6, "ignore_eos": True}
    plain = reply(engine_of(), prompt("a page"), **wanted).token_ids
    monkeypatch.setattr(DecoderStep, "run", counted)
    engine = engine_of(max_loras=1)
    assert reply(engine, prompt("a page"), **wanted).token_ids == plain
    assert len(ran) >= 5
    ran.clear()
    adapter = random_adapter(engine.model.config, lambda name: name.startswith("layers."), scale=3.0)
    write_peft(adapter, tmp_path / "one", engine.model.config)
    engine.adapters.load("one", tmp_path / "one")
    adapted = reply(engine, prompt("a page"), adapter="one", **wanted).token_ids
    assert adapted != plain
    assert len(ran) >= 5
    monkeypatch.setattr(native_step, "MOST_THREADS", 0)
    assert reply(engine, prompt("a page"), adapter="one", **wanted).token_ids == adapted


def test_an_engine_takes_the_step_and_replies_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("few", 4)
    ran: list[int] = []
    run_step = DecoderStep.run

    def counted(step: DecoderStep, hidden_TD: Tensor, *rest: Any, **more: Any) -> tuple[Tensor, list[int]]:
        ran.append(len(hidden_TD))
        return run_step(step, hidden_TD, *rest, **more)

    def replies() -> tuple[int, ...]:
        config = resolve_config({"kv_cache_bytes": 2**20}, model.config, dtype=torch.bfloat16, device=model.device)
        return reply(Engine(model, ByteTokenizer(), config), prompt("a page"), max_tokens=12, ignore_eos=True).token_ids

    monkeypatch.setattr(DecoderStep, "run", counted)
    by_step, steps = replies(), len(ran)
    monkeypatch.setattr(native_step, "MOST_THREADS", 0)
    assert replies() == by_step
    assert len(ran) == steps >= len(by_step) - 1
