"""What every kind of page shares when it is rendered: the part, the side and the turn that are asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from PIL import Image as PILImage

from tessera.documents.page import Box
from tessera.errors import UsageError

MAX_SIDE = 16_384
TURNS = {
    90: PILImage.Transpose.ROTATE_270,  # Pillow turns counter-clockwise
    180: PILImage.Transpose.ROTATE_180,
    270: PILImage.Transpose.ROTATE_90,
}


def checked_side(side: int, rotation: int) -> None:
    """Raise UsageError for a side or a rotation that no page can be rendered with."""
    if not 1 <= side <= MAX_SIDE:
        raise UsageError(f"the side is {side} pixels; it must be 1 to {MAX_SIDE:,}.", param="side")
    if rotation % 90:
        raise UsageError(f"the rotation is {rotation} degrees; it must be a multiple of 90.", param="rotation")


def whole_or(crop: Box | None) -> Box:
    """Return the part that is asked for, within the page; the whole page if none is."""
    if crop is None:
        return Box(1, 0.0, 0.0, 1.0, 1.0)
    box = Box(crop.page, max(crop.left, 0.0), max(crop.top, 0.0), min(crop.right, 1.0), min(crop.bottom, 1.0))
    if not (box.left < box.right and box.top < box.bottom):
        raise UsageError(
            f"the crop {crop.left:g}, {crop.top:g}, {crop.right:g}, {crop.bottom:g} contains nothing of the page; give "
            "left, top, right and bottom as fractions of its width and height.",
            param="crop",
        )
    return box


def turned(image: PILImage.Image, rotation: int) -> PILImage.Image:
    """Turn an image clockwise."""
    turn = TURNS.get(rotation % 360)
    return image if turn is None else image.transpose(turn)


class Kept:
    """The last renderings: the test for blank pages makes the one that is asked for next."""

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, PILImage.Image] = OrderedDict()

    def get(self, key: Hashable, render: Callable[[], PILImage.Image]) -> PILImage.Image:
        """Return a copy of the kept rendering, or of a new one."""
        with self._lock:
            image = self._kept.get(key)
        if image is None:
            image = render()
            with self._lock:
                self._kept[key] = image
                while len(self._kept) > self._most:
                    self._kept.popitem(last=False)
        return image.copy()


KEPT = Kept()
