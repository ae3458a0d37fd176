"""What stands around or in place of a linear changes no tensor's name, and no tensor is held beside the module."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tessera.linears.parallel import parallelize
from tessera.linears.quantized import PLAIN, QuantizedLinear, count_weights, place
from tessera.linears.replace import Wrapper, innermost, product, replace
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tessera.quantize.rounding import round_to
from tests.parallel.ranks import DIVISIBLE, cut, random_model

WO = "layers.0.attention.wo"


class Adapted(Wrapper):
    """What an adapter will be: tensors of its own beside the linear's."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.adapter = nn.Linear(64, 64, bias=False)

    def product(self, inputs: Tensor) -> Tensor:
        return product(self.base, inputs) + self.adapter(inputs)


class Alone:
    """A group of one rank that was told it is one of two."""

    size = 2

    def all_reduce(self, partial: Tensor) -> Tensor:
        return partial

    def all_gather(self, part: Tensor) -> Tensor:
        return part


def parallel(scheme: str | None) -> tuple[Pixtral, Pixtral]:
    """A rank's model before and after it is joined."""
    shard = Shard(DIVISIBLE, 0, 2)
    part = cut(random_model(DIVISIBLE, scheme), shard)
    joined = copy.deepcopy(part)
    parallelize(joined, shard, Alone())  # type: ignore[arg-type]
    return part, joined


@pytest.mark.parametrize("scheme", [None, "int4", "fp8"])
def test_a_rank_s_tensors_keep_their_official_names(scheme: str | None) -> None:
    part, joined = parallel(scheme)
    assert isinstance(joined.get_submodule(WO), Wrapper)
    before, after = part.state_dict(), joined.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (f"{WO}.weight" in after) == (scheme is None)
    assert count_weights(joined) == count_weights(part)
    assert count_weights(joined).total() == count_weights(parallel(None)[0]).total()


@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8"])
def test_a_quantized_weight_is_among_the_model_s_tensors(scheme: str) -> None:
    model = random_model(DIVISIBLE, scheme)
    linear = model.get_submodule(WO)
    assert isinstance(linear, QuantizedLinear)
    held = {f"{WO}.{name}": tensor for name, tensor in linear.quantized.tensors.items()}
    assert held.keys() <= model.state_dict().keys()
    assert sum(buffer.nbytes for buffer in linear.buffers()) == linear.quantized.nbytes
    assert count_weights(model)[scheme] > count_weights(model)[PLAIN]


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("scheme", ["int4", "fp8"])
def test_what_is_loaded_is_computed_with(scheme: str, wrapped: bool, assign: bool) -> None:
    def quantized(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 64))
        place(model, "0", round_to(scheme, torch.randn(64, 64)))
        if wrapped:
            replace(model, "0", Adapted(model[0]))
        return model

    first, second, inputs = quantized(1), quantized(2), torch.randn(3, 64)
    assert not torch.equal(first(inputs), second(inputs))
    first.load_state_dict(second.state_dict(), assign=assign)
    assert torch.equal(first(inputs), second(inputs))


@pytest.mark.parametrize("scheme", [None, "int4", "fp8"])
def test_a_wrapped_linear_moves_and_is_set_with_its_wrapper(scheme: str | None) -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    model[0].requires_grad_(False)
    if scheme is not None:
        place(model, "0", round_to(scheme, model[0].weight.detach()))
    replace(model, "0", Adapted(model[0]))
    inputs = torch.randn(2, 64)
    expected = model(inputs)
    base = innermost(model[0])
    dtypes = [buffer.dtype for buffer in base.buffers()]
    assert [name for name, _ in model.named_parameters() if "adapter" not in name][-1] == "0.bias"
    half = copy.deepcopy(model).bfloat16()
    assert half(inputs.bfloat16()).dtype == torch.bfloat16
    torch.testing.assert_close(half(inputs.bfloat16()).float(), expected, rtol=0, atol=0.1)
    assert [buffer.dtype for buffer in half.buffers()] == dtypes
    model[0].bias = nn.Parameter(torch.full((64,), 5.0), requires_grad=False)
    assert base.bias is model[0].bias


@pytest.mark.parametrize("scheme", ["int4", "int8", "fp8"])
def test_an_adapter_around_a_quantized_linear_can_be_trained(scheme: str) -> None:
    """Also the one below it, whose gradient passes the quantized weight."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)).requires_grad_(False)
    for name in ("0", "1"):
        place(model, name, round_to(scheme, model.get_submodule(name).weight))
        replace(model, name, Adapted(model.get_submodule(name)))
    model(torch.randn(3, 64)).sum().backward()
    assert {name for name, each in model.named_parameters() if each.grad is not None} == {
        "0.adapter.weight",
        "1.adapter.weight",
    }
