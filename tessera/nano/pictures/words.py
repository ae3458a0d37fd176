"""The texts that are printed: words, names, goods, codes, numbers, money, dates, labels and sentences.

Everything is drawn from `random` alone, so that the same seed gives the same text. Ordinary words come
from wordfreq's list and names from Faker's locales, read once per process at training time and never
shipped. Random letters stand among them, so that nano must read and cannot guess. Characters are
printable ASCII, pound and euro.
"""

from __future__ import annotations

import calendar
import codecs
import datetime
import functools
import pathlib
import re
import sysconfig
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pydoc_data import topics
from random import Random

from tessera.errors import UsageError

PRINTABLE = "".join(map(chr, range(32, 127))) + "£€"
LOWER = "abcdefghjkmnopqrstuvwxyz"  # of random words: without the shapes that many typefaces draw alike
UPPER = "ABCDEFGHJKLMNPQRSTUVWXYZ"
CODE_SIGNS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
SIGNS = "".join(char for char in PRINTABLE if char not in " Il|O`0")
NUM_WORDS = 60_000
POOL = 1500  # entries drawn of each kind in each locale
LOCALES = (
    "en_US", "en_GB", "en_IN", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pt_BR", "sv_SE", "da_DK", "fi_FI",
    "pl_PL", "cs_CZ", "tr_TR",
)  # fmt: skip
# Words that no picture should show, by stems and whole; turned by 13 letters, so that this file can be read aloud.
COARSE_STEMS = (
    "shpx fuvg phag avtt ovgpu juber fyhg encvfg encvat cbea cravf intvan chffl qvyqb sntt jnax cvff wvmm uvgyre "
    "wvunq crqb ubybpnhfg oybjwbo obbof nffubyr onfgneq betnfz znfgheo uragnv zvys ergneq greebevf fhvpvq zbyrfg "
    "vaprfg trabpvq genaal xvxr jrgonpx rebgvp ahqr anxrq frkhny anmv"
)
COARSE_WORDS = (
    "nff nffrf frk frkl encr encrq encrf phz phzf ubr ubrf snt sntf nany nahf gvg gvgf pbpx pbpxf qvpx qvpxf puvax "
    "fcvp pbba"
)
SPELLED = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "Ae", "ł": "l", "Ł": "L", "ı": "i", "đ": "d", "œ": "oe",
     "’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."}
)  # fmt: skip


def ascii_form(text: str) -> str:
    """The text without accents; what has no such form is dropped."""
    plain = unicodedata.normalize("NFKD", " ".join(text.split()).translate(SPELLED))
    return " ".join("".join(char for char in plain if char in PRINTABLE).split())


