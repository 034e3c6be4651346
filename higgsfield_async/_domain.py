"""What a generation is, in no service's spelling."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit, urlunsplit

import msgspec

from higgsfield_async._errors import Charged, ConfigurationError

T = TypeVar("T")


class JobStatus(StrEnum):
    """How far a job is. `unknown` is any word this SDK does not know: not an end, and kept beside it as it came."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    NSFW = "nsfw"
    CANCELED = "canceled"
    UNKNOWN = "unknown"

    @property
    def terminal(self) -> bool:
        """Whether this is an end."""
        return self in _ENDS


# Where jobs end differently, the first that is found is the end of the whole. A tuple: to look into a set of members of
# an enum takes several times as long, and every answer to every poll is looked at.
_ENDS = (JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.NSFW, JobStatus.CANCELED)


def without_query(url: str) -> str:
    """An address as it may be shown: the query of a signed one is as good as a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    if parts.scheme == "data":
        return "data:…"
    if not parts.netloc and (parts.scheme or "@" in parts.path):
        return "…"  # a host without its slashes may hold a password
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "…" if parts.query else "", ""))


def suffix_of(url: str) -> str:
    """What the name of the file at an address ends with, such as `.mp4`, in lower case; "" where it says nothing."""
    try:
        path = urlsplit(url).path
    except ValueError:
        return ""
    found = _SUFFIX.search(path)
    return found[0].lower() if found else ""


_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}$")


class Media(msgspec.Struct, frozen=True, gc=False):
    """One file that a job made.

    Attributes:
        url: Where it lies. It may be signed: it is shown without its query.
        kind: What it is; `file` where it is none of the three others.
        variant: `raw` as it was made, or `min`, optimised by the service for showing.
        path: Where it was saved on this machine, with `save=`; else None.
    """

    url: str
    kind: Literal["image", "video", "audio", "file"]
    variant: Literal["raw", "min"] = "raw"
    path: Path | None = None

    def __repr__(self) -> str:
        saved = "" if self.path is None else f", path={str(self.path)!r}"
        return f"Media({without_query(self.url)!r}, kind={self.kind!r}, variant={self.variant!r}{saved})"


class Job(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One job of a generation: most generations have one, a batch has several.

    Attributes:
        id: The service's id of it.
        status: How far it is.
        raw_status: The service's own word for that.
        outputs: Every file it made, the best first.
        reason: Why it failed, where the service says so.
        charged: What became of its money.
    """

    id: str
    status: JobStatus
    raw_status: str
    outputs: tuple[Media, ...] = ()
    reason: str | None = None
    charged: Charged = "unknown"

    @property
    def media(self) -> Media | None:
        """The best of its outputs, or None while there are none."""
        return self.outputs[0] if self.outputs else None


