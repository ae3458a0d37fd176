"""How often each kind of page is drawn, how large, in which faces, and how worn.

A `Course` is such a mix; `draw_page` draws from it. Training's seeds and held-out seeds come here
alike, so what is measured under "held-out seeds" is what was taught, on pictures never seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from random import Random

from tessera.errors import UsageError
from tessera.nano.pictures import fonts
from tessera.nano.pictures.canvas import LARGEST_TYPE, Brush, Style
from tessera.nano.pictures.page import Page
from tessera.nano.pictures.system_prompts import system_prompt
from tessera.nano.pictures.wear import wear

SMALLEST_SIDE, LARGEST_SIDE = 64, 1024


@dataclass(frozen=True)
class Course:
    """Weights of the drawers by name, and the room of a page in pixels."""

    shares: tuple[tuple[str, float], ...]
    smallest_area: float = 128.0**2
    largest_area: float = 448.0**2
    page_share: float = 0.0  # of pages with up to `page_area`
    page_area: float = 900.0**2
    largest_type: float = LARGEST_TYPE
    worn: float = 0.6  # share of pictures that look used
    instructed: float = 0.0  # share of pages that are asked about under a system prompt


CLEAN = Course((("dense", 1.0),), smallest_area=160.0**2, largest_area=320.0**2, largest_type=24, worn=0.0)
DENSE = Course((("dense", 1.0),), smallest_area=160.0**2, largest_area=384.0**2, page_share=0.02, largest_type=32)
MIXED = Course(
    (
        ("text", 0.3), ("dense", 0.03), ("chart", 0.16), ("vega", 0.03), ("table", 0.08), ("receipt", 0.12),
        ("invoice", 0.06), ("form", 0.06), ("typst", 0.05), ("scene", 0.06), ("pair", 0.03), ("turned", 0.02),
        ("small_talk", 0.02), ("absent", 0.02),
    ),
    page_share=0.05,
    instructed=0.2,
)  # fmt: skip
PRINTED = Course(
    (
        ("text", 0.27), ("dense", 0.02), ("chart", 0.16), ("vega", 0.04), ("table", 0.08), ("receipt", 0.13),
        ("invoice", 0.09), ("form", 0.07), ("typst", 0.06), ("scene", 0.04), ("pair", 0.02), ("turned", 0.01),
        ("small_talk", 0.01), ("absent", 0.02),
    ),
    largest_area=480.0**2,
    page_share=0.05,
    worn=0.35,
    instructed=0.15,
)  # fmt: skip
SMALL = dataclasses.replace(MIXED, largest_area=320.0**2, page_share=0.0, instructed=0.0)


# Each drawer's module and function; modules are imported when they are first drawn from.
DRAWERS = {
    "dense": ("text", "draw_dense"),
    "text": ("text", "draw_text"),
    "chart": ("charts", "draw_chart"),
    "vega": ("charts_vega", "draw_vega_chart"),
    "table": ("papers", "draw_table"),
    "receipt": ("papers", "draw_receipt"),
    "invoice": ("papers", "draw_invoice"),
    "form": ("papers", "draw_form"),
    "typst": ("typst", "draw_typst"),
    "scene": ("scenes", "draw_scene"),
    "pair": ("pairs", "draw_pair"),
    "turned": ("pairs", "draw_turned"),
    "small_talk": ("small_talk", "draw_small_talk"),
    "absent": ("small_talk", "draw_absent"),
}


LEAST_ROOM = {"vega": (280, 210), "typst": (200, 160), "invoice": (200, 200)}  # what seldom fits into less
GROWTH = 1.4  # of the room, where a drawing did not fit


@cache
def drawer(name: str) -> Callable[[Brush], Page]:
    module, function = DRAWERS[name]
    found: Callable[[Brush], Page] = getattr(import_module(f"tessera.nano.pictures.{module}"), function)
    return found


@cache
def _faces(unseen: bool) -> Sequence[fonts.Face]:
    return fonts.faces(unseen)


def draw_page(course: Course, random: Random, style: Style | None = None) -> Page:
    """One page of the course, worn as it says."""
    style = style or Style()
    names, weights = zip(*course.shares, strict=True)
    name = random.choices(names, weights)[0]
    least = LEAST_ROOM.get(name, (0, 0))
    width, height = map(max, _room(course, random), least)
    faces = _faces(style.unseen_faces)
    while True:
        brush = Brush(random, faces, style, width, height, course.largest_type)
        try:
            page = wear(drawer(name)(brush), random, course.worn)
        except UsageError:  # nothing fits into so little room
            if min(width, height) == LARGEST_SIDE:
                raise
        else:
            instructed = page.questions and random.random() < course.instructed
            return dataclasses.replace(page, system=system_prompt(random)) if instructed else page
        width, height = (min(LARGEST_SIDE, round(side * GROWTH)) for side in (width, height))


def _room(course: Course, random: Random) -> tuple[int, int]:
    """Width and height: the area log-uniform, the shape from 1:3 to 3:1."""
    largest = course.page_area if random.random() < course.page_share else course.largest_area
    area = math.exp(random.uniform(math.log(course.smallest_area), math.log(largest)))
    shape = math.exp(random.uniform(-1.1, 1.1)) ** 0.5
    sides = (math.sqrt(area) * shape, math.sqrt(area) / shape)
    width, height = (round(min(max(side, SMALLEST_SIDE), LARGEST_SIDE)) for side in sides)
    return width, height
