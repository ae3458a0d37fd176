"""Pictures of everyday things, from the glyphs of free icon fonts: fetched once, drawn into one sheet a font.

`icons.tsv` says which things, by which emoji, and by which glyph names in fonts without emoji. Colour
emoji keep their colours; the other fonts give shapes to be filled with any colour. Whole fonts are
held out, so that a thing is known and its drawing is not.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from tessera.errors import UsageError
from tessera.nano.pictures.packages import package_files
from tessera.nano.typefaces import fonts_folder

CELL = 96  # pixels: the side of a drawing in its sheet
COLUMNS = 20
EMOJI_STRIKE = 109  # the one size in which Noto's colour bitmaps come
MANIFEST = "manifest.json"
# Glyphs that are named like a thing and show another: broadcast waves, a picture in a frame, a brand.
MISLEADING = {("lucide", "radio"), ("material", "satellite"), ("font-awesome", "apple")}
NAMES = Path(__file__).with_name("icons.tsv")

# Names of which one may stand for another: never two of them in a picture, nor one asked for another.
KINDRED = tuple(
    frozenset(group.split(", "))
    for group in (
        "tree, pine tree, christmas tree, palm tree", "flower, rose, tulip, sunflower, bouquet",
        "leaf, maple leaf, seedling",
        "bird, duck, eagle, owl, chick, chicken, rooster, parrot, penguin, peacock, swan, flamingo, turkey",
        "phone, telephone", "computer, laptop, television", "camera, video camera", "watch, clock, alarm clock",
        "car, taxi, police car", "truck, fire engine, ambulance", "train, tram", "motorcycle, scooter, bicycle",
        "ship, sailboat, canoe",
        "house, office building, school, hospital, bank, hotel, store, factory, church, castle",
        "shoe, boot, sandal", "glasses, sunglasses", "handbag, purse, backpack, briefcase, luggage",
        "moon, full moon, globe", "fish, shark, dolphin, whale", "mouse, hamster, squirrel, computer mouse",
        "wine, cocktail, beer, champagne", "coffee, tea", "bread, baguette, croissant, bagel, pretzel",
        "shrimp, lobster",
        "cake, cupcake, pie", "noodles, spaghetti", "candy, lollipop", "pencil, pen, crayon, paintbrush",
        "door, window",
        "package, gift", "egg, fried egg", "turtle, shell", "soccer ball, basketball, football, baseball, volleyball",
        "crocodile, lizard, dragon, dinosaur", "envelope, mailbox", "banknote, money bag, coin", "sword, knife",
        "hamburger, sandwich", "donut, bagel", "shirt, coat, dress", "trousers, shorts", "chair, sofa", "globe, map",
        "trophy, medal", "joystick, game controller", "light bulb, flashlight, lantern, candle", "top hat, cap",
        "violin, guitar", "trumpet, saxophone", "fire, volcano", "key, lock", "pill, bandage", "wood, brick wall",
        "cow, goat, sheep, deer", "tiger, lion, cat", "lightning, warning sign", "peach, apple, orange, tomato, mango",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """An icon font: where it comes from and how its glyphs are found."""

    name: str
    package: str
    file: str  # the end of its path in the package
    sha256: str
    licence: str
    version: str = ""  # of an npm package; Debian's is that of the machine's release
    emoji: bool = False  # glyphs by code point, not by name
    colored: bool = False
    held_out: bool = False


SOURCES = (
    Source("noto", "fonts-noto-color-emoji", "NotoColorEmoji.ttf",
           "e5899ed38b8ed83e08bd3ac5de09791e9d19d288333a796de1d35ad17396f1ec", "OFL-1.1", emoji=True, colored=True),
    Source("material", "fonts-materialdesignicons-webfont", "materialdesignicons-webfont.ttf",
           "fa357e31fe02cb093a16cb022c619ba4cc663e5b1d4520f90e4005f2d8f9678e", "OFL-1.1"),
    Source("lucide", "lucide-static", "font/lucide.ttf",
           "695a71b7a9f185d2c6d606640db2687c2c93044abba09ded7fcec28b168a70f4", "ISC", "1.62.0"),
    Source("tabler", "@tabler/icons-webfont", "dist/fonts/tabler-icons.ttf",
           "d291676dc4c28b386552753bf16cf2bef0e93e5543f8e0b5c5d72c0da41ae1bc", "MIT", "3.49.0"),
    Source("tabler-filled", "@tabler/icons-webfont", "dist/fonts/tabler-icons-filled.ttf",
           "08304212f3f43271ee700156044a298a081ad2a24b30e28b4f3346dd2fe7ecf9", "MIT", "3.49.0"),
    Source("symbola", "fonts-symbola", "Symbola_hint.ttf",
           "af8bd8cc9c808272034651cb5ebf6c38370ae536fe631eb89462f127f11e793f", "free for any use", emoji=True,
           held_out=True),
    Source("font-awesome", "fonts-font-awesome", "fontawesome-webfont.ttf",
           "aa58f33f239a0fb02f5c7a6c45c043d7a9ac9a093335806694ecd6d4edc0d6a8", "OFL-1.1", held_out=True),
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """A row of icons.tsv."""

    name: str
    emoji: tuple[str, ...]
    glyphs: tuple[str, ...]


def things() -> list[Thing]:
    rows = [line.split("\t") for line in NAMES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [Thing(name, tuple(emoji), _glyph_names(name, given)) for name, emoji, given in rows]


@lru_cache(maxsize=1)
def thing_names() -> tuple[str, ...]:
    return tuple(thing.name for thing in things())


@lru_cache(maxsize=512)
def kindred(name: str) -> frozenset[str]:
    """The names that somebody may also give to this thing, itself among them."""
    return frozenset({name}).union(*(group for group in KINDRED if name in group))


def _glyph_names(name: str, given: str) -> tuple[str, ...]:
    aliases = [alias for alias in given.split(",") if alias]
    own = [] if "-" in aliases else [name.replace(" ", "-"), name.replace(" ", "_")]
    return tuple(alias for alias in [*aliases, *own] if alias != "-")


# Fetching -----------------------------------------------------------------------------------------


def fetch_icons(folder: Path | None = None) -> Path:
    """Download the icon fonts (apt-get and npm) and draw their sheets; returns the sheets' folder."""
    folder = folder or icon_folder()
    folder.mkdir(parents=True, exist_ok=True)
    manifest: dict[str, Any] = {}
    for package in dict.fromkeys(source.package for source in SOURCES):
        sources = [source for source in SOURCES if source.package == package]
        version, files = package_files(package, [source.file for source in sources], sources[0].version)
        for source in sources:
            font = next(content for name, content in files.items() if name.endswith(source.file))
            if hashlib.sha256(font).hexdigest() != source.sha256:
                raise UsageError(
                    f"{source.file} of {source.package} {version} is not the file that icons.py names; "
                    "fetch it on Debian 12, or change the recipe."
                )
            names, sheet = _draw_sheet(source, font)
            path = folder / f"{source.name}.png"
            sheet.save(path)
            manifest[source.name] = {
                **asdict(source),
                "version": version,
                "names": names,
            }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder


