"""Searching with a model's help: vectors beside the lists of words, and its judgement of the first pages."""

from __future__ import annotations

from dataclasses import replace

from tessera.chat import ChatModel
from tessera.documents.plan import Budget
from tessera.search.found import Found
from tessera.search.query import parse
from tessera.search.rerank import MAX_RERANKED, rerank
from tessera.search.searcher import MAX_LIMIT, Searcher
from tessera.search.vectors import nearest_pages


def search_assisted(
    searcher: Searcher, text: str, model: ChatModel, budget: Budget, *, limit: int, offset: int = 0,
    vectors: bool = False, judged: int = 0,
) -> Found:  # fmt: skip
    """Answer a query as `Searcher.search` does; with `vectors`, and with so many first pages `judged` by the model.

    The same first pages are judged whatever part of them is wanted, so that parts fit together. Raises UsageError.
    """
    parse(text)  # mistakes show before the model is asked
    ranked = nearest_pages(model, searcher, text) if vectors else None
    judged = min(judged, MAX_RERANKED)
    if offset >= judged:
        return searcher.search(text, limit=limit, offset=offset, vectors=ranked)
    wanted = max(min(offset + limit, MAX_LIMIT), limit, judged)
    found = searcher.search(text, limit=wanted, vectors=ranked)
    hits = (*rerank(model, searcher, text, found.hits[:judged], budget), *found.hits[judged:])[offset : offset + limit]
    return replace(found, hits=hits, has_more=found.total > offset + len(hits))
