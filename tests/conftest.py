"""What holds for every test: one thread for the arithmetic, no deadline for single examples, kernels interpreted,
certificates read once, no search for garbage among what was imported, and a data folder of its own, so that no test
adds to the user's conversations.

More threads make tiny tensors slower, and several test processes share the cores; deadlines of
single hypothesis examples measure the machine's other work, and pytest-timeout watches for hangs.
Every HTTP client reads the machine's certificates anew, which takes 20 ms and is in vain for http.
What the test files import are some million objects that all stay, and Python's collector would look through them again
and again, while they are made and in every test.
"""

from __future__ import annotations

import functools
import gc
import itertools
import os
from collections.abc import Generator
from pathlib import Path

import httpcore2
import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, by whichever test comes first
torch.set_num_threads(1)
settings.register_profile("tessera", deadline=None)
settings.load_profile("tessera")
httpcore2.default_ssl_context = functools.cache(httpcore2.default_ssl_context)
_numbers = itertools.count()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where conversations and models of this test lie, and of the processes that it starts; made when needed."""
    home = tmp_path_factory.getbasetemp() / "data" / str(next(_numbers))
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    return home
