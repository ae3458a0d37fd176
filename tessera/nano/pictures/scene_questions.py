"""What can be asked about a scene, and the answers that follow from what lies where.

A question is asked only where its answer is beyond doubt: left of means clearly left, the largest
is a third larger than the next. Colours are asked of things that were painted in one colour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tessera.nano.pictures.icons import kindred, thing_names
from tessera.nano.pictures.page import Question, Written, unprinted
from tessera.nano.pictures.shapes import COLORS, OUTLINES

NOT_SHOWN = "not shown"
LARGER = 1.3  # times: what people call larger without measuring
PLURALS = {
    "mouse": "mice", "computer mouse": "computer mice", "fish": "fish", "sheep": "sheep", "deer": "deer",
    "foot": "feet", "tooth": "teeth", "knife": "knives", "leaf": "leaves", "maple leaf": "maple leaves",
    "wolf": "wolves", "scarf": "scarves", "potato": "potatoes", "tomato": "tomatoes", "volcano": "volcanoes",
    "mosquito": "mosquitoes", "mango": "mangoes", "bow and arrow": "bows and arrows",
}  # fmt: skip
UNCOUNTED_WORDS = """
bread cheese bacon salad spaghetti noodles sushi rice chocolate honey milk coffee tea wine beer champagne popcorn salt
garlic broccoli corn cutlery soap fire lightning luggage yarn wood fries grapes cherries pancakes peanuts glasses
sunglasses trousers shorts socks gloves scissors headphones footprints scales squid shrimp lipstick
"""
UNCOUNTED = frozenset(UNCOUNTED_WORDS.split()) | {"thumbs up", "thumbs down", "ice cream"}


@dataclass(frozen=True)
class Thing:
    """One shape or icon: what it is, where, how large, and the mark that stands for it."""

    name: str
    color: str  # "" for what has colours of its own
    x: float
    y: float
    size: int
    mark: Written
    is_icon: bool = False
    direction: str = ""
    sign: Written | None = None  # the character inside


@dataclass(frozen=True)
class Scene:
    """Things in no order, or in one row from left to right."""

    things: tuple[Thing, ...]
    in_a_row: bool = False

    @property
    def noun(self) -> str:
        """What to call each of them."""
        icons = {thing.is_icon for thing in self.things}
        return "thing" if len(icons) > 1 else "icon" if True in icons else "shape"

    def only(self, name: str) -> Thing | None:
        found = [thing for thing in self.things if thing.name == name]
        return found[0] if len(found) == 1 else None

    @property
    def single(self) -> list[Thing]:
        """The things whose name belongs to no other."""
        return [thing for thing in self.things if self.only(thing.name)]


Asked = Question | None
Maker = Callable[[Random, Scene], Asked]


def ask(random: Random, scene: Scene, most: int = 8) -> list[Question]:
    """Up to `most` different questions of different kinds."""
    makers = list(ALONE if len(scene.things) == 1 else SEVERAL)
    random.shuffle(makers)
    asked: dict[str, Question] = {}
    for maker in [*makers, *random.sample(makers, min(3, len(makers)))]:
        question = maker(random, scene)
        if question is not None:
            asked.setdefault(question.question.text.casefold(), question)
        if len(asked) == most:
            break
    return list(asked.values())


def say(random: Random, template: str, **words: str) -> Written:
    """A template's words as somebody types them: capitalised or not, with its mark at the end or not."""
    text = template.format(**words)
    if random.random() < 0.15:
        text = text[0].lower() + text[1:]
    if random.random() < 0.12:
        text = text.rstrip("?.")
    return unprinted(text)


def plural(name: str) -> str:
    if name in PLURALS:
        return PLURALS[name]
    if name.endswith(("s", "sh", "ch", "x", "z")):
        return name + "es"
    return name[:-1] + "ies" if name.endswith("y") and name[-2] not in "aeiou" else name + "s"


