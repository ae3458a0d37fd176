"""The typefaces that nano is taught and tested with: where each comes from, and where its cut copy lies.

The manifest names the Debian package, the file and the file's SHA-256; the files themselves are
fetched by `tessera nano fonts` and do not ship. Families, not files, are held out: no weight or
slant of an unseen family is ever trained on. A cut copy is named by its source's digest, so a copy
of another source can never stand in for it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MANIFEST = Path(__file__).with_name("manifest.json")
KINDS = ("text", "mono", "display", "script")
PRINTABLE = tuple(range(32, 127))
CURRENCIES = (0xA3, 0x20AC)  # pound and euro


@dataclass(frozen=True)
class Typeface:
    """One file of a family, as its package holds it."""

    family: str
    kind: str
    unseen: bool
    licence: str
    package: str
    version: str
    file: str  # within the package
    sha256: str  # of that file, before it is cut

    @property
    def cut_name(self) -> str:
        return self.sha256[:20] + Path(self.file).suffix.lower()


@cache
def typefaces() -> tuple[Typeface, ...]:
    """Every file of the manifest, in its order."""
    packages = json.loads(MANIFEST.read_text(encoding="utf-8"))["packages"]
    return tuple(
        Typeface(
            family["name"], family["kind"], family["unseen"], family["licence"],
            package["name"], package["version"], file, digest,
        )
        for package in packages
        for family in package["families"]
        for file, digest in family["files"].items()
    )  # fmt: skip


def fonts_folder() -> Path:
    """Where the cut files lie: TESSERA_NANO_FONTS, or a folder in the user's cache."""
    named = os.environ.get("TESSERA_NANO_FONTS")
    if named:
        return Path(named).expanduser()
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home).expanduser() / "tessera" / "nano-fonts"
