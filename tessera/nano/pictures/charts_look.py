"""How charts look: the colours, frames, grids and places of the programs that people draw charts with.

Each look imitates the default of a widespread program or theme, by eye. A third of the charts mix
the properties at random.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from random import Random

from tessera.nano.pictures.canvas import BLACK, WHITE, Color

Palette = tuple[Color, ...]


def _palette(codes: str) -> Palette:
    return tuple((int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)) for code in codes.split())


def _grey(level: int) -> Color:
    return (level, level, level)


PALETTES: dict[str, Palette] = {
    "tab10": _palette("1f77b4 ff7f0e 2ca02c d62728 9467bd 8c564b e377c2 7f7f7f bcbd22 17becf"),
    "deep": _palette("4c72b0 dd8452 55a868 c44e52 8172b3 937860 da8bc3 8c8c8c"),
    "office": _palette("4472c4 ed7d31 a5a5a5 ffc000 5b9bd5 70ad47"),
    "office07": _palette("4f81bd c0504d 9bbb59 8064a2 4bacc6 f79646"),
    "office03": _palette("9999ff 993366 ffffcc ccffff 660066 ff8080"),
    "office23": _palette("156082 e97132 196b24 0f9ed5 a02b93 4ea72e"),
    "google": _palette("4285f4 ea4335 fbbc04 34a853 ff6d01 46bdc6"),
    "google_old": _palette("3366cc dc3912 ff9900 109618 990099 0099c6"),
    "hue": _palette("f8766d 00ba38 619cff b79f00 00bfc4 f564e3"),
    "plotly": _palette("636efa ef553b 00cc96 ab63fa ffa15a 19d3f3"),
    "tableau": _palette("4e79a7 f28e2c e15759 76b7b2 59a14f edc949 af7aa1"),
    "chartjs": _palette("36a2eb ff6384 4bc0c0 ff9f40 9966ff ffcd56"),
    "highcharts": _palette("7cb5ec 434348 90ed7d f7a35c 8085e9 f15c80"),
    "echarts": _palette("5470c6 91cc75 fac858 ee6666 73c0de 3ba272"),
    "libre": _palette("004586 ff420e ffd320 579d1c 7e0021 83caff"),
    "538": _palette("008fd5 fc4f30 e5ae38 6d904f 8b8b8b 810f7c"),
    "ggplot": _palette("e24a33 348abd 988ed5 777777 fbc15e 8eba42"),
    "economist": _palette("01a2d9 014d64 6794a7 7ad2f6 ee8f71 76c0c1"),
    "blues": _palette("08519c 6baed6 3182bd bdd7e7 2171b5 9ecae1"),
    "greys": _palette("333333 999999 666666 cccccc 000000 b0b0b0"),
    "pastel": _palette("a1c9f4 ffb482 8de5a1 ff9f9b d0bbff debb9b"),
    "set2": _palette("66c2a5 fc8d62 8da0cb e78ac3 a6d854 ffd92f"),
    "neon": _palette("8dd3c7 feffb3 bfbbd9 fa8174 81b1d2 fdb462"),
    "grafana": _palette("73bf69 f2cc0c 5794f2 ff9830 f2495c b877d9"),
    "plain": _palette("ff0000 0000ff 00aa00 ffa500 800080 00b0b0"),
    "modern": _palette("6366f1 10b981 f59e0b ef4444 3b82f6 ec4899"),
}
DARK_PALETTES = ("neon", "grafana", "modern", "plotly", "chartjs", "set2", "pastel")


@dataclass(frozen=True)
class Look:
    """One way to draw charts."""

    name: str
    palette: Palette
    paper: Color = WHITE
    plot: Color | None = None  # behind the marks, where it differs from the paper
    ink: Color = BLACK
    faint: Color = BLACK  # of tick labels
    grid: str = ""  # "value", "both" or nothing
    grid_color: Color = (217, 217, 217)
    dash: int = 0
    frame: str = "lb"  # the sides that are drawn: l, b, r, t
    frame_color: Color = BLACK
    tick: int = 0  # pixels, outwards
    title_align: float = 0.5
    title_ratio: float = 1.2
    legends: tuple[str, ...] = ("right",)
    legend_box: bool = False
    swatch: str = "square"  # square, wide, dot
    thickness: tuple[float, float] = (0.5, 0.8)  # of bars, in parts of their slot
    edge: Color | None = None
    line: int = 2
    border: Color | None = None
    hatch: bool = False
    outline: bool = False
    opacity: float = 1.0


LOOKS: tuple[Look, ...] = (
    Look("matplotlib", PALETTES["tab10"], frame="lbrt", tick=3, legends=("inside", "inside", "right"), legend_box=True,
         swatch="wide", thickness=(0.75, 0.85)),
    Look("matplotlib", PALETTES["tab10"], frame="lbrt", tick=3, grid="value", grid_color=_grey(200), dash=4,
         legends=("inside", "top"), legend_box=True, swatch="wide", thickness=(0.6, 0.82)),
    Look("seaborn", PALETTES["deep"], plot=(234, 234, 242), ink=_grey(38), faint=_grey(38), grid="both",
         grid_color=WHITE, frame="", legends=("inside", "right"), thickness=(0.75, 0.85)),
    Look("seaborn white", PALETTES["deep"], ink=_grey(38), faint=_grey(38), grid="value", grid_color=_grey(204),
         frame="lbrt", frame_color=_grey(204), legends=("right", "inside"), thickness=(0.75, 0.85)),
    Look("ggplot style", PALETTES["ggplot"], plot=_grey(229), ink=_grey(85), faint=_grey(85), grid="both",
         grid_color=WHITE, frame="", tick=3, legends=("inside",), legend_box=True, thickness=(0.75, 0.85)),
    Look("538", PALETTES["538"], paper=_grey(240), ink=_grey(50), faint=_grey(80), grid="both", grid_color=_grey(203),
         frame="", title_align=0.0, legends=("top", "direct"), thickness=(0.7, 0.85), line=3),
    Look("excel", PALETTES["office"], ink=_grey(89), faint=_grey(89), grid="value", frame="b", frame_color=_grey(217),
         title_ratio=1.45, legends=("bottom", "bottom", "right"), thickness=(0.35, 0.5), border=_grey(217), line=2),
    Look("excel", PALETTES["office23"], ink=_grey(89), faint=_grey(89), grid="value", frame="b", frame_color=_grey(217),
         title_ratio=1.45, legends=("bottom",), thickness=(0.3, 0.5)),
    Look("excel 2007", PALETTES["office07"], grid="value", grid_color=_grey(134), frame="lb", frame_color=_grey(134),
         tick=3, title_ratio=1.6, legends=("right",), thickness=(0.4, 0.6), border=_grey(134)),
    Look("excel 2003", PALETTES["office03"], plot=_grey(192), grid="value", grid_color=BLACK, frame="lbrt", tick=3,
         legends=("right",), legend_box=True, thickness=(0.4, 0.67), edge=BLACK, border=BLACK),
    Look("google sheets", PALETTES["google"], ink=_grey(117), faint=_grey(68), grid="value", grid_color=_grey(204),
         frame="b", frame_color=_grey(51), title_align=0.0, title_ratio=1.35, legends=("right", "top"),
         swatch="dot", thickness=(0.5, 0.65)),
    Look("google charts", PALETTES["google_old"], faint=_grey(34), grid="value", grid_color=_grey(204), frame="b",
         frame_color=_grey(51), title_align=0.0, title_ratio=1.05, legends=("right",),
         thickness=(0.55, 0.65)),
    Look("ggplot2", PALETTES["hue"], plot=_grey(235), faint=_grey(77), grid="both", grid_color=WHITE, frame="", tick=3,
         title_align=0.0, title_ratio=1.3, legends=("right", "right", "bottom"), thickness=(0.85, 0.92)),
    Look("ggplot2 minimal", PALETTES["set2"], faint=_grey(77), grid="both", grid_color=_grey(235), frame="",
         title_align=0.0, title_ratio=1.3, legends=("right", "bottom"), thickness=(0.8, 0.9)),
    Look("ggplot2 bw", PALETTES["greys"], faint=_grey(77), grid="both", grid_color=_grey(235), frame="lbrt",
         frame_color=_grey(51), tick=3, title_align=0.0, legends=("right",), thickness=(0.8, 0.9)),
    Look("plotly", PALETTES["plotly"], plot=(229, 236, 246), ink=(42, 63, 95), faint=(42, 63, 95), grid="both",
         grid_color=WHITE, frame="", title_align=0.05, title_ratio=1.4, legends=("right",), thickness=(0.75, 0.82)),
    Look("chart.js", PALETTES["chartjs"], ink=_grey(102), faint=_grey(102), grid="both", grid_color=_grey(229),
         frame="lb", frame_color=_grey(200), title_ratio=1.0, legends=("top",), swatch="wide",
         thickness=(0.7, 0.82)),
    Look("chart.js soft", PALETTES["chartjs"], ink=_grey(102), faint=_grey(102), grid="both", grid_color=_grey(229),
         frame="", legends=("top",), swatch="wide", thickness=(0.6, 0.8), opacity=0.5),
    Look("highcharts", PALETTES["highcharts"], ink=_grey(51), faint=_grey(102), grid="value", grid_color=_grey(230),
         frame="b", frame_color=(204, 214, 235), title_ratio=1.5, legends=("bottom",), swatch="dot",
         thickness=(0.5, 0.7)),
    Look("echarts", PALETTES["echarts"], ink=(70, 70, 70), faint=(110, 112, 121), grid="value",
         grid_color=(224, 230, 241), frame="b", frame_color=(110, 112, 121), tick=4, title_align=0.0,
         title_ratio=1.4, legends=("top",), thickness=(0.5, 0.7)),
    Look("tableau", PALETTES["tableau"], ink=_grey(51), faint=_grey(102), grid="value", grid_color=_grey(230),
         frame="lb", frame_color=_grey(190), title_align=0.0, title_ratio=1.3, legends=("right", "direct"),
         thickness=(0.65, 0.8)),
    Look("libreoffice", PALETTES["libre"], grid="value", grid_color=_grey(179), frame="lbrt", frame_color=_grey(179),
         tick=3, title_ratio=1.35, legends=("right",), thickness=(0.5, 0.67)),
    Look("vega", PALETTES["tab10"], grid="value", grid_color=_grey(221), frame="lbrt", frame_color=_grey(136), tick=4,
         title_ratio=1.2, legends=("right",), thickness=(0.85, 0.92)),
    Look("economist", PALETTES["economist"], paper=(213, 228, 235), grid="value", grid_color=WHITE, frame="b",
         title_align=0.0, title_ratio=1.4, legends=("top",), thickness=(0.6, 0.75)),
    Look("bare", PALETTES["blues"], ink=_grey(60), faint=_grey(60), frame="b", frame_color=_grey(150),
         title_align=0.0, legends=("direct", "top"), thickness=(0.6, 0.75)),
    Look("print", PALETTES["greys"], frame="lb", tick=3, legends=("inside", "bottom"), thickness=(0.5, 0.7), hatch=True,
         edge=BLACK, line=1),
    Look("outline", PALETTES["plain"], frame="lb", tick=3, legends=("right",), thickness=(0.5, 0.75), outline=True),
    Look("dark", PALETTES["neon"], paper=BLACK, ink=WHITE, faint=WHITE, frame="lbrt", frame_color=WHITE, tick=3,
         legends=("inside", "right"), legend_box=True, thickness=(0.7, 0.82), grid_color=_grey(70)),
    Look("dark web", PALETTES["modern"], paper=(30, 41, 59), ink=(226, 232, 240), faint=(148, 163, 184), grid="value",
         grid_color=(51, 65, 85), frame="b", frame_color=(71, 85, 105), legends=("top", "bottom"), title_align=0.0,
         thickness=(0.5, 0.75),),
)  # fmt: skip
# Held out: panels of a dashboard, their head in a band of its own colour.
PANEL = Look(
    "panel", PALETTES["grafana"], paper=(24, 27, 31), plot=(34, 37, 43), ink=(204, 204, 220), faint=(170, 170, 185),
    grid="both", grid_color=(50, 54, 61), frame="", title_align=0.0, legends=("bottom",), swatch="wide",
    thickness=(0.6, 0.85), border=(70, 74, 82),
)  # fmt: skip


def choose_look(random: Random, panel: bool = False) -> Look:
    if panel:
        return PANEL
    look = random.choice(LOOKS)
    if random.random() < 0.35:
        look = _mixed(random, look)
    first = random.choice((0, 0, 0, random.randrange(len(look.palette))))
    return replace(look, palette=look.palette[first:] + look.palette[:first])


def _mixed(random: Random, look: Look) -> Look:
    dark = sum(look.paper) < 300
    name = random.choice(DARK_PALETTES if dark else list(PALETTES))
    other = random.choice([other for other in LOOKS if (sum(other.paper) < 300) == dark])
    paper = look.paper
    if not dark and random.random() < 0.35:
        paper = (random.randint(232, 255), random.randint(232, 255), random.randint(225, 255))
    return replace(
        look,
        palette=PALETTES[name],
        paper=paper,
        grid=other.grid,
        grid_color=look.grid_color if look.plot else other.grid_color if not other.plot else look.frame_color,
        dash=random.choice((0, 0, 3, 5)),
        frame=other.frame,
        tick=random.choice((0, 0, 2, 4)),
        title_align=random.choice((0.0, 0.5, 0.5)),
        title_ratio=random.uniform(1.0, 1.5),
        legends=random.choice((("right",), ("bottom",), ("top",), ("inside",), ("direct",))),
        swatch=random.choice(("square", "wide", "dot")),
        thickness=random.choice(((0.3, 0.5), (0.5, 0.75), (0.75, 0.95))),
        hatch=not dark and random.random() < 0.08,
        edge=random.choice((None, None, look.ink)),
        border=random.choice((None, None, other.border)),
    )


def told_apart(look: Look, count: int) -> Look:
    """The look, with another palette where its first `count` colours are too alike to find in a legend."""
    if look.hatch:
        return look
    first = look.palette[:count]
    apart = [
        sum(abs(a - b) for a, b in zip(one, other, strict=True)) for one in first for other in first if one != other
    ]
    if len(look.palette) >= count and min(apart, default=765) > 110:
        return look
    return replace(look, palette=PALETTES["tab10"])


def luminance(color: Color) -> float:
    return (0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]) / 255


def readable_on(color: Color) -> Color:
    """Black or white, whichever stands out."""
    return BLACK if luminance(color) > 0.55 else WHITE


def mixed(color: Color, ground: Color, opacity: float) -> Color:
    red, green, blue = (round(c * opacity + g * (1 - opacity)) for c, g in zip(color, ground, strict=True))
    return (red, green, blue)


HUES = (
    (14, "red"),
    (45, "orange"),
    (68, "yellow"),
    (160, "green"),
    (258, "blue"),
    (292, "purple"),
    (335, "pink"),
    (361, "red"),
)
UNSURE_HUES = (10, 18, 42, 50, 62, 75, 155, 198, 250, 268, 286, 312, 330, 345)  # pairs: between these opinions differ


def color_name(color: Color) -> str:
    """The colour's everyday name; empty where people would differ."""
    hue, light, saturation = colorsys.rgb_to_hls(*(part / 255 for part in color))
    degrees = hue * 360
    if light > 0.95 or light < 0.08:
        return "white" if light > 0.9 else "black"
    spread = max(color) - min(color)
    if spread < 14:
        return "gray" if 0.3 < light < 0.8 else ""
    if spread < 70 or saturation < 0.35 or not 0.2 < light < 0.8:
        return ""
    if 268 < degrees < 312 and light < 0.42:
        return "purple"
    unsure = any(low <= degrees < high for low, high in zip(UNSURE_HUES[::2], UNSURE_HUES[1::2], strict=True))
    if unsure or (light < 0.35 and degrees < 70):  # dark orange is brown to some
        return ""
    return next(name for limit, name in HUES if degrees < limit)