# Words ---------------------------------------------------------------------------------------


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Words of two letters or more, the most frequent first."""
    try:
        import wordfreq
    except ImportError as error:
        raise UsageError("nano's words need wordfreq; install it with pip install 'tessera[nano]'.") from error
    listed = wordfreq.top_n_list("en", NUM_WORDS)
    stems, whole = (codecs.decode(coarse, "rot13").split() for coarse in (COARSE_STEMS, COARSE_WORDS))
    unwanted = re.compile("|".join((*stems, *(f"^{word}$" for word in whole))))
    shown = (word for word in listed if word.isascii() and word.isalpha() and not unwanted.search(word))
    return ("a", "I", *(word for word in shown if len(word) > 1))


def word(random: Random) -> str:
    """A word in lower case, rare ones about as often as frequent ones."""
    known = vocabulary()
    if random.random() < 0.55:  # ranks log-uniform: the 250 most frequent words are half of these
        return known[int(len(known) ** random.random()) - 1]
    return random.choice(known)


def made_up(random: Random, low: int = 2, high: int = 8) -> str:
    """A word of random letters, in lower case."""
    return "".join(random.choices(LOWER, k=random.randint(low, high)))


def cased(random: Random, text: str) -> str:
    """The text as it is, capitalised or in capitals."""
    kind = random.random()
    return text if kind < 0.5 else text.capitalize() if kind < 0.8 else text.upper()


def nonsense(random: Random) -> str:
    """A random-letter word or code: upper, lower, capitalised, or letters and digits mixed."""
    kind = random.random()
    if kind < 0.6:
        return cased(random, made_up(random))
    if kind < 0.85:
        return code(random)
    if kind < 0.95:
        return "".join(random.choices(CODE_SIGNS + CODE_SIGNS.lower().replace("l", ""), k=random.randint(3, 9)))
    return "".join(random.choices(SIGNS, k=random.randint(1, 6)))


PUNCTUATION = ("",) * 12 + (",", ",", ".", ":", ";", "?", "!", "...")
WRAPPINGS = ("({})", '"{}"', "{}'s", "[{}]", "{}-{}", "{}/{}", "'{}'", "{}_{}", "<{}>", "#{}", "@{}", "{} & {}", "*{}")


def token(random: Random) -> str:
    """One word of a mixed line."""
    kind = random.random()
    if kind < 0.36:
        return cased(random, word(random)) + random.choice(PUNCTUATION)
    if kind < 0.40:
        wrapping = random.choice(WRAPPINGS)
        return wrapping.format(*(word(random) for _ in range(wrapping.count("{}"))))
    if kind < 0.46:
        return random.choice((person, city, street, company, product))(random)
    if kind < 0.72:
        return nonsense(random)
    return numeric(random)


def numeric(random: Random) -> str:
    """A number, an amount, a date, a time, a telephone number or an address, as printed."""
    kind = random.random()
    if kind < 0.45:
        return number_text(random)
    if kind < 0.65:
        return money(random)
    if kind < 0.80:
        return date(random)
    if kind < 0.86:
        return time(random)
    return random.choice((phone, email, web))(random)


def line(random: Random, longest: int) -> str:
    """Mixed text of at most `longest` characters: words, random letters, numbers."""
    kind = random.random()
    if kind < 0.25:
        return prose(random, longest)
    source = token if kind < 0.85 else nonsense
    return _filled_up(random, longest, lambda: source(random))


def _filled_up(random: Random, longest: int, piece: Callable[[], str]) -> str:
    text = _short(piece, longest)
    wanted = random.randint(min(len(text), longest), longest)
    while len(text) < wanted:
        more = piece()
        if len(text) + 1 + len(more) > longest:
            break
        text += " " + more
    return text


def _short(piece: Callable[[], str], longest: int) -> str:
    for _ in range(4):
        text = piece()
        if len(text) <= longest:
            return text
    return text[:longest].rstrip()


# Sentences -----------------------------------------------------------------------------------


@functools.cache
def _corpus() -> tuple[str, ...]:
    """Sentences of ordinary English: the reference and the docstrings that come with Python."""
    found: dict[str, None] = {}
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.glob("*.py")):
        for docstring in re.findall(r'"""(.*?)"""', file.read_text(encoding="utf-8", errors="replace"), re.DOTALL):
            _gather(docstring, found)
    for topic in topics.topics.values():
        _gather(topic, found)
    return tuple(found)


def _gather(text: str, found: dict[str, None]) -> None:
    for paragraph in re.split(r"\n\s*\n", text):
        if re.search(r"::|>>>|\\|  \w+ +--|\n {6}", paragraph):
            continue  # code, tables and lists
        plain = ascii_form(re.sub(r"[*`\"|]|\(\)", "", paragraph))
        for sentence in re.findall(r"(?:^|(?<=[.!?] ))[A-Z][a-z][^.!?;:=_]{20,180}[.!?](?= |$)", plain):
            found[sentence] = None


ADJECTIVES = (  # noqa: SIM905
    "new old large small annual monthly early late final local public private recent quiet bright simple common rare "
    "warm cold heavy light full empty free open closed modern ancient careful useful broken green blue red northern "
    "second third main general special daily weekly regular extra short long strong important different possible"
).split()  # fmt: skip
OPENINGS = (
    "In {year}, ", "On {date}, ", "However, ", "Today ", "After the meeting ", "According to {person}, ", "At {time} ",
    "As usual, ", "For example, ", "In {city} ", "Last week ", "By then ", "Without warning ", "At {company} ", "",
    "", "", "", "", "", "",
)  # fmt: skip
CLAUSES = (
    "the {noun} was {adjective} and the {noun} was not", "{person} found a {adjective} {noun} in {city}",
    "we received {number} {noun}s from {company}", "the {adjective} {noun} costs {money}", "nobody knew why the {noun} "
    "had to {noun}", "please send the {noun} to {street} before {date}", "you can {noun} the {noun} at any time",
    "there were {number} people and one {adjective} {noun}", "the price rose from {money} to {money}",
    "{person} and {person} will meet at {time}", "this {noun} is for {adjective} {noun} only", "your {noun} has been "
    "shipped to {city}", "they say that {noun} and {noun} are {adjective}", "a {noun} without a {noun} is {adjective}",
    "it took {number} days to {noun} the {adjective} {noun}", "she said that the {noun} would be {adjective}",
    "all {noun}s must be {adjective} by {time}", "our {adjective} {noun} opens at {time} on {street}", "{company} "
    "reported a {adjective} {noun} of {percent}", "the {noun} of {city} is {adjective}, but the {noun} is {adjective}",
    "do not {noun} the {noun} while the {noun} is {adjective}", "if the {noun} is {adjective}, call {phone}",
    "write to {email} for a {adjective} {noun}", "the {noun} {noun} {noun} was held in {city}",
)  # fmt: skip


def _composed(random: Random) -> str:
    fill: dict[str, Callable[[], str]] = {
        "noun": lambda: word(random), "adjective": lambda: random.choice(ADJECTIVES), "city": lambda: city(random),
        "person": lambda: person(random), "company": lambda: company(random), "street": lambda: street(random),
        "money": lambda: money(random), "date": lambda: date(random), "time": lambda: time(random),
        "number": lambda: str(random.randint(2, 999)), "percent": lambda: f"{random.randint(1, 99)}%",
        "year": lambda: str(random.randint(1950, 2031)), "phone": lambda: phone(random),
        "email": lambda: email(random),
    }  # fmt: skip
    text = random.choice(OPENINGS) + random.choice(CLAUSES)
    text = re.sub(r"{(\w+)}", lambda found: fill[found[1]](), text)
    return text[0].upper() + text[1:] + random.choice("......!?")


def sentence(random: Random) -> str:
    """An ordinary sentence; in half of the found ones some words are exchanged, so that none can be recited."""
    if random.random() < 0.5:
        return _composed(random)
    found = random.choice(_corpus())
    if random.random() < 0.5:
        return found
    return re.sub(r"\b[a-z]{4,}\b", lambda old: word(random) if random.random() < 0.2 else old[0], found)


def prose(random: Random, longest: int) -> str:
    """Ordinary sentences of at most `longest` characters together; the last may break off after a word."""
    text = sentence(random)
    wanted = random.randint(longest // 2, longest)
    while len(text) < wanted:
        text += " " + sentence(random)
    if len(text) <= longest:
        return text
    kept = text[: longest + 1].rsplit(" ", 1)[0] if " " in text[: longest + 1] else text
    return kept[:longest].rstrip(" ,;:(-")


# Names ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Names:
    """What the locales' generators gave, without accents and without doubles."""

    first: tuple[str, ...]
    last: tuple[str, ...]
    streets: tuple[str, ...]
    cities: tuple[str, ...]
    companies: tuple[str, ...]


