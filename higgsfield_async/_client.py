"""The client that a user opens."""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, Self, TypeVar, cast, overload

import anyio
import anyio.to_thread
from msgspec.structs import replace

from higgsfield_async._addresses import is_inside
from higgsfield_async._agents import Agents
from higgsfield_async._budget import Budget, Estimates, Spending
from higgsfield_async._catalogue import ListedT, check_size, walk
from higgsfield_async._characters import Characters
from higgsfield_async._domain import (
    AvatarPreset,
    Estimate,
    JobSet,
    JobStatus,
    MarketingPreset,
    Media,
    Model,
    Motion,
    Page,
    SoulStyle,
    Sound,
    TaskRef,
    Upload,
    Usage,
    Voice,
)
from higgsfield_async._downloads import (
    Destination,
    MediaStream,
    Progress,
    checked_destination,
    checked_media,
    is_saved,
    save_all,
    save_media,
)
from higgsfield_async._errors import (
    ClientClosed,
    ConfigurationError,
    HiggsfieldError,
    JournalError,
)
from higgsfield_async._estimates import estimate_each, estimate_one
from higgsfield_async._fanout import Flow, Outcome, Outcomes, Requests, Stats, drawing
from higgsfield_async._frozen import Frozen
from higgsfield_async._hints import documented
from higgsfield_async._journal import Entry, Journal
from higgsfield_async._ledger import Found, Ledger
from higgsfield_async._limits import Limits
from higgsfield_async._media import PillowImage
from higgsfield_async._polling import PollPolicy
from higgsfield_async._requests import GenerationRequest, SubmitOptions, Webhook, checked_request
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._sources import Sources
from higgsfield_async._sqlite import SQLiteJournal
from higgsfield_async._submits import Submits, checked_budget
from higgsfield_async._task import GenerationTask, OnCancel, Parts, ServiceCalls, checked_on_cancel, checked_seconds
from higgsfield_async._telemetry import fields
from higgsfield_async._tracker import Tracked, Tracker
from higgsfield_async._transports import Service, Transport, transport_from, unlisted
from higgsfield_async._webhooks import WebhookEvent

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp

    from higgsfield_async._engine import HttpEngine

T = TypeVar("T")

logger = logging.getLogger("higgsfield_async.client")

# How long closing waits for the answers to submits under way, in seconds: each may be the id of something paid for.
CLOSE_GRACE = 10.0

# Of a unit of work: as long as the keys of HTTP are, and room for a prefix.
LONGEST_KEY = 300

# Imported by the first client that opens: aiohttp alone takes longer to import than all the rest.
_ENGINE = "higgsfield_async._engine"


