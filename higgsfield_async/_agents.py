"""Agents, and conversations with them, as a user has them at hand."""

from __future__ import annotations

import inspect
import logging
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePath
from typing import Any, Literal, TypeAlias

import anyio

from higgsfield_async._content import content_of
from higgsfield_async._conversation import AgentMedia, AgentMessage, AgentState, AgentStatus
from higgsfield_async._errors import ClientClosed, HiggsfieldError, RateLimited, SubmissionUnknown, WaitTimeout
from higgsfield_async._http import Ticket
from higgsfield_async._polling import ends_wait
from higgsfield_async._retry import RetryPolicy
from higgsfield_async._task import Parts, checked_seconds
from higgsfield_async._telemetry import fields

logger = logging.getLogger("higgsfield_async.agents")

OnQuestion: TypeAlias = Callable[[tuple[AgentMessage, ...]], str | Awaitable[str]]


class Agents:
    """Higgsfield's agents, on the platform: `hf.agents`. The service must have enabled them for the account.

    What a turn will cost is not known before it: no `Budget` counts it, nor does `hf.spent()`.
    """

    def __init__(self, opened: Callable[[], Parts], retry: RetryPolicy, patience: float) -> None:
        self._opened = opened
        self._retry = retry
        self._patience = patience

    async def create(self, config: Mapping[str, Any] | None = None) -> AgentSession:
        """Opens a session. Nothing is said in it yet, and nothing paid for.

        Args:
            config: The service's settings of it, as JSON; what is in them is not documented.

        Raises:
            InvalidRequest: The settings cannot be written as JSON, or are refused.
            PermissionDenied: Agents are not enabled for the account.
            Unsupported: The proxy has no agents.
            HiggsfieldError: The platform could not be asked.
        """
        parts = self._opened()
        return self.session(await parts.engine.send(parts.transport.agents().create({} if config is None else config)))

    def session(self, session_id: str) -> AgentSession:
        """Picks up a session that was opened earlier, here or in another process. Sends nothing.

        Raises:
            Unsupported: The proxy has no agents.
        """
        parts = self._opened()
        parts.transport.agents()
        return AgentSession(parts, session_id, self._retry, self._patience)

    async def upload(
        self,
        content: bytes | os.PathLike[str],
        *,
        extension: str | None = None,
        kind: Literal["image", "video", "audio", "file"] | None = None,
    ) -> AgentMedia:
        """Uploads a file for messages to name by its address.

        It goes to the platform's storage, which is another host: no key is sent there.

        Args:
            content: All of it, or where it lies. A file is read as it is sent, piece by piece.
            extension: What its name ends with, such as `jpeg`. A path's own, when not given; bytes have none.
            kind: What it is; what its extension tells when not given.

        Raises:
            InvalidRequest: It is empty, cannot be read, or nothing tells its extension.
            UploadError: It could not be put there, or was changed on the way.
            Unsupported: The proxy has no agents.
            HiggsfieldError: The platform would not take it.
        """
        parts = self._opened()
        calls = parts.transport.agents()
        looked_at = await content_of(content)
        if extension is None and isinstance(content, os.PathLike):
            extension = PurePath(os.fsdecode(content)).suffix
        media = await parts.engine.upload(calls.media(looked_at.size, extension, kind), looked_at)
        await parts.engine.send(calls.confirm(media))
        return media


