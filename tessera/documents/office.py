"""Office documents, printed to PDF by LibreOffice: in a private profile, without macros, within a deadline."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

from tessera.documents.archives import check_size, check_total, too_many_members
from tessera.documents.limits import PageLimits
from tessera.documents.sources import Source, temporary
from tessera.errors import DocumentError

PROGRAMS = ("soffice", "libreoffice")
INSTALL = {
    "darwin": "brew install --cask libreoffice",
    "linux": "sudo apt-get install --no-install-recommends libreoffice-writer libreoffice-calc libreoffice-impress",
}
# Printed documents kept for their next pages, each an open file: a run reads all documents once to plan, then again.
MAX_KEPT, MAX_KEPT_BYTES = 128, 1_000_000_000
MAX_MEMORY_BYTES = 4 << 30  # of address space; ordinary documents take a fourth of it
# Sets the limits, then becomes the program: limits set between fork and exec of a process with threads may hang.
LIMITED = (
    "import os, resource, sys\n"
    "for kind, value in ((resource.RLIMIT_CPU, sys.argv[1]), (resource.RLIMIT_FSIZE, sys.argv[2]),\n"
    "                    (resource.RLIMIT_AS, sys.argv[3]), (resource.RLIMIT_CORE, 0)):\n"
    "    hard = resource.getrlimit(kind)[1]\n"
    "    value = int(value) if hard == resource.RLIM_INFINITY else min(int(value), hard)\n"
    "    resource.setrlimit(kind, (value, hard))\n"
    "os.execvp(sys.argv[4], sys.argv[4:])\n"
)
# The private profile's settings: no macros, and no fetching of what a document links to.
SETTINGS = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Office.Common/Security/Scripting"><prop oor:name="DisableMacrosExecution" oor:op="fuse">
<value>true</value></prop></item>
<item oor:path="/org.openoffice.Office.Common/Security/Scripting"><prop oor:name="BlockUntrustedRefererLinks"
 oor:op="fuse"><value>true</value></prop></item>
</oor:items>
"""
NOWHERE = "http://127.0.0.1:9"  # nothing listens on the port for discarded data
FOLDERS = {"word/": ".docx", "xl/": ".xlsx", "ppt/": ".pptx"}
OPEN_DOCUMENTS = {"text": ".odt", "spreadsheet": ".ods", "presentation": ".odp", "graphics": ".odg"}
OLDER = (".doc", ".xls", ".ppt")


class _Printed:
    """The last printed documents, as PDFs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one LibreOffice at a time
        self._kept: OrderedDict[str, BinaryIO] = OrderedDict()

    def open(self, source: Source, digest: str) -> BinaryIO:
        with self._lock:
            if digest not in self._kept:
                self._kept[digest] = _printed(source)
            self._kept.move_to_end(digest)
            while len(self._kept) > MAX_KEPT or (len(self._kept) > 1 and self._bytes > MAX_KEPT_BYTES):
                self._kept.popitem(last=False)[1].close()
            file = os.fdopen(os.dup(self._kept[digest].fileno()), "rb")
            file.seek(0)
            return file

    @property
    def _bytes(self) -> int:
        return sum(os.fstat(file.fileno()).st_size for file in self._kept.values())


_PRINTED = _Printed()


def printed(source: Source, digest: str) -> Source:
    """Return the PDF that an office document prints to, as a source. Raises DocumentError."""
    opener = partial(_PRINTED.open, source, digest)
    opener().close()
    return Source(source.name, source.path, source.stamp, source.limits, opener)


def _printed(source: Source) -> BinaryIO:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise DocumentError(
            f"{source.name} is an office document, and LibreOffice, which prints it, is not installed; run: "
            f"{INSTALL.get(sys.platform, INSTALL['linux'])}",
            code="needs_libreoffice",
        )
    with tempfile.TemporaryDirectory(prefix="tessera-office-") as made, source.open() as given:
        folder = Path(made)
        profile = folder / "profile"
        (profile / "user").mkdir(parents=True)
        (profile / "user" / "registrymodifications.xcu").write_text(SETTINGS, encoding="utf-8")
        document = folder / f"document{_suffix(given, source)}"
        with document.open("wb") as copy:
            shutil.copyfileobj(given, copy)
        command = [
            program, f"-env:UserInstallation={profile.as_uri()}", "--headless", "--norestore", "--nolockcheck",
            "--nodefault", "--nologo", "--convert-to", "pdf", "--outdir", str(folder / "out"), str(document),
        ]  # fmt: skip
        _run(command, folder, source.name, source.limits)
        result = folder / "out" / "document.pdf"
        if not result.is_file() or result.stat().st_size == 0:
            raise DocumentError(
                f"LibreOffice cannot print {source.name}; open it there, or print it to a PDF yourself.", code="damaged"
            )
        file = temporary()
        with result.open("rb") as pdf:
            shutil.copyfileobj(pdf, file)
        file.flush()
        return file


def _run(command: list[str], folder: Path, name: str, limits: PageLimits) -> None:
    seconds = limits.convert_seconds
    limited = [str(round(seconds) + 1), str(limits.max_bytes), str(MAX_MEMORY_BYTES)]
    proxies = {key: NOWHERE for word in ("http", "https", "all") for key in (f"{word}_proxy", f"{word.upper()}_PROXY")}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", LIMITED, *limited, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd=folder,
        env={**os.environ, **proxies, "HOME": str(folder), "TMPDIR": str(folder)},
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        raise DocumentError(
            f"LibreOffice takes longer than {seconds:g} seconds (convert_seconds) to print {name}; print it to a PDF "
            "yourself, or raise the limit.",
            code="timeout",
        ) from error
    finally:
        with suppress(ProcessLookupError):  # the program starts others, which may outlive it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _suffix(file: BinaryIO, source: Source) -> str:
    """Return the ending that LibreOffice knows the content by. The file is left at its beginning.

    Raises DocumentError for what would unpack to more than a document may have.
    """
    head = file.read(8)
    file.seek(0)
    if head[:5] == b"{\\rtf":
        return ".rtf"
    if head[:2] != b"PK":
        return next((ending for ending in OLDER if source.name.lower().endswith(ending)), OLDER[0])
    with zipfile.ZipFile(file) as archive:
        _check_unpacked(source, archive)
        names = archive.namelist()
        if names[0] == "mimetype":
            kind = archive.read(names[0]).decode("ascii", "replace").rpartition(".")[2].partition("-")[0]
            suffix = OPEN_DOCUMENTS.get(kind, ".odt")
        else:
            suffix = next(ending for start, ending in FOLDERS.items() if any(each.startswith(start) for each in names))
    file.seek(0)
    return suffix


def _check_unpacked(source: Source, archive: zipfile.ZipFile) -> None:
    members = [info for info in archive.infolist() if info.file_size]
    if len(members) > source.limits.max_members:
        raise too_many_members(source.name, len(members), source.limits)
    for info in members:
        check_size(f"{source.name} ({info.filename[:80]})", info, source.limits)
    check_total(source.name, sum(info.file_size for info in members), source.limits)
