"""Files out of Debian's and npm's packages, fetched by their own programs and never installed."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tessera.errors import UsageError


def package_files(package: str, endings: Sequence[str], version: str = "") -> tuple[str, dict[str, bytes]]:
    """The package's version, and its files whose paths end so; npm's package when a version is named, else Debian's."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if version:
            _run(["npm", "pack", f"{package}@{version}"], folder)
        else:
            _run(["apt-get", "download", package], folder)
        archive = next(path for path in folder.iterdir() if path.suffix in (".tgz", ".deb"))
        if version:
            return version, dict(_unpacked(archive.read_bytes(), endings))
        packed = _run(["dpkg-deb", "--fsys-tarfile", str(archive)], folder)
        return archive.name.split("_")[1], dict(_unpacked(packed, endings))


def _unpacked(archive: bytes, endings: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        for member in files:
            if member.isfile() and member.name.endswith(tuple(endings)):
                extracted = files.extractfile(member)
                assert extracted is not None  # a regular file always opens
                yield member.name, extracted.read()


def _run(command: Sequence[str], folder: Path) -> bytes:
    try:
        return subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=600).stdout
    except FileNotFoundError as error:
        raise UsageError(f"fetching packages needs {command[0]}, which is not on the PATH; install it.") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"`{' '.join(command)}` failed ({reason[-1] if reason else 'no reason given'}).") from error
