"""Sources: the files behind paths, folders and patterns, in order, and how each is opened again later.

A page may be rendered long after it was read, so a source remembers its file's size and time: a file that was
replaced meanwhile is an error and not another document's page.
"""

from __future__ import annotations

import glob
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from tessera.documents.limits import PageLimits
from tessera.documents.page import PageError
from tessera.errors import DocumentError

MAX_DEPTH = 32  # of folders in folders
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")  # of file managers, as are names that begin with a dot


@dataclass(frozen=True)
class Source:
    """A document's bytes. `opener` opens those of a member, from its archive."""

    name: str
    path: Path
    stamp: tuple[int, int]
    limits: PageLimits
    opener: Callable[[], BinaryIO] | None = None

    def open(self) -> BinaryIO:
        """Open the document for reading. Raises DocumentError."""
        if self.opener is not None:
            return self.opener()
        try:
            # The file may have been replaced by a pipe, which would hang.
            file = open(os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")  # noqa: SIM115
        except OSError as error:
            raise _cannot_open(self.name, error) from error
        if _stamp(os.fstat(file.fileno())) != self.stamp:
            file.close()
            raise DocumentError(f"{self.name} has changed since it was read; read it again.", code="changed")
        return file


def shown_path(path: str | os.PathLike[str]) -> str:
    """Return a path as text: names that are not UTF-8 would fail in JSON and databases."""
    return os.fsencode(path).decode("utf-8", "replace")


def distinct(name: str, taken: set[str]) -> str:
    """Return a name that is not taken, "a (2).pdf" for another "a.pdf", and add it to those that are."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or "/" in suffix:  # ".profile", or a dot in a folder's name
        stem, dot, suffix = name, "", ""
    new, number = name, 1
    while new in taken:
        number += 1
        new = f"{stem} ({number}){dot}{suffix}"
    taken.add(new)
    return new


def locked_words(name: str, tried: int) -> str:
    """What is said of a document with a password that is not among those that were given."""
    words = "no password was given" if not tried else "the given password does not open it"
    words = f"none of the {tried} given passwords opens it" if tried > 1 else words
    return f"{name} is locked and {words}; give its own (--password-file, or `passwords` in Python and the API)."


def is_ignored(name: str) -> bool:
    """Tell the files of file managers, which nobody means."""
    return name.startswith(".") or name.lower() in IGNORED


def temporary() -> BinaryIO:
    """Make a file for a document that has none of its own."""
    return tempfile.TemporaryFile()


def find_sources(
    paths: Iterable[str | os.PathLike[str]], limits: PageLimits, skip: Collection[Path] = ()
) -> Iterator[Source | PageError]:
    """Find the files of paths, in order: a folder's are sorted, and searched below it; patterns are expanded.

    Files of `skip`, such as a run's own outputs, are no documents of a folder or pattern that they lie in.
    """
    skipped = frozenset(os.path.realpath(each) for each in skip)
    for given in paths:
        path, name = Path(given), shown_path(given)
        try:
            if not os.path.lexists(path) and glob.has_magic(os.fspath(given)):
                yield from _matches(os.fspath(given), limits, skipped)
            elif os.path.isdir(path):
                yield from _Folder(name, limits, skipped).all(path)
            else:
                yield _source(path, limits)
        except DocumentError as error:
            yield PageError(name, None, str(error.code), str(error))
        except (OSError, ValueError) as error:  # a name of null bytes, or too long a one
            yield PageError(name, None, "not_found", str(_cannot_open(name, error)))


def _matches(pattern: str, limits: PageLimits, skipped: frozenset[str]) -> Iterator[Source | PageError]:
    found = list(islice(glob.iglob(pattern, recursive=True), limits.max_files + 1))
    if not found:
        raise DocumentError(f"no file matches {pattern}; check the spelling and the folder.", code="not_found")
    if len(found) > limits.max_files:
        raise _too_many_files(pattern, limits)
    shortest: dict[str, str] = {}  # "**" follows links, also those that lead back
    for each in sorted(found, key=len, reverse=True):
        shortest[os.path.realpath(each)] = each
    for each in sorted(each for real, each in shortest.items() if real not in skipped):
        if not os.path.isdir(each):
            yield from find_sources([each], limits)


class _Folder:
    """A walk through one folder: bounded, and each folder is entered once, however many links lead to it."""

    def __init__(self, name: str, limits: PageLimits, skipped: frozenset[str]) -> None:
        self._name = name
        self._limits = limits
        self._skipped, self._skipped_names = skipped, {os.path.basename(each) for each in skipped}
        self._entered: set[tuple[int, int]] = set()
        self._count = 0

    def all(self, folder: Path) -> Iterator[Source | PageError]:
        """Yield the folder's files, or an error if it holds none: the folder meant was another."""
        found = None
        for found in self.files(folder):
            yield found
        if found is None:
            yield PageError(self._name, None, "empty", f"{self._name} holds no documents; check the folder.")

    def files(self, folder: Path, depth: int = 0) -> Iterator[Source | PageError]:
        name = shown_path(folder)
        try:
            about = folder.stat()
            if depth > MAX_DEPTH:
                raise DocumentError(f"{name} lies more than {MAX_DEPTH} folders deep; name it alone.", code="too_large")
            if (about.st_dev, about.st_ino) in self._entered:
                return
            self._entered.add((about.st_dev, about.st_ino))
            for entry in sorted(self._entries(folder)):
                if os.path.isdir(entry):
                    yield from self.files(entry, depth + 1)
                else:
                    yield from find_sources([entry], self._limits)
        except DocumentError as error:
            yield PageError(name, None, str(error.code), str(error))
        except OSError as error:
            yield PageError(name, None, *_words(name, error))

    def _entries(self, folder: Path) -> Iterator[Path]:
        for entry in folder.iterdir():
            if not is_ignored(entry.name) and not self._is_skipped(entry):
                self._count += 1
                if self._count > self._limits.max_files:
                    raise _too_many_files(self._name, self._limits)
                yield entry

    def _is_skipped(self, entry: Path) -> bool:
        return entry.name in self._skipped_names and os.path.realpath(entry) in self._skipped


def _source(path: Path, limits: PageLimits) -> Source:
    name = shown_path(path)
    try:
        about = path.stat()
    except OSError as error:
        raise _cannot_open(name, error) from error
    if not stat.S_ISREG(about.st_mode):
        raise DocumentError(f"{name} is neither a file nor a folder; give the path of one.", code="unsupported")
    return Source(name, path, _stamp(about), limits)


def _stamp(about: os.stat_result) -> tuple[int, int]:
    return about.st_size, about.st_mtime_ns


def _cannot_open(name: str, error: Exception) -> DocumentError:
    code, words = _words(name, error)
    return DocumentError(words, code=code)


def _words(name: str, error: Exception) -> tuple[str, str]:
    if isinstance(error, PermissionError):
        return "no_permission", f"{name} may not be read by this user; change its permissions."
    return "not_found", f"{name} does not exist or cannot be opened; check the spelling and the folder."


def _too_many_files(name: str, limits: PageLimits) -> DocumentError:
    return DocumentError(
        f"{name} holds more than {limits.max_files:,} files (max_files); name its folders one by one or raise it.",
        code="too_large",
    )
