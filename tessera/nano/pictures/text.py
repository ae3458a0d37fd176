"""Pages of text: dense ones that teach the encoder its letters, and those that people transcribe.

A layout sets lines on a sheet until the sheet is full. Three layouts (letter, chat, certificate) are
never used in training: they measure what is made of a page that looks like none before.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from random import Random

from PIL import ImageDraw

from tessera.nano.pictures import words
from tessera.nano.pictures.canvas import LARGEST_TYPE, SMALLEST_TYPE, Brush, Canvas, Color
from tessera.nano.pictures.page import Page, Question, Written
from tessera.nano.pictures.text_questions import LINE, ORDINALS, asked, questions
from tessera.nano.pictures.text_sheet import Fact, Font, Shape, Sheet, fitted, wrapped

MEAN_ADVANCE = 0.52  # of the type size, of running text in most faces
LONG_ANSWER, LONGEST_ANSWER = 400, 1200  # characters

# Dense pages ---------------------------------------------------------------------------------


def draw_dense(brush: Brush) -> Page:
    """A page full of lines: blocks of their own face, size, ink and paper, in one to three columns."""
    random = brush.random
    width = random.randint(round(0.75 * brush.max_width), brush.max_width)
    height = random.randint(round(0.75 * brush.max_height), brush.max_height)
    canvas = Canvas(width, height, brush.colors()[0])
    columns = random.choices((1, 2, 3), (5, 3, 1))[0] if width > 200 else 1
    edges = [0.0, *sorted(width * (number + random.uniform(-0.2, 0.2)) / columns for number in range(1, columns))]
    rows: list[Written] = []
    for left, right in zip(edges, [*edges[1:], float(width)], strict=True):
        top = random.uniform(0, 6)
        while top < height - SMALLEST_TYPE * 2:
            top = _dense_block(brush, canvas, (left, top, right, float(height)), rows)
    return canvas.page(_dense_questions(random, rows) if columns == 1 else ())


def _dense_questions(random: Random, rows: Sequence[Written]) -> list[Question]:
    found = {}
    for _ in range(random.randint(1, 4)):
        number = random.randint(1, min(len(rows), len(ORDINALS)))
        question = asked(random, LINE, number=str(number), ordinal=ORDINALS[number - 1])
        found[question.text] = Question(question, rows[number - 1], "transcribe", rows[number - 1])
    return list(found.values())


def _dense_block(brush: Brush, canvas: Canvas, box: tuple[float, float, float, float], rows: list[Written]) -> float:
    """Some lines from the box's top on; returns where the next block may begin."""
    random = brush.random
    left, top, right, bottom = box
    size = brush.size(SMALLEST_TYPE, min(LARGEST_TYPE, (bottom - top - 5) / 1.25, (right - left) / 3))
    font, leading = brush.face().font(size), size * random.uniform(1.15, 1.6)
    paper, ink = brush.colors()
    pad, indent = random.uniform(1, 5), random.uniform(0, 6)
    count = max(1, min(round(random.uniform(20, 150) / leading), int((bottom - top - pad) / leading)))
    end = top + count * leading + pad
    canvas.pen.rectangle((left, top, right, end if end + 16 < bottom else bottom), fill=paper)
    if random.random() < 0.12:
        canvas.pen.line((left, end, right, end), fill=ink, width=random.randint(1, 2))
    room, align = right - left - indent - 3, random.choice((0.0, 0.0, 0.0, 0.5, 1.0))
    x = left + indent + align * room
    for number, text in enumerate(_dense_lines(random, font, room, count)):
        rows.append(canvas.write(x, top + pad + number * leading + size * 0.95, text, font, ink, align))
    return end + random.uniform(0, 5)


def _dense_lines(random: Random, font: Font, room: float, count: int) -> list[str]:
    source = _dense_source(random)
    texts: list[str] = []
    lacking = count * room / (font.size * MEAN_ADVANCE) + 10
    while lacking > 0:
        texts.append(source())
        lacking -= len(texts[-1]) + 1
    return wrapped(" ".join(texts), font, room)[:count]


def _dense_source(random: Random) -> Callable[[], str]:
    kind = random.random()
    if kind < 0.35:
        return lambda: words.token(random)
    if kind < 0.55:
        return lambda: words.sentence(random)
    if kind < 0.75:
        return lambda: words.nonsense(random)
    if kind < 0.87:
        return lambda: words.numeric(random)
    if kind < 0.94:
        return lambda: words.word(random).upper()
    return lambda: "".join(random.choices(string.ascii_letters + string.digits + words.SIGNS, k=random.randint(1, 7)))


# Pages to transcribe -------------------------------------------------------------------------


