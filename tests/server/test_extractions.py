"""/v1/extractions: documents of any kind become rows, one at a time, over kills, for one key alone."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openpyxl
import pikepdf
import pytest
from PIL import Image, ImageDraw, ImageFont

from tessera.chat import Head
from tessera.documents.calibration import EVIDENCE, Sample, fit
from tessera.errors import UsageError
from tessera.server.app import create_app
from tessera.server.backend import LocalBackend
from tessera.server.run import open_model
from tessera.server.sealing import opened, sealed
from tessera.server.settings import Settings
from tests.documents.files import pdf_bytes, text_at
from tests.server.batch_client import Process, until
from tests.server.conftest import SMALL, Running, start_server
from tests.server.test_http import assert_refused

SCHEMA = {"type": "object", "properties": {"vendor": {"type": "string"}, "total": {"type": "number"}}}
ENDED = ("completed", "failed", "cancelled", "expired")
PATIENCE_S = 180.0  # for one more document, on a machine that is busy with other work


def receipt(total: str = "12.40") -> bytes:
    image = Image.new("RGB", (260, 200), "white")
    pen = ImageDraw.Draw(image)
    for top, text in ((20, "Corner Bakery"), (80, "Bread   9.00"), (150, f"Total   {total}")):
        pen.text((20, top), text, "black", font=ImageFont.load_default(20))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def printed() -> bytes:
    """A receipt as a PDF with a text layer."""
    lines = ((160, "Corner Bakery"), (100, "Bread   9.00"), (40, "Total   12.40"))
    return pdf_bytes("".join(text_at(20, y, text, 20) for y, text in lines), media=(0, 0, 260, 200))


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


@pytest.mark.parametrize("way", ["by its key", "from the disk"])
def test_pages_of_a_file_that_was_deleted_are_gone_and_its_rows_stay(way: str, running: Running) -> None:
    api = Api(running)
    job = api.create(("a.png", receipt()), schema=SCHEMA)
    api.ended(job)
    (file_id,) = (each["id"] for each in job["input_files"])
    if way == "by its key":
        assert api.http.delete(f"/v1/files/{file_id}").status_code == 200
    else:
        next(running.files.rglob(file_id)).unlink()
    place = f"/v1/extractions/{job['id']}"
    answer = api.http.get(f"{place}/page", params={"document": "a.png"})
    assert_refused(answer, 410, "a.png")
    assert answer.json()["error"]["code"] == "file_gone"
    assert_refused(api.http.get(f"{place}/page", params={"document": "b.png"}), 404)
    assert [row["document"] for row in api.rows(job)] == ["a.png"]
    assert json.loads(api.http.get(f"{place}/table?format=jsonl").text)["document"] == "a.png"


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


LOCKED = pdf_bytes(
    text_at(40, 500, "Total 12.40", 40), save={"encryption": pikepdf.Encryption(user="open sesame", owner="boss", R=6)}
)


def test_a_locked_file_opens_with_its_own_password_which_nothing_keeps_in_clear(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    api = Api(running)
    one, other = api.upload("one.pdf", LOCKED), api.upload("two.pdf", LOCKED + b"\n")
    body = {"input_file_ids": [one, other], "schema": SCHEMA, "passwords": {one: "open sesame"}}
    sent = api.http.post("/v1/extractions", json=body)
    assert sent.status_code == 200, sent.text
    job = sent.json()
    assert [each["password"] for each in job["input_files"]] == [True, False]
    api.ended(job)
    rows = {row["document"]: row for row in api.rows(job)}
    assert (rows["one.pdf"]["error"], rows["two.pdf"]["error"]) == (None, "password_required")
    place = f"/v1/extractions/{job['id']}/page"
    assert api.http.get(place, params={"document": "one.pdf", "side": 130}).status_code == 200
    assert_refused(api.http.get(place, params={"document": "two.pdf"}), 400)
    assert "sesame" not in sent.text + caplog.text
    files = [path for path in running.files.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [path for path in files if b"sesame" in path.read_bytes()]
    for passwords, words in (
        ({"other": "x"}, "passwords names"),
        ({one: ""}, "passwords"),
        ({one: "x" * 2000}, "1024"),
    ):
        assert_refused(api.http.post("/v1/extractions", json=body | {"passwords": passwords}), 400, words)


def test_sealed_secrets_open_only_under_their_name_and_key() -> None:
    values = {"a": "open sesame", "b": "ü" * 100, "c": "open sesame"}
    told = sealed(b"k" * 32, values)
    assert opened(b"k" * 32, told) == values
    assert told["a"] != told["c"], "equal passwords do not look alike"
    assert opened(b"x" * 32, told) == {}
    assert opened(b"k" * 32, {"b": told["a"]}) == {}
    assert opened(b"k" * 32, None) == {}


@pytest.fixture(scope="module")
def judging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server whose model has heads that look, and a calibration."""
    llm = open_model(Settings(**SMALL))
    llm.heads = (Head(1, 0), Head(1, 1))
    path = tmp_path_factory.mktemp("calibration") / "c.json"
    draw = random.Random(5)
    samples = [
        Sample(str(number), "total", (draw.gauss(0, 1), *[0.0] * (len(EVIDENCE) - 1)), draw.random() < 0.5)
        for number in range(60)
    ]
    replace(fit(samples, llm.fingerprint), report={"documents": 60}).save(path)
    running = start_server(llm, Settings(**SMALL, port=0, access_log=False, calibration=path))
    yield running
    running.stop()


