"""What holds for every test: one thread for the arithmetic, and no deadline for single examples.

More threads make tiny tensors slower, and several test processes share the cores; deadlines of
single hypothesis examples measure the machine's other work, and pytest-timeout watches for hangs.
"""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("tessera", deadline=None)
settings.load_profile("tessera")
