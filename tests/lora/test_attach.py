"""An adapter beside a model's linears: plain, quantized or shared by ranks, in training and out of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tessera.errors import UsageError
from tessera.linears.lora import LoraLinear
from tessera.lora.adapter import LoraAdapter
from tessera.lora.attach import attach, attached
from tessera.model.attention import DensePlan
from tessera.model.pixtral import Pixtral
from tessera.parallel.shard import Shard
from tests.lora.adapters import random_adapter
from tests.parallel.ranks import DIVISIBLE, cut, random_model, together

IDS = torch.tensor([1, *[10] * 4, 13, 50, 51])
IMAGE = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))


def logits(model: Pixtral) -> Tensor:
    hidden = model.embed(IDS, model.encode_images([IMAGE]))
    return model.logits(model(hidden, DensePlan([len(IDS)])))


def changed(model: Pixtral, adapter: LoraAdapter) -> Pixtral:
    """The plain model with the adapter added to its weights."""
    for name, module in adapter.modules.items():
        weight = model.get_submodule(name).get_parameter("weight")
        weight.data += module.scale * (module.b_NR.double() @ module.a_RK.double()).float()
    return model


@torch.no_grad()
def test_it_computes_what_the_changed_weights_do() -> None:
    adapter = random_adapter(DIVISIBLE)
    model = random_model()
    plain, expected = logits(model), logits(changed(random_model(), adapter))
    attach(model, adapter)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert (plain - expected).abs().max() > 0.1
    assert attached(model).digest == adapter.digest
    with pytest.raises(UsageError, match="already"):
        attach(model, adapter)


@torch.no_grad()
def test_ranks_share_it_as_they_share_the_linears() -> None:
    adapter = random_adapter(DIVISIBLE)
    expected = logits(changed(random_model(), adapter))
    parts = []
    for rank in range(2):
        shard = Shard(DIVISIBLE, rank, 2)
        part = cut(random_model(), shard)
        attach(part, adapter, shard)
        parts.append((part, shard))
    for found in together(parts, logits):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("scheme", [None, "int4", "int8", "fp8"])
def test_every_matrix_gets_a_gradient_and_no_weight_does(scheme: str | None) -> None:
    model = random_model(scheme=scheme)
    adapter = random_adapter(DIVISIBLE)
    attach(model, adapter, trainable=True)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert {name.rpartition(".lora_")[0] for name in names} == set(adapter.modules)
    assert len(names) == 60
    logits(model)[-1].logsumexp(0).backward()
    assert all(model.get_parameter(name).grad.abs().max() > 0 for name in names)  # type: ignore[union-attr]
    assert not any(parameter.grad is not None for name, parameter in model.named_parameters() if name not in names)


def test_the_gradient_is_that_of_the_changed_weights() -> None:
    """Of W + s B A: dA = s B' dW and dB = s dW A', with dW from autograd over the changed weight."""
    name = "layers.0.feed_forward.w1"
    adapter = random_adapter(DIVISIBLE, lambda each: each == name)
    model = random_model()
    attach(model, adapter, trainable=True)
    logits(model)[-1].logsumexp(0).backward()
    whole = changed(random_model(), adapter)
    weight = whole.get_submodule(name).get_parameter("weight").requires_grad_()
    logits(whole)[-1].logsumexp(0).backward()
    assert weight.grad is not None
    module, linear = adapter.modules[name], model.get_submodule(name)
    assert isinstance(linear, LoraLinear)
    for found, expected in (
        (linear.lora_A.weight.grad, module.scale * module.b_NR.T @ weight.grad),
        (linear.lora_B.weight.grad, module.scale * weight.grad @ module.a_RK.T),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_it_moves_to_another_dtype_with_the_model() -> None:
    model = random_model(scheme="int8")
    attach(model, random_adapter(DIVISIBLE))
    before = logits(model)
    model.bfloat16()
    linear = model.get_submodule("layers.0.attention.wo")
    assert isinstance(linear, LoraLinear)
    assert linear.lora_A.weight.dtype == torch.bfloat16
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0.1 * float(before.abs().max()))
