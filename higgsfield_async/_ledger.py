"""How a client uses its journal: what is written and held, and what becomes of an id that cannot be written."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import glob
import hashlib
import logging
import os
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from higgsfield_async._domain import JobSet, TaskRef
from higgsfield_async._errors import ConfigurationError, FieldError, InvalidRequest, JournalError
from higgsfield_async._frozen import Frozen
from higgsfield_async._journal import Entry, Intent, Journal
from higgsfield_async._telemetry import fields
from higgsfield_async._tracker import Tracked
from higgsfield_async._transports import Transport

logger = logging.getLogger("higgsfield_async.journal")

# An id that the journal does not take is offered to it again after so many seconds; then it goes to the spill file, and
# is offered further.
AGAIN = (0.05, 0.2, 0.75)
AGAIN_AT_MOST = 30.0
# How long an error of a submit waits until it is written down, in seconds.
SETTLING = 1.0
# What nobody here waits for is held for so many seconds more: most who submit wait a moment later.
HELD_ON = 1.0
# How long one that another client holds is not asked for again, in seconds: at first, and at most.
BUSY, BUSY_AT_MOST = 0.02, 1.0
# So many are read from a journal at once.
PAGE = 500


# A service that honours idempotency keys does not say for how long. So many seconds are less than any that does.
SENT_AGAIN = 3600.0


def may_be_sent_again(intent: Intent, now: datetime) -> bool:
    """Whether what may have been accepted can be sent again, with its key, and is not paid for twice.

    Not where it seems to be of the future: nobody knows how old it is then.
    """
    age = (now - intent.created_at).total_seconds()
    return intent.idempotency_key is not None and 0 <= age <= SENT_AGAIN


class Found(Exception):  # no error: another submit of the same unit was first
    """A unit of work is in the journal already, by the time that its submit would leave."""


class Spilled(Struct, frozen=True, kw_only=True):
    """What a spill file holds: an id that was paid for and could not be written down."""

    key: str
    nonce: str
    ref: TaskRef


_spilled = msgspec.json.Decoder(Spilled)


class Unit:
    """One unit of work that is being submitted.

    Args:
        ledger: Where it is written down.
        key: Its key.
        frozen: Its request.
        entry: What is known of it, where an attempt that may have been accepted is repeated; held here.
    """

    def __init__(self, ledger: Ledger, key: str, frozen: Frozen, entry: Entry | None = None) -> None:
        self._ledger = ledger
        self.key = key
        self._frozen = frozen
        self._nonce = None if entry is None else entry.intent.nonce
        self._kind = ""
        self._replay: bytes | None = None
        self._idempotency_key: str | None = None

    async def begin(self) -> None:
        """Writes it down, right before it leaves; once for all tries of one attempt.

        Raises:
            Found: It is there already.
            JournalError: It could not be written: nothing is sent.
        """
        if self._nonce is not None:
            return
        journal, transport = self._ledger.journal, self._ledger.transport
        try:
            # An earlier try that was refused, and is to be taken back yet, would be taken for somebody else's.
            await self._ledger.settle(self.key)
        except JournalError as error:
            msg = f"{error} Nothing was submitted."
            raise JournalError(msg, refused=True, transient=error.transient) from error.__cause__
        self._nonce = uuid.uuid4().hex
        intent = Intent(
            key=self.key,
            nonce=self._nonce,
            transport=transport.name,
            origin=transport.origin,
            account=transport.account,
            kind=self._kind,
            digest=self._frozen.digest,
            created_at=datetime.now(UTC),
            request=self._frozen.told if journal.prompts else None,
            replay=self._replay if journal.prompts else None,
            idempotency_key=self._idempotency_key,
        )
        try:
            entry = await journal.begin(intent)
        except JournalError as error:
            # The next try has to be written down as well; of this one, who knows what the journal has.
            self.failed(lost=False)
            error.refused = True
            raise
        if entry.intent.nonce != self._nonce:
            self._nonce = None
            raise Found

    def describe(self, kind: str, idempotency_key: str | None, replay: bytes | None) -> None:
        """Takes down what is about to be sent."""
        self._kind, self._idempotency_key = kind, idempotency_key
        self._replay = None if idempotency_key is None else replay

    def failed(self, *, lost: bool) -> None:
        """It was not accepted, this time, or its answer is lost."""
        if self._nonce is None:
            return
        journal = self._ledger.journal
        write = journal.unknown if lost else journal.abandon
        self._ledger.owe(self.key, functools.partial(write, self.key, self._nonce))
        if not lost:
            self._nonce = None

    async def settled(self) -> None:
        """Waits a little until how it failed is written down: whoever is told of it may look there at once."""
        with anyio.move_on_after(SETTLING), contextlib.suppress(JournalError):
            await self._ledger.settle(self.key)

    def opened(self, tracked: Tracked) -> None:
        """It is looked after here from now on."""
        tracked.key, tracked.holding = self.key, True
        if tracked.ended and tracked.job_set is not None:
            self._ledger.seen(tracked, tracked.job_set)

    async def accepted(self, ref: TaskRef) -> None:
        """Writes its id down, wherever that is possible, whatever becomes of the caller."""
        nonce, self._nonce = self._nonce, None
        assert nonce is not None  # noqa: S101  # nothing is accepted that was not begun
        try:
            await self._ledger.journal.commit(self.key, nonce, ref.id, ref.created_at)
        except BaseException as error:
            # Cancelled as well: that it is on its way to the disk is not enough.
            kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._ledger.later(self._ledger.keep(self.key, nonce, ref, kept))
            if not isinstance(error, Exception):  # whatever a journal raises: this is paid for
                raise
            await asyncio.shield(kept)


class Ledger:
    """One client's use of one journal.

    Args:
        journal: The journal.
        transport: The service that what is written here is submitted to.
    """

    def __init__(self, journal: Journal, transport: Transport) -> None:
        self.journal = journal
        self.transport = transport
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # What was paid for, and is in no journal yet.
        self._spilled: dict[str, TaskRef] = {}
        # The files that could not be read back, and of which that was said.
        self._useless: set[Path] = set()
        # What is to be written of a unit of work yet: how its submit or its wait ended. The last counts.
        self._owed: dict[str, Callable[[], Awaitable[None]]] = {}
        self._leaving: dict[Tracked, asyncio.TimerHandle] = {}
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Opens the journal, once, and reads back what was spilled.

        Raises:
            JournalError: It cannot be used.
        """
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="higgsfield_async.journal")
        try:
            await asyncio.shield(self._opening)
        except JournalError as error:
            self._opening = None  # the next one may find it mended
            raise copy.copy(error) from error.__cause__

    async def _open(self) -> None:
        await self.journal.open()
        await self.read_back()

    async def close(self) -> None:
        """Writes what is left to write, and closes the journal."""
        self._closing.set_result(None)
        for timer in self._leaving.values():
            timer.cancel()
        if self._opening is not None:
            await asyncio.wait([self._opening, *self._tasks])
            await self.journal.close()

    def later(self, work: Coroutine[Any, Any, object]) -> None:
        """Writes something that nobody waits for. What is begun first is written first."""

        async def do() -> None:
            try:
                await work
            except JournalError as error:
                logger.warning("Not written down: %s", error, extra=fields(error=error))

        task = asyncio.create_task(do(), name="higgsfield_async.journal")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def owe(self, key: str, write: Callable[[], Awaitable[None]]) -> None:
        """Writes how a submit or a wait ended, and again later where the journal does not take it.

        Others would wait for it for as long as this client lives.
        """
        self._owed[key] = write
        self.later(self._pay_back(key))

    async def _pay_back(self, key: str) -> None:
        pauses = iter(AGAIN)
        while key in self._owed:
            last = self._closing.done()
            try:
                await self.settle(key)
            except JournalError as error:
                logger.warning("Not written down yet: %s", error, extra=fields(error=error))
            if last:
                return
            if key in self._owed:
                await self._rest(next(pauses, AGAIN_AT_MOST))

    async def settle(self, key: str) -> None:
        """Writes what is owed of a unit of work, now.

        Raises:
            JournalError: It could not be written.
        """
        write = self._owed.get(key)
        # Where its id is in no journal yet, there is nothing that could be written of it.
        if write is None or key in self._spilled:
            return
        await write()
        if self._owed.get(key) is write:
            del self._owed[key]

    def forgotten(self, key: str) -> None:
        """Writes nothing more of a unit of work that was taken out: its key may be another one's soon."""
        self._owed.pop(key, None)

    # Units of work.

    async def known(self, key: str, frozen: Frozen) -> Entry | None:
        """What stands under a key.

        Raises:
            InvalidRequest: It is another request.
            ConfigurationError: It was submitted to another service, or with another account, and has not ended.
            JournalError: The journal cannot be read.
        """
        await self.settle(key)
        entry = await self.journal.find(key)
        if entry is not None and entry.state == "unknown" and await self.read_back():
            entry = await self.journal.find(key)
        if entry is None:
            return None
        if entry.intent.digest != frozen.digest:
            begun = f"{entry.intent.kind}, begun {entry.intent.created_at:%Y-%m-%d %H:%M} UTC"
            error = FieldError(("key",), f"names another request already ({begun})", "value_error")
            msg = f"The key {key!r} names another request in the journal ({begun}): give this one a key of its own."
            raise InvalidRequest(msg, errors=(error,), status=409)
        if (spilled := self._spilled.get(key)) is not None and entry.id is None:
            entry = replace(entry, state="submitted", id=spilled.id, submitted_at=spilled.created_at)
        if entry.state != "ended" and not self.fits(entry):
            msg = (
                f"{key!r} was submitted to another service, or with another account, than this client's: "
                f"{entry.intent.transport} at {entry.intent.origin}."
            )
            raise ConfigurationError(msg, ref=entry.ref, charged="unknown")
        return entry

    def fits(self, entry: Entry) -> bool:
        """Whether this client can look after it."""
        mine, theirs = self.transport, entry.intent
        return theirs.transport == mine.name and mine.same_service(theirs.origin) and theirs.account == mine.account

    async def left(self) -> AsyncIterator[Entry]:
        """What has not ended and nobody alive holds, the oldest first.

        What was submitted is held here from then on; what is unknown, by whoever sends it again.
        """
        after = 0
        while page := await self.journal.entries("submitted", "unknown", after=after, limit=PAGE):
            after = page[-1].seq
            for each in page:
                if each.held or not self.fits(each):
                    continue
                if each.state == "unknown":
                    yield each
                elif (entry := await self.claim(each.key)) is not None and entry.mine:
                    yield entry

    async def all_unknown(self) -> list[Entry]:
        """Everything of which nobody can tell whether it was accepted."""
        found: list[Entry] = []
        while page := await self.journal.entries("unknown", after=found[-1].seq if found else 0, limit=PAGE):
            found += page
        return found

    # Who looks after what.

    async def elsewhere(self, tracked: Tracked) -> JobSet | None:
        """What is known of a generation that another client looks after; None where this one is to look."""
        if tracked.holding or tracked.key in self._spilled:
            return None
        try:
            entry = await self._held(tracked)
        except JournalError as error:
            # Two may look at the same then, which costs nothing.
            msg = "Whether another client looks after generation %s is not known: %s"
            logger.warning(msg, tracked.ref.id, error, extra=fields(tracked.ref, error))
            return None
        tracked.key = None if entry is None else entry.key
        if entry is None or entry.mine:
            tracked.holding = True
            return None
        tracked.written = entry.state == "ended"
        return entry.job_set or JobSet(id=tracked.ref.id)

    async def _held(self, tracked: Tracked) -> Entry | None:
        """Where a generation stands in the journal, held here if nobody else holds it; None if it is not in it."""
        journal, ref = self.journal, tracked.ref
        entry = await (journal.find_id(ref.id) if tracked.key is None else journal.find(tracked.key))
        # Its key may have been forgotten, and another one's since.
        if entry is None or (entry.id, entry.intent.kind) != (ref.id, ref.kind):
            return None
        if entry.state == "ended" or (entry.held and not entry.mine):
            return entry
        return await self.claim(entry.key)

    async def claim(self, key: str) -> Entry | None:
        """Holds what nobody alive holds, as `Journal.claim`; where that breaks off, it is let go of again."""
        await self.settle(key)
        try:
            return await self.journal.claim(key)
        except BaseException:
            self.owe(key, functools.partial(self.journal.release, key))
            raise

    def idle(self, tracked: Tracked) -> None:
        """Lets go of a generation soon, unless somebody here waits for it by then."""
        if tracked.key is None or not tracked.holding or tracked in self._leaving or self._closing.done():
            return
        self._leaving[tracked] = asyncio.get_running_loop().call_later(HELD_ON, self._leave, tracked)

    def _leave(self, tracked: Tracked) -> None:
        del self._leaving[tracked]
        if tracked.key is not None and tracked.holding and not tracked.listeners and not tracked.looking:
            tracked.holding = False
            self.owe(tracked.key, functools.partial(self.journal.release, tracked.key))

    def seen(self, tracked: Tracked, job_set: JobSet) -> None:
        """Writes down what was seen of a generation by whoever looks after it, and an end whoever saw it."""
        if tracked.key is None:
            return
        if not tracked.ended:
            if tracked.holding:
                self.later(self.journal.saw(tracked.key, job_set))
        elif not tracked.written:
            write = functools.partial(self.journal.finish, tracked.key, job_set)
            self.owe(tracked.key, write if tracked.holding else functools.partial(self._finish, tracked, job_set))
            # Held no longer: so says its end.
            tracked.holding = False

    def saved(self, tracked: Tracked, job_set: JobSet) -> None:
        """Writes down where the files of a generation are, if they are in files."""
        if tracked.key is not None and any(media.path is not None for media in job_set.outputs):
            self.owe(tracked.key, functools.partial(self._finish, tracked, job_set))

    async def _finish(self, tracked: Tracked, job_set: JobSet) -> None:
        """Writes down the end of what is not held here: its key may have been forgotten, and another one's since."""
        entry = None if tracked.key is None else await self.journal.find(tracked.key)
        if entry is not None and entry.id == tracked.ref.id:
            await self.journal.finish(entry.key, job_set)

    # Ids.

    async def keep(self, key: str, nonce: str, ref: TaskRef, kept: asyncio.Future[None]) -> None:
        """Writes an id down that the journal has not taken: there, or in a file of its own and the log, and later."""
        failure: Exception | None = None
        for pause in AGAIN:
            await self._rest(pause)
            try:
                await self.journal.commit(key, nonce, ref.id, ref.created_at)
            except Exception as error:  # noqa: BLE001  # whatever a journal raises: this is paid for
                failure = error
            else:
                kept.set_result(None)
                return
        self._spilled[key] = ref
        line = msgspec.json.encode(Spilled(key=key, nonce=nonce, ref=ref))
        where = await anyio.to_thread.run_sync(_spill, self.journal.spill, nonce, line)
        msg = "A paid generation is not in the journal (%s); %s: %s"
        logger.critical(msg, failure, where, ref.to_json(), extra=fields(ref, failure, paid=True))
        kept.set_result(None)
        pause = AGAIN[-1]
        while not self._closing.done():
            pause = min(pause * 2, AGAIN_AT_MOST)
            await self._rest(pause)
            with contextlib.suppress(Exception):
                await self.journal.commit(key, nonce, ref.id, ref.created_at)
                self._spilled.pop(key, None)
                return

    async def _rest(self, seconds: float) -> None:
        await asyncio.wait([self._closing], timeout=seconds)

    async def read_back(self) -> bool:
        """Writes down what others could not, and says whether there was any: who spilled it may be dead by now."""
        found = False
        for path, line in await anyio.to_thread.run_sync(_spilled_files, self.journal.spill):
            try:
                spilled = read_spilled(line)
                await self.journal.commit(spilled.key, spilled.nonce, spilled.ref.id, spilled.ref.created_at)
            except JournalError as error:
                if path not in self._useless:
                    self._useless.add(path)
                    msg = "A paid generation is in %s, and not in the journal: %s"
                    logger.critical(msg, path, error, extra=fields(error=error, paid=True))
            else:
                found = True
                logger.warning("Read back from %s: %s", path, spilled.ref.to_json(), extra=fields(spilled.ref))
                await anyio.to_thread.run_sync(functools.partial(path.unlink, missing_ok=True))
        return found


