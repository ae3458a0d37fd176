"""Tesseract as the reader beside nano: it only transcribes, and reads best what is enlarged twice."""

from __future__ import annotations

import io
import shutil
import subprocess

from PIL import Image

from tessera.errors import UsageError

NAME = "tesseract"
ENLARGED = 2
ONE_BLOCK = "6"  # page segmentation: a single uniform block of text


def read(picture: Image.Image) -> str:
    """What Tesseract's English model reads in a picture."""
    program = shutil.which(NAME)
    if program is None:
        raise UsageError("tesseract is not on the PATH; on Debian: apt-get install tesseract-ocr")
    file = io.BytesIO()
    size = (picture.width * ENLARGED, picture.height * ENLARGED)
    picture.convert("L").resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    command = [program, "-", "-", "--psm", ONE_BLOCK, "-l", "eng"]
    done = subprocess.run(command, input=file.getvalue(), capture_output=True, timeout=120)
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise UsageError(f"tesseract failed ({reason}); does `tesseract --list-langs` name eng?")
    return done.stdout.decode(errors="replace").strip()
