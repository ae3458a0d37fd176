"""A matrix in few bits, in whichever of the two forms: packed codes, or 8-bit floats.

Both have `scheme`, `shape`, `nbytes`, `device`, `tensors` and `to`, so that whoever stores, moves, cuts
or places a weight need not ask which it is.
"""

from __future__ import annotations

from tessera.kernels.fp8_linear import Fp8Weight
from tessera.kernels.packed_weight import PackedWeight

QuantizedWeight = PackedWeight | Fp8Weight