def plural_of(thing: Thing | str, is_icon: bool) -> str:
    """ "cats", or "bread icons" where the word has no plural of its own."""
    name = thing if isinstance(thing, str) else thing.name
    return f"{name} icons" if is_icon and name in UNCOUNTED else plural(name)


def a(name: str) -> str:
    if name in UNCOUNTED:
        return name
    return ("an " if name[0] in "aeiou" and not name.startswith(("uni", "uf")) else "a ") + name


def _question(random: Random, templates: Sequence[str], answer: str | Written, clue: Thing | None, **words: str) -> Question:  # fmt: skip # noqa: E501
    written = unprinted(answer) if isinstance(answer, str) else answer
    return Question(say(random, random.choice(templates), **words), written, "scene", clue.mark if clue else None)


# One thing ----------------------------------------------------------------------------------------

WHAT = (
    "What is this?", "What is shown?", "What is in the picture?", "What does the picture show?", "What do you see?",
    "What is it?", "Name the object.", "Name this.", "Which object is this?", "What is shown here?", "What's this?",
    "What is depicted?", "Identify the object.", "What thing is this?", "What is in this image?",
    "What am I looking at?",
    "What does the image show?", "Tell me what this is.", "Say what this is.", "What can be seen here?",
    "What {noun} is this?", "Which {noun} is this?", "Which {noun} is shown?", "Name the {noun}.",
)  # fmt: skip
ITS_COLOR = (
    "What colour is it?", "What color is it?", "What colour is this?", "What color is this?", "Which colour is it?",
    "What is its colour?", "What is its color?", "What colour is the {noun}?", "What color is the {noun}?",
    "Name the colour.", "Name its color.", "Which color does it have?", "Which colour is the {name}?",
    "What colour is the {name}?", "What color is the {name}?", "What is the color of the {name}?",
    "In which colour is it drawn?", "Colour?", "Tell me the color.", "The colour of the {noun}?",
)  # fmt: skip
IS_IT = (
    "Is this {a}?", "Is it {a}?", "Is {a} shown?", "Is this picture of {a}?", "Do you see {a}?", "Does it show {a}?",
    "Is there {a}?", "Is that {a}?", "Does the picture show {a}?", "Can you see {a}?", "Is this {a} or not?",
)  # fmt: skip


def _what(random: Random, scene: Scene) -> Asked:
    thing = scene.things[0]
    return _question(random, WHAT, thing.name, thing, noun=scene.noun)


def _its_color(random: Random, scene: Scene) -> Asked:
    thing = scene.things[0]
    if not thing.color:
        return None
    return _question(random, ITS_COLOR, thing.color, thing, noun=scene.noun, name=thing.name)


def _is_it(random: Random, scene: Scene) -> Asked:
    thing = scene.things[0]
    truly = random.random() < 0.5
    name = thing.name if truly else _other_name(random, scene)
    return _question(random, IS_IT, "yes" if truly else "no", thing, a=a(name))


def _other_name(random: Random, scene: Scene) -> str:
    """A name that nothing here has, nor anything that might be called so too."""
    taken = frozenset[str]().union(*(kindred(thing.name) for thing in scene.things))
    names = list(thing_names()) if scene.things[0].is_icon else list(OUTLINES)
    return random.choice([name for name in names if name not in taken])


# Counting -----------------------------------------------------------------------------------------

HOW_MANY = (
    "How many {things} are there?", "How many {things} do you see?", "How many {things} are in the picture?",
    "How many {things} are shown?", "Count the {things}.", "How many {things}?", "What is the number of {things}?",
    "Number of {things}?", "How many {things} can you see?", "How many {things} does the picture show?",
    "How many {things} are in this image?", "Count {things}.", "Tell me how many {things} there are.",
    "Give the number of {things}.", "How many {things} can be seen?", "How many {things} are here?",
    "Please count the {things}.", "How many {things} does it have?", "What number of {things} is shown?",
    "How many {things} can be counted?",
)  # fmt: skip
IN_ALL = (
    "How many {things} are there in all?", "How many {things} in all?", "How many {things} are there altogether?",
    "How many {things} in total?", "How many {things} are there in total?", "Count all {things}.",
    "What is the total number of {things}?", "How many {things} all together?",
)  # fmt: skip


