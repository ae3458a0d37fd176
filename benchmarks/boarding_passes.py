"""`python -m benchmarks.boarding_passes FOLDER`: a kind of document that nano never saw, to teach and to ask about.

matplotlib draws boarding passes in four layouts; none of nano's training draws with it, or draws such papers.
FOLDER/train.jsonl and FOLDER/held-out.jsonl hold rows for `tessera finetune` and `tessera eval`. docs/fine-tuning.md
walks through it.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from tessera.errors import MissingExtraError

QUESTION = "Give passenger, flight, from, to, date, gate and seat as JSON."
FIRST = (
    "Ada", "Ben", "Clara", "David", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kira", "Liam", "Mona", "Nils",
    "Olga", "Pavel", "Rosa", "Sami", "Tara", "Umar", "Vera", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip
LAST = (
    "Abbott", "Bauer", "Costa", "Demir", "Evans", "Fischer", "Greco", "Haas", "Ivanov", "Jensen", "Kaya", "Lopez",
    "Meyer", "Novak", "Okoro", "Perez", "Quinn", "Rossi", "Sato", "Tanaka", "Urban", "Vogel", "Weber", "Young",
)  # fmt: skip
AIRPORTS = (
    "AMS", "ATH", "BCN", "BER", "CDG", "CPH", "DUB", "EDI", "FCO", "FRA", "GVA", "HEL", "HND", "IST", "JFK", "LAX",
    "LHR", "LIS", "MAD", "MUC", "NCE", "ORD", "OSL", "PRG", "SFO", "SIN", "SYD", "VIE", "WAW", "ZRH",
)  # fmt: skip
AIRLINES = {
    "NORD AIR": "NA",
    "Skyline": "SK",
    "Blue Wing": "BW",
    "TransAlpina": "TA",
    "Meridian": "MD",
    "Oceanic": "OC",
}
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
COLOURS = ("#123a6b", "#8a1c2b", "#1d6b45", "#5b2a86", "#b35a00", "#222222")
FACES = ("DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono")
LABELS = {
    "passenger": ("PASSENGER", "Name", "Passenger name"), "flight": ("FLIGHT", "Flight", "Flight no."),
    "from": ("FROM", "From", "Origin"), "to": ("TO", "To", "Destination"), "date": ("DATE", "Date", "Departure"),
    "gate": ("GATE", "Gate", "Gate"), "seat": ("SEAT", "Seat", "Seat"),
}  # fmt: skip
SIZE, DPI = (3.0, 1.68), 100  # inches: 300 x 168 pixels
SMALL, LARGE = 7.0, 10.0  # points: 10 and 14 pixels
Put = Callable[..., None]


def values_of(random: Random) -> tuple[str, dict[str, str]]:
    """Return an airline, and what its pass says."""
    airline, code = random.choice(list(AIRLINES.items()))
    origin, destination = random.sample(AIRPORTS, 2)
    return airline, {
        "passenger": f"{random.choice(FIRST)} {random.choice(LAST)}",
        "flight": f"{code}{random.randint(100, 9999)}",
        "from": origin,
        "to": destination,
        "date": f"{random.randint(1, 28)} {random.choice(MONTHS)}",
        "gate": f"{random.choice('ABCDEF')}{random.randint(1, 60)}",
        "seat": f"{random.randint(1, 42)}{random.choice('ABCDEF')}",
    }


def draw(random: Random) -> tuple[Image.Image, dict[str, str]]:
    """Draw one pass; raises MissingExtraError without matplotlib."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise MissingExtraError("boarding passes are drawn by matplotlib: pip install 'tessera[nano]'") from error
    airline, values = values_of(random)
    face, colour, style = random.choice(FACES), random.choice(COLOURS), random.randrange(3)
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor=random.choice(("white", "#f6f3ea", "#eef3f8")))

    def put(x: float, y: float, text: str, **more: Any) -> None:
        usual: dict[str, Any] = {"family": face, "size": SMALL, "color": "#222222", "va": "center"}
        figure.text(x, y, text, **(usual | more))

    figure.add_artist(Rectangle((0, 0.86), 1, 0.14, facecolor=colour, edgecolor="none"))
    put(0.03, 0.93, airline, size=LARGE, color="white", weight="bold")
    put(0.97, 0.93, "BOARDING PASS", color="white", ha="right")
    labels = {key: names[style] for key, names in LABELS.items()}
    random.choice((_grid, _route, _list, _stub))(put, values, labels, random)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB"), values


