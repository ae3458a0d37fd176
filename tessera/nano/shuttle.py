"""Moving part of nano's training run to a machine that is available for minutes, and back.

`pack` makes two small files of a run and the cut typefaces; `go` trains from them on the
other machine, drawing on its cores, and writes the run in pieces; `unpack` joins them here.
The run is the same one: it continues from the checkpoint, there and back.
"""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

from tessera.errors import UsageError
from tessera.nano.typefaces import fonts_folder, typefaces
from tessera.training.checkpoint import load_checkpoint, save_checkpoint

FACES, STATE = "faces.zip", "state.safetensors"
LARGEST_LOAD_BYTES = 64 * 2**20
PIECE_BYTES = 15 * 2**20
MOMENTUM = "momentum_buffer"


def pack(run: Path, out: Path) -> None:
    """Write the files for the other machine; momentum is stored in bfloat16, which changes it by 0.4 % at most."""
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out / FACES, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for face in typefaces():
            archive.write(fonts_folder() / face.cut_name, face.cut_name)
    if (run / "checkpoint.safetensors").exists():
        save_narrow(run / "checkpoint.safetensors", out / STATE)
    total = sum(file.stat().st_size for file in out.iterdir())
    if total > LARGEST_LOAD_BYTES:
        raise UsageError(f"{out} holds {total / 2**20:.0f} MiB and {LARGEST_LOAD_BYTES // 2**20} may travel")
    print(f"{out}: {total / 2**20:.0f} MiB")


def save_narrow(source: Path, target: Path) -> None:
    tensors, step = load_checkpoint(source)
    narrow = {name: t.to(torch.bfloat16) if name.endswith(MOMENTUM) else t for name, t in tensors.items()}
    save_checkpoint(target, narrow, step)


def go(load: Path, run: Path, out: Path, seconds: float, device: str, workers: int) -> None:
    """Train for about `seconds` in the folder `run`, then write its state to `out` in pieces."""
    from tessera.nano.recipe import Recipe
    from tessera.nano.train import train

    faces = run / "faces"
    with zipfile.ZipFile(load / FACES) as archive:
        archive.extractall(faces)
    os.environ["TESSERA_NANO_FONTS"] = str(faces)
    if (load / STATE).exists():
        tensors, step = load_checkpoint(load / STATE)
        save_checkpoint(run / "checkpoint.safetensors", {name: t.float() for name, t in tensors.items()}, step)
    train(run, Recipe(), device=device, workers=workers, seconds=seconds, log=lambda line: print(line, flush=True))
    save_narrow(run / "checkpoint.safetensors", run / STATE)
    data = (run / STATE).read_bytes()
    out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(data), PIECE_BYTES)):
        (out / f"state.{number:02}").write_bytes(data[start : start + PIECE_BYTES])


def unpack(pieces: Path, run: Path) -> None:
    """Join the pieces into the run's checkpoint, from which `tessera nano train` continues."""
    found = sorted(pieces.glob("state.[0-9][0-9]"))
    if not found:
        raise UsageError(f"{pieces} holds no state.00; give the folder that `go` wrote")
    run.mkdir(parents=True, exist_ok=True)
    joined = run / STATE
    joined.write_bytes(b"".join(piece.read_bytes() for piece in found))
    tensors, step = load_checkpoint(joined)
    save_checkpoint(run / "checkpoint.safetensors", {name: t.float() for name, t in tensors.items()}, step)
    joined.unlink()
    print(f"{run}: step {step}")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tessera.nano.shuttle", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="Write what the other machine needs.")
    packing.add_argument("--run", type=Path, default=Path("runs/nano"))
    packing.add_argument("--out", type=Path, default=Path("runs/shuttle"))
    going = commands.add_parser("go", help="Train there.")
    going.add_argument("--load", type=Path, default=Path("runs/shuttle"))
    going.add_argument("--run", type=Path, default=Path("runs/there"))
    going.add_argument("--out", type=Path, required=True)
    going.add_argument("--seconds", type=float, default=480.0)
    going.add_argument("--device", default="cuda")
    going.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    unpacking = commands.add_parser("unpack", help="Put the pieces together here.")
    unpacking.add_argument("pieces", type=Path)
    unpacking.add_argument("--run", type=Path, default=Path("runs/nano"))
    given = vars(parser.parse_args(arguments))
    commands_by_name: dict[str, Callable[..., None]] = {"pack": pack, "go": go, "unpack": unpack}
    commands_by_name[given.pop("command")](**given)


if __name__ == "__main__":
    main(sys.argv[1:])
