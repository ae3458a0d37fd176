"""Boxes from attention: where the model looked while it wrote a value, back on the page.

Each token's glance is a patch of one image; an image may be a page or a tile of it. A few glances go astray, so the
box is that of the patches that lie together. On nano the box of a field has an overlap (IoU) above one half in 81 %
of cases, and the weight tells which: those are pages that it cannot read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessera.chat import ChatModel, Completion, Conversation, Glance
from tessera.documents.boxes import union
from tessera.documents.page import Box
from tessera.documents.spans import Leaf

ACROSS, DOWN = 4.0, 1.0  # patches between two glances that still lie together
OTHER_LINE, OTHER_SHARE = 3.0, 0.25  # a value's other line: at most so many patches away, with so much of the weight
MAX_TOKENS = 400  # of one value


@dataclass(frozen=True)
class Pointed:
    """A box by attention, and the mean weight with which its tokens looked somewhere."""

    box: Box
    weight: float


@dataclass(frozen=True)
class Locator:
    """Asks the model that read a conversation where it looked; `regions` are its images' places on the pages.

    `turns` are the degrees clockwise by which each image was turned; none was without them.
    """

    model: ChatModel
    conversation: Conversation
    regions: Sequence[Box]
    turns: Sequence[int] = ()

    def find(self, reply: Completion, leaves: Mapping[str, Leaf]) -> dict[str, Pointed]:
        """Return the boxes of values by path; empty if the model cannot tell where it looks."""
        spans = [(leaf.start, leaf.end) for leaf in leaves.values()]
        if not spans:
            return {}
        located = self.model.locate(self.conversation, reply, spans)
        if located is None:
            return {}
        found = {path: pointed(looks, self.regions, self.turns) for path, looks in zip(leaves, located, strict=True)}
        return {path: each for path, each in found.items() if each is not None}


@dataclass(frozen=True)
class _Patch:
    """A patch with the weight of its glance: on the page as the model saw it, turned, and as it is displayed."""

    seen: Box
    box: Box
    weight: float

    @classmethod
    def of(cls, glance: Glance, region: Box, turn: int) -> _Patch:
        seen = patch_box(glance, region.turned(turn))
        return cls(seen, seen.turned(-turn), glance.weight)


def pointed(looks: Sequence[tuple[Glance, ...]], regions: Sequence[Box], turns: Sequence[int] = ()) -> Pointed | None:
    """Return the box around the patches that most of a value's tokens looked at; None without any token.

    Lines run across a page as the model saw it, so that is where patches lie together.
    """
    shown = list(zip(regions, turns or [0] * len(regions), strict=True))
    chosen = [max(each, key=lambda glance: glance.weight) for each in looks[:MAX_TOKENS] if each]
    patches = [_Patch.of(glance, *shown[glance.image]) for glance in chosen if glance.image < len(shown)]
    if not patches:
        return None
    clusters = sorted(_clusters(patches), key=_weight, reverse=True)
    total = _weight(patches)
    kept = clusters[0]
    main = union([each.seen for each in kept])
    for cluster in clusters[1:]:
        seen = union([each.seen for each in cluster])
        share = _weight(cluster) / total if total else 0.0
        if share >= OTHER_SHARE and _gap(main, seen, cluster[0].seen)[1] <= OTHER_LINE:
            kept = [*kept, *cluster]
    return Pointed(union([each.box for each in kept]), total / len(patches))


def patch_box(glance: Glance, region: Box) -> Box:
    """Return a glance's patch as a box of the page that the region is part of."""
    rows, columns = glance.grid
    width, height = region.right - region.left, region.bottom - region.top
    return Box(
        region.page,
        region.left + width * glance.column / columns,
        region.top + height * glance.row / rows,
        region.left + width * (glance.column + 1) / columns,
        region.top + height * (glance.row + 1) / rows,
    )


def _weight(patches: Sequence[_Patch]) -> float:
    return sum(each.weight for each in patches)


def _clusters(patches: Sequence[_Patch]) -> list[list[_Patch]]:
    """Group patches by nearness: each is near another of its group."""
    clusters: list[list[_Patch]] = []
    for patch in patches:
        near = [cluster for cluster in clusters if any(_is_near(patch.seen, each.seen) for each in cluster)]
        clusters = [cluster for cluster in clusters if cluster not in near]
        clusters.append([*(each for cluster in near for each in cluster), patch])
    return clusters


def _is_near(one: Box, other: Box) -> bool:
    across, down = _gap(one, other, one)
    return across <= ACROSS and down <= DOWN


def _gap(one: Box, other: Box, patch: Box) -> tuple[float, float]:
    """The empty space between two boxes across and down, in sizes of a patch; much if they are on other pages."""
    if one.page != other.page:
        return float("inf"), float("inf")
    across = max(one.left, other.left) - min(one.right, other.right)
    down = max(one.top, other.top) - min(one.bottom, other.bottom)
    return max(across, 0.0) / (patch.right - patch.left), max(down, 0.0) / (patch.bottom - patch.top)
