"""The job set: the record that Higgsfield keeps of a generation.

The proxy hands on the web service's own record, and the platform's v1 a part of the same: every field but the id may be
missing, null, or of a later day's form, on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct

from higgsfield_async._domain import Job, JobSet, JobStatus, Media, TaskRef
from higgsfield_async._errors import Charged, MalformedResponse
from higgsfield_async._http import HttpResponse
from higgsfield_async._transports._answers import (
    as_list,
    as_object,
    each_once,
    is_array,
    is_object,
    kind_of_media,
    malformed,
    read_json,
    read_time,
    text_or_none,
    url_of,
)


class _JobSet(Struct):
    """Read with care: each field may be odd by itself."""

    id: Any = None
    type: Any = None
    created_at: Any = None
    jobs: Any = None


class _Bare(Struct):
    id: Any = None


_decoder = msgspec.json.Decoder(_JobSet)
_bare_decoder = msgspec.json.Decoder(_Bare)

Settle = Callable[[JobStatus, Mapping[str, Any]], Charged]
"""What a dialect knows of the money, from a job's status and its `meta`."""


def read_job_set(
    response: HttpResponse, name: str, *, words: Mapping[str, JobStatus], settle: Settle, ref: TaskRef | None = None
) -> JobSet:
    """The job set in an answer.

    Args:
        response: The answer.
        name: What was asked, for the message.
        words: The dialect's words for a status; any other reads as `unknown`.
        settle: The dialect's rule for the money.
        ref: Which generation was looked at; None for the answer to a submit, which needs nothing but an id.

    Raises:
        MalformedResponse: There are no jobs in it, or, where a submit is answered, no id.
    """
    try:
        wire = read_json(response, _decoder, name)
    except MalformedResponse:
        if ref is not None:
            raise
        # What was paid for has an id, whatever became of the rest.
        wire = _JobSet(id=read_json(response, _bare_decoder, name).id)
    identifier = text_or_none(wire.id) or (ref and ref.id)
    if not identifier:
        raise malformed(response, name, "it has no id")
    if ref is not None and not is_array(wire.jobs):
        raise malformed(response, name, "it has no jobs")
    return JobSet(
        id=identifier,
        jobs=tuple(_job(job, words, settle) for job in as_list(wire.jobs) if is_object(job)),
        kind=text_or_none(wire.type),
        created_at=read_time(wire.created_at),
        body=response.body,
    )


def _job(wire: Mapping[str, Any], words: Mapping[str, JobStatus], settle: Settle) -> Job:
    raw_status = text_or_none(wire.get("status")) or ""
    status = words.get(raw_status, JobStatus.UNKNOWN)
    meta = as_object(wire.get("meta"))
    return Job(
        id=text_or_none(wire.get("id")) or "",
        status=status,
        raw_status=raw_status,
        outputs=each_once(_files(wire)),
        reason=text_or_none(meta.get("fail_reason")),
        charged=settle(status, meta),
    )


def _files(wire: Mapping[str, Any]) -> Iterable[Media]:
    # `results` and `result` are null independently of each other; the raw file comes before the optimised one.
    results = as_object(wire.get("results"))
    variants: tuple[tuple[object, Literal["raw", "min"]], ...] = (
        (results.get("raw"), "raw"),
        (wire.get("result"), "raw"),
        (results.get("min"), "min"),
    )
    for file, variant in variants:
        if url := url_of(file):
            yield Media(url=url, kind=kind_of_media(as_object(file).get("type"), url), variant=variant)
