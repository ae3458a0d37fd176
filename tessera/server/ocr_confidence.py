"""How sure the model was of a page's text: Mistral's scores, from the log-probabilities of the tokens.

They are what the tokens' probabilities say, not calibrated.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

from tessera.chat import Completion
from tessera.documents.confidence import TokenSpans

Granularity = Literal["word", "page", "block"]
WORD = re.compile(r"\S+")


def confidence_scores(
    reply: Completion, text: str, granularity: Granularity, part: tuple[int, int] | None = None
) -> dict[str, Any] | None:
    """Scores of a text within a reply, or of a part of it; None if its tokens are not known.

    A word's score is the geometric mean of its tokens' probabilities. Those of a page are the mean and the least, of
    words for "word", else of tokens.
    """
    spans, offset = TokenSpans(reply), reply.text.find(text)
    start, end = part or (0, len(text))
    if not spans or offset < 0 or start == end:
        return None
    words: list[dict[str, Any]] = []
    for found in WORD.finditer(text, start, end):
        first, last = spans.tokens_of(offset + found.start(), offset + found.end())
        if logprobs := spans.logprobs[first:last]:
            score = math.exp(math.fsum(logprobs) / len(logprobs))
            words.append({"text": found[0], "confidence": round(score, 6), "start_index": found.start()})
    first, last = spans.tokens_of(offset + start, offset + end)
    scores = [math.exp(logprob) for logprob in spans.logprobs[first:last]]
    if granularity == "word":
        scores = [float(word["confidence"]) for word in words]
    if not scores:
        return None
    told: dict[str, Any] = {
        "average_page_confidence_score": round(math.fsum(scores) / len(scores), 6),
        "minimum_page_confidence_score": round(min(scores), 6),
    }
    if granularity == "word":
        told["word_confidence_scores"] = words
    return told