@functools.cache
def names() -> Names:
    try:
        from faker import Faker
    except ImportError as error:
        raise UsageError("nano's names need Faker; install it with pip install 'tessera[nano]'.") from error
    lists: list[dict[str, None]] = [{} for _ in range(5)]
    for number, locale in enumerate(LOCALES):
        fake = Faker(locale)
        fake.seed_instance(number)
        # Faker keeps Italian cities in a set, whose order differs from process to process; surnames stand in for them.
        town = fake.last_name if locale == "it_IT" else fake.city
        sources = (fake.first_name, fake.last_name, fake.street_name, town, fake.company)
        for kept, source in zip(lists, sources, strict=True):
            for _ in range(POOL if source is not fake.company else POOL // 3):
                text = ascii_form(source())
                if 2 < len(text) <= 28:
                    kept[text] = None
    return Names(*(tuple(kept) for kept in lists))


def person(random: Random) -> str:
    known = names()
    first, last = random.choice(known.first), random.choice(known.last)
    kind = random.random()
    if kind < 0.6:
        return f"{first} {last}"
    if kind < 0.7:
        return f"{first[0]}. {last}"
    if kind < 0.78:
        return f"{last}, {first}"
    if kind < 0.86:
        return f"{random.choice(('Mr', 'Mrs', 'Ms', 'Dr', 'Mr.', 'Mrs.', 'Dr.', 'Prof.'))} {last}"
    if kind < 0.93:
        return f"{first} {random.choice(UPPER)}. {last}"
    return f"{first} {last}".upper()


def city(random: Random) -> str:
    return random.choice(names().cities)


def street(random: Random) -> str:
    name, number = random.choice(names().streets), str(random.randint(1, 10 ** random.randint(1, 4)))
    if random.random() < 0.1:
        number += random.choice("abcABC")
    return random.choice((f"{number} {name}", f"{name} {number}", f"{number}, {name}", f"{name} {number}"))


def postcode(random: Random) -> str:
    kind = random.random()
    if kind < 0.6:
        return f"{random.randint(1000, 99999):05}"
    if kind < 0.75:
        letters = random.choices(UPPER, k=4)
        return f"{letters[0]}{letters[1]}{random.randint(1, 19)} {random.randint(1, 9)}{letters[2]}{letters[3]}"
    if kind < 0.87:
        return f"{random.randint(1000, 9999)} {random.choice(UPPER)}{random.choice(UPPER)}"
    return f"{random.choice(('NY', 'CA', 'TX', 'WA', 'FL', 'MA', 'OH', 'CO', 'NJ'))} {random.randint(1000, 99999):05}"


TRADES = (
    "Market", "Bakery", "Books", "Cafe", "Deli", "Pharmacy", "Hardware", "Pizza", "Foods", "Pub", "Electronics", "Pets",
    "Diner", "Garden Center", "Mart", "Noodle Bar", "Sports", "Coffee", "Dairy", "Fuel", "Meats", "Salon", "Toys",
    "Grill", "Consulting", "Logistics", "Studios", "Energy", "Motors", "Design", "Software", "Systems", "Travel",
    "Hotel", "Restaurant", "Supermarket", "Store", "Shop", "Outlet", "Bistro", "Kitchen", "Tools", "Shoes", "Optics",
    "Flowers", "Cleaning", "Plumbing", "Electric", "Printing", "Media", "Labs", "Trading", "Express", "Partners",
)  # fmt: skip
LEGAL = (
    "Ltd", "Ltd.", "LLC", "Inc.", "Inc", "GmbH", "AG", "S.A.", "SARL", "B.V.", "AB", "Oy", "ApS", "plc", "Pty Ltd",
    "S.r.l.", "KG", "Corp.", "Co.", "& Co", "& Sons", "Group", "International", "Holdings",
)  # fmt: skip


def company(random: Random) -> str:
    kind = random.random()
    if kind < 0.35:
        text = random.choice(names().companies)
    elif kind < 0.55:
        text = f"{random.choice(names().last)}{random.choice(('', chr(39) + 's'))} {random.choice(TRADES)}"
    elif kind < 0.8:
        text = f"{word(random).capitalize()} {random.choice((*TRADES, word(random).capitalize()))}"
    else:
        text = made_up(random, 3, 8).capitalize() + random.choice(("", f" {random.choice(TRADES)}"))
    if random.random() < 0.2 and kind > 0.35:
        text += " " + random.choice(LEGAL)
    return text.upper() if random.random() < 0.25 else text


# Goods ---------------------------------------------------------------------------------------

GOODS = """
Milk, Bread, Eggs, Coffee, Tea, Apples, Bananas, Cheese, Butter, Rice, Pasta, Soup, Salad, Juice, Water, Cookies,
Yogurt, Sugar, Beans, Cereal, Honey, Olives, Tomatoes, Onions, Chicken, Ham, Salmon, Tuna, Shrimp, Bacon, Sausage,
Steak, Potatoes, Carrots, Cucumber, Lettuce, Spinach, Broccoli, Peppers, Garlic, Ginger, Lemons, Limes, Oranges,
Grapes, Pears, Peaches, Plums, Cherries, Berries, Melon, Mango, Avocado, Mushrooms, Celery, Corn, Peas, Lentils,
Flour, Oats, Granola, Jam, Peanut Butter, Mustard, Ketchup, Mayonnaise, Vinegar, Olive Oil, Salt, Pepper, Cinnamon,
Crackers, Chips, Popcorn, Pretzels, Nuts, Almonds, Walnuts, Raisins, Chocolate, Candy, Gum, Ice Cream, Cake, Pie,
Muffin, Croissant, Bagel, Donut, Baguette, Tortillas, Noodles, Tofu, Cream, Soy Sauce, Salsa, Hummus, Pizza, Lasagna,
Lemonade, Cola, Soda, Beer, Red Wine, White Wine, Cider, Smoothie, Espresso, Latte, Cappuccino, Mocha, Hot Chocolate,
Sandwich, Burger, Cheeseburger, Fries, Hot Dog, Wrap, Burrito, Tacos, Nachos, Fish & Chips, Sushi Roll, Ramen, Curry,
Omelette, Pancakes, Waffles, Toast, Porridge, Risotto, Gnocchi, Ravioli, Schnitzel, Goulash, Paella, Falafel, Kebab,
Soap, Shampoo, Conditioner, Toothpaste, Toothbrush, Razor, Lotion, Deodorant, Sunscreen, Tissues, Paper Towels,
Toilet Paper, Napkins, Detergent, Bleach, Sponge, Trash Bags, Foil, Candle, Matches, Light Bulb, Batteries, Charger,
USB Cable, HDMI Cable, Headphones, Speaker, Keyboard, Mouse, Monitor, Laptop, Tablet, Phone Case, Memory Card,
Hard Drive, Router, Printer, Ink Cartridge, Toner, Webcam, Microphone, Adapter, Power Strip, Flashlight, Clock, Watch,
Pens, Pencils, Marker, Eraser, Ruler, Notebook, Paper, Envelopes, Stapler, Staples, Folder, Binder, Tape, Glue,
Scissors, Calendar, Desk, Chair, Lamp, Shelf, Table, Sofa, Mattress, Pillow, Blanket, Curtain, Rug, Mirror, Frame,
Vase, Plate, Bowl, Cup, Mug, Glass, Fork, Knife, Spoon, Pan, Pot, Kettle, Toaster, Blender, Mixer, Oven, Fridge,
Vacuum, Iron, Fan, Heater, Hammer, Screwdriver, Drill, Saw, Wrench, Pliers, Nails, Screws, Bolts, Paint, Brush,
Ladder, Rope, Hose, Shovel, Rake, Bucket, Gloves, Seeds, Soil, Fertilizer, Flowers, Plant, T-Shirt, Shirt, Jeans,
Pants, Shorts, Skirt, Dress, Jacket, Coat, Sweater, Hoodie, Socks, Shoes, Boots, Sneakers, Sandals, Hat, Cap, Scarf,
Belt, Tie, Backpack, Bag, Wallet, Umbrella, Sunglasses, Ring, Necklace, Earrings, Book, Magazine, Newspaper, Comic,
Puzzle, Board Game, Doll, Toy Car, Ball, Bicycle, Helmet, Tent, Sleeping Bag, Racket, Skates, Yoga Mat, Dumbbell,
Guitar, Piano, Violin, Drum, Camera, Lens, Tripod, Cat Food, Dog Food, Leash, Aspirin, Vitamins, Bandages, Cough Syrup,
Stamp, Postcard, Gift Card, Ticket, Parking, Car Wash, Diesel, Unleaded, Motor Oil, Tire, Wiper Blade, Haircut,
Delivery, Shipping, Handling, Service Fee, Deposit, Gift Wrap, Breakfast, Lunch Menu, Dinner, Room, City Tax, Minibar,
Consulting, Web Design, Hosting, Domain, Software License, Maintenance, Support Plan, Training, Translation, Editing,
Photography, Installation, Repair, Inspection, Cleaning, Painting, Plumbing, Wiring, Landscaping, Roofing, Rent,
Insurance, Subscription, Membership, Storage, Backup, Audit, Bookkeeping, Legal Advice, Workshop, Travel Costs,
Steel Rod, Copper Pipe, Valve, Gasket, Bearing, Motor, Pump, Filter, Sensor, Relay, Fuse, Switch, Cable, Connector
"""
PRODUCTS = tuple(" ".join(part.split()) for part in GOODS.split(","))
QUALITIES = (
    "Organic", "Fresh", "Large", "Small", "Red", "Green", "Blue", "Black", "White", "Classic", "Premium", "Mini", "Big",
    "Free Range", "Low Fat", "Whole", "Sliced", "Frozen", "Dried", "Smoked", "Spicy", "Sweet", "Salted", "Vegan", "Hot",
    "Iced", "Double", "Single", "Family", "Travel", "Deluxe", "Basic", "Pro", "Soft", "Hard", "Wireless", "Wooden",
    "Steel", "Plastic", "Cotton", "Leather", "Natural", "Home", "House", "Kids", "Mens", "Ladies", "Used", "Local",
)  # fmt: skip
SIZES = (
    "500g", "1kg", "250 g", "2 kg", "1L", "0.5L", "330ml", "750 ml", "2 lb", "12 oz", "6pk", "x2", "x4", "10 pcs", "S",
    "M", "L", "XL", "(L)", "(each)", "100ct", "60W", "AA", "A4", "12V", "3m", "1.5L", "40cm", "1/2", "16 GB", "per kg",
    "(2 hrs)", "(1 year)", "per hour", "#2", "No. 5", "2-pack", "5%", "3.5%",
)  # fmt: skip


def product(random: Random) -> str:
    """Goods as receipts and invoices name them."""
    kind = random.random()
    if kind < 0.12:
        text = f"{word(random).capitalize()} {random.choice((word(random).capitalize(), random.choice(PRODUCTS)))}"
    elif kind < 0.2:
        text = f"{made_up(random, 3, 7).capitalize()} {random.choice(PRODUCTS)}"
    elif kind < 0.5:
        text = f"{random.choice(QUALITIES)} {random.choice(PRODUCTS)}"
    else:
        text = random.choice(PRODUCTS)
    if random.random() < 0.25:
        text += " " + random.choice(SIZES)
    kind = random.random()
    return text.upper() if kind < 0.25 else text.lower() if kind < 0.3 else text


def code(random: Random) -> str:
    """A reference as printed on papers: INV-2024-0031, SKU 88123, A4-XK."""
    letters, year = "".join(random.choices(UPPER, k=random.randint(1, 3))), random.randint(2005, 2031)
    number = str(random.randint(0, 10 ** random.randint(2, 6))).zfill(random.randint(1, 6))
    mark = random.choice("-/ .#_")
    return random.choice(
        (
            f"{random.choice(('INV', 'R', 'RE', 'PO', 'ORD', 'SKU', 'REF', 'NO', 'TX', 'A'))}{mark}{number}",
            f"{random.choice(('INV', 'RE', 'PO', 'ORD', 'Q', letters))}-{year}-{number}",
            f"{year}{random.choice('-/')}{number}",
            f"{letters}{mark}{number}",
            f"{letters}{number}",
            f"#{number}",
            f"{number}-{letters}",
            "".join(random.choices(CODE_SIGNS, k=random.randint(4, 10))),
            "".join(random.choices("0123456789", k=random.randint(4, 13))),
            "-".join("".join(random.choices(CODE_SIGNS, k=4)) for _ in range(random.randint(2, 3))),
        )
    )


# Numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MoneyStyle:
    """How one paper prints amounts: its currency's sign and place, separators, decimals, and the minus."""

    sign: str = ""
    after: bool = False
    thousands: str = ""
    point: str = "."
    decimals: int = 2
    negative: str = "-{}"

    def show(self, value: float) -> str:
        digits = f"{abs(value):,.{self.decimals}f}".translate(str.maketrans(",.", self._separators()))
        digits = digits.replace("\0", "")
        text = f"{digits}{self.sign}" if self.after else f"{self.sign}{digits}"
        return self.negative.format(text) if value < 0 else text

    def _separators(self) -> str:
        return (self.thousands or "\0") + self.point


CURRENCIES = ("$", "$", "$", "€", "€", "£", "£", "USD ", "EUR ", "GBP ", "CHF ", "US$", "$ ", "€ ", "£ ")
TRAILING = (" €", " €", "€", " EUR", " USD", " $", " kr", " CHF", " GBP", " zl", " Ft")


def money_style(random: Random) -> MoneyStyle:
    """One paper's way to print amounts; a bare number in a third of them."""
    kind, comma = random.random(), random.random() < 0.15
    sign, after = "", False
    if 0.35 < kind < 0.85:
        sign = random.choice(CURRENCIES)
    elif kind >= 0.85:
        sign, after = random.choice(TRAILING), True
    thousands = random.choice((".", ".", "", " ")) if comma else random.choice((",", ",", ",", "", "", "'"))
    decimals = 0 if random.random() < 0.08 else 2
    return MoneyStyle(sign, after, thousands, "," if comma else ".", decimals, random.choice(("-{}", "-{}", "({})")))


def amount(random: Random) -> float:
    """An amount of money, small ones as likely as large ones; often one that a shop would ask."""
    value = 10 ** random.uniform(-0.3, random.choice((1.5, 2.5, 4.0, 5.5)))
    if random.random() < 0.3:
        value = int(value) + random.choice((0.0, 0.5, 0.95, 0.99, 0.25, 0.49))
    return max(0.01, round(value, 2))


def money(random: Random, value: float | None = None, style: MoneyStyle | None = None) -> str:
    """An amount as printed; without a value any, one in twenty negative."""
    if value is None:
        value = amount(random) * (-1 if random.random() < 0.05 else 1)
    return (style or money_style(random)).show(value)


def number_text(random: Random) -> str:
    """A number as tables and charts print it: 7, 1,200, 12.5, 45%, $3k, -0.4, 1.200,00."""
    kind, value = random.random(), 10 ** random.uniform(0, random.choice((1, 2, 3, 6)))
    if kind < 0.4:
        return str(int(value))
    if kind < 0.52:
        return f"{int(value * 100):,}"
    if kind < 0.70:
        return f"{value:.{random.choice((1, 1, 2, 3))}f}"
    if kind < 0.80:
        share = random.choice((str(random.randint(0, 100)), f"{random.uniform(0, 100):.1f}"))
        return share + random.choice(("%", "%", " %"))
    if kind < 0.87:
        return f"{random.choice(('-', '-', '+'))}{random.choice((str(int(value)), f'{value:.1f}', f'{value:.2f}'))}"
    if kind < 0.93:
        digits = random.choice((str(random.randint(1, 999)), f"{random.uniform(1, 99):.1f}"))
        return random.choice(("", "", "$", "€", "£")) + digits + random.choice("kkMKB")
    return random.choice(
        (
            MoneyStyle(thousands=".", point=",").show(value * 10),
            f"{random.randint(1, 15)}/{random.randint(2, 16)}",
            f"{random.randint(1, 999)}-{random.randint(1, 999)}",
            f"{random.randint(0, 999):03}",
            f"{value:.1f}{random.choice((' km', ' kg', ' cm', ' m', ' h', ' MB', ' GB', 'mm', ' C', ' V'))}",
            f"{random.randint(1, 30)}x{random.randint(1, 30)}",
            f"0x{random.randrange(65536):04x}",
        )
    )


DATE_STYLES = (
    "{y}-{m:02}-{d:02}", "{d:02}/{m:02}/{y}", "{m:02}/{d:02}/{y}", "{d:02}.{m:02}.{y}", "{d}.{m}.{y}", "{m}/{d}/{y}",
    "{d} {mon} {y}", "{mon} {d}, {y}", "{d} {month} {y}", "{month} {d}, {y}", "{d:02}-{mon}-{y}", "{d:02}-{m:02}-{y}",
    "{y}/{m:02}/{d:02}", "{d:02}/{m:02}/{yy:02}", "{m:02}/{d:02}/{yy:02}", "{day} {d} {mon} {y}", "{y}.{m:02}.{d:02}",
    "{weekday}, {month} {d}, {y}", "{d}{nth} {month} {y}", "{month} {d}{nth}, {y}", "{d:02}{MON}{y}", "{mon} {d} {y}",
    "{day}, {d} {mon} {y}", "{d:02}.{m:02}.{yy:02}", "{d}. {month} {y}",
)  # fmt: skip


def day(random: Random) -> datetime.date:
    return datetime.date(1995, 1, 1) + datetime.timedelta(random.randrange(38 * 365))


def date(random: Random, when: datetime.date | None = None, style: str | None = None) -> str:
    """A day as printed; `style` is one of DATE_STYLES."""
    when = when or day(random)
    # calendar's names follow the locale, which no part of the program sets; they are English without.
    month, weekday = calendar.month_name[when.month], calendar.day_name[when.weekday()]
    nth = "th" if 10 < when.day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(when.day % 10, "th")
    return (style or random.choice(DATE_STYLES)).format(
        y=when.year, yy=when.year % 100, m=when.month, d=when.day, month=month, mon=month[:3], MON=month[:3].upper(),
        weekday=weekday, day=weekday[:3], nth=nth,
    )  # fmt: skip


def time(random: Random) -> str:
    hour, minute, second = random.randrange(24), random.randrange(60), random.randrange(60)
    half, twelve = ("AM", "PM")[hour // 12], (hour - 1) % 12 + 1
    return random.choice(
        (
            f"{hour:02}:{minute:02}", f"{hour:02}:{minute:02}", f"{hour:02}:{minute:02}:{second:02}",
            f"{twelve}:{minute:02} {half}", f"{twelve}:{minute:02}{half.lower()}", f"{hour}:{minute:02}",
            f"{twelve} {half}", f"{hour:02}.{minute:02}", f"{hour:02}h{minute:02}",
        )
    )  # fmt: skip


PHONES = (
    "({}) {}-{}|334", "{}-{}-{}|334", "+1 {} {} {}|334", "+49 {} {}|37", "0{} {}|37", "+44 {} {} {}|433",
    "0{} {} {}|334", "{}.{}.{}|334", "{}-{}|34", "+33 {} {} {} {} {}|12222", "0{}/{}|47", "+{} {} {} {}|2334",
    "{} {} {}|333",
)  # fmt: skip


def phone(random: Random) -> str:
    form, lengths = random.choice(PHONES).split("|")
    groups = [str(random.randint(10 ** (int(size) - 1), 10 ** int(size) - 1)) for size in lengths]
    return form.format(*groups)


ENDINGS = ("com", "com", "com", "org", "net", "io", "de", "co.uk", "eu", "fr", "info", "edu", "app")


def _domain(random: Random) -> str:
    name = random.choice((word(random), word(random) + word(random), made_up(random, 3, 8), word(random) + "-shop"))
    return f"{name.lower()}.{random.choice(ENDINGS)}"


def email(random: Random) -> str:
    known = names()
    first, last = (re.sub("[^a-z]", "", random.choice(part).lower()) for part in (known.first, known.last))
    user = random.choice(
        (f"{first}.{last}", first, f"{first[:1]}{last}", f"{first}_{last}", f"{last}{random.randint(1, 99)}", "info",
         "sales", "hello", "billing", "support", "office", made_up(random, 3, 7))
    )  # fmt: skip
    return f"{user}@{_domain(random)}"


def web(random: Random) -> str:
    start = random.choice(("www.", "www.", "https://", "http://", "https://www.", ""))
    return start + _domain(random) + random.choice(("", "", "", f"/{word(random)}", f"/{word(random)}/{word(random)}"))


# Labels and titles ---------------------------------------------------------------------------

MONTHS = tuple(calendar.month_name)[1:]
LABEL_SERIES: tuple[Sequence[str], ...] = (
    ("Q1", "Q2", "Q3", "Q4"),
    ("1st quarter", "2nd quarter", "3rd quarter", "4th quarter"),
    tuple(f"Q{quarter} {year}" for year in range(2015, 2028) for quarter in (1, 2, 3, 4)),
    tuple(f"Q{quarter}/{year}" for year in range(15, 28) for quarter in (1, 2, 3, 4)),
    tuple(month[:3] for month in MONTHS),
    tuple(month[:3].upper() for month in MONTHS),
    MONTHS,
    tuple(f"{month[:3]} {year}" for year in range(2015, 2028) for month in MONTHS),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    tuple(calendar.day_name),
    tuple(str(year) for year in range(1950, 2036)),
    tuple(f"FY{year}" for year in range(10, 32)),
    tuple(f"{year}/{(year + 1) % 100:02}" for year in range(1995, 2032)),
    tuple(f"Week {number}" for number in range(1, 53)),
    tuple(f"Day {number}" for number in range(1, 31)),
    tuple(f"{low}-{low + 9}" for low in range(0, 100, 10)),
    tuple(f"{low}-{low + 4}" for low in range(15, 90, 5)),
    ("<1", "1-5", "6-10", "11-20", "21-50", ">50"),
    ("Under 18", "18-24", "25-34", "35-44", "45-54", "55-64", "65+"),
    tuple("ABCDEFGHJKLMN"),
    tuple(f"Group {letter}" for letter in "ABCDEFGH"),
    tuple(f"Team {number}" for number in range(1, 13)),
    tuple(f"Class {number}" for number in range(1, 13)),
    tuple(f"Item {number}" for number in range(1, 21)),
    tuple(f"{hour:02}:00" for hour in range(24)),
)
LABEL_CHOICES: tuple[Sequence[str], ...] = (
    ("North", "South", "East", "West", "Center", "Northeast", "Southwest", "Overseas", "Central"),
    ("Apple", "Pear", "Plum", "Grape", "Lemon", "Mango", "Kiwi", "Cherry", "Peach", "Fig", "Melon", "Banana", "Orange"),
    ("Red", "Blue", "Green", "Black", "White", "Pink", "Gold", "Gray", "Yellow", "Purple", "Brown", "Silver"),
    ("Cats", "Dogs", "Birds", "Fish", "Cows", "Sheep", "Horses", "Goats", "Pigs", "Ducks", "Hens", "Bees"),
    ("Car", "Bus", "Train", "Bike", "Walk", "Tram", "Plane", "Boat", "Taxi", "Metro", "Scooter", "Truck"),
    ("Coal", "Gas", "Oil", "Nuclear", "Hydro", "Wind", "Solar", "Biomass", "Geothermal", "Other"),
    ("Rent", "Food", "Transport", "Health", "Leisure", "Savings", "Clothing", "Utilities", "Insurance", "Education"),
    ("Sales", "Marketing", "Support", "Research", "Finance", "Legal", "Operations", "HR", "IT", "Design", "Logistics"),
    ("Online", "Retail", "Wholesale", "Direct", "Partners", "Phone", "Mail", "Export", "Franchise"),
    ("Very good", "Good", "Fair", "Poor", "Very poor", "No answer"),
    ("Yes", "No", "Maybe", "Unsure", "No reply"),
    ("Football", "Tennis", "Swimming", "Running", "Cycling", "Golf", "Hockey", "Rugby", "Yoga", "Skiing", "Boxing"),
    ("Python", "Java", "C++", "Go", "Rust", "Ruby", "Swift", "Kotlin", "PHP", "Scala", "R", "Julia", "C", "Perl"),
    ("Math", "Physics", "Biology", "History", "English", "Art", "Music", "Sports", "Chemistry", "Latin", "Geography"),
    ("Europe", "Asia", "Africa", "Oceania", "North America", "South America", "Middle East"),
    ("Germany", "France", "Italy", "Spain", "Poland", "Norway", "Sweden", "Japan", "China", "India", "Brazil", "Canada",
     "Mexico", "Egypt", "Kenya", "Peru", "Chile", "Turkey", "Greece", "Ireland", "USA", "UK", "Austria", "Belgium"),
    ("Paris", "Rome", "Oslo", "Berlin", "Madrid", "Tokyo", "Cairo", "Lima", "Delhi", "Seoul", "Dublin", "Milan",
     "London", "Vienna", "Prague", "Lisbon", "Boston", "Sydney", "Toronto", "Zurich"),
)  # fmt: skip


def label_set(random: Random, count: int) -> list[str]:
    """`count` different labels of one kind, as the categories of a chart or the rows of a table."""
    kind = random.random()
    if kind < 0.35:
        series = random.choice([known for known in LABEL_SERIES if len(known) >= count])
        start = random.randint(0, len(series) - count)
        return list(series[start : start + count])
    if kind < 0.55:
        return random.sample(random.choice([known for known in LABEL_CHOICES if len(known) >= count]), count)
    return _different(random, count, random.choice(LABEL_SOURCES))


def _different(random: Random, count: int, source: Callable[[Random], str]) -> list[str]:
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        label = source(random)
        if len(label) <= 18:
            chosen[label] = None
    return list(chosen)


LABEL_SOURCES: tuple[Callable[[Random], str], ...] = (
    lambda random: word(random).capitalize(),
    lambda random: word(random),
    lambda random: word(random).upper(),
    lambda random: f"{word(random).capitalize()} {word(random)}",
    lambda random: made_up(random, 2, 6).capitalize(),
    lambda random: made_up(random, 2, 4).upper(),
    lambda random: random.choice(names().cities),
    lambda random: random.choice(names().last),
    lambda random: random.choice(names().first),
    lambda random: random.choice(PRODUCTS),
    lambda random: company(random),
    lambda random: code(random),
)

MEASURES = (
    "Sales", "Revenue", "Visitors", "Results", "Units sold", "Orders", "Output", "Survey", "Growth", "Costs", "Profit",
    "Expenses", "Budget", "Population", "Temperature", "Rainfall", "Page views", "Downloads", "Users", "Signups",
    "Employees", "Students", "Energy use", "Emissions", "Production", "Exports", "Imports", "Accidents", "Score",
    "Market share", "Traffic", "Speed", "Response time", "Price", "Demand", "Stock", "Returns", "Complaints", "Votes",
    "Income", "Spending", "Turnover", "Deliveries", "Bookings", "Donations", "Membership", "Attendance", "Memory usage",
)  # fmt: skip
GROUPINGS = (
    "region", "month", "year", "quarter", "country", "department", "product", "category", "age group", "city", "team",
    "channel", "type", "week", "day", "store", "source", "sector", "grade", "device", "language", "class",
)  # fmt: skip
UNITS = ("%", "thousands", "millions", "USD", "EUR", "$", "€", "kg", "tons", "hours", "km", "units", "in %", "m", "ms")


def title(random: Random) -> str:
    """What stands over a chart, a table or a page."""
    measure, year = random.choice(MEASURES), random.randint(1990, 2032)
    kind = random.random()
    if kind < 0.2:
        text = f"{measure} by {random.choice(GROUPINGS)}"
    elif kind < 0.3:
        text = f"{measure} {year}"
    elif kind < 0.4:
        text = f"{random.choice(('Monthly', 'Annual', 'Total', 'Average', 'Weekly', 'Quarterly'))} {measure.lower()}"
    elif kind < 0.5:
        text = f"{measure} ({random.choice(UNITS)})"
    elif kind < 0.6:
        text = f"{measure} in {random.choice((city(random), str(year)))}"
    elif kind < 0.65:
        text = f"{measure} by {random.choice(GROUPINGS)}, {year}-{year + random.randint(1, 9)}"
    elif kind < 0.9:
        text = " ".join(word(random) for _ in range(random.randint(1, 4)))
    else:
        text = f"{measure} of {company(random)}"
    kind = random.random()
    if kind < 0.3:
        return text.upper() if kind < 0.08 else " ".join(part[0].upper() + part[1:] for part in text.split())
    return text[0].upper() + text[1:]