class JobSet(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a service said of a generation at one moment.

    Attributes:
        id: The service's id of the generation.
        jobs: Its jobs; none yet in the answer to a submit on the proxy.
        kind: The service's own word for what is made, or None where it gives none.
        created_at: When the service says it was created, or None.
        body: The answer, byte for byte.
        fileless: Whether it makes no files, however well it ends: the training of a character.
    """

    id: str
    jobs: tuple[Job, ...] = ()
    kind: str | None = None
    created_at: datetime | None = None
    body: bytes = b""
    fileless: bool = False

    @property
    def status(self) -> JobStatus:
        """The status of the whole: an end only when every job has ended.

        Jobs that end differently make a `completed` set if any of them completed; else `failed` if any failed, else
        `nsfw` if any was, else `canceled`.
        """
        jobs = self.jobs
        if len(jobs) == 1:
            return jobs[0].status
        found = {job.status for job in jobs}
        if found <= {*_ENDS}:
            return next((status for status in _ENDS if status in found), JobStatus.QUEUED)
        if JobStatus.IN_PROGRESS in found or not found.isdisjoint(_ENDS):
            return JobStatus.IN_PROGRESS
        return JobStatus.QUEUED if JobStatus.QUEUED in found else JobStatus.UNKNOWN

    @property
    def outputs(self) -> tuple[Media, ...]:
        """Every file of every job."""
        return tuple(media for job in self.jobs for media in job.outputs)

    @property
    def reason(self) -> str | None:
        """The first reason that a job gives, or None."""
        return next((job.reason for job in self.jobs if job.reason), None)

    @property
    def charged(self) -> Charged:
        """What became of the money, over all the jobs: `"yes"` or `"no"` only where it holds for every one."""
        found = {job.charged for job in self.jobs}
        return self.jobs[0].charged if len(found) == 1 else "unknown"

    @property
    def raw(self) -> Any:
        """The answer as JSON, with everything that the service said."""
        return msgspec.json.decode(self.body) if self.body else {}

    def __repr__(self) -> str:
        return f"JobSet({self.id!r}, status={self.status.value!r}, jobs={len(self.jobs)}, kind={self.kind!r})"


class TaskRef(msgspec.Struct, frozen=True, kw_only=True):
    """Enough to pick a generation up in another process, and nothing secret.

    Attributes:
        transport: The service it was submitted to: `proxy` or `platform`.
        origin: The address of that service.
        account: A fingerprint of the account's key: tells two accounts apart, and nothing about the key.
        id: The service's id of the generation.
        kind: What was asked for: the route, and the AI model where it is in the route.
        created_at: When the submit was answered, by this machine's clock (UTC).
    """

    transport: str
    origin: str
    account: str
    id: str
    kind: str
    created_at: datetime

    def to_json(self) -> str:
        """This ref as one line of JSON."""
        return msgspec.json.encode(self).decode()

    @property
    def short(self) -> str:
        """What tells this generation from the others of its account, as text that is safe in an address.

        A client of the same account takes it: `hf.task(ref.short)`.
        """
        told = (self.id, self.kind, int(self.created_at.timestamp()))
        return base64.urlsafe_b64encode(msgspec.json.encode(told)).decode().rstrip("=")

    @classmethod
    def from_short(cls, text: str, *, transport: str, origin: str, account: str) -> TaskRef:
        """The ref that `short` is of, with what it leaves out.

        Raises:
            ConfigurationError: It is not such a text.
        """
        try:
            told = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
            identifier, kind, seconds = _short_decoder.decode(told)
            created_at = datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError, RecursionError, msgspec.DecodeError):
            msg = "This is not a TaskRef, nor its short form."
            raise ConfigurationError(msg) from None
        return cls(transport=transport, origin=origin, account=account, id=identifier, kind=kind, created_at=created_at)

    @classmethod
    def from_json(cls, text: str | bytes) -> TaskRef:
        """The ref that `to_json` wrote.

        Raises:
            ConfigurationError: It is not a ref.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, UnicodeError, TypeError, RecursionError) as error:
            msg = f"This is not a TaskRef's JSON: {error}."
            raise ConfigurationError(msg) from None


_Short = Annotated[str, msgspec.Meta(min_length=1, max_length=300)]
_short_decoder = msgspec.json.Decoder(tuple[_Short, _Short, int])


def _without_queries(self: msgspec.Struct) -> str:
    """How an item of a catalogue is shown: an address in it may be signed."""
    fields = msgspec.structs.asdict(self).items()
    hidden = {name: without_query(value) for name, value in fields if value and name.endswith("_url")}
    return f"{type(self).__name__}({', '.join(f'{name}={hidden.get(name, value)!r}' for name, value in fields)})"


class Motion(msgspec.Struct, frozen=True, kw_only=True):
    """A camera motion or effect: its `id` is the `motion_id` of `ImageToVideo` and of `DopVideo`'s motions."""

    id: str
    name: str
    preview_url: str | None = None
    description: str | None = None
    categories: tuple[str, ...] = ()
    start_end_frame: bool | None = None

    __repr__ = _without_queries


class AvatarPreset(msgspec.Struct, frozen=True, kw_only=True):
    """A manner of speaking to the camera: its `id` is the `avatar_preset_id` of `Speech`."""

    id: str
    name: str
    preview_url: str | None = None
    thumbnail_url: str | None = None

    __repr__ = _without_queries


class Voice(msgspec.Struct, frozen=True, kw_only=True):
    """A voice: its `id` is the `voice_id` of `Speak`."""

    id: str
    name: str
    gender: str | None = None
    age: str | None = None
    categories: tuple[str, ...] = ()
    voice_url: str | None = None
    image_url: str | None = None

    __repr__ = _without_queries


class Sound(msgspec.Struct, frozen=True, kw_only=True):
    """An ambient sound: its `id` is the `sound_id` of `Speak`."""

    id: str
    name: str
    description: str | None = None
    sound_url: str | None = None

    __repr__ = _without_queries


class SoulStyle(msgspec.Struct, frozen=True, kw_only=True):
    """A style of the Soul models: its `id` is their `style_id`."""

    id: str
    name: str
    description: str | None = None
    preview_url: str | None = None

    __repr__ = _without_queries