def read_spilled(line: bytes) -> Spilled:
    """What was put into a spill file.

    Raises:
        JournalError: It is damaged.
    """
    try:
        return _spilled.decode(line)
    except (ValueError, RecursionError) as error:
        msg = f"It cannot be read: {error}."
        raise JournalError(msg) from error


def _beginnings(spill: Path) -> tuple[Path, Path]:
    # The disk of the first may be what is full, or gone. In the second, others have theirs.
    told = hashlib.blake2b(os.fsencode(spill), digest_size=6).hexdigest()
    return spill, Path(tempfile.gettempdir(), f"{spill.name}-{told}")


def _spill(spill: Path, nonce: str, line: bytes) -> str:
    """Writes a file of its own for one id, and says where it is."""
    for beginning in _beginnings(spill):
        path = beginning.with_name(f"{beginning.name}-{nonce}")
        try:
            with open(path, "xb", opener=_private) as file:  # a Path's own takes no opener
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            return f"it is in {path}, and will be read back from there"
    return "no disk takes it, so that this line is all there is"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _spilled_files(spill: Path) -> list[tuple[Path, bytes]]:
    found: dict[Path, bytes] = {}
    for beginning in _beginnings(spill):
        for path in sorted(beginning.parent.glob(f"{glob.escape(beginning.name)}-*")):
            with contextlib.suppress(OSError):  # somebody else has just read it back
                found[path] = path.read_bytes()
    return [*found.items()]
