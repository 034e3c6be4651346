"""The job set: the record that Higgsfield keeps of a generation.

The proxy hands on the web service's own record, and the platform's v1 a part of the same: every field but the id may be
missing, null, or of a later day's form, on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from msgspec import Struct, field

from higgsfield_async._domain import Job, JobSet, JobStatus, Media, TaskRef
from higgsfield_async._errors import Charged, MalformedResponse
from higgsfield_async._http import HttpResponse
from higgsfield_async._transports._answers import (
    UNREADABLE,
    MediaKind,
    as_object,
    is_array,
    is_object,
    kind_of_media,
    malformed,
    media_word,
    read_json,
    read_time,
    text_or_none,
    url_of,
)


# What an answer is read as. What is not named here is skipped, and that is most of it. The fields stand in the order of
# the service's own, in which they are found the fastest; and none of these can hold itself, or needs the collector.
class _File(Struct, gc=False):
    kind: MediaKind | None = field(default=None, name="type")
    url: str | None = None


class _Results(Struct, gc=False):
    raw: _File | None = None
    min: _File | None = None


class _Meta(Struct, gc=False):
    fail_reason: str | None = None
    # Decoding is not strict, for the sake of `created_at`: as a `bool`, a "0" would be one too.
    is_refunded: Any = None


class _Job(Struct, gc=False):
    id: str | None = None
    status: str | None = None
    result: _File | None = None
    results: _Results | None = None
    meta: _Meta | None = None


class _JobSet(Struct, gc=False):
    id: str | None = None
    type: str | None = None
    created_at: datetime | None = None
    jobs: list[_Job] | None = None


# Not strict: the proxy gives a time as seconds since the epoch, the platform as ISO 8601.
_decode = msgspec.json.Decoder(_JobSet, strict=False).decode


class _Odd(Struct):
    id: Any = None
    type: Any = None
    created_at: Any = None
    jobs: Any = None


class _Bare(Struct):
    id: Any = None


_odd_decoder = msgspec.json.Decoder(_Odd)
_bare_decoder = msgspec.json.Decoder(_Bare)


def _mended(response: HttpResponse, name: str, *, submitted: bool) -> _JobSet:
    """What an answer says of which some part has not the expected form: such a part is as if it were not there."""
    try:
        odd = read_json(response, _odd_decoder, name)
    except MalformedResponse:
        if not submitted:
            raise
        # What was paid for has an id, whatever became of the rest.
        odd = _Odd(id=read_json(response, _bare_decoder, name).id)
    return _JobSet(
        id=text_or_none(odd.id),
        type=text_or_none(odd.type),
        created_at=read_time(odd.created_at),
        jobs=[_mended_job(job) for job in odd.jobs if is_object(job)] if is_array(odd.jobs) else None,
    )


def _mended_job(job: Mapping[str, Any]) -> _Job:
    results, meta = as_object(job.get("results")), as_object(job.get("meta"))
    return _Job(
        id=text_or_none(job.get("id")),
        status=text_or_none(job.get("status")),
        result=_mended_file(job.get("result")),
        results=_Results(_mended_file(results.get("raw")), _mended_file(results.get("min"))),
        meta=_Meta(text_or_none(meta.get("fail_reason")), meta.get("is_refunded") is True),
    )


def _mended_file(file: object) -> _File:
    return _File(media_word(as_object(file).get("type")), url_of(file))


class Settle(Protocol):
    """What a dialect knows of the money."""

    def __call__(self, status: JobStatus, *, refunded: bool) -> Charged:
        """What became of it, from a job's status and whether its record says that it was given back."""
        ...


class JobSets:
    """How a dialect's job sets are read.

    Args:
        words: Its words for a status; any other reads as `unknown`.
        settle: What it knows of the money.

    Attributes:
        words: What each word says: a status, and what became of the money, kept and given back.
        other: What any other word says.
    """

    def __init__(self, words: Mapping[str, JobStatus], settle: Settle) -> None:
        def known(status: JobStatus) -> tuple[JobStatus, Charged, Charged]:
            return status, settle(status, refunded=False), settle(status, refunded=True)

        self.words = {word: known(status) for word, status in words.items()}
        self.other = known(JobStatus.UNKNOWN)

    def read(self, response: HttpResponse, name: str, ref: TaskRef | None = None) -> JobSet:
        """The job set in an answer.

        Args:
            response: The answer.
            name: What was asked, for the message.
            ref: Which generation was looked at; None for the answer to a submit, which needs nothing but an id.

        Raises:
            MalformedResponse: There are no jobs in it, or, where a submit is answered, no id.
        """
        body = response.body
        try:
            wire = _decode(body)
        except UNREADABLE:
            wire = _mended(response, name, submitted=ref is None)
        identifier = wire.id or (ref and ref.id)
        if not identifier:
            raise malformed(response, name, "it has no id")
        jobs = wire.jobs
        if jobs is None:
            if ref is not None:
                raise malformed(response, name, "it has no jobs")
            jobs = []
        created_at = wire.created_at
        if created_at is not None and created_at.tzinfo is None:
            created_at = created_at.replace(tzinfo=UTC)
        return JobSet(
            id=identifier,
            # Nearly every generation has one job, and to go through a list costs more than to read it.
            jobs=(self._job(jobs[0]),) if len(jobs) == 1 else tuple(map(self._job, jobs)),
            kind=wire.type or None,
            created_at=created_at,
            body=body,
        )

    def _job(self, wire: _Job) -> Job:
        raw_status = wire.status or ""
        status, charged, refunded = self.words.get(raw_status, self.other)
        meta, results = wire.meta or _NO_META, wire.results or _NO_RESULTS
        return Job(
            id=wire.id or "",
            status=status,
            raw_status=raw_status,
            outputs=_outputs(results.raw, wire.result, results.min),
            reason=meta.fail_reason or None,
            charged=refunded if meta.is_refunded is True else charged,
        )


_NO_META = _Meta()
_NO_RESULTS = _Results()


def _outputs(raw: _File | None, result: _File | None, small: _File | None) -> tuple[Media, ...]:
    """The files of a job, each once: `results` and `result` are null independently, and may name the same."""
    found: list[Media] = []
    first = second = None
    if raw is not None and (first := raw.url):
        found.append(Media(first, raw.kind or kind_of_media(first)))
    if result is not None and (second := result.url) and second != first:
        found.append(Media(second, result.kind or kind_of_media(second)))
    if small is not None and (url := small.url) and url not in (first, second):
        found.append(Media(url, small.kind or kind_of_media(url), "min"))
    return tuple(found)
