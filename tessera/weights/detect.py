"""Detects a folder's layout and checks that it is complete; holds the table of all known layouts.

Layouts are recognized by their side file: tessera.json for our own quantized one, params.json for the
official one, config.json for Hugging Face's. A folder with both of the last is read in the official
layout, whose names are ours. A GGUF model is a file, recognized by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tessera.errors import CheckpointError, ModelNotFoundError
from tessera.model.config import ModelConfig
from tessera.prompt import packaged_tokenizer_path

Layout = Literal["mistral", "hf", "tessera", "gguf"]
GGUF_SUFFIX = ".gguf"
MANIFEST = "tessera.json"
UNFINISHED = ".tessera.json.partial"  # the manifest while `tessera quantize` runs
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")
PICKLES = ("*.bin", "*.pth", "*.pt", "*.ckpt", "*.pkl")
TOKENIZER_FILES = ("tekken.json", "tokenizer.model.v7m1", "tokenizer.model.v7", "tokenizer.model.v3")
MAX_JSON_BYTES = 100_000_000  # a vocabulary, a model's largest JSON file, has 20 MB
EXAMPLE_ID = "mistralai/Pixtral-12B-2409"


def _listed_names(folder: Path) -> list[str]:
    names = read_json(folder / MANIFEST).get("files")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{folder / MANIFEST} has no list of files; quantize again, or download it again.")
    return names


def _found_names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("consolidated*.safetensors"))


def _sharded_names(folder: Path) -> list[str]:
    if (folder / INDEX).is_file():
        weight_map = read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise CheckpointError(f"{folder / INDEX} has no weight_map; download it again.")
        return sorted(set(weight_map.values()))
    names = sorted(file.name for file in folder.glob("model*.safetensors"))
    # Shards have their number and total in their names.
    counts = [int(match[1]) for name in names if (match := SHARD.fullmatch(name))]
    if not counts:
        return names
    return [f"model-{number:05}-of-{counts[0]:05}.safetensors" for number in range(1, counts[0] + 1)]


@dataclass(frozen=True)
class Format:
    """One layout of a model; the first of its marks is the file that describes the model."""

    module: str  # its `open` makes a checkpoint; only named here, since a format's libraries take time to import
    marks: tuple[str, ...] = ()  # patterns that must all match files in such a folder
    missing: str = ""  # name of the missing weights in an error
    files: tuple[str, ...] = ()  # patterns of all files to download
    weight_names: Callable[[Path], list[str]] = lambda _: []


# If a folder or a repository has several, the first one's files are read. A GGUF model is not a folder.
FORMATS: dict[Layout, Format] = {
    "tessera": Format(
        "tessera.weights.quantized",
        marks=(MANIFEST,),
        files=(MANIFEST, "params.json", "*.safetensors", *TOKENIZER_FILES),
        weight_names=_listed_names,
    ),
    "mistral": Format(
        "tessera.weights.mistral",
        marks=("params.json", "consolidated*.safetensors"),
        missing="consolidated.safetensors",
        files=("params.json", "consolidated*.safetensors", *TOKENIZER_FILES),
        weight_names=_found_names,
    ),
    "hf": Format(
        "tessera.weights.hf",
        marks=("config.json", "model*.safetensors"),
        missing="model*.safetensors",
        files=(
            "config.json",
            "generation_config.json",
            "model*.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
            *TOKENIZER_FILES,
        ),
        weight_names=_sharded_names,
    ),
    "gguf": Format("tessera.weights.gguf.read"),
}
PACKAGED_TOKENIZER: tuple[Layout, ...] = ("hf", "gguf")  # their uploads lack tekken.json


def detect(folder: Path) -> Layout:
    """Return the layout of a folder or file; raises CheckpointError that names what is missing and how to get it."""
    if is_gguf(folder):
        return "gguf"
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not a folder; give the folder that holds the model's files.")
    if (folder / UNFINISHED).is_file() and not (folder / MANIFEST).is_file():
        raise CheckpointError(
            f"{folder} holds half a model: its quantization was interrupted; run the same `tessera quantize` again, it "
            "resumes where it stopped."
        )
    found = {
        layout: [any(file.is_file() for file in folder.glob(mark)) for mark in form.marks]
        for layout, form in FORMATS.items()
        if form.marks
    }
    for layout, marks in found.items():
        if all(marks):
            return layout
    remedy = f"get all files with `tessera download {hub_id(folder) or EXAMPLE_ID}`"
    if unsafe := sorted(file.name for pattern in PICKLES for file in folder.glob(pattern)):
        raise CheckpointError(
            f"{folder} holds its weights as {unsafe[0]}, a pickle, which can run code when it is opened and is "
            f"never read; it must be safetensors: {remedy}."
        )
    if half := next((layout for layout, marks in found.items() if any(marks)), None):
        side_file, weights = FORMATS[half].marks
        there, missing = (side_file, FORMATS[half].missing) if found[half][0] else (weights, side_file)
        raise CheckpointError(f"{folder} holds half a model: {there} is there, {missing} is missing; {remedy}.")
    if files := sorted(file for file in folder.iterdir() if is_gguf(file)):
        raise CheckpointError(f"{folder} holds GGUF files, of which one must be named: give {files[0]}, for example.")
    raise CheckpointError(
        f"{folder} has an unknown layout: it holds neither params.json with consolidated.safetensors nor "
        f"config.json with model*.safetensors; {remedy}."
    )


def is_gguf(path: Path) -> bool:
    """Return True if a path is a GGUF file, by its name."""
    return is_gguf_name(path) and path.is_file()


def is_gguf_name(path: Path) -> bool:
    return path.suffix.lower() == GGUF_SUFFIX


def sole_gguf(folder: Path) -> Path | None:
    """Return the only text model among the GGUF files of a folder without any other layout; None if not just one."""
    if any(folder.glob("*.safetensors")) or any((folder / name).is_file() for name in (MANIFEST, "params.json")):
        return None
    texts = [file for file in folder.iterdir() if is_gguf(file) and "mmproj" not in file.name.lower()]
    return texts[0] if len(texts) == 1 else None


def hub_id(folder: Path) -> str | None:
    """Return the hub id of a folder in the hub's cache, models--ORGANISATION--NAME/snapshots/COMMIT."""
    *_, repository, snapshots, _ = ("", "", *folder.absolute().parts)
    if snapshots != "snapshots" or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/")


