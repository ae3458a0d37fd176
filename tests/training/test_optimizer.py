"""Groups are stepped at their own rates, narrow weights follow float32 masters, a resumed optimizer is the same."""

from __future__ import annotations

import torch
from torch import nn

from tessera.training.average import WeightAverage
from tessera.training.checkpoint import load_checkpoint, save_checkpoint
from tessera.training.loop import training_steps
from tessera.training.optimizer import MasterOptimizer, ParameterGroup, learning_rate_at


def small_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.ModuleDict({"first": nn.Linear(6, 6), "second": nn.Linear(6, 2)}).to(dtype)


def groups_of(model: nn.Module) -> list[ParameterGroup]:
    named = list(model.named_parameters())
    return [ParameterGroup.of(name, [(n, p) for n, p in named if n.startswith(name)]) for name in ("first", "second")]


def descend(model: nn.Module, optimizer: MasterOptimizer, rates: dict[str, float], steps: int) -> None:
    for step in range(steps):
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        inputs = inputs.to(next(model.parameters()).dtype)
        model["second"](model["first"](inputs)).pow(2).mean().backward()
        optimizer.step(rates)


def test_a_group_without_a_rate_stays_as_it_is() -> None:
    model = small_model()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    descend(model, MasterOptimizer(groups_of(model)), {"first": 0.0, "second": 1e-2}, 3)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("first")


def test_tables_are_not_stepped_as_matrices() -> None:
    group = ParameterGroup.of("all", small_model().named_parameters(), tables=("second",))
    assert list(group.matrices) == ["first.weight"]
    assert sorted(group.others) == ["first.bias", "second.bias", "second.weight"]


def test_updates_below_the_narrow_dtypes_resolution_add_up() -> None:
    model = small_model(torch.bfloat16)
    optimizer = MasterOptimizer(groups_of(model))
    weight = model["first"].bias
    with torch.no_grad():
        weight.fill_(1.0)
        optimizer.masters["first.bias"].fill_(1.0)
    rate = 2.0**-11  # a quarter of bfloat16's step at 1
    for _ in range(8):
        weight.grad = torch.ones_like(weight)
        optimizer.step({"first": rate})
    # AdamW's update of a constant gradient is the rate itself; eight add up to two steps of bfloat16.
    assert torch.equal(weight, torch.full_like(weight, 1 - 8 * rate))


def test_a_resumed_optimizer_continues_exactly(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rates = {"first": 1e-2, "second": 5e-3}
    whole = small_model()
    optimizer = MasterOptimizer(groups_of(whole))
    descend(whole, optimizer, rates, 4)
    save_checkpoint(tmp_path / "run", optimizer.state_tensors(), 4)
    descend(whole, optimizer, rates, 3)
    resumed = small_model()
    other = MasterOptimizer(groups_of(resumed))
    tensors, step = load_checkpoint(tmp_path / "run")
    other.load_state_tensors(tensors)
    descend(resumed, other, rates, 3)
    assert step == 4
    for one, two in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_gradient_is_clipped_over_all_stepped_groups() -> None:
    model = small_model()
    optimizer = MasterOptimizer(groups_of(model), clip_norm=1.0)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert abs(optimizer.step({"first": 1e-3, "second": 1e-3}) - 2 * numbers**0.5) < 1e-3


def test_a_step_averages_the_gradients_of_its_batches() -> None:
    def run(batches: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        model = small_model()

        class Loss:
            def __init__(self, inputs: torch.Tensor) -> None:
                self.loss = model["second"](model["first"](inputs)).pow(2).mean()

        records = training_steps(MasterOptimizer(groups_of(model)), batches, Loss, lambda step: {"first": 1e-2 * step})
        assert [record.step for record in records] == list(range(len(batches)))
        return [parameter.detach() for parameter in model.parameters()]

    inputs = torch.randn(8, 6)
    for one, two in zip(run([[inputs]] * 2), run([[inputs[:4], inputs[4:]]] * 2), strict=True):
        torch.testing.assert_close(one, two)


def test_the_average_follows_the_masters() -> None:
    masters = {"a": torch.zeros(2)}
    average = WeightAverage(masters, decay=0.5)
    masters["a"].fill_(1.0)
    average.update(masters)
    average.update(masters)
    assert torch.equal(average.tensors["a"], torch.full((2,), 0.75))
    other = WeightAverage({"a": torch.ones(2)}, decay=0.5)
    other.load_state_tensors(average.state_tensors())
    assert torch.equal(other.tensors["a"], average.tensors["a"])


def test_learning_rate_warms_up_stays_and_falls() -> None:
    rates = [learning_rate_at(step, 100, 1.0, warmup=10, fall=0.5) for step in (0, 9, 10, 50, 75, 99)]
    assert rates == [0.1, 1.0, 1.0, 1.0, 0.5, 0.02]


def test_a_batch_that_teaches_nothing_is_passed_over() -> None:
    model = small_model()

    class Nothing:
        loss = torch.zeros(())

    (record,) = training_steps(
        MasterOptimizer(groups_of(model)), [[None]], lambda _: Nothing(), lambda _: {"first": 0.1}
    )
    assert record.norm == 0
