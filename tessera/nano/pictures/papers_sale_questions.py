"""What is asked about a receipt or an invoice, and the right answers.

Only what can be meant in one way is asked: "the tax" where one tax is printed, "the price" of goods
where one amount stands beside them. Everything else is asked by the label that is printed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tessera.nano.pictures.page import Question, Written, chosen, joined, unprinted
from tessera.nano.pictures.papers_asking import (
    FIELD_QUESTIONS,
    FIELDS_AS_JSON,
    LISTS_AS_JSON,
    LONGEST_JSON,
    Places,
    absent,
    asked,
    in_case,
    json_list,
    json_object,
    json_text,
    json_value,
    key_braces,
    key_list,
    yes_or_no,
)
from tessera.nano.pictures.papers_sale import Item, Sale, Sum
from tessera.nano.pictures.words import product


@dataclass(frozen=True)
class Field:
    """A datum as people name it: JSON keys, words in a sentence, and whole questions."""

    keys: tuple[str, ...]
    words: tuple[str, ...]
    questions: tuple[str, ...] = ()


FIELDS: dict[str, Field] = {
    "vendor": Field(
        ("vendor", "merchant", "store", "shop", "seller", "supplier", "company", "store_name", "vendor_name",
         "merchant_name", "shop_name", "business_name", "company_name"),
        ("store", "shop", "merchant", "vendor", "seller", "company", "business", "store name", "shop's name",
         "name of the store", "merchant name", "vendor name", "name of the business", "issuer"),
        ("Which shop is this from?", "Where was this bought?", "Who is the merchant?", "Who issued this?",
         "Which company is this from?", "What is the store called?", "Who is the seller?", "Who sold this?",
         "Which business issued this?", "From which shop is it?", "Where is this from?", "Who is the vendor?",
         "Where did I shop?", "Whose {thing} is this?", "Who sent this?"),
    ),
    "vendor_address": Field(
        ("address", "store_address", "vendor_address", "merchant_address", "seller_address"),
        ("address of the shop", "store address", "vendor's address", "seller's address", "merchant's address"),
        ("Where is the shop?", "What is the address of the store?", "Where is the seller located?"),
    ),
    "phone": Field(("phone", "phone_number", "telephone", "tel"), ("phone number", "telephone number", "phone"),
                   ("Which number can I call?", "How can I phone them?")),
    "email": Field(("email", "email_address", "e_mail"), ("email address", "e-mail", "email"), ()),
    "website": Field(("website", "web", "url"), ("website", "web address", "URL"), ("What is their website?",)),
    "tax_id": Field(("tax_id", "vat_number", "vat_id", "tax_number"), ("tax ID", "VAT number", "tax number"), ()),
    "date": Field(
        ("date", "date", "issue_date", "transaction_date", "purchase_date"),
        ("date", "date", "date of the {thing}", "{thing} date", "date of issue"),
        ("When was this issued?", "What date is on the {thing}?", "What is the date on this {thing}?",
         "When was it made out?", "Which day is it from?", "What's the date here?", "On what date was this issued?"),
    ),
    "due_date": Field(("due_date", "payment_due", "pay_by", "due"), ("due date", "payment due date", "date it is due"),
                      ("When is it due?", "By when must it be paid?", "When must this be paid?", "Pay by when?")),
    "order_date": Field(("order_date", "ordered_on", "date_ordered"), ("order date", "date of the order"),
                        ("When was it ordered?", "When was the order placed?")),
    "delivery_date": Field(("delivery_date", "ship_date", "delivered_on"), ("delivery date", "date of delivery"),
                           ("When was it delivered?", "When are the goods delivered?")),
    "time": Field(("time", "time_of_day", "transaction_time"), ("time", "time of purchase", "time of day"),
                  ("At what time was this?", "What time is printed?", "When exactly, what time?")),
    "receipt_number": Field(
        ("receipt_number", "receipt_no", "receipt_id", "transaction_number", "number"),
        ("receipt number", "receipt no", "number of the receipt", "receipt ID", "transaction number"),
        ("What number does the receipt have?", "Which receipt is this, by number?"),
    ),
    "invoice_number": Field(
        ("invoice_number", "invoice_no", "invoice_id", "number", "invoice_number"),
        ("invoice number", "invoice no", "number of the invoice", "invoice ID", "invoice number"),
        ("What number does the invoice have?", "Which invoice is this, by number?"),
    ),
    "order_number": Field(("order_number", "order_no", "po_number", "order_id"), ("order number", "order no"),
                          ("Which order is this for?",)),
    "customer_number": Field(("customer_number", "customer_id", "client_id"), ("customer number", "customer ID"), ()),
    "cashier": Field(("cashier", "server", "served_by", "clerk"), ("cashier", "name of the cashier", "server"),
                     ("Who was the cashier?", "Who served the customer?", "Who served?")),
    "table": Field(("table", "table_number", "table_no"), ("table number", "table"), ("Which table was it?",)),
    "guests": Field(("guests", "covers", "number_of_guests"), ("number of guests",), ("How many guests were there?",)),
    "register": Field(("register", "till", "terminal", "pos"), ("register number", "till number", "terminal"), ()),
    "terms": Field(("terms", "payment_terms"), ("payment terms", "terms of payment"), ("What are the terms?",)),
    "iban": Field(("iban", "account", "bank_account"), ("IBAN", "bank account", "account to pay to"), ()),
    "reference": Field(("reference", "ref", "payment_reference"), ("reference", "payment reference"), ()),
    "card": Field(("card", "card_number", "card_no"), ("card number", "number of the card"), ()),
    "customer": Field(
        ("customer", "bill_to", "client", "buyer", "customer_name", "billed_to"),
        ("customer", "client", "name of the customer", "buyer", "bill-to name", "recipient of the bill"),
        ("Who is the customer?", "Who is this billed to?", "Who has to pay?", "To whom is it addressed?",
         "Who is the client?", "Who bought this?"),
    ),
    "customer_address": Field(("customer_address", "billing_address"), ("customer's address", "billing address"), ()),
    "subtotal": Field(
        ("subtotal", "sub_total", "net_amount", "subtotal"), ("subtotal", "sub-total", "subtotal", "net amount"),
        ("How much is the subtotal?", "What do the items come to before anything is added?"),
    ),
    "discount": Field(("discount", "discount_amount"), ("discount", "amount of the discount"),
                      ("How much was taken off?", "How big is the discount?", "How much is the discount?")),
    "tax": Field(("tax", "tax_amount", "taxes", "tax"), ("tax", "tax amount", "amount of tax", "tax"),
                 ("How much tax was paid?", "How much is the tax?", "How much tax is there?", "How much tax?")),
    "tip": Field(("tip", "gratuity", "tip_amount"), ("tip", "gratuity", "amount of the tip"),
                 ("How much was the tip?", "How much did they tip?")),
    "service": Field(("service_charge", "service", "service_fee"), ("service charge",),
                     ("How much is the service charge?",)),
    "shipping": Field(("shipping", "shipping_cost", "delivery_fee"), ("shipping cost", "cost of delivery", "shipping"),
                      ("How much is shipping?", "How much does the delivery cost?")),
    "total": Field(
        ("total", "total", "total_amount", "grand_total", "sum", "total_price", "amount", "total_paid"),
        ("total", "total", "total amount", "grand total", "final total", "total sum", "final amount", "total price"),
        ("How much is the total?", "How much was it in total?", "What is the total amount?", "How much in total?",
         "What did it all cost?", "How much does it come to?", "What's the total?", "How much did this cost?",
         "What is the sum total?", "How much is it altogether?", "What is the total of this {thing}?",
         "What was the final amount?", "How much was spent?", "What does everything cost together?"),
    ),
    "amount_due": Field(
        ("amount_due", "balance_due", "balance", "total_due", "to_pay"),
        ("amount due", "balance due", "amount to pay", "amount payable", "balance"),
        ("How much must be paid?", "How much is due?", "What is still to be paid?", "How much do I owe?",
         "How much do I have to pay?"),
    ),
    "paid": Field(("amount_paid", "paid", "deposit"), ("amount already paid", "deposit", "amount paid"),
                  ("How much has been paid already?",)),
    "cash": Field(("cash", "cash_paid", "cash_received"), ("cash amount", "cash given", "cash received"),
                  ("How much cash was given?", "How much was handed over in cash?")),
    "change": Field(("change", "change_due", "change_given"), ("change", "change given", "change due"),
                    ("How much change was given?", "How much change did they get?", "What was the change?")),
    "payment_method": Field(
        ("payment_method", "payment", "paid_by", "method"), ("payment method", "means of payment", "way of payment"),
        ("How was it paid?", "How did they pay?", "What was it paid with?", "Paid by what?"),
    ),
}  # fmt: skip
BY_LABEL = (
    'What is "{label}"?', "What is the {label}?", "How much is {label}?", "{label}?", "What stands at {label}?",
    "What is the value of {label}?", "Value of {label}?", "What amount is given for {label}?", "Read {label}.",
    "Give the value of {label}.", "What does it say after {label}?", "How much is the {label}?", "{label}",
    'Give "{label}".', "Which value has {label}?", "What is printed for {label}?", "Tell me {label}.",
    "What number stands next to {label}?", "Find {label}.", "The value at {label}?",
)  # fmt: skip
AMOUNT_OF = (
    "How much is {item}?", "What does {item} cost?", "Price of {item}?", "How much did {item} cost?",
    "What is the price of {item}?", "How much for {item}?", "What was paid for {item}?", "{item} costs how much?",
    "Give the price of {item}.", "How much was the {item}?", "What is the amount for {item}?", "{item}?",
    "What's the cost of {item}?", "Amount of {item}?", "Find the price of {item}.", "How expensive is {item}?",
    "Tell me the price of {item}.", "What did the {item} come to?", "Which amount stands next to {item}?",
    "How much was charged for {item}?",
)  # fmt: skip
LINE_TOTAL_OF = (
    "What is the line total of {item}?", "What is the amount for {item}?", "Amount for {item}?",
    "How much was charged for {item} in all?", "How much do all the {item} come to?", "Line total of {item}",
    "What is the total for {item}?", "Total of {item}?", "What amount is listed for {item}?", "Sum for {item}?",
)  # fmt: skip
UNIT_PRICE_OF = (
    "What is the unit price of {item}?", "What does one {item} cost?", "Unit price of {item}?",
    "How much is a single {item}?", "Price for one {item}?", "How much is {item} each?", "Price per unit of {item}?",
    "What is the price of one {item}?", "At what unit price is {item} sold?", "Give the unit price of {item}.",
)  # fmt: skip
QUANTITY_OF = (
    "How many {item} were bought?", "What is the quantity of {item}?", "How many {item}?", "Quantity of {item}?",
    "How many of {item} are there?", "What quantity is given for {item}?", "How many units of {item}?",
    "How often was {item} bought?", "Qty of {item}?", "Number of {item}?", "How many {item} are listed?",
    "Give the quantity of {item}.", "What is the qty for {item}?", "How much {item} was bought?",
)  # fmt: skip
COUNT_ITEMS = (
    "How many items are listed?", "How many line items are there?", "How many different items are on the {thing}?",
    "How many lines of goods are there?", "Count the items.", "How many products are listed?", "Number of line items?",
    "How many different products were bought?", "How many positions does the {thing} have?", "How many entries?",
    "Count the line items.", "How many kinds of things were bought?", "How many item lines can you see?",
    "How many rows of items?", "Tell me how many different items there are.", "How many articles are listed?",
)  # fmt: skip
DEAREST = (
    "Which item is the most expensive?", "Which item cost the most?", "What was the most expensive item?",
    "What is the dearest item?", "Which product has the highest amount?", "What cost the most?",
    "Name the most expensive item.", "Which line has the highest amount?", "On what was the most spent?",
    "Most expensive item?", "Which position is the largest?", "Which item has the highest price?",
)  # fmt: skip
CHEAPEST = (
    "Which item is the cheapest?", "Which item cost the least?", "What was the cheapest item?", "Cheapest item?",
    "Which product has the lowest amount?", "What cost the least?", "Name the cheapest item.",
    "Which line has the lowest amount?", "What is the least expensive item?", "Which item has the lowest price?",
)  # fmt: skip
WHAT_COSTS = (
    "Which item costs {amount}?", "What costs {amount}?", "Which item has the amount {amount}?",
    "What is {amount} for?",
    "Which product was {amount}?", "For what was {amount} charged?", "Which line shows {amount}?",
    "What did they buy for {amount}?",
)  # fmt: skip
IS_SHOWN = (
    "Is there a {field} on this {thing}?", "Is a {field} shown?", "Does it show a {field}?", "Is any {field} listed?",
    "Does this {thing} include a {field}?", "Can you see a {field}?", "Is the {field} printed?", "Any {field}?",
    "Is a {field} given?", "Does the {thing} have a {field}?", "Is there any {field} listed?",
)  # fmt: skip
WAS_BOUGHT = (
    "Was {item} bought?", "Is {item} on the {thing}?", "Does the {thing} list {item}?", "Did they buy {item}?",
    "Is there {item} on this {thing}?", "Can you find {item} here?", "Is {item} listed?",
)  # fmt: skip
CURRENCY = (
    "What currency is used?", "Which currency is this in?", "What is the currency?", "Currency?", "In which currency?",
    "In what currency are the prices?", "Give the currency.", "Which currency sign is printed?",
)  # fmt: skip
LIST_ITEMS = (
    "List the items.", "What was bought?", "Which items are on the {thing}?", "Name all items.", "List all products.",
    "What items are listed?", "Which products were bought?", "What did they buy?", "List everything that was bought.",
)  # fmt: skip
ITEMS = ("items", "line items", "products", "positions")
WHOLE_RECORD = (
    "Return {braces} as JSON.", "Extract {braces} as JSON.", "Extract {braces}", "Fill in this JSON: {braces}",
    "Extract {braces} as JSON. Use null for what is not shown.", "Answer as JSON: {braces}",
    "Give {braces} for this {thing}.", "Read the {thing} into {braces}.", "Return JSON only: {braces}",
)  # fmt: skip
ITEM_KEYS = {
    "description": ("description", "name", "item", "product", "article", "title"),
    "quantity": ("quantity", "qty", "count", "units"),
    "unit_price": ("unit_price", "price_each", "rate", "unit_cost", "price_per_unit"),
    "amount": ("amount", "total", "line_total", "sum"),
}
LOOKED_FOR = {  # what may be asked for though it is absent, by kind of paper
    "receipt": ("vendor", "date", "time", "receipt_number", "cashier", "table", "subtotal", "tax", "discount", "tip",
                "total", "cash", "change", "payment_method", "phone", "order_number", "shipping", "customer", "email",
                "due_date", "website", "service", "guests", "card"),
    "invoice": ("vendor", "date", "due_date", "invoice_number", "order_number", "customer_number", "subtotal", "tax",
                "discount", "shipping", "total", "paid", "customer", "iban", "terms", "payment_method", "phone",
                "email", "order_date", "delivery_date", "tip", "reference", "tax_id", "website"),
}  # fmt: skip


def ask(random: Random, sale: Sale, places: Places, count: int) -> list[Question]:
    """`count` questions at most, no two of them alike."""
    asker = _Asker(random, sale, places)
    kinds = {
        asker.field: 26, asker.fields_as_json: 26, asker.items_as_json: 12, asker.record_as_json: 14,
        asker.missing: 12, asker.by_label: 6, asker.price: 9, asker.quantity: 5, asker.unit_price: 4,
        asker.number_of_items: 4, asker.extreme: 6, asker.what_costs: 3, asker.shown: 5, asker.bought: 3,
        asker.currency: 3, asker.list_items: 4,
    }  # fmt: skip
    return chosen(random, kinds, count)


class _Asker:
    """What one printed sale says, and the questions that fit it."""

    def __init__(self, random: Random, sale: Sale, places: Places) -> None:
        self.random, self.sale, self.places = random, sale, places
        self.thing = sale.kind if random.random() < 0.8 else random.choice(("paper", "document", "bill"))
        self.items = [item for item in sale.items if item.description in places]
        self.values = self._values()

    def _values(self) -> dict[str, Written]:
        """Each printed datum; what could be two things is left out."""
        places, values = self.places, {}
        for key, fact in self.sale.facts.items():
            lines = [places[piece] for piece in fact.values if piece in places]
            if key == "ship_to":
                continue
            if lines:
                values[key] = joined(lines, ", ")
        sums: dict[str, list[Sum]] = {}
        for line in self.sale.sums:
            if line.amount in places:
                sums.setdefault(line.kind, []).append(line)
        for kind, lines_of_kind in sums.items():
            if len(lines_of_kind) == 1:
                values[kind] = places[lines_of_kind[0].amount]
        for kind in ("cash", "card_paid"):
            if kind in sums and "payment_method" not in values:
                label = sums[kind][0].label
                start = label.text.lower().find("cash") if kind == "cash" else 0
                if start >= 0:
                    end = start + 4 if kind == "cash" else len(label.label)
                    values["payment_method"] = places[label][start:end]
        values.pop("card_paid", None)
        due = values.pop("balance", None) or values.get("total")
        if due is not None:
            values["amount_due"] = due
        return values

    def _wrongly_absent(self, key: str) -> bool:
        """Whether it is printed after all, under another name or twice."""
        kinds = [line.kind for line in self.sale.sums if line.amount in self.places]
        tenders = ("cash", "card_paid")
        alike: dict[str, tuple[str, ...]] = {"tax": ("tax",), "payment_method": tenders, "paid": tenders}
        alike |= {"card": ("card_paid",), "cash": ("card_paid",), "total": ("subtotal", "balance", *tenders)}
        if key == "discount" and any(item.discount in self.places for item in self.items):
            return True
        return any(kind in kinds for kind in alike.get(key, ()))

    def _words(self, text: str) -> str:
        return text.replace("{thing}", self.thing)

    def _ask(self, templates: Sequence[str], **pieces: Written | str) -> Written:
        return asked(self.random, templates, **{"thing": self.thing, **pieces})

    def _ask_field(self, key: str) -> Written:
        field = FIELDS[key]
        if field.questions and self.random.random() < 0.45:
            return self._ask(field.questions)
        return self._ask(FIELD_QUESTIONS, field=self._words(self.random.choice(field.words)))

    # Fields --------------------------------------------------------------------------------------

    def field(self) -> Question | None:
        known = [key for key in self.values if key in FIELDS]
        favoured = [key for key in known if key in ("total", "vendor", "date", "tax", "subtotal", "invoice_number")]
        key = self.random.choice(favoured if favoured and self.random.random() < 0.45 else known)
        return Question(self._ask_field(key), self.values[key], self.sale.kind)

    def missing(self) -> Question | None:
        keys = [key for key in LOOKED_FOR[self.sale.kind] if key not in self.values and not self._wrongly_absent(key)]
        return absent(self._ask_field(self.random.choice(keys))) if keys else None

    def fields_as_json(self) -> Question | None:
        names = self._field_names()
        answer = json_object([(name, self.values.get(key)) for key, name in names.items()])
        keys = list(names.values())
        question = self._ask(FIELDS_AS_JSON, keys=key_list(self.random, keys), braces=key_braces(self.random, keys))
        return Question(question, answer, self.sale.kind) if len(answer.text) <= LONGEST_JSON else None

    def _field_names(self) -> dict[str, str]:
        """Return some fields, shown or missing, each with the name it is asked by."""
        random = self.random
        possible = [key for key in LOOKED_FOR[self.sale.kind] if key in self.values or not self._wrongly_absent(key)]
        shown = [key for key in self.values if key in FIELDS]
        chosen = random.sample(shown, min(len(shown), random.randint(1, 5)))
        missing = [key for key in possible if key not in self.values]
        chosen += random.sample(missing, min(len(missing), random.choice((0, 0, 1, 1, 2))))
        random.shuffle(chosen)
        names: dict[str, str] = {}
        for key in chosen:
            name = in_case(random, random.choice(FIELDS[key].keys))
            if name not in names.values():
                names[key] = name
        return names

    def by_label(self) -> Question | None:
        lines = [line for line in self.sale.sums if line.amount in self.places]
        facts = [fact for fact in self.sale.facts.values()
                 if len(fact.values) == 1 and fact.label in self.places and fact.values[0] in self.places]  # fmt: skip
        pairs = [(line.label, line.amount) for line in lines] + [(fact.label, fact.values[0]) for fact in facts]
        labels = [label.label.lower() for label, _ in pairs]
        pairs = [pair for pair in pairs if labels.count(pair[0].label.lower()) == 1]
        if not pairs:
            return None
        label, value = self.random.choice(pairs)
        written = self.places[label][: len(label.label)]
        return Question(self._ask(BY_LABEL, label=written), self.places[value], self.sale.kind)

    def shown(self) -> Question | None:
        names = {"tax": "tax", "tip": "tip", "discount": "discount", "subtotal": "subtotal", "due_date": "due date",
                 "phone": "phone number", "time": "time", "table": "table number"}  # fmt: skip
        key = self.random.choice([key for key in names if key in self.values or not self._wrongly_absent(key)])
        question = self._ask(IS_SHOWN, field=names[key])
        return yes_or_no(question, key in self.values, self.sale.kind, self.values.get(key))

    def currency(self) -> Question | None:
        question = self._ask(CURRENCY)
        sign = self.sale.style.sign.strip()
        amounts = [self.places[line.amount] for line in self.sale.sums if line.amount in self.places]
        if self.sale.currency in self.places and self.sale.currency is not None:
            return Question(question, self.places[self.sale.currency], self.sale.kind)
        if not sign:
            named = [
                line.label for line in self.sale.sums if line.label in self.places and self.sale.code in line.label.text
            ]
            if not named:
                return absent(question)
            start = named[0].text.index(self.sale.code)
            written = self.places[named[0]][start : start + len(self.sale.code)]
            return Question(question, written, self.sale.kind)
        if not amounts:
            return None
        start = amounts[-1].text.index(sign)
        return Question(question, amounts[-1][start : start + len(sign)], self.sale.kind)

    # Items ---------------------------------------------------------------------------------------

    def _item(self) -> Item | None:
        return self.random.choice(self.items) if self.items else None

    def _one_amount(self, item: Item) -> bool:
        """Whether "its price" can mean one number only."""
        return item.unit_price not in self.places or item.unit_price.text == item.amount.text

    def price(self) -> Question | None:
        item = self._item()
        if item is None or item.amount not in self.places:
            return None
        templates = AMOUNT_OF if self._one_amount(item) else LINE_TOTAL_OF
        question = self._ask(templates, item=self.places[item.description])
        return Question(question, self.places[item.amount], self.sale.kind)

    def unit_price(self) -> Question | None:
        item = self._item()
        if item is None:
            return None
        question = self._ask(UNIT_PRICE_OF, item=self.places[item.description])
        if item.unit_price in self.places:
            return Question(question, self.places[item.unit_price], self.sale.kind)
        counted = any(item.quantity in self.places for item in self.items)
        return absent(question) if counted and item.count != 1 else None

    def quantity(self) -> Question | None:
        item = self._item()
        if item is None:
            return None
        question = self._ask(QUANTITY_OF, item=self.places[item.description])
        if item.quantity in self.places:
            return Question(question, self.places[item.quantity], self.sale.kind)
        return absent(question) if not any(other.quantity in self.places for other in self.items) else None

    def number_of_items(self) -> Question | None:
        return Question(self._ask(COUNT_ITEMS), unprinted(str(len(self.items))), self.sale.kind)

    def extreme(self) -> Question | None:
        """The dearest or the cheapest line, if one is alone so."""
        items = sorted(self.items, key=lambda item: item.value)
        if len(items) < 2 or not all(self._one_amount(item) for item in items):
            return None
        highest = self.random.random() < 0.65
        best, second = (items[-1], items[-2]) if highest else (items[0], items[1])
        if best.value == second.value or best.amount not in self.places:
            return None
        question = self._ask(DEAREST if highest else CHEAPEST)
        return Question(question, self.places[best.description], self.sale.kind, self.places[best.amount])

    def what_costs(self) -> Question | None:
        item = self._item()
        printed = [written.text for written in self.places.values()]
        if item is None or item.amount not in self.places or printed.count(item.amount.text) != 1:
            return None
        question = self._ask(WHAT_COSTS, amount=self.places[item.amount])
        return Question(question, self.places[item.description], self.sale.kind)

    def bought(self) -> Question | None:
        item = self._item()
        if item is None:
            return None
        if self.random.random() < 0.5:
            written = self.places[item.description]
            return yes_or_no(self._ask(WAS_BOUGHT, item=written), True, self.sale.kind, written)
        other = product(self.random)
        listed = [item.description.text.lower() for item in self.items]
        if any(other.lower() in text or text in other.lower() for text in listed):
            return None
        return yes_or_no(self._ask(WAS_BOUGHT, item=other), False, self.sale.kind)

    def list_items(self) -> Question | None:
        answer = json_list([json_text(self.places[item.description]) for item in self.items])
        if self.random.random() < 0.5:
            texts = joined([self.places[item.description] for item in self.items], ", ")
            return Question(self._ask(LIST_ITEMS), texts, self.sale.kind)
        names = tuple(template.rstrip(".?") + " as a JSON list." for template in ("List the items", "Give all items"))
        return Question(self._ask(names), answer, self.sale.kind) if len(answer.text) <= LONGEST_JSON else None

    def items_as_json(self) -> Question | None:
        names = self._item_names()
        answer = self._rows(names)
        if len(answer.text) > LONGEST_JSON:
            return None
        shown = list(names.values())
        things = self.random.choice(ITEMS)
        question = self._ask(
            LISTS_AS_JSON, keys=key_list(self.random, shown), list=f"[{key_braces(self.random, shown)}]",
            things=things, thing=things[:-1],
        )  # fmt: skip
        return Question(question, answer, self.sale.kind)

    def record_as_json(self) -> Question | None:
        """Some fields and the list of items in one object, as schemas of documents ask for them."""
        if not self.items:
            return None
        random = self.random
        fields, names = self._field_names(), self._item_names()
        things = in_case(random, random.choice(ITEMS).replace(" ", "_"))
        pairs = [(name, json_value(self.values.get(key))) for key, name in fields.items() if name != things]
        pairs.append((things, self._rows(names)))
        answer = joined([unprinted("{"), joined([_pair(*pair) for pair in pairs], ", "), unprinted("}")])
        if len(answer.text) > LONGEST_JSON:
            return None
        shown = [name for name, _ in pairs[:-1]]
        nested = f'"{things}": [{key_braces(random, list(names.values()))}]'
        braces = key_braces(random, shown)[:-1] + (", " if shown else "") + nested + "}"
        return Question(self._ask(WHOLE_RECORD, braces=braces), answer, self.sale.kind)

    def _item_names(self) -> dict[str, str]:
        """Return the keys of an item that are asked for, each with the name it is asked by."""
        random = self.random
        keys = [key for key in ITEM_KEYS if key == "description" or random.random() < 0.6]
        keys = keys if len(keys) > 1 else ["description", "amount"]
        if random.random() < 0.25:
            random.shuffle(keys)
        if "unit_price" not in keys and "amount" in keys and all(self._one_amount(item) for item in self.items):
            return {key: random.choice(ITEM_KEYS[key] + (("price",) * 3 if key == "amount" else ())) for key in keys}
        return {key: random.choice(ITEM_KEYS[key]) for key in keys}

    def _rows(self, names: Mapping[str, str]) -> Written:
        rows = []
        for item in self.items:
            pieces = {"description": item.description, "quantity": item.quantity, "unit_price": item.unit_price,
                      "amount": item.amount}  # fmt: skip
            rows.append(json_object([(name, self.places.get(pieces[key])) for key, name in names.items()]))
        return json_list(rows)


def _pair(name: str, value: Written) -> Written:
    return joined([json_text(unprinted(name)), value], ": ")
