"""Receipts and invoices as web pages, in which each value is a link: before Chromium prints them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from html import escape
from random import Random

from tessera.nano.measure.web_papers import FONTS, GOODS, PEOPLE, SHOPS, STREETS

LABELS = {
    "invoice_number": ("Invoice no.", "Invoice number", "Invoice #", "No."), "date": ("Date", "Date of issue", "Dated"),
    "due_date": ("Due date", "Payable by", "Due"), "subtotal": ("Subtotal", "Net", "Net amount"),
    "tax": ("Tax", "VAT", "Sales tax"), "total": ("Total", "Amount due", "Total due", "TOTAL"),
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A paper before it is printed: its web page, all its values, and its line items as they are printed."""

    kind: str
    html: str
    values: dict[str, str]
    items: tuple[dict[str, str], ...]


def draw(count: int, seed: str) -> list[tuple[Random, Drawn]]:
    """So many papers, receipts and invoices in turn, each with the dice that drew it."""
    dice = [Random(f"{seed} {number}") for number in range(count)]
    return [(random, (_receipt if number % 2 == 0 else _invoice)(random)) for number, random in enumerate(dice)]


def _field(key: str, value: str) -> str:
    return f'<a href="https://field.example/{key}">{escape(value)}</a>'


def _line(label: str, html: str, style: str = "") -> str:
    return f'<div style="display: flex; justify-content: space-between; {style}"><span>{escape(label)}</span><span>{html}</span></div>'  # fmt: skip # noqa: E501


def _look(random: Random) -> str:
    font, size = random.choice(FONTS), random.uniform(11, 16)
    return (
        f"font: {size:.1f}px/{random.uniform(1.3, 1.7):.2f} {font!r}; color: {random.choice(('#000', '#222', '#113'))}"
    )


def _money(cents: int, sign: str) -> str:
    return f"{sign}{cents / 100:,.2f}"


def _receipt(random: Random) -> Drawn:
    sign = random.choice(("", "", "$", "€", "£"))
    day = date(2019, 1, 1) + timedelta(days=random.randrange(2400))
    goods = {name: random.randrange(90, 2500) for name in random.sample(GOODS, random.randint(2, 6))}
    subtotal = sum(goods.values())
    tax = round(subtotal * random.choice((0.07, 0.08, 0.19)))
    values = {
        "vendor": random.choice(SHOPS), "date": day.strftime(random.choice(("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y"))),
        "subtotal": _money(subtotal, sign), "tax": _money(tax, sign),
        "total": _money(subtotal + tax, sign),
    }  # fmt: skip
    rows = "".join(_line(name, escape(_money(cents, sign))) for name, cents in goods.items())
    sums = "".join(_line(random.choice(LABELS[key]), _field(key, values[key])) for key in ("subtotal", "tax", "total"))
    html = (
        f'<div style="{_look(random)}; width: {random.randint(16, 24)}em"><p style="text-align: center"><b>'
        f"{_field('vendor', values['vendor'])}</b><br>{random.choice(STREETS)}</p>"
        f"<p>{random.choice(('Date: ', '', 'Date '))}{_field('date', values['date'])}</p>{rows}<hr>{sums}</div>"
    )
    items = tuple({"description": name, "amount": _money(cents, sign)} for name, cents in goods.items())
    return Drawn("receipt", html, values, items)


def _invoice(random: Random) -> Drawn:
    sign, day = random.choice(("", "$", "€")), date(2019, 1, 1) + timedelta(days=random.randrange(2400))
    style = random.choice(("%Y-%m-%d", "%d.%m.%Y", "%d %b %Y"))
    goods = [(name, random.randint(1, 9), random.randrange(200, 9000)) for name in random.sample(GOODS, random.randint(2, 5))]  # fmt: skip # noqa: E501
    net = sum(count * price for _, count, price in goods)
    tax = round(net * 0.2)
    values = {
        "vendor": random.choice(SHOPS), "customer": random.choice(PEOPLE),
        "invoice_number": random.choice((f"INV-{random.randrange(1000, 9999)}", str(random.randrange(10**5, 10**6)))),
        "date": day.strftime(style), "due_date": (day + timedelta(days=30)).strftime(style),
        "subtotal": _money(net, sign), "tax": _money(tax, sign),
        "total": _money(net + tax, sign),
    }  # fmt: skip
    cell = random.choice(
        ("border: 1px solid #999; padding: 3px 6px", "border-bottom: 1px solid #ccc; padding: 4px 8px")
    )
    rows = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{escape(each)}</td>' for each in (
            name, str(count), _money(price, sign), _money(count * price, sign))) + "</tr>"
        for name, count, price in goods
    )  # fmt: skip
    heads = "".join(f'<th style="{cell}; text-align: left">{head}</th>' for head in ("Item", "Qty", "Price", "Amount"))
    facts = "".join(_line(random.choice(LABELS[key]), _field(key, values[key])) for key in ("invoice_number", "date", "due_date"))  # fmt: skip # noqa: E501
    sums = "".join(_line(random.choice(LABELS[key]), _field(key, values[key])) for key in ("subtotal", "tax", "total"))
    html = (
        f'<div style="{_look(random)}; width: 440px"><h2 style="margin: 0">Invoice</h2><p><b>'
        f"{_field('vendor', values['vendor'])}</b><br>{random.choice(STREETS)}</p>{facts}"
        f"<p>Bill to: {_field('customer', values['customer'])}</p>"
        f'<table style="border-collapse: collapse; width: 100%; font: inherit"><tr>{heads}</tr>{rows}</table>'
        f'<div style="margin-left: 50%; padding-top: 8px">{sums}</div></div>'
    )
    items = tuple(
        {"description": name, "quantity": str(count), "price": _money(price, sign),
         "amount": _money(count * price, sign)}
        for name, count, price in goods
    )  # fmt: skip
    return Drawn("invoice", html, values, items)