class AgentSession:
    """One conversation with an agent.

    Each message begins a turn of the agent's, and an answer to its question is a message like any other. Whatever
    happens here, the session stays as it is: `hf.agents.session(session.id)` picks it up again.

    Attributes:
        id: The service's id of it.
    """

    __slots__ = ("_after", "_begun", "_calls", "_parts", "_patience", "_retry", "id")

    def __init__(self, parts: Parts, session_id: str, retry: RetryPolicy, patience: float) -> None:
        self._parts = parts
        self._calls = parts.transport.agents()
        self._retry = retry
        self._patience = patience
        self._after: str | None = None
        self._begun = False
        self.id = session_id

    def __repr__(self) -> str:
        return f"AgentSession({self.id!r})"

    async def send(self, content: str) -> str:
        """Sends a message, or the answer to a question. The agent's turn that it begins costs money.

        It is sent again only where it cannot have been taken. When the calling asyncio task is cancelled while the
        answer is under way, the message may have been taken: `messages()` tells. So it may when the client is closed
        meanwhile, which waits for the answers to submits and not for this one: that is a `SubmissionUnknown`.

        Args:
            content: What to say. A file is named in it by the address that `hf.agents.upload` gave.

        Returns:
            The message's id.

        Raises:
            InvalidRequest: There is nothing in it, or the service does not take it.
            ApiError: With `status` 409: a turn is under way, and nothing was taken. Wait for its end, or interrupt it.
            InsufficientCredits: The balance does not suffice.
            PermissionDenied: Agents are not enabled for the account.
            SubmissionUnknown: It may have been taken; its answer is lost, or the client was closed before it came. Its
                `request` is None, as is its `key`: look at `messages()` before sending it again.
            HiggsfieldError: It was not taken.
        """
        return await self._send(content, math.inf)

    async def _send(self, content: str, until: float) -> str:
        engine = self._parts.engine
        call = self._calls.send(self.id, content)
        ticket = Ticket(until=min(until, time.monotonic() + self._patience))
        try:
            while True:
                try:
                    message_id = await engine.send(call, ticket)
                except RateLimited:
                    # It waits for its turn, like any submit.
                    if time.monotonic() + engine.pace.held_back("submit") >= ticket.waits_until:
                        raise
                else:
                    self._after, self._begun = message_id, True
                    return message_id
        except anyio.get_cancelled_exc_class():
            if ticket.in_flight:
                msg = "A message to agent session %s was cancelled on its way: it may have been taken, and paid for."
                logger.warning(msg, self.id, extra=fields(paid=True))
            raise
        except HiggsfieldError as error:
            if error.charged != "unknown":
                raise
            msg = (
                f"A message to agent session {self.id} may have been taken, but the answer is lost. "
                f"Look at its messages() before sending it again: it may cost twice. ({error})"
            )
            raise SubmissionUnknown(msg, request=None, key=None, cause=error, retry_after=error.retry_after) from error

    async def messages(self, after: str | None = None) -> AgentState:
        """Asks whose turn it is and what was said, once, now.

        Args:
            after: The id of a message: only those after it are given. None for all.

        Raises:
            NotFound: There is no such session.
            HiggsfieldError: The platform could not be asked.
        """
        return await self._parts.engine.send(self._calls.messages(self.id, after))

    async def wait(self, timeout: float | None = None) -> AgentState:
        """Waits until the agent's turn is over: until it is idle, asks something, or the session is terminated.

        It is asked at the pace of the poll policy's first gaps: 2 seconds, growing by half to 10. No failed look ends
        the wait: only the deadline, an answer that will not change (an unknown id, a key that is refused), or the
        caller does.

        Args:
            timeout: Seconds; None for the poll policy's deadline (20 minutes unless set), `math.inf` for no end.

        Returns:
            The state at that end, with what was said after the last message that was sent from here; with all that
            was ever said where none was.

        Raises:
            WaitTimeout: The deadline has passed; its `ref` and `job_set` are None. The turn goes on.
            AuthenticationFailed, PermissionDenied, NotFound: The service will not show it.
            ClientClosed: The client was closed.
        """
        seconds = checked_seconds(timeout, self._parts.poll)
        return await self._wait(seconds, time.monotonic() + seconds)

    async def _wait(self, seconds: float, until: float, *, asking: bool = True) -> AgentState:
        """Waits until then, which is so many seconds after whoever waits began.

        Args:
            seconds: What is told of the deadline.
            until: The deadline, by the monotonic clock.
            asking: Whether a question of which nothing is seen yet is an end.
        """
        engine, poll = self._parts.engine, self._parts.poll
        state: AgentState | None = None
        failed: HiggsfieldError | None = None
        looks = failures = 0
        # What was just sent has time; of a session that was picked up, nothing is known: it is looked at once.
        pause = poll.gap(0, random.random()) if self._begun else 0.0
        try:
            with anyio.move_on_after(until - time.monotonic()):
                while True:
                    await engine.pace.rest(pause)
                    looks += 1
                    pause = poll.gap(looks, random.random())
                    try:
                        state = await engine.send_once(self._calls.messages(self.id, self._after))
                    except HiggsfieldError as error:
                        if ends_wait(error):
                            raise
                        msg = "A look at an agent session failed, and will be repeated: %s"
                        logger.info(msg, error, extra=fields(error=error))
                        failed, failures = error, failures + 1
                        pause = max(pause, self._retry.delay(failures, error.retry_after, random.random()))
                        continue
                    failed, failures = None, 0
                    unheard = state.status is AgentStatus.AWAITING_INPUT and not state.messages
                    if state.status.over and (asking or not unheard):
                        self._begun = False
                        return state
        except ClientClosed as error:
            msg = f"The client was closed while agent session {self.id} was waited for. Its turn goes on."
            raise ClientClosed(msg, charged="unknown") from error
        raise self._too_late(seconds, state, failed) from failed

    def _too_late(self, seconds: float, state: AgentState | None, failed: HiggsfieldError | None) -> WaitTimeout:
        seen = "was not seen yet" if state is None else f"was {state.raw_status} when last seen"
        said = f" The last look at it failed: {failed}" if failed else ""
        msg = (
            f"The turn of agent session {self.id} did not end within {seconds:.3g} seconds: it {seen}, and goes on. "
            f"Wait again, or interrupt it.{said}"
        )
        return WaitTimeout(msg, job_set=None, charged="unknown")

    async def run(
        self, content: str, *, on_question: OnQuestion | None = None, timeout: float | None = None
    ) -> AgentState:
        """Sends a message and waits for the end of the turn, and answers what the agent asks on the way.

        Args:
            content: As for `send`.
            on_question: Called with what was said since the last message, when the agent awaits input and something
                was; what it returns, or what that gives when awaited, is sent as the answer. Without it, a question
                is an end.
            timeout: Seconds for all of it together, answers included; None for the poll policy's deadline, `math.inf`
                for no end. It cancels an `on_question` that is awaited too long, and no answer is sent after it. A
                message that is under way is not cut short by it.

        Returns:
            The state at the end, with what was said after the last message that was sent.

        Raises:
            WaitTimeout: The deadline has passed: for the turn, or for the answer to a question, which was not sent.
            HiggsfieldError: As `send` and `wait` do.
        """
        seconds = checked_seconds(timeout, self._parts.poll)
        until = time.monotonic() + seconds
        await self._send(content, until)
        while True:
            # A service that has not taken in yet what was just said asks its last question again, with nothing after
            # it: an answer to that would be paid for, too.
            state = await self._wait(seconds, until, asking=on_question is None)
            if state.status is not AgentStatus.AWAITING_INPUT or on_question is None:
                return state
            answer = on_question(state.messages)
            if inspect.isawaitable(answer):
                with anyio.move_on_after(until - time.monotonic()):
                    answer = await answer
            if inspect.isawaitable(answer) or time.monotonic() >= until:
                msg = (
                    f"The question of agent session {self.id} was not answered within {seconds:.3g} seconds: no answer "
                    "was sent, and it goes on awaiting one. Send it, and wait again."
                )
                raise WaitTimeout(msg, job_set=None, charged="unknown")
            await self._send(answer, until)

    async def interrupt(self) -> None:
        """Ends the turn that is under way, if there is one. What it has cost until then is not given back.

        Raises:
            NotFound: There is no such session.
            HiggsfieldError: The platform would not.
        """
        await self._parts.engine.send(self._calls.interrupt(self.id))
