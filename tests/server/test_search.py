"""/v1/search and its page, over a real index: queries, mistakes, keys, and what Chromium shows of them."""

from __future__ import annotations

import asyncio
import io
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from PIL import Image as PILImage

from tessera.documents.api import budget_of
from tessera.errors import EngineBusyError
from tessera.search.assisted import search_assisted
from tessera.search.query import MAX_QUERY
from tessera.search.searcher import Searcher
from tessera.search.store import NAME
from tessera.search.vectors import vector_of_text
from tessera.server.errors import BadRequestError
from tessera.server.routes import search as search_route
from tests.search.archive import ACME, BAKERY, LETTER, pdf, put, scanned
from tests.server.conftest import Running, run_server
from tests.server.pages import expect, launched, needs_chromium, watched_pages

PATIENCE_S = 60  # a busy machine is slow, not wrong
SECOND = ("Terms of Acme Tools", "Payment within thirty days of the date of the invoice")


class Searching:
    """A server, and the file of its index."""

    def __init__(self, running: Running, index: Path) -> None:
        self.running, self.index = running, index

    def __getattr__(self, name: str) -> Any:
        return getattr(self.running, name)


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searching]:
    """A server with an archive of four pages."""
    folder = tmp_path_factory.mktemp("archive")
    put(folder, acme=pdf(ACME, SECOND), bakery=pdf(BAKERY), letter=pdf(LETTER), odd=pdf(("<b>bold</b> & more words",)))
    scanned(folder)
    running = run_server(index=folder)
    yield Searching(running, folder / NAME)
    running.stop()


def get(running: Running | Searching, path: str, **query: Any) -> httpx2.Response:
    return running.get(path, params=query)


def first(running: Searching, text: str) -> dict[str, Any]:
    found: dict[str, Any] = get(running, "/v1/search", q=text).json()["data"][0]
    return found


def test_a_query_is_answered_with_pages_snippets_and_reasons(searching: Searching) -> None:
    told = get(searching, "/v1/search", q="croisants zurich").json()
    (hit,) = told["data"]
    assert (hit["file"], hit["number"], hit["count"]) == ("bakery.pdf", 1, 1)
    assert [piece["text"] for piece in hit["snippet"] if piece["hit"]] == ["Zürich", "croissants"]
    assert [part["list"] for part in hit["parts"]] == ["text", "similar"]
    assert "few pages or none have 'croisants', so croissants count as well" in told["notes"]
    assert get(searching, "/v1/search/about").json() == {
        "files": 4, "pages": 5, "fields": [], "vectors": False, "max_reranked": 20,
    }  # fmt: skip
    told = get(searching, "/v1/search", q="file:*.pdf", limit=2, offset=1).json()
    assert (len(told["data"]), told["total"], told["has_more"]) == (2, 5, True)


