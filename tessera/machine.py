"""This machine: free memory and disk, uploads to its devices, and atomic writes to its disk.

Free bytes are checked before weights are read or written and caches are made.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import resource
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from tessera.errors import DiskFullError, lacks_room

PARTIAL = ".partial"  # suffix of anything not completely written yet
PARTIAL_STEM = 200  # bytes of the file's name in it; a name has at most 255
CGROUP = Path("/sys/fs/cgroup")
HUGE_PAGE, MADV_HUGEPAGE = 2**21, 14  # see madvise(2)

_writers = itertools.count()
_writing: set[str] = set()  # names of this process's parts


def upload(values: Sequence[float] | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Copy host values to a tensor on the device, without waiting for its running work.

    A copy from ordinary memory would wait; one from pinned memory is queued, and torch keeps that
    memory until it is done.
    """
    tensor = values.to(dtype) if isinstance(values, Tensor) else torch.tensor(values, dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def use_device(device: torch.device) -> None:
    """Make a GPU this thread's current one, on which kernels are launched; each thread has its own."""
    if device.type == "cuda":
        torch.cuda.set_device(device)


def prefer_huge_pages(tensor: Tensor) -> Tensor:
    """Ask Linux for 2 MiB pages under a CPU tensor before it is written; advice that may have no effect.

    Memory that is read end to end for each token then needs far fewer address translations.
    """
    if tensor.device.type != "cpu" or sys.platform != "linux":
        return tensor
    first = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
    length = (tensor.data_ptr() + tensor.nbytes) // HUGE_PAGE * HUGE_PAGE - first
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), MADV_HUGEPAGE)
    return tensor


def available_bytes(device: torch.device) -> int:
    """Bytes still available: the GPU's free memory, or the system's within its cgroup."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    found = [limit for limit in (_meminfo_bytes(), _cgroup_bytes()) if limit is not None]
    # Without either file (macOS), half of the physical memory is a cautious guess.
    return min(found) if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def total_bytes(device: torch.device) -> int:
    """Total bytes of a GPU."""
    return int(torch.cuda.mem_get_info(device)[1])


def taken_bytes(device: torch.device) -> int:
    """Bytes of a GPU that this process uses for tensors; 0 on a CPU."""
    return int(torch.cuda.memory_reserved(device)) if device.type == "cuda" else 0


CPU = torch.device("cpu")


def return_freed_memory() -> None:
    """Give back what the C library keeps of freed memory, between blocks of other sizes; only glibc's does so."""
    if sys.platform == "linux":
        with suppress(AttributeError):  # of another C library
            ctypes.CDLL(None).malloc_trim(0)


def reset_peak(device: torch.device = CPU) -> int:
    """Let `peak_bytes` begin anew, as far as the system can (see proc(5), clear_refs), and return what it tells."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes(device)


def peak_bytes(device: torch.device = CPU) -> int:
    """Return the most bytes since `reset_peak`: of a GPU's tensors, or of all memory of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def written_whole(path: Path, *, resume: bool = False, shared: bool = False) -> Iterator[Path]:
    """Yield a path to write a file or folder to; at the end it is on disk under its own name, or not at all.

    Each writer has a path of its own, so that several may write one file, of which the last stays; what killed ones
    left is removed. With `shared`, several processes write one folder together, at `partial_of`. If writing fails, the
    written part is removed. With `resume` it stays at `partial_of` for the next attempt.
    """
    partial = partial_of(path) if resume or shared else _own_partial(path)
    if not resume:
        _remove(partial)
    try:
        yield partial
        for file in (partial, *partial.rglob("*")):
            _sync(file)
        partial.replace(path)
        _sync(path.parent)
    except BaseException:
        if not resume:
            _remove(partial)
        raise
    finally:
        _writing.discard(partial.name)


def partial_of(path: Path) -> Path:
    """Where a file or folder is written that is resumed, or that several processes write together."""
    return path.with_name(f".{path.name}{PARTIAL}")


def _own_partial(path: Path) -> Path:
    """Return a path for one writer, and remove what dead ones of this machine left of the file."""
    stem = f".{os.fsencode(path.name)[:PARTIAL_STEM].decode(errors='ignore')}."
    machine = f"{zlib.crc32(platform.node().encode()):08x}"  # a folder may be shared with others, even under this name
    own = f"{stem}{machine}-{os.getpid()}-{next(_writers)}{PARTIAL}"
    _writing.add(own)
    for name in os.listdir(path.parent) if path.parent.is_dir() else ():
        process = name.removeprefix(f"{stem}{machine}-").partition("-")[0]
        is_ours = name.startswith(f"{stem}{machine}-") and name.endswith(PARTIAL) and process.isdecimal()
        if name == partial_of(path).name or (is_ours and name not in _writing and not _is_other(int(process))):
            _remove(path.with_name(name))
    return path.with_name(own)


def _is_other(process: int) -> bool:
    """Return True for the number of another process that runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return process != os.getpid()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, would survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_room(folder: Path) -> Iterator[None]:
    """Raise DiskFullError if a file in `folder` runs out of room while it is written.

    Free bytes were checked before; a quota, a file size limit or another program shows only then.
    """
    try:
        yield
    except Exception as error:
        if not lacks_room(error):
            raise
        words = error.strerror if isinstance(error, OSError) else error
        raise DiskFullError(
            f"{folder}: the files could not be written whole ({str(words).lower()}); free some of the disk, "
            "raise the quota or the limit on a file's size (ulimit -f), or name a folder on a larger disk."
        ) from error


def processor_name() -> str:
    """Return the processor's name, or only its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _meminfo_bytes() -> int | None:
    path = Path("/proc/meminfo")
    if not path.exists():
        return None
    fields = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) * 1024


def _cgroup_bytes() -> int | None:
    limit, used, stat = CGROUP / "memory.max", CGROUP / "memory.current", CGROUP / "memory.stat"
    if not limit.exists() or (text := limit.read_text().strip()) == "max":
        return None
    # Cached file pages count as used but are freed on demand: a model just downloaded would
    # otherwise count twice.
    fields = dict(line.split() for line in stat.read_text().splitlines())
    cached = int(fields["active_file"]) + int(fields["inactive_file"])
    return max(int(text) - int(used.read_text()) + cached, 0)
