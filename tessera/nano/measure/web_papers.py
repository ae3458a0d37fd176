"""Receipts, invoices, tables and forms as web pages that Chromium prints, all of them in one run of it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from pathlib import Path
from random import Random

from PIL import Image, ImageChops

from tessera.errors import UsageError
from tessera.nano.measure.asked import Drawing, field_trials, json_of, labels_of, short_values
from tessera.nano.measure.trial import Trial, in_turns

PROGRAMS = ("chromium", "google-chrome", "chrome", "chromium-browser")
PAGE = (480, 900)  # CSS pixels, cut to what is printed on it
POINTS_PER_PIXEL = 72 / 96
QUESTIONS = 4
SHOPS = (
    "Corner Bakery", "Green Market", "Blue Door Cafe", "Northside Books", "City Hardware", "Sunrise Deli",
    "The Tea Room",
    "Miller & Sons", "Harbor Foods", "Oak Street Pharmacy", "Luna Pizza", "Riverside Garage", "Paper & Pen Ltd",
)  # fmt: skip
GOODS = (
    "Bread", "Coffee", "Soup", "Tea", "Cheese sandwich", "Apple juice", "Notebook A5", "Blue pen", "Olive oil",
    "Batteries AA",
    "Light bulb", "Shampoo", "Tomatoes 1kg", "Chocolate bar", "Paper towels", "Green salad", "Mineral water",
    "Croissant",
    "USB cable", "Desk lamp", "Printer ink", "Screws 50 pcs", "Cat food", "Sunscreen", "Mushroom pizza", "Lemonade",
)  # fmt: skip
PEOPLE = ("Anna Keller", "John Whitfield", "Maria Lopez", "Peter Novak", "Sarah O'Brien", "Tom Becker", "Julia Hansen")
STREETS = ("12 Mill Lane", "48 High Street", "7 Station Road", "230 Oak Avenue", "5 Kings Square")
FONTS = ("sans-serif", "serif", "monospace", "DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono", "Liberation Sans")


@dataclass(frozen=True)
class Paper:
    """A page's HTML, its type size in CSS pixels, and what can be asked of it."""

    html: str
    size: float
    skill: str
    fields: dict[str, str]
    absent: tuple[str, ...]
    items: dict[str, str] | None = None  # goods and their amounts


def web_trials(pictures: int) -> Iterator[Trial]:
    """So many of each kind of paper."""
    dice = [Random(f"web {number}") for number in range(4 * pictures)]
    makers = (_receipt, _invoice, _table, _form)
    papers = [makers[number % 4](random) for number, random in enumerate(dice)]
    with tempfile.TemporaryDirectory() as folder:
        printed = _printed(Path(folder), papers, [random.uniform(0.85, 1.7) for random in dice])
        for random, paper, (picture, scale) in zip(dice, papers, printed, strict=True):
            drawing = Drawing(picture, "chromium", paper.size * scale)
            trials = field_trials(random, drawing, paper.skill, paper.fields, paper.absent)
            if paper.items and len(paper.items) > 1:
                trials += _item_trials(random, drawing, paper.skill, paper.items)
            random.shuffle(trials)
            yield from in_turns(trials, QUESTIONS)


def _item_trials(random: Random, drawing: Drawing, skill: str, items: dict[str, str]) -> list[Trial]:
    picked = random.choice(sorted(items))
    rows = ", ".join(json_of({"description": name, "amount": amount}) for name, amount in items.items())
    return [
        drawing.trial(skill, f"How much is {picked}?", items[picked]),
        drawing.trial(skill, "How many items are listed?", str(len(items))),
        drawing.trial(skill, "List the items as JSON with the keys description and amount.", f"[{rows}]"),
    ]


# Printing -----------------------------------------------------------------------------------------


def _printed(folder: Path, papers: list[Paper], scales: list[float]) -> list[tuple[Image.Image, float]]:
    """Each paper's picture, and how many pixels a CSS pixel became."""
    import pypdfium2

    width, height = PAGE
    style = f"@page {{ size: {width}px {height}px; margin: 0 }} * {{ box-sizing: border-box }} body {{ margin: 0 }}"
    sheets = "".join(f'<div style="break-after: page; padding: 20px">{paper.html}</div>' for paper in papers)
    source, target = folder / "papers.html", folder / "papers.pdf"
    source.write_text(f'<!doctype html><meta charset="utf-8"><style>{style}</style>{sheets}', encoding="utf-8")
    print_web_page(source, target)
    document = pypdfium2.PdfDocument(target)
    try:
        pictures = []
        for page, scale in zip(document, scales, strict=False):
            picture = page.render(scale=scale / POINTS_PER_PIXEL).to_pil().convert("RGB")
            pictures.append((_cut(picture, round(10 * scale)), scale))
        return pictures
    finally:
        document.close()


