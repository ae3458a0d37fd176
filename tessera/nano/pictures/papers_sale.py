"""What a receipt or an invoice says: who sold what to whom, when, and sums that add up.

All of it is invented here; what of it is printed, and where, is a matter of the layout.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tessera.nano.pictures import words
from tessera.nano.pictures.papers_blocks import Line, Piece

LABELS: dict[str, tuple[str, ...]] = {
    "receipt_number": ("Receipt No.", "Receipt #", "Receipt", "Receipt No", "Trans #", "Transaction", "Ticket No.",
                       "Bill No", "Check #", "Check", "Slip No", "Receipt no", "Doc No", "Rcpt", "Bon"),
    "invoice_number": ("Invoice No.", "Invoice #", "Invoice number", "Invoice No", "Invoice", "Inv. No.", "Invoice ID",
                       "No.", "Number", "Document no.", "Bill No."),
    "order_number": ("Order #", "Order No.", "Order number", "PO Number", "P.O. No.", "Order", "Your order",
    "Order ID"),
    "customer_number": ("Customer No.", "Customer ID", "Client ID", "Account No.", "Customer #", "Client no."),
    "date": ("Date", "Date", "DATE"),
    "invoice_date": ("Date", "Invoice date", "Date of issue", "Issue date", "Issued", "Date issued", "Invoice Date"),
    "due_date": ("Due date", "Due", "Payment due", "Pay by", "Date due", "Due on", "Due Date", "Payable by"),
    "order_date": ("Order date", "Ordered", "Date of order", "Ordered on"),
    "delivery_date": ("Delivery date", "Delivered", "Ship date", "Shipped", "Service date", "Date of supply"),
    "time": ("Time", "Time", "TIME", "Hour"),
    "cashier": ("Cashier", "Served by", "Server", "Clerk", "Operator", "Your host", "Staff", "Employee", "Waiter"),
    "table": ("Table", "Table No.", "TABLE", "Table #", "Tbl"),
    "guests": ("Guests", "Covers", "Persons", "Party"),
    "register": ("Register", "Till", "Terminal", "POS", "Reg", "Lane", "Cash desk"),
    "store_number": ("Store", "Store #", "Branch", "Shop No.", "Site"),
    "phone": ("Tel", "Tel.", "Phone", "Ph", "T", "Telephone", "Call us"),
    "email": ("Email", "E-mail", "Mail", "E"),
    "website": ("Web", "Website", "www", "Visit"),
    "tax_id": ("VAT No.", "VAT ID", "Tax ID", "VAT Reg No", "ABN", "GST No.", "Tax No.", "EIN", "USt-IdNr."),
    "terms": ("Terms", "Payment terms", "Terms of payment"),
    "reference": ("Reference", "Ref", "Your ref.", "Payment reference", "Project"),
    "iban": ("IBAN", "Account", "Bank account", "Pay to"),
    "payment_method": ("Payment method", "Payment", "Paid by", "Method", "Payment type"),
    "card": ("Card", "Card No.", "Card number", "Account"),
    "customer": ("Bill to", "Billed to", "Invoice to", "Customer", "Client", "Sold to", "To", "Bill To"),
    "ship_to": ("Ship to", "Deliver to", "Delivery address", "Ship To", "Recipient"),
    "subtotal": ("Subtotal", "Sub-total", "Sub Total", "SUBTOTAL", "Subtotal", "Net", "Net total", "Net amount",
                 "Items total", "Goods total", "Total excl. tax", "Total before tax"),
    "discount": ("Discount", "Discount {rate}", "Member discount", "Coupon", "Promo", "Voucher", "Rebate", "Savings"),
    "tax": ("Tax", "Sales tax", "VAT", "GST", "Tax {rate}", "VAT {rate}", "GST {rate}", "VAT ({rate})", "TAX",
            "Sales Tax", "Tax ({rate})", "{rate} VAT", "MwSt {rate}", "HST {rate}", "TVA {rate}", "IVA {rate}"),
    "included_tax": ("incl. VAT {rate}", "Incl. tax", "VAT included", "Tax included", "Includes GST", "of which VAT",
                     "incl. {rate} VAT", "GST incl."),
    "tip": ("Tip", "Gratuity", "TIP", "Tip {rate}"),
    "service": ("Service charge", "Service", "Service {rate}", "Service fee"),
    "shipping": ("Shipping", "Delivery", "Freight", "Postage", "Shipping & handling", "Delivery fee", "Carriage"),
    "total": ("Total", "Total", "TOTAL", "TOTAL", "Grand total", "Grand Total", "Amount due", "Total due", "To pay",
              "Balance", "Amount payable", "Total amount", "Sum", "Amount", "Invoice total", "Total incl. tax",
              "TOTAL DUE", "Total {code}"),
    "whole_total": ("Total", "TOTAL", "Grand total", "Invoice total", "Total amount", "Total {code}"),
    "paid": ("Paid", "Amount paid", "Deposit", "Less deposit", "Prepaid", "Payments", "Advance"),
    "balance": ("Balance due", "Balance", "Amount due", "Remaining", "Still to pay", "Due now", "Outstanding"),
    "cash": ("Cash", "CASH", "Cash paid", "Cash tendered", "Tendered", "Paid cash", "Cash received", "Given"),
    "card_paid": ("Card", "VISA", "Visa", "Mastercard", "MASTERCARD", "Debit card", "Credit card", "AMEX", "EC card",
                  "Contactless", "Maestro", "Visa Debit", "Apple Pay", "Gift card", "PayPal"),
    "change": ("Change", "CHANGE", "Change due", "Your change", "Change given", "Returned"),
}  # fmt: skip
ITEM_LABELS: dict[str, tuple[str, ...]] = {
    "description": ("Item", "Description", "Product", "Article", "Name", "Details", "Service", "Items", "ITEM"),
    "quantity": ("Qty", "Quantity", "Qty.", "Units", "Pcs", "QTY", "No.", "Hours"),
    "unit_price": ("Price", "Unit price", "Rate", "Each", "Unit cost", "Price each", "Unit", "Unit Price"),
    "discount": ("Disc.", "Discount", "Less", "Rebate"),
    "amount": ("Amount", "Total", "Line total", "Sum", "Total", "AMOUNT", "Net", "Value"),
    "code": ("Code", "SKU", "Art. No.", "Item #", "Ref", "No"),
}
CODES = {"$": "USD", "€": "EUR", "£": "GBP"}
HEADINGS = ("INVOICE", "Invoice", "Tax Invoice", "TAX INVOICE", "Invoice", "Bill", "Sales invoice", "Proforma Invoice")
METHODS = ("Bank transfer", "Credit card", "Cash", "Cheque", "PayPal", "Direct debit", "Visa", "Wire transfer", "Card")
TERMS = ("30 days", "14 days net", "Net 30", "Net 15", "Due on receipt", "60 days", "7 days", "Net 45", "10 days")


@dataclass(frozen=True)
class Room:
    """About how many characters and lines there is room for."""

    columns: int
    lines: int


@dataclass(frozen=True)
class Fact:
    """A datum with its label; a value of several pieces stands on several lines."""

    label: Piece
    values: tuple[Piece, ...]


@dataclass(frozen=True)
class Item:
    description: Piece
    quantity: Piece
    unit_price: Piece
    amount: Piece
    discount: Piece
    code: Piece
    value: int  # of the amount, in the smallest coin
    unit_value: int
    count: float
    reduced: bool = False


@dataclass(frozen=True)
class Sum:
    """A line under the items: what it is, how it is called, how much."""

    kind: str
    label: Piece
    amount: Piece
    value: int


@dataclass
class Sale:
    kind: str  # receipt or invoice
    style: words.MoneyStyle
    facts: dict[str, Fact]
    items: list[Item]
    sums: list[Sum]
    heading: Piece
    item_heads: dict[str, Piece]
    code: str  # of the currency, printed or not
    currency: Piece | None = None  # a line that names it, such as "All prices in EUR"
    extras: list[Line] = field(default_factory=list)  # words of thanks and the like


@dataclass(frozen=True)
class Wording:
    """How one paper writes its labels."""

    random: Random
    colon: bool
    upper: bool

    def label(self, text: str, strong: bool = False, scale: float = 1.0, muted: bool = False) -> Piece:
        text = text.upper() if self.upper else text
        if self.colon and text[-1] not in "#:":
            text += ":"
        return Piece(text, scale, strong, muted)


def invent(random: Random, kind: str, room: Room) -> Sale:
    """A sale with about as much to print as there is room for."""
    style = _money_style(random)
    wording = Wording(random, colon=random.random() < 0.45, upper=random.random() < 0.15)
    spare = room.lines - 4
    most_items = max(1, min(10, round(spare * random.uniform(0.3, 0.6))))
    items = _items(
        random,
        style,
        kind,
        random.randint((most_items + 1) // 2 if random.random() < 0.7 else 1, most_items),
        max(8, room.columns - 9),
    )
    code = _currency_code(random, style)
    sums = _sums(random, items, _Register(random, style, wording, code), kind, max(2, spare - len(items)))
    facts = _facts(random, kind, wording, room)
    heads = {
        key: Piece(random.choice(labels).upper() if wording.upper else random.choice(labels), strong=True)
        for key, labels in ITEM_LABELS.items()
    }
    if heads["amount"].text == heads["unit_price"].text or heads["code"].text == heads["quantity"].text:
        heads |= {"amount": Piece("Amount", strong=True), "code": Piece("Code", strong=True)}
    heading = random.choice(HEADINGS if kind == "invoice" else ("RECEIPT", "Receipt", "SALES RECEIPT", "Sale", "Bill"))
    sale = Sale(kind, style, facts, items, sums, Piece(heading, scale=random.uniform(1.0, 1.8)), heads, code)
    if not style.sign and random.random() < 0.3:
        sale.currency = Piece(code)
    sale.extras = [(Piece(text),) for text in random.sample(THANKS, random.choice((0, 0, 1, 1, 2)))]
    return sale


THANKS = (
    "Thank you!", "Thank you for your visit", "THANK YOU", "Please come again", "See you soon!", "Have a nice day!",
    "Customer copy", "Keep this receipt", "Returns within 30 days", "No refunds", "Thank you for your business",
    "*** COPY ***", "Goods remain our property", "Please pay on time", "Open daily 8-20",
    "Follow us online", "Ask about our club card", "Enjoy your meal!", "Approved",
)  # fmt: skip


def _money_style(random: Random) -> words.MoneyStyle:
    style = words.money_style(random)
    return style if len(style.sign) < 5 else words.MoneyStyle("$")


def _currency_code(random: Random, style: words.MoneyStyle) -> str:
    sign = style.sign.strip()
    if not sign:
        return random.choice(("USD", "EUR", "GBP", "CHF", "AUD", "CAD", "SEK", "INR", "JPY"))
    return CODES.get(sign, sign)


# Facts ---------------------------------------------------------------------------------------


def _facts(random: Random, kind: str, wording: Wording, room: Room) -> dict[str, Fact]:
    values = _fact_values(random, room.columns)
    facts = {}
    for key, texts in values.items():
        labels = LABELS["invoice_date" if (kind, key) == ("invoice", "date") else key] if key != "vendor" else ("",)
        pieces = tuple(Piece(text) for text in texts)
        label = wording.label(random.choice(labels)) if key != "vendor" else Piece("")
        facts[key] = Fact(label, pieces)
    return facts


def _fact_values(random: Random, columns: int) -> dict[str, list[str]]:
    """Everything that a paper may say beside goods and sums; dates share one way of writing."""
    style = random.choice(words.DATE_STYLES)
    day = words.day(random)

    def later(low: int, high: int) -> list[str]:
        return [words.date(random, day + datetime.timedelta(random.randint(low, high)), style)]

    vendor = _fitting(lambda: words.company(random), columns)
    names = [_fitting(lambda: words.company(random) if random.random() < 0.4 else words.person(random), columns)]
    address = _address(random, columns)
    return {
        "vendor": [vendor], "vendor_address": address, "date": later(0, 0), "due_date": later(7, 60),
        "order_date": later(-20, -1), "delivery_date": later(1, 6), "time": [words.time(random)],
        "receipt_number": [words.code(random)], "invoice_number": [words.code(random)],
        "order_number": [words.code(random)], "customer_number": [words.code(random)],
        "cashier": [random.choice((words.person(random).split()[0], words.person(random), str(random.randint(1, 99))))],
        "table": [str(random.randint(1, 60))], "guests": [str(random.randint(1, 12))],
        "register": [f"{random.randint(1, 99):0{random.choice((1, 2, 3))}}"],
        "store_number": [str(random.randint(1, 9999))], "phone": [words.phone(random)], "email": [words.email(random)],
        "website": [words.web(random)], "tax_id": [_tax_id(random)], "terms": [random.choice(TERMS)],
        "reference": [random.choice((words.code(random), words.word(random).capitalize()))],
        "iban": [_iban(random)], "payment_method": [random.choice(METHODS)], "card": [_card(random)],
        "customer": names, "customer_address": _address(random, columns),
        "ship_to": [_fitting(lambda: words.person(random), columns), *_address(random, columns)],
    }  # fmt: skip


LABELS |= {"vendor_address": ("Address",), "customer_address": ("Address",)}


def _fitting(source: Callable[[], str], longest: int) -> str:
    for _ in range(4):
        text = source()
        if len(text) <= longest:
            return text
    return text[:longest].strip()


def _address(random: Random, columns: int) -> list[str]:
    street = _fitting(lambda: words.street(random), columns)
    town = _fitting(lambda: f"{words.postcode(random)} {words.city(random)}", columns)
    if random.random() < 0.5:
        town = _fitting(lambda: f"{words.city(random)}, {words.postcode(random)}", columns)
    return (
        [f"{street}, {town}"] if len(street) + len(town) < columns * 0.7 and random.random() < 0.3 else [street, town]
    )


def _tax_id(random: Random) -> str:
    digits = "".join(random.choices("0123456789", k=9))
    return random.choice((f"GB{digits}", f"DE{digits}", f"{digits[:2]}-{digits[2:]}", digits, f"ATU{digits[:8]}"))


def _iban(random: Random) -> str:
    digits = "".join(random.choices("0123456789", k=16))
    groups = " ".join(digits[i : i + 4] for i in range(0, 16, 4))
    return f"{random.choice(('DE', 'FR', 'NL', 'GB', 'ES'))}{random.randint(10, 99)} {groups}"


def _card(random: Random) -> str:
    last = f"{random.randint(0, 9999):04}"
    return random.choice((f"**** **** **** {last}", f"************{last}", f"XXXX-{last}", f"*{last}", f"**** {last}"))


# Items ---------------------------------------------------------------------------------------


def _items(random: Random, style: words.MoneyStyle, kind: str, count: int, longest: int) -> list[Item]:
    coins = 10**style.decimals
    dear = random.choice((0.8, 1.3, 2.0)) if kind == "receipt" else random.choice((1.5, 2.2, 3.0))
    plain = random.random() < 0.3  # each item once
    discounts = random.random() < 0.1
    items: list[Item] = []
    known: set[str] = set()
    while len(items) < count:
        text = _fitting(lambda: words.product(random), longest)
        if text.lower() in known:
            longest = max(longest, 12)
            continue
        known.add(text.lower())
        unit = max(1, round(10 ** random.uniform(0, dear) * coins))
        if style.decimals and random.random() < 0.5:
            unit = max(5, round(unit / 10) * 10 + random.choice((0, 5, 9)))
        items.append(_item(random, style, text, unit, plain, discounts))
    return items


def _item(random: Random, style: words.MoneyStyle, text: str, unit: int, plain: bool, discounts: bool) -> Item:
    coins = 10**style.decimals
    count: float = 1 if plain else random.choice((1, 1, 1, 2, 2, 3, 4, 5, random.randint(6, 40)))
    shown = str(count)
    if not plain and random.random() < 0.06:
        count = round(random.uniform(0.1, 3), random.choice((1, 2, 3)))
        shown = f"{count:.3f}" if random.random() < 0.5 else f"{count:g}"
        count = float(shown)
    share = random.choice((5, 10, 15, 20, 25, 50)) if discounts and random.random() < 0.6 else 0
    value = max(1, round(count * unit * (100 - share) / 100))
    return Item(
        Piece(text), Piece(shown), Piece(style.show(unit / coins)), Piece(style.show(value / coins)),
        Piece(f"{share}%" if share else "-"), Piece(words.code(random)[:8]), value, unit, count, bool(share),
    )  # fmt: skip


# Sums ----------------------------------------------------------------------------------------


@dataclass
class _Register:
    """Adds up lines under the items."""

    random: Random
    style: words.MoneyStyle
    wording: Wording
    code: str  # of the currency
    lines: list[Sum] = field(default_factory=list)

    def add(
        self, kind: str, value: int, rate: str = "", labels: str = "", strong: bool = False, scale: float = 1.0
    ) -> None:
        pool = LABELS[labels or kind]
        if not rate:
            pool = tuple(text for text in pool if "{rate}" not in text)
        taken = {line.label.label.lower() for line in self.lines}
        choices = [text.format(rate=rate, code=self.code) for text in pool]
        choices = [text for text in choices if text.lower() not in taken] or [f"{kind.capitalize()} {len(taken)}"]
        label = self.wording.label(self.random.choice(choices), strong, scale)
        amount = Piece(self.style.show(value / 10**self.style.decimals), scale, strong)
        self.lines.append(Sum(kind, label, amount, value))


def _sums(random: Random, items: Sequence[Item], book: _Register, kind: str, room: int) -> list[Sum]:
    """Subtotal to change, as many as there is room for; each follows from those before."""
    goods = sum(item.value for item in items)
    wanted = _wanted_sums(random, kind, room)
    value = goods
    if "subtotal" in wanted:
        book.add("subtotal", value)
    if "discount" in wanted:
        share = random.choice((5, 10, 15, 20, 25))
        off = min(value - 1, max(1, round(value * share / 100)))
        book.add("discount", -off if random.random() < 0.8 else off, f"{share}%")
        value -= off
    for extra in ("service", "shipping"):
        if extra in wanted:
            share = random.choice((5, 8, 10, 12, 15))
            fee = max(1, round(value * share / 100))
            book.add(extra, fee, f"{share}%")
            value += fee
    if "tax" in wanted:
        value += _add_taxes(random, book, value)
    if "tip" in wanted:
        share = random.choice((5, 10, 15, 18, 20))
        tip = max(1, round(value * share / 100))
        book.add("tip", tip, f"{share}%")
        value += tip
    if "total" in wanted:
        scale = random.uniform(1.15, 1.7) if random.random() < 0.3 else 1.0
        labels = "whole_total" if "paid" in wanted else "total"
        book.add("total", value, labels=labels, strong=random.random() < 0.5, scale=scale)
    if "included_tax" in wanted:
        rate = random.choice((5, 7, 10, 19, 20, 21, 25))
        book.add("tax", max(1, round(value * rate / (100 + rate))), f"{rate}%", "included_tax")
    _add_payment(random, book, value, wanted)
    return book.lines


def _wanted_sums(random: Random, kind: str, room: int) -> set[str]:
    chances = {"subtotal": 0.6, "discount": 0.15, "tax": 0.6, "tip": 0.1, "service": 0.08, "shipping": 0.08}
    if kind == "invoice":
        chances |= {"tip": 0.0, "service": 0.03, "shipping": 0.2}
    wanted = {name for name, chance in chances.items() if random.random() < chance}
    if "tax" not in wanted and random.random() < 0.3:
        wanted.add("included_tax")
    if kind == "receipt" and random.random() < 0.6:
        wanted.add(random.choice(("cash", "cash", "card_paid")))
    elif kind == "invoice" and random.random() < 0.15:
        wanted.add("paid")
    wanted = set(random.sample(sorted(wanted), min(len(wanted), max(0, room - 1))))
    if random.random() < 0.96 or not wanted:
        wanted.add("total")
    return wanted


def _add_taxes(random: Random, book: _Register, value: int) -> int:
    rates = random.sample((5, 6, 7, 8, 8.25, 9.5, 10, 13, 15, 19, 20, 21, 25), 2 if random.random() < 0.12 else 1)
    taxes = 0
    for rate in rates:
        tax = max(1, round(value * rate / 100))
        book.add("tax", tax, random.choice((f"{rate}%", f"{rate}%", f"{rate:.1f}%", f"{rate} %")))
        taxes += tax
    return taxes


def _add_payment(random: Random, book: _Register, value: int, wanted: set[str]) -> None:
    coins = 10**book.style.decimals
    if "card_paid" in wanted:
        book.add("card_paid", value)
    if "cash" in wanted:
        note = random.choice((1, 5, 10, 20, 50)) * coins
        given = -(-value // note) * note
        book.add("cash", given)
        if given > value or random.random() < 0.5:
            book.add("change", given - value)
    if "paid" in wanted and value > 1:
        paid = round(value * random.choice((0.1, 0.25, 0.5, 0.3)))
        book.add("paid", -paid if random.random() < 0.5 else paid)
        book.add("balance", value - paid, strong=True)
