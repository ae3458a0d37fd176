"""The typefaces pictures are set in: any of the trained families, or of those held out.

A face is drawn in three steps: its kind by the shares below, then the family, then one of the
family's files. So a family with many weights is no more frequent than one with a single file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from tessera.errors import UsageError
from tessera.nano.typefaces import fonts_folder, typefaces

# How often each kind is drawn, of 95. Most of what people photograph is set in plain text faces.
SHARES = {"text": 60, "mono": 15, "display": 15, "script": 5}
FILES_OF_A_FAMILY = 4  # at most
SLOTS_OF_A_FILE = 12  # divisible by every number of files


@dataclass(frozen=True)
class Face:
    """One font file; no path means the typeface built into Pillow."""

    family: str
    path: Path | None
    kind: str  # text, mono, display or script

    def font(self, size: int) -> ImageFont.FreeTypeFont:
        return _open(self.path, size)


@lru_cache(maxsize=4096)
def _open(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout advances letter by letter, so the centre of each is known exactly.
    if path is not None:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    own = ImageFont.load_default(size)
    if not isinstance(own, ImageFont.FreeTypeFont):
        raise UsageError("this Pillow was built without FreeType, which drawing text needs; install Pillow's own wheel")
    return own


def built_in() -> Face:
    """Pillow's own typeface: enough to draw and test without fetching any."""
    return Face("Pillow", None, "text")


def faces(unseen: bool = False) -> list[Face]:
    """The fetched faces of trained or of held-out families, each as often as it is to be drawn.

    `random.choice` of the list draws kinds by their shares, families of a kind alike, and files of
    a family alike.
    """
    return list(_weighted(fonts_folder(), unseen))


@cache
def _weighted(folder: Path, unseen: bool) -> tuple[Face, ...]:
    return weighted(each_face(folder, unseen))


def each_face(folder: Path, unseen: bool) -> list[Face]:
    """Every fetched face once; raises UsageError where the folder lacks one."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    chosen = [face for face in typefaces() if face.unseen == unseen]
    for face in chosen:
        if face.cut_name not in there:
            raise UsageError(f"{folder} lacks {face.file} of {face.package}; fetch the typefaces: tessera nano fonts")
    return [Face(face.family, folder / face.cut_name, face.kind) for face in chosen]


def weighted(single: Sequence[Face]) -> tuple[Face, ...]:
    """Each face repeated in proportion to its probability."""
    families: dict[str, dict[str, list[Face]]] = {kind: {} for kind in SHARES}
    for face in single:
        families[face.kind].setdefault(face.family, []).append(face)
    # The rarest family appears once for each slot, every other as many times more as it is more frequent.
    frequency = {kind: SHARES[kind] / len(members) for kind, members in families.items() if members}
    rarest = min(frequency.values(), default=1.0)
    return tuple(
        face
        for kind, members in families.items()
        for files in members.values()
        for face in files
        for _ in range(round(SLOTS_OF_A_FILE / len(files) * frequency[kind] / rarest))
    )
