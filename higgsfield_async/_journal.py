"""What a journal is: where paid work is written down before it is paid for."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec
from msgspec import Struct

from higgsfield_async._domain import JobSet, TaskRef

State: TypeAlias = Literal["intent", "unknown", "submitted", "ended"]
"""How far a unit of work is.

`intent`: it is about to be sent, or was, by a process that is alive. `unknown`: nobody can tell whether it was
accepted. `submitted`: its id is known. `ended`: so is its end.
"""


class Intent(Struct, frozen=True, kw_only=True):
    """What is written down before a submit leaves.

    Attributes:
        key: Names the unit of work: the same key is the same generation.
        nonce: Names this attempt at it: one that is forgotten and begun anew has another.
        transport: The service, as it stands in a `TaskRef`.
        origin: The address of that service.
        account: A fingerprint of the account's key.
        kind: What is asked for, as it stands in a `TaskRef`.
        digest: Of the request: the same key with another one is refused.
        created_at: When it was written, by this machine's clock (UTC).
        request: The request as JSON, to be read by people: local files as their hashes, addresses without their
            queries. None where prompts are kept out of the journal.
        replay: What a lost submit is repeated with, word for word, where the service honours an idempotency key. It is
            kept until the id is known.
        idempotency_key: The `Idempotency-Key` that goes with it, or None where the service honours none.
    """

    key: str
    nonce: str
    transport: str
    origin: str
    account: str
    kind: str
    digest: str
    created_at: datetime
    request: bytes | None = None
    replay: bytes | None = None
    idempotency_key: str | None = None

    def __repr__(self) -> str:
        return f"Intent({self.key!r}, kind={self.kind!r}, created_at={self.created_at:%Y-%m-%d %H:%M:%S})"


class Entry(Struct, frozen=True, kw_only=True):
    """One unit of work as it stands in a journal.

    Attributes:
        intent: What was written before its submit.
        state: How far it is.
        seq: Its place in the journal: greater than that of every earlier one.
        id: The service's id of the generation, once it is known.
        submitted_at: When its id was written down (UTC).
        job_set: What was last seen of it and written down; with an end, and where its files were saved.
        mine: Whether this journal, opened by this client, holds it: nobody else looks at it or submits it meanwhile.
        held: Whether anybody alive holds it, this client or another.
    """

    intent: Intent
    state: State
    seq: int
    id: str | None = None
    submitted_at: datetime | None = None
    job_set: JobSet | None = None
    mine: bool = False
    held: bool = False

    @property
    def key(self) -> str:
        """The key of the unit of work."""
        return self.intent.key

    @property
    def ref(self) -> TaskRef | None:
        """What picks the generation up, or None where its id is not known."""
        if self.id is None:
            return None
        return TaskRef(
            transport=self.intent.transport,
            origin=self.intent.origin,
            account=self.intent.account,
            id=self.id,
            kind=self.intent.kind,
            created_at=self.submitted_at or self.intent.created_at,
        )

    def __repr__(self) -> str:
        return f"Entry({self.key!r}, state={self.state!r}, id={self.id!r}, kind={self.intent.kind!r})"


class Journal(Protocol):
    """Where paid work is written down.

    Who opened it *holds* what it submits or looks after. What is held by nobody alive may be taken over by anybody; how
    it is known who is alive is the journal's own. An `intent` whose holder is dead is `unknown`, wherever it is shown.

    Every method raises `JournalError` where the journal cannot be read or written. None blocks the event loop, and each
    one that writes is finished, or not begun, whatever becomes of its caller: what is called later comes later.

    Attributes:
        prompts: Whether requests and prompts may be written down.
        spill: How the files on this machine begin in which ids are put that the journal could not take, one for each.
    """

    @property
    def prompts(self) -> bool: ...

    @property
    def spill(self) -> Path: ...

    async def open(self) -> None:
        """Opens it, and brings what an earlier version wrote up to date.

        Raises:
            JournalError: It is none, is damaged, cannot be written, or is of a newer version.
        """
        ...

    async def close(self) -> None:
        """Writes what is to be written, and lets go of everything that is held."""
        ...

    async def begin(self, intent: Intent) -> Entry:
        """Writes an intent down, durably, unless its key is there already.

        Returns:
            What stands under the key now. The submit may leave only where its `intent.nonce` is the given one: then it
            is held here. Anything else is as it was found, and not held by this.
        """
        ...

    async def commit(self, key: str, nonce: str, identifier: str, at: datetime) -> None:
        """Writes the id of what was accepted down, durably. What it is repeated with is not needed any more.

        It may be late: whatever became of who holds it, the id belongs to this attempt.

        Raises:
            JournalError: This attempt is not there any more, or has another id.
        """
        ...

    async def abandon(self, key: str, nonce: str) -> None:
        """Takes an attempt back that was certainly not accepted. One that is unknown or submitted stays."""
        ...

    async def unknown(self, key: str, nonce: str) -> None:
        """Writes down that nobody can tell whether an attempt was accepted, and lets go of it."""
        ...

    async def saw(self, key: str, job_set: JobSet) -> None:
        """Writes down what was seen of a generation that goes on. After its end, it changes nothing."""
        ...

    async def finish(self, key: str, job_set: JobSet) -> None:
        """Writes an end down, or where its files were saved, and lets go of it."""
        ...

    async def find(self, key: str) -> Entry | None:
        """What stands under a key."""
        ...

    async def find_id(self, identifier: str) -> Entry | None:
        """What has this id of the service's; the latest where there are several."""
        ...

    async def entries(self, *states: State, after: int = 0, limit: int = 1000) -> list[Entry]:
        """What is in one of these states, or in any, in the order in which it was begun.

        Args:
            states: Which; none for all.
            after: The `seq` of the last one that was seen.
            limit: How many at most.
        """
        ...

    async def claim(self, key: str) -> Entry | None:
        """Holds what nobody alive holds, be it unknown or submitted. What has ended is not held.

        Returns:
            What stands under the key now. It is `mine` if it is held here, since now or before.
        """
        ...

    async def release(self, key: str) -> None:
        """Lets go of what is held here, but not of an intent: only its outcome ends that."""
        ...

    async def resolve(self, key: str, identifier: str, at: datetime) -> Entry:
        """Attaches an id to what is unknown.

        Raises:
            JournalError: There is no such key, it is not unknown, or somebody else holds it.
        """
        ...

    async def forget(self, key: str) -> Entry:
        """Takes a unit of work out, so that the same key is submitted anew.

        Returns:
            What stood there.

        Raises:
            JournalError: There is no such key, somebody else who is alive holds it, or it is being submitted here.
        """
        ...

    async def prune(self, before: datetime) -> int:
        """Takes out what ended before then, and says how many there were."""
        ...


def written(job_set: JobSet, *, prompts: bool) -> bytes:
    """What was seen of a generation, as it is written down.

    Args:
        job_set: What was seen.
        prompts: Whether the service's answer is kept: what was asked for may stand in it.
    """
    return _encoder.encode(job_set if prompts else msgspec.structs.replace(job_set, body=b""))


def read(text: bytes) -> JobSet:
    """What `written` wrote."""
    return _decoder.decode(text)


def _to_json(path: Any) -> str:
    # Nothing else in it is foreign to JSON. A name of a file is bytes, and need not be text.
    return quote_from_bytes(os.fsencode(path))


def _from_json(kind: type, value: Any) -> Any:
    return kind(os.fsdecode(unquote_to_bytes(value)))


_encoder = msgspec.json.Encoder(enc_hook=_to_json)
_decoder = msgspec.json.Decoder(JobSet, dec_hook=_from_json)
