"""Limits of reading documents, and the words for exceeding one: the value, the limit and the way out."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tessera.errors import DocumentError, UsageError


@dataclass(frozen=True, kw_only=True)
class PageLimits:
    """What a document may demand before it is refused; a field's name is how Python and errors call the limit."""

    max_pages: int = 5000  # read of one document
    max_bytes: int = 500_000_000  # of one document
    max_pixels: int = 64_000_000  # of one image, as stored or as rendered
    page_seconds: float = 30.0  # for reading or rendering one page
    convert_seconds: float = 120.0  # for LibreOffice to print one document
    max_files: int = 100_000  # below one folder or pattern
    max_members: int = 10_000  # of one archive or mail
    max_unpacked_bytes: int = 4_000_000_000  # of all members of one archive together
    max_ratio: int = 300  # unpacked to packed bytes of a member; images of one colour reach it, documents do not

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise UsageError(f"{field.name} is {getattr(self, field.name)}; it must be above 0.", param=field.name)

    def check_bytes(self, name: str, size: int) -> None:
        """Raise DocumentError for a document of too many bytes, or of none."""
        if size == 0:
            raise DocumentError(f"{name} is empty (0 bytes); check the file or the download.", code="empty")
        if size > self.max_bytes:
            raise DocumentError(
                f"{name} has {size:,} bytes and the limit is {self.max_bytes:,} (max_bytes); split it or raise it.",
                code="too_large",
            )

    def check_size(self, place: str, width: int, height: int) -> None:
        """Raise DocumentError if more pixels of a page are asked for than may be rendered."""
        if width * height > self.max_pixels:
            raise DocumentError(
                f"{place}: {width} x {height} pixels are asked for and the limit is {self.max_pixels:,} pixels "
                "(max_pixels); render it smaller or raise the limit.",
                code="too_large",
            )

    def check_pages(self, name: str, wanted: int, count: int) -> None:
        """Raise DocumentError if more pages are wanted of a document than may be read."""
        if wanted > self.max_pages:
            raise DocumentError(
                f"{name} has {count:,} pages, {wanted:,} of them are wanted and the limit is {self.max_pages:,} "
                f'(max_pages); read a part (pages="1-{self.max_pages}") or raise the limit.',
                code="too_many_pages",
            )