class Character(msgspec.Struct, frozen=True, kw_only=True):
    """A person that the Soul models were trained to draw (a "Soul ID"): its `id` is their `custom_reference_id`.

    Attributes:
        id: The service's id of it, and of its training.
        name: What it was called.
        status: How far its training is.
        raw_status: The service's own word for that.
        model_version: What it was trained for, such as `v1`, `v2` or `cinema`, or None where the service does not say.
        created_at: When the service says it was created, or None.
        in_progress_at: When its training began, or None.
        fail_reason: Why its training failed, where the service says so.
        thumbnail_url: A small picture of it, or None. Addresses are shown without their queries.
        media: Addresses of the images it was trained with; none in a list.
    """

    id: str
    name: str
    status: JobStatus
    raw_status: str
    model_version: str | None = None
    created_at: datetime | None = None
    in_progress_at: datetime | None = None
    fail_reason: str | None = None
    thumbnail_url: str | None = None
    media: tuple[str, ...] = ()

    def __repr__(self) -> str:
        media = f", media={[without_query(url) for url in self.media]}" if self.media else ""
        return (
            f"Character({self.id!r}, name={self.name!r}, status={self.status.value!r}, "
            f"model_version={self.model_version!r}{media})"
        )


class MarketingPreset(msgspec.Struct, frozen=True, kw_only=True):
    """A look of the marketing studio: its `id` is the `preset_id` of the model `marketing-studio/image`."""

    id: str
    name: str
    description: str | None = None
    preview_url: str | None = None

    __repr__ = _without_queries


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """An AI model of the platform: its `id` is the `model_id` of `ModelRequest`.

    Attributes:
        id: Such as `higgsfield-ai/dop/turbo`.
        title: Its name, or its id where it has none.
        output: What it makes: `image`, `video`, `audio` or another word of the service's; None where it says nothing.
        operation: The service's word for how, such as `text-to-video`; None where it does not list the model.
        schema: Its arguments, as a JSON schema: the service's own where it lists the model, else what is documented.
        documented: When what is documented of it here was so; None where nothing is known of it. A `ModelRequest` is
            looked at by that, and not by what the service lists.
        listed: Whether the service lists it now. Some that it does not list can be used all the same.
    """

    id: str
    title: str
    output: str | None = None
    operation: str | None = None
    schema: Mapping[str, Any] = {}
    documented: date | None = None
    listed: bool = False


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What was used of one AI model in one stretch of time, and what it cost. Whatever the service leaves out is None.

    Attributes:
        start: When that stretch begins.
        model: The model's id.
        unit: What is counted.
        quantity: How many of them.
        unit_price: What one of them costs.
        cost: What all of them cost, in the currency of `unit_price`, which the service does not name.
        auth_method: The service's word for how the requests were signed for.
    """

    start: datetime | None = None
    model: str | None = None
    unit: str | None = None
    quantity: Decimal | None = None
    unit_price: Decimal | None = None
    cost: Decimal | None = None
    auth_method: str | None = None


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a generation will cost, as far as it can be known before it is submitted.

    Attributes:
        points: In the proxy's points.
        credits: In the platform's credits.
        usd: The same in dollars.
        text: What the service says instead of a number, word for word.
        source: Where this comes from: the address that was asked, or the page that states it and when it was read.
    """

    points: Decimal | None = None
    credits: Decimal | None = None
    usd: Decimal | None = None
    text: str | None = None
    source: str


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was uploaded.

    Attributes:
        url: Where it lies: what a request takes for the address of an image, of audio or of a video. It is shown
            without its query.
        content_type: Its type, such as `image/png`.
        size: How many bytes it has.
        expires_at: When the service will delete it, or None where it does not say.
    """

    url: str
    content_type: str
    size: int
    expires_at: datetime | None = None

    def __repr__(self) -> str:
        url = without_query(self.url)
        return f"Upload({url!r}, content_type={self.content_type!r}, size={self.size}, expires_at={self.expires_at!r})"


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a catalogue.

    Attributes:
        items: What is on it.
        total: How many there are in all, or None where the service does not say.
        cursor: What to ask the next page with, or None.
        size: How many were asked for, or None where all are sent at once.
        received: How many came, with those that have no id and are passed over; None where every one is in `items`.
    """

    items: tuple[T, ...]
    total: int | None = None
    cursor: int | str | None = None
    size: int | None = None
    received: int | None = None
