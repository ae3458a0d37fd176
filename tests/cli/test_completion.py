"""What the Tab key offers, asked of each shell that is installed by the function that it is given."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.server.settings import Settings

# Each shell reads the function, and completes the words of $LINE in a script.
ASKED = {
    "bash": 'eval "$(cat $SCRIPT)"; COMP_WORDS=($LINE); [[ $LINE == *" " ]] && COMP_WORDS+=("");'
    " COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _tessera_completion tessera; printf '%s\\n' \"${COMPREPLY[@]}\"",
    "zsh": 'compdef() { : }; _arguments() { local list=${${1#"*: :(("}%"))"}; print -l -- ${${(Qz)list}%%:*} };'
    ' source $SCRIPT; words=(${=LINE}); [[ $LINE == *" " ]] && words+=(""); CURRENT=$#words; _tessera_completion',
    "fish": "source $SCRIPT; complete -C $LINE",
}
FLAGS = {"--port", "--max-model-len", "--enable-prefix-caching", "--no-enable-prefix-caching", "--config"}


@pytest.fixture(params=ASKED)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@functools.cache
def completion_script(shell: str) -> bytes:
    """The function that the shell is given; it is the same for every command."""
    command = [sys.executable, "-m", "tessera", "--show-completion", shell]
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    return subprocess.run(command, capture_output=True, check=True, env=environment).stdout


def offered(shell: str, line: str, folder: Path) -> set[str]:
    """The words that a shell offers for the last one of the line, without what it says of them."""
    command = folder / "tessera"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m tessera "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "LINE": line,
        "SCRIPT": str(folder / "script"), "HOME": str(folder), "HF_HOME": str(folder),
    }  # fmt: skip
    (folder / "script").write_bytes(completion_script(shell))
    done = subprocess.run(
        [shell, "-c", ASKED[shell]], capture_output=True, text=True, env=environment, cwd=folder, check=True
    )
    return {line.partition("\t")[0] for line in done.stdout.splitlines()}


@pytest.mark.parametrize("command", ["tessera serve", "tessera config show"])
def test_the_servers_flags_are_offered(command: str, shell: str, tmp_path: Path) -> None:
    found = offered(shell, f"{command} --", tmp_path)
    assert found >= FLAGS
    assert len(found) > len(Settings.model_fields)
    assert "--swap-space" not in found  # a flag of vLLM's that is refused here


def test_values_of_the_servers_flags_are_offered(shell: str, tmp_path: Path) -> None:
    line = "tessera serve --max_model_len 64 --kv-cache-dtype "
    assert offered(shell, line, tmp_path) == {"auto", "float32", "bfloat16", "float16", "int8"}


def test_flags_and_models_of_other_commands_are_offered(shell: str, tmp_path: Path) -> None:
    assert "--schema" in offered(shell, "tessera ask --s", tmp_path)
    assert offered(shell, "tessera ask -m pix", tmp_path) == {"pixtral", "pixtral-large"}
    assert offered(shell, "tessera serve na", tmp_path) == {"nano"}