def print_web_page(source: Path, target: Path) -> None:
    browser = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if browser is None:
        raise UsageError("papers of the web are printed by Chromium, which is not on the PATH; install it.")
    # The sandbox needs rights that containers lack; the page is our own.
    source, target = source.absolute(), target.absolute()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={target}"]
    done = subprocess.run([browser, *options, source.as_uri()], capture_output=True, timeout=120)
    if not target.is_file():
        raise UsageError(
            f"{browser} printed nothing ({done.stderr.decode(errors='replace')[-200:].strip()}); try it by hand."
        )


def _cut(picture: Image.Image, margin: int) -> Image.Image:
    """What is printed, and a margin around it."""
    box = ImageChops.invert(picture.convert("L")).point(lambda value: 255 * (value > 8)).getbbox()
    left, top, right, bottom = box or (0, 0, *picture.size)
    return picture.crop(
        (
            max(0, left - margin),
            max(0, top - margin),
            min(picture.width, right + margin),
            min(picture.height, bottom + margin),
        )
    )


# Papers -------------------------------------------------------------------------------------------


def _look(random: Random) -> tuple[str, float]:
    """The style of a whole sheet, and its type size."""
    size = random.uniform(11, 17)
    font = random.choice(FONTS)
    color = random.choice(("#000", "#000", "#222", "#333", "#1a2b4c"))
    ground = random.choice(("#fff", "#fff", "#fff", "#fdfaf0", "#f4f4f4"))
    return f"font: {size:.1f}px/{random.uniform(1.25, 1.7):.2f} {font!r}; color: {color}; background: {ground}", size


def _day(random: Random) -> date:
    return date(2019, 1, 1) + timedelta(days=random.randrange(2400))


def _shown_day(random: Random, day: date) -> str:
    return day.strftime(random.choice(("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d %b %Y", "%B %d, %Y")))


def _money(random: Random) -> str:
    return random.choice(("", "", "$", "€", "£"))


def _row(left: str, right: str, style: str = "") -> str:
    return f'<div style="display: flex; justify-content: space-between; {style}"><span>{escape(left)}</span><span>{escape(right)}</span></div>'  # fmt: skip # noqa: E501


def _receipt(random: Random) -> Paper:
    look, size = _look(random)
    sign, shop, day = _money(random), random.choice(SHOPS), _shown_day(random, _day(random))
    goods = {name: random.randrange(90, 2500) for name in random.sample(GOODS, random.randint(2, 5))}
    subtotal = sum(goods.values())
    tax = round(subtotal * random.choice((0.07, 0.08, 0.19, 0.2))) if random.random() < 0.6 else 0
    shown = {name: f"{sign}{cents / 100:.2f}" for name, cents in goods.items()}
    fields = {"vendor": shop, "date": day, "total": f"{sign}{(subtotal + tax) / 100:.2f}"}
    lines = [f'<p style="text-align: center; margin: 0 0 8px; font-weight: bold">{escape(shop)}</p>']
    lines.append(f'<p style="margin: 0 0 8px">{day}</p>')
    lines += [_row(name, amount) for name, amount in shown.items()]
    lines.append(f'<hr style="border: 0; border-top: 1px {random.choice(("dashed", "solid"))} currentColor">')
    if tax:
        fields |= {"subtotal": f"{sign}{subtotal / 100:.2f}", "tax": f"{sign}{tax / 100:.2f}"}
        lines += [_row("Subtotal", fields["subtotal"]), _row(random.choice(("Tax", "VAT", "Sales tax")), fields["tax"])]
    lines.append(_row("Total", fields["total"], random.choice(("", "font-weight: bold", "font-size: 1.2em"))))
    width = random.randint(13, 19)
    html = f'<div style="{look}; width: {width}em; padding: 10px">{"".join(lines)}</div>'
    absent = ("tip", "phone number", "cashier", "discount", "invoice number")
    return Paper(html, size, "receipt", fields, absent, shown)


