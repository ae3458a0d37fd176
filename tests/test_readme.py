"""The README's promises: its runnable blocks run, in their order, and what it points to exists.

Blocks marked `sh` and `python` are run in a folder that holds the two demonstration images; those
marked `console` show what needs the network, large weights or a new environment, and are not.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forks

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "tessera" / "nano" / "demo"
WEIGHTS = ROOT / "tessera" / "nano" / "weights" / "consolidated.safetensors"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
RUNNABLE = [(language, code) for language, code in BLOCKS if language in ("sh", "python")]


def test_every_block_says_what_it_is() -> None:
    assert README.count("\n```") == 2 * len(BLOCKS)
    assert {language for language, _ in BLOCKS} <= {"sh", "python", "console"}
    assert len(RUNNABLE) >= 3


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the bundled model's weights are not in this checkout")
@pytest.mark.parametrize(("language", "code"), RUNNABLE, ids=[code.split("\n")[0][:40] for _, code in RUNNABLE])
def test_the_block_runs(language: str, code: str, tmp_path: Path) -> None:
    for image in DEMO.glob("*.png"):
        shutil.copy(image, tmp_path)
    done = run_python(code, tmp_path) if language == "python" else run_shell(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "block.py").write_text(code, encoding="utf-8")
    return forks.run(folder / "block.py", folder=folder, timeout=200)


def run_shell(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}  # this checkout, whichever is installed
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_the_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_demonstration_is_the_one_make_runs() -> None:
    shown = re.findall(r'^\$ tessera ask (".*?") -i tessera/nano/demo/(\w+\.png)$', README, re.MULTILINE)
    made = re.findall(r'tessera ask (".*?") -i \$\(DEMO\)/(\w+\.png)', (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert shown == made
