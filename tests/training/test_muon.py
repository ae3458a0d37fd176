"""Muon in float32 takes PyTorch's steps, but for the rounding of its update."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tessera.training.muon import WideMuon, orthogonal

SETTINGS = {"lr": 0.02, "weight_decay": 0.1}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "more",
    [{"adjust_lr_fn": "match_rms_adamw"}, {}, {"adjust_lr_fn": "original", "nesterov": False, "momentum": 0.5}],
    ids=["as AdamW", "defaults", "plain momentum"],
)
@pytest.mark.parametrize("shape", [(24, 8), (8, 24), (16, 16)])
def test_steps_are_pytorchs_but_for_bfloat16_in_its_update(shape: tuple[int, int], more: dict[str, Any]) -> None:
    ours, theirs = (torch.nn.Parameter(random(*shape)) for _ in range(2))
    optimizers = WideMuon([ours], **SETTINGS, **more), torch.optim.Muon([theirs], **SETTINGS, **more)
    for step in range(4):
        before = ours.detach().clone()
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = random(*shape, seed=step + 1)
            optimizer.step()
        moved = (ours - before).norm()
        assert moved > 0.01
        assert (ours - theirs).norm() < 0.02 * (step + 1) * moved
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert states[0].keys() == states[1].keys()
    torch.testing.assert_close(states[0][0], states[1][0])


def test_the_update_is_nearly_orthogonal() -> None:
    found = orthogonal(random(12, 40), (3.4445, -4.775, 2.0315), 5, 1e-7)
    lengths = torch.linalg.svdvals(found.double())
    assert 0.5 < float(lengths.min()) <= float(lengths.max()) < 1.5  # as the iteration's source has them


def test_a_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    matrix = torch.nn.Parameter(random(6, 4))
    optimizer = WideMuon([matrix], **SETTINGS)
    before = matrix.detach().clone()

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        squares = matrix.square().sum()
        squares.backward()
        return squares

    assert float(optimizer.step(loss).detach()) == pytest.approx(float(before.square().sum()))
    assert not torch.equal(matrix, before)