def test_confidences_places_and_second_readings_come_through_the_server(judging: Running) -> None:
    api = Api(judging)
    job = api.create(("a.png", receipt()), ("b.pdf", printed()), schema=SCHEMA, options={"verify": True})
    done = api.ended(job)
    assert (done["status"], done["metrics"]) == ("completed", {"documents": 60})
    rows = {row["document"]: row for row in api.rows(job)}
    fields = [field for row in rows.values() for field in row["fields"].values()]
    found = [field for field in fields if field["state"] == "found"]
    assert found
    assert all(0 < field["confidence"] < 1 for field in found)
    looked = [field for field in rows["a.png"]["fields"].values() if field["box_source"] == "attention"]
    assert looked, "the scan's values have places by attention"
    for field in looked:
        page, left, top, right, bottom = field["box"]
        assert page == 1
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
    again = [field["evidence"][EVIDENCE.index("reread")] for field in found if field["evidence"]]
    assert any(again), "the second reading agrees or not, where it was made"


def test_a_calibration_of_another_model_ends_the_start(tmp_path: Path, running: Running) -> None:
    path = tmp_path / "c.json"
    path.write_text("{}")
    with pytest.raises(UsageError, match=r"c\.json"):
        create_app(LocalBackend(running.llm), Settings(calibration=path, files_dir=tmp_path / "files"))


@pytest.mark.slow
def test_after_kills_each_document_is_a_row_once(tmp_path: Path) -> None:
    folder, count = tmp_path / "files", 12
    server = Process(folder)
    server.wait()
    files = [(f"{number}.png", receipt(f"{number}.00")) for number in range(count)]
    job = Api(server).create(*files, schema=SCHEMA)
    for number in range(2):
        progressing(lambda: len(Api(server).rows(job)), 3 * (number + 1))  # noqa: B023
        before = Api(server).rows(job)
        server.kill()
        server = Process(folder)
        server.wait()
        assert Api(server).rows(job)[: len(before)] == before, "rows that were told stay"
    progressing(lambda: len(Api(server).rows(job)), count)
    done = until(lambda: (now := Api(server).state(job))["status"] in ENDED and now, PATIENCE_S)
    assert (done["status"], done["documents"]) == ("completed", count)
    assert sorted(row["document"] for row in Api(server).rows(job)) == sorted(name for name, _ in files)
    server.kill()


def progressing(look: Callable[[], int], wanted: int) -> None:
    """Wait until so many are there; however slow the machine is, each one more starts the patience anew."""
    while (count := look()) < wanted:
        until(lambda: look() > count, PATIENCE_S)
