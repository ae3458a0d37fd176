"""Where a receipt or an invoice prints what: many ways that shops and offices have, two of each held out.

A layout prints what there is room for. What it leaves out is not shown, and questions say so.
"""

from __future__ import annotations

from random import Random

from tessera.nano.pictures.papers_blocks import (
    Block,
    Gap,
    Grid,
    Line,
    Logo,
    Pairs,
    Panel,
    Piece,
    Rule,
    Side,
    Stack,
    Text,
)
from tessera.nano.pictures.papers_sale import Fact, Item, Room, Sale, Sum

RULES = ("thin", "thin", "dashed", "dashed", "double", "thick", "-", "=", "*", ".")
GRID_RULES = ("", "h", "hvo", "t", "bt", "to", "o", "ht", "v", "bth", "tvo")
SHAPES = ("disc", "square", "ring", "triangle", "stripes")


def compose(random: Random, sale: Sale, room: Room, unseen: bool) -> Block:
    composer = _Composer(random, sale, room)
    if sale.kind == "receipt":
        blocks = composer.unseen_receipt() if unseen else composer.receipt()
    else:
        blocks = composer.unseen_invoice() if unseen else composer.invoice()
    return Stack([block for block in blocks if not (isinstance(block, Text | Pairs | Grid) and _is_empty(block))])


def _is_empty(block: Text | Pairs | Grid) -> bool:
    return not (block.lines if isinstance(block, Text) else block.rows)


