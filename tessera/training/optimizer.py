"""Float32 master weights for a model that computes in a narrower dtype, stepped by two optimizers.

Hidden matrices are stepped by Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/),
with update sizes matched to AdamW's (arXiv 2502.16982), everything else by AdamW. Updates smaller
than bfloat16's resolution are not lost, because they add up in the master copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn

GRADIENT_NORM_LIMIT = 1.0
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.01
FALL = 0.7  # share of a cycle over which its learning rate falls


class MasterOptimizer:
    """Owns a float32 copy of every trained parameter; `step` writes the result back to the model."""

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float) -> None:
        self.parameters = dict(named_parameters)
        self.masters = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        matrices = [master for name, master in self.masters.items() if _is_hidden_matrix(name, master)]
        others = [master for name, master in self.masters.items() if not _is_hidden_matrix(name, master)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=learning_rate, betas=BETAS, weight_decay=0.0, fused=True),
        ]

    def step(self, learning_rate: float) -> float:
        """Apply the gathered gradients and clear them; returns their norm before clipping.

        Where several processes train together, the gradients are their mean, and so all stay alike.
        """
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            self.masters[name].grad = torch.zeros_like(self.masters[name]) if gradient is None else gradient.float()
            parameter.grad = None
        if distributed.is_initialized():
            self._average_gradients()
        norm = float(nn.utils.clip_grad_norm_(self.masters.values(), GRADIENT_NORM_LIMIT))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._write_back()
        return norm

    def _average_gradients(self) -> None:
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= distributed.get_world_size()
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def _write_back(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(self.masters[name])

    def state_tensors(self) -> dict[str, Tensor]:
        """All tensors that a later `load_state_tensors` needs to go on exactly, under flat names."""
        state = {f"master.{name}": master for name, master in self.masters.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                for slot, value in slots.items():
                    state[f"optimizer.{number}.{index}.{slot}"] = torch.as_tensor(value)
        return state

    def load_state_tensors(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state_tensors`; raises KeyError for a parameter that is not there."""
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state[f"master.{name}"])
        for number, optimizer in enumerate(self.optimizers):
            slots: dict[int, dict[str, Any]] = {}
            prefix = f"optimizer.{number}."
            for key, value in state.items():
                if key.startswith(prefix):
                    index, slot = key.removeprefix(prefix).split(".")
                    slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        self._write_back()


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    # Embeddings and output heads are tables of rows, for which an orthogonal update means nothing.
    return parameter.ndim == 2 and not any(part in name for part in ("tok_embeddings", "output", "head"))


def learning_rate_at(step: int, peak: float, warmup_steps: int, cycle_ends: Sequence[int]) -> float:
    """Linear warm-up, then cycles: a plateau, and a linear fall to 2 % over the last FALL of the cycle's steps.

    A plateau (arXiv 2405.18392) lets a run be prolonged: the next cycle begins at the peak again.
    Example: peak 1, cycles that end at 100 and 200: 1 until step 30, 0.5 at step 65, 1 at 100 to 130.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    end = next((end for end in cycle_ends if step < end), cycle_ends[-1])
    start = max((other for other in cycle_ends if other < end), default=0)
    return peak * max(0.02, min(1.0, max(0, end - step) / max(1.0, (end - start) * FALL)))
