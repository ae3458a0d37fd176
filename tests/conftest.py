"""What holds for every test: one thread for the arithmetic, no deadline for single examples, kernels interpreted.

More threads make tiny tensors slower, and several test processes share the cores; deadlines of
single hypothesis examples measure the machine's other work, and pytest-timeout watches for hangs.
"""

from __future__ import annotations

import os

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, by whichever test comes first
torch.set_num_threads(1)
settings.register_profile("tessera", deadline=None)
settings.load_profile("tessera")
