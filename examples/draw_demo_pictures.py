"""Draws the two pictures that `make demo` asks about, with tools that nano's training never used.

The chart comes from matplotlib, the receipt from a web page that headless Chromium photographs.
Run from the repository's root: `python examples/draw_demo_pictures.py`, with a folder to draw
elsewhere; the drawn files are kept in the repository, so that nobody needs Chromium to run the
demonstration.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from PIL import Image

DEMO = Path(__file__).parents[1] / "tessera" / "nano" / "demo"
VISITORS = {"Berlin": 42, "Paris": 65, "Rome": 81, "Madrid": 37}  # thousands
RECEIPT_SIZE = (300, 372)  # pixels: width, height
RECEIPT = """<!doctype html>
<meta charset="utf-8">
<style>
  * { margin: 0; padding: 0; box-sizing: border-box; }
  body { width: 300px; height: 372px; padding: 18px 20px; background: #fff; color: #111;
         font: 15px/23px "DejaVu Sans Mono", monospace; }
  h1 { font-size: 18px; } header { text-align: center; margin-bottom: 12px; }
  div { display: flex; justify-content: space-between; }
  .line { border-top: 1px dashed #555; margin-top: 6px; padding-top: 6px; } .sum { font-weight: bold; font-size: 18px; }
</style>
<body>
<header><h1>Corner Bakery</h1>14 Mill Lane, Bristol</header>
<div><span>2024-09-17</span><span>08:42</span></div>
<div class="line"><span>2 x Sourdough</span><span>£7.80</span></div>
<div><span>Flat white</span><span>£3.20</span></div>
<div><span>Almond tart</span><span>£4.50</span></div>
<div class="line"><span>Subtotal</span><span>£15.50</span></div>
<div><span>VAT 20%</span><span>£3.10</span></div>
<div class="sum"><span>Total</span><span>£18.60</span></div>
<div class="line"><span>Cash</span><span>£20.00</span></div>
<div><span>Change</span><span>£1.40</span></div>
</body>
"""


def draw_chart(path: Path) -> None:
    """Four bars over an axis with numbers, each with its value at its end."""
    pyplot.rcParams.update({"font.family": "DejaVu Sans", "font.size": 10})  # points: 14 pixels at 100 dpi
    figure, axes = pyplot.subplots(figsize=(4.2, 3.1), dpi=100, layout="constrained")
    bars = axes.barh(list(VISITORS), list(VISITORS.values()), color="#4c72b0")
    axes.bar_label(bars, padding=2)
    axes.set(title="Visitors in 2024", xlim=(0, 97))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def draw_receipt(path: Path) -> None:
    """A web page of one receipt, as Chromium paints it."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if browser is None:
        sys.exit("the receipt is drawn by Chromium, and no chromium or chrome is on the PATH; install it.")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "receipt.html"
        page.write_text(RECEIPT, encoding="utf-8")
        # The sandbox needs rights that containers lack; the page is the one above.
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", "--disable-lcd-text"]
        subprocess.run(
            [browser, *options, "--window-size=600,600", f"--screenshot={path}", page.as_uri()],
            check=True,
            capture_output=True,
            timeout=60,
        )
    # The window is larger than the page: its borders, which differ by version, take part of a small one.
    with Image.open(path) as screen:
        receipt = screen.crop((0, 0, *RECEIPT_SIZE))
    receipt.save(path)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draw_chart(folder / "chart.png")
    draw_receipt(folder / "receipt.png")
    print(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO)
