"""Request bodies against their schemas, and the errors in the words of the two validators the services use.

A schema is the small part of JSON Schema that the services' documentation states. One check yields violations; two
tables spell them, as Pydantic does (most of the service) and as jsonschema does (`marketing-studio/*`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

Path: TypeAlias = tuple[str | int, ...]


class Schema(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What is known of a value. ``format`` is "uri", "uuid" or "size" (as in 1024x1024)."""

    type: Literal["any", "string", "integer", "number", "boolean", "array", "object"] = "any"
    enum: tuple[str | int, ...] = ()
    format: Literal["", "uri", "uuid", "size"] = ""
    minimum: float | None = None
    maximum: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    min_items: int | None = None
    max_items: int | None = None
    nullable: bool = False
    default: Any = None
    items: Schema | None = None
    properties: Mapping[str, Schema] = {}
    required: tuple[str, ...] = ()
    #: Exactly one of these keys must be there.
    one_of: tuple[str, ...] = ()


class Violation(msgspec.Struct, frozen=True):
    """One thing wrong with a body: a row's name in the tables below, where, the value, and the row's figures."""

    kind: str
    path: Path
    value: Any
    facts: Mapping[str, Any] = {}


_PYDANTIC = {
    "missing": "Field required",
    "string_type": "Input should be a valid string",
    "integer_type": "Input should be a valid integer",
    "integer_parsing": "Input should be a valid integer, unable to parse string as an integer",
    "integer_from_float": "Input should be a valid integer, got a number with a fractional part",
    "number_type": "Input should be a valid number",
    "number_parsing": "Input should be a valid number, unable to parse string as a number",
    "boolean_type": "Input should be a valid boolean",
    "boolean_parsing": "Input should be a valid boolean, unable to interpret input",
    "array_type": "Input should be a valid list",
    "object_type": "Input should be a valid dictionary or object to extract fields from",
    "uuid_type": "UUID input should be a string, bytes or UUID object",
    "uuid_parsing": "Input should be a valid UUID, {error}",
    "uri_type": "URL input should be a string or URL",
    "uri_parsing": "Input should be a valid URL, {error}",
    "size_parsing": "String should match pattern '{pattern}'",
    "enum": "Input should be {expected}",
    "minimum": "Input should be greater than or equal to {ge}",
    "maximum": "Input should be less than or equal to {le}",
    "min_length": "String should have at least {min_length} character",
    "max_length": "String should have at most {max_length} characters",
    "min_items": "List should have at least {min_length} item after validation, not {actual_length}",
    "max_items": "List should have at most {max_length} items after validation, not {actual_length}",
    "oneOf": "Value error, exactly one of {names} is required",
}
_PYDANTIC_TYPE = {
    "integer_type": "int_type",
    "integer_parsing": "int_parsing",
    "integer_from_float": "int_from_float",
    "number_type": "float_type",
    "number_parsing": "float_parsing",
    "boolean_type": "bool_type",
    "boolean_parsing": "bool_parsing",
    "array_type": "list_type",
    "object_type": "model_attributes_type",
    "uri_type": "url_type",
    "uri_parsing": "url_parsing",
    "size_parsing": "string_pattern_mismatch",
    "enum": "literal_error",
    "minimum": "greater_than_equal",
    "maximum": "less_than_equal",
    "min_length": "string_too_short",
    "max_length": "string_too_long",
    "min_items": "too_short",
    "max_items": "too_long",
    "oneOf": "value_error",
}
_JSONSCHEMA = {
    "missing": "{name!r} is a required property",
    "enum": "{value!r} is not one of {options!r}",
    "max_length": "{value!r} is too long",
    "max_items": "{value!r} is too long",
}

