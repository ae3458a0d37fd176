"""The web page in headless Chromium against the real server with nano: an image, a question, an answer.

The page's corners are tried against a stand-in in `test_web_page.py`; here is what only both ends together show.
"""

from __future__ import annotations

import io
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from PIL import Image

from tests.server.conftest import DEMO, Running, asking
from tests.server.pages import answer, ask, expect, launched, needs_chromium, watched_pages

pytestmark = needs_chromium

PATIENCE_S = 60  # a busy machine is slow, not wrong
SCHEMA = {
    "type": "object",
    "properties": {"vendor": {"type": "string"}, "total": {"type": "number"}},
    "required": ["vendor", "total"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, running: Running) -> Iterator[Callable[..., Any]]:
    with watched_pages(browser, running.url, patience_s=PATIENCE_S) as open_page:
        yield open_page


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    page = open_page()
    expect(page.locator("#model-name")).to_have_text("nano", timeout=PATIENCE_S * 1000)
    return page


def set_field(page: Any, label: str, value: str) -> None:
    button = page.get_by_role("button", name="Settings")
    if button.get_attribute("aria-expanded") == "false":
        button.click()
    page.get_by_label(label).fill(value)


def requests_in_engine(running: Running) -> dict[str, float]:
    """What /metrics says of requests that run or wait."""
    lines = running.get("/metrics").text.splitlines()
    counts = [line.rpartition(" ") for line in lines if line.startswith("tessera:num_requests_")]
    return {name.partition("{")[0].removeprefix("tessera:num_requests_"): float(count) for name, _, count in counts}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_image_is_asked_about_and_answered(page: Any, running: Running) -> None:
    page.locator("#files").set_input_files(DEMO / "receipt.png")
    expect(page.locator("#pending .cost")).to_have_text("380 tokens")
    ask(page, "What is the total?")
    body = answer(page, PATIENCE_S).locator(".body")
    expect(body).to_have_text(running.llm.chat(asking()["messages"]).text)
    facts = answer(page).locator(".facts")
    expect(facts).to_contain_text(re.compile(r"Read \d+ tokens: 380 of images"))
    answer(page).get_by_role("button", name="How sure?").click()
    tokens = page.locator(".tokens .token").all_text_contents()
    assert "".join(tokens) == running.llm.chat(asking()["messages"]).text
    ask(page, "Who is the vendor?")
    expect(page.locator(".answer")).to_have_count(2)
    expect(answer(page, PATIENCE_S).locator(".facts")).to_contain_text("380 of images")
    # The conversation and its image are what the server still has from the first question.
    cached = re.search(r"(\d+) of them were in the cache", facts.last.text_content())
    assert cached is not None
    assert int(cached[1]) > 380


def test_stopping_ends_the_request_in_the_engine(page: Any, running: Running) -> None:
    # Only a schema makes sure that a reply is long; it would take thousands of steps.
    long = {"type": "array", "items": {"type": "string", "enum": ["yes", "no"]}, "minItems": 900, "maxItems": 900}
    set_field(page, "Max tokens", "")
    set_field(page, "JSON schema", json.dumps(long))
    page.get_by_role("button", name="Close").click()
    aborted = running.llm.stats().finished.get("abort", 0)
    ask(page, "Say yes or no, often.")
    expect(page.locator(".answer .body")).to_contain_text("yes", timeout=PATIENCE_S * 1000)
    assert requests_in_engine(running)["running"] == 1
    page.get_by_role("button", name="Stop").click()
    expect(answer(page, PATIENCE_S).locator(".facts")).to_contain_text("stopped")
    until(lambda: requests_in_engine(running) == {"running": 0, "waiting": 0})
    assert running.llm.stats().finished["abort"] == aborted + 1
    assert page.locator(".answer .body").inner_text().count(",") < 899


def test_an_answer_under_a_schema_is_valid_and_keeps_to_it(page: Any) -> None:
    set_field(page, "JSON schema", json.dumps(SCHEMA))
    page.locator("#files").set_input_files(DEMO / "receipt.png")
    ask(page, "Give vendor and total as JSON.")
    text = answer(page, PATIENCE_S).locator("pre code").inner_text()
    jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    ("schema", "words"),
    [({"type": "strange"}, "schema"), ({"type": "array", "uniqueItems": True}, "uniqueItems")],
)
def test_a_schema_that_the_server_refuses_is_explained(page: Any, schema: dict[str, Any], words: str) -> None:
    set_field(page, "JSON schema", json.dumps(schema))
    ask(page, "What is the total?")
    expect(page.locator("#problem")).to_contain_text(words, timeout=PATIENCE_S * 1000)
    expect(page.get_by_label("Your question")).to_have_value("What is the total?")


def test_a_broken_image_is_explained_and_can_be_taken_back(page: Any, running: Running) -> None:
    half = (DEMO / "receipt.png").read_bytes()[:700]
    page.locator("#files").set_input_files({"name": "half.png", "mimeType": "image/png", "buffer": half})
    expect(page.locator("#problem")).to_contain_text("half.png is not an image that can be read")
    # Of a kind that browsers do not show, only the server can tell.
    page.locator("#files").set_input_files({"name": "half.tiff", "mimeType": "image/tiff", "buffer": half})
    expect(page.locator("#pending .image")).to_have_count(1)
    ask(page, "What is the total?")
    expect(page.locator("#problem")).to_contain_text("damaged or cut short", timeout=PATIENCE_S * 1000)
    expect(page.get_by_label("Your question")).to_have_value("What is the total?")
    page.get_by_role("button", name="Remove half.tiff").click()
    page.locator("#files").set_input_files(DEMO / "receipt.png")
    ask(page, "What is the total?")
    expect(answer(page, PATIENCE_S).locator(".body")).to_have_text(running.llm.chat(asking()["messages"]).text)
    expect(page.locator("#problem")).to_be_empty()


def test_a_key_opens_a_locked_server(browser: Any, locked: Running) -> None:
    with watched_pages(browser, locked.url, patience_s=PATIENCE_S) as open_page:
        page = open_page()
        field = page.get_by_label("This server asks for an API key.")
        field.fill("a-wrong-one")
        field.press("Enter")
        expect(page.locator("#key-error")).to_contain_text("refused", timeout=PATIENCE_S * 1000)
        field.fill("secret-two")
        field.press("Enter")
        expect(page.locator("#key-form")).to_be_hidden()
        page.locator("#files").set_input_files(DEMO / "receipt.png")
        ask(page, "What is the total?")
        answer(page, PATIENCE_S)
        noise = random.Random(1).randbytes(3 * 300 * 300)  # cannot be compressed: above the body's limit
        data = io.BytesIO()
        Image.frombytes("RGB", (300, 300), noise).save(data, "png")
        page.locator("#files").set_input_files(
            {"name": "large.png", "mimeType": "image/png", "buffer": data.getvalue()}
        )
        ask(page, "What is the total?")
        expect(page.locator("#problem")).to_contain_text("smaller one. The body exceeds", timeout=PATIENCE_S * 1000)


def test_the_policy_holds_inline_scripts_and_strangers_off(page: Any, running: Running) -> None:
    headers = running.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    served = running.get("/").text
    assert not re.search(r"<style| style=| on[a-z]+=", served)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", served))
