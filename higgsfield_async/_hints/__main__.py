"""Brings the hints up to date from a published OpenAPI document.

    python -m higgsfield_async._hints openapi.json --date 2026-07-19

Of each `POST /{model_id}` with a JSON body, the arguments are taken over. Left as they are: what was put right by hand,
what has a younger date, what a page of the same date says, and every model that the document does not have.
"""

from __future__ import annotations

import argparse
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from higgsfield_async._hints import Hint, read
from higgsfield_async._transports._answers import as_list, as_object

DATA = Path(__file__).with_name("models.json")

# Paths that are no model's: routes of the platform's own, and whatever has a parameter in it.
_MODEL = re.compile(r"/(?!(?:requests|files|estimate|models|v1)(?:/|$))([A-Za-z0-9][A-Za-z0-9._/-]*)")
_KEPT = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "default")
_FORMATS = frozenset({"uri", "uuid"})
_TYPES: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def refreshed(hints: Mapping[str, Hint], document: Mapping[str, Any], date: dt.date) -> dict[str, Hint]:
    """The hints with what an OpenAPI document of that date says.

    Raises:
        ValueError: It has no paths.
    """
    paths = as_object(document.get("paths"))
    if not paths:
        msg = "this is no OpenAPI document: it has no paths"
        raise ValueError(msg)
    found = dict(hints)
    for path, operations in paths.items():
        post = as_object(as_object(operations).get("post"))
        content = as_object(as_object(post.get("requestBody")).get("content"))
        schema = as_object(as_object(content.get("application/json")).get("schema"))
        model = _MODEL.fullmatch(path)
        if model is None or not schema:
            continue
        known = found.get(model[1])
        if known is not None and (known.hand or known.date > date or (known.date == date and known.source == "docs")):
            continue
        found[model[1]] = Hint(
            id=model[1],
            title=str(post.get("summary") or (known.title if known else model[1])),
            output=(known.output if known else None) or _output(model[1]),
            source="openapi",
            date=date,
            schema=_compact(schema, document),
        )
    return found


def _output(model_id: str) -> Literal["image", "video"] | None:
    """What its id says that it makes."""
    last = model_id.rpartition("to-")[2] if "to-" in model_id else model_id
    return "video" if "video" in last else "image" if "image" in last else None


def _compact(schema: Mapping[str, Any], document: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """The part of a schema that is looked at. What it refers to stands in it; what is not there may be anything."""
    schema = _resolved(schema, document)
    if depth > _DEEPEST:
        return {}

    def inner(part: object) -> dict[str, Any]:
        return _compact(as_object(part), document, depth + 1)

    several = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    options = [each for each in as_list(several) if each != {"type": "null"}]
    # What may be null is what it may be otherwise; of several others, nothing can be said.
    compact = inner(options[0]) if len(options) == 1 else {}
    values = as_list(schema.get("enum"))
    kinds = [schema["type"]] if isinstance(schema.get("type"), str) else as_list(schema.get("type"))
    # OpenAPI 3.1 has a list of types where 3.0 has a type that is nullable.
    kinds = [kind for kind in kinds if kind != "null"]
    if len(kinds) != 1:
        kinds = list({_TYPES.get(value.__class__) for value in values if value is not None})
    if len(kinds) == 1 and isinstance(kinds[0], str):
        compact["type"] = kinds[0]
    if values:
        compact["enum"] = values
    if schema.get("format") in _FORMATS:
        compact["format"] = schema["format"]
    # Of what may be anything, nobody knows what a limit counts.
    kept = _KEPT if "type" in compact else ("default",)
    compact |= {name: schema[name] for name in kept if schema.get(name) is not None}
    if "items" in schema:
        compact["items"] = inner(schema["items"])
    if properties := as_object(schema.get("properties")):
        compact["properties"] = {name: inner(each) for name, each in properties.items()}
        # What has a default can be left out, whatever else the document says.
        defaulted = {name for name, each in compact["properties"].items() if "default" in each}
        if needed := [name for name in as_list(schema.get("required")) if name not in defaulted]:
            compact["required"] = needed
    return compact


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    where = schema.get("$ref")
    if not isinstance(where, str):
        return schema
    found: object = document
    for step in where.removeprefix("#/").split("/"):
        found = as_object(found).get(step)
    return as_object(found)


# No argument is nested deeper; what refers to itself has no end.
_DEEPEST = 12


def written(hints: Mapping[str, Hint]) -> bytes:
    """The data file: one model a line, by id, so that a change is one line of a diff."""
    lines = [msgspec.json.encode(hints[model_id]) for model_id in sorted(hints)]
    return b"[\n" + b",\n".join(lines) + b"\n]\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the document, and writes the data file."""
    parser = argparse.ArgumentParser(
        prog="python -m higgsfield_async._hints", description="Brings the hints up to date."
    )
    parser.add_argument("document", type=Path, help="the OpenAPI document, as JSON")
    parser.add_argument(
        "--date",
        type=dt.date.fromisoformat,
        required=True,
        help="when it was published, such as 2026-07-19: what is younger stays as it is",
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the data file; the package's own unless given")
    given = parser.parse_args(arguments)
    try:
        before = read(given.data.read_bytes())
        after = refreshed(before, as_object(msgspec.json.decode(given.document.read_bytes())), given.date)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{error}\n")
    given.data.write_bytes(written(after))
    changed = sum(before[model_id] != after[model_id] for model_id in before)
    print(f"{len(after) - len(before)} models are new, {changed} changed, {len(before) - changed} are as they were.")


if __name__ == "__main__":
    main()