_BOOLEANS = {True, False, "true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0"}
_EXACT: Mapping[str, tuple[type, ...]] = {
    "any": (object,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
#: The least and the most of a type: the schema's field (and the row above), and what an error calls the figure.
_LIMITS: Mapping[str, tuple[tuple[str, str], tuple[str, str]]] = {
    "integer": (("minimum", "ge"), ("maximum", "le")),
    "number": (("minimum", "ge"), ("maximum", "le")),
    "string": (("min_length", "min_length"), ("max_length", "max_length")),
    "array": (("min_items", "min_length"), ("max_items", "max_length")),
}
_SIZE = r"^\d+x\d+$"


def _is_exactly(schema: Schema, value: Any) -> bool:
    if isinstance(value, bool):
        return schema.type in {"boolean", "any"}
    return isinstance(value, _EXACT[schema.type])


def _coerce(schema: Schema, value: Any) -> tuple[str, Any]:
    """The kind of violation ("" for none), and the value as Pydantic reads it: it takes "5" for 5."""
    if schema.type == "boolean" and isinstance(value, str | int | float):
        known = (value.lower() if isinstance(value, str) else value) in _BOOLEANS
        return "" if known else "boolean_parsing", value
    if schema.type in {"integer", "number"} and isinstance(value, str | float | bool):
        try:
            number = float(value)
        except ValueError:
            return f"{schema.type}_parsing", value
        return ("" if schema.type == "number" or number.is_integer() else "integer_from_float"), number
    return f"{schema.format if schema.format in {'uuid', 'uri'} else schema.type}_type", value


def _format_error(schema: Schema, value: str) -> Mapping[str, Any]:
    """Why ``value`` is not of the schema's format; empty if it is."""
    if schema.format == "uuid":
        try:
            uuid.UUID(value)
        except ValueError:
            length = len(value)
            return {"error": f"invalid length: expected length 32 for simple format, found {length}"}
    elif schema.format == "uri":
        try:
            parts = urlsplit(value)
        except ValueError:
            return {"error": "invalid host"}
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            return {"error": "empty host" if parts.scheme else "relative URL without a base"}
    elif schema.format == "size" and not re.fullmatch(_SIZE, value):
        return {"pattern": _SIZE}
    return {}


def _quoted(options: tuple[str | int, ...]) -> str:
    words = [repr(option) for option in options]
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def violations(schema: Schema, value: Any, path: Path = (), *, lax: bool = True) -> Iterator[Violation]:
    """Everything wrong with ``value``, in the order of the schema's fields; ``lax`` also takes "5" for 5."""
    if value is None and schema.nullable:
        return
    if schema.enum:
        if not any(type(value) is type(option) and value == option for option in schema.enum):
            facts = {"expected": _quoted(schema.enum)}
            yield Violation("enum" if lax or type(value) in map(type, schema.enum) else "type", path, value, facts)
        return
    kind = ""
    read: Any = value
    if not _is_exactly(schema, value):
        kind, read = _coerce(schema, value) if lax else ("type", value)
    if kind:
        yield Violation(kind, path, value)
        return
    yield from _limits(schema, read, value, path)
    if schema.type == "array" and schema.items is not None:
        for index, item in enumerate(read):
            yield from violations(schema.items, item, (*path, index), lax=lax)
    elif schema.type == "object":
        yield from _fields(schema, read, path, lax=lax)


def _fields(schema: Schema, body: dict[str, Any], path: Path, *, lax: bool) -> Iterator[Violation]:
    for name, field in schema.properties.items():
        if name in body:
            yield from violations(field, body[name], (*path, name), lax=lax)
        elif name in schema.required:
            yield Violation("missing", (*path, name), body)
    if schema.one_of and sum(body.get(name) is not None for name in schema.one_of) != 1:
        yield Violation("oneOf", path, body, {"names": _quoted(schema.one_of)})


def _limits(schema: Schema, read: Any, value: Any, path: Path) -> Iterator[Violation]:
    limits = _LIMITS.get(schema.type)
    if limits is None:
        return
    measured = read if schema.type in {"integer", "number"} else len(read)
    figures = {"field_type": "List", "actual_length": measured} if schema.type == "array" else {}
    for sign, (kind, fact) in zip((1, -1), limits, strict=True):
        limit = getattr(schema, kind)
        if limit is not None and sign * measured < sign * limit:
            yield Violation(kind, path, value, {**figures, fact: _plain(limit)})
            return
    if schema.type == "string" and (facts := _format_error(schema, read)):
        yield Violation(f"{schema.format}_parsing", path, value, facts)


def _plain(number: float) -> float:
    return int(number) if float(number).is_integer() else number


def pydantic_errors(found: Iterator[Violation] | list[Violation], *root: str) -> list[dict[str, Any]]:
    """The list a FastAPI service puts under ``detail``; ``root`` is "body", "query" or "header"."""
    return [
        {
            "type": _PYDANTIC_TYPE.get(one.kind, one.kind),
            "loc": [*root, *one.path],
            "msg": _PYDANTIC[one.kind].format(**one.facts),
            "input": one.value,
            **({"ctx": one.facts} if one.facts else {}),
        }
        for one in found
    ]


def jsonschema_error(schema: Schema, body: Any) -> str | None:
    """The first error as jsonschema words it, behind the path: "prompt: 123 is not of type 'string'"."""
    first = next(violations(schema, body, lax=False), None)
    if first is None:
        return None
    path, name = first.path, first.path[-1] if first.path else ""
    if first.kind == "missing":
        path = path[:-1]
    field = _at(schema, first.path)
    template = _JSONSCHEMA.get(first.kind, "{value!r} is not of type {type!r}")
    message = template.format(name=name, value=first.value, options=list(field.enum), type=field.type)
    return f"{'.'.join(map(str, path))}: {message}"


def _at(schema: Schema, path: Path) -> Schema:
    for step in path:
        schema = (schema.properties[step] if isinstance(step, str) else schema.items) or Schema()
    return schema
