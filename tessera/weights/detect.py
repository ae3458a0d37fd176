"""Which layout a folder holds, and whether it is whole.

Layouts are told by their side file: params.json for the official one, config.json for Hugging
Face's. A folder with both is read in the official layout, whose names are ours.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tessera.errors import CheckpointError, ModelNotFoundError

Layout = Literal["mistral", "hf"]
INDEX = "model.safetensors.index.json"


def detect(folder: Path) -> Layout:
    """The folder's layout; raises CheckpointError that names what is missing and how to get it."""
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not a folder; give the folder that holds the model's files.")
    official = (folder / "params.json").is_file(), bool(list(folder.glob("consolidated*.safetensors")))
    hf = (folder / "config.json").is_file(), bool(list(folder.glob("model*.safetensors")))
    if all(official):
        return "mistral"
    if all(hf):
        return "hf"
    if unsafe := sorted([*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt")]):
        raise CheckpointError(
            f"{folder} holds its weights as {unsafe[0].name}, a pickle, which can run code when it is opened and is "
            "never read; get the safetensors files of the same model."
        )
    missing = _missing(official, hf)
    raise CheckpointError(f"{folder} holds no whole model: {missing}; `tessera download REPOSITORY` gets all files.")


def _missing(official: tuple[bool, bool], hf: tuple[bool, bool]) -> str:
    if official[0]:
        return "params.json is there, consolidated.safetensors is missing"
    if official[1]:
        return "consolidated*.safetensors is there, params.json is missing"
    if hf[0]:
        return "config.json is there, model*.safetensors is missing"
    if hf[1]:
        return "model*.safetensors is there, config.json is missing"
    return "neither params.json with consolidated.safetensors nor config.json with model*.safetensors is there"


def weight_files(folder: Path, layout: Layout) -> list[Path]:
    """The safetensors files of a layout, all that its index names; raises CheckpointError for one missing."""
    if layout == "mistral":
        return sorted(folder.glob("consolidated*.safetensors"))
    if not (folder / INDEX).is_file():
        return sorted(folder.glob("model*.safetensors"))
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{folder / INDEX} has no weight_map; download it again.")
    files = [folder / name for name in sorted(set(weight_map.values()))]
    for file in files:
        if file.parent != folder or not file.is_file():
            raise CheckpointError(f"{file.name} is named in {INDEX} and missing from {folder}; download it again.")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises CheckpointError that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} could not be read; download it again.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON; download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; download it again.")
    return content
