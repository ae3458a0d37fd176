"""Checks a model's weights when a reply's logits are not finite, to distinguish damage from overflow.

Damaged weights spoil every reply, so they make the whole model unsound; numbers may overflow in one request
only. A model that has failed several replies and never succeeded is considered unsound.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from tessera.errors import NotFiniteError
from tessera.model.pixtral import Pixtral

MANY = 3  # failed replies before any success
ROWS = 4096  # checked at a time


class Soundness:
    """A model's soundness, as observed from its replies."""

    def __init__(self, model: Pixtral) -> None:
        self._model = model
        self._damaged: str | None = None  # a tensor's name, "" for none; None: not checked yet
        self._failed = 0  # replies
        self._succeeded = False  # stays true, even if later requests overflow

    @property
    def is_sound(self) -> bool:
        return not self._damaged and (self._succeeded or self._failed < MANY)

    def succeed(self) -> None:
        """Record that a reply's numbers were finite."""
        self._succeeded = True

    def fail(self) -> NotFiniteError:
        """Record that a reply's numbers were not finite; returns the error. The first call checks all weights."""
        self._failed += 1
        if self._damaged is None:
            self._damaged = damaged_tensor(self._model) or ""
        if self._damaged:
            return NotFiniteError(
                f"the model's numbers are not finite: its weights are damaged ({self._damaged}); download or convert "
                "the model again."
            )
        dtype = str(self._model.dtype).removeprefix("torch.")
        return NotFiniteError(
            f"the model's numbers are not finite: the weights are damaged or overflow {dtype}; load the model with "
            "another --dtype, such as float32."
        )


def damaged_tensor(model: Pixtral) -> str | None:
    """Return the name of a weight that holds NaN or an infinity, if any."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    return next((name for name, tensor in tensors if not _is_finite(tensor)), None)


@torch.inference_mode()
def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Minimum and maximum of numbers with NaN are NaN. 8-bit formats have no such function.
    pieces = tensor.split(ROWS) if tensor.ndim else (tensor,)
    wide = (piece.to(torch.float16) if piece.dtype.itemsize == 1 else piece for piece in pieces)
    return all(bool(torch.stack(torch.aminmax(piece)).isfinite().all()) for piece in wide)
