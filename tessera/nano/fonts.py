"""The typefaces nano's pictures are set in: which are taught, which are held out, where they lie.

Families, not files, are held out: no weight or slant of an unseen family is ever trained on. The
files come from Debian packages; a missing one stops the drawing, because a recipe that silently
used fewer fonts would no longer be the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from tessera.errors import UsageError

FOLDERS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".local/share/fonts")
PACKAGES = (
    "fonts-dejavu-core fonts-dejavu-extra fonts-liberation fonts-freefont-ttf fonts-roboto-unhinted "
    "fonts-open-sans fonts-lato fonts-crosextra-carlito fonts-urw-base35 fonts-inconsolata fonts-cantarell "
    "fonts-linuxlibertine fonts-hack fonts-firacode fonts-inter fonts-courier-prime fonts-ebgaramond fonts-cabin "
    "fonts-b612 fonts-jetbrains-mono fonts-crosextra-caladea fonts-vollkorn fonts-quicksand"
)

TRAINED_FILES = (
    "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansCondensed.ttf", "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "LiberationSans-Regular.ttf",
    "LiberationSans-Bold.ttf", "LiberationSans-Italic.ttf", "LiberationSerif-Regular.ttf", "LiberationSerif-Bold.ttf",
    "LiberationSerif-Italic.ttf",
    "LiberationMono-Regular.ttf", "LiberationMono-Bold.ttf", "LiberationSansNarrow-Regular.ttf", "FreeSans.ttf",
    "FreeSerif.ttf", "FreeMono.ttf", "FreeMonoBold.ttf", "Roboto-Regular.ttf", "Roboto-Medium.ttf", "Roboto-Bold.ttf",
    "RobotoCondensed-Regular.ttf", "OpenSans-Regular.ttf", "OpenSans-Semibold.ttf", "OpenSans-Bold.ttf",
    "Lato-Regular.ttf", "Lato-Bold.ttf", "Lato-Italic.ttf", "Carlito-Regular.ttf", "Carlito-Bold.ttf",
    "NimbusSans-Regular.otf", "NimbusRoman-Regular.otf", "NimbusMonoPS-Regular.otf", "C059-Roman.otf", "P052-Roman.otf",
    "Inconsolata.otf", "Cantarell-Regular.otf", "Cantarell-Bold.otf", "LinLibertine_R.otf", "Hack-Regular.ttf",
    "FiraCode-Regular.ttf", "Inter-Regular.otf", "Inter-SemiBold.otf", "Courier Prime.otf",
)  # fmt: skip
UNSEEN_FILES = (
    "EBGaramond12-Regular.otf", "Cabin-Regular.otf", "Cabin-Bold.otf", "B612-Regular.otf", "B612Mono-Regular.otf",
    "JetBrainsMono-Regular.ttf", "Caladea-Regular.ttf", "URWGothic-Book.otf", "Vollkorn-Regular.ttf",
    "Quicksand-Medium.ttf",
)  # fmt: skip


class Fonts:
    """Typefaces by number at any size; None stands for the one built into Pillow."""

    def __init__(self, paths: Sequence[Path | None]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def font(self, number: int, size: int) -> ImageFont.FreeTypeFont:
        return _open(self.paths[number], size)


@lru_cache(maxsize=2048)
def _open(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout advances letter by letter, so the centre of each is known exactly.
    if path is not None:
        return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)
    built_in = ImageFont.load_default(size)
    if not isinstance(built_in, ImageFont.FreeTypeFont):
        raise UsageError(
            "this Pillow was built without FreeType, which drawing text needs; install Pillow's own wheel."
        )
    return built_in


@cache
def installed(names: tuple[str, ...]) -> Fonts:
    """The named files, in that order; raises UsageError with the install command for the first absent."""
    found = {path.name: path for folder in FOLDERS if folder.is_dir() for path in sorted(folder.rglob("*.[ot]tf"))}
    for name in names:
        if name not in found:
            raise UsageError(f"the font file {name} is not installed; on Debian: apt-get install {PACKAGES}")
    return Fonts([found[name] for name in names])


def built_in() -> Fonts:
    """Pillow's own typeface: enough to draw and test without any font package."""
    return Fonts([None])