class Higgsfield:
    """A client of one service.

    Use it with `async with`, or close it with `await hf.close()`. It may be made before the event loop runs; it opens
    in the loop that first uses it, and works in that one alone.

    Args:
        transport: The service: a `ProxyTransport` or a `PlatformTransport`.
        poll: When to look at a generation again, and how long to wait for it.
        retry: How often to try an exchange again.
        limits: Connections and time limits.
        session: A session of your own to use for every exchange, which is not closed. Its cookies, its default headers
            and its connector are used as they are, for results too, which lie on other hosts. Where it has credentials,
            or headers that may be some, no redirect of a result to another host is followed. It looks names up by
            itself: that one leads inside is seen beforehand, unless it is changed in between.
        trust_env: Whether to use the proxies that the environment names (`HTTPS_PROXY` and the like). It does not
            change a session of your own.
        allow_private: Whether addresses inside private networks, and on this machine, may be fetched from and sent to
            the platform. None where the service itself has such an address, as a `Sandbox` has.
        budget: What everything that this client submits may cost.
        journal: Where paid work is written down before it is paid for, so that whatever ends this process loses
            nothing: the path of an SQLite file, which is made where there is none, or a `Journal` of your own, which
            this client opens and closes. None for no journal.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        poll: PollPolicy = PollPolicy(),
        retry: RetryPolicy = RetryPolicy(),
        limits: Limits = Limits(),
        session: aiohttp.ClientSession | None = None,
        trust_env: bool = False,
        allow_private: bool | None = None,
        budget: Budget | None = None,
        journal: Journal | str | os.PathLike[str] | None = None,
    ) -> None:
        self._transport = transport
        self._submits = Submits(transport, limits, budget)
        self._journal = SQLiteJournal(journal) if isinstance(journal, (str, os.PathLike)) else journal
        self._poll = poll
        self._retry = retry
        self._limits = limits
        self._session = session
        self._trust_env = trust_env
        self._allow_private = is_inside(transport.origin) if allow_private is None else allow_private
        self._parts: Parts | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._flows: set[Flow] = set()
        self._savings: set[asyncio.Task[JobSet]] = set()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    def from_env(
        cls,
        *,
        service: Service | None = None,
        poll: PollPolicy = PollPolicy(),
        retry: RetryPolicy = RetryPolicy(),
        limits: Limits = Limits(),
        session: aiohttp.ClientSession | None = None,
        trust_env: bool = False,
        allow_private: bool | None = None,
        budget: Budget | None = None,
        journal: Journal | str | os.PathLike[str] | None = None,
    ) -> Self:
        """A client for the service that the environment holds a key for.

        The platform: `HF_KEY` ("id:secret"; a secret may hold colons), else `HF_API_KEY` and `HF_API_SECRET`, else
        `HF_CREDENTIALS` ("id:secret"); its address in `HIGGSFIELD_BASE_URL`. The proxy: `HIGGSFIELD_PROXY_KEY`; its
        address in `HIGGSFIELD_PROXY_BASE_URL`.

        Args:
            service: `"proxy"` or `"platform"`, where the environment holds keys for both.
            poll: As for `Higgsfield`, and so the rest.
            retry: As for `Higgsfield`.
            limits: As for `Higgsfield`.
            session: As for `Higgsfield`.
            trust_env: As for `Higgsfield`.
            allow_private: As for `Higgsfield`.
            budget: As for `Higgsfield`.
            journal: As for `Higgsfield`.

        Raises:
            ConfigurationError: There is no key, half a key, or there are two and `service` is not given.
        """
        transport = transport_from(os.environ, service)
        return cls(
            transport,
            poll=poll,
            retry=retry,
            limits=limits,
            session=session,
            trust_env=trust_env,
            allow_private=allow_private,
            budget=budget,
            journal=journal,
        )

    def __repr__(self) -> str:
        state = "closed" if self._closed else "new" if self._parts is None else "open"
        return f"Higgsfield({self._transport!r}, {state})"

    async def __aenter__(self) -> Self:
        if _ENGINE not in sys.modules:
            # Seconds, on a slow disk: not in the loop, which may be serving others.
            await anyio.to_thread.run_sync(importlib.import_module, _ENGINE)
            # As its first `ModelRequest` would.
            await anyio.to_thread.run_sync(documented)
        ledger = self._opened().ledger
        if ledger is not None:
            try:
                await ledger.open()
            except BaseException:
                await self.close()
                raise
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def submit(
        self,
        request: GenerationRequest,
        *,
        webhook: Webhook | None = None,
        expires_after: int | None = None,
        idempotency_key: str | None = None,
        resumes: bool = True,
        key: str | None = None,
    ) -> GenerationTask:
        """Submits a generation. It costs money once it is accepted.

        Local files in it are sent first: uploaded to the platform, each content once; or put into the request, for the
        proxy. Where that fails, nothing was submitted.

        It is tried again only where that cannot pay twice: when the service cannot have accepted it, or when it carries
        an idempotency key. When the calling asyncio task is cancelled while the answer is under way, the exchange is
        finished and the ref logged, as a warning of `higgsfield_async.client`.

        Args:
            request: What to make.
            webhook: Where the platform reports the end.
            expires_after: How long the platform keeps what a `ModelRequest` made, in seconds, 3600 or more.
            idempotency_key: For a `ModelRequest`, the key of an earlier submit, from `SubmissionUnknown.key`: brings
                back the generation that it made, if it made one. Without it, each submit has a key of its own.
            resumes: Whether an earlier submit may have used that key: then even a refusal leaves open what became of
                that one, and is a `SubmissionUnknown`. False for a key of your own that is new.
            key: Names a unit of work in the journal, such as an order: the same key again, in this process or after a
                restart, is the same generation, however it ended. Without it, each submit is one of its own.

        Raises:
            InvalidRequest: The service does not take it, or the key names another request already.
            JournalError: It cannot be written down, so that nothing was sent.
            ConfigurationError: There is a key and no journal, or it is none.
            UploadError: A local file in it could not be uploaded; nothing is charged.
            Unsupported: This service cannot make it, or knows no such option.
            BudgetExceeded: It costs more than is left of the client's budget, or its price is not known.
            SubmissionUnknown: It may have been accepted; its answer is lost.
            AuthenticationFailed, PermissionDenied, InsufficientCredits, NotFound, RateLimited, ServiceUnavailable,
            ConnectionFailed: It was not accepted, and nothing is charged.
            ClientClosed: The client is closed, or was closed before it was sent.
        """
        options = SubmitOptions(
            webhook=webhook, expires_after=expires_after, idempotency_key=idempotency_key, resumes=resumes
        )
        return await self._submits.submit(self._opened(), request, options, key=self._checked_key(key))

    def _checked_key(self, key: str | None) -> str | None:
        if key is None:
            return None
        self._check_journal()
        return _key_of(key)

    def _check_journal(self) -> None:
        if self._journal is None:
            msg = 'This client has no journal: make it with Higgsfield(…, journal="generations.db").'
            raise ConfigurationError(msg)

    async def run(
        self,
        request: GenerationRequest,
        *,
        timeout: float | None = None,
        check: bool = True,
        save: Destination | None = None,
        on_cancel: OnCancel = "detach",
        webhook: Webhook | None = None,
        expires_after: int | None = None,
        idempotency_key: str | None = None,
        key: str | None = None,
    ) -> JobSet:
        """Submits a generation and waits for its end, and until its files are safe where that is asked for.

        Args:
            request: What to make.
            timeout: Seconds for both together; None for the poll policy's deadline, `math.inf` for no end. A submit
                that is under way is not cut short by it; one that was refused is not tried again after it.
            check: As for `GenerationTask.wait`.
            save: Where to save what it made, as `GenerationTask.save` does: a directory, where each `Media.path` then
                tells its file, or a writer. The timeout does not count it.
            on_cancel: As for `GenerationTask.wait`.
            webhook: As for `submit`.
            expires_after: As for `submit`.
            idempotency_key: As for `submit`.
            key: As for `submit`. What it names may have ended before, and be saved: then it is given at once.

        Raises:
            HiggsfieldError: As `submit` and `GenerationTask.wait` do; each that comes after the submit has the `ref`.
        """
        began = time.monotonic()
        seconds = checked_seconds(timeout, self._poll)
        checked_on_cancel(on_cancel)
        if save is not None:
            checked_destination(save)
        options = SubmitOptions(webhook=webhook, expires_after=expires_after, idempotency_key=idempotency_key)
        parts = self._opened()
        key = self._checked_key(key)
        task = await self._submits.submit(parts, request, options, on_cancel=on_cancel, until=began + seconds, key=key)
        left = max(0.0, seconds - (time.monotonic() - began))
        try:
            job_set = await task.wait(left, check, on_cancel=on_cancel)
            if save is not None and job_set.status is JobStatus.COMPLETED:
                job_set = await _saved(parts, parts.tracker.track(task.ref), job_set, save)
        except HiggsfieldError:
            raise  # with the ref
        except BaseException as error:
            # The caller has no handle: this line is all that is left of what was paid for.
            cancelled = isinstance(error, asyncio.CancelledError)
            said = "A run was cancelled after its submit: %s" if cancelled else "A run broke off after its submit: %s"
            logger.warning(said, task.ref.to_json(), extra=fields(task.ref, error, paid=True))
            raise
        else:
            return job_set

    def task(self, ref: TaskRef | str) -> GenerationTask:
        """Picks up a generation that was submitted earlier, here or in another process. Sends nothing.

        Args:
            ref: Its `TaskRef`, the JSON of it, or its `short` form, which this client's account is taken for.

        Raises:
            ConfigurationError: The ref is of another service, another address or another account, or is none.
        """
        mine = self._transport
        if isinstance(ref, str) and not ref.lstrip().startswith("{"):
            ref = TaskRef.from_short(ref, transport=mine.name, origin=mine.origin, account=mine.account)
        elif not isinstance(ref, TaskRef):
            ref = TaskRef.from_json(ref)
        parts = self._opened()
        for what, fits in (
            ("transport", ref.transport == mine.name),
            ("origin", mine.same_service(ref.origin)),
            ("account", ref.account == mine.account),
        ):
            if not fits:
                msg = (
                    f"Generation {ref.id} was submitted with another {what} than this client's: "
                    f"{getattr(ref, what)!r}, not {getattr(mine, 'name' if what == 'transport' else what)!r}."
                )
                raise ConfigurationError(msg, ref=ref, charged="unknown")
        return GenerationTask(parts, parts.tracker.track(ref))

    def map(
        self,
        requests: Requests,
        *,
        max_active: int = 100,
        timeout: float | None = None,
        save: Destination | None = None,
        on_update: Callable[[Outcome], object] | None = None,
        on_leave: OnCancel = "detach",
        webhook: Webhook | None = None,
        budget: Budget | None = None,
        key: Callable[[int, GenerationRequest], str] | None = None,
    ) -> Outcomes:
        """Makes many generations at once, and iterates over their outcomes as they finish.

        One bad request, one refused submit or one failed generation is one `Outcome` with its error, and brings down
        nothing else. What dooms all the rest (a wrong key, no credit, a budget that is used up, a full disk under the
        journal, a closed client) ends the drawing: what is under way is finished, and then that error is raised.

        Leaving the loop early stops the drawing, and what was not drawn stays in the iterable. What was submitted goes
        on, and `open_tasks()` has it; the ref of what had ended, and was not taken, goes to the log, as a warning of
        `higgsfield_async.fanout`.

        Args:
            requests: Any iterable or async iterable, endless too: it is drawn from as room appears, in the event loop,
                so that it must not block.
            max_active: How many requests are held at once, from when one is drawn until its outcome is taken. What
                `Limits` and the account allow is kept to besides.
            timeout: Seconds for each generation, from its submit; None for the poll policy's deadline, `math.inf` for
                no end. The outcome of a later one has a `WaitTimeout`.
            save: Where to save what each one makes, as for `run`: its outcome comes when its files are safe. One that
                cannot be saved has a `DownloadError`, and its `job_set`. The timeout does not count it. Leaving the
                loop early ends what is being saved; its refs go to the log, as those of what was not taken.
            on_update: Called with what is known of a generation once it is submitted, at each change and at its end.
                It must not block. What it raises ends the drawing, and is raised after what is under way.
            on_leave: What happens to the generations under way when the loop is left early: nothing (`"detach"`), or
                they are canceled where the service can (`"cancel"`).
            webhook: As for `submit`, for each of them.
            budget: What all of them together may cost, besides the client's own budget.
            key: Of the index and the request, the key of its unit of work, as for `submit`. With a journal and without
                this, it is made of the request's content, and of how many equal ones were drawn before: the same batch
                again pays for what is missing alone.

        Raises:
            ConfigurationError: A setting is out of range.
            HiggsfieldError: While iterating: what doomed the rest.
        """
        if max_active < 1 or max_active % 1:
            msg = "max_active must be a whole number, 1 or more."
            raise ConfigurationError(msg)
        checked_on_cancel(on_leave)
        if save is not None:
            checked_destination(save)
        seconds, draw = checked_seconds(timeout, self._poll), drawing(requests)
        budget = checked_budget(budget, self._transport)
        options = SubmitOptions(webhook=webhook)
        if key is not None:
            self._check_journal()
        drawn: Counter[str] = Counter()

        def numbered(form: Frozen) -> str:
            drawn[form.content] += 1
            return f"map:{form.content}:{drawn[form.content]}"

        def begin() -> Flow:
            parts = self._opened()
            flow = Flow(
                draw,
                lambda index, request, placed: self._submits.submit(
                    parts,
                    request,
                    options,
                    on_cancel=on_leave,
                    placed=placed,
                    budget=budget,
                    key=numbered if key is None else _key_of(key(index, request)),
                ),
                parts.tracker,
                most=max_active,
                at_once=self._limits.max_connections,
                seconds=seconds,
                on_update=on_update,
                cancel=self._submits.cancel_behind if on_leave == "cancel" else None,
                save=None if save is None else functools.partial(self._begin_saving, parts, save),
                closed=lambda: self._closed,
                telemetry=parts.engine.telemetry,
            )
            # While it draws, this keeps it alive, and closing the client ends it.
            self._flows.add(flow)
            flow.drawer.add_done_callback(lambda _: self._flows.discard(flow))
            return flow

        return Outcomes(begin)

    @overload
    async def gather(
        self,
        requests: Requests,
        *,
        return_exceptions: Literal[False] = False,
        max_active: int = 100,
        timeout: float | None = None,
        save: Destination | None = None,
        on_update: Callable[[Outcome], object] | None = None,
        webhook: Webhook | None = None,
        budget: Budget | None = None,
        key: Callable[[int, GenerationRequest], str] | None = None,
    ) -> list[JobSet]: ...

    @overload
    async def gather(
        self,
        requests: Requests,
        *,
        return_exceptions: Literal[True],
        max_active: int = 100,
        timeout: float | None = None,
        save: Destination | None = None,
        on_update: Callable[[Outcome], object] | None = None,
        webhook: Webhook | None = None,
        budget: Budget | None = None,
        key: Callable[[int, GenerationRequest], str] | None = None,
    ) -> list[JobSet | HiggsfieldError]: ...

    async def gather(
        self,
        requests: Requests,
        *,
        return_exceptions: bool = False,
        max_active: int = 100,
        timeout: float | None = None,
        save: Destination | None = None,
        on_update: Callable[[Outcome], object] | None = None,
        webhook: Webhook | None = None,
        budget: Budget | None = None,
        key: Callable[[int, GenerationRequest], str] | None = None,
    ) -> list[JobSet] | list[JobSet | HiggsfieldError]:
        """Makes many generations at once, and gives their ends in the order of the requests.

        Args:
            requests: What to make; not endless here.
            return_exceptions: Whether an error stands in its place among the results. Else the first one is raised;
                then no more is submitted, the generations under way go on (`open_tasks()` has them), and the refs of
                those that had ended go to the log, as warnings of `higgsfield_async.client`.
            max_active: As for `map`, and so the rest.
            timeout: As for `map`.
            save: As for `map`.
            on_update: As for `map`.
            webhook: As for `submit`, for each of them.
            budget: As for `map`.
            key: As for `map`.

        Raises:
            HiggsfieldError: The first error, unless they are returned; it has the `ref` where there is one.
        """
        if isinstance(requests, AsyncIterable):
            requests = [request async for request in requests]
        wanted = list(requests)
        found: list[JobSet | HiggsfieldError | None] = [None] * len(wanted)
        refs: list[TaskRef] = []
        outcomes = self.map(
            wanted,
            max_active=max_active,
            timeout=timeout,
            save=save,
            on_update=on_update,
            webhook=webhook,
            budget=budget,
            key=key,
        )
        async with outcomes:
            try:
                async for outcome in outcomes:
                    if outcome.error is not None and not return_exceptions:
                        raise outcome.error  # noqa: TRY301  # the refs of the others are logged on its way
                    found[outcome.index] = outcome.error or outcome.job_set
                    if outcome.ref is not None:
                        refs.append(outcome.ref)
            except BaseException as doom:
                if not return_exceptions or not isinstance(doom, HiggsfieldError):
                    # They are handed to nobody: these lines are all that is left of what was paid for.
                    for ref in refs:
                        msg = "A result of gather was not taken: %s"
                        logger.warning(msg, ref.to_json(), extra=fields(ref, paid=True))
                    raise
                # What was not drawn any more would have met with what ended the drawing.
                found = [copy.copy(doom) if each is None else each for each in found]
        return cast("list[JobSet | HiggsfieldError]", found)

    def deliver(self, event: WebhookEvent) -> bool:
        """Takes what a webhook reports: whoever waits for that generation, in this process, is told at once.

        The end in a verified event is taken as it is; of a generation that this client does not know, it is kept for
        ten minutes, since it may come before the submit's answer. An event that is not verified makes the client look
        for itself. Polling goes on: while webhooks come, rarely (about once a minute) for what was submitted with one.

        Args:
            event: From `higgsfield_async.webhooks.unwrap`.

        Returns:
            Whether it is verified, and came for the first time among the last ten thousand. The service may send one
            again.

        Raises:
            ClientClosed: The client is closed.
        """
        return self._opened().tracker.deliver(event)

    def open_tasks(self) -> list[GenerationTask]:
        """The generations that this client submitted or looked at and has not seen the end of, the oldest first.

        It works on a closed client too. What nobody waits for is kept for a day.
        """
        parts = self._parts
        return [] if parts is None else [GenerationTask(parts, tracked) for tracked in parts.tracker.opened]

    @property
    def journal(self) -> Journal | None:
        """Where this client writes paid work down; None without a journal."""
        return self._journal

    async def recover(self) -> AsyncGenerator[GenerationTask]:
        """What was submitted, by whoever shared the journal, and has not ended; the oldest first.

        A generation that somebody alive looks after is left out. A submit whose answer was lost is sent again, with the
        `Idempotency-Key` that it had, where the service honours one and it is not older than an hour, which brings back
        the same generation; any other is left to `unknown()`. What ended in the meantime is fetched by waiting for it.

        Raises:
            ConfigurationError: There is no journal.
            JournalError: It cannot be read.
            ClientClosed: The client is closed.
        """
        parts, ledger = await self._journaled()
        async for entry in ledger.left():
            if entry.ref is not None:
                yield self._submits.found(parts, entry)
                continue
            try:
                task = await self._submits.recovered(parts, entry)
            except Found:
                pass  # by somebody else, in this moment
            except HiggsfieldError as error:
                logger.warning("Not recovered: %s", error, extra=fields(error=error))
            else:
                yield task

    async def unknown(self) -> list[Entry]:
        """The submits of which nobody can tell whether they were accepted, and paid for; the oldest first.

        Raises:
            ConfigurationError: There is no journal.
            JournalError: It cannot be read.
        """
        _, ledger = await self._journaled()
        return await ledger.all_unknown()

    async def resolve(self, key: str, identifier: str) -> GenerationTask:
        """Attaches the id of a generation, found elsewhere, to a submit whose answer was lost.

        It is looked at first: an id that the service does not know is attached to nothing.

        Args:
            key: Of the unit of work, from `unknown()` or `SubmissionUnknown.journal_key`.
            identifier: The service's id of the generation, from the account's history.

        Raises:
            JournalError: There is no such key, it is not unknown, or somebody else is at it; or the id is that of
                another key.
            NotFound: The service has no such generation.
            HiggsfieldError: The service could not be asked.
        """
        parts, ledger = await self._journaled()
        entry = await ledger.journal.find(key)
        if entry is None:
            msg = f"There is no {key!r} in the journal."
            raise JournalError(msg)
        now = datetime.now(UTC)
        looked_for = replace(entry, state="submitted", id=identifier, submitted_at=now)
        if not ledger.fits(entry) or looked_for.ref is None:
            msg = f"{key!r} was submitted to another service, or with another account, than this client's."
            raise ConfigurationError(msg)
        if (other := await ledger.journal.find_id(identifier)) is not None and other.key != key:
            msg = f"Generation {identifier} is that of {other.key!r} already, and no other one's."
            raise JournalError(msg)
        job_set = await parts.calls.poll(looked_for.ref)
        task = self._submits.found(parts, await ledger.journal.resolve(key, identifier, now))
        parts.tracker.saw(parts.tracker.track(task.ref), job_set)
        return task

    async def forget(self, key: str) -> Entry:
        """Takes a unit of work out of the journal, so that the same key is submitted anew, and paid for anew.

        Returns:
            What was known of it.

        Raises:
            JournalError: There is no such key, or it is under way.
        """
        parts, ledger = await self._journaled()
        entry = await ledger.journal.forget(key)
        ledger.forgotten(key)
        parts.tracker.disown(key)
        if entry.ref is not None and entry.state != "ended":
            msg = "Forgotten, and not seen to end: %s"
            logger.warning(msg, entry.ref.to_json(), extra=fields(entry.ref, paid=True))
        return entry

    async def prune(self, before: datetime) -> int:
        """Takes what ended before a moment out of the journal, and says how many there were.

        Their keys are forgotten with them: the same key is submitted anew then.

        Args:
            before: A moment with its time zone.

        Raises:
            ConfigurationError: It has no time zone, or there is no journal.
        """
        if before.tzinfo is None:
            msg = "prune needs a moment with a time zone, such as datetime.now(UTC) - timedelta(days=30)."
            raise ConfigurationError(msg)
        _, ledger = await self._journaled()
        return await ledger.journal.prune(before)

    async def _journaled(self) -> tuple[Parts, Ledger]:
        self._check_journal()
        parts = self._opened()
        assert parts.ledger is not None  # noqa: S101  # there is a journal
        await parts.ledger.open()
        await parts.ledger.read_back()
        return parts, parts.ledger

    def stats(self) -> Stats:
        """How many submits wait or are under way, and what has become of the generations, as far as it was seen."""
        if self._parts is None:
            return Stats(waiting=0, queued=0, running=0, done=0, failed=0)
        tracker = self._parts.tracker
        # A list first, in one step: metrics are read in a thread of their own.
        states = [tracked.status for tracked in list(tracker.opened) if tracked.held]
        running = states.count(JobStatus.IN_PROGRESS)
        done = tracker.ends[JobStatus.COMPLETED]
        return Stats(
            waiting=self._submits.waiting,
            queued=len(states) - running,
            running=running,
            done=done,
            failed=tracker.ends.total() - done,
        )

    async def estimate(self, request: GenerationRequest) -> Estimate:
        """What a generation will cost, before it is submitted. This itself costs nothing, however often it is asked.

        The platform is asked, and says it of a `ModelRequest` alone. It looks at the addresses in it, so that local
        files are uploaded for that, which costs nothing; the submit uses the same uploads. For the proxy it is the
        published price, and nothing is sent.

        Args:
            request: What would be made.

        Raises:
            InvalidRequest: The service does not take it.
            Unsupported: This service cannot make it, or says no price for it.
            HiggsfieldError: The platform could not be asked.
        """
        parts = self._opened()
        request = await parts.sources.prepared(checked_request(request), self._transport.estimate)
        return await estimate_one(parts, request)

    async def estimate_all(self, requests: Requests) -> Estimates:
        """What many generations will cost, each and together, before any of them is submitted.

        Args:
            requests: What would be made; not endless here.

        Returns:
            For each of them its `Estimate`, or the error that `estimate` raises for it alone; and the sums.

        Raises:
            HiggsfieldError: What `estimate` would raise for every one of them: a wrong key, a closed client.
        """
        self._opened()
        return await estimate_each(drawing(requests), self.estimate, self._limits.max_connections)

    def spent(self) -> list[Spending]:
        """What this client has spent since it was made, by kind of generation. It works on a closed client too.

        A price is that of its submit: of the proxy the published one; of the platform the one that was asked for, which
        is done where there is a `Budget` (`Budget(credits=math.inf)` refuses nothing). Without one, the platform's
        generations are counted as `unpriced`.
        """
        return self._submits.books.rows

    async def usage(self, *, start: date | None = None, end: date | None = None, timeframe: str = "day") -> list[Usage]:
        """What the account used on the platform, by model and by stretch of time, in the service's order.

        Its answer is documented in part alone: what could not be read of it is left out.

        Args:
            start: A date, or a datetime with a time zone; the service's own choice when not given.
            end: As `start`, and later.
            timeframe: How long a stretch is. `day` is documented.

        Raises:
            InvalidRequest: A datetime has no time zone, or they stand in the wrong order.
            Unsupported: The proxy does not say.
            HiggsfieldError: The platform could not be asked.
        """
        call = self._transport.usage(start, end, timeframe)
        rows = await self._opened().engine.send(call)
        return list(rows)

    async def upload(
        self,
        content: str | bytes | os.PathLike[str] | IO[bytes] | PillowImage,
        *,
        content_type: str | None = None,
    ) -> Upload:
        """Uploads a file for requests to use: on the platform.

        It goes to the platform's storage, which is another host: no key is sent there. What lies there already, and has
        a day or more to lie there, is not sent again: the upload of the same content is given.

        Args:
            content: A `pathlib.Path`, whose file is read as it is sent, piece by piece; `bytes`; an open file, which is
                read from where it stands to its end, and left as it was; a data URI; or a Pillow image, sent as PNG.
            content_type: `image/jpeg`, `image/png`, `image/webp`, `image/gif`, `audio/wav` or `video/mp4`; what its
                first bytes tell when not given.

        Returns:
            Where it lies, and until when; the platform keeps it for 7 days.

        Raises:
            InvalidRequest: It is empty, cannot be read, or is of a type that the platform does not take.
            Unsupported: The proxy takes no uploads.
            UploadError: It could not be put there, or was changed on the way.
            HiggsfieldError: The platform would not take it.
        """
        return await self._opened().sources.upload(content, content_type)

    async def models(self) -> AsyncIterator[Model]:
        """The AI models of the platform: those that it lists now, then those that are documented and not in its list.

        The list itself is not documented, and does not have everything that can be used.
        """
        listed: set[str] = set()
        async for model in self._listed(Model, None):
            listed.add(model.id)
            yield model
        for model in unlisted(listed):
            yield model

    def marketing_presets(
        self, *, search: str | None = None, size: int | None = None
    ) -> AsyncIterator[MarketingPreset]:
        """The presets of the platform's marketing studio.

        That it can be asked is documented, and what it answers is not: what has an id is given, with whatever else of
        it could be read.

        Args:
            search: Words to look for.
            size: How many to ask for at once; the service's usual when not given.
        """
        return self._listed(MarketingPreset, size, search)

    async def save(
        self, media: Media, path: str | os.PathLike[str], *, progress: Callable[[Progress], object] | None = None
    ) -> Path:
        """Saves one output, as `GenerationTask.save` saves all of them.

        Args:
            media: The output.
            path: The file; one that is there is replaced. In a directory, or where it ends with a slash, the file has
                a name of its own, from its address.
            progress: Called with each piece that is saved. It must not block. What it raises ends the saving; on the
                last piece, the file is there all the same.

        Returns:
            The file.

        Raises:
            DownloadError: It could not be fetched or written, or is none.
            ClientClosed: The client is closed, or was closed meanwhile.
        """
        return await save_media(self._opened().engine, media, path, progress)

    def stream(self, media: Media) -> MediaStream:
        """The bytes of one output, as they come, to be handed on: `StreamingResponse(hf.stream(media))`.

        With `async with`, its `content_type` and `size` are known before the first byte is taken. Nothing is asked for
        until it is begun. While it is open it takes one of the places of downloads: a quarter of
        `Limits.max_connections`.

        Args:
            media: The output.

        Raises:
            ConfigurationError: It is no `Media`.
            ClientClosed: The client is closed.
        """
        return MediaStream(self._opened().engine, checked_media(media))

    def motions(self, *, search: str | None = None, size: int | None = None) -> AsyncIterator[Motion]:
        """The motions of either service.

        Args:
            search: Words to look for, on the proxy.
            size: How many to ask for at once; the proxy's usual is 30. The platform sends all.
        """
        return self._listed(Motion, size, search)

    def avatar_presets(self, *, search: str | None = None, size: int | None = None) -> AsyncIterator[AvatarPreset]:
        """The avatar presets of the proxy. `size`: how many to ask for at once; its usual is 30."""
        return self._listed(AvatarPreset, size, search)

    def voices(self, *, size: int | None = None) -> AsyncIterator[Voice]:
        """The voices of the proxy. `size`: how many to ask for at once; its usual is 14."""
        return self._listed(Voice, size)

    def sounds(self, *, size: int | None = None) -> AsyncIterator[Sound]:
        """The ambient sounds of the proxy. `size`: how many to ask for at once; its usual is 14."""
        return self._listed(Sound, size)

    def soul_styles(self, *, version: int = 1) -> AsyncIterator[SoulStyle]:
        """The styles of the platform's Soul models; `version=2` for those of Soul v2."""
        return self._listed(SoulStyle, None, version=version)

    def _listed(
        self, of: type[ListedT], size: int | None, search: str | None = None, *, version: int = 1
    ) -> AsyncIterator[ListedT]:
        if size is not None:
            check_size(size)

        async def page_at(size: int | None, cursor: int | str | None) -> Page[ListedT]:
            call = self._transport.catalogue(of, size=size, search=search, cursor=cursor, version=version)
            return await self._opened().engine.send(call)

        return walk(page_at, size)

    @property
    def characters(self) -> Characters:
        """The account's characters, for the Soul models: on the platform."""
        return Characters(self._opened, self.submit)

    @property
    def agents(self) -> Agents:
        """Conversations with agents: on the platform, where the account has them."""
        return Agents(self._opened, self._retry, self._limits.patience)

    async def close(self) -> None:
        """Closes the client. Generations go on; whoever waits for one gets `ClientClosed` with its ref.

        It waits up to 10 seconds for the answers to submits that are under way: each may be the id of something paid.
        """
        if self._closing is None:
            if self._parts is not None:
                self._check_loop()
            self._closed = self._submits.closed = True
            if self._parts is None:
                return
            # A task of its own: whoever closes may itself be cancelled, and a second one waits for the same.
            self._closing = asyncio.create_task(self._close(self._parts), name="higgsfield_async.close")
        # A scope that has been cancelled waits for it, which is bounded; a native cancel leaves it to go on by itself.
        with anyio.CancelScope(shield=True):
            await asyncio.shield(self._closing)

    async def _close(self, parts: Parts) -> None:
        for flow in self._flows:
            flow.end(ClientClosed("The client was closed while requests were drawn.", refused=True))
        self._submits.abandon()
        for saving in self._savings:
            saving.cancel()
        until = time.monotonic() + CLOSE_GRACE
        try:
            # Nothing that waits for one has been paid for.
            await parts.sources.close()
            # Again and again: an abandoned submit that is answered may begin a cancel of what it made.
            while (under_way := self._under_way()) and (left := until - time.monotonic()) > 0:
                await asyncio.wait(under_way, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late = self._under_way()
            for each in late:
                each.cancel()
            try:
                if late:
                    await asyncio.wait(late)
                await parts.tracker.close()
            finally:
                try:
                    if parts.ledger is not None:
                        await parts.ledger.close()
                finally:
                    parts.engine.telemetry.forget(self)
                    await parts.engine.close()

    def _under_way(self) -> set[asyncio.Task[Any]]:
        return {*self._submits.under_way, *self._savings, *(flow.drawer for flow in self._flows)}

    def _opened(self) -> Parts:
        if self._closed:
            msg = "This client is closed: make a new one."
            raise ClientClosed(msg)
        self._check_loop()
        if self._parts is None:
            engine = self._make_engine()
            self._submits.books.telemetry = engine.telemetry
            engine.telemetry.watch(self, self._transport.name)
            self._parts = self._make_parts(engine)
        return self._parts

    def _make_engine(self) -> HttpEngine:
        from higgsfield_async._engine import HttpEngine

        return HttpEngine(
            retry=self._retry,
            limits=self._limits,
            session=self._session,
            trust_env=self._trust_env,
            allow_private=self._allow_private,
        )

    def _make_parts(self, engine: HttpEngine) -> Parts:
        transport = self._transport

        ledger = None if self._journal is None else Ledger(self._journal, transport)

        async def look(tracked: Tracked) -> Any:
            if ledger is not None and (seen := await ledger.elsewhere(tracked)) is not None:
                return seen
            return await engine.exchange(transport.poll(tracked.ref))

        tracker = Tracker(
            look,
            news=_unheard if ledger is None else ledger.seen,
            idle=_unheard if ledger is None else ledger.idle,
            pace=engine.pace,
            poll=self._poll,
            retry=self._retry,
            limits=self._limits,
            telemetry=engine.telemetry,
        )
        return Parts(
            transport=transport,
            engine=engine,
            calls=ServiceCalls(transport, engine),
            tracker=tracker,
            poll=self._poll,
            sources=Sources(transport, engine, allow_private=self._allow_private),
            ledger=ledger,
        )

    def _check_loop(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            msg = "This client needs a running event loop: use it inside `async def`."
            raise ClientClosed(msg) from None
        self._loop = self._loop or loop
        if self._loop is not loop:
            msg = "This client was opened in another event loop, and nothing was sent: make one client for each loop."
            raise ClientClosed(msg)

    def _begin_saving(self, parts: Parts, to: Destination, tracked: Tracked, job_set: JobSet) -> asyncio.Task[JobSet]:
        saving = asyncio.create_task(_saved(parts, tracked, job_set, to), name="higgsfield_async.save")
        self._savings.add(saving)
        saving.add_done_callback(self._savings.discard)
        if self._closed:
            saving.cancel()  # as those that it found under way
        return saving


def _unheard(*_: object) -> None:
    """Hears of it, and does nothing."""


async def _saved(parts: Parts, tracked: Tracked, job_set: JobSet, to: Destination) -> JobSet:
    """Saves what a generation made, unless it is there, and gives the job set that knows the files."""
    if await is_saved(job_set, to):
        return job_set
    _, saved = await save_all(parts.engine, tracked.ref, job_set, to)
    if parts.ledger is not None:
        parts.ledger.saved(tracked, saved)
    return saved


def _key_of(key: object) -> str:
    """A key of a unit of work.

    Raises:
        ConfigurationError: It is none.
    """
    if not isinstance(key, str) or not 0 < len(key) <= LONGEST_KEY or not key.isprintable():
        msg = f"A key is a text of 1 to {LONGEST_KEY} printable characters."
        raise ConfigurationError(msg)
    return key
