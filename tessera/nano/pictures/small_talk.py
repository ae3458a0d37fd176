"""Questions that no picture answers: greetings, and what lies outside nano's world.

They all get one sentence, which says what nano can do. Some come without a picture, some with a
photograph-like one, some with a page that could answer others. What is answerable but absent is not
here: that is "not shown", and each kind of picture asks for it itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from PIL import Image, ImageFilter

from tessera.nano.pictures import words
from tessera.nano.pictures.canvas import Brush
from tessera.nano.pictures.page import Page, Question, unprinted
from tessera.nano.pictures.plain_sheets import Line, draw_sheet
from tessera.nano.pictures.scene_questions import absent_field, say
from tessera.nano.pictures.scenes import paint_scene

ABOUT = "I am nano, a small demo model. I read printed text, charts, receipts, tables, forms and simple pictures."


def _wordings(text: str) -> tuple[str, ...]:
    return tuple(wording for wording in text.replace("\n", "|").split("|") if wording)


GREETINGS = _wordings("""
hello|hi|hi there|hey|hello there|good morning|good evening|good afternoon|good day|hello nano|hi nano|hey nano
greetings|hello, how are you?|hi, how are you?|how are you?|how are you today?|how is it going?|what's up?
how do you do?|hi!|hello!|hey there!|nice to meet you|good to see you|welcome|thanks|thank you|thank you very much
thanks a lot|bye|goodbye|see you later|good night|ok|okay|yes|no|cool|great|well done|test|testing|ping
are you there?|can you hear me?|anyone there?
""")
ABOUT_ITSELF = _wordings("""
who are you?|what are you?|what is your name?|what's your name?|who made you?|who built you?|what can you do?|help
what do you do?|how can you help me?|what are you good at?|what can I ask you?|how do you work?|are you a robot?
are you human?|are you an AI?|are you ChatGPT?|which model are you?|what model is this?|what language model are you?
how big are you?|how old are you?|where are you from?|introduce yourself|tell me about yourself|describe yourself
what do you know?|how many parameters do you have?|are you Pixtral?|what are your skills?|what should I ask?
can you help me?|I need help|what are your instructions?|who trained you?|when were you trained?
do you speak French?|do you like me?|are you alive?|what is nano?|what is this model?
what kind of pictures can you read?|can you see pictures?|can you read?|what tasks can you do?
""")
OUTSIDE = _wordings("""
write a poem|write a story|tell me a joke|write an essay about {topic}|write a poem about {topic}
tell me a story about {topic}|what is {topic}?|explain {topic}|explain {topic} to me|who invented {topic}?
what do you think about {topic}?|tell me about {topic}|why is the sky blue?|what is the capital of {place}?
how far is {place}?|where is {place}?|what is the weather in {place}?|what is the population of {place}?
how do I get to {place}?|when was {place} founded?|who is the president of {place}?|write a program in {code}
write {code} code to sort a list|fix this {code} code|how do I print in {code}?|what is {code}?
write a function that adds two numbers|debug this|what does this code do?|write a regular expression
write an email to my boss|what is {n} plus {m}?|what is {n} times {m}?|{n} + {m}|{n} * {m}|calculate {n} minus {m}
what is the square root of {n}?|solve x + {n} = {m}|is {n} a prime number?|count to {n}
convert {n} miles to kilometers|what is {n} percent of {m}?|translate "{word}" to {language}
how do you say {word} in {language}?|what does {word} mean?|spell {word} backwards|define {word}
give me a synonym of {word}|write a haiku about {word}|what rhymes with {word}?|use {word} in a sentence
recommend a book|recommend a film|what should I cook today?|give me a recipe for {topic}|plan my holiday in {place}
what day is it today?|what time is it now?|what year is it?|who won the game?|what is the meaning of life?
sing a song|what is love?|do you have feelings?|play a game with me|tell me a secret
what will the weather be tomorrow?|give me advice|summarize the news|what happened in 1999?|who was Napoleon?
who wrote Hamlet?|how do airplanes fly?|how tall is Mount Everest?|what stock should I buy?|am I sick?
how do I lose weight?|write my homework|book a flight to {place}|send a message to {word}|set an alarm
turn on the light|play some music|search the web for {topic}|open the door|draw a cat|make a picture of {topic}
""")
OF_PHOTOS = _wordings("""
what is in this photo?|what is in this picture?|describe this photo|describe the image|describe this picture
who is this?|who is in the picture?|where was this taken?|what place is this?|what city is this?
what animal is this?|what breed is this?|what is the person doing?|how old is this person?|is this a man or a woman?
what is happening here?|what do you see?|describe the scene|what is the mood of this photo?|what season is it?
is it day or night?|what is in the background?|what is this photo about?|caption this image|write a caption
what style is this painting?|who painted this?|is this real?|what brand is this?|what car is this?
what plant is this?|is this food healthy?|what emotion does the face show?|what is this?|what does this show?
what can you see?|tell me about this picture|explain this image|where is this?
""")
OF_PAPERS = _wordings("""
write a poem about this|is this a good price?|should I buy this?|who wrote this?|translate this
translate this to {language}|rewrite this politely|what do you think of this?|is this true?|why?
explain this to a child|make this shorter|improve this text|what does the author feel?|is this spelled correctly?
turn this into a song|write a reply|what should I do now?|is this legal?|find the grammar mistakes
who is the author?|what language is this?|continue this text|make it funny|predict the next value
""")
TOPICS = (
    "gravity", "black holes", "the French Revolution", "love", "autumn", "pizza", "quantum physics", "football",
    "the moon",
    "democracy", "cats", "evolution", "the Roman Empire", "friendship", "music", "philosophy", "bread",
    "climate change",
    "the telephone", "electricity", "my birthday", "winter", "the sea", "economics", "chess", "vaccines",
    "photosynthesis",
)  # fmt: skip
CODES = ("Python", "JavaScript", "C", "C++", "Java", "Rust", "SQL", "HTML", "Go", "Bash")
LANGUAGES = ("French", "German", "Spanish", "Italian", "Latin", "Chinese", "Japanese", "Russian", "Polish", "Dutch")
POLITE = ("", "", "", "", "please ", "can you ", "could you ", "I want you to ")
TEXT_FIELDS = (
    "total", "phone number", "email", "invoice number", "due date", "tax", "subtotal", "order number", "website",
    "address", "currency", "signature", "account number", "postcode", "value of Q3", "highest value", "discount",
)  # fmt: skip


def draw_small_talk(brush: Brush) -> Page:
    """A few questions outside nano's world, mostly without a picture."""
    random = brush.random
    kind = random.choices(("none", "photo", "paper", "scene"), (0.5, 0.3, 0.12, 0.08))[0]
    if kind == "none":
        return Page((), (), _questions(random, (GREETINGS, ABOUT_ITSELF, OUTSIDE)))
    if kind == "photo":
        return Page((_photo(brush),), (), _questions(random, (OF_PHOTOS, OF_PHOTOS, OUTSIDE, GREETINGS)))
    other = (OF_PAPERS, OUTSIDE, GREETINGS, ABOUT_ITSELF)
    if kind == "scene":
        canvas, _ = paint_scene(brush, random.randint(1, 5))
        return canvas.page(_questions(random, other[1:]))
    sheet = draw_sheet(brush, _lines(random), brush.max_height)
    return sheet.canvas.page(_questions(random, other))