def _count(random: Random, scene: Scene, fits: Callable[[Thing], bool], things: str) -> Question:
    found = [thing for thing in scene.things if fits(thing)]
    question = _question(random, HOW_MANY, str(len(found)), None, things=things)
    if not found:
        return question
    marks = tuple(mark for thing in sorted(found, key=_reading_order) for mark in thing.mark.glyphs)
    return Question(question.question, question.answer, "scene", Written("\0" * len(marks), marks))


def _reading_order(thing: Thing) -> tuple[int, float]:
    return int(thing.y // 16), thing.x


def _count_name(random: Random, scene: Scene) -> Asked:
    chosen = random.choice(scene.things)
    name = chosen.name if random.random() < 0.88 else _other_name(random, scene)
    return _count(random, scene, lambda thing: thing.name == name, plural_of(name, chosen.is_icon))


def _count_color(random: Random, scene: Scene) -> Asked:
    if not all(thing.color for thing in scene.things):
        return None
    color = random.choice(scene.things).color if random.random() < 0.88 else random.choice(list(COLORS))
    noun = random.choice((plural(scene.noun), "things", "objects"))
    return _count(random, scene, lambda thing: thing.color == color, f"{color} {noun}")


def _count_both(random: Random, scene: Scene) -> Asked:
    if not all(thing.color for thing in scene.things):
        return None
    name, color = random.choice(scene.things).name, random.choice(scene.things).color
    if random.random() < 0.6:
        chosen = random.choice(scene.things)
        name, color = chosen.name, chosen.color
    things = f"{color} {plural_of(name, scene.things[0].is_icon)}"
    return _count(random, scene, lambda thing: thing.name == name and thing.color == color, things)


def _count_all(random: Random, scene: Scene) -> Asked:
    things = random.choice((plural(scene.noun), plural(scene.noun), "things", "objects"))
    return _question(random, (*IN_ALL, *HOW_MANY[:8]), str(len(scene.things)), None, things=things)


def _more(random: Random, scene: Scene) -> Asked:
    counts = Counter(thing.name for thing in scene.things)
    if len(counts) < 2:
        return None
    one, other = random.sample(sorted(counts), 2)
    if counts[one] == counts[other]:
        return None
    is_icon = scene.things[0].is_icon
    words = [plural_of(name, is_icon) for name in (one, other)]
    templates = (
        "Are there more {one} or {other}?", "Which are more, {one} or {other}?",
        "Which is more common, {one} or {other}?",
        "Are {one} or {other} more?", "What is there more of, {one} or {other}?", "More {one} or more {other}?",
    )  # fmt: skip
    answer = words[counts[one] < counts[other]]
    return _question(random, templates, answer, None, one=words[0], other=words[1])


# Colours and presence -----------------------------------------------------------------------------

COLOR_OF = (
    "What colour is the {name}?", "What color is the {name}?", "Which colour is the {name}?", "Colour of the {name}?",
    "What is the colour of the {name}?", "What is the color of the {name}?", "Which color does the {name} have?",
    "What colour does the {name} have?", "Name the colour of the {name}.", "Tell me the color of the {name}.",
    "In which colour is the {name}?", "The {name} is what colour?", "The {name} has which color?",
    "Of what colour is the {name}?", "Give the colour of the {name}.", "Say the color of the {name}.",
    "What's the color of the {name}?", "What's the colour of the {name}?", "Color of the {name}?",
    "The {name}: what colour?",
)  # fmt: skip
WHICH_IS = (
    "What {noun} is {color}?", "Which {noun} is {color}?", "What is {color}?", "Which one is {color}?",
    "Which of them is {color}?", "Name the {color} {noun}.", "What is the {color} {noun}?",
    "Which {noun} has the colour {color}?",
    "What kind of {noun} is {color}?", "Which {noun} is the {color} one?", "What is the {color} one?",
    "The {color} {noun} is what?", "Which object is {color}?", "What object is {color}?", "Name what is {color}.",
    "Which {noun} is in {color}?", "What is drawn in {color}?", "Tell me which {noun} is {color}.",
    "Identify the {color} {noun}.", "What does the {color} {noun} show?",
)  # fmt: skip
IS_THERE = (
    "Is there {a}?", "Is there {a} in the picture?", "Do you see {a}?", "Can you see {a}?", "Is {a} shown?",
    "Does the picture show {a}?", "Is {a} in the image?", "Is there {a} here?", "Does this contain {a}?",
    "Is {a} in the picture?", "Does the image contain {a}?", "Is there {a} anywhere?", "Can {a} be seen?",
    "Is {a} visible?", "Does it show {a}?", "Is there {a} among them?", "Do you find {a}?", "Is {a} there?",
    "Are there any {things}?", "Do you see any {things}?",
)  # fmt: skip


def _color_of(random: Random, scene: Scene) -> Asked:
    painted = [thing for thing in scene.single if thing.color]
    if random.random() < 0.1:
        name = _other_name(random, scene)
        question = _question(random, COLOR_OF, NOT_SHOWN, None, name=name)
        return Question(question.question, question.answer, "absent")
    if not painted:
        return None
    thing = random.choice(painted)
    return _question(random, COLOR_OF, thing.color, thing, name=thing.name)


def _which_is(random: Random, scene: Scene) -> Asked:
    colors = Counter(thing.color for thing in scene.things)
    alone = [thing for thing in scene.things if thing.color and colors[thing.color] == 1]
    if not alone or not all(thing.color for thing in scene.things):
        return None
    thing = random.choice(alone)
    return _question(random, WHICH_IS, thing.name, thing, noun=scene.noun, color=thing.color)


def _is_there(random: Random, scene: Scene) -> Asked:
    kinds: list[tuple[str, str]] = [("", thing.name) for thing in scene.things]
    colored = all(thing.color for thing in scene.things)
    if colored and random.random() < 0.5:
        kinds = [(thing.color, thing.name) for thing in scene.things]
    color, name = random.choice(kinds)
    if random.random() < 0.5:
        if color and random.random() < 0.7:
            color = random.choice([other for other in COLORS if (other, name) not in kinds])
        else:
            name = _other_name(random, scene)
    clue = next((t for t in scene.things if t.name == name and color in ("", t.color)), None)
    things = f"{color} {plural_of(name, scene.things[0].is_icon)}".strip()
    named = f"{color} {name}".strip()
    words = named if name in UNCOUNTED else a(named)
    return _question(random, IS_THERE, "yes" if clue else "no", clue, a=words, things=things)


# Places and sizes ---------------------------------------------------------------------------------

SIDE = (
    "Is the {one} to the left or right of the {other}?", "Is the {one} left or right of the {other}?",
    "Left or right of the {other}: where is the {one}?", "On which side of the {other} is the {one}, left or right?",
    "Is the {one} on the left or on the right of the {other}?", "Where is the {one}, left or right of the {other}?",
    "Does the {one} lie left or right of the {other}?", "Is the {one} to the right or left of the {other}?",
    "Is the {one} right or left of the {other}?", "Seen from the {other}, is the {one} left or right?",
)  # fmt: skip
LEVEL = (
    "Is the {one} above or below the {other}?", "Above or below the {other}: where is the {one}?",
    "Where is the {one}, above or below the {other}?", "Does the {one} lie above or below the {other}?",
    "Is the {one} below or above the {other}?", "Is the {one} placed above or below the {other}?",
    "Seen from the {other}, is the {one} above or below?",
    "Is the {one} higher up or below the {other}, above or below?",
)  # fmt: skip
TRUE = ("Is the {one} {where} the {other}?", "Does the {one} lie {where} the {other}?", "Is it true that the {one} is {where} the {other}?")  # fmt: skip # noqa: E501
LARGEST = (
    "Which {noun} is the largest?", "Which is the largest?", "Which {noun} is largest?", "What is the largest {noun}?",
    "Which {noun} is the biggest?", "Which is biggest?", "Name the largest {noun}.", "What is the biggest {noun}?",
    "Which of them is the largest?", "Which one is the biggest?", "The largest {noun}?", "Which object is the largest?",
)  # fmt: skip
SMALLEST = (
    "Which {noun} is the smallest?", "Which is the smallest?", "Which {noun} is smallest?",
    "What is the smallest {noun}?",
    "Which one is the smallest?", "Name the smallest {noun}.", "What is the tiniest {noun}?", "Which is smallest?",
    "Which of them is the smallest?", "The smallest {noun}?", "Which object is the smallest?",
)  # fmt: skip
NEXT_TO = (
    "What is to the {side} of the {name}?", "What is directly {side} of the {name}?",
    "What lies to the {side} of the {name}?",
    "Which {noun} is to the {side} of the {name}?", "What comes {order} the {name}?",
    "Name what is {side} of the {name}.",
    "Which {noun} is next to the {name} on the {side}?", "What stands to the {side} of the {name}?",
)  # fmt: skip
IN_PLACE = (
    "What is the {ordinal} {noun}?", "Which {noun} is {ordinal}?", "What is {ordinal} from the left?",
    "Which is the {ordinal} {noun} from the left?", "Name the {ordinal} {noun}.", "What comes {ordinal}?",
)  # fmt: skip
NAME_ALL = (
    "Name the {nouns} from left to right.", "List the {nouns} from left to right.",
    "What is shown, from left to right?",
    "List all {nouns}.", "What do you see, from left to right?", "Which {nouns} are shown?", "Name all {nouns}.",
)  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def _two(random: Random, scene: Scene) -> tuple[Thing, Thing] | None:
    single = scene.single
    if len(single) < 2:
        return None
    one, other = random.sample(single, 2)
    return one, other


def _side(random: Random, scene: Scene) -> Asked:
    return _relation(random, scene, lambda thing: thing.x, ("left", "right"), SIDE)


def _level(random: Random, scene: Scene) -> Asked:
    return _relation(random, scene, lambda thing: thing.y, ("above", "below"), LEVEL)


def _relation(
    random: Random, scene: Scene, along: Callable[[Thing], float], names: tuple[str, str], templates: Sequence[str]
) -> Asked:
    pair = _two(random, scene)
    if pair is None or abs(along(pair[0]) - along(pair[1])) < (pair[0].size + pair[1].size) / 3:
        return None
    one, other = pair
    answer = names[along(one) > along(other)]
    if random.random() < 0.3:
        asked = random.choice(names)
        where = asked if names[0] == "above" else random.choice((f"{asked} of", f"to the {asked} of"))
        answer = "yes" if asked == answer else "no"
        return _question(random, TRUE, answer, one, one=one.name, other=other.name, where=where)
    return _question(random, templates, answer, one, one=one.name, other=other.name)


def _extreme(random: Random, scene: Scene) -> Asked:
    largest = random.random() < 0.5
    ranked = sorted(scene.things, key=lambda thing: thing.size, reverse=largest)
    first, second = ranked[:2]
    sizes = sorted((first.size, second.size))
    if sizes[1] < LARGER * sizes[0] or len({thing.name for thing in scene.things}) == 1:
        return None
    templates = LARGEST if largest else SMALLEST
    if first.color and random.random() < 0.3:
        word = random.choice(("largest", "biggest")) if largest else "smallest"
        return _question(random, COLOR_OF, first.color, first, name=f"{word} {scene.noun}")
    return _question(random, templates, first.name, first, noun=scene.noun)


def _next_to(random: Random, scene: Scene) -> Asked:
    if not scene.in_a_row:
        return None
    index = random.randrange(len(scene.things) - 1)
    left, right = scene.things[index : index + 2]
    asked, answer, side, order = (left, right, "right", "after") if random.random() < 0.5 else (right, left, "left", "before")  # fmt: skip # noqa: E501
    if scene.only(asked.name) is None:
        return None
    return _question(random, NEXT_TO, answer.name, answer, name=asked.name, side=side, order=order, noun=scene.noun)


def _in_place(random: Random, scene: Scene) -> Asked:
    if not scene.in_a_row:
        return None
    index = random.randrange(len(scene.things))
    ordinal = "last" if index == len(scene.things) - 1 and index else ORDINALS[index]
    templates = [t for t in IN_PLACE if ordinal != "last" or "from the left" not in t]
    return _question(random, templates, scene.things[index].name, scene.things[index], ordinal=ordinal, noun=scene.noun)


def _name_all(random: Random, scene: Scene) -> Asked:
    if not scene.in_a_row:
        return None
    answer = ", ".join(thing.name for thing in scene.things)
    return _question(random, NAME_ALL, answer, scene.things[0], nouns=plural(scene.noun))


POINTS = (
    "Which way does the arrow point?", "Where does the arrow point?", "In which direction does the arrow point?",
    "What is the direction of the arrow?", "Which direction does the arrow show?", "The arrow points where?",
    "Is the arrow pointing up, down, left or right?", "What direction is the arrow pointing?",
    "Direction of the arrow?",
)  # fmt: skip
INSIDE = (
    "What is in the {name}?", "What is written in the {name}?", "Which character is in the {name}?", "Read the {name}.",
    "What does the {name} say?", "What stands inside the {name}?", "What is written on the {name}?",
)  # fmt: skip
AROUND = (
    "Which shape contains {sign}?", "Which shape has the {sign}?", "What shape is around {sign}?",
    "{sign} is in which shape?",
    "In which shape is {sign}?", "Which shape is marked {sign}?", "What shape is {sign} in?",
)  # fmt: skip


def _points(random: Random, scene: Scene) -> Asked:
    arrow = scene.only("arrow")
    return _question(random, POINTS, arrow.direction, arrow) if arrow and arrow.direction else None


def _inside(random: Random, scene: Scene) -> Asked:
    signed = [thing for thing in scene.single if thing.sign]
    if not signed:
        return None
    thing = random.choice(signed)
    assert thing.sign is not None  # only those were chosen
    if random.random() < 0.5:
        return _question(random, AROUND, thing.name, thing, sign=thing.sign.text)
    return _question(random, INSIDE, thing.sign, thing, name=thing.name)


FIELDS = (
    "total", "date", "title", "vendor", "phone number", "invoice number", "price", "address", "tax", "subtotal",
    "name", "email", "value of Q3", "order number", "temperature", "time", "headline", "website", "highest value",
)  # fmt: skip
OF_FIELD = (
    "What is the {field}?", "Give the {field}.", "{field}?", "Read the {field}.", "What {field} is shown?",
    "Which {field} is given?", "Tell me the {field}.", "What's the {field}?", "Find the {field}.", "Show the {field}.",
)  # fmt: skip


def absent_field(random: Random, fields: Sequence[str] = FIELDS) -> Question:
    """A question for what papers have and this picture has not."""
    field = random.choice(fields)
    text = random.choice(OF_FIELD).format(field=field)
    return Question(say(random, text[0].upper() + text[1:]), unprinted(NOT_SHOWN), "absent")


def _absent(random: Random, scene: Scene) -> Asked:
    return absent_field(random) if random.random() < 0.25 else None


ALONE: tuple[Maker, ...] = (_what, _what, _its_color, _is_it, _absent, _count_all, _points, _count_name)
SEVERAL: tuple[Maker, ...] = (
    _count_name, _count_color, _count_both, _count_all, _more, _color_of, _which_is, _is_there, _side, _level, _extreme,
    _next_to, _in_place, _name_all, _points, _inside, _absent,
)  # fmt: skip
