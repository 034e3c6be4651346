"""Characters, or Soul IDs: `/v1/custom-references`, in today's form, which takes the header of v2.

Source: https://docs.higgsfield.ai/docs/models/soul-id/create-character, and for the list the platform's JavaScript SDK.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, Protocol
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from higgsfield_async._domain import Character, Estimate, Job, JobSet, JobStatus, Page, TaskRef
from higgsfield_async._errors import MalformedResponse, Unsupported
from higgsfield_async._http import Call, HttpRequest, HttpResponse
from higgsfield_async._requests import CharacterTraining, SubmitOptions
from higgsfield_async._transports._answers import (
    as_list,
    as_object,
    error_from,
    is_array,
    is_object,
    malformed,
    private_strings,
    read_json,
    read_utc,
    text_or_none,
)
from higgsfield_async._transports._paths import path_part

# The route, and so what stands in the `TaskRef` of a training.
CHARACTER_KIND = "v1/custom-references"

# Nothing is asked: `POST /estimate` is for the models of v2.
TRAINING_PRICE = Estimate(
    credits=Decimal(40),
    usd=Decimal("2.50"),
    source="https://docs.higgsfield.ai/docs/models/soul-id/create-character, read in 2026",
)

_WORDS: Mapping[str, JobStatus] = {
    "not_ready": JobStatus.QUEUED,
    "queued": JobStatus.QUEUED,
    "in_progress": JobStatus.IN_PROGRESS,
    "completed": JobStatus.COMPLETED,
    "failed": JobStatus.FAILED,
}

# The service answers so while a character is trained; with which of them is not documented.
_NOT_NOW = "A character that is being trained cannot be deleted: wait for the end of its training."
_DELETING = {400: _NOT_NOW, 409: _NOT_NOW, 422: _NOT_NOW}


class Ask(Protocol):
    """Makes a request to the platform, with its address and its keys."""

    def __call__(
        self, method: Literal["GET", "POST", "DELETE"], path: str, body: bytes | None = None, /
    ) -> HttpRequest: ...


class _Bare(Struct):
    id: Any = None


class _Listing(Struct):
    items: Any = None
    total: Any = None
    total_pages: Any = None


_decoder = msgspec.json.Decoder(dict[str, Any])
_bare_decoder = msgspec.json.Decoder(_Bare)
_listing_decoder = msgspec.json.Decoder(_Listing)


class CharacterCalls:
    """What there is to do with characters.

    Args:
        ask: Makes the requests.
        secrets: What no message may repeat.
    """

    def __init__(self, ask: Ask, secrets: set[str]) -> None:
        self._ask = ask
        self._secrets = secrets

    def train(self, request: CharacterTraining, options: SubmitOptions) -> Call[JobSet]:
        """Begins a training, which costs money: no idempotency key is known here, so it is never sent twice."""
        for option, what in (
            (options.webhook, "webhook"),
            (options.expires_after, "expires_after"),
            (options.idempotency_key, "idempotency_key"),
        ):
            if option is not None:
                msg = f"The platform takes no {what} for a CharacterTraining."
                raise Unsupported(msg)
        body = {
            "name": request.name,
            "input_images": [{"type": "image_url", "image_url": url} for url in request.images],
        }
        if request.model_version is not None:
            body["model_version"] = request.model_version
        private = private_strings(body) | self._secrets

        def decode(response: HttpResponse) -> JobSet:
            if 200 <= response.status < 300:
                return _read_training(response, "submit")
            raise error_from(response, "submit", private=private)

        http = self._ask("POST", f"/{CHARACTER_KIND}", msgspec.json.encode(body))
        return Call("submit", http, decode, submits=True, fresh=True)

    def look(self, ref: TaskRef) -> Call[JobSet]:
        """Looks at a training."""
        name = f"the poll of generation {ref.id}"

        def decode(response: HttpResponse) -> JobSet:
            if 200 <= response.status < 300:
                return _read_training(response, name, ref)
            raise error_from(response, name, private=self._secrets, looking=True)

        return Call(name, self._ask("GET", f"/{CHARACTER_KIND}/{path_part(ref.id)}"), decode, polls=True)

    def get(self, character_id: str) -> Call[Character]:
        """Asks for one character, with the images it was trained with."""
        http = self._ask("GET", f"/{CHARACTER_KIND}/{path_part(character_id, 'character_id')}")
        name = f"the request for character {character_id}"

        def decode(response: HttpResponse) -> Character:
            if not 200 <= response.status < 300:
                raise error_from(response, name, private=self._secrets)
            record = read_json(response, _decoder, name)
            return _character(record, text_or_none(record.get("id")) or character_id)

        return Call(name, http, decode)

    def page(self, size: int | None, cursor: int | str | None) -> Call[Page[Character]]:
        """One page of the account's characters; the cursor is the number of the page."""
        number = 1 if cursor is None else int(cursor)
        query: dict[str, int] = {"page": number} | ({} if size is None else {"page_size": size})
        name = "the list of characters"

        def decode(response: HttpResponse) -> Page[Character]:
            if not 200 <= response.status < 300:
                raise error_from(response, name, private=self._secrets)
            listing = read_json(response, _listing_decoder, name)
            if not is_array(listing.items):
                raise malformed(response, name, "it has no items")
            found = tuple(
                _character(item, identifier)
                for item in listing.items
                if is_object(item) and (identifier := text_or_none(item.get("id")))
            )
            pages = _number(listing.total_pages)
            return Page(
                items=found,
                received=len(listing.items),
                total=_number(listing.total),
                cursor=number + 1 if listing.items and (pages is None or number < pages) else None,
            )

        return Call(name, self._ask("GET", f"/{CHARACTER_KIND}/list?{urlencode(query)}"), decode)

    def delete(self, character_id: str) -> Call[None]:
        """Deletes a character."""
        http = self._ask("DELETE", f"/{CHARACTER_KIND}/{path_part(character_id, 'character_id')}")
        name = f"the delete of character {character_id}"

        def decode(response: HttpResponse) -> None:
            if not 200 <= response.status < 300:
                raise error_from(response, name, private=self._secrets, advice=_DELETING)

        return Call(name, http, decode)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _status(record: Mapping[str, Any]) -> tuple[JobStatus, str]:
    word = text_or_none(record.get("status")) or ""
    return _WORDS.get(word, JobStatus.UNKNOWN), word


