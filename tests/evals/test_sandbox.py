"""Programs that a model might write, in the sandbox: none may see, reach, write or outlast what it should not."""

from __future__ import annotations

import time

import pytest

from tessera.errors import UsageError
from tessera.evals.sandbox import Kind, check, run_program


def has_sandbox() -> bool:
    try:
        check("sandbox")
    except UsageError:
        return False
    return True


in_sandbox = pytest.mark.skipif(not has_sandbox(), reason="this machine allows no namespaces")


@pytest.mark.parametrize("kind", ["unsafe", pytest.param("sandbox", marks=in_sandbox)])
def test_a_program_passes_only_if_it_gets_to_its_end(kind: Kind) -> None:
    assert run_program("import math, heapq, collections, typing, hashlib", kind).passed
    assert run_program("1 / 0", kind).reason == "ZeroDivisionError: division by zero"
    assert not run_program("raise SystemExit(0)", kind).passed
    assert not run_program("import os; os._exit(0)", kind).passed


@pytest.mark.parametrize("kind", ["unsafe", pytest.param("sandbox", marks=in_sandbox)])
def test_a_program_and_its_children_end_at_the_time_limit(kind: Kind) -> None:
    began = time.monotonic()
    outcome = run_program("import os\nos.fork()\nwhile True: pass", kind, timeout_s=1.5)
    assert outcome.reason == "timed out after 1.5 s"
    assert time.monotonic() - began < 30


@in_sandbox
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("open('/etc/passwd')", "FileNotFoundError"),
        ("import os; os.listdir('/old/usr')", "FileNotFoundError"),
        ("open('/usr/x', 'w')", "Read-only"),
        ("open('/x', 'w')", "Permission denied"),
        ("import socket; socket.create_connection(('1.1.1.1', 80), 1)", "unreachable"),
        ("x = bytearray(2 << 30)", "MemoryError"),
        ("import os\nfor _ in range(500):\n    if not os.fork(): import time; time.sleep(9)", "unavailable"),
        ("import os; os.setuid(0)", "not permitted"),
        ("open('f', 'wb').write(b'x' * (3 << 20))", "too large"),
    ],
)
def test_the_sandbox_keeps_programs_in(program: str, reason: str) -> None:
    outcome = run_program(program, "sandbox")
    assert not outcome.passed
    assert reason in outcome.reason


@in_sandbox
def test_a_program_sees_no_process_but_its_own() -> None:
    assert run_program(
        "import os; assert all(int(n) < 20 for n in os.listdir('/proc') if n.isdigit())", "sandbox"
    ).passed
