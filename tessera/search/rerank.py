"""Reranking: the model says of each page found whether it answers, in one token; p(yes) orders them.

A page is shown as its text where the index has it, else as its image, before the question, so that the prefix cache
holds it for the next question. IRPAPERS and ViDoRe v3 report more from reranking text than images (docs/search.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace

from tessera.chat import ChatModel, Completion, Conversation, TokenLogprob
from tessera.documents.plan import Budget
from tessera.errors import DocumentError, UnreachableError
from tessera.messages import Image, Message
from tessera.sampling import Grammar, SamplingParams
from tessera.search.found import Hit
from tessera.search.packing import text_of
from tessera.search.pages import open_page
from tessera.search.searcher import Searcher

MAX_RERANKED = 20
TEXT_CHARACTERS = 4000  # of a page
ANSWERS = ("yes", "no")
PARAMS = SamplingParams(max_tokens=4, grammar=Grammar("choice", json.dumps(ANSWERS)), logprobs=20)


def rerank(model: ChatModel, searcher: Searcher, query: str, hits: Sequence[Hit], budget: Budget) -> tuple[Hit, ...]:
    """Order the first hits anew by p(yes); those that could not be asked about come after them, as before."""
    asked: list[Hit] = []
    rest: list[Hit] = []
    conversations: list[Conversation] = []
    for hit in hits:
        shown = _shown(searcher, hit, budget) if len(asked) < MAX_RERANKED else None
        if shown is None:
            rest.append(hit)
            continue
        asked.append(hit)
        question = f"Does this page help to answer or match: {query}\nReply yes or no."
        conversations.append([Message("user", (shown, question))])
    judged = []
    for hit, reply in zip(asked, model.each(conversations, PARAMS), strict=True):
        if isinstance(reply, UnreachableError):
            raise reply
        if isinstance(reply, Completion):
            judged.append(replace(hit, relevance=p_yes(reply)))
        else:
            rest.append(hit)
    return (*sorted(judged, key=lambda hit: (-(hit.relevance or 0.0), -hit.score)), *rest)


def _shown(searcher: Searcher, hit: Hit, budget: Budget) -> str | Image | None:
    (packed,) = searcher.connection.execute("SELECT text FROM pages WHERE id = ?", (hit.page,)).fetchone()
    if text := text_of(packed)[:TEXT_CHARACTERS]:
        return f"A page of a document:\n{text}\n"
    try:
        page = open_page(searcher, hit.page)
        return None if page is None else Image(page.image(budget.image_side))
    except DocumentError:
        return None


def p_yes(reply: Completion) -> float:
    """The probability of yes against no at the reply's first token, from the model's own probabilities."""
    if not reply.logprobs:
        return 1.0 if reply.text.strip().lower().startswith("y") else 0.0
    first = reply.logprobs[0]
    entries = {first.token_id: (first.token, first.logprob), **{i: (text, value) for i, text, value in _top(first)}}
    shares = [0.0, 0.0]
    for text, value in entries.values():
        begun = text.strip().lower()
        for place, answer in enumerate(ANSWERS):
            if begun and value is not None and answer.startswith(begun):
                shares[place] += math.exp(value)
    return shares[0] / sum(shares) if sum(shares) else 0.5


def _top(entry: TokenLogprob) -> Sequence[tuple[int, str, float]]:
    return entry.top
