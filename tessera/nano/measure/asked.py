"""Questions about charts and papers that others drew, worded as a visitor words them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

from tessera.nano.measure.trial import FROM_AXIS, RENDERERS, Trial

AXIS_TOLERANCE = 0.04  # of the highest value: about the error of an attentive eye
APART = 0.04  # of the highest value: two values of one chart differ by more
VALUE = ("What is the value of {label}?", "How much is {label}?", "Value of {label}?", "What is {label}?")
HIGHEST = ("Which {thing} is highest?", "Which {thing} has the highest value?", "Which {thing} is the largest?")
LOWEST = ("Which {thing} is lowest?", "Which {thing} has the lowest value?", "Which {thing} is the smallest?")
FIELD = ("What is the {field}?", "What's the {field}?", "Give the {field}.", "Tell me the {field}.")
LABELS = (
    ("Q1", "Q2", "Q3", "Q4"), ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    ("2019", "2020", "2021", "2022", "2023", "2024"),
    ("Berlin", "Paris", "Rome", "Madrid", "Vienna"), ("Apples", "Pears", "Plums", "Grapes", "Lemons"),
    ("North", "South", "East", "West"), ("Mon", "Tue", "Wed", "Thu", "Fri"), ("Alice", "Bob", "Carol", "Dave", "Erin"),
    ("Rent", "Food", "Travel", "Health", "Fun"), ("Team A", "Team B", "Team C", "Team D"),
    ("Coal", "Wind", "Solar", "Gas"),
    ("Laptops", "Phones", "Tablets", "Cameras"), ("18-24", "25-34", "35-44", "45-54", "55+"),
)  # fmt: skip
TITLES = (
    "Sales by quarter", "Revenue 2024", "Visitors per month", "Energy mix", "Survey results", "Units sold", "Costs",
    "Average score", "Population growth", "Monthly expenses", "Website traffic", "Production (tons)", "Fruit harvest",
)  # fmt: skip


@dataclass(frozen=True)
class Drawing:
    """A finished picture, which program drew it, and the size of its type."""

    picture: Image.Image
    source: str
    type_size: float | None

    def trial(self, skill: str, question: str, answer: str, tolerance: float = 0.0) -> Trial:
        skill += FROM_AXIS if tolerance else ""
        return Trial(RENDERERS, self.source, skill, (self.picture,), question, answer, tolerance, self.type_size)


def json_of(values: Mapping[str, str | None]) -> str:
    """Numbers bare where they are printed so, other texts quoted, null for what is not shown."""
    parts = [f"{json.dumps(key, ensure_ascii=False)}: {_json_value(value)}" for key, value in values.items()]
    return "{" + ", ".join(parts) + "}"


def _json_value(value: str | None) -> str:
    if value is not None:
        try:
            if json.dumps(json.loads(value)) == value or value.replace(".", "", 1).isdigit():
                return value
        except ValueError:
            pass
    return json.dumps(value, ensure_ascii=False)


def chart_trials(
    random: Random, drawing: Drawing, values: Mapping[str, str], title: str | None, thing: str, printed: bool = True
) -> list[Trial]:
    """Values as printed by label; where they are not printed, only what an eye can tell."""
    numbers = {label: float(value.replace(",", "").strip("%$ ")) for label, value in values.items()}
    labels = list(values)
    picked = random.choice(labels)
    tolerance = 0.0 if printed else AXIS_TOLERANCE * max(numbers.values()) / numbers[picked]
    skill = "table" if thing == "row" else "chart"
    ranked = sorted(labels, key=lambda label: numbers[label])
    highest, lowest = ranked[-1], ranked[0]
    trials = [
        drawing.trial(skill, random.choice(VALUE).format(label=picked), values[picked], tolerance),
        drawing.trial(skill, random.choice(HIGHEST).format(thing=thing), highest),
        drawing.trial(skill, random.choice(LOWEST).format(thing=thing), lowest),
        drawing.trial(skill, f"How many {thing}s are there?", str(len(labels))),
    ]  # fmt: skip
    if title:
        trials.append(drawing.trial(skill, "What is the title?", title))
    if printed:
        trials.append(drawing.trial(skill, "List all values as JSON.", json_of(values)))
        one, other = random.sample(labels, 2)
        larger = max(one, other, key=lambda label: numbers[label])
        trials.append(drawing.trial(skill, f"Which is higher, {one} or {other}?", larger))
    random.shuffle(trials)
    return trials


def field_trials(
    random: Random, drawing: Drawing, skill: str, fields: Mapping[str, str], absent: Sequence[str]
) -> list[Trial]:
    """Single fields, several as JSON with one that is not shown, and one that is not shown alone."""
    picked = random.sample(sorted(fields), min(3, len(fields)))
    trials = [drawing.trial(skill, random.choice(FIELD).format(field=name), fields[name]) for name in picked[:2]]
    missing = random.choice(absent)
    trials.append(drawing.trial("absent", f"What is the {missing}?", "not shown"))
    keys = [*picked, missing] if random.random() < 0.5 else picked
    random.shuffle(keys)
    named = f"{', '.join(keys[:-1])} and {keys[-1]}"
    wanted = json_of({key: fields.get(key) for key in keys})
    trials.append(drawing.trial(skill, f"Give {named} as JSON.", wanted))
    random.shuffle(trials)
    return trials


def labels_of(random: Random) -> list[str]:
    """Three labels or more, in their order."""
    known = random.choice(LABELS)
    count = random.randint(3, len(known))
    first = random.randint(0, len(known) - count)
    return list(known[first : first + count])


def short_values(random: Random, count: int, lowest: float = 5) -> list[str]:
    """Values that an eye can tell apart, as one chart prints them: whole, with a decimal, with commas, in per cent."""
    numbers: list[float] = []
    while len(numbers) < count:
        number = random.uniform(lowest, 100)
        if all(abs(number - other) > 100 * APART for other in numbers):
            numbers.append(number)
    formats: tuple[Callable[[float], str], ...] = (
        lambda number: f"{number:.0f}",
        lambda number: f"{number:.1f}",
        lambda number: f"{number * 100:,.0f}",
        lambda number: f"{number:.0f}%",
    )
    show = random.choices(formats, (2, 1, 1, 1))[0]
    return [show(number) for number in numbers]
