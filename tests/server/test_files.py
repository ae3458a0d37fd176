"""/v1/files: both clients' files, kept apart by key, bounded in every way, and never a path."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from mistralai.client import Mistral

from tessera.server.errors import BadRequestError
from tessera.server.file_table import StoredFile
from tessera.server.files import GARBAGE_S, FileStore
from tessera.server.settings import Settings
from tests.server.conftest import Running, run_server
from tests.server.test_http import assert_refused

LINES = b'{"custom_id": "a"}\n{"custom_id": "b"}'
KEY = {"authorization": "Bearer secret-one"}


@pytest.fixture(scope="module")
def small() -> Iterator[Running]:
    """A server with keys and tight limits."""
    running = run_server(
        api_key=("secret-one", "secret-two"), max_file_bytes=20_000, files_max_bytes=50_000, max_files=6
    )
    yield running
    running.stop()


def send(running: Running, data: Any = LINES, name: str = "in.jsonl", **more: Any) -> httpx2.Response:
    form = {"purpose": "batch"} | more.pop("form", {})
    with httpx2.Client(timeout=60) as client:
        return client.post(running.url + "/v1/files", files={"file": (name, data)}, data=form, **more)


def test_the_openai_client_keeps_reads_and_deletes_files(running: Running) -> None:
    files = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0).files
    made = files.create(
        file=("in.jsonl", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (made.object, made.bytes, made.filename, made.purpose, made.status) == (
        "file", len(LINES), "in.jsonl", "batch", "processed"
    )  # fmt: skip
    assert made.expires_at == made.created_at + 7200
    assert files.wait_for_processing(made.id).id == made.id
    assert files.content(made.id).read() == LINES
    assert made.id in [each.id for each in files.list(purpose="batch", order="asc", limit=1)]
    assert files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match="no file"):
        files.retrieve(made.id)


def test_the_mistral_client_keeps_reads_and_deletes_files(running: Running) -> None:
    files = Mistral(api_key="any", server_url=running.url).files
    made = files.upload(file={"file_name": "page.pdf", "content": io.BytesIO(b"%PDF-1.7")}, purpose="ocr")
    assert (made.size_bytes, made.sample_type, made.source, made.mimetype) == (
        8, "ocr_input", "upload", "application/pdf"
    )  # fmt: skip
    assert files.retrieve(file_id=made.id).deleted is False
    assert b"".join(files.download(file_id=made.id).iter_bytes()) == b"%PDF-1.7"
    listed = files.list(search="page", sample_type=["ocr_input"], page_size=1)  # type: ignore[list-item]
    assert (listed.total, [each.id for each in listed.data]) == (1, [made.id])
    address = files.get_signed_url(file_id=made.id, expiry=1).url
    assert httpx2.get(address).content == b"%PDF-1.7"
    assert files.delete(file_id=made.id).deleted


def test_lists_go_on_after_the_last(running: Running) -> None:
    ids = [send(running, name=f"many-{number}.jsonl").json()["id"] for number in range(5)]
    files = openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0).files
    found = [each.id for each in files.list(limit=2)]
    assert set(ids) <= set(found)
    assert len(found) == len(set(found))
    pages = [running.get(f"/v1/files?search=many-&page={page}&page_size=2").json() for page in range(3)]
    assert sorted(row["id"] for page in pages for row in page["data"]) == sorted(ids)
    assert {page["total"] for page in pages} == {5}
    for each in ids:
        files.delete(each)


def test_no_key_sees_the_files_of_another(small: Running) -> None:
    mine = send(small, headers=KEY).json()
    other = {"authorization": "Bearer secret-two"}
    for path in ("", "/content", "/url"):
        assert_refused(small.get(f"/v1/files/{mine['id']}{path}", headers=other), 404, "no file")
    with httpx2.Client() as client:
        assert client.delete(f"{small.url}/v1/files/{mine['id']}", headers=other).status_code == 404
        assert small.get("/v1/files", headers=other).json()["data"] == []
        assert small.get(f"/v1/files/{mine['id']}/content").status_code == 401
        # A signed address needs no key, and opens nothing else.
        address = small.get(f"/v1/files/{mine['id']}/url", headers=KEY).json()["url"]
        assert client.get(address).content == LINES
        for wrong in (address[:-1] + "!", address.replace("until=", "until=1"), address.replace("/content", "")):
            assert client.get(wrong).status_code == 401
        assert client.delete(address).status_code == 401
        client.delete(f"{small.url}/v1/files/{mine['id']}", headers=KEY)
        assert client.get(address).status_code == 401


def test_limits_hold_while_a_file_comes(small: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.server.protocol.REST_TIMEOUT_S", 1.0)  # this client sends for so long after its answer
    assert_refused(send(small, b"x" * 20_001, headers=KEY), 413, "20,000", "max_file_bytes")

    def endless() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'
        while True:
            yield b"x" * 8192

    with httpx2.Client(timeout=60) as client:
        kind = {"content-type": "multipart/form-data; boundary=b"}
        assert_refused(client.post(small.url + "/v1/files", content=endless(), headers=KEY | kind), 413, "max_file_")
    ids = [send(small, b"x" * 20_000, headers=KEY).json()["id"] for _ in range(2)]
    assert_refused(send(small, b"x" * 20_000, headers=KEY), 413, "50,000", "files_max_bytes")
    ids += [send(small, b"x", headers=KEY).json()["id"] for _ in range(4)]
    assert_refused(send(small, b"x", headers=KEY), 400, "max_files")
    with httpx2.Client() as client:
        for each in ids:
            assert client.delete(f"{small.url}/v1/files/{each}", headers=KEY).status_code == 200
    assert list((small.files / "arriving").iterdir()) == []
    assert list((small.files / "content").iterdir()) == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\x", "", "a\r\nb", "x" * 5000, "\x00"])
def test_a_name_is_only_shown(running: Running, name: str) -> None:
    header = f'form-data; name="file"; filename="{name}"'.replace("\r\n", "%0D%0A")
    body = f"--b\r\nContent-Disposition: {header}\r\n\r\nhello\r\n--b\r\ncontent-disposition: form-data; name=purpose"
    body += "\r\n\r\nuser_data\r\n--b--\r\n"
    kind = {"content-type": "multipart/form-data; boundary=b"}
    before = {path.name for path in (running.files / "content").iterdir()}
    with httpx2.Client() as client:
        made = client.post(running.url + "/v1/files", content=body.encode(), headers=kind).json()
        assert "/" not in made["filename"]
        assert 0 < len(made["filename"]) <= 255
        assert {path.name for path in (running.files / "content").iterdir()} - before == {made["id"]}
        assert client.get(f"{running.url}/v1/files/{made['id']}/content").content == b"hello"
        client.delete(f"{running.url}/v1/files/{made['id']}")


@pytest.mark.parametrize("file_id", ["..%2F..%2Fetc%2Fpasswd", "..", "x", "%00", "secret", "x" * 5000])
def test_an_unknown_id_leads_nowhere(running: Running, file_id: str) -> None:
    for path in ("", "/content", "/url"):
        assert running.get(f"/v1/files/{file_id}{path}").status_code in (400, 404)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"purpose": "fine-tune"}, "trains no models"), ({"purpose": "x"}, "must be one of batch"),
        ({"purpose": ""}, "purpose"), ({"expiry": "3"}, "expiry"), ({"visibility": "all"}, "visibility"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "must be created_at"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "10"}, "between 3600 and 2592000"),
        ({"expires_after[anchor]": "created_at"}, "whole number"), ({"other": "1"}, "'other' is not known"),
        ({"visibility": "x" * 5000}, "4,096"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_honoured_is_refused_by_name(running: Running, form: dict[str, str], says: str) -> None:
    assert_refused(send(running, form=form), 400, says)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "before its last boundary"), (b"--b--\r\n", "no part named file"), (b"--b\r\n\r\n\r\n--b--", "no name"),
        (b"--b\r\nx: " + b"y" * 9000, "8,192"), (b"z" * 9000, "before the first part"),
        (b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' * 2 + b"--b--", "two parts"),
        (b"".join(b'--b\r\ncontent-disposition: form-data; name="%d"\r\n\r\n\r\n' % n for n in range(20)), "16 parts"),
        (b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\nhalf', "before its last boundary"),
    ],
)  # fmt: skip
def test_a_damaged_form_is_refused(running: Running, body: bytes, says: str) -> None:
    kind = {"content-type": "multipart/form-data; boundary=b"}
    with httpx2.Client() as client:
        assert_refused(client.post(running.url + "/v1/files", content=body, headers=kind), 400, says)
        assert_refused(client.post(running.url + "/v1/files", json={}), 400, "multipart/form-data")


def test_another_sites_page_cannot_send_a_file(running: Running) -> None:
    assert_refused(send(running, headers={"origin": "https://evil.example"}), 403, "allowed_origins")
    made = send(running, headers={"origin": running.url})
    assert made.status_code == 200
    with httpx2.Client() as client:
        client.delete(f"{running.url}/v1/files/{made.json()['id']}")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "order=up", "nobody=1", "page=-1", "after=x&page=1", f"page={0:020}{9**25}"]
)
def test_a_bad_query_is_refused(running: Running, query: str) -> None:
    assert_refused(running.get(f"/v1/files?{query}"), 400, query.partition("=")[0] if "&" not in query else "exclude")


def test_old_files_and_what_belongs_to_nothing_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(Settings(files_dir=tmp_path / "files", files_max_days=2))
    content = store.folder / "content"
    with store.upload() as upload:
        upload.write(b"x")
        day = 24 * 3600
        row = StoredFile(upload.id, "", "x", "batch", 1, 0, store.expiry(int(time.time()), 30 * day), "", "upload")
        store.keep(upload, row)
    for name in ("stray", "new"):
        (content / name).write_bytes(b"x")
    os.utime(content / "stray", (0, time.time() - GARBAGE_S - 1))
    store.sweep()
    assert {path.name for path in content.iterdir()} == {"new", row.id}
    now = time.time()
    monkeypatch.setattr("tessera.server.files.time.time", lambda: now + 2 * day + 1)
    with pytest.raises(BadRequestError, match="no file"):
        store.get(row.id, "")
    store.sweep()
    assert list(content.iterdir()) == []
    store.close()


@pytest.mark.parametrize("limits", [{"max_files": 1}, {"files_max_bytes": 1500}], ids=str)
def test_files_over_their_age_take_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    store = FileStore(Settings(files_dir=tmp_path / "files", **limits))
    row = StoredFile("", "", "a", "user_data", 1000, int(time.time()), int(time.time()) + 3600, "user_data", "upload")

    def keep() -> None:
        with store.upload() as upload:
            upload.write(b"x" * 1000)
            store.keep(upload, replace(row, id=upload.id, expires=int(time.time()) + 3600))

    keep()
    with pytest.raises(BadRequestError, match="limit"):
        keep()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    keep()
    store.close()


def test_two_servers_never_share_a_folder(running: Running, tmp_path: Path) -> None:
    send(running)  # opens the folder
    other = run_server(files_dir=running.files)
    try:
        assert_refused(other.get("/v1/files"), 503, "files_dir")
    finally:
        other.stop()
