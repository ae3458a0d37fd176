"""Running a program that a model wrote: in a box without files, network or time, or in none, when that is asked for.

The box is Linux's own: namespaces of users, mounts, processes and network by util-linux's `unshare`, in which only the
interpreter and its libraries can be read and one small folder in memory can be written. Root's child gives up
its rights before it runs the program. Whatever happens, the child and all its children end with the time limit.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from tessera.errors import UsageError

Kind = Literal["sandbox", "unsafe"]
TIMEOUT_S = 3.0  # HumanEval's own
PROCESSES = 64
MAX_OUTPUT = 4000  # characters kept of what a program says
NOBODY = 65534
# Seconds of processor, KiB of memory, files of 1 MiB (in blocks of 512), no core, 64 open files.
LIMITS = "ulimit -t 30; ulimit -v 1048576 || true; ulimit -f 2048; ulimit -c 0; ulimit -n 64\n"
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin")
# $1 is an empty folder, $2 the interpreter's, $3 options of setpriv, then the command; inside is only what is bound.
BOX = (
    """set -e
root=$1; python=$2; rights=$3; shift 3
mount -t tmpfs -o size=16m,mode=755,nosuid,nodev tmpfs "$root"
cd "$root"
mkdir proc work tmp dev old
chmod 1777 work tmp
for folder in SYSTEM "$python"; do
  [ -d "$folder" ] || continue
  [ -L "$folder" ] && { ln -s "$(readlink "$folder")" ".$folder"; continue; }
  mkdir -p ".$folder"
  mount --bind "$folder" ".$folder"
  mount -o remount,bind,ro,nosuid,nodev ".$folder"
done
for device in null zero urandom; do
  : > "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mount -t proc proc proc
pivot_root . old
cd /work
umount -l /old
LIMITS
exec prlimit --nproc=PROCESSES setpriv $rights --no-new-privs --bounding-set -all --inh-caps -all "$@"
""".replace("SYSTEM", " ".join(SYSTEM))
    .replace("PROCESSES", str(PROCESSES))
    .replace("LIMITS", LIMITS)
)


@dataclass(frozen=True)
class Outcome:
    """How a program ended; without an error it ran to its end."""

    passed: bool
    reason: str  # "passed", "timed out", or the last line that it wrote


def check(kind: Kind) -> None:
    """Raise UsageError if this machine has no sandbox; `unsafe` asks for none."""
    if kind == "unsafe":
        return
    if sys.platform != "linux" or any(
        shutil.which(name) is None for name in ("unshare", "setpriv", "prlimit", "mount")
    ):
        why = "it needs Linux with util-linux (unshare, setpriv, prlimit, mount)"
    else:
        probe = run_program(
            "import os; assert os.getpid() < 9 and not os.path.exists('/etc/passwd')", kind, timeout_s=20
        )
        if probe.passed:
            return
        why = f"the system refused it ({probe.reason[:200]})"
    raise UsageError(
        f"no sandbox for the model's programs: {why}; run where there is one, or give --run-code unsafe to run them as "
        "you, which a program may abuse."
    )


def run_program(program: str, kind: Kind, *, timeout_s: float = TIMEOUT_S) -> Outcome:
    """Run a Python program; it passes if it gets to its end without an error before the time limit."""
    end = secrets.token_hex(8)  # a program that exits early does not print it
    with tempfile.TemporaryDirectory(prefix="tessera-box-") as folder, tempfile.TemporaryFile() as output:
        boxed = kind == "sandbox"
        child = subprocess.Popen(
            _command(kind, Path(folder)),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/" if boxed else folder,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/work", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            with suppress(BrokenPipeError):
                child.communicate(f"{program}\nprint({end!r})\n".encode(), timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return Outcome(False, f"timed out after {timeout_s:g} s")
        finally:
            _end(child)
        last = _last_line(output)
        if child.returncode == 0 and last.endswith(end):
            return Outcome(True, "passed")
        return Outcome(False, last if child.returncode and last else f"ended early with code {child.returncode}")


def _command(kind: Kind, folder: Path) -> Sequence[str]:
    # The real interpreter: a virtual environment is no place that the box knows.
    python = Path(os.path.realpath(sys.executable))
    run = [str(python), "-I", "-S", "-"]
    if kind == "unsafe":
        return ["/bin/sh", "-c", f'{LIMITS}exec "$@"', "run", *run]
    space = ["unshare", "--net", "--pid", "--mount", "--ipc", "--fork", "--kill-child"]
    rights = f"--reuid={NOBODY} --regid={NOBODY} --clear-groups"
    if os.geteuid() != 0:  # its own root, over nothing but the box
        space, rights = [*space, "--user", "--map-root-user"], ""
    return [*space, "/bin/sh", "-c", BOX, "box", str(folder), str(python.parents[1]), rights, *run]


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child's whole session and wait for the child."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.stdin is not None:
        with suppress(BrokenPipeError):
            child.stdin.close()
    child.wait()


def _last_line(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - MAX_OUTPUT))
    lines = output.read(MAX_OUTPUT).decode(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else ""