def draw_text(brush: Brush) -> Page:
    """Anything from one line to a small page, with questions about it."""
    random = brush.random
    if brush.style.unseen_layouts:
        layout = random.choice(UNSEEN_LAYOUTS)
    else:
        layouts, weights = zip(*LAYOUTS, strict=True)
        layout = random.choices(layouts, weights)[0]
    large = brush.max_width * brush.max_height > 600 * 600
    longest = LONGEST_ANSWER if random.random() < (0.3 if large else 0.05) else LONG_ANSWER
    sheet = Sheet(brush, brush.max_width - 24.0, brush.max_height - 24.0, longest)
    layout(sheet)
    if not sheet.lines:
        set_line(sheet)  # too small for anything else
    canvas, reading = sheet.finish()
    return canvas.page(questions(random, reading))


Layout = Callable[[Sheet], None]
Source = Callable[[Random], str]


def _font(sheet: Sheet, largest: float = LARGEST_TYPE, rows: float = 1.5, columns: float = 6.0) -> Font:
    """A face and a size at which this many rows and columns of letters have room."""
    largest = min(largest, sheet.height / rows / 1.3, sheet.width / columns / MEAN_ADVANCE)
    return sheet.brush.face().font(sheet.brush.size(SMALLEST_TYPE, max(SMALLEST_TYPE, largest)))


def _heading_font(sheet: Sheet, font: Font) -> Font:
    """Of another face or only larger, so that it is known for a heading."""
    size = round(min(LARGEST_TYPE, max(font.size + 1, font.size * sheet.brush.random.uniform(1.15, 1.9))))
    return sheet.brush.face().font(size)


def _title(sheet: Sheet, font: Font, width: float | None = None) -> str:
    """A heading of one line where any of some does."""
    titles = [words.title(sheet.brush.random) for _ in range(6)]
    return next((title for title in titles if font.getlength(title) <= (width or sheet.width)), titles[0])


def _add_heading(sheet: Sheet, font: Font, align: float = 0.0, width: float | None = None) -> None:
    strong = _heading_font(sheet, font)
    sheet.add(_title(sheet, strong, width), strong, "heading", align=align, width=width)


def _letters(sheet: Sheet, font: Font, share: float = 1.0) -> int:
    """How many letters of running text a line holds."""
    return max(4, int(share * sheet.width / (font.size * MEAN_ADVANCE)))


def _write(sheet: Sheet, text: str, font: Font, role: str, leading: float = 1.3, align: float = 0.0) -> bool:
    """Set running text in as many lines as it takes; False once the sheet is full."""
    lines = wrapped(text, font, sheet.width)
    return all(sheet.add(line, font, role, leading=leading, align=align) for line in lines)


def _narrowed(sheet: Sheet, smallest: float, font: Font) -> None:
    """Paragraphs are set at any width that still holds a few words."""
    least = min(sheet.width, max(smallest * sheet.width, 14 * font.size * MEAN_ADVANCE))
    sheet.width = sheet.brush.random.uniform(least, sheet.width)


def _some_line(random: Random, longest: int) -> str:
    kind = random.random()
    if kind < 0.55:
        return words.line(random, longest)
    if kind < 0.75:
        return words.prose(random, longest)
    return random.choice(NAMES)(random)


NAMES: tuple[Source, ...] = (
    words.person, words.company, words.street, words.city, words.product, words.title, words.code, words.money,
    words.date, words.number_text, words.email, words.web, words.phone, words.word, words.nonsense,
)  # fmt: skip


def set_line(sheet: Sheet) -> None:
    font = _font(sheet)
    longest = _letters(sheet, font, sheet.brush.random.uniform(0.2, 1.1))
    while not sheet.add(_some_line(sheet.brush.random, longest), font, "line"):
        continue


def set_lines(sheet: Sheet) -> None:
    random = sheet.brush.random
    font = _font(sheet, rows=2.5)
    align, leading = random.choice((0.0, 0.0, 0.5, 1.0)), random.uniform(1.15, 1.9)
    same = random.choice(NAMES) if random.random() < 0.3 else None
    longest = _letters(sheet, font, random.uniform(0.4, 1.1))
    for _ in range(random.randint(2, 7)):
        text = same(random) if same else _some_line(random, longest)
        sheet.add(text, font, "line", align=align, leading=leading)


def set_paragraph(sheet: Sheet) -> None:
    random = sheet.brush.random
    font = _font(sheet, 26, rows=3)
    _narrowed(sheet, 0.4, font)
    _write(sheet, words.prose(random, random.randint(60, sheet.longest)), font, "body", random.uniform(1.15, 1.7))


