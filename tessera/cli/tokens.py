"""`tessera tokens`: an image's token count, and its patch grid drawn over it."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from tessera.cli.parser import check_target
from tessera.errors import UsageError, counted, printable
from tessera.images import grid_of, load, token_count
from tessera.messages import Image
from tessera.model.config import VisionConfig
from tessera.model.family import PIXTRAL_12B
from tessera.sources import ImageLimits

LINE = (255, 64, 64, 150)
CAPTION_HEIGHT = 22


def run_tokens(
    sources: list[str],
    model: str | None,
    mmproj: Path | None,
    *,
    plot: Path | None,
    as_json: bool,
    max_pixels: int,
    allow_private: bool,
) -> None:
    if plot is not None and len(sources) != 1:
        raise UsageError(f"--plot draws one image and {len(sources)} were given; call it once for each.")
    if plot is not None:
        check_target("--plot", plot)
    if plot is not None and plot.suffix.lower() not in PILImage.registered_extensions():
        raise UsageError(f"--plot {plot} ends in {plot.suffix!r}, which is not an image format; name a .png file.")
    vision = _vision_of(model, mmproj)
    limits = ImageLimits(max_pixels=max_pixels, allow_private_addresses=allow_private, flags=("max_pixels",))
    for source in sources:
        image = load(Image(source), limits)
        grid = rows, columns = grid_of(*image.size, vision)
        facts = {
            "image": source, "width": image.width, "height": image.height,
            "rows": rows, "columns": columns, "tokens": token_count(grid),
        }  # fmt: skip
        if as_json:
            print(json.dumps(facts))
        else:
            cut = f"{counted(rows, 'row')} of {columns}, {counted(token_count(grid), 'token')}"
            print(f"{printable(source)}: {image.width} x {image.height}, {cut}")
        if plot is not None:
            draw_grid(image, grid, vision).save(plot)


def draw_grid(image: PILImage.Image, grid: tuple[int, int], vision: VisionConfig) -> PILImage.Image:
    """Draw the image as the model sees it, resized to whole tokens, with their borders and the count below."""
    rows, columns = grid
    size = vision.token_size
    resized = image.resize((columns * size, rows * size), PILImage.Resampling.BICUBIC).convert("RGBA")
    overlay = PILImage.new("RGBA", resized.size)
    pen = ImageDraw.Draw(overlay)
    for row in range(rows + 1):
        pen.line((0, row * size, columns * size, row * size), fill=LINE)
    for column in range(columns + 1):
        pen.line((column * size, 0, column * size, rows * size), fill=LINE)
    text = (
        f"{counted(rows, 'row')} x ({counted(columns, 'patch', 'patches')} + 1) = {counted(token_count(grid), 'token')}"
    )
    font = ImageFont.load_default(14)
    width = max(resized.width, int(font.getlength(text)) + 12)
    page = PILImage.new("RGB", (width, resized.height + CAPTION_HEIGHT), "white")
    page.paste(PILImage.alpha_composite(resized, overlay).convert("RGB"))
    ImageDraw.Draw(page).text((6, resized.height + 3), text, fill="black", font=font)
    return page


def _vision_of(model: str | None, mmproj: Path | None) -> VisionConfig:
    if model is not None:
        from tessera.load import find_model
        from tessera.weights.checkpoint import open_checkpoint

        return open_checkpoint(find_model(model), mmproj).config.vision_encoder
    if mmproj is not None:
        raise UsageError(f"--mmproj {mmproj} is the vision part of a model, and none is named; give it with --model.")
    return PIXTRAL_12B.vision_encoder
