"""Indexes follow their folders: files that come, move, change and go, bad ones, and runs that are killed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tessera.errors import FileBusyError, UsageError
from tessera.search import writer as search_writer
from tessera.search.pages import open_page
from tessera.search.searcher import Searcher
from tessera.search.store import NAME, in_words, reading, root_of, writing
from tessera.search.writer import Writer
from tests import forks
from tests.documents.files import mail_bytes, zip_bytes
from tests.search.archive import ACME, BAKERY, LETTER, found, pdf, places, put, rows, scanned

SECOND = ("Terms of Acme Tools", "Payment within thirty days of the date of the invoice")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    put(tmp_path, acme=pdf(ACME, SECOND), bakery=pdf(BAKERY))
    scanned(tmp_path)
    return tmp_path


def test_pages_are_found_by_words_phrases_and_filters(archive: Path) -> None:
    assert places(archive, "croissants") == [("bakery.pdf", 1)]
    assert places(archive, '"Acme Tools" -receipt total') == [("acme.pdf", 1), ("acme.pdf", 2)]
    assert places(archive, "zurich") == [("bakery.pdf", 1)]  # without its accent
    assert places(archive, "file:acme.pdf page:2") == [("acme.pdf", 2)]
    assert places(archive, "file:*.pdf -page:1") == [("acme.pdf", 2)]
    assert sorted(places(archive, "croissants OR thirty")) == [("acme.pdf", 2), ("bakery.pdf", 1)]
    assert places(archive, "breakf*") == [("bakery.pdf", 1)]


@pytest.mark.parametrize(
    "query", ["acme\0tools", "acme\udcff", "file:acme\udcff* tools"], ids=["nul", "half", "filter"]
)
def test_signs_that_no_text_may_have_are_spaces(archive: Path, query: str) -> None:
    assert ("acme.pdf", 1) in places(archive, query)


def test_a_search_has_a_deadline(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.search.searcher.SECONDS", -1.0)
    monkeypatch.setattr("tessera.search.searcher.STEPS", 1)
    with Searcher(archive) as searcher:
        with pytest.raises(UsageError, match="the search takes too long; add a rarer word or a filter") as caught:
            searcher.search("acme")
        assert caught.value.param == "q"
        assert searcher.counts()["files"] == 2  # outside a question, nothing is interrupted


def test_a_question_sees_one_state_of_the_index(archive: Path) -> None:
    put(archive, letter=pdf(LETTER))
    count = "SELECT COUNT(*) FROM files"
    with writing(archive / NAME, archive) as writer, Searcher(archive) as searcher:
        with searcher.deadline():
            before = searcher.connection.execute(count).fetchone()
            writer.execute("DELETE FROM files WHERE name = 'bakery.pdf'")
            assert searcher.connection.execute(count).fetchone() == before
        assert searcher.connection.execute(count).fetchone() != before


def test_a_page_with_all_words_comes_before_those_with_some(archive: Path) -> None:
    with Searcher(archive) as searcher:
        answer = searcher.search("invoice total payment date thirty")
        assert (answer.hits[0].file, answer.hits[0].number) == ("acme.pdf", 2)
        assert set(answer.notes) == {"no page has all of the words; these have some of them"}
    assert places(archive, "acme terms") == [("acme.pdf", 2), ("acme.pdf", 1)]


def test_misspelt_words_and_parts_of_numbers_are_found_and_said(archive: Path) -> None:
    with Searcher(archive) as searcher:
        answer = searcher.search("croisants")
        assert [(hit.file, hit.parts[0].list) for hit in answer.hits] == [("bakery.pdf", "similar")]
        assert answer.near == {"croisants": ["croissants"]}
        assert answer.notes[0] == "few pages or none have 'croisants', so croissants count as well"
    assert places(archive, "1234-X") == [("acme.pdf", 1)]
    assert places(archive, "b-1234") == [("acme.pdf", 1)]
    assert places(archive, "zzzz") == []


def test_what_is_hit_is_told_apart_in_the_snippet(archive: Path) -> None:
    (hit,) = found(archive, '"corner bakery" croissants')
    assert [text for text, is_hit in hit.snippet if is_hit] == ["Corner Bakery", "croissants"]
    assert " ".join(text for text, _ in hit.snippet) == " ".join(BAKERY)


def test_a_second_run_opens_nothing(archive: Path) -> None:
    counts = scanned(archive)
    assert (counts.unchanged, counts.pages, counts.added) == (2, 0, 0)


def test_added_moved_copied_changed_and_deleted_files(archive: Path) -> None:
    before = rows(archive)
    put(archive, letter=pdf(LETTER))
    (archive / "old").mkdir()
    (archive / "acme.pdf").rename(archive / "old" / "2026-acme.pdf")
    counts = scanned(archive)
    assert (counts.added, counts.moved, counts.removed, counts.pages) == (1, 1, 0, 1)
    assert rows(archive)["old/2026-acme.pdf"] == before["acme.pdf"]  # the rows are the same ones
    assert places(archive, "file:old/* drill") == [("old/2026-acme.pdf", 1)]
    assert places(archive, "file:acme.pdf -file:2026*") == []

    shutil.copy(archive / "letter.pdf", archive / "copy.pdf")
    assert scanned(archive).pages == 0  # the content is known
    (hit,) = found(archive, "machines")
    assert (hit.file, hit.copies) == ("copy.pdf", ("letter.pdf",))

    put(archive, bakery=pdf(("Receipt", "Corner Cinema Zürich", "Two tickets for the late show", "Total 30.00")))
    counts = scanned(archive)
    assert (counts.changed, counts.pages, counts.pages_removed) == (1, 1, 1)
    assert places(archive, "croissants") == []
    assert places(archive, "tickets") == [("bakery.pdf", 1)]

    (archive / "bakery.pdf").unlink()
    (archive / "copy.pdf").unlink()
    counts = scanned(archive)
    assert (counts.removed, counts.pages_removed) == (2, 1)
    assert places(archive, "tickets") == []
    assert places(archive, "machines") == [("letter.pdf", 1)]


def test_the_full_text_has_nothing_left_of_what_is_deleted(archive: Path) -> None:
    (archive / "acme.pdf").unlink()
    scanned(archive)
    connection = reading(archive / NAME)
    assert connection.execute("SELECT COUNT(*) FROM vocabulary WHERE term = 'drill'").fetchone() == (0,)
    assert connection.execute("SELECT COUNT(*) FROM pages").fetchone() == (1,)
    connection.close()
    with writing(archive / NAME, archive) as written:
        written.execute("INSERT INTO words (words) VALUES ('integrity-check')")


def test_an_index_moves_with_its_folder(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = tmp_path_factory.mktemp("elsewhere") / "archive"
    shutil.copytree(archive, moved)
    with Searcher(moved) as searcher:
        assert searcher.root == moved
    assert scanned(moved).pages == 0


def test_members_of_archives_and_mails_are_pages(tmp_path: Path) -> None:
    (tmp_path / "box.zip").write_bytes(zip_bytes({"in/letter.pdf": pdf(LETTER), "bad.pdf": b"%PDF-1.4 nothing"}))
    (tmp_path / "note.eml").write_bytes(mail_bytes("Please find the invoice for the croissants attached."))
    counts = scanned(tmp_path)
    assert [(name, code) for name, _, code, _ in counts.errors] == [("box.zip/bad.pdf", "damaged")]
    assert places(tmp_path, "machines") == [("box.zip/in/letter.pdf", 1)]
    assert places(tmp_path, "file:letter.pdf") == [("box.zip/in/letter.pdf", 1)]
    assert places(tmp_path, "croissants") == [("note.eml", 1)]


def test_bad_files_are_rows_with_codes(archive: Path) -> None:
    (archive / "empty.pdf").write_bytes(b"")
    (archive / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (archive / "what.bin").write_bytes(b"\0\1\2\3")
    counts = scanned(archive)
    assert sorted((name, code) for name, _, code, _ in counts.errors) == [
        ("broken.pdf", "damaged"), ("empty.pdf", "empty"), ("what.bin", "unsupported"),
    ]  # fmt: skip
    (hit,) = found(archive, "code:damaged")
    assert (hit.file, hit.code) == ("broken.pdf", "damaged")
    assert str(hit.message).startswith("broken.pdf is damaged")  # without the folder, which is nobody's business
    assert ("broken.pdf", 0) not in places(archive, "file:*.pdf")
    assert scanned(archive).failed == 0  # they are known now, and are not tried again


def test_files_that_cannot_be_opened_are_found_by_their_code_too(archive: Path) -> None:
    (archive / "nothing.pdf").write_bytes(b"")
    (archive / "gone.pdf").symlink_to("nowhere")
    assert scanned(archive).failed == 2
    told = [(hit.file, hit.number, hit.code) for hit in found(archive, "code:*")]
    assert sorted(told) == [("gone.pdf", 0, "not_found"), ("nothing.pdf", 0, "empty")]
    (archive / "nothing.pdf").unlink()
    (archive / "gone.pdf").unlink()
    put(archive, gone=pdf(LETTER))
    assert scanned(archive).failed == 0
    assert (places(archive, "code:*"), places(archive, "kind regards")) == ([], [("gone.pdf", 1)])


def test_names_that_are_not_utf8_are_searched_and_opened(archive: Path) -> None:
    name, other = os.fsdecode(b"caf\xe9.pdf"), os.fsdecode(b"caf\xe8.pdf")
    (archive / name).write_bytes(pdf(("a wombat",)))
    assert scanned(archive).failed == 0
    (hit,) = found(archive, "wombat")
    assert hit.file == "caf\ufffd.pdf"
    with Searcher(archive) as searcher:
        page = open_page(searcher, hit.page)
        assert page is not None
        assert "wombat" in page.text
    (archive / "copy.pdf").write_bytes(pdf(("a wombat",)))
    assert scanned(archive).moved == 0
    (archive / other).write_bytes(pdf(("a wallaby",)))
    for _ in range(2):
        counts = scanned(archive)
        assert [error[2] for error in counts.errors] == ["unsupported"]
    assert counts.changed == 0


def test_a_folder_that_is_suddenly_empty_does_not_empty_its_index(archive: Path) -> None:
    for file in archive.glob("*.pdf"):
        file.unlink()
    with pytest.raises(UsageError, match="holds no file any more, and its index knows 2"):
        scanned(archive)
    assert places(archive, "drill") == [("acme.pdf", 1)]


def test_two_writers_exclude_each_other(archive: Path) -> None:
    with (
        writing(archive / NAME, archive),
        pytest.raises(UsageError, match="another process writes the index"),
        writing(archive / NAME, archive),
    ):
        pass
    scanned(archive)


def test_a_locked_index_is_not_waited_for_long(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tessera.search.store.READING_BUSY_S", 0.01)
    with closing(sqlite3.connect(archive / NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(FileBusyError, match="is in use by another process; try again later"):
            places(archive, "drill")
        other.execute("ROLLBACK")
    assert places(archive, "drill") == [("acme.pdf", 1)]


def test_other_files_are_refused_as_indexes(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("no database, and long enough to be taken for one" * 40)
    with pytest.raises(UsageError, match="is no index, or is damaged"):
        Searcher(tmp_path)
    (tmp_path / NAME).write_bytes(b"")
    with pytest.raises(UsageError, match="is empty, as a run leaves it that cannot begin; index again"):
        Searcher(tmp_path)
    with pytest.raises(UsageError, match="has no index; make one with `tessera index"):
        Searcher(tmp_path.parent)


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TABLE facts", "DELETE FROM facts", "UPDATE pages SET text = x'00'",
        "PRAGMA writable_schema = 1; UPDATE sqlite_master SET sql = CAST(x'43ed' AS TEXT) WHERE name = 'pages'",
    ],
    ids=["table", "row", "text", "schema"],
)  # fmt: skip
def test_a_damaged_index_is_said_to_be(archive: Path, harm: str) -> None:
    with closing(sqlite3.connect(archive / NAME)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.executescript(harm)
    with pytest.raises(UsageError, match="is damaged; delete it and index again"):
        places(archive, "croissants")


@pytest.mark.parametrize(
    "harm", ["UPDATE pages SET text = x'00'", "DELETE FROM pages WHERE number = 1"], ids=["text", "row"]
)
def test_a_damaged_index_is_said_to_be_by_who_writes_it(archive: Path, harm: str) -> None:
    with closing(sqlite3.connect(archive / NAME)) as connection:
        connection.executescript(harm)
        if "DELETE" in harm:  # as a page of the table that was lost, whose index of numbers still has it
            writer = Writer(connection)
            with pytest.raises(UsageError, match="is damaged"), in_words(archive / NAME):
                writer._unindex(1)
            return
    (archive / "bakery.pdf").unlink()
    with pytest.raises(UsageError, match="is damaged; delete it and index again"):
        scanned(archive)


def test_a_folder_may_be_named_by_any_of_its_paths(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "link").symlink_to(archive)
    for root in (archive, archive / ".." / archive.name, other / "link"):
        with writing(other / "index.db", root) as connection:
            assert root_of(other / "index.db", connection) == archive
    with pytest.raises(UsageError, match="name another file"), writing(other / "index.db", other):
        pass


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    """Kill -9 in the midst of a file; at the end every page is there once, as after an undisturbed run."""
    folder = tmp_path / "archive"
    folder.mkdir()
    pages = [
        ("Journal", f"page number{number:04} of a long report", "with words enough for it") for number in range(60)
    ]
    put(folder, long=pdf(*pages), short=pdf(BAKERY))
    index = folder / NAME
    seen = 0
    for _ in range(2):
        process = forks.start(scan_in_small_groups, folder)
        while process.exitcode is None and _pages(index) < seen + 10:
            time.sleep(0.01)
        process.kill()
        process.join(60)
        seen = _pages(index)
    counts = scanned(folder)
    assert counts.pages == 61 - seen
    assert len(rows(folder)["long.pdf"]) == 60
    assert places(folder, "number0042") == [("long.pdf", 43)]
    with writing(index, folder) as written:
        written.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        assert written.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def scan_in_small_groups(folder: Path) -> None:
    """To be called in a process of its own."""
    search_writer.GROUP = 5
    scanned(folder)


@pytest.mark.slow
def test_an_index_on_a_disk_that_is_read_only_is_searched_and_not_written(archive: Path) -> None:
    """In a namespace of its own, where the folder is mounted so; permissions do not bind whoever runs tests as root."""
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"'
    if shutil.which("unshare") is None or subprocess.run([*inside, mount, "-", str(archive)], check=False).returncode:
        pytest.skip("this machine gives no namespaces for mounts")
    before = {path.name: path.read_bytes() for path in archive.iterdir()}
    code = (
        "import sys; from pathlib import Path; from tests.search.archive import places, scanned\n"
        "folder = Path(sys.argv[1]); print(places(folder, 'croissants')); scanned(folder)"
    )
    run = f'{mount} && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        [*inside, run, "-", str(archive), sys.executable, code], check=False, capture_output=True, text=True
    )
    assert done.stdout == "[('bakery.pdf', 1)]\n"
    assert "cannot be written (Read-only file system); check the folder, or name a file (--out)" in done.stderr
    assert {path.name: path.read_bytes() for path in archive.iterdir()} == before


def _pages(index: Path) -> int:
    if not index.exists() or not os.path.getsize(index):
        return 0
    try:
        connection = reading(index)
    except UsageError:
        return 0
    try:
        return int(connection.execute("SELECT COUNT(*) FROM pages").fetchone()[0])
    finally:
        connection.close()
