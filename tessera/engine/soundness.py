"""Whether a model's numbers are finite: looked at when a reply's logits are not, to tell damage from overflow.

Damaged weights spoil every reply, so that the model's whole health hangs on them; numbers that overflow
may do so in one request only. A model that never had a sound reply, and failed a few, is taken for unsound.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from tessera.errors import NotFiniteError
from tessera.model.pixtral import Pixtral

MANY = 3  # failed replies, while there was no other
ROWS = 4096  # that are looked at together


class Soundness:
    """Of one model, as far as its replies have told."""

    def __init__(self, model: Pixtral) -> None:
        self._model = model
        self._damaged: str | None = None  # a tensor's name, "" for none; None: not looked yet
        self._failed = 0  # replies
        self._succeeded = False  # once, which requests that overflow cannot take back

    @property
    def is_sound(self) -> bool:
        return not self._damaged and (self._succeeded or self._failed < MANY)

    def succeed(self) -> None:
        """A reply's numbers were finite."""
        self._succeeded = True

    def fail(self) -> NotFiniteError:
        """A reply's numbers were not; the words for whoever asked. The first time all weights are looked through."""
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
    """The name of a weight that holds NaN or an infinity, if there is one."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    return next((name for name, tensor in tensors if not _is_finite(tensor)), None)


@torch.inference_mode()
def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # The least and the largest of numbers with NaN are NaN. Formats of 8 bits have no such function.
    pieces = tensor.split(ROWS) if tensor.ndim else (tensor,)
    wide = (piece.to(torch.float16) if piece.dtype.itemsize == 1 else piece for piece in pieces)
    return all(bool(torch.stack(torch.aminmax(piece)).isfinite().all()) for piece in wide)