def _draw_sheet(source: Source, font_file: bytes) -> tuple[list[str], Image.Image]:
    from fontTools.ttLib import TTFont

    characters = TTFont(io.BytesIO(font_file)).getBestCmap()
    named = {glyph: chr(code) for code, glyph in characters.items()}
    size = EMOJI_STRIKE if source.colored else 2 * CELL
    font = ImageFont.truetype(io.BytesIO(font_file), size, layout_engine=ImageFont.Layout.BASIC)
    drawn: list[tuple[str, Image.Image]] = []
    for thing in things():
        if (source.name, thing.name) in MISLEADING:
            continue
        if source.emoji:
            found = [char for char in thing.emoji if ord(char) in characters]
        else:
            found = [named[glyph] for glyph in thing.glyphs if glyph in named][:1]
        drawn += [(thing.name, _draw_cell(font, char, source.colored)) for char in found]
    rows = -(-len(drawn) // COLUMNS)
    sheet = Image.new("RGBA" if source.colored else "L", (COLUMNS * CELL, rows * CELL))
    for number, (_, cell) in enumerate(drawn):
        sheet.paste(cell, _place(number))
    return [name for name, _ in drawn], sheet


def _place(number: int) -> tuple[int, int]:
    return number % COLUMNS * CELL, number // COLUMNS * CELL


def _draw_cell(font: ImageFont.FreeTypeFont, char: str, colored: bool) -> Image.Image:
    """One glyph, cut to what is drawn and made as large as a cell holds."""
    side = 3 * CELL
    glyph = Image.new("RGBA" if colored else "L", (side, side))
    ImageDraw.Draw(glyph).text((side / 2, side / 2), char, font=font, fill="white", anchor="mm", embedded_color=colored)
    glyph = glyph.crop(glyph.getbbox())
    scale = CELL / max(glyph.size)
    glyph = glyph.resize(
        (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale))), Image.Resampling.LANCZOS
    )
    cell = Image.new(glyph.mode, (CELL, CELL))
    cell.paste(glyph, ((CELL - glyph.width) // 2, (CELL - glyph.height) // 2))
    return cell


# Using --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Icon:
    """One drawing of a thing: RGBA where it has its own colours, else a mask to be filled."""

    name: str
    source: str
    number: int
    colored: bool


class Icons:
    """The fetched sheets: trained ones, or those held out."""

    def __init__(self, folder: Path, unseen: bool = False) -> None:
        self.folder = folder
        self.all: list[Icon] = []
        for name, entry in json.loads((folder / MANIFEST).read_text(encoding="utf-8")).items():
            if entry["held_out"] == unseen:
                self.all += [Icon(thing, name, n, entry["colored"]) for n, thing in enumerate(entry["names"])]

    @cached_property
    def by_name(self) -> dict[str, list[Icon]]:
        found: dict[str, list[Icon]] = {}
        for icon in self.all:
            found.setdefault(icon.name, []).append(icon)
        return found

    def draw_from(self, random: Random, count: int, one_source: bool) -> list[Icon]:
        """That many icons of different things, each thing as likely as any other."""
        names: list[str] = []
        for name in random.sample(sorted(self.by_name), min(3 * count + 8, len(self.by_name))):
            if len(names) < count and not any(name in kindred(other) for other in names):
                names.append(name)
        icons = [random.choice(self.by_name[name]) for name in names]
        if one_source:
            source = icons[0].source
            icons = [next((i for i in self.by_name[icon.name] if i.source == source), icon) for icon in icons]
        return icons

    def image(self, icon: Icon, size: int) -> Image.Image:
        """The drawing in a square of `size` pixels."""
        left, top = _place(icon.number)
        cell = _sheet(self.folder / f"{icon.source}.png").crop((left, top, left + CELL, top + CELL))
        return cell.resize((size, size), Image.Resampling.BICUBIC)


@lru_cache(maxsize=16)
def _sheet(path: Path) -> Image.Image:
    with Image.open(path) as sheet:
        sheet.load()
        return sheet


def icon_folder() -> Path:
    """Beside the typefaces."""
    return fonts_folder() / "icons"


@lru_cache(maxsize=2)
def fetched_icons(unseen: bool = False) -> Icons | None:
    """The icons of the cache folder; None before `tessera nano fonts` has fetched them."""
    return Icons(icon_folder(), unseen) if (icon_folder() / MANIFEST).is_file() else None


def check_icons() -> None:
    """Refuse to train without icons: scenes would silently hold nothing but shapes."""
    if fetched_icons() is None:
        raise UsageError(f"there are no icons in {icon_folder()}; run `tessera nano fonts` first.")
