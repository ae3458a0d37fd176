"""Query strings of lists: each parameter is read with its bounds, and one that nobody reads is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from tessera.server.errors import BadRequestError

MAX_VALUE = 512  # characters
MAX_VALUES = 64  # of one parameter


@dataclass(frozen=True)
class Paging:
    """Which part of a list is wanted."""

    after: str | None
    limit: int
    offset: int
    ascending: bool

    def listed(self, found: Sequence[Mapping[str, Any]], total: int) -> dict[str, Any]:
        """A list in both APIs' shape, from up to one object more than the limit."""
        data = list(found[: self.limit])
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
        return {"object": "list", "data": data, "has_more": len(found) > self.limit, "total": total, **ends}


class Query:
    """The parameters of a request; call `check` when all that are known have been read."""

    def __init__(self, request: Request) -> None:
        self._given = request.query_params
        self._read: set[str] = set()

    def several(self, name: str) -> list[str]:
        """All values of a parameter, which may also be written `name[]`."""
        self._read |= {name, f"{name}[]"}
        found = [value for key in (name, f"{name}[]") for value in self._given.getlist(key)]
        if len(found) > MAX_VALUES or any(len(value) > MAX_VALUE for value in found):
            raise BadRequestError(
                f"{name} has more than {MAX_VALUES} values, or one of more than {MAX_VALUE} characters.", param=name
            )
        return found

    def text(self, name: str) -> str | None:
        found = self.several(name)
        return found[-1] if found else None

    def number(self, name: str, default: int, least: int, most: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not text.isdecimal() or len(text) > 20 or not least <= int(text) <= most:
            raise BadRequestError(
                f"{name} is {text[:40]!r}; it must be a whole number between {least} and {most}.", param=name
            )
        return int(text)

    def flag(self, name: str, *, default: bool) -> bool:
        return self.choice(name, ("true", "false", "True", "False"), str(default).lower()).lower() == "true"

    def choice(self, name: str, known: Sequence[str], default: str) -> str:
        text = self.text(name)
        if text is None:
            return default
        if text not in known:
            raise BadRequestError(f"{name} is {text[:40]!r}; it must be one of {', '.join(known)}.", param=name)
        return text

    def paging(self, *, most: int, default: int) -> Paging:
        """OpenAI's `after`, `limit` and `order`, or Mistral's `page` and `page_size`."""
        after, order = self.text("after"), self.choice("order", ("asc", "desc"), "desc")
        limit, page = self.number("limit", default, 1, most), self.number("page", 0, 0, 10**9)
        size = self.number("page_size", 100, 1, 1000)
        if (is_paged := self.text("page") is not None or self.text("page_size") is not None) and after is not None:
            raise BadRequestError("after and page exclude each other; keep one.", param="page")
        if is_paged:
            return Paging(None, size, page * size, order == "asc")
        return Paging(after, limit, 0, order == "asc")

    def rest(self) -> dict[str, str]:
        """What was not read: parameters whose names are the client's own."""
        found = {name: self.text(name) or "" for name in self._given if name not in self._read}
        if len(found) > MAX_VALUES:
            raise BadRequestError(f"the query has more than {MAX_VALUES} parameters, which is the limit.")
        return found

    def check(self) -> None:
        """Raise BadRequestError for a parameter that was not read."""
        for name in self._given:
            if name not in self._read:
                raise BadRequestError(f"the query parameter {name[:60]!r} is not known here; leave it out.",
                                      param=name[:60])  # fmt: skip


def escaped(text: str) -> str:
    """Text that SQL's LIKE takes as it is."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
