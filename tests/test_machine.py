"""Free memory and disk, as the operating system counts them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tessera import machine

CPU = torch.device("cpu")


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < machine.available_bytes(CPU) < 2**46


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
