"""The words in nano's pictures and questions: lines of text, labels, shops, dates, prices.

Half of the words are made of random letters, so that nano must read and cannot guess.
"""

from __future__ import annotations

from random import Random

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Without the shapes that many typefaces draw alike, which no reader could tell apart out of context.
SIGNS = "".join(chr(code) for code in range(33, 127) if chr(code) not in "Il|O`")
WORDS = (  # noqa: SIM905
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but "
    "not what all were we when your can said there use an each which she do how their if will up other about out many "
    "then them these so some her would make like him into time has look two more write go see number no way could "
    "people my than first water been call who oil its now find long down day did get come made may part over new sound "
    "take only little work know place year live me back give most very after thing our just name good sentence man "
    "think say great where help through much before line right too mean old any same tell boy follow came want show "
    "also around form three small set put end does another well "
    "large must big even such because turn here why ask went "
    "men read need land different home us move try kind hand picture again change off play spell air away animal house "
    "point page letter mother answer found study still learn should invoice total amount order date paid balance due "
    "customer payment account report table figure section chapter notice price market city street north south energy"
).split()
SHOPS = (
    "Corner Market", "Green Grocer", "Blue Cafe", "Sunrise Bakery", "City Books", "Harbor Deli", "Oak Street Pharmacy",
    "Metro Hardware", "Luna Pizza", "Golden Wok", "Fresh Foods", "Bean House", "River Pub", "Pixel Electronics",
    "Happy Pets", "Old Town Diner", "Garden Center", "Express Mart", "Noodle Bar", "Alpine Sports", "Cozy Coffee",
    "Daily Dairy", "Star Fuel", "Prime Meats", "Velvet Salon", "Quick Stop", "Maple Toys", "Ocean Grill",
)  # fmt: skip
GOODS = (
    "Milk", "Bread", "Eggs", "Coffee", "Tea", "Apples", "Bananas", "Cheese", "Butter", "Rice", "Pasta", "Soup", "Salad",
    "Juice", "Water", "Cookies", "Yogurt", "Sugar", "Beans", "Cereal", "Soap", "Pens", "Paper", "Batteries", "Sandwich",
    "Muffin", "Latte", "Burger", "Fries", "Pizza", "Cake", "Honey", "Olives", "Tomato", "Onions", "Chicken",
)  # fmt: skip
LABEL_SETS = (
    ("Q1", "Q2", "Q3", "Q4"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    tuple(str(year) for year in range(1995, 2031)),
    ("Paris", "Rome", "Oslo", "Berlin", "Madrid", "Tokyo", "Cairo", "Lima", "Delhi", "Seoul", "Dublin", "Milan"),
    ("Apple", "Pear", "Plum", "Grape", "Lemon", "Mango", "Kiwi", "Cherry", "Peach", "Fig"),
    ("Red", "Blue", "Green", "Black", "White", "Pink", "Gold", "Gray"),
    ("A", "B", "C", "D", "E", "F", "G"),
    ("North", "South", "East", "West", "Center"),
    ("Cats", "Dogs", "Birds", "Fish", "Cows", "Sheep"),
)
TITLES = ("Sales", "Revenue", "Visitors", "Results", "Units sold", "Orders", "Output", "Survey", "Growth", "Costs")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def made_up(random: Random, low: int, high: int) -> str:
    """A word of random letters; never starting with i or l, whose capital and small forms look alike."""
    first = random.choice(LETTERS.replace("i", "").replace("l", ""))
    return first + "".join(random.choice(LETTERS) for _ in range(random.randint(low, high) - 1))


def cased(random: Random, word: str) -> str:
    return random.choice((word, word, word.capitalize(), word.upper()))


def price(random: Random, high: float = 200.0) -> str:
    return f"{random.uniform(0.5, high):.2f}"


def date(random: Random) -> str:
    day, month, year = random.randint(1, 28), random.randint(1, 12), random.randint(1998, 2031)
    return random.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{day:02}/{month:02}/{year}",
            f"{month:02}/{day:02}/{year}",
            f"{day:02}.{month:02}.{year}",
            f"{day} {MONTHS[month - 1]} {year}",
            f"{MONTHS[month - 1]} {day}, {year}",
        )
    )


def token(random: Random) -> str:
    """One word of a text line: a common or made-up word, a number, a price, a code, a date, an address."""
    kind = random.random()
    if kind < 0.34:
        return cased(random, random.choice(WORDS)) + random.choice(("", "", "", ",", ".", ":", ";", "?", "!"))
    if kind < 0.60:
        return cased(random, made_up(random, 2, 8))
    if kind < 0.72:
        return str(random.randint(0, 10 ** random.randint(1, 6)))
    if kind < 0.80:
        return random.choice(("", "$", "€", "£")) + price(random, 10 ** random.randint(1, 4))
    if kind < 0.85:
        return date(random)
    if kind < 0.89:
        return f"{made_up(random, 1, 2).upper()}{random.choice('-/#')}{random.randint(10, 9999)}"
    if kind < 0.92:
        return f"{made_up(random, 3, 6)}@{made_up(random, 3, 5)}.{random.choice(('com', 'org', 'net', 'io'))}"
    if kind < 0.96:
        word = random.choice(WORDS)
        return random.choice((f"({word})", f'"{word}"', f"{word}'s", f"[{word}]", f"{word}/{made_up(random, 2, 4)}"))
    return "".join(random.choice(SIGNS) for _ in range(random.randint(1, 5)))


def line(random: Random, longest: int) -> str:
    """One line of words, at most `longest` characters."""
    words = [token(random)]
    for _ in range(random.randint(0, 5)):
        words.append(token(random))
    kept = words[0][:longest]
    for word in words[1:]:
        if len(kept) + 1 + len(word) <= longest:
            kept += " " + word
    return kept


def labels(random: Random, count: int) -> list[str]:
    """`count` different labels: half of the time a familiar series, else made-up words."""
    if random.random() < 0.55:
        series = random.choice([s for s in LABEL_SETS if len(s) >= count])
        if random.random() < 0.6:
            start = random.randint(0, len(series) - count)
            return list(series[start : start + count])
        return random.sample(series, count)
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        chosen[cased(random, made_up(random, 2, 6))] = None
    return list(chosen)


def values(random: Random, count: int) -> list[str]:
    """`count` numbers as printed, no two equal: whole, with one decimal, or percentages."""
    kind, high = random.random(), random.choice((9, 50, 100, 999))
    chosen: dict[str, None] = {}
    while len(chosen) < count:
        if kind < 0.65:
            value = str(random.randint(1, high))
        elif kind < 0.85:
            value = f"{random.uniform(0.1, high):.1f}"
        else:
            value = f"{random.randint(1, 99)}%"
        chosen[value] = None
    return list(chosen)


def number(value: str) -> float:
    return float(value.rstrip("%"))


def shop(random: Random) -> str:
    if random.random() < 0.45:
        return random.choice(SHOPS)
    words = [made_up(random, 3, 7).capitalize() for _ in range(random.randint(1, 2))]
    return " ".join([*words, random.choice(("Shop", "Market", "Cafe", "Store", "Ltd", "Bar", "Foods", ""))]).strip()
