"""`tessera presets`: the presets that there are, and a preset's file."""

from __future__ import annotations

from pathlib import Path

from tessera.cli.session import print_json, say, write_reply
from tessera.documents import presets
from tessera.errors import UsageError


def run_presets(folder: Path | None, *, as_json: bool) -> None:
    found = list(presets.every(folder))
    known = [each for each in found if not isinstance(each, UsageError)]
    if as_json:
        told = [{"name": each.name, "title": each.title, "temperature": each.temperature} for each in known]
        print_json({"presets": told, "own": str(presets.own_folder())})
    else:
        width = max(len(each.name) for each in known)
        for each in known:
            print(f"{each.name:{width}}  {each.title}")
        say(f"your own belong into {presets.own_folder()}; `tessera presets show NAME` prints one to begin with")
    for error in found:
        if isinstance(error, UsageError):
            say(str(error))


def run_show(name: str, folder: Path | None) -> None:
    """Print a preset's file, after checking that it can be read."""
    preset = presets.named(name.removeprefix("preset:"), folder=folder)
    write_reply(presets.files(folder)[preset.name].read_text(encoding="utf-8"))
