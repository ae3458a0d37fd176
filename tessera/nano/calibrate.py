"""Nano's calibration and boxes: measured on printed papers that no training drew, as scans and with text layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.chat import ChatModel, Completion, Conversation, Head
from tessera.documents.boxes import overlap
from tessera.documents.calibration import Calibration, Sample, fit
from tessera.documents.evidence import judge
from tessera.documents.page import Box
from tessera.documents.pointing import Locator
from tessera.documents.reread import Rereader
from tessera.evals.metrics import wilson_interval
from tessera.messages import Image, Message
from tessera.nano.measure.papers import Paper
from tessera.sampling import Grammar, SamplingParams
from tessera.trust import samples_of

WHOLE = (Box(1, 0.0, 0.0, 1.0, 1.0),)
HIT = 0.5  # overlap (IoU) from which a box is the right one
REPLY_TOKENS = 400
MOST_HEADS, NEAR_BEST = 3, 0.8  # heads that are kept: those with this share of the best one's accuracy
LEAST_RIGHT = 0.25  # of the best head; below it, boxes would mislead


@dataclass
class Tally:
    """Boxes by their source: how many, those that overlap the true place, and those that hold its centre."""

    counts: dict[str, list[int]] = field(default_factory=dict)

    def add(self, source: str, box: Box | None, true: Box) -> None:
        count = self.counts.setdefault(source, [0, 0, 0])
        count[0] += 1
        if box is not None:
            x, y = (true.left + true.right) / 2, (true.top + true.bottom) / 2
            count[1] += overlap(box, true) >= HIT
            count[2] += box.left <= x <= box.right and box.top <= y <= box.bottom

    def markdown(self) -> str:
        lines = ["| box from | right fields | overlap at least 0.5 | holds the centre | 95 % interval |", "| --- | --- | --- | --- | --- |"]  # fmt: skip # noqa: E501
        for source, (count, hits, centres) in sorted(self.counts.items()):
            low, high = wilson_interval(centres, count)
            lines.append(
                f"| {source} | {count} | {hits / count:.3f} | {centres / count:.3f} | {low:.3f} to {high:.3f} |"
            )
        return "\n".join(lines)


def conversation_of(paper: Paper) -> Conversation:
    keys = ", ".join(f"{json.dumps(key)}: ..." for key in paper.values)
    text = f"Return {{{keys}}} as JSON. Use null for what is not shown."
    return [Message("user", (Image(paper.page.picture), text))]


def params_of(paper: Paper) -> SamplingParams:
    grammar = Grammar("json_schema", json.dumps(paper.schema), compact=True)
    return SamplingParams(max_tokens=REPLY_TOKENS, logprobs=0, grammar=grammar)


def measure(
    model: ChatModel, papers: Sequence[Paper], *, reread: bool, log: Callable[[str], None]
) -> tuple[list[Sample], Tally]:
    """Ask for every paper's values, and compare values and places with the true ones.

    Places count for right values only: what was not read stands nowhere.
    """
    replies = model.each(map(conversation_of, papers), map(params_of, papers))
    samples: list[Sample] = []
    tally = Tally()
    for number, (paper, reply) in enumerate(zip(papers, replies, strict=True), 1):
        if not isinstance(reply, Completion):
            log(f"paper {number}: {reply}")
            continue
        locator = Locator(model, conversation_of(paper), WHOLE)
        again = Rereader.of(model, [paper.page]) if reread else None
        fields = judge(reply, paper.schema, [paper.page], locate=locator, reread=again)
        found = samples_of(paper.page.document, fields.values(), paper.values)
        samples += found
        right = {each.kind for each in found if each.right}
        for key, true in paper.places.items():
            if key in right:
                source = "text layer" if paper.page.words else "attention"
                tally.add(source, fields[key].box, true)
        if number % 20 == 0:
            hits = sum(each.right for each in samples)
            log(f"{number} of {len(papers)} papers, {hits} of {len(samples)} fields right")
    return samples, tally


def calibrate(model: ChatModel, samples: Sequence[Sample]) -> Calibration:
    return fit(samples, model.fingerprint)


# Heads --------------------------------------------------------------------------------------------


def rank_heads(model: ChatModel, papers: Iterable[Paper], heads: Sequence[Head]) -> dict[Head, float] | None:
    """Return the share of printed characters whose patch each head looks at, best first, with the true values as reply.

    None if the model cannot tell where it looks.
    """
    right, count = dict.fromkeys(heads, 0), 0
    for paper in papers:
        text, spans, centres = _spelled(paper)
        located = model.locate(conversation_of(paper), text, spans, heads)
        if located is None:
            return None
        for looks, (x, y) in zip(located, centres, strict=True):
            for look in looks[:1]:
                count += 1
                for head, glance in zip(heads, look, strict=True):
                    rows, columns = glance.grid
                    right[head] += (glance.row, glance.column) == (int(y * rows), int(x * columns))
    shares = {head: hits / max(count, 1) for head, hits in right.items()}
    return dict(sorted(shares.items(), key=lambda each: -each[1]))


def best_heads(shares: Mapping[Head, float]) -> dict[Head, float]:
    """Return the heads to keep, of shares in falling order: few, and nearly as good as the best; none if it is poor."""
    least = max(LEAST_RIGHT, NEAR_BEST * max(shares.values(), default=0.0))
    return {head: share for head, share in list(shares.items())[:MOST_HEADS] if share >= least}


def all_heads(layers: int, heads: int) -> Iterator[Head]:
    """Every head, reading a token's place while it is chosen, or when it stands there."""
    return (Head(layer, head, before) for layer in range(layers) for head in range(heads) for before in (1, 0))


def _spelled(paper: Paper) -> tuple[str, list[tuple[int, int]], list[tuple[float, float]]]:
    """The true values as JSON; the span of each printed character in it, and the character's centre on the page."""
    text, spans, centres = "{", [], []
    for key, value in paper.values.items():
        text += (", " if len(text) > 1 else "") + f"{json.dumps(key)}: "
        if value is None:
            text += "null"
            continue
        text += '"'
        printed = iter(paper.characters.get(key, ()))
        for char in value:
            if char.strip() and (found := next(printed, None)) is not None and found[0] == char and char not in '"\\':
                spans.append((len(text), len(text) + 1))
                centres.append(found[1:])
            text += json.dumps(char, ensure_ascii=False)[1:-1]
        text += '"'
    return text + "}", spans, centres
