"""Hub manners, against a real client and a small hub on the loopback address; nothing leaves the machine."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from tessera import load
from tessera.errors import CheckpointError, FetchError, ModelNotFoundError, UsageError
from tessera.hub import download
from tests.loading import load_model
from tests.weights.checkpoints import write_mistral_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """One repository, ORG/tiny, as huggingface.co serves it; every request is remembered."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.files: dict[str, bytes] = {}
        self.refuse: tuple[int, str] | None = None  # status and X-Error-Code of every answer
        self.failing = False  # the first half of one large file is sent, then only errors
        self.requests: list[Request] = []
        server.expect_request(re.compile(r"/.*")).respond_with_handler(self.answer)

    @property
    def fetched(self) -> set[str]:
        """The files whose contents were asked for."""
        return {request.path.rsplit("/", 1)[1] for request in self.requests if self._is_content(request)}

    @staticmethod
    def _is_content(request: Request) -> bool:
        return request.method == "GET" and "/resolve/" in request.path

    def answer(self, request: Request) -> Response:
        self.requests.append(request)
        if self.refuse is not None:
            status, code = self.refuse
            return Response("{}", status, {"X-Error-Code": code}, content_type="application/json")
        path = request.path
        if path.startswith("/api/models/ORG/tiny/tree/"):
            listing = [
                {"type": "file", "path": name, "size": len(body), "oid": "0" * 40} for name, body in self.files.items()
            ]
            return Response(json.dumps(listing), content_type="application/json")
        if path in ("/api/models/ORG/tiny", "/api/models/ORG/tiny/revision/main", "/api/models/ORG/tiny/revision/v1"):
            siblings = [{"rfilename": name, "size": len(body)} for name, body in self.files.items()]
            info = {"id": "ORG/tiny", "sha": COMMIT, "siblings": siblings}
            return Response(json.dumps(info), content_type="application/json")
        name = path.rsplit("/", 1)[1]
        if path == f"/ORG/tiny/resolve/{COMMIT}/{name}" and name in self.files:
            return self._file(request, self.files[name])
        missing = "RevisionNotFound" if path.startswith("/api/models/ORG/tiny/revision/") else "RepoNotFound"
        return Response("{}", 404, {"X-Error-Code": missing}, content_type="application/json")

    def _file(self, request: Request, body: bytes) -> Response:
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return Response(body, 200, headers)  # the server keeps the length and drops the body
        start, status = 0, 200
        if match := re.match(r"bytes=(\d+)-", request.headers.get("Range", "")):
            start, status = int(match[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        sent = body[start:]
        if self.failing and len(sent) > 100_000:
            if start:
                return Response("{}", 500)
            sent = sent[: len(sent) // 2]  # less than announced: the client sees a broken connection
        response = Response(sent, status, headers)
        response.headers["Content-Length"] = str(len(body) - start)
        return response


@pytest.fixture
def hub(httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    from huggingface_hub import constants

    address = httpserver.url_for("").rstrip("/")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits longer at each of its retries
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return Hub(httpserver)


@pytest.fixture
def whole(hub: Hub, tmp_path: Path) -> Hub:
    """A repository with both layouts' files, a pickle and a readme, as Mistral's own are."""
    write_mistral_folder(tmp_path / "model")
    hub.files = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    hub.files |= {"config.json": b"{}", "model-00001-of-00001.safetensors": b"x" * 1000, "README.md": b"# Tiny"}
    hub.files |= {"pytorch_model.bin": b"p" * 1000}
    return hub


def test_one_layout_is_fetched_and_loads(whole: Hub) -> None:
    folder = download("ORG/tiny")
    assert whole.fetched == {"params.json", "consolidated.safetensors", "tekken.json"}
    assert load.find_model("ORG/tiny") == folder
    assert load.model_name(folder) == "ORG/tiny"
    assert load_model(folder).name == "ORG/tiny"
    whole.requests.clear()
    assert download("ORG/tiny") == folder
    assert whole.fetched == set()  # nothing twice


def test_the_other_layout_where_it_is_the_only_one(whole: Hub) -> None:
    del whole.files["consolidated.safetensors"]
    download("ORG/tiny")
    assert whole.fetched == {"config.json", "model-00001-of-00001.safetensors", "tekken.json"}


def test_a_revision_is_kept_apart(whole: Hub) -> None:
    folder = download("ORG/tiny", "v1")
    assert load.find_model("ORG/tiny", "v1") == folder
    with pytest.raises(ModelNotFoundError, match=r"'ORG/tiny'.*`tessera download ORG/tiny`"):
        load.find_model("ORG/tiny")
    with pytest.raises(ModelNotFoundError, match=r"no revision 'v9'"):
        download("ORG/tiny", "v9")
    with pytest.raises(ModelNotFoundError, match=r"`tessera download ORG/tiny --revision v9`"):
        load.find_model("ORG/tiny", "v9")


def test_a_broken_download_goes_on_where_it_stopped(whole: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # what is lost at most
    monkeypatch.setattr("tessera.hub.RESUMED_BYTES", 100_000)
    whole.failing = True
    with pytest.raises(FetchError, match=r"ORG/tiny could not be fetched from http.*run the same command again"):
        download("ORG/tiny")
    whole.failing = False
    whole.requests.clear()
    # What is there already is not asked of the disk again.
    files = ("params.json", "consolidated.safetensors", "tekken.json")
    rest = sum(len(whole.files[name]) for name in files) - 360_000
    monkeypatch.setattr("tessera.hub.free_disk_bytes", lambda folder: rest)
    folder = download("ORG/tiny")
    ranges = [
        request.headers.get("Range") for request in whole.requests if request.path.endswith("consolidated.safetensors")
    ]
    assert [wanted for wanted in ranges if wanted] == ["bytes=360000-"]  # of 735,360; half came, 10,000 at a time
    assert (folder / "consolidated.safetensors").read_bytes() == whole.files["consolidated.safetensors"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (403, "GatedRepo", ModelNotFoundError, r"ORG/tiny is open only to those who accepted.*HF_TOKEN"),
        (401, "RepoNotFound", ModelNotFoundError, r"ORG/tiny does not exist, or is private.*HF_TOKEN"),
        (500, "", FetchError, r"could not be fetched from http.*check the connection"),
    ],
)
def test_refusals_of_the_hub(hub: Hub, status: int, code: str, kind: type[Exception], says: str) -> None:
    hub.refuse = status, code
    with pytest.raises(kind, match=says) as refused:
        download("ORG/tiny")
    assert "\n" not in str(refused.value)


def test_a_repository_without_a_model(hub: Hub) -> None:
    hub.files = {"README.md": b"# Nothing", "pytorch_model.bin": b"p"}
    with pytest.raises(CheckpointError, match=r"ORG/tiny holds neither params\.json.*mistralai/Pixtral-12B-2409"):
        download("ORG/tiny")


def test_a_disk_too_small_is_told_before_the_first_byte(whole: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.hub.free_disk_bytes", lambda folder: 100)
    with pytest.raises(FetchError, match=r"ORG/tiny needs 0\.0 GB and 0\.0 GB is free in .*HF_HOME"):
        download("ORG/tiny")
    assert whole.fetched == set()


@pytest.mark.parametrize("name", ["Pixtral", "a/b/c", "ORG/ti ny", "../tiny", "-/x"])
def test_what_is_no_hub_id(name: str) -> None:
    with pytest.raises(UsageError, match=r"is not a hub id; write ORGANISATION/NAME"):
        download(name)


def test_offline_uses_the_cache_and_says_what_to_do_without_one(whole: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = download("ORG/tiny")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")  # where nobody listens
    assert download("ORG/tiny") == folder  # no connection: what is there is enough
    with pytest.raises(FetchError, match=r"ORG/other could not be fetched from .*check the connection"):
        download("ORG/other")


def test_offline_mode_in_a_process_of_its_own(tmp_path: Path) -> None:
    """HF_HUB_OFFLINE and HF_HOME are read when the library is imported: only a new process shows them."""
    script = "import tessera.hub as hub\ntry:\n hub.download('ORG/tiny')\nexcept hub.FetchError as e:\n print(e)"
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == "ORG/tiny is not in the hub's cache and HF_HUB_OFFLINE is set; unset it."


def test_an_interrupted_download_is_named_with_its_own_command(whole: Hub) -> None:
    folder = download("ORG/tiny")
    (folder / "consolidated.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"half a model: params\.json is there.*`tessera download ORG/tiny`"):
        load_model(load.find_model("ORG/tiny"))


def written_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


KEPT_LISTINGS = {"CACHEDIR.TAG", "models--ORG--tiny/refs/main", f"models--ORG--tiny/trees/{COMMIT}.json"}
LIES = ["../../../../escaped", "..", "/tmp/escaped", "a/b", "a\\b", ".", "", "%2e%2e/x", "0" * 39 + "g"]


@pytest.mark.parametrize("lie", [lie for lie in LIES if not re.fullmatch(r"[0-9A-Za-z_-]+", lie)])
@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag"])
@pytest.mark.parametrize("large", [False, True])
def test_an_etag_that_leads_out_of_the_cache_writes_nothing(
    whole: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str, header: str, large: bool
) -> None:
    if large:
        monkeypatch.setattr("tessera.hub.RESUMED_BYTES", 1)
    answer = whole._file

    def lying(request: Request, body: bytes) -> Response:
        response = answer(request, body)
        response.headers[header] = f'"{lie}"'
        return response

    monkeypatch.setattr(whole, "_file", lying)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    with pytest.raises(FetchError, match=r"answers with the ETag .* so no file was written"):
        download("ORG/tiny")
    assert not whole.fetched
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert written_below(tmp_path / "cache") <= KEPT_LISTINGS


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("where", ["listing", "header"])
def test_a_commit_that_is_none_writes_nothing(
    whole: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str, where: str
) -> None:
    answer = whole.answer

    def lying(request: Request) -> Response:
        response = answer(request)
        if where == "header" and "/resolve/" in request.path:
            response.headers["X-Repo-Commit"] = lie
        elif where == "listing" and request.path.startswith("/api/models/ORG/tiny") and "/tree/" not in request.path:
            response.set_data(json.dumps({**json.loads(response.get_data()), "sha": lie}))
        return response

    whole.server.clear()
    whole.server.expect_request(re.compile(r"/.*")).respond_with_handler(lying)
    with pytest.raises(FetchError, match=r"answers with the commit .* so no file was written"):
        download("ORG/tiny")
    assert not whole.fetched
    assert written_below(tmp_path / "cache") <= KEPT_LISTINGS


def test_of_gguf_files_one_is_chosen_and_its_image_part_comes_too(hub: Hub) -> None:
    names = ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-m-f16.gguf", "mmproj-m-Q8_0.gguf", "README.md")
    hub.files = {name: name.encode() for name in names}
    for pattern, says in ((None, "one must be chosen"), ("*Q*", "fits 2 of them"), ("*Q5*", "fits 0 of them")):
        with pytest.raises(UsageError, match=rf"m-Q4_K_M\.gguf \(0\.0 GB\), m-Q8_0\.gguf .*{says}"):
            download("ORG/tiny", None, pattern)
    file = download("ORG/tiny", None, "*Q4_K_M*")
    assert hub.fetched == {"m-Q4_K_M.gguf", "mmproj-m-f16.gguf"}
    assert file.name == "m-Q4_K_M.gguf"
    assert file.read_bytes() == b"m-Q4_K_M.gguf"
    assert load.find_model("ORG/tiny") == file
    hub.refuse = (503, "")  # offline, what is there is found again
    assert download("ORG/tiny") == file
