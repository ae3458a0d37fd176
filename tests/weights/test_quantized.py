"""The quantized folder: its files as any reader finds them, mapped as they lie, and everything that can be wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from tessera.errors import CheckpointError
from tessera.kernels.packed_weight import unpack_codes
from tessera.kernels.quantized_weight import values_of
from tessera.quantize.plan import Options
from tessera.quantize.run import quantize
from tessera.weights.detect import MANIFEST
from tests.loading import load_model
from tests.weights.checkpoints import LLAVA, edit_json, edit_tensors, write_mistral_folder

WQ = "layers.0.attention.wq"
LAYER = "layers-00.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    write_mistral_folder(folder / "a")
    quantize(folder / "a", folder / "q", Options())
    return folder / "q"


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "q"))


def test_files_are_mapped_where_they_lie(folder: Path) -> None:
    """The safetensors library reads the same; numbers are aligned for vectors; writing to a map changes no file."""
    before = (folder / LAYER).read_bytes()
    packed = load_model(folder, device="cpu").model.get_submodule(WQ).quantized
    again = load_model(folder, device="cpu").model.get_submodule(WQ).quantized
    stored = load_file(folder / LAYER)
    for name, tensor in packed.tensors.items():
        assert torch.equal(tensor, stored[f"{WQ}.{name}"])
        assert tensor.data_ptr() % 64 == 0
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert maps.read_text().count(f"{folder / LAYER}\n") >= 2
    packed.codes.fill_(0)
    assert not again.codes.eq(0).all()
    assert (folder / LAYER).read_bytes() == before
    # A row as the layout says: bytes of 4 columns, and of 16 columns further in the upper halves.
    row = stored[f"{WQ}.codes"][0, 0].view(4, 16, 4)[:, 5].flatten()
    assert torch.equal(unpack_codes(again)[5, :32], torch.cat([row & 15, row >> 4]))


def three_bits(fields: dict[str, NDArray[Any]], rows: int) -> NDArray[np.float32]:
    """A matrix (N, K) of 3 bits from its fields in a file, decoded number by number, in numpy alone."""
    levels = [-16, -10, -6, -2, 1, 4, 8, 13]
    codes, scales = fields["codes"], fields["scales"].astype(np.float32)
    if "super_scales" in fields:
        supers = fields["super_scales"].astype(np.float32)
        scales = fields["scales"].view(np.int8).astype(np.float32) * np.repeat(supers, 8, axis=1)
    matrix = np.empty((rows, codes.shape[1] * 32), np.float32)
    for row, column in np.ndindex(*matrix.shape):
        tile, group, within = row // 16, column // 32, column % 32
        first, second, third = (int(each) for each in codes[tile, group, 4 * (row % 16) + within % 4 :: 64])
        code = {
            0: first & 7,
            1: first >> 4 & 7,
            2: second & 7,
            3: second >> 4 & 7,
            4: third & 7,
            5: third >> 4 & 7,
            6: first >> 3 & 1 | second >> 2 & 2 | third >> 1 & 4,
            7: first >> 7 | second >> 6 & 2 | third >> 5 & 4,
        }[within // 4]
        matrix[row, column] = levels[code] * scales[tile, group, row % 16]
    return matrix


def test_three_bits_in_a_file_are_what_the_model_computes_with(tmp_path: Path) -> None:
    """Matrices with super-scales, 256 columns wide, and without; the head in 3 bits as well."""
    config = dataclasses.replace(LLAVA, hidden_dim=256)
    original = write_mistral_folder(tmp_path / "a", config)
    quantize(tmp_path / "a", tmp_path / "q", Options("3", "3"))
    model = load_model(tmp_path / "q", device="cpu").model
    for linear, file in ((WQ, LAYER), ("layers.0.feed_forward.w2", LAYER), ("output", "outer.safetensors")):
        stored = load_file(tmp_path / "q" / file)
        fields = {name.removeprefix(f"{linear}."): stored[name].numpy() for name in stored if name.startswith(linear)}
        assert ("super_scales" in fields) == linear.endswith("w2")
        matrix = original[f"{linear}.weight"].float()
        decoded = torch.from_numpy(three_bits(fields, len(matrix)))
        assert torch.equal(values_of(model.get_submodule(linear).quantized), decoded)
        assert float((decoded - matrix).norm() / matrix.norm()) < 0.17


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def change(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / MANIFEST, **changes)


def hold(name: str, tensor: torch.Tensor | None) -> Callable[[Path], None]:
    return lambda folder: edit_tensors(folder / LAYER, **{name: tensor})


def cut(folder: Path) -> None:
    (folder / LAYER).write_bytes((folder / LAYER).read_bytes()[:-10])


def write_manifest(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / MANIFEST).write_text(text)

    return write


def set_record(**changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / MANIFEST).read_text())
        content["linears"][WQ] |= changes
        (folder / MANIFEST).write_text(json.dumps(content))

    return edit


def add_record(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["linears"]["layers.7.attention.wq"] = content["linears"][WQ]
    (folder / MANIFEST).write_text(json.dumps(content))


def narrow(folder: Path) -> None:
    """One linear of 100 columns, which are no whole groups."""
    content = json.loads((folder / MANIFEST).read_text())
    name = "layers.0.feed_forward.w2"
    edit_json(folder / MANIFEST, linears={name: content["linears"][name]})
    edit_json(folder / "params.json", hidden_dim=100)


def misalign(folder: Path) -> None:
    """One odd tensor in front, so that the others start in the midst of a number."""
    tensors = load_file(folder / LAYER)
    save_file(tensors, folder / LAYER)
    data = (folder / LAYER).read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + length].rstrip() + b" " * (-(len(data[8 : 8 + length].rstrip())) % 2 + 1)
    (folder / LAYER).write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (remove(LAYER), r"layers-00\.safetensors, one of 4, is missing"),
        (remove("params.json"), r"params\.json could not be read"),
        (remove("tekken.json"), r"no tekken\.json"),
        (cut, r"layers-00\.safetensors is cut short"),
        (misalign, r"starts at byte [\d,]+, in the midst of a number"),
        (write_manifest("{"), r"tessera\.json is not valid JSON"),
        (write_manifest("[]"), r"holds no JSON object"),
        (change(format_version=2), r"format_version 2 and this version of Tessera reads 1"),
        (change(format_version=None), r"format_version None"),
        (change(group_size=64), r"group_size 64; the only one is 32"),
        (change(files=None), r"is not a whole manifest"),
        (change(files=[]), r"has no list of files"),
        (narrow, r"names the linear 'layers\.0\.feed_forward\.w2'.* or not in a shape that int4 can hold"),
        (
            change(files=["../a/consolidated.safetensors"]),
            r"names '\.\./a/consolidated\.safetensors', which is outside",
        ),
        (change(linears=3), r"is not a whole manifest"),
        (change(source=3), r"is not a whole manifest"),
        (change(options={"bits": 4}), r"is not a whole manifest"),
        (
            set_record(scheme="int2"),
            r"'layers\.0\.attention\.wq' is held by the scheme 'int2'.*int3, int4, int8, fp8",
        ),
        (set_record(scheme="int8"), r"wq\.codes' is torch\.uint8 of the shape \(6, 2, 256\).* \(6, 2, 512\)"),
        (set_record(scheme=["int8"]), r"scheme \['int8'\]"),
        (set_record(colour="red"), r"is not a whole manifest"),
        (add_record, r"names the linear 'layers\.7\.attention\.wq', which this architecture does not have"),
        (hold(f"{WQ}.scales", None), r"'layers\.0\.attention\.wq\.scales' that the manifest lists is in none"),
        (hold(f"{WQ}.scales", torch.zeros(6, 2, 16)), r"wq\.scales' is torch\.float32 .* ask for torch\.float16"),
        (hold(f"{WQ}.minimums", torch.zeros(6, 2, 16).half()), r"'layers\.0\.attention\.wq\.minimums' \(one of 1"),
        (hold("layers.0.ffn_norm.weight", None), r"1 of the model's 30 tensors are missing"),
        (
            hold("layers.0.ffn_norm.weight", torch.ones(64, dtype=torch.uint8)),
            r"'layers\.0\.ffn_norm\.weight' is stored as U8, which means nothing without",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_folder_is_refused_by_name(damage: Callable[[Path], None], says: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(CheckpointError) as refused:
        load_model(folder, device="cpu")
    assert re.search(says, str(refused.value)), refused.value
