"""The platform's own catalogues of v2: its models, and the presets of its marketing studio.

Neither answer is documented. `GET /models` was seen as `{"items": [{"slug", "title", "output_type", "operation_type",
"input_schema"}]}`; of the presets the parameters are known, `search`, `size` and `cursor`, and not what comes back:
what has an id is read, in a bare list or in an envelope with the next page's cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from higgsfield_async._domain import MarketingPreset, Model, Page
from higgsfield_async._hints import documented
from higgsfield_async._http import HttpResponse
from higgsfield_async._transports._answers import as_object, is_array, is_object, malformed, read_json, text_or_none

_decoder = msgspec.json.Decoder(dict[str, Any] | list[Any])


class Listing(NamedTuple):
    """Where a catalogue is, and how an item of it is read: None for one that has no id."""

    path: str
    read: Callable[[Mapping[str, Any]], Any]


def _text(item: Mapping[str, Any], *names: str) -> str | None:
    return next((text for name in names if (text := text_or_none(item.get(name)))), None)


def _model(item: Mapping[str, Any]) -> Model | None:
    if (identifier := _text(item, "slug", "id")) is None:
        return None
    hint = documented().get(identifier)
    schema = item.get("input_schema")
    return Model(
        id=identifier,
        title=_text(item, "title", "name") or (hint.title if hint else identifier),
        output=_text(item, "output_type") or (hint.output if hint else None),
        operation=_text(item, "operation_type"),
        schema=schema if is_object(schema) else hint.schema if hint else {},
        documented=hint.date if hint else None,
        listed=True,
    )


def _preset(item: Mapping[str, Any]) -> MarketingPreset | None:
    if (identifier := _text(item, "id")) is None:
        return None
    return MarketingPreset(
        id=identifier,
        name=_text(item, "name", "title") or "",
        description=_text(item, "description"),
        preview_url=_text(item, "preview_url"),
    )


LISTINGS: Mapping[type, Listing] = {
    Model: Listing("/models", _model),
    MarketingPreset: Listing("/marketing-studio/image/presets", _preset),
}


def read_listing(
    response: HttpResponse, name: str, read: Callable[[Mapping[str, Any]], Any], size: int | None
) -> Page[Any]:
    """One page of a catalogue; an item without an id is passed over.

    Raises:
        MalformedResponse: It has no items.
    """
    found = read_json(response, _decoder, name)
    items = found if is_array(found) else as_object(found).get("items")
    if not is_array(items):
        raise malformed(response, name, "it has no items")
    envelope = as_object(found)
    total, cursor = envelope.get("total"), envelope.get("cursor")
    return Page(
        items=tuple(read_ for item in items if is_object(item) and (read_ := read(item)) is not None),
        total=total if type(total) is int else None,
        cursor=cursor if type(cursor) is int else text_or_none(cursor),
        size=size,
        received=len(items),
    )


def unlisted(listed: set[str]) -> tuple[Model, ...]:
    """The models that are documented and not among those."""
    return tuple(
        Model(id=hint.id, title=hint.title, output=hint.output, schema=hint.schema, documented=hint.date)
        for hint in documented().values()
        if hint.id not in listed
    )