def set_page(sheet: Sheet) -> None:
    """A heading over paragraphs."""
    random = sheet.brush.random
    font = _font(sheet, 22, rows=6, columns=16)
    _narrowed(sheet, 0.5, font)
    sheet.new_block()
    _add_heading(sheet, font, align=random.choice((0.0, 0.0, 0.5)))
    leading, gap = random.uniform(1.15, 1.6), font.size * random.uniform(0.5, 1.2)
    each = max(60, sheet.longest // random.randint(2, 4))
    for _ in range(random.randint(1, 4)):
        sheet.new_block(gap)
        if not _write(sheet, words.prose(random, random.randint(50, each)), font, "paragraph", leading):
            break


def set_columns(sheet: Sheet) -> None:
    """Two columns, the left one read first."""
    random = sheet.brush.random
    font = _font(sheet, 18, rows=6, columns=26)
    gap, full = font.size * random.uniform(1.2, 2.5), sheet.width
    if random.random() < 0.4:
        sheet.new_block()
        _add_heading(sheet, font)
        sheet.y += font.size * 0.5
    column, top, leading = (full - gap) / 2, sheet.y, random.uniform(1.15, 1.5)
    lines = wrapped(words.prose(random, random.randint(120, sheet.longest)), font, column)
    half = min((len(lines) + 1) // 2, int((sheet.height - top) / (font.size * leading)))
    for side, x, part in (("left", 0.0, lines[:half]), ("right", column + gap, lines[half : 2 * half])):
        sheet.y = top
        sheet.new_block()
        for line in part:
            sheet.add(line, font, side, x=x, width=column, leading=leading)
    if random.random() < 0.3:
        middle, bottom, ink = column + gap / 2, sheet.bottom, sheet.ink
        sheet.shapes.append(
            lambda pen, left, up, _: pen.line((left + middle, up + top, left + middle, up + bottom), ink)
        )


MESSAGES = (
    "Do you want to save the changes to {name}?", "The file {name} could not be opened.",
    "Are you sure you want to delete {number} items?", "Your session ends in {number} minutes.",
    "Update {number} is available.", "The connection to {web} was lost.", "Please enter your password for {email}.",
    "{number} files were copied.", "Not enough memory. Close {name} and try again.", "An error occurred (code {code}).",
    "Payment of {money} was received.", "The meeting with {person} starts at {time}.", "{name} has stopped responding.",
    "Allow {name} to use your location?",
)  # fmt: skip
BUTTONS = (
    ("OK",), ("OK", "Cancel"), ("Yes", "No"), ("Yes", "No", "Cancel"), ("Save", "Discard", "Cancel"),
    ("Retry", "Abort"), ("Close",), ("Back", "Next"), ("Accept", "Decline"), ("Later", "Install"), ("Delete", "Keep"),
    ("Sign in",), ("Allow", "Deny"), ("Continue",), ("Apply", "Reset"), ("Send", "Cancel"), ("Help", "Close"),
)  # fmt: skip


def _file_name(random: Random) -> str:
    ending = random.choice(("txt", "pdf", "docx", "png", "xlsx", "csv", "py", "zip", "mp4", "json"))
    return f"{words.word(random)}{random.choice(('', '_', '-'))}{words.word(random)}.{ending}"


def _message(random: Random) -> tuple[str, list[Fact]]:
    sources: dict[str, Callable[[Random], str]] = {
        "name": _file_name, "number": lambda random: str(random.randint(1, 99)), "web": words.web, "time": words.time,
        "email": words.email, "code": words.code, "person": words.person, "money": words.money,
    }  # fmt: skip
    template = random.choice(MESSAGES)
    values = {name: source(random) for name, source in sources.items() if "{" + name + "}" in template}
    facts = [("price" if name == "money" else name, value) for name, value in values.items()]
    return template.format(**values), [fact for fact in facts if fact[0] in ("web", "email", "code", "time", "price")]


def set_dialog(sheet: Sheet) -> None:
    """A window with a title bar, a message and buttons."""
    random = sheet.brush.random
    font = _font(sheet, 22, rows=6, columns=22)
    size, pad = float(font.size), font.size * 0.8
    sheet.paper, sheet.ink = random.choice(((WINDOW, INK), (WINDOW, INK), ((255, 255, 255), INK), (NIGHT, SNOW)))
    _narrowed(sheet, 0.6, font)
    sheet.width, sheet.height = sheet.width - pad, sheet.height - pad
    bar_paper, bar_ink = sheet.brush.colors()
    sheet.new_block()
    room = sheet.width - 4 * size
    sheet.add(_title(sheet, font, room), font, "heading", x=pad, ink=bar_ink, width=room, leading=1.9)
    bar = sheet.y
    sheet.shapes.append(lambda pen, left, top, width: _title_bar(pen, left, top, width, bar, bar_paper, bar_ink))
    sheet.new_block(pad * 0.5)
    text, facts = _message(random)
    room = sheet.width - 2 * pad
    for line in wrapped(text, font, room):
        sheet.add(line, font, "message", x=pad, width=room, facts=facts)
    if random.random() < 0.4:
        for line in wrapped(words.prose(random, random.randint(20, 90)), font, room):
            sheet.add(line, font, "message", x=pad, width=room)
    sheet.y += pad * 0.4
    _set_buttons(sheet, font, random.choice(BUTTONS))
    sheet.right, sheet.bottom = max(sheet.right + pad, min(8 * size, sheet.width)), sheet.bottom + pad
    bottom, edge = sheet.bottom, sheet.ink
    sheet.shapes.append(
        lambda pen, left, top, width: pen.rectangle((left, top, left + width, top + bottom), outline=edge)
    )


WINDOW, INK, NIGHT, SNOW = (240, 240, 240), (20, 20, 20), (40, 42, 48), (230, 230, 235)


def _title_bar(
    pen: ImageDraw.ImageDraw, left: float, top: float, width: float, height: float, paper: Color, ink: Color
) -> None:
    pen.rectangle((left, top, left + width, top + height), fill=paper)
    arm = height * 0.16
    x, y = left + width - height * 0.5, top + height * 0.5
    pen.line((x - arm, y - arm, x + arm, y + arm), fill=ink, width=1)
    pen.line((x - arm, y + arm, x + arm, y - arm), fill=ink, width=1)


def _set_buttons(sheet: Sheet, font: Font, labels: Sequence[str]) -> None:
    size, x = font.size, font.size * 1.4
    sheet.new_block()
    for number, label in enumerate(labels):
        length = font.getlength(label)
        if x + length + size > sheet.width or not sheet.add(label, font, "button", x, leading=2.0, beside=number > 0):
            return
        box = (x - size * 0.6, sheet.y - size * 1.85, x + length + size * 0.6, sheet.y - size * 0.15)
        sheet.shapes.append(_outline(box, sheet.ink, radius=sheet.brush.random.choice((0, 4))))
        sheet.right = max(sheet.right, box[2])
        x = box[2] + size * 1.2


def _outline(box: tuple[float, float, float, float], ink: Color, radius: float = 0, fill: Color | None = None) -> Shape:
    def draw(pen: ImageDraw.ImageDraw, left: float, top: float, _: float) -> None:
        placed = (left + box[0], top + box[1], left + box[2], top + box[3])
        pen.rounded_rectangle(placed, radius, fill=fill, outline=ink)

    return draw


CODE: tuple[tuple[str, ...], ...] = (
    ("def {a}({b}, {c}):", "    {d} = {b} + {n}", "    return {d} * {c}"),
    ("import {a}", "from {b} import {c}", "", "{d} = {a}.{c}('{b}')", "print({d})"),
    ("for {a} in range({n}):", "    if {a} > {m}:", "        {b}.append({a})", "    else:", "        {c} += {n}"),
    ("class {A}({B}):", "    {c} = {n}", "", "    def {d}(self):", "        return self.{c}"),
    ("# {a} {b} {c}", "{d} = [{n}, {m}, {n}]", "assert len({d}) == 3"),
    ("function {a}({b}) {{", "  const {c} = {b} + {n};", "  return {c};", "}}"),
    ("let {a} = {n};", "while ({a} < {m}) {{", "  {a} += 1;", "  {b}({a}, '{c}');", "}}"),
    ("{{", '  "{a}": {n},', '  "{b}": "{c}",', '  "{d}": [{m}, {n}]', "}}"),
    ("$ cd {a}/{b}", "$ ls -l", "-rw-r--r-- 1 {c} {n} {d}.txt", "$ ./{d} --{a}={m}"),
    ("SELECT {a}, {b}", "FROM {c}", "WHERE {a} > {n}", "ORDER BY {b};"),
    ("int main(void) {{", '    printf("{a} %d", {n});', "    return 0;", "}}"),
    ("<div class=\"{a}\">", "  <p>{b} {c}</p>", '  <a href="/{d}">{A}</a>', "</div>"),
    ("{a}:", "  {b}: {n}", "  {c}: {d}", "  - {A}"),
    ("ERROR {a}.{b}: {c} failed at line {n}", "Traceback: {d}({m})", "{A}Error: {b} is not {c}"),
)  # fmt: skip
CODE_COLORS: tuple[tuple[Color, tuple[Color, ...]], ...] = (
    ((255, 255, 255), ((0, 0, 0), (0, 0, 160), (0, 100, 0), (160, 20, 20))),
    ((30, 30, 30), ((212, 212, 212), (86, 176, 230), (181, 206, 168), (220, 160, 130))),
    ((40, 42, 54), ((248, 248, 242), (80, 250, 123), (255, 121, 198), (139, 233, 253))),
    ((245, 245, 245), ((40, 40, 40), (110, 60, 140), (0, 110, 120), (90, 90, 90))),
    ((0, 0, 0), ((0, 255, 0), (0, 220, 0), (255, 255, 255), (200, 200, 200))),
)


def set_code(sheet: Sheet) -> None:
    """A snippet of a program, in a face of fixed width where there is one."""
    random = sheet.brush.random
    faces = [sheet.brush.face() for _ in range(12)]
    face = next((face for face in faces if face.kind == "mono"), faces[0])
    font = face.font(sheet.brush.size(SMALLEST_TYPE, max(SMALLEST_TYPE, min(22, sheet.width / 20, sheet.height / 8))))
    sheet.paper, inks = random.choice(CODE_COLORS)
    leading = random.uniform(1.2, 1.5)
    for _ in range(random.randint(1, 3)):
        for line in _snippet(random):
            if not line:
                sheet.y += font.size * 0.7
            elif not sheet.add(line, font, "code", ink=random.choice((inks[0], *inks)), leading=leading):
                return


def _snippet(random: Random) -> list[str]:
    names = {key: words.word(random) + random.choice(("", "", f"_{words.word(random)}")) for key in "abcd"}
    numbers = {key: str(random.randint(0, 10 ** random.randint(1, 3))) for key in "nm"}
    titles = {key: words.word(random).capitalize() for key in "AB"}
    return [line.format(**names, **numbers, **titles) for line in random.choice(CODE)]


POSITIONS = (
    "Sales Manager", "Director", "Engineer", "Consultant", "Architect", "Head of Design", "Attorney at Law", "Dentist",
    "Photographer", "Real Estate Agent", "Account Executive", "CEO", "Product Manager", "Accountant", "Chef", "Editor",
)  # fmt: skip
SIGNS = (
    "NO PARKING", "EXIT", "OPEN", "CLOSED", "SALE", "STOP", "PUSH", "PULL", "DANGER", "PRIVATE", "NO ENTRY",
    "WET FLOOR", "Please ring the bell", "Keep clear", "Staff only", "Mind the step", "Fire exit", "Welcome",
    "Beware of the dog", "No smoking", "Reception", "Platform {n}", "Room {n}", "Gate {n}", "Speed limit {n}",
    "{p} off", "Today only {m}", "Opening hours", "Mon-Fri {t}-{t}", "{w} {w}", "{c}", "{s}", "{W}", "{W} {W}",
    "Free entry", "Please wait here",
)  # fmt: skip


def set_card(sheet: Sheet) -> None:
    """A business card: a name, a company, and ways to reach them."""
    random = sheet.brush.random
    font = _font(sheet, 20, rows=9, columns=20)
    align, strong = random.choice((0.0, 0.0, 0.5, 1.0)), _heading_font(sheet, font)
    heads = [(words.person(random), strong), (random.choice(POSITIONS), font), (words.company(random), font)]
    if random.random() < 0.4:
        heads = [heads[2], *heads[:2]]
    for text, face in heads:
        sheet.add(text, face, "name", align=align)
    sheet.new_block(font.size * 0.8)
    for text, facts in _contacts(random):
        if font.getlength(text) <= sheet.width:  # half an address is none
            sheet.add(text, font, "contact", align=align, facts=facts)
    _framed(sheet, 0.3, font.size)


def _contacts(random: Random) -> list[tuple[str, list[Fact]]]:
    phone, email, web = words.phone(random), words.email(random), words.web(random)
    lines: list[tuple[str, list[Fact]]] = [
        (random.choice(("", "Tel. ", "Phone: ", "T ", "Mobile ", "Call ")) + phone, [("phone", phone)]),
        (random.choice(("", "", "E-mail: ", "E ", "Mail: ")) + email, [("email", email)]),
        (random.choice(("", "", "Web: ", "W ")) + web, [("web", web)]),
    ]
    kept = [line for line in lines if random.random() < 0.7]
    if random.random() < 0.5:
        kept.insert(random.randint(0, len(kept)), (words.street(random), []))
    random.shuffle(kept)
    return kept


def _framed(sheet: Sheet, probability: float, size: float) -> None:
    """Sometimes a frame around all that was set."""
    random = sheet.brush.random
    if random.random() >= probability:
        return
    pad, ink, radius, line = size * random.uniform(0.3, 0.5), sheet.ink, random.choice((0, 0, 6)), random.randint(1, 2)
    bottom = sheet.bottom
    sheet.shapes.append(
        lambda pen, left, top, width: pen.rounded_rectangle(
            (max(left - pad, 0), max(top - pad, 0), left + width + pad, top + bottom + pad), radius, None, ink, line
        )
    )


def set_sign(sheet: Sheet) -> None:
    """A few large words, each line of its own size."""
    random = sheet.brush.random
    if random.random() < 0.5:
        dark: Color = random.choice(((170, 20, 20), (20, 60, 140), (10, 90, 50), (30, 30, 30), (90, 40, 110)))
        sheet.paper, sheet.ink = dark, random.choice(((255, 255, 255), (255, 240, 180)))
    align, face = random.choice((0.5, 0.5, 0.0)), sheet.brush.face()
    largest = max(SMALLEST_TYPE + 1, min(LARGEST_TYPE, sheet.height / 2, sheet.width / 6))
    for _ in range(random.randint(1, 4)):
        font = face.font(sheet.brush.size(min(12, largest - 1), largest))
        text = random.choice(SIGNS).format(
            n=random.randint(1, 99), p=f"{random.randint(5, 90)}%", m=words.money(random), t=f"{random.randint(1, 12)}",
            w=words.word(random), W=words.word(random).upper(), c=words.city(random), s=words.street(random),
        )  # fmt: skip
        for line in wrapped(text, font, sheet.width):
            sheet.add(line, font, "sign", align=align)
    _framed(sheet, 0.5, 12)


def set_ticket(sheet: Sheet) -> None:
    """A ticket or a parcel's label: what, when, where, and a code."""
    random = sheet.brush.random
    font = _font(sheet, 20, rows=9, columns=20)
    date, time, price, code = (source(random) for source in (words.date, words.time, words.money, words.code))
    lines: list[tuple[str, list[Fact]]] = [
        (random.choice(("", "Date: ", "Valid on ")) + date, [("date", date)]),
        (random.choice(("", "Time: ", "Starts at ", "Doors ")) + time, [("time", time)]),
        (random.choice(("", "Price: ", "Paid ")) + price, [("price", price)]),
        (random.choice(("", "Code: ", "Ref. ", "Ticket ")) + code, [("code", code)]),
        (f"Row {random.choice('ABCDEFGHJK')} Seat {random.randint(1, 60)}", []),
        (words.person(random), []),
        (words.city(random), []),
        (f"{words.city(random)} - {words.city(random)}", []),
        (f"{random.uniform(0.1, 30):.1f} kg", []),
        (words.street(random), []),
    ]
    sheet.new_block()
    title = random.choice((words.title, words.company, lambda random: words.word(random).upper()))(random)
    sheet.add(title, _heading_font(sheet, font), "heading")
    sheet.new_block(font.size * 0.4)
    fitting = [line for line in lines if font.getlength(line[0]) <= sheet.width]
    for text, facts in random.sample(fitting, min(len(fitting), random.randint(3, 7))):
        sheet.add(text, font, "detail", facts=facts)
    _framed(sheet, 0.6, font.size)


FACT_LINES: dict[str, tuple[Source, tuple[str, ...]]] = {
    "phone": (words.phone, ("{}", "Call {}", "Tel. {}", "Phone: {}", "Please ring {} first.", "Questions? {}")),
    "email": (words.email, ("{}", "Write to {}", "E-mail: {}", "Contact {} for help.", "Mail {}")),
    "date": (words.date, ("{}", "On {}", "Until {}", "Date: {}", "Valid until {}.", "Closed on {}")),
    "time": (words.time, ("{}", "At {}", "From {} on", "Doors open at {}.", "Begins {}")),
    "web": (words.web, ("{}", "See {}", "Visit {}", "More on {}", "Order at {} today")),
    "price": (words.money, ("{}", "Only {}", "Entry {}", "For {} each", "Now {}!")),
    "code": (words.code, ("{}", "Code {}", "Use {}", "Ref. {}", "Key: {}")),
}
PLAIN_LINES: tuple[Source, ...] = (
    words.person, words.city, words.word, lambda random: f"{words.word(random)} {words.word(random)}",
    lambda random: " ".join(words.word(random) for _ in range(random.randint(3, 6))),
    lambda random: f"{random.choice(words.ADJECTIVES)} {random.choice(words.PRODUCTS).lower()}",
)  # fmt: skip


def set_note(sheet: Sheet) -> None:
    """A notice of some lines, with a telephone number, a date or the like among them."""
    random = sheet.brush.random
    font = _font(sheet, 30, rows=4, columns=18)
    align, leading = random.choice((0.0, 0.0, 0.5)), random.uniform(1.2, 1.7)
    lines: list[tuple[str, list[Fact]]] = [
        (_item(random, random.choice(PLAIN_LINES)), []) for _ in range(random.randint(1, 4))
    ]
    for kind in random.sample(sorted(FACT_LINES), random.randint(1, 3)):
        source, forms = FACT_LINES[kind]
        value = source(random)
        lines.append((random.choice(forms).format(value), [(kind, value)]))
    random.shuffle(lines)
    for text, facts in lines:
        if font.getlength(text) <= sheet.width:
            sheet.add(text, font, "line", align=align, leading=leading, facts=facts)
    _framed(sheet, 0.2, font.size)


def set_bullets(sheet: Sheet) -> None:
    """A list with drawn or printed marks before its items."""
    random = sheet.brush.random
    font = _font(sheet, 26, rows=5, columns=14)
    _list_heading(sheet, font)
    mark, leading = random.choice(("", "", "-", "*", "+", ">")), random.uniform(1.25, 1.7)
    indent = font.size * random.uniform(0.9, 1.5)
    source = random.choice((words.product, words.word, words.title, words.person, _short_prose, _short_prose))
    for _ in range(random.randint(2, 8)):
        beside = bool(mark) and sheet.add(mark, font, "mark", leading=leading, width=indent)
        if mark and not beside:
            return
        if not sheet.add(_item(random, source), font, "item", x=indent, leading=leading, beside=beside):
            if beside:
                sheet.lines.pop()
            return
        if not mark:
            _set_disc(sheet, font, leading)


def _item(random: Random, source: Source) -> str:
    text = source(random)
    return text[0].upper() + text[1:] if random.random() < 0.5 else text


def _short_prose(random: Random) -> str:
    return words.prose(random, random.randint(12, 40))


def _set_disc(sheet: Sheet, font: Font, leading: float) -> None:
    radius, ink = max(1.5, font.size * 0.14), sheet.ink
    x, y = font.size * 0.35, sheet.lines[-1].baseline - font.size * 0.3
    sheet.shapes.append(
        lambda pen, left, top, _: pen.ellipse(
            (left + x - radius, top + y - radius, left + x + radius, top + y + radius), fill=ink
        )
    )


def _list_heading(sheet: Sheet, font: Font) -> None:
    if sheet.brush.chance(0.6):
        sheet.new_block()
        _add_heading(sheet, font)
        sheet.y += font.size * 0.3
    sheet.new_block()


def set_numbered(sheet: Sheet) -> None:
    random = sheet.brush.random
    font = _font(sheet, 26, rows=5, columns=14)
    _list_heading(sheet, font)
    mark, leading = random.choice(("{}.", "{})", "({})", "{}:")), random.uniform(1.25, 1.7)
    indent = font.getlength("(00)") + font.size * 0.4
    source = random.choice((words.product, words.word, words.title, words.person, words.city, _short_prose))
    for number in range(1, random.randint(3, 11)):
        if not sheet.add(mark.format(number), font, "mark", leading=leading, width=indent):
            return
        if not sheet.add(_item(random, source), font, "item", x=indent, leading=leading, beside=True):
            sheet.lines.pop()
            return


PAIRS: dict[str, Source] = {
    "Name": words.person, "Phone": words.phone, "E-mail": words.email, "Address": words.street, "City": words.city,
    "Date": words.date, "Time": words.time, "Order no.": words.code, "Customer": words.company, "Total": words.money,
    "Website": words.web, "Product": words.product, "Reference": words.code, "Price": words.money,
    "Country": words.city, "Quantity": lambda random: str(random.randint(1, 500)),
    "Weight": lambda random: f"{random.uniform(0.1, 90):.1f} kg",
    "Status": lambda random: random.choice(("open", "paid", "shipped", "pending", "closed", "active", "new")),
    "Version": lambda random: f"{random.randint(0, 12)}.{random.randint(0, 20)}.{random.randint(0, 9)}",
    "Room": lambda random: str(random.randint(1, 499)), "Contact": words.person, "Due": words.date,
    "Postcode": words.postcode, "Model": words.nonsense, "Serial no.": words.code, "Notes": _short_prose,
}  # fmt: skip
PAIR_FACTS = {"Phone": "phone", "E-mail": "email", "Date": "date", "Due": "date", "Time": "time", "Website": "web"}


def set_pairs(sheet: Sheet) -> None:
    """Lines of a key and its value, run on after a colon or set in two columns."""
    random = sheet.brush.random
    font = _font(sheet, 24, rows=5, columns=22)
    strong = sheet.brush.face().font(int(font.size)) if random.random() < 0.4 else font
    _list_heading(sheet, font)
    pairs = list(PAIRS.items()) + [(words.word(random).capitalize(), random.choice(NAMES)) for _ in range(12)]
    chosen = dict(random.sample(pairs, random.randint(2, 8)))
    colon = random.choice((":", ":", ":", ""))
    column = max(map(strong.getlength, chosen)) + font.size * random.uniform(0.8, 2.5)
    aligned = not colon or random.random() < 0.5
    leading = random.uniform(1.2, 1.8)
    for key, source in chosen.items():
        label = key + colon
        x = column if aligned else strong.getlength(label) + font.size * 0.35
        value = fitted(source(random), font, sheet.width - x)
        facts = [(PAIR_FACTS[key], value)] if key in PAIR_FACTS else []
        if not value or not sheet.add(label, strong, "key", leading=leading):
            return
        if not sheet.add(value, font, "value", x=x, beside=True, facts=facts):
            sheet.lines.pop()
            return


def set_mail(sheet: Sheet) -> None:
    """An e-mail as a program shows it."""
    random = sheet.brush.random
    font = _font(sheet, 18, rows=9, columns=28)
    _narrowed(sheet, 0.7, font)
    email, date = words.email(random), words.date(random)
    heads: list[tuple[str, str, list[Fact]]] = [
        ("From:", email, [("email", email)]),
        ("To:", words.person(random), []),
        ("Date:", date, [("date", date)]),
        ("Subject:", words.title(random), []),
    ]
    sheet.new_block()
    column = font.getlength("Subject:") + font.size * 0.6
    for key, value, facts in random.sample(heads, random.randint(3, 4)):
        if sheet.add(key, font, "key") and not sheet.add(value, font, "value", x=column, beside=True, facts=facts):
            sheet.lines.pop()
    _set_rule(sheet, font.size * 0.5)
    for text in (f"Dear {words.person(random)},", words.prose(random, random.randint(60, 240)), "Kind regards"):
        sheet.new_block(font.size * 0.5)
        if not _write(sheet, text, font, "text"):
            return


def _set_rule(sheet: Sheet, gap: float) -> None:
    y, ink = sheet.y + gap / 2, sheet.ink
    sheet.y += gap
    sheet.shapes.append(lambda pen, left, top, width: pen.line((left, top + y, left + width, top + y), fill=ink))


LAYOUTS: tuple[tuple[Layout, float], ...] = (
    (set_line, 2.5),
    (set_lines, 2.5),
    (set_paragraph, 2.5),
    (set_page, 2.0),
    (set_columns, 1.0),
    (set_dialog, 1.2),
    (set_code, 1.2),
    (set_card, 1.0),
    (set_sign, 1.0),
    (set_ticket, 1.0),
    (set_note, 1.6),
    (set_bullets, 1.0),
    (set_numbered, 1.0),
    (set_pairs, 1.2),
    (set_mail, 0.8),
)

# Layouts that are never taught ---------------------------------------------------------------


def set_letter(sheet: Sheet) -> None:
    """A sender on the right, a recipient on the left, a date, and a signed text."""
    random = sheet.brush.random
    font = _font(sheet, 18, rows=14, columns=28)
    _narrowed(sheet, 0.75, font)
    phone, date = words.phone(random), words.date(random)
    sender: list[tuple[str, list[Fact]]] = [(words.company(random), []), (words.street(random), [])]
    sheet.new_block()
    for text, facts in (*sender, (phone, [("phone", phone)])):
        sheet.add(text, font, "sender", align=1.0, facts=facts)
    sheet.new_block(font.size)
    for text in (words.person(random), words.street(random), f"{words.postcode(random)} {words.city(random)}"):
        sheet.add(text, font, "recipient")
    sheet.new_block(font.size * 0.6)
    sheet.add(date, font, "date", align=1.0, facts=[("date", date)])
    for text in ("Dear Sir or Madam,", words.prose(random, random.randint(60, 260)), "Yours sincerely,"):
        sheet.new_block(font.size * 0.6)
        if not _write(sheet, text, font, "text"):
            return
    sheet.add(words.person(random), sheet.brush.face().font(int(font.size)), "text")


def set_chat(sheet: Sheet) -> None:
    """Bubbles of two who write to each other, left and right in turn."""
    random = sheet.brush.random
    font = _font(sheet, 20, rows=7, columns=22)
    sheet.paper, sheet.ink = random.choice((((255, 255, 255), INK), (WINDOW, INK), (NIGHT, SNOW)))
    dark = sheet.paper == NIGHT
    fills: tuple[Color, Color] = ((60, 64, 72), (30, 80, 140)) if dark else ((225, 225, 230), (205, 235, 205))
    pad, room = font.size * 0.6, sheet.width * 0.62
    sheet.y += pad * 0.5
    for number in range(random.randint(2, 6)):
        lines = wrapped(words.prose(random, random.randint(8, 70)), font, room)
        length = max(map(font.getlength, lines))
        x = pad if number % 2 == 0 else sheet.width - pad - length
        sheet.new_block(pad * 1.6)
        top, rows = sheet.y, len(sheet.lines)
        full = not all([sheet.add(line, font, "bubble", x=x, width=room + 1) for line in lines])
        if len(sheet.lines) > rows:
            box = (x - pad, top - pad * 0.3, x + length + pad, sheet.y + pad * 0.3)
            sheet.shapes.append(_outline(box, fills[number % 2], 8, fills[number % 2]))
        if full:
            break
    sheet.right = sheet.width


def set_certificate(sheet: Sheet) -> None:
    """Centred lines in a double frame, over paper that grows darker."""
    random = sheet.brush.random
    font = _font(sheet, 22, rows=10, columns=22)
    date, code = words.date(random), words.code(random)
    paper, ink = sheet.paper, sheet.ink
    sheet.shapes.append(lambda pen, left, top, width: _shaded_frame(pen, paper, ink))
    inner = sheet.width - 2 * font.size
    lines: list[tuple[str, list[Fact]]] = [
        (random.choice(("This is to certify that", "Awarded to", "Presented to", "In recognition of")), []),
        (words.person(random), []),
        (words.prose(random, 40), []),
        (date, [("date", date)]),
        (f"No. {code}", [("code", code)]),
    ]
    sheet.new_block()
    sheet.y += font.size * 0.8
    _add_heading(sheet, font, align=0.5, width=inner)
    for text, facts in lines:
        sheet.add(text, font, "award", align=0.5, facts=facts, width=inner, leading=random.uniform(1.3, 1.8))
    sheet.right = min(sheet.width, sheet.right + 2 * font.size)
    sheet.bottom = min(sheet.height, sheet.bottom + font.size)


def _shaded_frame(pen: ImageDraw.ImageDraw, paper: Color, ink: Color) -> None:
    width, height = pen.im.size
    for y in range(height):
        shade = y / height * 0.12
        red, green, blue = (round(p + (i - p) * shade) for p, i in zip(paper, ink, strict=True))
        pen.line((0, y, width, y), fill=(red, green, blue))
    pen.rectangle((1, 1, width - 2, height - 2), outline=ink)
    pen.rectangle((4, 4, width - 5, height - 5), outline=ink)


UNSEEN_LAYOUTS: tuple[Layout, ...] = (set_letter, set_chat, set_certificate)
