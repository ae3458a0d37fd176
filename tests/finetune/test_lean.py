"""Lean layers beside autograd's own: the same losses and gradients, in less memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tessera.finetune.lean import is_lean, lean_blocks
from tessera.finetune.loss import checkpoint_blocks
from tessera.finetune.memory import estimate
from tessera.finetune.packing import packs
from tessera.finetune.settings import Settings
from tessera.finetune.trained import new_adapter, quantize_base
from tessera.lora.attach import attach
from tessera.model.attention import DensePlan
from tessera.model.pixtral import Pixtral
from tests.engine.tiny import CONFIG, SCALED, tiny_model
from tests.finetune.test_loss import descend, mixed, sample

TARGETS = {"all": (), "attention": ("wq", "wv", "wo"), "feed-forward": ("w2", "w3"), "query": ("wq",)}


def adapted(targets: tuple[str, ...] = (), *, bits: int = 0, dtype: torch.dtype = torch.float64) -> Pixtral:
    """A tiny frozen model with an adapter whose B is not 0 any more; without vision's."""
    model = tiny_model(SCALED).to(dtype).requires_grad_(False)
    if bits:
        quantize_base(model, bits)
    attach(model, new_adapter(CONFIG, Settings(rank=3, targets=targets or ("decoder", "adapter")), ""), trainable=True)
    dice = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=dice) * 0.05)
    return model


def lean(model: Pixtral) -> Pixtral:
    lean_blocks(model)
    assert is_lean(model.layers[0])
    return model


@pytest.mark.parametrize(("targets", "bits", "recompute"), [*((each, 0, False) for each in TARGETS), ("all", 4, True)])
def test_loss_and_gradients_are_autograds(targets: str, bits: int, recompute: bool, tmp_path: Path) -> None:
    samples = mixed(tmp_path)
    wanted, gradients = descend(adapted(TARGETS[targets], bits=bits), packs(samples, 1000))
    model = lean(adapted(TARGETS[targets], bits=bits))
    if recompute:
        checkpoint_blocks(model)
        assert is_lean(model.layers[0])
    found, same = descend(model, packs(samples, 45))
    assert abs(found - wanted) < 1e-6 * wanted
    assert gradients.keys() == same.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(same[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("bits", [0, 4, 8])
def test_bfloat16_is_as_near_to_float32_as_autograd_is(bits: int) -> None:
    parts = packs([sample(60, 1), sample(40, 2)], 1000)
    exact_loss, exact = descend(adapted(bits=bits, dtype=torch.float32), parts)
    loss, gradients = descend(lean(adapted(bits=bits, dtype=torch.bfloat16)), parts)
    _, plain = descend(adapted(bits=bits, dtype=torch.bfloat16), parts)
    assert abs(loss - exact_loss) < 0.02 * exact_loss

    def error(found: dict[str, torch.Tensor]) -> float:
        off, size = (sum(float(each.float().square().sum()) for each in of) for of in (
            [found[name] - exact[name] for name in exact], exact.values()
        ))  # fmt: skip
        return (off / size) ** 0.5

    assert error(gradients) < 1.6 * error(plain)


def test_a_layer_keeps_what_is_estimated() -> None:
    """A third and less of what autograd keeps, at the 12B's proportions; here numbers of 4 bytes, and ranks, count."""
    (pack,) = packs([sample(60, 1), sample(40, 2)], 1000)

    def kept(model: Pixtral) -> int:
        held: dict[int, int] = {}
        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                held[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden_TD = model(model.embed(pack.ids(model.device), []).requires_grad_(), DensePlan(pack.lengths))
        assert hidden_TD.requires_grad
        return sum(held.values())

    found = estimate(SCALED, Settings(rank=3), torch.float32, torch.device("cpu"), pack.tokens, 1)
    ranks = 7 * 3 + CONFIG.n_heads  # low products, and one number a head of attention
    estimated = found.kept + found.of_all_layers.layer + CONFIG.n_layers * ranks * 4 * pack.tokens
    assert 0.9 * estimated < kept(lean(adapted(dtype=torch.float32))) < 1.1 * estimated
    assert estimated < 0.7 * kept(adapted(dtype=torch.float32))


def test_the_first_layer_takes_no_gradient_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text alone is frozen embeddings: three products less."""
    from tessera.finetune import lean as module

    seen = []
    own = module._Frozen.backward
    monkeypatch.setattr(module._Frozen, "backward", lambda *given: seen.append(1) or own(*given))
    descend(lean(adapted()), packs([sample(20, 1)], 1000))
    assert len(seen) == 7 * CONFIG.n_layers - 3


def test_trained_layers_stay_as_they_are() -> None:
    model = tiny_model()
    lean_blocks(model)
    assert not is_lean(model.layers[0])