def _invoice(random: Random) -> Paper:
    look, size = _look(random)
    size = min(size, 14)
    sign, issued = _money(random), _day(random)
    style = random.choice(("%Y-%m-%d", "%d.%m.%Y", "%d %b %Y"))
    goods = [
        (name, random.randint(1, 9), random.randrange(200, 9000)) for name in random.sample(GOODS, random.randint(2, 4))
    ]
    net = sum(count * price for _, count, price in goods)
    tax = round(net * 0.2)
    fields = {
        "vendor": random.choice(SHOPS), "customer": random.choice(PEOPLE),
        "invoice number": random.choice((f"INV-{random.randrange(1000, 9999)}", str(random.randrange(10**5, 10**6)))),
        "date": issued.strftime(style), "due date": (issued + timedelta(days=30)).strftime(style),
        "total": f"{sign}{(net + tax) / 100:,.2f}", "tax": f"{sign}{tax / 100:,.2f}",
    }  # fmt: skip
    cell = random.choice(
        ("border: 1px solid #999; padding: 3px 6px", "border-bottom: 1px solid #ccc; padding: 4px 8px")
    )
    rows = "".join(
        f'<tr><td style="{cell}">{name}</td><td style="{cell}; text-align: right">{count}</td>'
        f'<td style="{cell}; text-align: right">{sign}{price / 100:.2f}</td>'
        f'<td style="{cell}; text-align: right">{sign}{count * price / 100:,.2f}</td></tr>'
        for name, count, price in goods
    )
    heads = "".join(f'<th style="{cell}; text-align: left">{head}</th>' for head in ("Item", "Qty", "Price", "Amount"))
    facts = "".join(
        _row(label, fields[key])
        for label, key in (("Invoice no.", "invoice number"), ("Date", "date"), ("Due date", "due date"))
    )
    sums = "".join(
        (_row("Net", f"{sign}{net / 100:,.2f}"), _row("Tax (20%)", fields["tax"]), _row("Total", fields["total"]))
    )
    html = (
        f'<div style="{look}; font-size: {size}px; width: 400px; padding: 12px"><h2 style="margin: 0">Invoice</h2>'
        f"<p><b>{escape(fields['vendor'])}</b><br>{random.choice(STREETS)}</p>{facts}"
        f"<p>Bill to: {escape(fields['customer'])}</p>"
        f'<table style="border-collapse: collapse; width: 100%; font: inherit"><tr>{heads}</tr>{rows}</table>'
        f'<div style="margin-left: 50%; padding-top: 8px">{sums}</div></div>'
    )
    items = {name: f"{sign}{count * price / 100:,.2f}" for name, count, price in goods}
    return Paper(html, size, "invoice", fields, ("discount", "order number", "shipping", "cashier"), items)


def _table(random: Random) -> Paper:
    look, size = _look(random)
    labels = labels_of(random)
    values = dict(zip(labels, short_values(random, len(labels)), strict=True))
    cell = f"padding: {random.randint(2, 6)}px {random.randint(6, 14)}px"
    border = random.choice(("border: 1px solid #888", "border-bottom: 1px solid #ccc", "border: 0"))
    stripe = random.choice(("", "background: #eef"))
    rows = "".join(
        f'<tr style="{stripe if number % 2 else ""}"><td style="{cell}; {border}">{label}</td>'
        f'<td style="{cell}; {border}; text-align: right">{value}</td></tr>'
        for number, (label, value) in enumerate(values.items())
    )
    head = f'<tr style="background: #ddd"><th style="{cell}">Name</th><th style="{cell}">Value</th></tr>'
    html = f'<table style="{look}; border-collapse: collapse">{head}{rows}</table>'
    return Paper(html, size, "table", values, ("total", "average", "date"))


def _form(random: Random) -> Paper:
    look, size = _look(random)
    values = {
        "name": random.choice(PEOPLE), "street": random.choice(STREETS), "phone": f"0{random.randrange(10**8, 10**9)}",
        "date of birth": _shown_day(random, _day(random)), "customer number": str(random.randrange(1000, 10**6)),
        "email": f"{random.choice('abcdehkmt')}.{random.choice(('keller', 'lopez', 'novak', 'hansen'))}@example.com",
    }  # fmt: skip
    chosen = dict(random.sample(sorted(values.items()), random.randint(3, 5)))
    box = random.choice(("border: 1px solid #777", "border-bottom: 1px solid #777", "background: #eee"))
    rows = "".join(
        f'<div style="margin: 5px 0"><span style="display: inline-block; width: 9em">{key.capitalize()}:</span>'
        f'<span style="display: inline-block; width: 13em; padding: 2px 5px; {box}">{escape(value)}</span></div>'
        for key, value in chosen.items()
    )
    html = f'<div style="{look}; padding: 8px; display: inline-block"><b>{random.choice(("Registration", "Application form", "Contact details"))}</b>{rows}</div>'  # fmt: skip # noqa: E501
    absent = tuple(key for key in values if key not in chosen) or ("nationality",)
    return Paper(html, size, "form", chosen, absent)
