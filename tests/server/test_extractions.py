"""/v1/extractions: documents of any kind become rows, one at a time, over kills, for one key alone."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import openpyxl
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.server.conftest import Running
from tests.server.test_batches import Process, until
from tests.server.test_http import assert_refused

SCHEMA = {"type": "object", "properties": {"vendor": {"type": "string"}, "total": {"type": "number"}}}
ENDED = ("completed", "failed", "cancelled", "expired")


def receipt(total: str = "12.40") -> bytes:
    image = Image.new("RGB", (260, 200), "white")
    pen = ImageDraw.Draw(image)
    for top, text in ((20, "Corner Bakery"), (80, "Bread   9.00"), (150, f"Total   {total}")):
        pen.text((20, top), text, "black", font=ImageFont.load_default(20))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


class Api:
    """Requests to one server with one key."""

    def __init__(self, server: Any, key: str = "") -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx2.Client(base_url=server.url, headers=headers, timeout=120)

    def upload(self, name: str, data: bytes) -> str:
        sent = self.http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "user_data"})
        assert sent.status_code == 200, sent.text
        return str(sent.json()["id"])

    def create(self, *files: tuple[str, bytes], **body: Any) -> dict[str, Any]:
        ids = [self.upload(*each) for each in files]
        sent = self.http.post("/v1/extractions", json={"input_file_ids": ids, **body})
        assert sent.status_code == 200, sent.text
        return dict(sent.json())

    def state(self, job: dict[str, Any]) -> dict[str, Any]:
        return dict(self.http.get(f"/v1/extractions/{job['id']}").json())

    def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        return dict(until(lambda: (now := self.state(job))["status"] in ENDED and now))

    def rows(self, job: dict[str, Any], limit: int = 100) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after, more = 0, True
        while more:
            told = self.http.get(f"/v1/extractions/{job['id']}/records?after={after}&limit={limit}").json()
            found, after, more = found + told["data"], told["next"], told["has_more"]
        return found


@pytest.fixture(scope="module")
def api(running: Running) -> Api:
    return Api(running)


def test_every_file_is_a_row_and_bad_ones_have_codes(api: Api) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside.png", receipt("3.10"))
    job = api.create(
        ("a.png", receipt()), ("broken.pdf", b"%PDF-1.4 nothing"), ("a.png", receipt("7.00")),
        ("all.zip", packed.getvalue()), ("note.txt", b"no document"), schema=SCHEMA,
    )  # fmt: skip
    done = api.ended(job)
    assert (done["status"], done["documents"], done["errors"]) == ("completed", 5, None)
    rows = {row["document"]: row for row in api.rows(job, limit=2)}
    assert set(rows) == {"a.png", "a (2).png", "broken.pdf", "all.zip/inside.png", "note.txt"}
    assert rows["broken.pdf"]["error"] == "damaged"
    assert rows["note.txt"]["error"] == "unsupported"
    assert rows["note.txt"]["message"].startswith("note.txt is no PDF")
    for name in ("a.png", "a (2).png", "all.zip/inside.png"):
        assert set(rows[name]["value"]) == {"vendor", "total"}
        assert rows[name]["pages"] == [1]
    assert len({row["key"] for row in rows.values()}) == 5
    assert "/content/" not in json.dumps(list(rows.values())), "the server's own paths are nobody's business"


def test_pages_come_as_images_of_the_wanted_size(api: Api) -> None:
    job = api.create(("a.png", receipt()), schema=SCHEMA)
    api.ended(job)
    place = f"/v1/extractions/{job['id']}/page"
    found = api.http.get(place, params={"document": "a.png", "number": 1, "side": 130})
    assert found.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(found.content)).size == (130, 100)
    for wrong in ({"document": "b.png"}, {"document": "a.png/../../table.sqlite"}, {"document": ""}):
        assert_refused(api.http.get(place, params=wrong), 404)
    assert_refused(api.http.get(place, params={"document": "a.png", "side": 9000}), 400, "side")


def test_tables_hold_the_rows_and_what_was_corrected(api: Api) -> None:
    job = api.create(("b.png", receipt("2.00")), ("a.png", receipt()), schema=SCHEMA)
    api.ended(job)
    place = f"/v1/extractions/{job['id']}/table"
    first = api.http.get(place).content
    sheet = openpyxl.load_workbook(io.BytesIO(first))["Rows"]
    assert [sheet.cell(row, 1).value for row in (2, 3)] == ["b.png", "a.png"], "in the order of the upload"
    key = next(row["key"] for row in api.rows(job) if row["document"] == "a.png")
    value = {"vendor": "Corner Bakery", "total": 12.4}
    body = {"format": "jsonl", "corrections": [{"key": key, "value": value, "whole": True}]}
    told = [json.loads(line) for line in api.http.post(place, json=body).text.splitlines()]
    assert (told[1]["value"], told[1]["review"]) == (value, False)
    assert told[0]["value"] != value
    csv = api.http.get(place + "?format=csv").content.decode("utf-8-sig")
    assert csv.splitlines()[0].startswith("document,pages,vendor,total,")
    assert_refused(api.http.get(place + "?format=doc"), 400, "format")


def test_what_cannot_be_extracted_is_refused_before_it_begins(api: Api) -> None:
    file_id = api.upload("a.png", receipt())
    for body, status, words in (
        ({"schema": SCHEMA}, 400, "input_file_ids"),
        ({"input_file_ids": [file_id]}, 400, "preset"),
        ({"input_file_ids": [file_id], "preset": "invoice", "schema": SCHEMA}, 400, "preset"),
        ({"input_file_ids": [file_id], "preset": "nothing"}, 400, "preset"),
        ({"input_file_ids": [file_id], "schema": {"type": "array"}}, 400, "schema"),
        ({"input_file_ids": [file_id], "preset": "receipt", "options": {"max_error": 2}}, 400, "max_error"),
        ({"input_file_ids": ["none"], "preset": "receipt"}, 404, "there is no file"),
    ):
        assert_refused(api.http.post("/v1/extractions", json=body), status, words)


def test_an_extraction_is_no_batch_and_can_be_deleted(api: Api) -> None:
    job = api.create(("a.png", receipt()), preset="receipt")
    api.ended(job)
    assert_refused(api.http.get(f"/v1/batches/{job['id']}"), 404)
    assert job["id"] not in [each["id"] for each in api.http.get("/v1/batches").json()["data"]]
    assert job["id"] in [each["id"] for each in api.http.get("/v1/extractions").json()["data"]]
    assert api.http.delete(f"/v1/extractions/{job['id']}").json()["deleted"]
    assert_refused(api.http.get(f"/v1/extractions/{job['id']}/records"), 404)


def test_a_cancelled_extraction_keeps_its_rows(api: Api) -> None:
    files = [(f"{number}.png", receipt(f"{number}.00")) for number in range(30)]
    job = api.create(*files, preset="receipt")
    until(lambda: api.rows(job))
    cancelled = api.http.post(f"/v1/extractions/{job['id']}/cancel").json()
    assert cancelled["status"] in ("cancelling", "cancelled")
    assert api.ended(job)["status"] == "cancelled"
    assert 1 <= len(api.rows(job)) < 30


def test_presets_are_listed_with_their_schemas(api: Api) -> None:
    found = {each["name"]: each for each in api.http.get("/v1/presets").json()["data"]}
    assert {"invoice", "receipt", "form", "statement"} <= set(found)
    assert "items" in found["invoice"]["schema"]["properties"]
    assert found["transcribe"]["schema"] is None


def test_a_key_sees_only_its_own(locked: Running) -> None:
    one, other = Api(locked, "secret-one"), Api(locked, "secret-two")
    job = one.create(("a.png", receipt()), schema=SCHEMA)
    one.ended(job)
    for path in ("", "/records", "/page?document=a.png", "/table"):
        assert one.http.get(f"/v1/extractions/{job['id']}{path}").status_code == 200
        assert_refused(other.http.get(f"/v1/extractions/{job['id']}{path}"), 404)
    assert_refused(Api(locked).http.get(f"/v1/extractions/{job['id']}"), 401)
    assert other.http.get("/v1/extractions").json()["data"] == []


@pytest.mark.slow
def test_after_kills_each_document_is_a_row_once(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    server = Process(folder)
    server.wait()
    files = [(f"{number}.png", receipt(f"{number}.00")) for number in range(40)]
    job = Api(server).create(*files, schema=SCHEMA)
    for number in range(2):
        until(lambda: len(Api(server).rows(job)) >= 8 * (number + 1), 120)  # noqa: B023
        before = Api(server).rows(job)
        server.kill()
        server = Process(folder)
        server.wait()
        assert Api(server).rows(job)[: len(before)] == before, "rows that were told stay"
    done = until(lambda: (now := Api(server).state(job))["status"] in ENDED and now, 240)
    assert (done["status"], done["documents"]) == ("completed", 40)
    assert sorted(row["document"] for row in Api(server).rows(job)) == sorted(name for name, _ in files)
    server.kill()
