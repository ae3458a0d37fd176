"""MATH's answers: the last boxed one of a solution, and equality after both are put into a normal form of LaTeX.

The normal form repairs how people write, not what they mean: 1/2 equals 0.5, and 2 does not equal 2.0.
"""

from __future__ import annotations

import re

BOXES = ("\\boxed", "\\fbox")
MINERVA = re.compile(r"final answer is:?\s*(.+?)\.?\s*(?:I hope|\Z|\n)", re.IGNORECASE | re.DOTALL)
MAX_ANSWER = 2000  # characters


def boxed(text: str) -> str | None:
    """Return the content of the last box with balanced braces; None without one."""
    start, name = max((text.rfind(box), box) for box in BOXES)
    if start < 0:
        return None
    rest = text[start + len(name) :]
    if rest.startswith(" "):
        return rest[1:].split("$")[0].strip() or None
    depth = 0
    for place, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return rest[1:place] if place else None
    return None


def final_value(reply: str) -> str | None:
    """Return the answer of a worked solution: "The final answer is $X$. I hope", or the last box."""
    found = MINERVA.findall(reply)
    if found:
        said = found[-1].strip()
        return boxed(said) or said.strip("$ ").removesuffix(".") or None
    return boxed(reply)


def is_equivalent(one: str, other: str) -> bool:
    """Return True if two answers have the same normal form."""
    return normal_form(one) == normal_form(other)


def normal_form(text: str) -> str:
    """Return an answer in MATH's normal form: "\\dfrac12" is "\\frac{1}{2}"."""
    text = text[:MAX_ANSWER].replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    for gone in ("^{\\circ}", "^\\circ", "\\$", "\\%", "%"):
        text = text.replace(gone, "")
    text = text.split("\\text{ ")[0]
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if text.startswith("."):
        text = f"0{text}"
    sides = text.split("=")
    if len(sides) == 2 and len(sides[0].strip()) <= 2:
        text = sides[1]
    text = re.sub(r"\\sqrt\s*([^{\s\[])", r"\\sqrt{\1}", text).replace(" ", "")
    text = _with_braces(text)
    if text == "0.5":
        text = "\\frac{1}{2}"
    return re.sub(r"\A(-?\d+)/(-?\d+)\Z", r"\\frac{\1}{\2}", text)


def _with_braces(text: str) -> str:
    """Write \\frac12 and \\frac1{72} as \\frac{1}{2} and \\frac{1}{72}."""
    return re.sub(r"\\frac([^{\\])(?:\{([^{}]*)\}|([^{\\]))", lambda m: f"\\frac{{{m[1]}}}{{{m[2] or m[3]}}}", text)
