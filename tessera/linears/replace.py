"""Replaces or wraps a model's linear, and keeps the official names of its tensors.

A wrapped linear still computes; its wrapper may add the other devices' parts, or later an adapter's.
Neither may change the tensors' names, by which they are loaded, saved and counted.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from tessera.kernels import wide_linear


class Wrapper(nn.Module):
    """A module around a linear, plain, quantized or wrapped itself, whose tensors keep their names.

    Linear and wrapper hold the same parameters and buffers, so a tensor set, moved or loaded in one is also so in
    the other. The linear is not a submodule: its tensors would then have second names, under `base`.
    """

    base: nn.Module
    bias: Tensor | None

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.__dict__["base"] = base
        self._parameters, self._buffers = base._parameters, base._buffers

    def product(self, inputs: Tensor) -> Tensor:
        """Return the whole product before the bias is added."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Tensor:
        out = self.product(inputs)
        return out if self.bias is None else out + self.bias

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Wrapper:
        """Apply `fn` as the linear does: a quantized weight keeps its dtypes."""
        for module in (self.base, *self.children()):
            module._apply(fn, recurse)
        return self

    def _load_from_state_dict(self, *arguments: object) -> None:
        super()._load_from_state_dict(*arguments)
        retie = getattr(innermost(self), "retie", None)
        if retie is not None:
            retie()

    def extra_repr(self) -> str:
        return repr(self.base)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the model's linear `name` ("layers.0.attention.wq") by a module."""
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)


def product(linear: nn.Module, inputs: Tensor) -> Tensor:
    """Return the product of a plain, quantized or wrapped linear before its bias is added."""
    own: Callable[[Tensor], Tensor] | None = getattr(linear, "product", None)
    if own is not None:
        return own(inputs)
    weight: Tensor = linear.get_parameter("weight")
    return wide_linear.linear(inputs, weight)


def innermost(module: nn.Module) -> nn.Module:
    """Return the innermost module that a module wraps, or the module itself."""
    while isinstance(module, Wrapper):
        module = module.base
    return module
