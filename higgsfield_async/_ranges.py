"""How a transfer that was cut goes on: decided from values. https://www.rfc-editor.org/rfc/rfc9110#name-range-requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from msgspec import Struct, structs

from higgsfield_async._http import moment

# What an answer to a request for the rest is: the rest; nothing, since all of it was here; all of it again; of no use.
Answer = Literal["rest", "nothing", "all", "useless"]

_STRONG = re.compile(r'"[\x21\x23-\x7e]*"', re.ASCII)
_PART = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII)
_NONE_LEFT = re.compile(r"bytes \*/([0-9]{1,18})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class Entity(Struct, frozen=True):
    """What lies at an address, as far as an answer tells.

    Attributes:
        total: How many bytes it has, or None.
        content_type: What the service says that it is, or None.
        mark: What tells it from what may take its place, as `If-Range` takes it; None where the rest of it cannot be
            asked for.
    """

    total: int | None = None
    content_type: str | None = None
    mark: str | None = None


def entity_of(headers: Mapping[str, str]) -> Entity:
    """What the whole is that these headers came with, to be looked up in lower case."""
    # Of what is packed for the way, what is received has another length than what is sent.
    packed = headers.get("content-encoding", "").strip().lower() not in ("", "identity")
    length = headers.get("content-length", "").strip()
    known = not packed and "transfer-encoding" not in headers and _NUMBER.fullmatch(length) is not None
    unwilling = headers.get("accept-ranges", "").strip().lower() == "none"
    return Entity(
        int(length) if known else None,
        headers.get("content-type"),
        None if packed or unwilling else _mark(headers),
    )


def _mark(headers: Mapping[str, str]) -> str | None:
    tag = headers.get("etag", "").strip()
    if tag:
        return tag if _STRONG.fullmatch(tag) else None
    changed = headers.get("last-modified", "").strip()
    when, now = (moment(value) if value else None for value in (changed, headers.get("date", "")))
    # One that changed within the second may have changed again in it.
    return changed if when is not None and now is not None and now - when >= 1 else None


def resuming(entity: Entity, offset: int) -> Mapping[str, str] | None:
    """The headers that ask for the rest; None where it has to begin anew."""
    return None if entity.mark is None else {"Range": f"bytes={offset}-", "If-Range": entity.mark}


def with_total(entity: Entity, headers: Mapping[str, str]) -> Entity:
    """The same, with how many bytes it has where the headers of its rest are the first to say so."""
    part = _PART.fullmatch(headers.get("content-range", "").strip())
    if entity.total is not None or part is None or part[3] == "*":
        return entity
    return structs.replace(entity, total=int(part[3]))


def answered(status: int, headers: Mapping[str, str], entity: Entity, offset: int) -> Answer:
    """What the answer to such a request is."""
    if status in (200, 203):
        return "all"
    said = headers.get("content-range", "").strip()
    if status == 206 and (part := _PART.fullmatch(said)):
        first, last, total = part.groups()
        fits = int(first) == offset <= int(last) and (total == "*" or int(last) < int(total))
        # Where neither answer says how much there is, nobody knows whether this is all of the rest.
        same = total != "*" if entity.total is None else total in ("*", str(entity.total))
        tag, changed = (headers.get(name, "").strip() for name in ("etag", "last-modified"))
        # What is marked by a date had no tag. What is marked by a tag may be dated by each server in its own way.
        dated = changed in ("", entity.mark) or (entity.mark or "").startswith('"')
        return "rest" if fits and same and dated and tag in ("", entity.mark) else "useless"
    if status == 416 and (left := _NONE_LEFT.fullmatch(said)):
        return "nothing" if int(left[1]) == offset and entity.total in (None, offset) else "useless"
    return "useless"