def _field(put: Put, x: float, y: float, label: str, value: str) -> None:
    put(x, y + 0.055, label, size=SMALL - 1, color="#777777")
    put(x, y - 0.045, value, size=LARGE - 1)


def _grid(put: Put, values: Mapping[str, str], labels: Mapping[str, str], random: Random) -> None:
    _field(put, 0.03, 0.72, labels["passenger"], values["passenger"])
    rows = [["from", "to", "flight"], ["date", "gate", "seat"]]
    for y, row in zip((0.45, 0.18), rows, strict=True):
        random.shuffle(row)
        for x, key in zip((0.03, 0.36, 0.69), row, strict=True):
            _field(put, x, y, labels[key], values[key])


def _route(put: Put, values: Mapping[str, str], labels: Mapping[str, str], random: Random) -> None:
    put(0.06, 0.68, values["from"], size=17, weight="bold")
    put(0.5, 0.68, random.choice(("-->", "to", "->")), ha="center", size=LARGE)
    put(0.94, 0.68, values["to"], size=17, weight="bold", ha="right")
    _field(put, 0.03, 0.42, labels["passenger"], values["passenger"])
    _field(put, 0.66, 0.42, labels["date"], values["date"])
    keys = ["flight", "gate", "seat"]
    random.shuffle(keys)
    for x, key in zip((0.03, 0.36, 0.69), keys, strict=True):
        _field(put, x, 0.15, labels[key], values[key])


def _list(put: Put, values: Mapping[str, str], labels: Mapping[str, str], random: Random) -> None:
    keys = list(values)
    random.shuffle(keys)
    for number, key in enumerate(keys):
        put(0.04, 0.78 - 0.115 * number, f"{labels[key]}:")
        put(0.48, 0.78 - 0.115 * number, values[key], size=LARGE - 1)


def _stub(put: Put, values: Mapping[str, str], labels: Mapping[str, str], random: Random) -> None:
    _field(put, 0.03, 0.7, labels["passenger"], values["passenger"])
    put(0.03, 0.46, f"{values['from']} - {values['to']}", size=LARGE + 2, weight="bold")
    _field(put, 0.03, 0.2, labels["date"], values["date"])
    _field(put, 0.36, 0.2, labels["flight"], values["flight"])
    put(0.66, 0.42, "|\n" * 5, color="#aaaaaa", ha="center")
    _field(put, 0.72, 0.66, labels["gate"], values["gate"])
    _field(put, 0.72, 0.3, labels["seat"], values["seat"])


def write(folder: Path, name: str, count: int) -> Path:
    """Draw so many passes, and write their rows into a new file of the folder."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        image, values = draw(Random(f"boarding passes, {name} {number}"))
        path = Path(name) / f"{number:04d}.png"
        image.save(folder / path)
        row = {"image": str(path), "question": QUESTION, "answer": json.dumps(values)}
        lines.append(json.dumps(row))
    file = folder / f"{name}.jsonl"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.boarding_passes", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=200, help="passes to learn from")
    parser.add_argument("--held-out", type=int, default=60, help="passes to ask about, of other draws")
    arguments = parser.parse_args()
    for name, count in (("train", arguments.train), ("held-out", arguments.held_out)):
        print(write(arguments.folder, name, count))


if __name__ == "__main__":
    main()
