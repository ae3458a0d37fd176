"""The texts of nano's pictures: what they may be made of, and that a seed decides them."""

from __future__ import annotations

import codecs
import datetime
import os
import subprocess
import sys
from collections.abc import Callable
from random import Random

import pytest

from tessera.nano.pictures import words
from tessera.nano.pictures.words import MoneyStyle

Source = Callable[[Random], str]
SOURCES: tuple[Source, ...] = (
    words.word, words.made_up, words.nonsense, words.token, words.numeric, words.sentence, words.person, words.city,
    words.street, words.postcode, words.company, words.product, words.code, words.money, words.number_text, words.date,
    words.time, words.phone, words.email, words.web, words.title, lambda random: words.line(random, 40),
    lambda random: words.prose(random, 200), lambda random: "/".join(words.label_set(random, 6)),
)  # fmt: skip


def test_every_text_is_printable_and_without_stray_blanks() -> None:
    allowed = {chr(code) for code in range(32, 127)} | {"£", "€"}
    random = Random(1)
    for source in SOURCES:
        for text in (source(random) for _ in range(300)):
            assert text
            assert set(text) <= allowed, text
            assert text == " ".join(text.split()), text


def some_texts() -> str:
    random = Random(5)
    return f"{[words.line(random, 60) for _ in range(40)]} {words.names()} {words.sentence(random)}"


def test_a_seed_gives_the_same_texts_in_another_process() -> None:
    code = "from tests.nano.test_words import some_texts; print(some_texts())"
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another order of every set than here
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == some_texts() + "\n"


@pytest.mark.parametrize("source", [words.line, words.prose])
@pytest.mark.parametrize("longest", [1, 3, 8, 20, 60, 400])
def test_a_line_is_no_longer_than_asked_for(source: Callable[[Random, int], str], longest: int) -> None:
    random = Random(longest)
    lengths = [len(source(random, longest)) for _ in range(200)]
    assert max(lengths) <= longest
    assert max(lengths) > longest / 2


def test_the_vocabulary_is_large_and_fit_to_be_shown() -> None:
    known = words.vocabulary()
    assert len(known) > 50_000
    assert {"the", "invoice", "strawberry", "parking", "class", "analysis"} <= set(known)
    assert not {codecs.decode(word, "rot13") for word in ("fuvg", "shpx", "anmvf")} & set(known)


def test_frequent_words_do_not_crowd_out_the_rare_ones() -> None:
    frequent = set(words.vocabulary()[:1000])
    random = Random(2)
    drawn = [words.word(random) for _ in range(4000)]
    assert 0.2 < sum(word in frequent for word in drawn) / len(drawn) < 0.45
    assert len(set(drawn)) > 2000


def test_random_letters_avoid_what_no_reader_can_tell_apart() -> None:
    random = Random(3)
    assert not set("".join(words.made_up(random) for _ in range(1000))) & set("Il|O0i")


def test_names_come_in_thousands_and_without_accents() -> None:
    assert words.ascii_form("Łódź, Straße 5\nMünchen – Ørsted") == "Lodz, Strasse 5 Munchen - Orsted"
    random = Random(4)
    for source in (words.person, words.street, words.city, words.company, words.email):
        assert len({source(random) for _ in range(1000)}) > 750


@pytest.mark.parametrize(
    ("style", "value", "printed"),
    [
        (MoneyStyle(), 1234.5, "1234.50"),
        (MoneyStyle(sign="$", thousands=","), 1200, "$1,200.00"),
        (MoneyStyle(sign=" €", after=True, thousands=".", point=","), 1200, "1.200,00 €"),
        (MoneyStyle(sign="EUR "), 12, "EUR 12.00"),
        (MoneyStyle(sign=" USD", after=True), 12, "12.00 USD"),
        (MoneyStyle(sign="£"), -3.456, "-£3.46"),
        (MoneyStyle(sign="$", negative="({})"), -7, "($7.00)"),
        (MoneyStyle(thousands=" ", point=",", decimals=0), 1234567, "1 234 567"),
    ],
)
def test_money_is_printed_as_its_style_says(style: MoneyStyle, value: float, printed: str) -> None:
    assert words.money(Random(1), value, style) == printed


@pytest.mark.parametrize(
    ("style", "printed"),
    [
        ("{y}-{m:02}-{d:02}", "2024-03-02"),
        ("{m}/{d}/{y}", "3/2/2024"),
        ("{d:02}.{m:02}.{yy:02}", "02.03.24"),
        ("{d}{nth} {month} {y}", "2nd March 2024"),
        ("{weekday}, {month} {d}, {y}", "Saturday, March 2, 2024"),
        ("{d:02}{MON}{y}", "02MAR2024"),
    ],
)
def test_a_date_is_printed_as_its_style_says(style: str, printed: str) -> None:
    assert style in words.DATE_STYLES
    assert words.date(Random(1), datetime.date(2024, 3, 2), style) == printed


@pytest.mark.parametrize(("day", "printed"), [(1, "1st"), (3, "3rd"), (11, "11th"), (13, "13th"), (22, "22nd")])
def test_days_are_counted_as_in_english(day: int, printed: str) -> None:
    assert words.date(Random(1), datetime.date(2024, 5, day), "{month} {d}{nth}, {y}") == f"May {printed}, 2024"


def test_labels_of_one_chart_are_all_different() -> None:
    random = Random(6)
    for count in (1, 2, 5, 12):
        for _ in range(60):
            labels = words.label_set(random, count)
            assert len(set(labels)) == len(labels) == count
