"""Damaged and hostile files: only CheckpointError comes out, at once, and it names what is wrong."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind

from tessera.errors import CheckpointError
from tessera.weights.checkpoint import open_checkpoint
from tessera.weights.gguf.header import MAX_HEADER_BYTES, read_header
from tests.loading import load_model
from tests.weights.gguf.files import write_pair

HEAD = b"GGUF" + struct.pack("<I", 3)


def counted(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return counted(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, dimensions: tuple[int, ...], kind: int = 0, start: int = 0) -> bytes:
    return counted(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, start)


def file_of(num_tensors: int, num_pairs: int, body: bytes, data: bytes = b"\0" * 4096) -> bytes:
    return HEAD + struct.pack("<QQ", num_tensors, num_pairs) + body + data


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 4, 0)


HUGE = 2**63 - 1
HOSTILE = {
    "empty": (b"", "begins with b''"),
    "another format": (b"PK\x03\x04" + bytes(100), "begins with b'PK"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
    "version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "is of GGUF version 1"),
    "version 99": (b"GGUF" + struct.pack("<IQQ", 99, 0, 0), "is of GGUF version 99"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is written for big-endian machines"),
    "header cut": (HEAD + b"\1", "8 bytes are announced at byte 8"),
    "many pairs": (file_of(0, HUGE, b""), f"{HUGE:,} metadata entries are announced"),
    "many tensors": (file_of(HUGE, 0, b""), f"{HUGE:,} tensors are announced"),
    "long key": (file_of(0, 1, struct.pack("<Q", HUGE)), f"has {HUGE:,} bytes and may have 65,535"),
    "key beyond the file": (file_of(0, 1, struct.pack("<Q", 60_000)), "60,000 bytes are announced"),
    "key of no text": (file_of(0, 1, pair(b"\xff\xfe", 0, b"\0")), "is not UTF-8"),
    "long text": (file_of(0, 1, pair(b"a", 8, struct.pack("<Q", HUGE))), f"has {HUGE:,} bytes"),
    "key twice": (file_of(0, 2, pair(b"a", 0, b"\0") * 2), "has 'a' twice"),
    "unknown value type": (file_of(0, 1, pair(b"a", 13, b"\0")), "'a' has the unknown type 13"),
    "many numbers": (file_of(0, 1, pair(b"a", 9, struct.pack("<IQ", 4, HUGE))), f"an array of {HUGE:,} elements"),
    "numbers beyond the file": (file_of(0, 1, pair(b"a", 9, struct.pack("<IQ", 4, 9999))), "39,996 bytes are"),
    "many strings": (file_of(0, 1, pair(b"a", 9, struct.pack("<IQ", 8, HUGE))), f"an array of {HUGE:,} elements"),
    "strings beyond the file": (file_of(0, 1, pair(b"a", 9, struct.pack("<IQ", 8, 9999))), "bytes are announced"),
    "string of an array": (file_of(0, 1, pair(b"a", 9, struct.pack("<IQQ", 8, 1, HUGE))), "bytes are announced"),
    "nested arrays": (file_of(0, 1, pair(b"a", 9, nested(20_000))), "'a' is an array of arrays"),
    "no dimensions": (file_of(1, 0, tensor(b"a", ())), "'a' has 0 dimensions"),
    "many dimensions": (file_of(1, 0, counted(b"a") + struct.pack("<I", 2**32 - 1)), "has 4294967295 dimensions"),
    "dimension of 0": (file_of(1, 0, tensor(b"a", (0, 4))), "'a' has the dimensions (0, 4)"),
    "product beyond 64 bits": (file_of(1, 0, tensor(b"a", (2**33, 2**33, 2**33))), "is cut short: 'a' ends at byte"),
    "half a block": (file_of(1, 0, tensor(b"a", (33,), kind=8)), "Q8_0 needs multiples of 32"),
    "unknown tensor type": (file_of(1, 0, tensor(b"a", (4,), kind=999)), "'a' is of the unknown type 999"),
    "long tensor name": (file_of(1, 0, tensor(b"a" * 65, (4,))), "has 65 bytes and may have 64"),
    "offset not aligned": (file_of(1, 0, tensor(b"a", (4,), start=7)), "'a' starts at byte"),
    "offset of 64 bits": (file_of(1, 0, tensor(b"a", (4,), start=2**64 - 32)), "'a' starts at byte"),
    "tensor twice": (file_of(2, 0, tensor(b"a", (4,)) + tensor(b"a", (4,), start=32)), "has the tensor 'a' twice"),
    "overlap": (file_of(2, 0, tensor(b"a", (16,)) + tensor(b"b", (16,), start=32)), "'b' starts at byte"),
    "gap": (file_of(2, 0, tensor(b"a", (4,)) + tensor(b"b", (4,), start=320)), "'b' starts at byte"),
    "alignment of 0": (file_of(0, 1, pair(b"general.alignment", 4, struct.pack("<I", 0))), "alignment is 0"),
    "alignment of 48": (file_of(0, 1, pair(b"general.alignment", 4, struct.pack("<I", 48))), "alignment is 48"),
    "alignment of 2 GiB": (file_of(0, 1, pair(b"general.alignment", 4, struct.pack("<I", 2**31))), "alignment is 2147"),
    "alignment as text": (file_of(0, 1, pair(b"general.alignment", 8, counted(b"32"))), "alignment is '32'"),
    "parts as numbers": (file_of(0, 1, pair(b"split.count", 9, struct.pack("<IQII", 4, 2, 1, 1))), "is one of array"),
    "a part": (file_of(0, 1, pair(b"split.count", 2, b"\3\0")), "is one of 3 parts"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_at_once(name: str, tmp_path: Path) -> None:
    content, says = HOSTILE[name]
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(CheckpointError) as refused:
        read_header(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert says in str(refused.value)
    assert str(file) in str(refused.value)
    assert peak < 2_000_000


def test_a_header_that_fills_the_disk_is_not_read(tmp_path: Path) -> None:
    """A sparse file of 128 GiB that is all one array: reading stops at the limit."""
    file = tmp_path / "model.gguf"
    with file.open("wb") as out:
        out.write(HEAD + struct.pack("<QQ", 0, 40))
        for number in range(40):
            out.write(pair(b"%d" % number, 9, struct.pack("<IQ", 10, 2**20)))
            out.seek(2**23, 1)
        out.truncate(2**37)
    with pytest.raises(CheckpointError, match=rf"more than {MAX_HEADER_BYTES:,} bytes of header"):
        read_header(file)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pair(tmp_path_factory.mktemp("whole"), Kind.Q4_0)


def damages(data: bytes, header_bytes: int, count: int) -> Iterator[bytes]:
    """Copies with a bit flipped, eight bytes replaced by an extreme number, bytes removed, or the end cut."""
    draw = random.Random(0)
    for number in range(count):
        at = draw.randrange(header_bytes)
        if number % 4 == 0:
            yield data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        elif number % 4 == 1:
            yield data[:at] + draw.choice((bytes(8), b"\xff" * 8, struct.pack("<Q", 2**40))) + data[at + 8 :]
        elif number % 4 == 2:
            yield data[:at] + data[at + draw.randrange(1, 9) :]
        else:
            yield data[: draw.randrange(len(data))]


@pytest.mark.parametrize("part", ["tiny.gguf", "mmproj-tiny.gguf"])
def test_damage_anywhere_is_a_checkpoint_error_or_harmless(part: str, whole: Path, tmp_path: Path) -> None:
    for file in whole.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data, damaged = (tmp_path / part).read_bytes(), tmp_path / part
    header_bytes = min(entry.start for entry in read_header(damaged).tensors.values())
    tokenizer = open_checkpoint(tmp_path / "tiny.gguf").load_tokenizer()
    messages = []
    for content in damages(data, header_bytes, 240):
        damaged.write_bytes(content)
        try:
            checkpoint = open_checkpoint(tmp_path / "tiny.gguf")
            checkpoint.check_tokenizer(tokenizer)
        except CheckpointError as error:
            messages.append(str(error))
    assert all(str(tmp_path) in message for message in messages)
    assert len(messages) > 100  # the rest changed text that says nothing, or numbers within their bounds


@pytest.mark.parametrize("name", ["blk.1.ffn_up.weight", "token_embd.weight"])
def test_weights_that_are_no_numbers_are_refused(name: str, whole: Path, tmp_path: Path) -> None:
    for file in whole.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    entry = read_header(whole).tensors[name]
    content = bytearray(whole.read_bytes())
    content[entry.start : entry.start + 2] = b"\0\x7c"  # a scale of infinity
    (tmp_path / whole.name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"'{name}' has a scale that is not a finite number"):
        load_model(tmp_path / whole.name, device="cpu")


def test_a_file_that_shrinks_while_it_is_read(whole: Path, tmp_path: Path) -> None:
    for file in whole.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    checkpoint = open_checkpoint(tmp_path / whole.name)
    start = read_header(whole).tensors["blk.0.ffn_gate.weight"].start
    (tmp_path / whole.name).write_bytes(whole.read_bytes()[: start + 10])
    with pytest.raises(CheckpointError, match="is cut short"):
        checkpoint.linears["layers.0.feed_forward.w1"].load()