def draw_absent(brush: Brush) -> Page:
    """A sheet of plain text, asked for what papers have and this has not; and what it does say."""
    random = brush.random
    lines = [Line(text) for text in (words.prose(random, random.randint(8, 40)) for _ in range(random.randint(1, 4)))]
    sheet = draw_sheet(brush, lines, brush.max_height)
    fields = random.sample(TEXT_FIELDS, random.randint(2, 4))
    questions = [absent_field(random, (field,)) for field in fields if field not in sheet.text.text.casefold()]
    read = Question(say(random, random.choice(("Transcribe this.", "Read the text.", "What does it say?"))), sheet.text, "transcribe")  # fmt: skip # noqa: E501
    return sheet.canvas.page([*questions, read])


def _lines(random: Random) -> list[Line]:
    return [Line(words.line(random, random.randint(6, 26))) for _ in range(random.randint(1, 4))]


def _questions(random: Random, kinds: Sequence[tuple[str, ...]]) -> tuple[Question, ...]:
    asked = {_question(random, random.choice(kinds)) for _ in range(random.randint(2, 5))}
    return tuple(Question(unprinted(text), unprinted(ABOUT), "greeting") for text in sorted(asked))


def _question(random: Random, kind: tuple[str, ...]) -> str:
    """One of the wordings, typed with more or less care."""
    text = random.choice(kind).format(
        topic=random.choice(TOPICS), place=words.city(random), code=random.choice(CODES), word=words.word(random),
        language=random.choice(LANGUAGES), n=random.randint(1, 200), m=random.randint(1, 200),
    )  # fmt: skip
    if kind in (OUTSIDE, OF_PHOTOS) and text.split()[0] in (
        "write",
        "tell",
        "explain",
        "describe",
        "recommend",
        "give",
    ):
        text = random.choice(POLITE) + text
    if random.random() < 0.6:
        text = text[0].upper() + text[1:]
    ending = random.random()
    if ending < 0.12:
        return text.rstrip("?!.")
    return (
        text if text[-1] in "?!." or ending < 0.5 else text + random.choice((".", "!", "?" if text[-1] != '"' else "."))
    )


# Pictures of nothing that nano knows ------------------------------------------------------------------


def _photo(brush: Brush) -> Image.Image:
    """A landscape of soft colours, a texture, or noise: what photographs look like to one who knows none."""
    random = brush.random
    width = random.randint(64, max(64, min(brush.max_width, 320)))
    height = random.randint(64, max(64, min(brush.max_height, 320)))
    dice = Random(random.random())  # of its own: thousands of draws for the grain are one of the page's
    if brush.style.unseen_layouts:
        return _noise(dice, (width, height), 3, 24)
    picture = _noise(dice, (width, height), dice.randint(2, 6), dice.randint(2, 9))
    for scale in (12, 40):
        if dice.random() < 0.7:
            finer = _noise(dice, (width, height), scale, scale)
            picture = Image.blend(picture, finer, dice.uniform(0.1, 0.45))
    if dice.random() < 0.5:
        grain = Image.frombytes("L", (width, height), dice.randbytes(width * height)).convert("RGB")
        picture = Image.blend(picture, grain, dice.uniform(0.05, 0.3))
    return picture.filter(ImageFilter.GaussianBlur(dice.uniform(0, 1.5))) if dice.random() < 0.4 else picture


def _noise(random: Random, size: tuple[int, int], columns: int, rows: int) -> Image.Image:
    """Random colours on a coarse grid, made smooth between; they differ in light more than in hue, as in nature."""
    base = [random.randint(30, 225) for _ in range(3)]
    light, hue = random.randint(20, 110), random.randint(5, 50)
    cells = bytearray()
    for _ in range(columns * rows):
        shade = random.randint(-light, light)
        cells += bytes(max(0, min(255, part + shade + random.randint(-hue, hue))) for part in base)
    return Image.frombytes("RGB", (columns, rows), bytes(cells)).resize(size, Image.Resampling.BICUBIC)
