"""Documents as parts of a chat: their pages are images, in order, for the key whose files they are."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pikepdf
import pytest
from mistralai.client import Mistral
from PIL import Image as PILImage

from tessera.documents.limits import PageLimits
from tessera.documents.plan import Budget
from tessera.messages import Image, parse_messages
from tessera.server.document_parts import PageReader, documents_in, with_documents, without_documents
from tessera.server.errors import BadRequestError
from tessera.server.ocr import Given
from tests.documents.files import add_page, pdf_bytes, saved, text_at, zip_bytes
from tests.server.batch_client import rows, until
from tests.server.conftest import RECEIPT, Running
from tests.server.test_extractions import Api, receipt
from tests.server.test_http import assert_refused

A5, A6 = [0, 0, 420, 595], [0, 0, 298, 420]
TWO = pdf_bytes(text_at(40, 500, "Total 12.40", 40), text_at(40, 500, "Page two", 40), media=A5)


def data_url(data: bytes, kind: str = "application/pdf") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def asked(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What is the total?"}]}]


@pytest.mark.parametrize(
    ("part", "document"),
    [
        (
            {"type": "document_url", "document_url": "https://a.b/c.pdf", "document_name": "c"},
            ("https://a.b/c.pdf", None),
        ),
        ({"type": "file", "file_id": "f1"}, (None, "f1")),
        ({"type": "file", "file": {"file_id": "f1"}}, (None, "f1")),
        ({"type": "file", "file": {"file_data": "data:x", "filename": "c.pdf"}}, ("data:x", None)),
        ({"type": "input_file", "file_url": "https://a.b/c.pdf"}, ("https://a.b/c.pdf", None)),
        ({"type": "input_file", "file_data": "data:x", "filename": "c"}, ("data:x", None)),
    ],
    ids=["Mistral's", "Mistral's file", "OpenAI's file", "OpenAI's data", "input_file", "input_file's data"],
)
def test_every_apis_parts_are_read(part: dict[str, Any], document: tuple[Any, Any]) -> None:
    messages = parse_messages(with_documents(asked(part), "messages"), lenient=True)
    (found,) = documents_in(messages)
    assert (found.document.document_url, found.document.file_id) == document
    assert found.where == "messages.0.content.0"
    assert messages[0].content[1] == "What is the total?"
    with pytest.raises(BadRequestError, match="is a document, and only a server"):
        without_documents(messages)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "file"}, "no document is in messages.0.content.0"),
        ({"type": "file", "file": "f1"}, "file must be an object"),
        ({"type": "file", "file": {"file_id": "a", "file_data": "b"}}, "file_id and file_data exclude each other"),
        ({"type": "document_url", "document_url": {"url": "x"}}, "document_url must be a text"),
        ({"type": "file", "file_id": "x" * 2000}, "of at most 1024 characters"),
        ({"type": "input_file", "file_id": "f1", "pages": "1-2"}, "pages is not known here"),
    ],
    ids=["nothing", "no object", "two", "object", "long", "unknown"],
)
def test_parts_that_say_too_little_or_too_much_are_refused(part: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequestError, match=words) as refused:
        with_documents(asked(part), "messages")
    assert refused.value.param == "messages.0.content.0"


def reader(tmp_path: Path, data: bytes, max_images: int = 8) -> PageReader:
    path = tmp_path / "given"
    path.write_bytes(data)

    @contextmanager
    def opened(document: Any) -> Iterator[Given]:
        yield Given(path, "c.pdf", len(data))

    return PageReader(opened, Budget(), PageLimits(), max_images)


def messages_of(*parts: Any) -> list[Any]:
    return parse_messages(with_documents(asked(*parts), "messages"), lenient=True)


PART = {"type": "file", "file": {"file_id": "f1"}}


def test_pages_take_the_parts_place_in_order_and_are_bounded(tmp_path: Path) -> None:
    shapes = [A5, [0, 0, 595, 420], A6]
    image = {"type": "image_url", "image_url": {"url": RECEIPT}}
    three = reader(tmp_path, tall_wide_tall())
    (message,) = three.with_pages(messages_of(image, PART))
    sources = [part.source for part in message.content if isinstance(part, Image)]
    assert sources[0] == RECEIPT
    sizes = [page.size for page in sources[1:] if isinstance(page, PILImage.Image)]
    assert [width > height for width, height in sizes] == [shape[2] > shape[3] for shape in shapes]
    assert max(sizes[0]) == 1024, "as many pixels as the model takes"
    assert message.content[-1] == "What is the total?"
    with pytest.raises(BadRequestError, match="more than 3 images") as refused:
        reader(tmp_path, tall_wide_tall(), 3).with_pages(messages_of(image, PART))
    assert (refused.value.param, refused.value.code) == ("messages.0.content.1", "too_many_pages")
    with pytest.raises(BadRequestError, match="more than 2 images"):
        reader(tmp_path, b"", 2).with_pages(messages_of(PART, PART, PART))


def tall_wide_tall() -> bytes:
    with pikepdf.new() as pdf:
        for media in (A5, [0, 0, 595, 420], A6):
            add_page(pdf, text_at(40, 200, "Text", 40), media)
        return saved(pdf)


def test_what_to_do_about_a_document_is_what_a_chat_can_do(tmp_path: Path) -> None:
    with pikepdf.open(io.BytesIO(TWO)) as pdf:
        pdf.save(locked := io.BytesIO(), encryption=pikepdf.Encryption(owner="o", user="u"))
    with pytest.raises(BadRequestError, match=r"c\.pdf is locked, .*; send it without one") as refused:
        reader(tmp_path, locked.getvalue()).with_pages(messages_of(PART))
    assert refused.value.code == "password_required"
    few = replace(reader(tmp_path, TWO), limits=PageLimits(max_pages=1))
    with pytest.raises(BadRequestError, match="read the document with /v1/ocr"):
        few.with_pages(messages_of(PART))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"%PDF-1.4 nothing", "damaged"),
        (zip_bytes({"a.pdf": TWO}), "unsupported"),
        (b"", "empty"),
        (b"hi", "unsupported"),
    ],
    ids=["damaged", "zip", "empty", "text"],
)
def test_what_cannot_be_read_names_the_part_and_the_reason(data: bytes, code: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequestError) as refused:
        reader(tmp_path, data).with_pages(messages_of(PART))
    assert (refused.value.code, refused.value.param) == (code, "messages.0.content.0")
    assert "messages.0.content.0: c.pdf" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


# Through the server -------------------------------------------------------------------------


def test_the_clients_ask_about_documents(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0)
    mistral = Mistral(api_key="any", server_url=running.url)
    kept = client.files.create(file=("two.pdf", TWO), purpose="user_data")
    parts: list[Any] = [
        {"type": "file", "file": {"file_id": kept.id}},
        {"type": "file", "file": {"file_data": data_url(TWO), "filename": "two.pdf"}},
    ]
    told = [
        client.chat.completions.create(model="nano", messages=asked(part), max_tokens=8)  # type: ignore[arg-type]
        for part in parts
    ]
    tokens = {reply.usage.prompt_tokens for reply in told if reply.usage}
    assert len(tokens) == 1
    assert len({reply.choices[0].message.content for reply in told}) == 1
    one = client.responses.create(
        model="nano", max_output_tokens=8,
        input=[{"role": "user", "content": [
            {"type": "input_file", "file_id": kept.id}, {"type": "input_text", "text": "What is the total?"},
        ]}],
    )  # fmt: skip
    assert one.usage is not None
    assert one.usage.input_tokens in tokens
    both: Any = asked({"type": "document_url", "document_url": data_url(TWO)})
    reply = mistral.chat.complete(model="nano", messages=both, max_tokens=8)
    assert reply.usage.prompt_tokens in tokens
    png: Any = asked({"type": "file", "file": {"file_data": data_url(receipt(), "image/png"), "filename": "a.png"}})
    assert client.chat.completions.create(model="nano", messages=png, max_tokens=8).choices


def test_bad_documents_and_private_addresses_are_refused_in_a_chat(running: Running) -> None:
    for url, code in (
        (data_url(b"%PDF-1.4 nothing"), "damaged"), ("http://127.0.0.1:9/a.pdf", "image_fetch_failed"),
        ("/etc/passwd", None), ("data:text/html,<b>x</b>", "unsupported"),
        ("data:text/html;base64,PGI+", "unsupported"), ("data:application/pdf;base64,%%%", "invalid_image"),
    ):  # fmt: skip
        refused = running.post(
            "/v1/chat/completions", {"messages": asked({"type": "document_url", "document_url": url})}
        )
        assert_refused(refused, 400)
        assert refused.json()["error"]["code"] == code
        assert (refused.json()["error"]["param"] == "messages.0.content.0") == (url != "/etc/passwd")


def test_a_file_of_another_key_is_none(locked: Running) -> None:
    one, other = Api(locked, "secret-one"), Api(locked, "secret-two")
    body = {"messages": asked({"type": "file", "file_id": one.upload("two.pdf", TWO)}), "max_tokens": 2}
    assert one.http.post("/v1/chat/completions", json=body).status_code == 200
    assert_refused(other.http.post("/v1/chat/completions", json=body), 404, "there is no file")


def test_lines_of_a_batch_read_documents_too(running: Running) -> None:
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0)
    kept = client.files.create(file=("two.pdf", TWO), purpose="user_data")
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "nano", "max_tokens": 4, "messages": asked({"type": "file", "file_id": kept.id})}}  # fmt: skip
    file = client.files.create(file=("in.jsonl", io.BytesIO(json.dumps(line).encode())), purpose="batch")
    batch = client.batches.create(completion_window="24h", endpoint="/v1/chat/completions", input_file_id=file.id)
    done = until(lambda: (now := client.batches.retrieve(batch.id)).status == "completed" and now)
    (row,) = rows(client.files.content(done.output_file_id).read())
    assert row["response"]["status_code"] == 200, row
