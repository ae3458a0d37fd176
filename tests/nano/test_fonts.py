"""The manifest's promises, what a cut font draws, how faces are drawn, and the fetch from packages made here."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from PIL import Image, ImageDraw, ImageFont
from typer.testing import CliRunner

from tessera import errors
from tessera.cli.app import app
from tessera.nano import typefaces as listing
from tessera.nano.pictures import fonts, icons
from tessera.nano.typefaces.cut import cut
from tessera.nano.typefaces.fetch import INDEX, fetch

fontTools = pytest.importorskip("fontTools", reason="the nano extra is not installed")
from fontTools.fontBuilder import FontBuilder  # noqa: E402
from fontTools.pens.t2CharStringPen import T2CharStringPen  # noqa: E402
from fontTools.pens.ttGlyphPen import TTGlyphPen  # noqa: E402
from fontTools.ttLib import TTFont  # noqa: E402

HELD_OUT_AT_0_1_0 = {
    "EB Garamond", "Cabin", "B612", "B612 Mono", "JetBrains Mono", "Caladea", "TeX Gyre Adventor", "Vollkorn",
    "Quicksand",
}  # fmt: skip
ASCII = [chr(code) for code in range(33, 127)]
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb, which unpacks packages, is absent")


def silent(line: str) -> None:
    """A log that nobody reads."""


def font_file(characters: list[str], postscript: bool = False, reverse: bool = False) -> bytes:
    """A font whose every character is a box with a notch, as tall as its code."""
    builder = FontBuilder(1000, isTTF=not postscript)
    names = {char: f"u{ord(char):04X}" for char in characters}
    builder.setupGlyphOrder([".notdef", "space", *names.values()])
    builder.setupCharacterMap({32: "space", **{ord(char): name for char, name in names.items()}})
    shapes = {".notdef": 700, "space": 0, **{name: 300 + 4 * ord(char) % 400 for char, name in names.items()}}
    drawn = {}
    for name, height in shapes.items():
        pen = T2CharStringPen(600, None) if postscript else TTGlyphPen(None)
        if height:
            corners = [(50, 0), (50, height), (200, height), (200, height // 2), (250, height // 2), (250, 0)]
            if postscript != reverse:
                corners.reverse()
            pen.moveTo(corners[0])
            for corner in corners[1:]:
                pen.lineTo(corner)
            pen.closePath()
        drawn[name] = pen.getCharString() if postscript else pen.glyph()
    if postscript:
        builder.setupCFF("Test", {}, drawn, {})
    else:
        builder.setupGlyf(drawn)
    builder.setupHorizontalMetrics({name: (600, 50) for name in shapes})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Test", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    out = io.BytesIO()
    builder.save(out)
    return out.getvalue()


def opened(data: bytes, size: int = 40) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(io.BytesIO(data), size, layout_engine=ImageFont.Layout.BASIC)


def drawn(data: bytes, text: str) -> Image.Image:
    picture = Image.new("L", (900, 80))
    ImageDraw.Draw(picture).text((10, 60), text, font=opened(data), fill=255, anchor="ls")
    return picture


def pillows_own() -> bytes:
    """The font file inside Pillow: a real one, hinted and with kerning."""
    held = fonts.built_in().font(20).path
    assert isinstance(held, io.BytesIO)
    return held.getvalue()


# The manifest ----------------------------------------------------------------------------------


def test_every_family_is_trained_or_held_out_and_not_both() -> None:
    trained = {face.family for face in listing.typefaces() if not face.unseen}
    unseen = {face.family for face in listing.typefaces() if face.unseen}
    assert not trained & unseen
    assert len(trained) > 300
    assert 0.1 < len(unseen) / len(trained | unseen) < 0.2
    assert unseen >= HELD_OUT_AT_0_1_0
    assert {face.kind for face in listing.typefaces() if face.unseen} == set(listing.KINDS)


def test_relatives_are_on_one_side() -> None:
    """A family in another width, spacing or name is the same design; no part of one may be trained on."""
    unseen = {face.family for face in listing.typefaces() if face.unseen}
    for face in listing.typefaces():
        if not face.unseen:
            start = face.family.split()[0]
            assert start not in {"Cabin", "B612", "PT", "Quicksand", "Courier", "Karla", "Comic"} or face.family in {
                "Courier 10 Pitch"  # another design, by Bitstream
            }
    assert {"PT Sans", "PT Sans Narrow", "PT Serif", "PT Mono", "Cabin Condensed"} <= unseen


def test_every_file_has_a_kind_a_licence_and_a_digest_of_its_own() -> None:
    faces = listing.typefaces()
    assert len({face.cut_name for face in faces}) == len(faces)
    for face in faces:
        assert face.kind in listing.KINDS
        assert face.licence
        assert "unknown" not in face.licence
        assert face.version
        assert len(face.sha256) == 64
    assert max(Counter(face.family for face in faces).values()) <= fonts.FILES_OF_A_FAMILY


# Which face is drawn ---------------------------------------------------------------------------


def test_kinds_are_drawn_by_their_shares_and_families_alike() -> None:
    single = [fonts.Face(face.family, Path(face.cut_name), face.kind) for face in listing.typefaces()]
    many = fonts.weighted(single)
    kinds = Counter(face.kind for face in many)
    for kind, share in {"text": 60, "mono": 15, "display": 15, "script": 5}.items():
        assert kinds[kind] / len(many) == pytest.approx(share / 95, abs=0.01)
    families = Counter(face.family for face in many if face.kind == "text")
    assert max(families.values()) / min(families.values()) < 1.1
    assert set(many) == set(single)


def test_a_family_of_four_files_is_as_frequent_as_one_of_a_single_file() -> None:
    single = [fonts.Face("four", Path(str(number)), "text") for number in range(4)]
    many = fonts.weighted([*single, fonts.Face("one", Path("one"), "text")])
    dice = Random(1)
    drawn_families = Counter(dice.choice(many).family for _ in range(4000))
    assert drawn_families["four"] == pytest.approx(2000, abs=200)  # six standard deviations
    assert Counter(face.path for face in many)[Path("0")] * 4 == Counter(face.path for face in many)[Path("one")]


def test_the_built_in_face_needs_no_file() -> None:
    assert fonts.built_in().font(20).getlength("Total") > 20


def test_faces_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_NANO_FONTS", str(tmp_path / "absent"))
    with pytest.raises(errors.UsageError, match="tessera nano fonts"):
        fonts.faces()


def test_the_folder_is_the_named_one_or_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_NANO_FONTS", "/srv/fonts")
    assert listing.fonts_folder() == Path("/srv/fonts")
    monkeypatch.delenv("TESSERA_NANO_FONTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert listing.fonts_folder() == Path("/var/cache/me/tessera/nano-fonts")


# Cutting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Total 1,204.50", "AV To. fi ffl", "".join(ASCII[:40]), "".join(ASCII[40:])])
def test_a_cut_font_draws_what_the_whole_one_drew(text: str) -> None:
    whole = pillows_own()
    short = cut(whole, "Pillow's own")
    assert drawn(short, text).tobytes() == drawn(whole, text).tobytes()
    assert opened(short).getlength(text) == opened(whole).getlength(text)


def test_a_cut_font_holds_ascii_pound_and_euro_alone() -> None:
    codes = set(TTFont(io.BytesIO(cut(pillows_own(), "Pillow's own"))).getBestCmap())
    assert codes == {*range(32, 127), 0xA3, 0x20AC}


@pytest.mark.parametrize("postscript", [False, True])
@pytest.mark.parametrize("reverse", [False, True], ids=["as is usual", "turned the wrong way"])
def test_absent_signs_are_made_of_letters(postscript: bool, reverse: bool) -> None:
    data = cut(font_file(ASCII, postscript, reverse), "Test")
    for sign, letter in {"€": "C", "£": "f"}.items():  # all of one width here
        made, whole = drawn(data, sign), drawn(data, letter)
        assert opened(data).getlength(sign) == opened(data).getlength(letter)
        assert all(m >= w for m, w in zip(made.tobytes(), whole.tobytes(), strict=True)), "the letter is all there"
        assert sum(made.tobytes()) > 1.02 * sum(whole.tobytes()), "and bars beside it"


@pytest.mark.parametrize("postscript", [False, True])
def test_present_signs_stay(postscript: bool) -> None:
    whole = font_file([*ASCII, "£", "€"], postscript)
    assert drawn(cut(whole, "Test"), "£€").tobytes() == drawn(whole, "£€").tobytes()


def test_a_font_without_a_character_is_refused_by_name() -> None:
    with pytest.raises(errors.CheckpointError, match=r"Odd\.ttf does not draw 'q'"):
        cut(font_file([char for char in ASCII if char != "q"]), "Odd.ttf")


def test_a_file_that_is_no_font_is_refused() -> None:
    with pytest.raises(errors.CheckpointError, match="not a font file"):
        cut(b"<html>not found</html>", "page.ttf")


# Fetching --------------------------------------------------------------------------------------


def package(folder: Path, files: dict[str, bytes], name: str = "fonts-test") -> None:
    """A Debian package with these files, made by dpkg-deb itself."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: test\n"
    (tree / "DEBIAN/control").write_text(control)
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    subprocess.run(["dpkg-deb", "--build", "-Znone", tree, folder / f"{name}_1.0_all.deb"], check=True, timeout=60)
    shutil.rmtree(tree)


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A manifest of two families in one package, which lies in tmp_path / "debs"."""
    files = {"usr/share/fonts/a.ttf": font_file(ASCII), "usr/share/fonts/b.otf": font_file(ASCII, postscript=True)}
    if shutil.which("dpkg-deb"):
        (tmp_path / "debs").mkdir()
        package(tmp_path / "debs", files)
    families = [
        {
            "name": path[-5], "kind": "text", "unseen": path.endswith("otf"), "licence": "OFL-1.1",
            "files": {path: hashlib.sha256(data).hexdigest()},
        }
        for path, data in files.items()
    ]  # fmt: skip
    path = tmp_path / "manifest.json"
    packages = [{"name": "fonts-test", "version": "1.0", "families": families}]
    path.write_text(json.dumps({"packages": packages}))
    monkeypatch.setattr(listing, "MANIFEST", path)
    monkeypatch.setenv("TESSERA_NANO_FONTS", str(tmp_path / "cut"))
    listing.typefaces.cache_clear()
    yield path
    monkeypatch.undo()
    listing.typefaces.cache_clear()


@needs_dpkg
def test_fetched_faces_are_there_and_split(manifest: Path, tmp_path: Path) -> None:
    assert fetch(tmp_path / "cut", tmp_path / "debs", silent) == 2
    assert {face.family for face in fonts.faces()} == {"a"}
    assert {face.family for face in fonts.faces(unseen=True)} == {"b"}
    assert fonts.faces()[0].font(20).getlength("M") == 12  # 600 of 1000 units


@needs_dpkg
def test_only_what_is_absent_or_damaged_is_made_again(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    fetch(out, tmp_path / "debs", silent)
    assert fetch(out, None, silent) == 0, "nothing is downloaded for it"
    damaged = out / listing.typefaces()[0].cut_name
    before = damaged.read_bytes()
    damaged.write_bytes(before[:-10])
    assert fetch(out, tmp_path / "debs", silent) == 1
    assert damaged.read_bytes() == before


@needs_dpkg
def test_copies_of_another_cutter_are_made_again(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    fetch(out, tmp_path / "debs", silent)
    lines = (out / INDEX).read_text().splitlines()
    (out / INDEX).write_text("\n".join(["# cutter 0", *lines[1:]]) + "\n")
    assert fetch(out, tmp_path / "debs", silent) == 2


@needs_dpkg
def test_the_index_is_what_sha256sum_checks(manifest: Path, tmp_path: Path) -> None:
    fetch(tmp_path / "cut", tmp_path / "debs", silent)
    subprocess.run(["sha256sum", "--check", "--quiet", INDEX], cwd=tmp_path / "cut", check=True, timeout=60)


@needs_dpkg
def test_a_file_that_differs_stops_the_fetch(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    package(tmp_path / "other", {"usr/share/fonts/a.ttf": font_file([*ASCII, "£"]), "usr/share/fonts/b.otf": b""})
    with pytest.raises(errors.CheckpointError, match=r"a\.ttf has the SHA-256 .* fonts-test 1\.0"):
        fetch(tmp_path / "cut", tmp_path / "other", silent)


@needs_dpkg
def test_a_file_that_is_missing_stops_the_fetch(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    package(tmp_path / "other", {"usr/share/doc/x": b"x"})
    with pytest.raises(errors.CheckpointError, match=r"a\.ttf is missing in fonts-test_1\.0_all\.deb"):
        fetch(tmp_path / "cut", tmp_path / "other", silent)


@needs_dpkg
def test_half_a_package_is_named(manifest: Path, tmp_path: Path) -> None:
    deb = tmp_path / "debs/fonts-test_1.0_all.deb"
    deb.write_bytes(deb.read_bytes()[:600])
    with pytest.raises(errors.CheckpointError, match="not a complete Debian package"):
        fetch(tmp_path / "cut", tmp_path / "debs", silent)


def test_off_debian_the_way_out_is_said(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.UsageError, match="apt-get is not here; run it on Debian 12"):
        fetch(tmp_path / "cut", None, silent)


def test_the_missing_extra_is_named_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.nano.typefaces.cut.find_spec", lambda name: None)
    with pytest.raises(errors.MissingExtraError, match=r'pip install "tessera\[nano\]"'):
        fetch(tmp_path / "cut", None, silent)
    assert not (tmp_path / "cut").exists()


@needs_dpkg
def test_the_command_fetches_and_prints_the_folder(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path | None] = []
    monkeypatch.setattr(icons, "fetch_icons", drawn.append)  # it needs the network
    result = CliRunner().invoke(app, ["nano", "fonts", "--debs", str(tmp_path / "debs")], catch_exceptions=False)
    assert result.exit_code == 0
    assert drawn == [None]
    assert str(tmp_path / "cut") in result.output
    assert "2 files of 2 families, 2 of them new" in result.output


@pytest.mark.slow
def test_every_icon_font_is_the_one_that_is_named_and_draws(tmp_path: Path) -> None:
    try:
        icons.fetch_icons(tmp_path)
    except errors.UsageError as error:
        if "is not the file" in str(error):
            raise
        pytest.skip(f"the packages are out of reach: {error}")
    found = json.loads((tmp_path / icons.MANIFEST).read_text(encoding="utf-8"))
    assert set(found) == {source.name for source in icons.SOURCES}
    for name, told in found.items():
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.width == icons.COLUMNS * icons.CELL
        assert len(told["names"]) > 50, name
