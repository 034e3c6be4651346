"""What is documented of the platform's AI models: hints for whoever writes a request, and never a whitelist.

The data is `models.json` beside this module: the pages of https://docs.higgsfield.ai/docs/models as they were in
October 2026, the OpenAPI document of 2026-07-19 for what those do not have, and what the live service was seen to do
where it differs from both. `python -m higgsfield_async._hints` brings it up to date.
"""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from higgsfield_async._errors import FieldError


class Hint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is documented of one AI model.

    Attributes:
        id: Its id, as in the path.
        title: Its name, or its id where it has none.
        output: What it makes, or None where that is not stated.
        source: `docs` for the page of the model, `openapi` for the published OpenAPI document, `live` for what the
            service itself was seen to do.
        date: When that was so; the first of the month where the day is not known.
        hand: Why this was put right by hand: a refresh leaves it as it is. Empty where it was not.
        schema: Its arguments, as the small part of JSON Schema that the documentation states.
    """

    id: str
    title: str
    output: Literal["image", "video", "audio"] | None = None
    source: Literal["docs", "openapi", "live"]
    date: dt.date
    hand: str = ""
    schema: dict[str, Any]


def read(data: bytes) -> dict[str, Hint]:
    """The hints in a data file, by id."""
    return {hint.id: hint for hint in msgspec.json.decode(data, type=list[Hint])}


@functools.cache
def documented() -> Mapping[str, Hint]:
    """Every model that is documented, by id. Read when it is first asked for, and once."""
    import pkgutil

    return read(cast("bytes", pkgutil.get_data(__name__, "models.json")))


class _Rule(msgspec.Struct, frozen=True, gc=False):
    """A schema, ready to be looked at quickly; `says` is all of it in words."""

    says: str
    fits: Callable[[Any], bool]
    enum: tuple[Any, ...] | None
    least: float | None
    most: float | None
    measured: bool
    items: _Rule | None
    properties: Mapping[str, _Rule] | None
    required: tuple[str, ...]


def _is_whole(value: Any) -> bool:
    # To JSON a number is a whole one however it is written; to Python True is a number.
    return value.is_integer() if isinstance(value, float) else isinstance(value, int) and not isinstance(value, bool)


_FITS: Mapping[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "integer": _is_whole,
    "number": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, (list, tuple)),
    "object": lambda value: isinstance(value, dict),
}
_ADDRESS = re.compile(r"https?://[^/?#\s]", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and _ADDRESS.match(value) is not None


def _is_uuid(value: Any) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


# What a value is called, and what its limits count.
_NAMES: Mapping[str, tuple[str, str]] = {
    "string": ("text", " characters"),
    "integer": ("a whole number", ""),
    "number": ("a number", ""),
    "boolean": ("true or false", ""),
    "array": ("a list", " items"),
    "object": ("an object", ""),
    "uri": ("an http(s) address", " characters"),
    "uuid": ("a UUID", " characters"),
}
_LIMITS: Mapping[str, tuple[str, str]] = {
    "string": ("minLength", "maxLength"),
    "array": ("minItems", "maxItems"),
    "integer": ("minimum", "maximum"),
    "number": ("minimum", "maximum"),
}


def _rule(schema: Mapping[str, Any]) -> _Rule:
    kind: str = schema.get("type", "")
    # A format is a text's: what it says of anything else is left out.
    form: str = schema.get("format", "") if kind in {"", "string"} else ""
    least, most = (schema.get(name) for name in _LIMITS[kind]) if kind in _LIMITS else (None, None)
    options: list[Any] | None = schema.get("enum")
    properties: Mapping[str, Any] | None = schema.get("properties")
    name, unit = _NAMES.get(form or kind, ("", ""))
    return _Rule(
        says=f"must be {_choice(options) if options else name + _range(least, most, unit)}",
        fits={"uri": _is_address, "uuid": _is_uuid}.get(form) or _FITS.get(kind, lambda _: True),
        # No set: what is looked for in it may be a list.
        enum=tuple(options) if options else None,
        least=least,
        most=most,
        measured=kind in {"string", "array"},
        items=_rule(schema["items"]) if "items" in schema else None,
        properties={name: _rule(each) for name, each in properties.items()} if properties else None,
        required=tuple(schema.get("required", ())),
    )


def _choice(options: Iterable[Any]) -> str:
    *most, last = [str(option) for option in options]
    return f"{', '.join(most)} or {last}" if most else last


def _range(least: float | None, most: float | None, unit: str) -> str:
    if least is None and most is None:
        return ""
    if least is None or most is None:
        limits = f"at most {most:,}" if least is None else f"at least {least:,}"
    else:
        limits = f"{least:,} to {most:,}"
    return f" of {limits}{unit}" if unit else f", {limits}"


@functools.cache
def _rules(model_id: str) -> _Rule:
    return _rule(documented()[model_id].schema)


# No more are told at once.
_MOST_PROBLEMS = 20
# What a value may be to be judged: anything else is not JSON yet, such as a picture that will be uploaded.
_JSON = (str, int, float, list, tuple, dict)


def _is_json(value: object) -> bool:
    return isinstance(value, _JSON)


def _is_data(value: object) -> bool:
    """Whether it is the file itself, where an address is wanted."""
    return isinstance(value, str) and value[:5].lower() == "data:"


def problems(model_id: str, arguments: Mapping[str, Any]) -> list[FieldError] | None:
    """What in a request's arguments is not as it is documented; None where nothing is documented of the model.

    A null is passed over where it is not required: the documentation does not say which arguments take one.
    """
    if model_id not in documented():
        return None
    wrong: list[FieldError] = []
    _look_into(_rules(model_id), arguments, ("arguments",), wrong)
    return wrong[:_MOST_PROBLEMS]


def _look(rule: _Rule, value: Any, loc: tuple[str | int, ...], wrong: list[FieldError]) -> None:
    if not _is_json(value) or (rule.fits is _is_address and _is_data(value)):
        return
    if not rule.fits(value) or (rule.enum is not None and value not in rule.enum):
        wrong.append(FieldError(loc, rule.says, "value_error"))
        return
    if rule.least is not None or rule.most is not None:
        size = len(value) if rule.measured else value
        if (rule.least is not None and size < rule.least) or (rule.most is not None and size > rule.most):
            wrong.append(FieldError(loc, rule.says, "value_error"))
            return
    # By what the value is: these may stand in a schema that names no type.
    if rule.items is not None and isinstance(value, (list, tuple)):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            _look(rule.items, item, (*loc, index), wrong)
            if len(wrong) >= _MOST_PROBLEMS:
                return
    elif rule.properties is not None and isinstance(value, dict):
        _look_into(rule, cast("Mapping[str, Any]", value), loc, wrong)


def _look_into(rule: _Rule, value: Mapping[str, Any], loc: tuple[str | int, ...], wrong: list[FieldError]) -> None:
    properties = rule.properties or {}
    for name, each in value.items():
        known = properties.get(name)
        if known is None:
            wrong.append(_unknown(name, properties, loc))
        else:
            _look(known, each, (*loc, name), wrong)
        if len(wrong) >= _MOST_PROBLEMS:
            return
    missing = [name for name in rule.required if value.get(name) is None]
    wrong += [FieldError((*loc, name), "is required", "missing") for name in missing]


def in_words(model_id: str, wrong: Iterable[FieldError]) -> str:
    """What is wrong with a request, and by which documentation."""
    hint = documented()[model_id]
    found = "; ".join(str(error) for error in wrong)
    return (
        f"These are not the arguments that are documented of {model_id} ({_SOURCES[hint.source]}, {hint.date}): "
        f"{found}. The service ignores what it does not know, and bills."
    )


_SOURCES: Mapping[str, str] = {
    "docs": "docs.higgsfield.ai",
    "openapi": "the published OpenAPI document",
    "live": "the live service",
}


def undocumented(model_id: str) -> str:
    """Why nothing can be said of a model's arguments."""
    models = documented()
    latest = max(hint.date for hint in models.values())
    return (
        f"{model_id} is not among the {len(models)} models that were documented up to {latest}, so that there is "
        f"nothing to check its arguments against{meant(model_id, models)}: leave strict out to send them as they are"
    )


# A key that is none of a program's names may hold anything: it is not repeated.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")


def _unknown(name: object, known: Iterable[str], loc: tuple[str | int, ...]) -> FieldError:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return FieldError((*loc, "…"), "is not documented", "extra_forbidden")
    return FieldError((*loc, name), f"is not documented{meant(name, known)}", "extra_forbidden")


def meant(name: str, known: Iterable[str]) -> str:
    """The question whether another name was meant, or nothing where none is like it."""
    from difflib import get_close_matches

    found = get_close_matches(name, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""
