"""What was found as JSON has it, on the command line and over HTTP."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tessera.search.found import Found, Hit


def found_object(found: Found, query: str) -> dict[str, Any]:
    """An answer to a query."""
    return {
        "query": query,
        "data": [hit_object(hit) for hit in found.hits],
        "total": found.total,
        "has_more": found.has_more,
        "notes": list(found.notes),
        "seconds": round(found.seconds, 4),
    }


def hit_object(hit: Hit) -> dict[str, Any]:
    """A page that was found."""
    told = asdict(hit)
    told["score"] = round(hit.score, 6)
    told["parts"] = [{**part, "score": round(part["score"], 4)} for part in told["parts"]]
    told["snippet"] = [{"text": text, "hit": is_hit} for text, is_hit in hit.snippet]
    return told