class _Composer:
    """The layout of one sale in the making."""

    def __init__(self, random: Random, sale: Sale, room: Room) -> None:
        self.random, self.sale = random, sale
        self.narrow = room.columns < 30
        self.tiny = room.columns < 20 or room.lines < 8
        self.spare = max(1, room.lines - len(sale.items) - len(sale.sums) - 3)
        self.rule = Rule(random.choice(RULES)) if random.random() < 0.8 else Gap(0.4)

    # Receipts ------------------------------------------------------------------------------------

    def receipt(self) -> list[Block]:
        random = self.random
        head = self._vendor_block(0.5 if random.random() < 0.65 else 0.0)
        meta, items, sums = self._receipt_facts(), self._receipt_items(), self._sums()
        foot = self._extras(0.5)
        middle: list[Block] = [items, self._maybe_rule(), *sums]
        if random.random() < 0.7:
            blocks = [*head, *meta, self.rule, *middle]
        else:
            blocks = [*head, self.rule, *middle, self.rule, *meta]
        if random.random() < 0.08:  # the shop's name stands at the end
            blocks = [*blocks[len(head) :], self.rule, *head]
        return [*blocks, *foot]

    def unseen_receipt(self) -> list[Block]:
        """Held out: the total in a box before the items, or goods with "(x2)" behind their names."""
        head, meta = self._vendor_block(1.0), self._receipt_facts()
        totals = [line for line in self.sale.sums if line.kind == "total"]
        if totals and self.random.random() < 0.5:
            others = [line for line in self.sale.sums if line.kind != "total"]
            boxed: Block = Panel(_pairs(totals, "columns"), filled=True)
            return [*head, boxed, Gap(), self._plain_items(), self.rule, _pairs(others, "columns"), *meta]
        counted = [
            ((item.description, Piece("(x", leads=True), item.quantity, Piece(")", glued=True)), (item.amount,))
            for item in self.sale.items
        ]
        return [*head, self.rule, Pairs(counted, "columns"), self.rule, *self._sums(), *meta, *self._extras(1.0)]

    def _vendor_block(self, align: float) -> list[Block]:
        random, facts = self.random, self.sale.facts
        blocks: list[Block] = []
        if self.spare > 4 and random.random() < 0.2:
            blocks += [Logo(random.choice(SHAPES), align, random.uniform(1.4, 2.6)), Gap(0.3)]
            self.spare -= 2
        lines: list[Line] = []
        if random.random() < 0.95:
            lines.append(facts["vendor"].values)
            self.spare -= 1
        if self.spare > 2 and random.random() < 0.65:
            lines += [(piece,) for piece in facts["vendor_address"].values]
            self.spare -= 2
        for key in random.sample(("phone", "email", "website", "tax_id", "store_number"), 3):
            if self.spare > 3 and random.random() < 0.3:
                fact = facts[key]
                bare = key in ("phone", "email", "website") and random.random() < 0.5
                lines.append(fact.values if bare else (fact.label, *fact.values))
                self.spare -= 1
        blocks.append(Text(lines, align))
        if self.spare > 3 and random.random() < 0.2:
            blocks.append(Text([(self.sale.heading,)], align))
            self.spare -= 1
        return blocks

    def _receipt_facts(self) -> list[Block]:
        random = self.random
        keys = ["date", "receipt_number", "time", "cashier", "table", "guests", "register", "order_number"]
        chances = [0.85, 0.6, 0.5, 0.35, 0.2, 0.1, 0.2, 0.1]
        chosen = [key for key, chance in zip(keys, chances, strict=True) if random.random() < chance]
        if random.random() < 0.5:
            random.shuffle(chosen)
        chosen = chosen[: max(1, self.spare)]
        self.spare -= len(chosen)
        facts = [self.sale.facts[key] for key in chosen]
        if any(line.kind == "card_paid" for line in self.sale.sums) and self.spare > 1 and random.random() < 0.6:
            facts.append(self.sale.facts["card"])
        blocks: list[Block] = []
        if {"date", "time"} <= set(chosen) and random.random() < 0.4:
            date, time = self.sale.facts["date"], self.sale.facts["time"]
            facts = [fact for fact in facts if fact is not date and fact is not time]
            blocks.append(Text([(*date.values, *time.values)], random.choice((0.0, 0.5, 0.5, 1.0))))
        return [*blocks, *self._fact_blocks(facts)]

    def _fact_blocks(self, facts: list[Fact]) -> list[Block]:
        rows = [((fact.label,), fact.values) for fact in facts if len(fact.values) == 1]
        if len(rows) > 1 and not self.narrow and self.random.random() < 0.25:
            half = (len(rows) + 1) // 2
            kind = self.random.choice(("inline", "columns"))
            return [Side([Pairs(rows[:half], kind), Pairs(rows[half:], kind)])]
        return [Pairs(rows, self.random.choice(("spread", "inline", "inline", "columns", "leader")))]

    def _receipt_items(self) -> Block:
        kind = self.random.random()
        if kind < 0.35:
            return self._plain_items()
        if kind < 0.5:
            return self._counted_items()
        if kind < 0.75:
            return self._two_line_items()
        return self._item_grid()

    def _plain_items(self) -> Block:
        tail = Piece(self.random.choice("ABTF*")) if self.random.random() < 0.12 else None
        rows: list[tuple[Line, Line]] = []
        for item in self.sale.items:
            amount: Line = (item.amount,) if tail is None else (item.amount, Piece(tail.text))
            rows.append(((item.description,), amount))
        return Pairs(rows, self.random.choice(("spread", "spread", "spread", "leader")))

    def _counted_items(self) -> Block:
        """The quantity before the goods: "2 x Tea 5.00", "2x Tea", "2 Tea"."""
        kind = self.random.randrange(3)
        rows: list[tuple[Line, Line]] = []
        for item in self.sale.items:
            sign: Line = ((Piece("x"),), (Piece("x", glued=True),), ())[kind]
            rows.append(((item.quantity, *sign, item.description), (item.amount,)))
        return Pairs(rows, "spread")

    def _two_line_items(self) -> Block:
        """The goods, and how many at what price under them; one of a kind takes one line."""
        always, sign = self.random.random() < 0.3, self.random.choice(("x", "@", "X", "*"))
        amount_above = self.random.random() < 0.3
        rows: list[tuple[Line, Line]] = []
        for item in self.sale.items:
            if item.count == 1 and not always:
                rows.append(((item.description,), (item.amount,)))
                continue
            count: Line = (Piece("  "), item.quantity, Piece(sign), item.unit_price)
            if amount_above:
                rows += [((item.description,), (item.amount,)), (count, ())]
            else:
                rows += [((item.description,), ()), (count, (item.amount,))]
        return Pairs(rows, "spread")

    # Tables of items -----------------------------------------------------------------------------

    def _item_grid(self) -> Block:
        random, sale = self.random, self.sale
        keys = self._item_columns()
        heads = random.random() < 0.9
        rows: list[list[Line]] = [[(sale.item_heads[key],) for key in keys]] if heads else []
        rows += [[(_cell(item, key),) for key in keys] for item in sale.items]
        numbers = random.choice((1.0, 1.0, 1.0, 0.5, 0.0))
        aligns = [
            {"description": 0.0, "code": 0.0, "quantity": random.choice((0.5, numbers))}.get(k, numbers) for k in keys
        ]
        return Grid(
            rows, aligns, random.choice(GRID_RULES), num_heads=int(heads),
            band=random.random() < 0.35 and heads, zebra=random.random() < 0.25,
        )  # fmt: skip

    def _item_columns(self) -> list[str]:
        random = self.random
        keys = ["description"]
        if random.random() < 0.85:
            keys.insert(random.choice((0, 1, 1)), "quantity")
        if not self.narrow or random.random() < 0.4:
            keys.append("unit_price")
        if any(item.reduced for item in self.sale.items):
            keys.append("discount")
        keys.append("amount")
        if not self.narrow and random.random() < 0.15:
            keys.insert(0, "code")
        return keys

    # Sums ----------------------------------------------------------------------------------------

    def _sums(
        self, kinds: tuple[str, ...] = ("spread", "spread", "spread", "leader", "right", "columns")
    ) -> list[Block]:
        sums, random = self.sale.sums, self.random
        if self.sale.currency is not None:
            currency: list[Block] = [Text([(Piece(random.choice(("Currency:", "All amounts in", "Prices in"))),
                                            self.sale.currency)])]  # fmt: skip
        else:
            currency = []
        kind = random.choice(kinds)
        place = next((number for number, line in enumerate(sums) if line.kind == "total"), None)
        if place is None or random.random() < 0.55:
            return [_pairs(sums, kind), *currency]
        total: Block = _pairs([sums[place]], "spread" if kind == "leader" else kind)
        if random.random() < 0.45:
            total = Panel(total, filled=random.random() < 0.5)
        before, after = sums[:place], sums[place + 1 :]
        parts: list[Block] = [_pairs(before, kind), self._maybe_rule(), total, self._maybe_rule(), _pairs(after, kind)]
        return [part for part in parts if not (isinstance(part, Pairs) and not part.rows)] + currency

    def _maybe_rule(self) -> Block:
        return self.rule if self.random.random() < 0.5 else Gap(0.3)

    def _extras(self, align: float) -> list[Block]:
        lines = [line for line in self.sale.extras if self.spare > 0 or self.random.random() < 0.3]
        return [Gap(0.4), Text(lines, align)] if lines else []

    # Invoices ------------------------------------------------------------------------------------

    def invoice(self) -> list[Block]:
        random = self.random
        if self.tiny:
            key = random.choice(("invoice_number", "date"))
            return [Text([(self.sale.heading,)]), self._pairs_of([key]), self._plain_items(), *self._sums()]
        sums = self._sums(("right", "right", "spread", "spread", "leader"))
        blocks = self._invoice_head()
        if self.spare > 2 and random.random() < 0.75:
            blocks += [self._parties(), Gap(0.5)]
        blocks += [self._item_grid(), Gap(0.4), *sums]
        if self.spare > 2 and random.random() < 0.5:
            keys = [key for key in ("iban", "terms", "payment_method", "reference") if random.random() < 0.4]
            blocks += [Gap(0.4), self._pairs_of(keys)]
        return [*blocks, *self._extras(random.choice((0.0, 0.5)))]

    def unseen_invoice(self) -> list[Block]:
        """Held out: sums in a strip of columns, or the sender's name and address at the foot."""
        sale, head = self.sale, self._invoice_head(vendor=False)
        if self.random.random() < 0.5:
            labels: list[Line] = [(line.label,) for line in sale.sums]
            strip = Grid([labels, [(line.amount,) for line in sale.sums]], [0.5] * len(labels), "o", band=True)
            if len(labels) <= 4:
                vendor = Text([sale.facts["vendor"].values])
                return [vendor, *head, self._item_grid(), Gap(), strip]
        foot = [sale.facts["vendor"].values, *((piece,) for piece in sale.facts["vendor_address"].values)]
        return [*head, self._parties(), self._item_grid(), Gap(), *self._sums(("right",)), Rule(), Text(foot, 0.5)]

    def _invoice_head(self, vendor: bool = True) -> list[Block]:
        random, sale = self.random, self.sale
        keys = ["invoice_number", "date"] if random.random() < 0.9 else ["date"]
        keys += [key for key in ("due_date", "order_number", "customer_number", "order_date", "delivery_date", "tax_id")
                 if random.random() < 0.35]  # fmt: skip
        keys = keys[: max(2, self.spare)]
        self.spare -= len(keys)
        if random.random() < 0.3:
            random.shuffle(keys)
        meta = self._pairs_of(keys)
        heading: Block = Text([(sale.heading,)], random.choice((0.0, 0.5, 1.0)))
        if random.random() < 0.15:
            heading = Panel(heading, filled=True)
        if not vendor:
            return [heading, meta, Gap(0.5)]
        sender = Stack(self._vendor_block(random.choice((0.0, 0.0, 0.5, 1.0))))
        kind = random.random()
        if kind < 0.4 and not self.narrow:
            parts: list[Block] = [sender, Stack([heading, meta])]
            random.shuffle(parts)
            return [Side(parts), Gap(0.5)]
        if kind < 0.7:
            return [sender, Gap(0.4), heading, meta, Gap(0.5)]
        return [heading, Gap(0.3), sender, self.rule, meta, Gap(0.5)]

    def _pairs_of(self, keys: list[str]) -> Block:
        rows = [((self.sale.facts[key].label,), self.sale.facts[key].values) for key in keys]
        return Pairs(rows, self.random.choice(("columns", "inline", "spread", "right"))) if rows else Gap(0.1)

    def _parties(self) -> Block:
        random, facts = self.random, self.sale.facts
        self.spare -= 2
        customer = facts["customer"]
        lines: list[Line] = [(customer.label,), customer.values]
        if random.random() < 0.25:
            lines = [(customer.label, *customer.values)]
        if self.spare > 1 and random.random() < 0.7:
            lines += [(piece,) for piece in facts["customer_address"].values]
            self.spare -= 2
        block: Block = Text(lines)
        if random.random() < 0.3 and not self.narrow:
            ship = facts["ship_to"]
            block = Side([block, Text([(ship.label,), *((piece,) for piece in ship.values)])])
        return Panel(block) if random.random() < 0.2 else block


def _pairs(sums: list[Sum], kind: str) -> Pairs:
    return Pairs([((line.label,), (line.amount,)) for line in sums], kind)


def _cell(item: Item, key: str) -> Piece:
    piece = getattr(item, key)
    assert isinstance(piece, Piece)
    return piece