@pytest.mark.parametrize(
    ("path", "query", "status", "says"),
    [
        ("", {"q": 'one "two'}, 400, "the quote at character 5 is not closed"),
        ("", {}, 400, "names nothing to look for"),
        ("", {"q": "total:>5"}, 400, "asks for a field total"),
        ("", {"q": "x", "limit": "0"}, 400, "between 1 and 100"),
        ("", {"q": "x", "order": "asc"}, 400, "'order' is not known here"),
        ("", {"q": "x", "rerank": "1"}, 400, "must be one of true, false"),
        ("", {"q": "x", "vectors": "true"}, 400, "the index has no vectors"),
        ("", {"q": 'one "two', "rerank": "true"}, 400, "the quote at character 5 is not closed"),
        ("", {"q": "x" * 600}, 400, "more than 512 characters"),
        ("", {"q": "x" * 501}, 400, "the limit is 500"),
        ("/pages/999", {}, 404, "the index has no page"),
        ("/pages/-1/image", {}, 404, "the index has no page"),
        ("/pages/1/image", {"side": "9000"}, 400, "between 64 and 2400"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_mistakes_are_named(searching: Searching, path: str, query: dict[str, str], status: int, says: str) -> None:
    answer = searching.get(f"/v1/search{path}", params=query)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_the_model_judges_the_first_pages(searching: Searching, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `search_assisted` orders them with the same model; if the time is over, as words do, which is said."""
    told = get(searching, "/v1/search", q="acme", rerank="true", limit=2).json()
    with Searcher(searching.index) as searcher:
        budget = budget_of(searching.llm)
        wanted = search_assisted(searcher, "acme", searching.llm, budget, limit=2, judged=20)
    assert [hit["page"] for hit in told["data"]] == [hit.page for hit in wanted.hits]
    assert [hit["relevance"] for hit in told["data"]] == pytest.approx([hit.relevance for hit in wanted.hits], abs=1e-3)
    assert (told["total"], told["has_more"]) == (3, True)
    rest = get(searching, "/v1/search", q="acme", rerank="true", limit=2, offset=2).json()["data"]
    relevances = [hit["relevance"] for hit in [*told["data"], *rest]]
    assert relevances == sorted(relevances, reverse=True)
    monkeypatch.setattr(search_route, "ASKING_S", 0.0)
    late = get(searching, "/v1/search", q="acme", rerank="true").json()
    assert "did not judge the pages" in late["notes"][-1]
    assert [hit["relevance"] for hit in late["data"]] == [None] * 3


def test_vectors_of_the_served_model_are_asked_for(searching: Searching) -> None:
    """Every page has the same vector but one, which has the query's own: that one is nearest."""
    before = searching.index.read_bytes()
    here = vector_of_text(searching.llm, "spanners")
    try:
        with sqlite3.connect(searching.index) as connection:
            connection.execute("INSERT INTO facts VALUES ('vectors', ?)", (searching.llm.fingerprint,))
            for (page,) in connection.execute("SELECT id FROM pages").fetchall():
                vector = here if page == 3 else -here
                connection.execute("INSERT INTO vectors VALUES (?, ?)", (page, vector.astype("<f2").tobytes()))
        assert get(searching, "/v1/search/about").json()["vectors"] is True
        hits = get(searching, "/v1/search", q="spanners", vectors="true").json()["data"]
        assert (hits[0]["page"], hits[0]["parts"][0]["list"]) == (3, "vectors")
        assert hits[0]["parts"][0]["score"] == pytest.approx(1, abs=0.01)
    finally:
        searching.index.write_bytes(before)


def test_an_operator_may_keep_searches_from_the_model(searching: Searching) -> None:
    given = {"limit": 1, "offset": 0, "vectors": True, "judged": 0}
    handlers: Any = SimpleNamespace(settings=SimpleNamespace(max_reranked=0), backend=None)
    request: Any = None
    with pytest.raises(BadRequestError, match="max_reranked is 0") as refused:
        asyncio.run(search_route._assisted(search_route.Archive(None), handlers, request, "x", given))
    assert refused.value.param == "vectors"


def test_a_page_has_its_boxes_its_image_and_its_thumbnail(searching: Searching) -> None:
    page = first(searching, "croissants")["page"]
    told = get(searching, f"/v1/search/pages/{page}", q="croissants").json()
    assert (told["box_source"], len(told["boxes"])) == ("text", 1)
    image = PILImage.open(io.BytesIO(get(searching, f"/v1/search/pages/{page}/image", side=800).content))
    assert image.size == (565, 800)
    left, top, right, bottom = (round(side * edge) for side, edge in zip(told["boxes"][0], image.size * 2, strict=True))
    inside = image.convert("L").crop((left, top, right, bottom))
    assert inside.getextrema()[0] < 100  # the box has ink
    small = PILImage.open(io.BytesIO(get(searching, f"/v1/search/pages/{page}/thumbnail").content))
    assert (small.format, max(small.size)) == ("WEBP", 256)


def test_a_locked_index_is_said_without_its_path(searching: Searching, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.search.store.READING_BUSY_S", 0.01)
    with closing(sqlite3.connect(searching.index, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        response = get(searching, "/v1/search", q="acme")
        other.execute("ROLLBACK")
    assert response.status_code == EngineBusyError.http_status
    assert response.json()["error"]["message"] == "another process holds the index; ask again later."


def test_without_an_index_the_routes_say_how_to_have_one(running: Running) -> None:
    answer = running.get("/v1/search", params={"q": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_index")
    assert running.get("/search").status_code == 200


def test_a_locked_server_asks_for_its_key(locked: Running) -> None:
    for path in ("/v1/search?q=x", "/v1/search/pages/1", "/v1/search/pages/1/image", "/v1/search/pages/1/thumbnail"):
        assert locked.get(path).status_code == 401
    page = locked.get("/search")
    assert page.status_code == 200
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]


# The page ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, searching: Searching) -> Iterator[Callable[..., Any]]:
    with watched_pages(browser, searching.url, patience_s=PATIENCE_S) as open_page:

        def opened(query: str = "", **options: Any) -> Any:
            page = open_page(**options)
            page.goto(f"{searching.url}/search{query}")
            return page

        yield opened


@needs_chromium
def test_the_chat_leads_to_the_search_if_there_is_an_index(open_page: Callable[..., Any], searching: Searching) -> None:
    page = open_page(viewport={"width": 390, "height": 800})
    page.goto(searching.url)
    link = page.get_by_role("link", name="Search")
    expect(link).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    link.click()
    expect(page.get_by_role("searchbox")).to_be_focused()
    expect(page.get_by_role("searchbox")).to_have_attribute("maxlength", str(MAX_QUERY))
    page.get_by_role("link", name="Documents").click()
    expect(link).to_be_visible()
    page.route("**/web/config.json", lambda route: route.fulfill(json={**route.fetch().json(), "has_index": False}))
    page.goto(searching.url)
    expect(page.locator("#model-name")).not_to_be_empty()
    expect(link).to_be_hidden()
    page.goto(f"{searching.url}/documents")
    expect(page.locator("#model-name")).not_to_be_empty()
    expect(link).to_be_hidden()


@needs_chromium
def test_a_query_shows_pages_and_opens_one_with_its_hits_marked(open_page: Callable[..., Any]) -> None:
    page = open_page()
    page.get_by_text("Every word of the archive can be found").wait_for()
    page.get_by_role("searchbox").fill('acme "thirty days"')
    page.keyboard.press("Enter")
    expect(page.locator(".hit")).to_have_count(3)
    expect(page.locator(".hit").first.locator("mark")).to_have_text(["Acme", "thirty days"])
    expect(page.locator(".hit").first.locator(".thumb img")).to_be_visible()
    page.get_by_role("button", name="acme.pdf p. 2").click()
    expect(page.locator("svg.page .place")).to_have_count(2)
    expect(page.locator(".viewer")).to_contain_text("2 places from the text layer.")
    assert page.url.endswith("/search?q=acme+%22thirty+days%22")
    page.keyboard.press("j")
    expect(page.locator(".viewer h2")).not_to_have_text("acme.pdf p. 2 of 2")
    page.keyboard.press("Escape")
    expect(page.locator(".viewer")).to_be_hidden()
    page.go_back()
    expect(page.locator(".hit")).to_have_count(0)


@needs_chromium
def test_the_model_may_be_asked_as_well(open_page: Callable[..., Any]) -> None:
    page = open_page("?q=acme")
    page.locator(".hit").first.wait_for()
    expect(page.get_by_label("Also by likeness")).to_be_hidden()  # there are no vectors
    page.get_by_label("The model judges the first pages").check()
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.locator(".hit .why li").first).to_have_text(re.compile(r"the model says yes: \d+ %"))
    assert page.url.endswith("/search?q=acme&rerank=true")
    page.reload()
    expect(page.get_by_label("The model judges the first pages")).to_be_checked()
    expect(page.locator(".hit .why li").first).to_have_text(re.compile("the model says yes"))
    page.go_back()
    expect(page.get_by_label("The model judges the first pages")).not_to_be_checked()


@needs_chromium
def test_an_address_is_a_search_and_texts_are_no_markup(open_page: Callable[..., Any]) -> None:
    page = open_page("?q=bold")
    expect(page.locator(".snippet")).to_have_text(re.compile("<b>bold</b> & more words"))
    assert page.locator(".snippet b").count() == 0


@needs_chromium
def test_mistakes_and_nothing_found_are_said(open_page: Callable[..., Any]) -> None:
    page = open_page("?q=colour:red")
    expect(page.locator("#error")).to_contain_text("Colour:red asks for a field colour")
    page.get_by_role("button", name="Filter by file").click()
    expect(page.get_by_role("searchbox")).to_have_value("colour:red file:")
    page.get_by_role("searchbox").fill("zzzzzz")
    page.keyboard.press("Enter")
    expect(page.locator("#empty")).to_contain_text("No page matches")


@needs_chromium
def test_nothing_is_wider_than_a_phone(open_page: Callable[..., Any]) -> None:
    page = open_page("?q=acme", viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.locator(".hit").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.locator(".hit .open").first.click()
    page.locator("svg.page").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator(".viewer").bounding_box()
    assert box is not None
    assert (box["x"], box["width"]) == (0, 390)


def test_every_file_of_the_page_is_served(running: Running) -> None:
    html = running.get("/search").text
    for name in re.findall(r'(?:href|src)="(web/[^"]+)"', html):
        assert running.get(f"/{name}").status_code == 200, name
