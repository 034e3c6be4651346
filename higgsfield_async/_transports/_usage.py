"""What the platform says was used: `GET /models/usage`.

Documented are the parameters, and the beginning of an answer: `{"time_series": [{"bucket", "results": [{"model",
"unit", "quantity", "unit_price", "co…`, with its numbers as strings (https://docs.higgsfield.ai, "Usage and billing").
What is read beyond that is a guess, and what cannot be read is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

import msgspec

from higgsfield_async._domain import Usage
from higgsfield_async._errors import FieldError, InvalidRequest
from higgsfield_async._http import HttpResponse
from higgsfield_async._transports._answers import (
    as_object,
    is_array,
    is_object,
    malformed,
    read_json,
    read_time,
    text_or_none,
)

_decoder = msgspec.json.Decoder(dict[str, Any] | list[Any])
_TIMEFRAME = re.compile(r"[a-z0-9_]{1,30}")
# Not whatever Decimal reads: to it "NaN" is a number too. What is given back may stand below zero.
_NUMBER = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", re.ASCII)


def usage_query(start: object, end: object, timeframe: object) -> str:
    """The query to ask with.

    Raises:
        InvalidRequest: A time has no zone, they stand in the wrong order, or the timeframe is no word.
    """
    wrong = [
        FieldError((name,), "must be a date, or a datetime with a time zone", "value_error")
        for name, moment in (("start", start), ("end", end))
        if moment is not None and not _is_definite(moment)
    ]
    if not isinstance(timeframe, str) or not _TIMEFRAME.fullmatch(timeframe):
        wrong.append(FieldError(("timeframe",), "must be a word such as day", "value_error"))
    if not wrong and isinstance(start, date) and isinstance(end, date) and _moment(start) >= _moment(end):
        wrong.append(FieldError(("end",), "must be later than start", "value_error"))
    if wrong:
        raise InvalidRequest("; ".join(f"usage.{error}" for error in wrong), errors=tuple(wrong))
    given = [(name, _written(moment)) for name, moment in (("start", start), ("end", end)) if isinstance(moment, date)]
    return urlencode([*given, ("timeframe", timeframe), ("expand", "time_series"), ("expand", "auth_method")])


def _is_definite(moment: object) -> bool:
    return moment.utcoffset() is not None if isinstance(moment, datetime) else isinstance(moment, date)


def _moment(moment: date) -> datetime:
    return moment if isinstance(moment, datetime) else datetime.combine(moment, time(), UTC)


def _written(moment: date) -> str:
    if isinstance(moment, datetime):
        return moment.isoformat().replace("+00:00", "Z")
    return moment.isoformat()


def read_usage(response: HttpResponse, name: str) -> tuple[Usage, ...]:
    """The rows of an answer, in its order.

    Raises:
        MalformedResponse: It has no list of them.
    """
    found = read_json(response, _decoder, name)
    buckets = as_object(found).get("time_series") if is_object(found) else found
    if not is_array(buckets):
        raise malformed(response, name, "it has no time_series")
    return tuple(_rows(buckets))


def _rows(buckets: list[Any]) -> Iterator[Usage]:
    for bucket in buckets:
        if not is_object(bucket):
            continue
        start = _start(bucket.get("bucket"))
        results = bucket.get("results")
        # Without a list of results it may be a row itself.
        for row in results if is_array(results) else [bucket]:
            if is_object(row) and (usage := _row(start, row)) != Usage(start=start):
                yield usage


def _start(bucket: object) -> datetime | None:
    start = read_time(bucket.get("start") if is_object(bucket) else bucket)
    return start if start is None or start.tzinfo else start.replace(tzinfo=UTC)


def _row(start: datetime | None, row: Mapping[str, Any]) -> Usage:
    return Usage(
        start=start,
        model=text_or_none(row.get("model")),
        unit=text_or_none(row.get("unit")),
        quantity=_number(row.get("quantity")),
        unit_price=_number(row.get("unit_price")),
        cost=_number(row.get("cost")),
        auth_method=text_or_none(row.get("auth_method")),
    )


def _number(value: object) -> Decimal | None:
    text = value if isinstance(value, str) else str(value) if type(value) in (int, float) else ""
    return Decimal(text) if _NUMBER.fullmatch(text) else None
