"""A run's losses as an image: each step, their running mean, the held-out loss, and the best of it; SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 64, 20, 44, 48
MAX_POINTS = 2000  # of a line; more are averaged
MAX_TITLE, LETTER = 40, 7  # characters, and about a letter's width
STEP_COLOR, MEAN_COLOR, HELD_COLOR = "#9ec5e8", "#1f6fb2", "#d1495b"
Points = list[tuple[float, float]]


def curve_svg(lines: Iterable[dict[str, Any]], title: str) -> str:
    """Draw a log's lines; `title` is the image's heading."""
    trained, held, best = _read(lines)
    if not trained:
        return _svg([_text(WIDTH / 2, HEIGHT / 2, "no step yet", "middle")])
    trained = _averaged(trained, MAX_POINTS)
    values = [loss for _, loss in (*trained, *held) if math.isfinite(loss)]
    step_ticks = _ticks(0, max(step for step, _ in trained), least=1)
    loss_ticks = _ticks(min([0.0, *values]), max(values, default=1.0))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = LEFT + (point[0] - step_ticks[0]) / (step_ticks[-1] - step_ticks[0]) * (WIDTH - LEFT - RIGHT)
        y = TOP + (loss_ticks[-1] - point[1]) / (loss_ticks[-1] - loss_ticks[0]) * (HEIGHT - TOP - BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [_text(LEFT, 18, title[:MAX_TITLE], "start", bold=True)]
    for tick in loss_ticks:
        y = place((0, tick))[1]
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - RIGHT}" y2="{y}" stroke="#ddd"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", "end"))
    parts += [_text(place((tick, 0))[0], HEIGHT - BOTTOM + 18, f"{tick:,g}", "middle") for tick in step_ticks]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "step", "middle"))
    parts += [
        _line(map(place, trained), STEP_COLOR, 1),
        _line(map(place, _smoothed(trained)), MEAN_COLOR, 2),
        _line(map(place, held), HELD_COLOR, 2),
    ]
    parts += [_dot(place(point), HELD_COLOR, 6 if point == best else 3) for point in held]
    return _svg(parts + _legend(best))


def _read(lines: Iterable[dict[str, Any]]) -> tuple[Points, Points, tuple[float, float] | None]:
    trained: Points = []
    held: Points = []
    best = None
    for line in lines:
        if "loss" in line:
            trained.append((line["step"], line["loss"]))
        elif "held_out" in line:
            held.append((line["step"], line["held_out"]))
            best = held[-1] if line["best"] else best
    return trained, held, best


def _legend(best: tuple[float, float] | None) -> list[str]:
    entries = [(STEP_COLOR, "training, each step"), (MEAN_COLOR, "mean")]
    if best is not None:
        entries.append((HELD_COLOR, f"held out, best {best[1]:.4f} after step {best[0]:,}"))
    parts = []
    x = WIDTH - RIGHT - sum(44 + LETTER * len(words) for _, words in entries)
    for color, words in entries:
        parts.append(f'<line x1="{x}" y1="32" x2="{x + 18}" y2="32" stroke="{color}" stroke-width="3"/>')
        parts.append(_text(x + 24, 36, words, "start"))
        x += 44 + LETTER * len(words)
    return parts


def _averaged(points: Points, most: int) -> Points:
    size = -(-len(points) // most)
    parts = [points[first : first + size] for first in range(0, len(points), size)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def _smoothed(points: Points) -> Points:
    size = max(3, len(points) // 20)
    means: Points = []
    for number, (step, _) in enumerate(points):
        window = points[max(0, number + 1 - size) : number + 1]
        means.append((step, sum(loss for _, loss in window) / len(window)))
    return means


def _ticks(low: float, high: float, least: float = 0) -> list[float]:
    """Return about five round numbers from `low` or below to `high` or above."""
    spread = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / 5))
    step = max(least, next(each * power for each in (1, 2, 5, 10) if each * power * 5 >= spread * 0.99))
    first = math.floor(low / step)
    return [round(number * step, 10) for number in range(first, math.ceil(high / step - 1e-9) + 1)] or [low, low + 1]


def _line(points: Iterable[tuple[float, float]], color: str, width: float) -> str:
    joined = " ".join(f"{x},{y}" for x, y in points if math.isfinite(y))
    return f'<polyline points="{joined}" fill="none" stroke="{color}" stroke-width="{width}"/>'


def _dot(point: tuple[float, float], color: str, radius: int) -> str:
    return f'<circle cx="{point[0]}" cy="{point[1]}" r="{radius}" fill="{color}"/>' if math.isfinite(point[1]) else ""


def _text(x: float, y: float, words: str, anchor: str, *, bold: bool = False) -> str:
    escaped = words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}>{escaped}</text>'


def _svg(parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">\n<rect width="100%" height="100%" fill="#fff"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"
