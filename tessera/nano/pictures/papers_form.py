"""Forms: fields with their values or left empty, boxes ticked or not, and what is asked about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from tessera.nano.pictures import words
from tessera.nano.pictures.page import Question, Written, chosen, joined, unprinted
from tessera.nano.pictures.papers_asking import (
    FIELDS_AS_JSON,
    LONGEST_JSON,
    NOT_SHOWN,
    Places,
    absent,
    asked,
    json_list,
    json_object,
    json_text,
    key_braces,
    key_list,
    yes_or_no,
)
from tessera.nano.pictures.papers_blocks import (
    Blank,
    Block,
    Gap,
    Grid,
    Line,
    Options,
    Pairs,
    Panel,
    Piece,
    Rule,
    Side,
    Stack,
    Text,
)
from tessera.nano.pictures.papers_sale import Room

Source = Callable[[Random], str]


def _first(random: Random) -> str:
    return random.choice(words.names().first)


def _last(random: Random) -> str:
    return random.choice(words.names().last)


def _phrase(random: Random) -> str:
    return " ".join(words.word(random) for _ in range(random.randint(1, 3))).capitalize()


def _whole(low: int, high: int) -> Source:
    return lambda random: str(random.randint(low, high))


def _one_of(*texts: str) -> Source:
    return lambda random: random.choice(texts)


COUNTRIES = (
    "Germany", "France", "Italy", "Spain", "Poland", "Norway", "Sweden", "Japan", "China", "India", "Brazil", "Canada",
    "Mexico", "Egypt", "Kenya", "Peru", "Chile", "Turkey", "Greece", "Ireland", "USA", "UK", "Austria", "Belgium",
    "German", "French", "Italian", "Dutch", "British", "Swiss", "Texas", "Ohio", "Bavaria",
)  # fmt: skip
FIELDS: tuple[tuple[Source, tuple[str, ...]], ...] = (
    (_first, ("First name", "Given name", "Forename", "FIRST NAME", "First Name")),
    (_last, ("Last name", "Surname", "Family name", "LAST NAME", "Last Name", "Maiden name")),
    (words.person, ("Name", "Full name", "Applicant", "Contact person", "Patient", "Guest", "Signed by", "Manager",
                    "Emergency contact", "Physician", "Teacher", "Owner", "Employee", "Parent or guardian",
                    "Account holder", "Supervisor", "Tenant", "Witness", "Driver", "Name of insured")),
    (words.date, ("Date of birth", "DOB", "Birth date", "Date", "Start date", "End date", "Arrival", "Departure",
                  "Check-in", "Check-out", "Valid until", "Issued on", "Expiry date", "Date of incident", "Submitted",
                  "Last visit", "Hire date", "Return date", "Date signed", "From", "Until", "Received")),
    (words.street, ("Address", "Street", "Home address", "Street address", "Mailing address", "ADDRESS", "Location")),
    (words.city, ("City", "Town", "Place of birth", "Birthplace", "Destination", "City / Town", "Place", "Branch")),
    (words.postcode, ("ZIP", "ZIP code", "Postcode", "Postal code", "Zip", "POSTCODE")),
    (lambda random: random.choice(COUNTRIES), ("Country", "Nationality", "Citizenship", "State", "Country of issue")),
    (words.phone, ("Phone", "Telephone", "Mobile", "Cell", "Daytime phone", "Phone number", "Tel.", "Fax", "Contact")),
    (words.email, ("Email", "E-mail", "Email address", "E-mail address", "EMAIL", "Contact email")),
    (words.company, ("Employer", "Company", "Organisation", "Organization", "Business name", "School", "Insurer",
                     "Supplier", "Bank", "Agency", "University", "Clinic", "Company name")),
    (words.code, ("Reference", "Policy No.", "Account number", "Employee ID", "Passport No.", "License plate",
    "Case No.",
                  "Student ID", "Membership No.", "Serial number", "Insurance No.", "Form No.", "File number", "Tax ID",
                  "Claim number", "Booking code", "Registration", "Ticket", "Customer ID", "Invoice", "Batch", "VIN")),
    (words.money, ("Amount", "Salary", "Rent", "Deposit", "Fee", "Price", "Income", "Estimated value", "Total cost",
                   "Budget", "Claim amount", "Limit", "Annual income", "Monthly payment")),
    (words.time, ("Time", "Appointment", "Arrival time", "Opening time", "Start", "End", "Pick-up time")),
    (_whole(1, 120), ("Age", "Quantity", "Guests", "Rooms", "Number of children", "Weight", "Pages", "Seats", "Persons",
                      "Nights", "Years employed", "Score", "Hours", "Floor", "Size", "Room")),
    (_one_of("Engineer", "Nurse", "Teacher", "Driver", "Clerk", "Analyst", "Cook", "Lawyer", "Sales manager", "Baker"),
     ("Occupation", "Position", "Job title", "Profession", "Title", "Role", "Position applied for")),
    (_one_of("Sales", "IT", "HR", "Finance", "Legal", "Support", "Logistics", "Research", "Surgery", "Marketing"),
     ("Department", "Dept.", "Unit", "Team", "Division", "Ward")),
    (_one_of("single", "married", "Married", "divorced", "widowed", "Single"), ("Marital status", "Status")),
    (_one_of("A+", "B-", "O+", "AB+", "0 neg", "A-"), ("Blood type", "Blood group")),
    (_phrase, ("Reason", "Comments", "Subject", "Remarks", "Notes", "Description", "Purpose", "Diagnosis", "Allergies",
               "Medication", "Course", "Product", "Model", "Item", "Problem", "Other", "Hobbies", "Special requests")),
)  # fmt: skip
TITLES = (
    "Application form", "Registration", "Membership form", "Patient record", "Order form", "Claim form", "Survey",
    "Feedback", "Booking form", "Visitor card", "Leave request", "Travel request", "Change of address", "Enrolment",
    "Customer details", "Personal data", "Job application", "Delivery note", "Inspection report", "Accident report",
    "Rental agreement", "Consent form", "Declaration", "Questionnaire", "Account opening", "Expense report",
)  # fmt: skip
GROUPS: tuple[tuple[str, tuple[str, ...], bool], ...] = (  # what, its options, whether only one of them is ticked
    ("Gender", ("Male", "Female", "Other"), True),
    ("Title", ("Mr", "Mrs", "Ms", "Dr"), True),
    ("Marital status", ("Single", "Married", "Divorced", "Widowed"), True),
    ("Smoker", ("Yes", "No"), True),
    ("Insured", ("Yes", "No"), True),
    ("Newsletter", ("Yes", "No"), True),
    ("Payment", ("Cash", "Card", "Transfer", "Invoice"), True),
    ("Shipping", ("Standard", "Express", "Pick-up"), True),
    ("Size", ("S", "M", "L", "XL"), True),
    ("Meal", ("Meat", "Fish", "Vegetarian", "Vegan"), True),
    ("Room type", ("Single", "Double", "Suite", "Family"), True),
    ("Rating", ("Very good", "Good", "Fair", "Poor"), True),
    ("Employment", ("Full-time", "Part-time", "Freelance", "Student"), True),
    ("Contact by", ("Phone", "Email", "Post", "SMS"), False),
    ("Languages", ("English", "German", "French", "Spanish", "Italian"), False),
    ("Days", ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"), False),
    ("Symptoms", ("Fever", "Cough", "Headache", "Nausea", "Fatigue", "Rash"), False),
    ("Allergies", ("Nuts", "Milk", "Eggs", "Pollen", "Gluten", "Soy"), False),
    ("Services", ("Cleaning", "Repair", "Delivery", "Installation", "Training"), False),
    ("Documents", ("Passport", "ID card", "Visa", "Photo", "Certificate"), False),
    ("Interests", ("Sports", "Music", "Travel", "Books", "Cooking", "Art"), False),
    ("Extras", ("Breakfast", "Parking", "Wi-Fi", "Late check-out", "Sea view"), False),
    ("", ("I agree to the terms", "Send me news", "Keep me informed", "I am over 18"), False),
    ("Damage", ("Front", "Rear", "Left side", "Right side", "Windscreen"), False),
)
KINDS = ("inline", "underline", "underline", "box", "framed")
UNSEEN_KINDS = ("caption", "dotted")  # held out


@dataclass(frozen=True)
class Entry:
    label: Piece
    value: Piece | None  # None where the field is empty


@dataclass(frozen=True)
class Group:
    """Boxes under one head, which may be missing."""

    head: Piece | None
    options: tuple[tuple[Piece, bool], ...]
    single: bool


@dataclass(frozen=True)
class Form:
    title: Piece | None
    entries: list[Entry]
    groups: list[Group]
    signature: Piece | None


def invent(random: Random, room: Room) -> Form:
    lines = max(2, room.lines - 3)
    num_groups = min(random.choice((0, 1, 1, 1, 2, 3)), lines // 3)
    num_entries = max(0 if num_groups else 2, min(12, round((lines - 2 * num_groups) * random.uniform(0.4, 0.9))))
    title = None
    if random.random() < 0.7:
        text = random.choice((*TITLES, words.title(random), words.company(random)))[: room.columns]
        title = Piece(text.strip(), random.uniform(1.0, 1.6), random.random() < 0.5)
    colon = ":" if random.random() < 0.55 else ""
    return Form(
        title, _entries(random, num_entries, room.columns, colon), _groups(random, num_groups, room.columns, colon),
        Piece(random.choice(("Signature", "Sign here", "Signed", "Signature:", "Date, signature")))
        if random.random() < 0.25 else None,
    )  # fmt: skip


def _entries(random: Random, count: int, columns: int, colon: str) -> list[Entry]:
    entries: list[Entry] = []
    taken: set[str] = set()
    empty = random.choice((0.0, 0.1, 0.3))
    while len(entries) < count:
        source, labels = random.choice(FIELDS)
        label = random.choice(labels) if random.random() < 0.85 else words.word(random).capitalize()
        if label.lower() in taken:
            continue
        taken.add(label.lower())
        text = source(random)
        for _ in range(3):
            text = text if len(text) + len(label) < columns else source(random)
        text = text[: max(4, columns - len(label) - 3)].strip()
        entries.append(Entry(Piece(label + colon), None if random.random() < empty else Piece(text)))
    return entries


def _groups(random: Random, count: int, columns: int, colon: str) -> list[Group]:
    groups = []
    for head, names, single in random.sample(GROUPS, count):
        names = tuple(random.sample(names, len(names))) if random.random() < 0.3 else names
        if random.random() < 0.15:
            names = tuple(words.label_set(random, len(names)))
        names = names[: random.randint(min(len(names), 2), min(len(names), 6))]
        ticked = {random.randrange(len(names))} if single and random.random() < 0.92 else set()
        if not single:
            ticked = {number for number in range(len(names)) if random.random() < 0.45}
        options = tuple((Piece(name[:columns]), number in ticked) for number, name in enumerate(names))
        shown = head and (single or random.random() < 0.8)
        groups.append(Group(Piece(head + colon) if shown else None, options, single))
    return groups


# Layouts -------------------------------------------------------------------------------------


def compose(random: Random, form: Form, room: Room, unseen: bool) -> Block:
    blocks: list[Block] = []
    if form.title is not None:
        title: Block = Text([(form.title,)], random.choice((0.0, 0.5, 0.5)))
        blocks += [Panel(title, filled=True) if random.random() < 0.2 else title, Gap(random.uniform(0.2, 0.8))]
        if random.random() < 0.25:
            blocks.append(Rule(random.choice(("thin", "double", "dashed"))))
    entries = _entry_blocks(random, form.entries, room, unseen) if form.entries else []
    groups = _group_blocks(random, form.groups, room)
    parts = [*entries, *groups] if random.random() < 0.8 else [*groups, *entries]
    blocks += parts
    if form.signature is not None:
        blocks += [Gap(1.0), Blank((form.signature,), (), "caption" if unseen else "underline")]
    return Panel(Stack(blocks)) if random.random() < 0.1 else Stack(blocks)


def _entry_blocks(random: Random, entries: Sequence[Entry], room: Room, unseen: bool) -> list[Block]:
    rows: list[tuple[Line, Line]] = [((e.label,), () if e.value is None else (e.value,)) for e in entries]
    kind = random.random()
    if unseen or kind < 0.62:
        name = random.choice(UNSEEN_KINDS if unseen else KINDS)
        blanks: list[Block] = [Blank(label, value, name) for label, value in rows]
        if name in ("framed", "caption", "underline") and room.columns > 30 and random.random() < 0.6:
            return _side_by_side(random, blanks, name)
        return [block for blank in blanks for block in (blank, Gap(0 if name == "framed" else random.uniform(0, 0.3)))]
    if kind < 0.82:
        table = Grid(
            rows, [0.0, 0.0], random.choice(("hvo", "ho", "h", "v", "hv")), num_heads=0, zebra=random.random() < 0.2
        )
        return [table, Gap(0.5)]
    return [Pairs(rows, random.choice(("columns", "columns", "spread"))), Gap(0.4)]


def _side_by_side(random: Random, blanks: Sequence[Block], name: str) -> list[Block]:
    blocks: list[Block] = []
    start = 0
    while start < len(blanks):
        count = random.choice((1, 2, 2, 3)) if len(blanks) - start > 2 else len(blanks) - start
        row = blanks[start : start + count]
        blocks += [Side(row) if count > 1 else row[0], Gap(0.3)]
        start += count
    return blocks


def _group_blocks(random: Random, groups: Sequence[Group], room: Room) -> list[Block]:
    blocks: list[Block] = []
    mark = random.choice(("check", "cross", "cross", "fill"))
    shape, after = random.random(), random.random() < 0.1
    for group in groups:
        length = sum(len(piece.text) + 5 for piece, _ in group.options)
        across = length < room.columns and random.random() < 0.75
        if group.head is not None:
            blocks.append(Text([(group.head,)]))
        round_ = group.single and shape < 0.5
        options = [(ticked, (piece,)) for piece, ticked in group.options]
        blocks += [Options(options, round_, "fill" if round_ and shape < 0.35 else mark, across, after), Gap(0.4)]
    return blocks


# Questions -----------------------------------------------------------------------------------

VALUE_OF = (
    "What is the {label}?", "What is {label}?", "{label}?", "{label}", "What stands in the field {label}?",
    "What is entered under {label}?", "Give the {label}.", "What was filled in for {label}?", "Value of {label}?",
    'What does "{label}" say?', "What is written next to {label}?", "Read the field {label}.", "What's the {label}?",
    "Which {label} is given?", "Tell me the {label}.", "What did they write for {label}?", "Find the {label}.",
    "What is the value of {label}?", "Extract {label}.", "Please read {label}.", "What is the entry for {label}?",
    'What is in "{label}"?', "Show {label}.", "Return the value of {label}.",
)  # fmt: skip
IS_TICKED = (
    "Is {option} ticked?", "Is {option} checked?", 'Is the box "{option}" ticked?', "Is {option} selected?",
    "Was {option} ticked?", "Is there a mark at {option}?", "Did they choose {option}?", "Is {option} marked?",
    "Is the {option} box checked?", "Has {option} been selected?", "{option} ticked?",
    "Is the box for {option} filled?",
    'Is "{option}" crossed?', "Was {option} chosen?", "Does {option} have a mark?", "Is {option} on?",
    "Check whether {option} is ticked.", "Is the option {option} selected?", "Did someone tick {option}?",
    "Tell me if {option} is checked.",
)  # fmt: skip
WHICH_TICKED = (
    "Which boxes are ticked?", "Which options are selected?", "Which boxes are checked?", "What is ticked?",
    "Which options are marked?", "List the ticked boxes.", "List all checked options.", "What was selected?",
    "What has been ticked?", "Name the selected options.", "Which choices were made?", "Give the checked boxes.",
    "What is checked?", "Which of the boxes have a mark?", "Show the ticked options.", "Which ones are ticked?",
)  # fmt: skip
CHOSEN = (
    "Which {head} is selected?", "What is chosen for {head}?", "{head}?", "Which option is ticked for {head}?",
    "What is the {head}?", "Which {head} was ticked?", "What is ticked at {head}?", "Which box is ticked under {head}?",
    "Give the {head}.", "What was selected for {head}?", "Which one is marked under {head}?", "{head}",
    "Which {head} did they choose?", "Selected {head}?", "Read the choice for {head}.",
)  # fmt: skip
HOW_MANY_TICKED = (
    "How many boxes are ticked?", "How many options are selected?", "Count the ticked boxes.", "How many are checked?",
    "How many boxes have a mark?", "Number of ticked boxes?", "How many options were ticked?", "How many are ticked?",
)  # fmt: skip
EMPTY_FIELDS = (
    "Which fields are empty?", "Which fields are not filled in?", "What is left blank?", "Which field is blank?",
    "List the empty fields.", "What was not filled in?", "Which entries are missing?", "Name the blank fields.",
)  # fmt: skip
IS_FILLED = (
    "Is {label} filled in?", "Is the field {label} filled in?", "Was {label} filled in?", "Does {label} have a value?",
    "Is there an entry for {label}?", "Has {label} been completed?", "Is anything written at {label}?",
)  # fmt: skip
TITLE = (
    "What is the title of the form?", "Which form is this?", "What kind of form is this?", "What is the heading?",
    "Title of this form?", "What is this form called?", "Read the title.", "What does the heading say?", "Title?",
)  # fmt: skip
ALL_FIELDS = (
    "Extract all fields as JSON.", "Give all fields and values as JSON.", "Return the form as JSON.", "Form to JSON",
    "Convert this form to JSON.", "All entries as JSON, please.", "Key-value pairs as JSON.",
    "List everything as JSON.",
    "Read the form into JSON.", "What is filled in? Answer as JSON.", "Extract the key/value pairs as JSON.",
    "Return every field with its value as JSON.", "Give me the form's data as JSON.", "Fields as JSON",
)  # fmt: skip


def ask(random: Random, form: Form, places: Places, count: int) -> list[Question]:
    asker = _Asker(random, form, places)
    kinds: dict[Callable[[], Question | None], int] = {}
    if form.entries:
        kinds |= {asker.value: 30, asker.fields_as_json: 16, asker.all_as_json: 8, asker.missing: 7,
                  asker.filled_in: 4, asker.empty: 3}  # fmt: skip
    if form.groups:
        kinds |= {asker.ticked: 16, asker.which: 8, asker.chosen: 10, asker.how_many: 3}
    if form.title is not None:
        kinds[asker.title] = 3
    return chosen(random, kinds, count)


class _Asker:
    def __init__(self, random: Random, form: Form, places: Places) -> None:
        self.random, self.form, self.places = random, form, places
        self.heads = {group.head.label.lower() for group in form.groups if group.head is not None}
        self.options = [option for group in form.groups for option in group.options]

    def _label(self, piece: Piece) -> Written:
        return self.places[piece][: len(piece.label)]

    def _value(self, entry: Entry) -> Written | None:
        return None if entry.value is None else self.places[entry.value]

    def _entry(self) -> Entry | None:
        entry = self.random.choice(self.form.entries)
        return None if entry.label.label.lower() in self.heads else entry

    def value(self) -> Question | None:
        entry = self._entry()
        if entry is None:
            return None
        value = self._value(entry)
        question = asked(self.random, VALUE_OF, label=self._label(entry.label))
        if value is None:
            return Question(question, unprinted(NOT_SHOWN), "absent", self._label(entry.label))
        return Question(question, value, "form")

    def _other_label(self) -> str | None:
        label = self.random.choice(self.random.choice(FIELDS)[1])
        printed = " ".join(written.text for written in self.places.values()).lower()
        parts = label.lower().split()
        return None if any(part in printed for part in parts) else label

    def missing(self) -> Question | None:
        label = self._other_label()
        return None if label is None else absent(asked(self.random, VALUE_OF, label=label))

    def fields_as_json(self) -> Question | None:
        random = self.random
        chosen = random.sample(self.form.entries, min(len(self.form.entries), random.randint(1, 5)))
        items: list[tuple[Written | str, Written | None]] = []
        for entry in chosen:
            key = entry.label.label
            if random.random() < 0.5:
                key = key.lower().replace(" ", "_")
            if key.lower() not in self.heads:
                items.append((key, self._value(entry)))
        other = self._other_label()
        if other is not None and random.random() < 0.35:
            items.insert(random.randint(0, len(items)), (other, None))
        keys = [str(key) for key, _ in items]
        if not keys or len(set(keys)) < len(keys):
            return None
        question = asked(random, FIELDS_AS_JSON, keys=key_list(random, keys), braces=key_braces(random, keys))
        answer = json_object(items)
        return Question(question, answer, "form") if len(answer.text) <= LONGEST_JSON else None

    def all_as_json(self) -> Question | None:
        if self.form.groups and self.random.random() < 0.7:
            return None
        answer = json_object([(self._label(entry.label), self._value(entry)) for entry in self.form.entries])
        if len(answer.text) > LONGEST_JSON or self.form.groups:
            return None
        return Question(asked(self.random, ALL_FIELDS), answer, "form")

    def filled_in(self) -> Question | None:
        entry = self._entry()
        if entry is None:
            return None
        label = self._label(entry.label)
        return yes_or_no(asked(self.random, IS_FILLED, label=label), entry.value is not None, "form", label)

    def empty(self) -> Question | None:
        labels = [self._label(entry.label) for entry in self.form.entries if entry.value is None]
        question = asked(self.random, EMPTY_FIELDS)
        return Question(question, joined(labels, ", ") if labels else unprinted("none"), "form")

    def ticked(self) -> Question | None:
        piece, ticked = self.random.choice(self.options)
        texts = [other.text.lower() for other, _ in self.options]
        if texts.count(piece.text.lower()) > 1:
            return None
        written = self.places[piece]
        return yes_or_no(asked(self.random, IS_TICKED, option=written), ticked, "form", written)

    def which(self) -> Question:
        chosen = [self.places[piece] for piece, ticked in self.options if ticked]
        if self.random.random() < 0.3:
            templates = tuple(f"{text[:-1]} as a JSON list." for text in WHICH_TICKED if text[-1] == ".")
            return Question(asked(self.random, templates), json_list([json_text(text) for text in chosen]), "form")
        answer = joined(chosen, ", ") if chosen else unprinted("none")
        return Question(asked(self.random, WHICH_TICKED), answer, "form")

    def chosen(self) -> Question | None:
        groups = [group for group in self.form.groups if group.head is not None and group.single]
        if not groups:
            return None
        group = self.random.choice(groups)
        labels = [entry.label.label.lower() for entry in self.form.entries]
        if group.head is None or group.head.label.lower() in labels:
            return None
        question = asked(self.random, CHOSEN, head=self._label(group.head))
        answers = [self.places[piece] for piece, ticked in group.options if ticked]
        if not answers:
            return Question(question, unprinted(NOT_SHOWN), "absent", self._label(group.head))
        return Question(question, answers[0], "form")

    def how_many(self) -> Question:
        count = sum(ticked for _, ticked in self.options)
        return Question(asked(self.random, HOW_MANY_TICKED), unprinted(str(count)), "form")

    def title(self) -> Question | None:
        if self.form.title is None:
            return None
        return Question(asked(self.random, TITLE), self.places[self.form.title], "form")
