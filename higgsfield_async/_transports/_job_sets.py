"""The job set: the record that Higgsfield keeps of a generation.

The proxy hands on the web service's own record, and the platform's v1 a part of the same: every field but the id may be
missing, null, or of a later day's form, on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from higgsfield_async._domain import Job, JobSet, JobStatus, Media
from higgsfield_async._errors import Charged
from higgsfield_async._http import HttpResponse
from higgsfield_async._transports._answers import (
    as_object,
    each_once,
    kind_of_media,
    malformed,
    read_json,
    read_time,
    text_or_none,
)


class _File(Struct):
    url: Any = None
    type: Any = None


class _Results(Struct):
    raw: _File | None = None
    min: _File | None = None


class _Job(Struct):
    id: Any = None
    status: Any = None
    result: _File | None = None
    results: _Results | None = None
    meta: Any = None


class _JobSet(Struct):
    id: Any = None
    type: Any = None
    created_at: Any = None
    jobs: list[_Job] | None = None


_decoder = msgspec.json.Decoder(_JobSet)

Settle = Callable[[JobStatus, Mapping[str, Any]], Charged]
"""What a dialect knows of the money, from a job's status and its `meta`."""


def read_job_set(
    response: HttpResponse, name: str, *, words: Mapping[str, JobStatus], settle: Settle, submitted: bool = False
) -> JobSet:
    """The job set in an answer.

    Args:
        response: The answer.
        name: What was asked, for the message.
        words: The dialect's words for a status; any other reads as `unknown`.
        settle: The dialect's rule for the money.
        submitted: Whether this answers a submit, which need not have any jobs yet.

    Raises:
        MalformedResponse: There is no id in it, or no jobs.
    """
    wire = read_json(response, _decoder, name)
    if not isinstance(wire.id, str) or not wire.id:
        raise malformed(response, name, "it has no id")
    if wire.jobs is None and not submitted:
        raise malformed(response, name, "it has no jobs")
    return JobSet(
        id=wire.id,
        jobs=tuple(_job(job, words, settle) for job in wire.jobs or ()),
        kind=text_or_none(wire.type),
        created_at=read_time(wire.created_at),
        body=response.body,
    )


def _job(wire: _Job, words: Mapping[str, JobStatus], settle: Settle) -> Job:
    raw_status = wire.status if isinstance(wire.status, str) else ""
    status = words.get(raw_status, JobStatus.UNKNOWN)
    meta = as_object(wire.meta)
    return Job(
        id=wire.id if isinstance(wire.id, str) else "",
        status=status,
        raw_status=raw_status,
        outputs=_outputs(wire),
        reason=text_or_none(meta.get("fail_reason")),
        charged=settle(status, meta),
    )


def _outputs(wire: _Job) -> tuple[Media, ...]:
    # `results` and `result` are null independently of each other; the raw file comes before the optimised one.
    results = wire.results or _Results()
    files = ((results.raw, "raw"), (wire.result, "raw"), (results.min, "min"))
    return each_once(
        Media(url=file.url, kind=kind_of_media(file.type, file.url), variant="raw" if variant == "raw" else "min")
        for file, variant in files
        if file is not None and isinstance(file.url, str) and file.url
    )
