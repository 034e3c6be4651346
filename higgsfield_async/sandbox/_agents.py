"""The agent API: sessions, turns and media, with an agent that is no language model.

Shapes are those of the platform's own SDKs of September 2026; prices and the wording of refusals are made up. What the
agent does follows from the first word it is told: after "ask" it asks a question, after "end" it ends the session, and
it answers anything else. A turn takes ``TURN`` sandbox seconds.
"""

from __future__ import annotations

import mimetypes
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec

from ._catalogue import BODIES
from ._exchange import Received, Refused, Reply, Route, json_reply
from ._state import Account
from ._storage import Storage
from ._validation import pydantic_errors, violations

PATH = "/v1/agent"
#: Credits for a turn.
CREDITS = Decimal("0.160")
#: Sandbox seconds that the agent takes.
TURN = 4.0
_COST = 0.01

_Status = Literal["idle", "processing", "awaiting_input", "terminated"]


def _detail(status: int, detail: object) -> Reply:
    return json_reply({"detail": detail}, status)


class _Session(msgspec.Struct):
    id: str
    messages: list[dict[str, Any]] = []
    status: _Status = "idle"
    #: When its turn ends, by the sandbox's clock.
    ends: float = 0.0
    #: What it then is.
    next: _Status = "idle"


class Agents:
    """The sessions of an account. ``read`` decodes a body, or refuses it."""

    def __init__(self, account: Account, storage: Storage, read: Callable[[Received], Any]) -> None:
        self._account = account
        self._storage = storage
        self._read = read
        self._sessions: dict[str, _Session] = {}

    @property
    def routes(self) -> tuple[Route, ...]:
        """What is asked of them."""
        session = f"{PATH}/sessions/{{id}}"
        return (
            Route.to(f"POST {PATH}/sessions", "v2", "other", self._create),
            Route.to(f"POST {session}/messages", "v2", "submit", self._send),
            Route.to(f"GET {session}/messages", "platform", "poll", self._messages),
            Route.to(f"POST {session}/interrupt", "v2", "cancel", self._interrupt),
            Route.to(f"POST {PATH}/media", "v2", "upload", self._media),
            Route.to(f"POST {PATH}/media/{{name}}/confirm", "v2", "upload", self._confirm),
        )

    def _body(self, received: Received, what: str) -> Any:
        body = self._read(received)
        if errors := pydantic_errors(violations(BODIES[f"{PATH}/{what}"], body), "body"):
            raise Refused(_detail(422, errors))
        return body

    def _session(self, id: str) -> _Session:
        session = self._sessions.get(id)
        if session is None:
            raise Refused(_detail(404, "Not found"))
        if session.status == "processing" and self._account.now() >= session.ends:
            self._end(session, session.next)
        return session

    def _create(self, received: Received) -> Reply:
        self._body(received, "sessions")
        session = _Session(str(uuid.uuid4()))
        self._sessions[session.id] = session
        return json_reply({"session_id": session.id, "status": session.status})

    def _send(self, received: Received, id: str) -> Reply:
        session = self._session(id)
        content = self._body(received, "messages")["content"]
        if session.status == "processing":
            raise Refused(_detail(409, "A turn is already running"))
        if session.status == "terminated":
            raise Refused(_detail(400, "Session is terminated"))
        if not self._account.pay(CREDITS):
            raise Refused(_detail(402, "Insufficient credits"))
        message = self._say(session, "user", "completed", {"type": "text", "text": content})
        word = content.split()[0].lower() if content.split() else ""
        endings: dict[str, _Status] = {"ask": "awaiting_input", "end": "terminated"}
        session.status, session.next = "processing", endings.get(word, "idle")
        session.ends = self._account.now() + TURN
        return json_reply({"message_id": message, "status": session.status})

    def _say(
        self, session: _Session, role: str, status: str, message: dict[str, Any], cost: float | None = None
    ) -> str:
        id = str(uuid.uuid4())
        record = {"message_id": id, "role": role, "status": status, "message": message, "llm_cost_usd": cost}
        session.messages.append(record | {"created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})
        return id

    def _end(self, session: _Session, status: _Status) -> None:
        asked = str(session.messages[-1]["message"]["text"])
        said = "Which one?" if status == "awaiting_input" else f"Done: {asked}"
        parts = [
            {"type": "step-start"},
            {"type": "reasoning", "text": "It was asked for.", "state": "done"},
            {"type": "text", "text": said},
        ]
        self._say(session, "assistant", "completed", {"role": "assistant", "parts": parts}, _COST)
        session.status = status

    def _messages(self, received: Received, id: str) -> Reply:
        session = self._session(id)
        found, after = session.messages, received.query.get("after")
        if after is not None:
            ids = [message["message_id"] for message in found]
            if after not in ids:
                raise Refused(_detail(404, "Not found"))
            found = found[ids.index(after) + 1 :]
        return json_reply({"status": session.status, "messages": found})

    def _interrupt(self, received: Received, id: str) -> Reply:
        session = self._session(id)
        if session.status == "processing":
            self._say(session, "assistant", "failed", {"type": "text", "text": "Interrupted"}, _COST)
            session.status = "idle"
        return json_reply({"status": session.status})

    def _media(self, received: Received) -> Reply:
        body = self._body(received, "media")
        found, _ = mimetypes.guess_type(f"x.{body['extension']}")
        content_type = found or "application/octet-stream"
        name, upload_url, url = self._storage.grant_plain(content_type)
        return json_reply({"id": name, "upload_url": upload_url, "content_type": content_type, "url": url})

    def _confirm(self, received: Received, name: str) -> Reply:
        self._body(received, "confirm")
        if not self._storage.has(name):
            raise Refused(_detail(404, "Not found"))
        return json_reply({"status": "uploaded"})
