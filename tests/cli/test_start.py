"""What a command imports, and how it imports it: a start must not become slower unnoticed."""

from __future__ import annotations

import gc
import subprocess
import sys
from types import ModuleType

import pytest

from tessera.cli.start import importing, leave_quickly

# Libraries that a plain question needs for nothing, some of which take a second each.
HEAVY = (
    "gguf", "transformers", "torch._dynamo", "torch._inductor", "triton", "sympy", "pandas", "pyarrow", "pypdfium2",
    "ray", "faiss", "cryptography", "fastapi", "uvicorn", "xlsxwriter", "rapidfuzz", "peft",
)  # fmt: skip
PROGRAM = """
import sys
from types import ModuleType
from tessera.cli.app import main
try:
    main()
finally:
    print(*(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


def run(*arguments: str, heavy: tuple[str, ...]) -> tuple[str, list[str]]:
    """Run a command; return its output, and which of the libraries it imported."""
    program = PROGRAM.format(heavy=heavy)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr.splitlines()[-1].split()


def test_a_question_imports_nothing_heavy_that_it_does_not_need() -> None:
    arguments = ("ask", "What is the total?", "tessera/nano/demo/receipt.png", "--no-log", "--max-tokens", "2", "-q")
    out, imported = run(*arguments, heavy=HEAVY)
    assert out.strip()
    assert not imported


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("list", "--help")], ids=" ".join)
def test_help_imports_no_model_code(arguments: tuple[str, ...]) -> None:
    assert run(*arguments, heavy=("torch", "mistral_common", *HEAVY))[1] == []


def test_the_collector_rests_during_imports_and_then_goes_on() -> None:
    frozen = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        made = [[]]  # type: ignore[var-annotated]
        made[0].append(made)
    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
    gc.unfreeze()


def test_the_collector_goes_on_after_an_import_that_fails() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        raise ModuleNotFoundError("a library")
    assert gc.isenabled()


def test_the_last_collection_is_spared_but_for_triton_s_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "triton", raising=False)
    gc.unfreeze()  # what the tests have frozen
    try:
        leave_quickly()
        assert gc.get_freeze_count() > 0
        monkeypatch.setitem(sys.modules, "triton", ModuleType("triton"))
        leave_quickly()
        assert gc.get_freeze_count() == 0
    finally:
        gc.unfreeze()
