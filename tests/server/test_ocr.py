"""/v1/ocr through Mistral's own client: every field honoured or refused by name, and documents of any origin."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import jsonschema
import pytest
from mistralai.client import Mistral
from mistralai.client.models import OCRRequest, OCRResponse
from mistralai.extra.batch import BatchClient, BatchInput
from PIL import Image as PILImage

from tessera.server.ocr_fields import page_text
from tests.server.conftest import RECEIPT, Running
from tests.server.test_http import assert_refused

FONT = 14
SCHEMA = {
    "type": "object",
    "properties": {"vendor": {"type": "string"}, "total": {"type": "number"}},
    "required": ["vendor", "total"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "receipt", "schema": SCHEMA}}


def pdf(*pages: list[str], picture: bool = False) -> bytes:
    """A PDF with a text layer, drawn by hand: a title, lines, and columns that are told by their tabs."""
    objects, kids = (
        ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Courier >>"],
        [],
    )
    if picture:
        objects.append("<< /Type /XObject /Subtype /Image /Width 2 /Height 2 /ColorSpace /DeviceGray "
                       "/BitsPerComponent 8 /Length 4 >>\nstream\n\x00\x7f\x7f\x00\nendstream")  # fmt: skip
    for lines in pages:
        drawn = "q 100 0 0 50 400 600 cm /Im Do Q\n" if picture else ""
        for row, line in enumerate(lines):
            size = 24 if line.startswith("# ") else FONT
            for column, cell in enumerate(line.removeprefix("# ").split("\t")):
                drawn += f"BT /F {size} Tf {50 + 150 * column} {750 - 24 * row} Td ({cell}) Tj ET\n"
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}endstream")
        xobject = "/XObject << /Im 4 0 R >>" if picture else ""
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents {len(objects)} 0 R "
                       f"/Resources << /Font << /F 3 0 R >> {xobject} >> >>")  # fmt: skip
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    out, places = b"%PDF-1.4\n", []
    for number, each in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{each}\nendobj\n".encode("latin-1")
    start = len(out)
    rows = "".join(f"{place:010} 00000 n \n" for place in places)
    tail = f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{rows}"
    return out + f"{tail}trailer << /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF".encode()


REPORT = [
    "# Quarterly report", "The first quarter was quiet and", "the second was better than that.", "",
    "Item\tPieces\tPrice", "Apples\t3\t1.50", "Pears\t12\t2.25", "Plums\t7\t0.80",
]  # fmt: skip
DATA = "data:application/pdf;base64," + base64.b64encode(pdf(REPORT, ["Page two has words enough to read."])).decode()
DOCUMENT: Any = {"type": "document_url", "document_url": DATA}


@pytest.fixture(scope="module")
def mistral(running: Running) -> Mistral:
    return Mistral(api_key="any", server_url=running.url)


def test_the_text_layer_comes_as_markdown_with_places(mistral: Mistral) -> None:
    told = mistral.ocr.process(model="nano", document=DOCUMENT, table_format="html")
    assert [page.index for page in told.pages] == [0, 1]
    assert told.usage_info.pages_processed == 2
    assert told.usage_info.doc_size_bytes == len(base64.b64decode(DATA.partition(",")[2]))
    first = told.pages[0]
    assert first.markdown.startswith("# Quarterly report\n\nThe first quarter was quiet and\nthe second")
    assert "| Pears | 12 | 2.25 |" in first.markdown
    assert first.dimensions is not None
    assert first.dimensions.width == round(first.dimensions.height * 3 / 4)
    assert first.tables is not None
    assert first.tables[0].content == (
        "<table><tr><th>Item</th><th>Pieces</th><th>Price</th></tr><tr><td>Apples</td><td>3</td><td>1.50</td></tr>"
        "<tr><td>Pears</td><td>12</td><td>2.25</td></tr><tr><td>Plums</td><td>7</td><td>0.80</td></tr></table>"
    )
    blocks: Any = first.blocks
    assert [block.type for block in blocks] == ["title", "text", "table"]
    title = blocks[0]
    scale = first.dimensions.height / 800
    # The title's base line is at 750 of 800 points, its type 24 points high, and Courier 0.6 of that wide.
    assert title.top_left_x == pytest.approx(50 * scale, abs=3)
    assert title.bottom_right_x == pytest.approx((50 + 16 * 24 * 0.6) * scale, abs=4)
    assert title.top_left_y < 50 * scale < title.bottom_right_y < 60 * scale


def test_pages_are_chosen_from_zero(mistral: Mistral) -> None:
    data = base64.b64encode(pdf(*([f"This is page {number} and it has words."] for number in range(6)))).decode()
    document: Any = {"type": "document_url", "document_url": f"data:application/pdf;base64,{data}"}
    for pages, wanted in (("0,2-4", [0, 2, 3, 4]), ([5, 1], [1, 5]), ("4-9", [4, 5]), (None, [*range(6)])):
        told = mistral.ocr.process(model=None, document=document, pages=pages, include_blocks=False)  # type: ignore[arg-type]
        assert [page.index for page in told.pages] == wanted
        assert [page.markdown for page in told.pages] == [
            f"This is page {number} and it has words." for number in wanted
        ]
        assert not told.pages[0].blocks


def test_an_uploaded_file_and_a_url_are_read(mistral: Mistral, running: Running) -> None:
    content = pdf(REPORT)
    made = mistral.files.upload(file={"file_name": "report.pdf", "content": io.BytesIO(content)}, purpose="ocr")
    told = mistral.ocr.process(model="nano", document={"type": "file", "file_id": made.id})
    assert told.pages[0].markdown.startswith("# Quarterly report")
    signed = mistral.files.get_signed_url(file_id=made.id).url
    body = {"document": {"type": "document_url", "document_url": signed}}
    assert_refused(running.post("/v1/ocr", body), 400, "private")  # the guard of every fetched address
    mistral.files.delete(file_id=made.id)
    assert_refused(running.post("/v1/ocr", {"document": {"type": "file", "file_id": made.id}}), 404, "no file")


def test_the_model_reads_what_has_no_text_and_says_how_sure_it_is(mistral: Mistral, running: Running) -> None:
    document: Any = {"type": "image_url", "image_url": RECEIPT}
    plain = mistral.ocr.process(model="nano", document=document)
    for granularity in ("page", "word", "block"):
        told = mistral.ocr.process(model="nano", document=document, confidence_scores_granularity=granularity)  # type: ignore[arg-type]
        page = told.pages[0]
        assert page.markdown == plain.pages[0].markdown != ""
        scores: Any = page.confidence_scores
        assert 0 < scores.minimum_page_confidence_score <= scores.average_page_confidence_score <= 1
        words = scores.word_confidence_scores or []
        assert [word.text for word in words] == (page.markdown.split() if granularity == "word" else [])
        assert all(page.markdown[word.start_index :].startswith(word.text) for word in words)
        if words:
            assert scores.minimum_page_confidence_score == min(word.confidence for word in words)
        assert not page.blocks  # the places are not known


def test_a_document_is_annotated_under_the_callers_schema(mistral: Mistral, running: Running) -> None:
    document: Any = {"type": "image_url", "image_url": {"url": RECEIPT}}
    told = mistral.ocr.process(
        model="nano", document=document, document_annotation_format=FORMAT,
        document_annotation_prompt="Read the receipt.",
    )  # fmt: skip
    assert isinstance(told.document_annotation, str)
    jsonschema.validate(json.loads(told.document_annotation), SCHEMA)
    # Whoever reads the JSON itself also gets what speaks for each value.
    raw = running.post("/v1/ocr", {"document": document, "document_annotation_format": FORMAT}).json()
    jsonschema.validate(json.loads(raw["document_annotation"]), SCHEMA)
    fields = (raw["annotation_metadata"] or {}).get("fields", [])
    assert {field["path"] for field in fields} <= {"vendor", "total"}
    preset = running.post("/v1/ocr", {"document": document, "preset": "receipt"}).json()
    assert "vendor" in json.loads(preset["document_annotation"])
    # A schema with more than extraction knows is still kept, by the grammar.
    schema = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 1, "maxItems": 2}
    odd = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    raw = running.post("/v1/ocr", {"document": document, "document_annotation_format": odd}).json()
    jsonschema.validate(json.loads(raw["document_annotation"]), schema)


def test_pictures_on_a_page_are_found_cut_out_and_annotated(mistral: Mistral) -> None:
    data = base64.b64encode(pdf(REPORT, picture=True)).decode()
    document: Any = {"type": "document_url", "document_url": f"data:application/pdf;base64,{data}"}
    schema = {"type": "object", "properties": {"dark": {"type": "boolean"}}, "required": ["dark"],
              "additionalProperties": False}  # fmt: skip
    told = mistral.ocr.process(
        model="nano", document=document, include_image_base64=True,
        bbox_annotation_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},  # type: ignore[typeddict-unknown-key]
    )  # fmt: skip
    page = told.pages[0]
    (image,) = page.images
    assert page.dimensions is not None
    scale = page.dimensions.height / 800
    corners = (image.top_left_x, image.top_left_y, image.bottom_right_x, image.bottom_right_y)
    assert corners == pytest.approx([400 * scale, 150 * scale, 500 * scale, 200 * scale], abs=2)
    cut = PILImage.open(io.BytesIO(base64.b64decode(str(image.image_base64).partition(",")[2])))
    assert cut.size[0] == pytest.approx(2 * cut.size[1], rel=0.02)
    jsonschema.validate(json.loads(str(image.image_annotation)), schema)
    assert page.markdown.endswith(f"![{image.id}]({image.id})")
    assert page.blocks[-1].type == "image"  # type: ignore[index]
    for limits in ({"image_limit": 0}, {"image_min_size": 10_000}):
        assert mistral.ocr.process(model="nano", document=document, **limits).pages[0].images == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"extract_header": True}, "extract_header"), ({"extract_footer": True}, "extract_footer"),
        ({"document_annotation_prompt": "x"}, "needs a document_annotation_format"), ({"pages": "1-x"}, "pages"),
        ({"pages": "-1"}, "pages"), ({"pages": []}, "pages"), ({"table_format": "csv"}, "table_format"),
        ({"confidence_scores_granularity": "line"}, "confidence_scores_granularity"),
        ({"pages": "7"}, "pages is 7, and"), ({"pages": "3-1"}, "pages is '3-1'"),
        ({"document_annotation_format": {"type": "json_object"}}, "must be one of 'json_schema', not"),
        ({"document_annotation_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "schema is required"),
        ({"preset": "none-such"}, "preset"), ({"preset": "invoice", "document_annotation_format": FORMAT}, "exclude"),
        ({"preset": "transcribe"}, "no record"), ({"document": {"type": "file"}}, "document.file_id"),
        ({"document": {"type": "document_url", "document_url": "/etc/passwd"}}, "http(s) URL or a data URL"),
        ({"document": {"type": "image_url", "image_url": RECEIPT, "file_id": "x"}}, "cannot be combined"),
        ({"document": {"type": "document_url", "document_url": "data:application/pdf;base64,JVBERi0="}}, "damaged"),
        ({"document": {"type": "document_url", "document_url": "data:text/plain;base64,aGVsbG8="}}, "no PDF"),
        ({"document": {"type": "document_url", "document_url": "data:,x"}}, "base64"),
        ({"document": {"type": "document_url", "document_url": "http://127.0.0.1/x.pdf"}}, "private"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(running: Running, change: dict[str, Any], says: str) -> None:
    assert_refused(running.post("/v1/ocr", {"document": DOCUMENT} | change), 400, says)


def test_an_unknown_model_is_refused(running: Running) -> None:
    assert_refused(running.post("/v1/ocr", {"document": DOCUMENT, "model": "mistral-ocr-latest"}), 404, "not served")


def test_mistrals_batch_client_reads_documents(running: Running) -> None:
    async def run() -> Any:
        client: Any = BatchClient(
            Mistral(api_key="any", server_url=running.url), endpoint="/v1/ocr", response_body_type=OCRResponse
        )
        bad = {"type": "document_url", "document_url": "data:application/pdf;base64,JVBERi0="}
        payload = {
            name: OCRRequest(model=None, document=document)
            for name, document in (("a", DOCUMENT), ("b", {"type": "image_url", "image_url": RECEIPT}), ("c", bad))
        }
        return await client.run(BatchInput.from_payload(payload), poll_interval_seconds=0.1)

    result = asyncio.run(run())
    assert result.status == "SUCCESS"
    assert sorted(result.by_id()) == ["a", "b"]
    assert result.by_id()["a"].pages[0].markdown.startswith("# Quarterly report")
    (error,) = result.error_output().request_errors
    assert (error.custom_id, error.status_code) == ("c", 400)


def test_pages_one_by_one_may_be_many() -> None:
    assert page_text(list(range(4999, -1, -1))) == "1-5000"
    assert page_text([0, 2, 3, 2]) == "1-1,3-4"
