"""Draws the two pictures that `make demo` asks about, with tools that nano's training never used.

The chart comes from matplotlib, the receipt from a web page that headless Chromium photographs.
Run from the repository's root: `python examples/draw_demo_pictures.py`; the drawn files are kept in
the repository, so that nobody needs Chromium to run the demonstration.
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
QUARTERS = {"Q1": 34, "Q2": 58, "Q3": 71, "Q4": 46}
RECEIPT_SIZE = (208, 230)  # pixels: width, height
RECEIPT = """<!doctype html>
<meta charset="utf-8">
<style>
  * { margin: 0; padding: 0; box-sizing: border-box; }
  body { width: 208px; height: 230px; padding: 12px 9px; background: #fff; color: #000;
         font: 14px/22px "Liberation Mono"; }
  p { text-align: center; }
  div { display: flex; justify-content: space-between; }
</style>
<body>
<p style="margin-bottom: 10px">Corner Bakery</p>
<div style="margin-bottom: 10px">2024-09-17</div>
<div><span>Bread</span><span>3.20</span></div>
<div><span>Coffee</span><span>2.90</span></div>
<div><span>Soup</span><span>6.50</span></div>
<div><span>Tea</span><span>2.40</span></div>
<div style="margin-top: 10px"><span>Total</span><span>15.00</span></div>
</body>
"""


def draw_chart(path: Path) -> None:
    """Four bars, each with its value above it."""
    pyplot.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9.5})  # points: 13 pixels at 100 dpi
    figure, axes = pyplot.subplots(figsize=(2.72, 2.08), dpi=100, layout="constrained")
    bars = axes.bar(list(QUARTERS), list(QUARTERS.values()), width=0.55, color="#4c72b0")
    axes.bar_label(bars, padding=2)
    axes.set_yticks([])
    axes.set_ylim(0, 80)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
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


def main() -> None:
    DEMO.mkdir(parents=True, exist_ok=True)
    draw_chart(DEMO / "chart.png")
    draw_receipt(DEMO / "receipt.png")
    print(DEMO)


if __name__ == "__main__":
    main()