def _read_training(response: HttpResponse, name: str, ref: TaskRef | None = None) -> JobSet:
    try:
        record = read_json(response, _decoder, name)
    except MalformedResponse:
        if ref is not None:
            raise
        # What was paid for has an id, whatever became of the rest.
        record = {"id": read_json(response, _bare_decoder, name).id}
    identifier = text_or_none(record.get("id")) or (ref and ref.id)
    if not identifier:
        raise malformed(response, name, "it has no id")
    status, word = _status(record)
    if ref is not None and not word:
        raise malformed(response, name, "it has no status")
    job = Job(
        id=identifier,
        status=status,
        raw_status=word,
        reason=text_or_none(record.get("fail_reason")),
        # Of a training that failed, no page says whether it is given back.
        charged="yes" if status is JobStatus.COMPLETED else "unknown",
    )
    created_at = read_utc(record.get("created_at"))
    return JobSet(id=identifier, jobs=(job,), created_at=created_at, body=response.body, fileless=True)


def _character(record: Mapping[str, Any], identifier: str) -> Character:
    status, word = _status(record)
    media = (text_or_none(as_object(each).get("media_url")) for each in as_list(record.get("reference_media")))
    return Character(
        id=identifier,
        name=text_or_none(record.get("name")) or "",
        status=status,
        raw_status=word,
        model_version=text_or_none(record.get("model_version")),
        created_at=read_utc(record.get("created_at")),
        in_progress_at=read_utc(record.get("in_progress_at")),
        fail_reason=text_or_none(record.get("fail_reason")),
        thumbnail_url=text_or_none(record.get("thumbnail_url")),
        media=tuple(url for url in media if url is not None),
    )
