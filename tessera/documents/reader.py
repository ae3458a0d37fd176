"""The pages that items ask about, read again in the order of the plan, few of them in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from pathlib import Path

from tessera.documents.limits import PageLimits
from tessera.documents.page import Page, PageError
from tessera.documents.pages import read_pages
from tessera.errors import DocumentError

KEPT = 64  # pages behind the one that was read last

Passwords = Sequence[str] | Mapping[str, Sequence[str]]  # tried in order on every document, or on those of each path


class Reader:
    """Reads the documents at `paths` from the front, and again from the document itself for a page that is past."""

    def __init__(
        self, paths: Sequence[str | Path], pages: str | None, passwords: Passwords, limits: PageLimits,
        skip: Collection[Path] = (),
    ) -> None:  # fmt: skip
        self._paths = [str(path) for path in paths]
        self._pages, self._passwords, self._limits, self._skip = pages, passwords, limits, tuple(skip)
        self._ahead: Iterator[Page | PageError] | None = None
        self._kept: OrderedDict[tuple[str, int], Page] = OrderedDict()

    def every(self) -> Generator[Page | PageError, None, None]:
        """Read everything once, for planning."""
        yield from self._read(self._paths, self._pages)

    def _read(self, paths: Sequence[str], pages: str | None) -> Iterator[Page | PageError]:
        given = self._passwords
        if not isinstance(given, Mapping):
            yield from read_pages(paths, pages=pages, passwords=given, limits=self._limits, skip=self._skip)
            return
        for path in paths:
            own = given.get(path, ())
            yield from read_pages([path], pages=pages, passwords=own, limits=self._limits, skip=self._skip)

    def pages(self, keys: Sequence[tuple[str, int]]) -> list[Page]:
        """Return the pages of these documents and numbers; raises DocumentError for one that has gone."""
        return [self._page(key) for key in keys]

    def _page(self, key: tuple[str, int]) -> Page:
        if key in self._kept:
            return self._kept[key]
        if self._ahead is None:
            self._ahead = self.every()
        if (found := self._find(self._ahead, key)) is not None:
            return found
        # An item that comes back late, after the reader passed it.
        document = key[0]
        paths = [document] if Path(document).is_file() else self._paths
        numbers = str(key[1]) if Path(document).is_file() else self._pages
        if (found := self._find(self._read(paths, numbers), key)) is not None:
            return found
        raise DocumentError(f"{document}: page {key[1]} was there when the run began, and is gone.", code="gone")

    def _find(self, pages: Iterator[Page | PageError], key: tuple[str, int]) -> Page | None:
        for page in pages:
            if isinstance(page, PageError):
                continue
            self._kept[page.document, page.number] = page
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            if (page.document, page.number) == key:
                return page
        return None
