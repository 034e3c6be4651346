"""What a request holds of this side, brought into a form that the service takes: before a place, and before money."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import anyio

from higgsfield_async._addresses import is_inside
from higgsfield_async._content import Content, content_of
from higgsfield_async._domain import Estimate, Upload
from higgsfield_async._errors import FieldError, HiggsfieldError, InvalidRequest, UploadError
from higgsfield_async._media import Attachment, Loc, Place
from higgsfield_async._requests import GenerationRequest, filled, media_in
from higgsfield_async._transports import Transport
from higgsfield_async._uploads import Uploads

if TYPE_CHECKING:
    from higgsfield_async._engine import HttpEngine

RequestT = TypeVar("RequestT", bound=GenerationRequest)


class Sources:
    """What the requests of one client hold of this side: where it is, and may be, sent."""

    def __init__(self, transport: Transport, engine: HttpEngine, *, allow_private: bool) -> None:
        self._transport = transport
        self._allow_private = allow_private
        self._uploads = Uploads(transport, engine)

    async def upload(self, value: object, content_type: str | None) -> Upload:
        """Uploads what a caller gives.

        Raises:
            HiggsfieldError: As `Higgsfield.upload` says.
        """
        return await self._uploads.upload(await content_of(value), content_type)

    async def close(self) -> None:
        """Ends what is being uploaded."""
        await self._uploads.close()

    async def prepared(
        self, request: RequestT, describe: Callable[[RequestT], object], until: float = math.inf
    ) -> RequestT:
        """The request with text wherever media stands: what was local is uploaded, or goes into the request itself.

        Nothing is sent until all of it has been looked at.

        Args:
            request: What is wanted.
            describe: Describes the exchange with a request, in which nothing stands where local media was, and raises
                what it refuses. What needs no exchange at all needs no files either: they are looked at, and left out.
            until: When its caller's patience ends, by the monotonic clock.

        Raises:
            InvalidRequest: Some media cannot be read, is not what the service takes, or lies where it cannot reach.
            UploadError: A file could not be uploaded, or not in time.
            HiggsfieldError: There was no leave to upload, or `describe` raised it.
        """
        places, addresses = media_in(request)
        if addresses:
            self._check(request, addresses)
        if not places:
            return request
        with anyio.move_on_after(until - time.monotonic()):
            return await self._sent(request, places, describe)
        msg = f"The local files of this {type(request).__name__} were not sent in time, so that it was not submitted."
        raise UploadError(msg, transient=True)

    def _check(self, request: GenerationRequest, addresses: Sequence[Place]) -> None:
        wrong: list[FieldError] = []
        for place in addresses:
            # The host and what stands beside it: few, and the same again and again.
            with_user, inside = _where("/".join(place.value.split("/", 3)[:3]))
            if with_user:
                wrong.append(FieldError(place.loc, "must not hold a user or a password", "value_error"))
            elif inside and not self._allow_private:
                why = "leads inside this network, where the service cannot fetch it: allow_private=True lets it pass"
                wrong.append(FieldError(place.loc, why, "value_error"))
        if wrong:
            raise _refusal(request, wrong)

    async def _sent(
        self, request: RequestT, places: Sequence[Place], describe: Callable[[RequestT], object]
    ) -> RequestT:
        texts = {index: place.value.url for index, place in enumerate(places) if isinstance(place.value, Upload)}
        blank = filled(request, places, [texts.get(index, "") for index in range(len(places))])
        described = describe(blank)
        contents = await _looked_at(request, places)
        files = [
            Attachment(
                loc=places[index].loc, head=content.head, size=content.size, name=content.name, sort=places[index].sort
            )
            for index, content in contents.items()
        ]
        prefixes = self._transport.inlined(blank, files)
        if isinstance(described, Estimate):
            return blank
        if prefixes is None:
            texts |= await _uploaded(contents, self._uploads)
        else:
            for prefix, (index, content) in zip(prefixes, contents.items(), strict=True):
                texts[index] = prefix + await content.base64()
        return filled(request, places, [texts[index] for index in range(len(places))])


@functools.lru_cache(maxsize=1024)
def _where(address: str) -> tuple[bool, bool]:
    try:
        with_user = "@" in urlsplit(address).netloc
    except ValueError:
        return False, True
    return with_user, is_inside(address)


async def _looked_at(request: GenerationRequest, places: Sequence[Place]) -> dict[int, Content]:
    contents: dict[int, Content] = {}
    wrong: list[FieldError] = []
    for index, place in enumerate(places):
        if isinstance(place.value, Upload):
            wrong += _expired(place.loc, place.value)
            continue
        try:
            contents[index] = await content_of(place.value, place.loc)
        except InvalidRequest as error:
            wrong += error.errors
    if wrong:
        raise _refusal(request, wrong)
    return contents


async def _uploaded(contents: dict[int, Content], uploads: Uploads) -> dict[int, str]:
    urls: dict[int, str] = {}
    failures: list[HiggsfieldError] = []

    async def upload(index: int, content: Content) -> None:
        try:
            urls[index] = (await uploads.upload(content)).url
        except HiggsfieldError as error:
            failures.append(error)
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index, content in contents.items():
            group.start_soon(upload, index, content)
    if failures:
        raise failures[0]
    return urls


def _expired(loc: Loc, upload: Upload) -> list[FieldError]:
    if upload.expires_at is None or upload.expires_at > datetime.now(UTC):
        return []
    why = f"was uploaded, and kept until {upload.expires_at:%Y-%m-%d %H:%M} UTC: upload it again"
    return [FieldError(loc, why, "value_error")]


def _refusal(request: GenerationRequest, errors: Sequence[FieldError]) -> InvalidRequest:
    told = "; ".join(f"{type(request).__name__}.{error}" for error in errors)
    return InvalidRequest(told, errors=tuple(errors))
