"""Float32 master weights for a model that computes in a narrower dtype, stepped by two optimizers.

Hidden matrices are stepped by Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/),
with update sizes matched to AdamW's (arXiv 2502.16982), everything else by AdamW. Updates smaller
than bfloat16's resolution are not lost, because they add up in the master copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tessera.kernels.wide_linear import lacks_products
from tessera.parallel.group import Group
from tessera.training.muon import WideMuon


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate: `matrices` are stepped by Muon, `others` by AdamW."""

    name: str
    matrices: Mapping[str, nn.Parameter]
    others: Mapping[str, nn.Parameter]
    weight_decay: float = 0.01  # for the matrices

    @classmethod
    def of(cls, name: str, named: Iterable[tuple[str, nn.Parameter]], tables: Sequence[str] = ()) -> ParameterGroup:
        """Sort parameters by their shape; a matrix whose name holds one of `tables` is a table of rows.

        Embeddings and output heads are such tables, for which an orthogonal update means nothing.
        """
        matrices: dict[str, nn.Parameter] = {}
        others: dict[str, nn.Parameter] = {}
        for key, parameter in named:
            is_matrix = parameter.ndim == 2 and not any(table in key for table in tables)
            (matrices if is_matrix else others)[key] = parameter
        return cls(name, matrices, others)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.matrices, **self.others}


class MasterOptimizer:
    """Owns a float32 copy of every trained parameter; `step` writes the result back to the model."""

    def __init__(
        self,
        groups: Sequence[ParameterGroup],
        *,
        clip_norm: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.98),
        ranks: Group | None = None,
    ) -> None:
        self.groups = list(groups)
        self.clip_norm = clip_norm
        self.ranks = ranks
        self.parameters = {name: p for group in self.groups for name, p in group.parameters.items()}
        self.masters = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        self._optimizers: list[tuple[str, torch.optim.Optimizer]] = []
        for group in self.groups:
            matrices, others = ([self.masters[name] for name in part] for part in (group.matrices, group.others))
            if matrices:
                wide = lacks_products(matrices[0].device, torch.bfloat16)
                kind = WideMuon if wide else torch.optim.Muon
                muon = kind(matrices, weight_decay=group.weight_decay, adjust_lr_fn="match_rms_adamw")
                self._optimizers.append((group.name, muon))
            if others:
                adamw = torch.optim.AdamW(others, betas=betas, weight_decay=0.0, fused=True)
                self._optimizers.append((group.name, adamw))

    def step(self, rates: Mapping[str, float]) -> float:
        """Apply the accumulated gradients and clear them; returns their norm before clipping.

        `rates` holds a learning rate for each group that is stepped; other groups stay as they are.
        With several ranks the gradients are their mean, and so all copies stay alike.
        """
        stepped = [group for group in self.groups if rates.get(group.name, 0.0) > 0]
        masters = [self._take_gradient(name) for group in stepped for name in group.parameters]
        if self.ranks is not None:
            self._average_gradients(masters, self.ranks)
        norm = _whole(nn.utils.clip_grad_norm_(masters, self.clip_norm))
        for name, optimizer in self._optimizers:
            if rates.get(name, 0.0) > 0:
                for group in optimizer.param_groups:
                    group["lr"] = rates[name]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self._write_back(name for group in stepped for name in group.parameters)
        return norm

    def _take_gradient(self, name: str) -> Tensor:
        parameter, master = self.parameters[name], self.masters[name]
        master.grad = torch.zeros_like(master) if parameter.grad is None else parameter.grad.float()
        parameter.grad = None
        return master

    def _average_gradients(self, masters: Sequence[Tensor], ranks: Group) -> None:
        gradients = [master.grad for master in masters if master.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        flat = ranks.all_reduce(flat) / ranks.size
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    @torch.no_grad()
    def _write_back(self, names: Iterable[str]) -> None:
        for name in names:
            self.parameters[name].copy_(self.masters[name])

    def prepare_state(self) -> None:
        """Make the moments as they are before the first step, so that a state can be read into them."""
        for _, optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 0.0
                for master in group["params"]:
                    master.grad = torch.zeros_like(master)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return all tensors that `load_state_tensors` needs to resume exactly, under flat names."""
        state = {f"master.{name}": master for name, master in self.masters.items()}
        for number, (_, optimizer) in enumerate(self._optimizers):
            for index, slots in optimizer.state_dict()["state"].items():
                for slot, value in slots.items():
                    state[f"optimizer.{number}.{index}.{slot}"] = torch.as_tensor(value)
        return state

    def load_state_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors of `state_tensors`; raises KeyError for a missing parameter."""
        with torch.no_grad():
            for name, master in self.masters.items():
                master.copy_(state[f"master.{name}"])
        for number, (_, optimizer) in enumerate(self._optimizers):
            slots: dict[int, dict[str, Any]] = {}
            prefix = f"optimizer.{number}."
            for key, value in state.items():
                if key.startswith(prefix):
                    index, slot = key.removeprefix(prefix).split(".")
                    slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        self._write_back(self.parameters)


def _whole(norm: Tensor) -> float:
    """Return a norm as a number, of all ranks' parts where the tensors are cut (FSDP2's are DTensors)."""
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def learning_rate_at(
    step: int, steps: int, peak: float, *, warmup: int, fall: float = 0.5, floor: float = 0.02
) -> float:
    """Rise linearly in a warm-up, hold, then fall linearly to `floor` times the peak in the last `fall` of the steps.

    The plateau (arXiv 2405.18392) lets a run be extended before its fall begins.
    Example: peak 1, 100 steps, fall 0.5: 1 until step 50, 0.5 at step 75, 0.02 at the end.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * max(floor, min(1.0, (steps - step) / max(1.0, steps * fall)))
