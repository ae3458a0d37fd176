"""`tessera batch` as a user runs it, over servers that may die and interruptions at any moment."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tessera.cli.batch import Batch, run_batch
from tessera.cli.batch_models import digest_of_model
from tessera.errors import UnreachableError, UsageError
from tests import forks
from tests.cli.stub_server import stub_server

SETTINGS: dict[str, Any] = {
    "mmproj": None, "adapter": None, "dtype": "auto", "device": "auto", "kv_cache_dtype": "auto",
    "vision_bits": "16", "tensor_parallel_size": 1, "served_model_name": (), "allowed_local_media_path": None,
    "max_image_pixels": 64_000_000, "allow_private_addresses": False,
}  # fmt: skip


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text(
        "".join(
            json.dumps(
                {
                    "custom_id": f"r{number}",
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": {"messages": [{"role": "user", "content": text}]},
                }
            )
            + "\n"
            for number, text in enumerate(texts)
        )
    )
    return path


def batch(source: Path, out: Path, *endpoints: str, settings: dict[str, Any] | None = None, **more: Any) -> Batch:
    values: dict[str, Any] = {
        "model": None, "api_key": None, "in_flight": 4, "journal": None, "retry_failed": False, "force": False,
        "as_json": False, "quiet": True,
    }  # fmt: skip
    return Batch(source=source, out=out, endpoints=endpoints, settings=SETTINGS | (settings or {}), **values | more)


def wait_for(out: Path, lines: int) -> None:
    """Wait until the journal has this many results."""
    for _ in range(6000):
        try:
            with sqlite3.connect(f"file:{out}.journal?mode=ro", uri=True, timeout=60) as connection:
                found = connection.execute("SELECT COUNT(*) FROM items WHERE state > 1").fetchone()[0]
            connection.close()
            if found >= lines:
                return
        except sqlite3.OperationalError:  # not there yet
            pass
        time.sleep(0.01)
    pytest.fail("the run made no progress")


def replies(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"] for row in rows}


def test_replies_are_in_order_and_failures_beside_them_until_they_are_retried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", ["a", "refuse", "c"]), tmp_path / "out.jsonl"
    errors = tmp_path / "out.errors.jsonl"
    with stub_server() as (_, url):
        assert run_batch(batch(source, out, url, quiet=False)) == 1
        assert "1 of 3 lines failed" in capsys.readouterr().err
        assert replies(out) == {"r0": "<a>", "r2": "<c>"}
        [row] = [json.loads(line) for line in errors.read_text().splitlines()]
        assert (row["custom_id"], row["response"]["status_code"]) == ("r1", 400)
        assert row["response"]["body"]["error"]["message"] == "this is refused"
        before = out.read_bytes()
        assert run_batch(batch(source, out, url)) == 1  # nothing is asked again
        assert out.read_bytes() == before
        assert run_batch(batch(source, out, url, retry_failed=True)) == 1
        write_lines(source, ["a", "b", "c"])
        with pytest.raises(UsageError, match=r"its input is .*--force"):
            run_batch(batch(source, out, url))
        assert run_batch(batch(source, out, url, force=True)) == 0
    assert replies(out) == {"r0": "<a>", "r1": "<b>", "r2": "<c>"}
    assert not errors.exists()


def test_events_are_json_lines_on_standard_output(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", list("abcdef")), tmp_path / "out.jsonl"
    with stub_server() as (_, url):
        done = forks.run("tessera", "batch", str(source), str(out), "--endpoint", url, "--json", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["done"], last["total"]) == ("done", 6, 6)
    assert (last["prompt_tokens"], last["completion_tokens"]) == (18, 12)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_says_how_to_go_on_and_the_same_command_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    texts = [str(number) for number in range(40)]
    source, out = write_lines(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl"

    def interrupt() -> None:
        wait_for(out, 5)
        os.kill(os.getpid(), number)

    with stub_server(0.05) as (_, url):
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            run_batch(batch(source, out, url, in_flight=2))
        interrupting.join()
        assert f"kept in {out}.journal; the same command goes on" in capsys.readouterr().err
        assert not out.exists()
        assert run_batch(batch(source, out, url, quiet=False)) == 0
    assert "of 40 lines are done already; going on" in capsys.readouterr().err
    assert replies(out) == {f"r{text}": f"<{text}>" for text in texts}


def test_the_death_of_one_of_two_servers_loses_no_line(tmp_path: Path) -> None:
    texts = [str(number) for number in range(60)]
    source, out = write_lines(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl"
    with stub_server(0.05) as (dying, first), stub_server(0.05) as (_, second):

        def kill() -> None:
            wait_for(out, 6)
            dying.kill()

        killing = threading.Thread(target=kill)
        killing.start()
        assert run_batch(batch(source, out, first, second, in_flight=3)) == 0
        killing.join()
    assert replies(out) == {f"r{text}": f"<{text}>" for text in texts}


def test_two_runs_share_a_job(tmp_path: Path) -> None:
    texts = [str(number) for number in range(60)]
    source, out = write_lines(tmp_path / "in.jsonl", texts), tmp_path / "out.jsonl"
    with stub_server(0.03) as (_, url), ThreadPoolExecutor() as both:
        one, two = (both.submit(run_batch, batch(source, out, url, in_flight=2)) for _ in range(2))
        assert (one.result(), two.result()) == (0, 0)
    assert replies(out) == {f"r{text}": f"<{text}>" for text in texts}


def test_without_any_server_the_run_ends_and_every_line_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", list("abc")), tmp_path / "out.jsonl"
    monkeypatch.setattr("tessera.cli.batch_models.FIRST_PATIENCE_S", 0.0)
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:9"):
        run_batch(batch(source, out, "http://127.0.0.1:9"))
    monkeypatch.setattr("tessera.pool.PATIENCE_S", 0.0)
    with pytest.raises(UnreachableError):
        run_batch(batch(source, out, "http://127.0.0.1:9", model="stub"))
    with stub_server() as (_, url):
        assert run_batch(batch(source, out, url, model="stub")) == 0  # the servers of a job may change
    assert replies(out) == {"r0": "<a>", "r1": "<b>", "r2": "<c>"}


def test_what_cannot_go_together_is_refused_before_any_work(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", ["a"]), tmp_path / "out.jsonl"
    url = "http://127.0.0.1:9"
    wrong = {
        "does not exist": batch(tmp_path / "absent", out),
        "is a folder": batch(tmp_path, out),
        "both": batch(source, source),
        "OUT and the journal": batch(source, out, journal=out),
        "folder that does not exist": batch(source, tmp_path / "no" / "out.jsonl"),
        "--vision-bits and --endpoint": batch(source, out, url, settings={"vision_bits": "8"}),
        "--device and --endpoint": batch(source, out, url, settings={"device": "cpu"}),
        "given twice": batch(source, out, url, url),
        "--api-key": batch(source, out, api_key="secret"),
    }
    for words, given in wrong.items():
        with pytest.raises(UsageError, match=words):
            run_batch(given)
    assert os.listdir(tmp_path) == ["in.jsonl"]


def test_a_model_here_answers_with_the_names_it_was_given(tmp_path: Path) -> None:
    source, out = write_lines(tmp_path / "in.jsonl", ["What is 2 plus 2?"] * 3), tmp_path / "out.jsonl"
    source.write_text(source.read_text().replace('"messages"', '"model": "mine", "max_tokens": 4, "messages"', 2))
    assert run_batch(batch(source, out, settings={"served_model_name": ("mine", "other")})) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["response"]["body"]["model"] for row in rows] == ["mine"] * 3
    for other in ({}, {"served_model_name": ("mine", "other"), "vision_bits": "8"}):
        with pytest.raises(UsageError, match="its settings is"):
            run_batch(batch(source, out, settings=other))


def test_a_models_digest_changes_with_any_sampled_byte_and_with_its_files(tmp_path: Path) -> None:
    weights = tmp_path / "model" / "weights.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"\0" * 3_000_000)
    first = digest_of_model(weights.parent)
    assert first.startswith("model ")
    assert digest_of_model(weights.parent) == first
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    second = digest_of_model(weights.parent)
    (weights.parent / "params.json").write_text("{}")
    assert len({first, second, digest_of_model(weights.parent), digest_of_model(weights)}) == 4
