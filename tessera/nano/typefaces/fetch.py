"""Fetches the typefaces of the manifest: Debian's packages down, the wanted files out, cut, and verified.

Nothing is installed and no root is needed. What already lies in the folder, cut and undamaged, is
not fetched again, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tessera.errors import CheckpointError, FetchError, UsageError, counted
from tessera.nano.typefaces import Typeface, typefaces
from tessera.nano.typefaces.cut import CUTTER, cut, require_fonttools

INDEX = "SHA256SUMS"  # of the cut files, as sha256sum writes them, after a line that names the cutter
DOWNLOADS = "packages"  # a folder in the same place, for as long as one is needed
FIRST_LINE = f"# cutter {CUTTER}"
Log = Callable[[str], None]


def fetch(out: Path, debs: Path | None, log: Log) -> int:
    """Make the folder hold every cut file of the manifest; returns how many had to be made.

    `debs` is a folder that may hold packages already; those that it lacks are downloaded.
    """
    require_fonttools()
    out.mkdir(parents=True, exist_ok=True)
    sound = _sound(out)
    missing: dict[str, list[Typeface]] = {}
    for face in typefaces():
        if face.cut_name not in sound:
            missing.setdefault(face.package, []).append(face)
    lines = [FIRST_LINE, *(f"{digest}  {name}" for name, digest in sound.items())]
    _write(out / INDEX, "".join(f"{line}\n" for line in lines).encode())
    with ProcessPoolExecutor(os.cpu_count()) as pool, (out / INDEX).open("a", encoding="utf-8") as index:
        for package, wanted in missing.items():
            deb = _package(wanted[0], out / DOWNLOADS, debs)
            sources = _extract(deb, wanted)
            names = [f"{face.file} of {package}" for face in wanted]
            for face, data in zip(wanted, pool.map(cut, sources, names, chunksize=4), strict=True):
                _write(out / face.cut_name, data)
                print(f"{hashlib.sha256(data).hexdigest()}  {face.cut_name}", file=index, flush=True)
            log(f"{package}: {counted(len(wanted), 'file')}")
            if deb.parent == out / DOWNLOADS:
                deb.unlink()
    shutil.rmtree(out / DOWNLOADS, ignore_errors=True)
    return sum(map(len, missing.values()))


def _sound(out: Path) -> dict[str, str]:
    """The cut files that lie in the folder as this cutter wrote them, with their digests."""
    index = out / INDEX
    lines = index.read_text(encoding="utf-8").splitlines() if index.is_file() else []
    if lines[:1] != [FIRST_LINE]:
        return {}
    named = (line.partition("  ") for line in lines[1:])
    return {name: digest for digest, _, name in named if _digest(out / name) == digest}


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _write(path: Path, data: bytes) -> None:
    """All of the file or none: it takes its name when it is complete."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _package(face: Typeface, downloads: Path, debs: Path | None) -> Path:
    """The face's package as a file: one that lies there already, or downloaded."""
    for folder in (debs, downloads):
        found = sorted(folder.glob(f"{face.package}_*.deb")) if folder else []
        if found:
            return found[-1]
    _need("apt-get", "dpkg-deb")
    downloads.mkdir(parents=True, exist_ok=True)
    run = subprocess.run(
        ["apt-get", "download", face.package], cwd=downloads, capture_output=True, text=True, check=False
    )
    found = sorted(downloads.glob(f"{face.package}_*.deb"))
    if run.returncode != 0 or not found:
        said = (run.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise FetchError(
            f"apt-get could not download {face.package} {face.version} ({said}); run `apt-get update`, or put "
            "the package into a folder and name it with --debs"
        )
    return found[-1]


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            raise UsageError(
                f"`tessera nano fonts` takes typefaces from Debian packages with apt-get and dpkg-deb, and {program} "
                "is not here; run it on Debian 12 or in its container, and copy the folder"
            )


def _extract(deb: Path, wanted: Sequence[Typeface]) -> list[bytes]:
    """The wanted files of a package, each compared with the manifest."""
    _need("dpkg-deb")
    files: dict[str, bytes] = {}
    names = {face.file for face in wanted}
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        try:
            with tarfile.open(fileobj=run.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if name in names and (content := archive.extractfile(member)) is not None:
                        files[name] = content.read()
        except tarfile.TarError as error:
            raise CheckpointError(f"{deb} is not a complete Debian package; delete it and run again") from error
    for face in wanted:
        if face.file not in files:
            raise CheckpointError(_differs(face, deb, "is missing"))
        digest = hashlib.sha256(files[face.file]).hexdigest()
        if digest != face.sha256:
            raise CheckpointError(_differs(face, deb, f"has the SHA-256 {digest}, not {face.sha256}"))
    return [files[face.file] for face in wanted]


def _differs(face: Typeface, deb: Path, how: str) -> str:
    return (
        f"{face.file} {how} in {deb.name}; the manifest was made with {face.package} {face.version}: fetch that "
        "version (Debian 12 has it) into a folder and name it with --debs"
    )