def weight_files(folder: Path, layout: Layout) -> list[Path]:
    """Return a layout's safetensors files, all that its index names; raises CheckpointError if one is missing."""
    names = FORMATS[layout].weight_names(folder)
    for name in names:
        if Path(name).name != name:
            index = folder / (MANIFEST if layout == "tessera" else INDEX)
            raise CheckpointError(f"{index} names {name!r}, which is outside its folder; download it again.")
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder}: the weights file {name}, one of {len(names)}, is missing; "
                f"get it with `tessera download {hub_id(folder) or EXAMPLE_ID}`."
            )
    return [folder / name for name in names]


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file; raises CheckpointError that names the file."""
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise CheckpointError(f"{path} has {size:,} bytes and may have {MAX_JSON_BYTES:,}; download it again.")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} could not be read; download it again.") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON; download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; download it again.")
    return content


def find_tokenizer(folder: Path, layout: Layout, config: ModelConfig) -> Path | None:
    """Find the folder's tokenizer; if Pixtral 12B in Hugging Face's layout or GGUF has none, the packaged file.

    A converted tokenizer.json can split text wrongly and is not read.
    """
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return folder / name
    # Related models have other chat formats with the same ids, so only Pixtral 12B's shape uses its file.
    vision = config.vision_encoder
    is_pixtral_12b = config.vocab_size == 131_072 and vision.spatial_merge_size == 1 and vision.adapter_bias
    return packaged_tokenizer_path() if layout in PACKAGED_TOKENIZER and is_pixtral_12b else None


def no_tokenizer(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder} has no tekken.json, the tokenizer's file; get it with `tessera download "
        f"{hub_id(folder) or EXAMPLE_ID}`, or copy it from the model's original repository."
    )
