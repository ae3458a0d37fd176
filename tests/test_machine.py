"""Free memory and disk, as the operating system counts them."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path

import pytest
import torch

from tessera import machine
from tests import forks
from tests.kernels.test_cache_layer import resident_mb

CPU = torch.device("cpu")


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < machine.available_bytes(CPU) < 2**46


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc, which keeps freed memory")
def test_freed_memory_between_what_is_kept_is_given_back() -> None:
    blocks = [bytearray(64_000) for _ in range(4000)]  # 256 MB, each below what glibc maps on its own
    kept = blocks[::20]
    del blocks
    before = resident_mb()
    machine.return_freed_memory()
    assert before - resident_mb() > 150
    assert len(kept) == 200


def test_a_cgroup_limits_it_and_cached_files_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("900000\n")
    (tmp_path / "memory.stat").write_text("anon 100000\nactive_file 300000\ninactive_file 400000\n")
    assert machine.available_bytes(CPU) == 1_000_000 - 900_000 + 700_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_bytes(CPU) > 1_000_000


def test_free_disk_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    here, there = machine.free_disk_bytes(tmp_path), machine.free_disk_bytes(tmp_path / "not" / "yet")
    assert here > 0
    assert abs(here - there) < 2**30  # others write meanwhile


@pytest.mark.skipif(sys.platform != "linux", reason="madvise(2) is Linux's")
def test_huge_pages_are_asked_for_where_a_tensor_has_whole_ones() -> None:
    tensor = machine.prefer_huge_pages(torch.empty(3 * machine.HUGE_PAGE, dtype=torch.uint8))
    place = tensor.data_ptr() + machine.HUGE_PAGE  # within its first whole page or its second
    flags, within = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ", 1)[0]:
            first, last = (int(bound, 16) for bound in line.split(" ", 1)[0].split("-"))
            within = first <= place < last
        elif within and line.startswith("VmFlags:"):
            flags = line.split()
    assert "hg" in flags
    small = machine.prefer_huge_pages(torch.ones(10))
    assert small.tolist() == [1.0] * 10
    assert machine.prefer_huge_pages(torch.empty(5, device="meta")).shape == (5,)


def break_off(file: Path, text: str, error: type[BaseException], *, resume: bool = False) -> None:
    with machine.written_whole(file, resume=resume) as partial:
        partial.write_text(text)
        raise error


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with machine.written_whole(file) as partial:
        partial.write_text("first")
        assert partial.name.endswith(machine.PARTIAL)
        assert not file.exists()
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            break_off(file, "seco", error)
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_written_whole_and_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (tmp_path / f".model{machine.PARTIAL}").mkdir()
    (tmp_path / f".model{machine.PARTIAL}" / "old").touch()
    with machine.written_whole(folder) as partial:
        (partial / "layers").mkdir(parents=True)
        (partial / "layers" / "0").write_text("weights")
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["model", "layers", "0"]


def test_what_can_be_resumed_stays_where_it_breaks(tmp_path: Path) -> None:
    file = tmp_path / "blob"
    with pytest.raises(KeyboardInterrupt):
        break_off(file, "be", KeyboardInterrupt, resume=True)
    with machine.written_whole(file, resume=True) as partial, partial.open("a") as out:
        out.write("gun")
    assert file.read_text() == "begun"


def test_all_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(machine, "_sync", lambda path: synced.append((path.name, (tmp_path / "model").exists())))
    with machine.written_whole(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "weights").touch()
    assert [(name, there) for name, there in synced if not name.endswith(".partial")] == [
        ("weights", False), (tmp_path.name, True),
    ]  # fmt: skip
    assert synced[0][0].startswith(".model.")
    assert synced[0][1] is False


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 250)  # close to the longest name
    with machine.written_whole(file) as one, machine.written_whole(file) as two:
        one.write_text("one")
        two.write_text("two")
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_stays(tmp_path: Path) -> None:
    folder, told = tmp_path / "folder", tmp_path / "told"
    folder.mkdir()
    living = forks.start(write_half, folder / "a.json", told)
    deadline = time.monotonic() + 60
    while not told.exists():
        assert living.exitcode is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (left,) = folder.iterdir()
    with machine.written_whole(folder / "a.json") as partial:
        partial.write_text("mine")
    assert left.exists()
    living.kill()
    living.join(60)
    with machine.written_whole(folder / "a.json") as partial:
        partial.write_text("mine too")
    assert [path.name for path in folder.iterdir()] == ["a.json"]


def write_half(file: Path, told: Path) -> None:
    """To be called in a process of its own, which is killed then."""
    with machine.written_whole(file) as partial:
        partial.write_text("half")
        told.touch()
        time.sleep(600)
